//! The steps of a service: offered, rule, import, backends, ready, name, listener, probe.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use super::{Side, Step, Steps, side_of, words};
use crate::{
    Reason,
    catalog::ServiceKind,
    ids::{ClusterId, ServiceKey},
    observation::ListenerStatus,
    snapshot::{Backend, BackendCluster, PeerMode},
    view::{ConditionStatus, ImportView, OfferView},
};

/// What is known about a service by its local name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceInput {
    /// Its local name.
    pub service: ServiceKey,
    /// The import of this name.
    pub import: Option<ImportView>,
    /// Offers of this name that were not let in.
    pub offers: Vec<OfferView>,
    /// Links to the peers we federate with.
    pub peers: BTreeMap<ClusterId, PeerLink>,
    /// A Service of this name runs here, whether exported or not.
    pub local_service: bool,
    /// What our name server answers for the name; `None` when it is off or was not asked.
    pub name: Option<Result<Vec<IpAddr>, String>>,
    /// VIP listeners of this service.
    pub listeners: Vec<ListenerStatus>,
    /// The SOCKS listener is on: it serves ports that cannot be bound.
    pub socks: bool,
    /// A connection through the service: time until it was up, or why not. `None` when none was made.
    pub probe: Option<Result<Duration, (Reason, String)>>,
}

/// A link as far as a service needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerLink {
    /// Tunnels that can take streams.
    pub usable_tunnels: u32,
    /// Mode of the Federation.
    pub mode: PeerMode,
}

pub(super) fn steps(s: &ServiceInput) -> Vec<Step> {
    let mut steps = Steps(Vec::new());
    steps.add("offered", &[], || offered(s));
    steps.add("rule", &["offered"], || rule(s));
    steps.add("import", &["rule"], || import(s));
    steps.add("backends", &["import"], || backends(s));
    steps.add("ready", &["backends"], || ready(s));
    steps.add("name", &["import"], || name(s));
    steps.add("listener", &["import"], || listener(s));
    steps.add("probe", &["ready"], || probe(s));
    steps.0
}

fn all_backends(s: &ServiceInput) -> &[Backend] {
    s.import.as_ref().map_or(&[], |i| &i.backends)
}

fn cluster_name(b: &Backend) -> String {
    match &b.cluster {
        BackendCluster::Local => "this cluster".to_owned(),
        BackendCluster::Peer(c) => c.to_string(),
    }
}

fn list(backends: &[&Backend]) -> String {
    backends
        .iter()
        .map(|b| cluster_name(b))
        .collect::<Vec<_>>()
        .join(", ")
}

fn offered(s: &ServiceInput) -> Step {
    let offering: Vec<&Backend> = all_backends(s).iter().collect();
    if !offering.is_empty() {
        return Step::ok("offered", Reason::Exported, format!("by {}", list(&offering)));
    }
    if !s.offers.is_empty() {
        let by: Vec<String> = s.offers.iter().map(|o| o.cluster.to_string()).collect();
        return Step::ok("offered", Reason::Exported, format!("by {}", by.join(", ")));
    }
    let up = s.peers.values().filter(|p| p.usable_tunnels > 0).count();
    let detail = format!(
        "no cluster offers {} ({up} of {} peers connected)",
        s.service,
        s.peers.len()
    );
    if s.local_service {
        return Step::fail("offered", Reason::NotCovered, Side::Ours, detail)
            .with_fix("a Service of this name runs here: add a ServiceExport to make it a clusterset name");
    }
    if up < s.peers.len() {
        return Step::fail("offered", Reason::UnknownName, Side::Path, detail).with_fix(
            "check the peers that are not connected with `strait check PEER`, then the spelling of the name",
        );
    }
    Step::fail("offered", Reason::UnknownName, Side::Theirs, detail)
        .with_fix("check the spelling; on the exporting side: a ServiceExport, and a rule in spec.exports for this cluster")
}

fn rule(s: &ServiceInput) -> Step {
    if !all_backends(s).is_empty() {
        return Step::ok("rule", Reason::Accepted, "an import rule allows it");
    }
    let Some(offer) = s.offers.first() else {
        return Step::skipped("rule", "nothing is offered");
    };
    let detail = format!(
        "{} offers {}, not taken: {}",
        offer.cluster, offer.service, offer.reason
    );
    Step::fail("rule", offer.reason, Side::Ours, detail).with_fix(format!("add {}", offer.rule))
}

fn import(s: &ServiceInput) -> Step {
    let Some(import) = &s.import else {
        return Step::fail(
            "import",
            Reason::Pending,
            Side::Ours,
            "allowed, but not in force yet",
        );
    };
    let failed = |kind: &str, bad: ConditionStatus| {
        import
            .conditions
            .iter()
            .find(|c| c.kind == kind && c.status == bad)
    };
    if let Some(c) = failed("Ready", ConditionStatus::False) {
        return Step::fail("import", c.reason, side_of(c.reason), words(c.reason, &c.message));
    }
    let conflict = failed("Conflict", ConditionStatus::True);
    let note = conflict.map_or_else(String::new, |c| {
        format!("; exporters disagree: {} ({})", c.reason, c.message)
    });
    Step::ok(
        "import",
        Reason::Ready,
        format!("{} ports{note}", import.ports.len()),
    )
}

/// Why streams cannot go to a backend's cluster, if they cannot.
fn obstacle(s: &ServiceInput, b: &Backend) -> Option<(Reason, Side)> {
    let BackendCluster::Peer(cluster) = &b.cluster else {
        return None;
    };
    match s.peers.get(cluster) {
        None => Some((Reason::FederationRemoved, Side::Ours)),
        Some(p) if p.mode == PeerMode::Suspended => Some((Reason::PeerSuspended, Side::Ours)),
        Some(p) if p.mode == PeerMode::Drain => Some((Reason::PeerDraining, Side::Ours)),
        Some(p) if p.usable_tunnels == 0 => Some((Reason::NoTunnel, Side::Path)),
        Some(_) => None,
    }
}

fn reachable(s: &ServiceInput) -> Vec<&Backend> {
    all_backends(s)
        .iter()
        .filter(|b| obstacle(s, b).is_none())
        .collect()
}

fn backends(s: &ServiceInput) -> Step {
    let reachable = reachable(s);
    let obstacles: Vec<(&Backend, (Reason, Side))> = all_backends(s)
        .iter()
        .filter_map(|b| Some((b, obstacle(s, b)?)))
        .collect();
    let why: Vec<String> = obstacles
        .iter()
        .map(|(b, (r, _))| format!("{}: {r}", cluster_name(b)))
        .collect();
    if reachable.is_empty() {
        let (reason, side) = obstacles
            .first()
            .map_or((Reason::NoBackend, Side::Theirs), |(_, o)| *o);
        let detail = format!("no cluster that serves it can be reached ({})", why.join(", "));
        let step = Step::fail("backends", reason, side, detail);
        return match obstacles.first() {
            Some((b, (Reason::NoTunnel, _))) => {
                step.with_fix(format!("run `strait check {}`", cluster_name(b)))
            }
            _ => step,
        };
    }
    let rest = if why.is_empty() {
        String::new()
    } else {
        format!("; not {}", why.join(", "))
    };
    Step::ok(
        "backends",
        Reason::Connected,
        format!("reachable: {}{rest}", list(&reachable)),
    )
}

fn ready(s: &ServiceInput) -> Step {
    let reachable = reachable(s);
    let endpoints: u32 = reachable.iter().fold(0, |n, b| n.saturating_add(b.ready));
    let takes: Vec<&Backend> = reachable
        .iter()
        .copied()
        .filter(|b| b.ready > 0 && b.weight > 0)
        .collect();
    if endpoints == 0 {
        let side = if reachable.iter().any(|b| b.cluster == BackendCluster::Local) {
            Side::Ours
        } else {
            Side::Theirs
        };
        let detail = format!("no endpoint is ready in {}", list(&reachable));
        return Step::fail("ready", Reason::NoEndpoint, side, detail);
    }
    // Weight 0 takes no traffic while others can, and all of it when none can.
    let first = takes.iter().map(|b| b.priority).min();
    let now: Vec<&Backend> = takes
        .iter()
        .copied()
        .filter(|b| Some(b.priority) == first)
        .collect();
    let goes = if now.is_empty() {
        String::new()
    } else {
        format!("; traffic goes to {}", list(&now))
    };
    Step::ok(
        "ready",
        Reason::Ready,
        format!("{endpoints} endpoints ready{goes}"),
    )
}

fn name(s: &ServiceInput) -> Step {
    let (Some(answer), Some(import)) = (&s.name, &s.import) else {
        return Step::skipped("name", "the name server is off or was not asked");
    };
    let answered = match answer {
        Ok(a) => a,
        Err(e) => {
            return Step::fail("name", Reason::UnknownName, Side::Ours, e.clone())
                .with_fix("check spec.dns.listen and what else listens there");
        }
    };
    let shown: Vec<String> = answered.iter().map(ToString::to_string).collect();
    let right = match import.kind {
        ServiceKind::ClusterSetIp => import.vips.iter().all(|v| answered.contains(v)) && !answered.is_empty(),
        ServiceKind::Headless => !answered.is_empty() || import.backends.iter().all(|b| b.ready == 0),
    };
    if right {
        return Step::ok("name", Reason::Ready, format!("answers {}", shown.join(", ")));
    }
    let wanted: Vec<String> = import.vips.iter().map(ToString::to_string).collect();
    let detail = format!(
        "answers [{}], the import has [{}]",
        shown.join(", "),
        wanted.join(", ")
    );
    Step::fail("name", Reason::UnknownName, Side::Ours, detail).with_fix(
        "ask this cluster's own name server (spec.dns.listen): another one answered, or a cache is old",
    )
}

fn listener(s: &ServiceInput) -> Step {
    let headless = s.import.as_ref().is_some_and(|i| i.kind == ServiceKind::Headless);
    let failed: Vec<&ListenerStatus> = s.listeners.iter().filter(|l| l.bound.is_err()).collect();
    let Some((first, error)) = failed.first().and_then(|l| Some((l, l.bound.as_ref().err()?))) else {
        return match s.listeners.as_slice() {
            [] if headless => Step::skipped("listener", "a headless service has no virtual address"),
            [] => Step::fail(
                "listener",
                Reason::Pending,
                Side::Ours,
                "no listener has been opened yet",
            ),
            all => Step::ok(
                "listener",
                Reason::Listening,
                format!("{} ports bound", all.len()),
            ),
        };
    };
    let detail = format!(
        "{} of {} ports cannot be bound; {}:{}: {}",
        failed.len(),
        s.listeners.len(),
        first.vip,
        first.port,
        error.detail
    );
    let step = Step::fail("listener", error.reason, Side::Ours, detail);
    if s.socks {
        step
    } else {
        step.with_fix(format!(
            "{} (SOCKS is off: set spec.socks)",
            error.reason.remedy()
        ))
    }
}

fn probe(s: &ServiceInput) -> Step {
    match &s.probe {
        Some(Ok(time)) => Step::ok("probe", Reason::Ready, format!("connected in {time:.1?}")),
        Some(Err((reason, detail))) => Step::fail("probe", *reason, side_of(*reason), words(*reason, detail)),
        None => Step::skipped("probe", "no probe was made"),
    }
}
