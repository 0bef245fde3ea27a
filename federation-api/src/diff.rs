//! What a change of configuration would take away, before it is made.
//!
//! Owns the comparison of two resource sets: exports withdrawn, imports lost, addresses released, trust removed, tunnels cut,
//! modes changed. What a change adds is not its subject. Pure. Called by `validate --diff`.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::{
    ids::{ClusterId, ServiceKey},
    manifest::{ExportedService, ResourceSet, exported_services},
    observation::GatewayStatus,
    resources::{Federation, FederationName, ImportDecision, Trust},
    snapshot::{BackendCluster, PeerMode},
    view::ControllerView,
};

mod change;

pub use change::Change;

/// What runs now, where a process runs: without it the diff knows rules, but not what peers really offer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Live {
    /// Peers by Federation.
    pub peers: BTreeMap<FederationName, LivePeer>,
    /// Imports by local name.
    pub imports: BTreeMap<ServiceKey, LiveImport>,
}

/// One peer now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LivePeer {
    /// Who it is, once known.
    pub cluster: Option<ClusterId>,
    /// Connections to it.
    pub tunnels: u32,
    /// Streams open in them.
    pub streams: u32,
    /// Everything it offers, allowed or not.
    pub offers: BTreeSet<ServiceKey>,
}

/// One import now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LiveImport {
    /// Its virtual addresses.
    pub vips: Vec<IpAddr>,
    /// Peers that serve it, with their own name for it.
    pub sources: Vec<(ClusterId, ServiceKey)>,
    /// This cluster serves it too.
    pub local: bool,
}

impl Live {
    /// What the views of a running process say.
    #[must_use]
    pub fn of(controller: &ControllerView, gateway: &GatewayStatus) -> Self {
        let mut live = Self::default();
        for f in &controller.federations {
            let Ok(name) = FederationName::parse(&f.name) else {
                continue;
            };
            let of_peer = || {
                gateway
                    .tunnels
                    .iter()
                    .filter(|t| Some(&t.peer) == f.cluster.as_ref())
            };
            let offers = controller
                .imports
                .offers
                .iter()
                .filter(|o| Some(&o.cluster) == f.cluster.as_ref());
            live.peers.insert(
                name,
                LivePeer {
                    cluster: f.cluster.clone(),
                    tunnels: u32::try_from(of_peer().count()).unwrap_or(u32::MAX),
                    streams: of_peer().fold(0, |n, t| n.saturating_add(t.streams)),
                    offers: offers.map(|o| o.service.clone()).collect(),
                },
            );
        }
        for i in &controller.imports.imports {
            let mut import = LiveImport {
                vips: i.vips.clone(),
                ..LiveImport::default()
            };
            for b in &i.backends {
                match &b.cluster {
                    BackendCluster::Local => import.local = true,
                    BackendCluster::Peer(cluster) => {
                        import.sources.push((cluster.clone(), b.remote.clone()));
                        let peers = live.peers.values_mut();
                        for p in peers.filter(|p| p.cluster.as_ref() == Some(cluster)) {
                            p.offers.insert(b.remote.clone());
                        }
                    }
                }
            }
            live.imports.insert(i.service.clone(), import);
        }
        live
    }
}

/// What changing `old` to `new` would take away, gravest first. With `live`, what peers really offer is taken into account.
#[must_use]
pub fn diff(old: &ResourceSet, new: &ResourceSet, live: Option<&Live>) -> Vec<Change> {
    let mut changes = Vec::new();
    cluster(old, new, &mut changes);
    for (name, before) in &old.federations {
        federation(before, new.federations.get(name), live, &mut changes);
    }
    exports(old, new, &mut changes);
    for (name, before) in &old.federations {
        imports(before, new.federations.get(name), live, &mut changes);
    }
    if let Some(live) = live {
        vips(new, live, &mut changes);
    }
    changes
}

fn cluster(old: &ResourceSet, new: &ResourceSet, changes: &mut Vec<Change>) {
    let (Some(a), Some(b)) = (&old.cluster, &new.cluster) else {
        return;
    };
    if a.id != b.id {
        changes.push(Change::ClusterRenamed {
            from: a.id.clone(),
            to: b.id.clone(),
        });
    }
    if a.spec.listen != b.spec.listen {
        changes.push(Change::ListenMoved {
            from: a.spec.listen.to_string(),
            to: b.spec.listen.to_string(),
        });
    }
}

fn federation(
    before: &Federation,
    after: Option<&Federation>,
    live: Option<&Live>,
    changes: &mut Vec<Change>,
) {
    let name = &before.name;
    let peer = live.and_then(|l| l.peers.get(name));
    let cut = |changes: &mut Vec<Change>| {
        if let Some(p) = peer.filter(|p| p.tunnels > 0) {
            changes.push(Change::TunnelsCut {
                federation: name.clone(),
                tunnels: p.tunnels,
                streams: p.streams,
            });
        }
    };
    let Some(after) = after else {
        changes.push(Change::TrustRemoved {
            federation: name.clone(),
            cluster: before.peer_cluster().or_else(|| peer?.cluster.as_ref()).cloned(),
        });
        return cut(changes);
    };
    if is_other_trust(before, after) {
        changes.push(Change::TrustReplaced {
            federation: name.clone(),
            from: trust_in_words(before),
            to: trust_in_words(after),
        });
    }
    if before.spec.mode != after.spec.mode {
        changes.push(Change::ModeChanged {
            federation: name.clone(),
            from: before.spec.mode,
            to: after.spec.mode,
        });
        if after.spec.mode == PeerMode::Suspended {
            cut(changes);
        }
    }
}

/// What stood before may not hold: another peer, another trust domain, or static instead of joined. Another token or serial for
/// the same peer, or naming the peer of a joined trust, changes nothing that stands.
fn is_other_trust(before: &Federation, after: &Federation) -> bool {
    let other_peer = matches!((before.peer_cluster(), after.peer_cluster()), (Some(a), Some(b)) if a != b);
    other_peer || before.static_trust_domain() != after.static_trust_domain()
}

fn trust_in_words(f: &Federation) -> String {
    let with = f
        .peer_cluster()
        .map_or_else(String::new, |c| format!(" with {c}"));
    match &f.spec.trust {
        Trust::Static(s) => format!("static trust in {}{with}", s.trust_domain),
        Trust::Invite(_) | Trust::Join(_) => format!("a joined trust{with}"),
    }
}

fn exports(old: &ResourceSet, new: &ResourceSet, changes: &mut Vec<Change>) {
    let after = exported_services(new);
    for (key, before) in exported_services(old) {
        let Ok(before) = before else { continue };
        let now = match after.get(&key) {
            None => Err("its ServiceExport is gone".to_owned()),
            Some(Err(problem)) => Err(problem.message.clone()),
            Some(Ok(service)) => Ok(service),
        };
        let seen_by = seers(old, &key);
        let sees = seers(new, &key);
        match now {
            Err(why) => withdrawn(&key, seen_by.into_iter().collect(), &why, changes),
            Ok(service) => {
                let lost = seen_by.difference(&sees).cloned().collect();
                withdrawn(
                    &key,
                    lost,
                    "no export rule covers it any more, or the Federation is gone or suspended",
                    changes,
                );
                ports(
                    &key,
                    &before,
                    service,
                    seen_by.intersection(&sees).cloned().collect(),
                    changes,
                );
            }
        }
    }
}

fn withdrawn(key: &ServiceKey, from: Vec<FederationName>, why: &str, changes: &mut Vec<Change>) {
    if !from.is_empty() {
        changes.push(Change::ExportWithdrawn {
            service: key.clone(),
            from,
            why: why.to_owned(),
        });
    }
}

fn ports(
    key: &ServiceKey,
    before: &ExportedService,
    after: &ExportedService,
    from: Vec<FederationName>,
    changes: &mut Vec<Change>,
) {
    let kept = |p: &crate::snapshot::ExportPort| {
        let mut ports = after.ports.iter();
        ports.any(|q| (q.protocol, q.port) == (p.protocol, p.port))
    };
    for p in before.ports.iter().filter(|p| !kept(p) && !from.is_empty()) {
        changes.push(Change::PortWithdrawn {
            service: key.clone(),
            protocol: p.protocol,
            port: p.port,
            from: from.clone(),
        });
    }
}

/// Federations whose peer may see `key`.
fn seers(set: &ResourceSet, key: &ServiceKey) -> BTreeSet<FederationName> {
    let open = set
        .federations
        .values()
        .filter(|f| f.spec.mode != PeerMode::Suspended);
    open.filter(|f| f.spec.exports.covers(key))
        .map(|f| f.name.clone())
        .collect()
}

/// The local name of a peer's service, while its imports stand.
fn local_name(f: Option<&Federation>, service: &ServiceKey) -> Option<ServiceKey> {
    let f = f.filter(|f| f.spec.mode != PeerMode::Suspended)?;
    match f.spec.imports.decide(service) {
        ImportDecision::Allowed { as_key, .. } => Some(as_key),
        ImportDecision::NotAllowed => None,
    }
}

fn imports(before: &Federation, after: Option<&Federation>, live: Option<&Live>, changes: &mut Vec<Change>) {
    let offers = live.and_then(|l| l.peers.get(&before.name)).map(|p| &p.offers);
    let named = before.spec.imports.0.iter().filter_map(|r| r.exact());
    let candidates: BTreeSet<ServiceKey> = offers.map_or_else(|| named.collect(), Clone::clone);
    for service in candidates {
        let Some(local) = local_name(Some(before), &service) else {
            continue;
        };
        match local_name(after, &service) {
            Some(to) if to == local => {}
            Some(to) => changes.push(Change::ImportRenamed {
                federation: before.name.clone(),
                from: local,
                to,
            }),
            None => changes.push(Change::ImportLost {
                federation: before.name.clone(),
                service,
                local,
            }),
        }
    }
    if offers.is_some() {
        return;
    }
    let wide = before.spec.imports.0.iter().filter(|r| r.exact().is_none());
    for rule in wide.filter(|r| !after.is_some_and(|f| f.spec.imports.0.contains(r))) {
        changes.push(Change::RuleRemoved {
            federation: before.name.clone(),
            rule: serde_json::to_string(rule).unwrap_or_default(),
        });
    }
}

/// Addresses of imports that nothing holds any more, and addresses outside a new range. A suspended Federation holds its own.
fn vips(new: &ResourceSet, live: &Live, changes: &mut Vec<Change>) {
    let federation_of = |cluster: &ClusterId| {
        let name = live
            .peers
            .iter()
            .find(|(_, p)| p.cluster.as_ref() == Some(cluster))
            .map(|(n, _)| n);
        name.and_then(|n| new.federations.get(n))
    };
    for (local, import) in live.imports.iter().filter(|(_, i)| !i.vips.is_empty()) {
        let held = import.local
            || import.sources.iter().any(|(cluster, remote)| {
                let decision = federation_of(cluster).map(|f| f.spec.imports.decide(remote));
                matches!(decision, Some(ImportDecision::Allowed { as_key, .. }) if as_key == *local)
            });
        let range = new.cluster.as_ref().map(|c| &c.spec.vip_range);
        let (gone, why) = if held {
            let outside = import
                .vips
                .iter()
                .filter(|ip| range.is_some_and(|r| !r.contains(**ip)));
            (outside.copied().collect(), "spec.vipRange no longer holds it")
        } else {
            (import.vips.clone(), "no cluster serves the name any more")
        };
        if !gone.is_empty() {
            changes.push(Change::VipsReleased {
                service: local.clone(),
                vips: gone,
                why: why.to_owned(),
            });
        }
    }
}

#[cfg(test)]
mod tests;
