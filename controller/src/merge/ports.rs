//! Union of ports: first by name, then by protocol and number; names and numbers stay unique; the oldest export wins.

use std::collections::BTreeSet;

use strait_federation_api::catalog::{Protocol, ServicePort};

/// Unites port lists, oldest export first.
pub(super) fn union<'a>(lists: impl Iterator<Item = &'a [ServicePort]>) -> Vec<ServicePort> {
    let mut union: Vec<ServicePort> = Vec::new();
    for port in lists.flatten() {
        let name_taken = port.name.is_some() && union.iter().any(|u| u.name == port.name);
        match union.iter_mut().find(|u| number(u) == number(port)) {
            // An unnamed port says nothing against a name.
            Some(held) if held.name.is_none() && !name_taken => held.name.clone_from(&port.name),
            Some(_) => {}
            None if name_taken => {}
            None => union.push(port.clone()),
        }
    }
    union
}

/// The ports of the union that this exporter has with the same meaning: traffic for any other never goes to it.
pub(super) fn exact(union: &[ServicePort], own: &[ServicePort]) -> Vec<(Protocol, u16)> {
    let same = |u: &ServicePort| own.iter().any(|o| number(o) == number(u) && agree(o, u));
    union.iter().filter(|u| same(u)).map(number).collect()
}

/// Exporters disagree: their port lists, taken as sets, differ.
pub(super) fn differ(a: &[ServicePort], b: &[ServicePort]) -> bool {
    a.iter().collect::<BTreeSet<_>>() != b.iter().collect::<BTreeSet<_>>()
}

/// Own ports that the union has with another meaning, for people.
pub(super) fn overruled(union: &[ServicePort], own: &[ServicePort]) -> Vec<String> {
    let kept = exact(union, own);
    own.iter()
        .filter(|o| !kept.contains(&number(o)))
        .map(|o| match &o.name {
            Some(name) => format!("{name} {}/{}", o.protocol, o.port),
            None => format!("{}/{}", o.protocol, o.port),
        })
        .collect()
}

const fn number(port: &ServicePort) -> (Protocol, u16) {
    (port.protocol, port.port)
}

fn agree(a: &ServicePort, b: &ServicePort) -> bool {
    a.name == b.name || a.name.is_none() || b.name.is_none()
}
