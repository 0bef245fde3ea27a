//! The snapshot as the data path reads it.
//!
//! Owns the tables made of a snapshot: address to target, and local endpoints with their live state. Built on the control side when a
//! snapshot comes, read on workers without a lock. Whatever did not change is shared with the last table, live state included.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
};

use strait_balance::{Ejection, EndpointView, may_eject, pick_endpoint, stable_hash};
use strait_federation_api::{
    ServiceKey,
    catalog::{EndpointId, Protocol},
    names::Name,
    snapshot::{BackendCluster, Endpoint, Export, Import, Snapshot},
};

use crate::flow::now_ms;

/// What a client of ours asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The import's local name.
    pub service: ServiceKey,
    /// Service port.
    pub port: u16,
    /// Only this cluster will do.
    pub only: Option<BackendCluster>,
    /// Only this member of a headless service will do.
    pub member: Option<EndpointId>,
}

/// Live state of one endpoint, shared by all workers and by all tables it is part of.
#[derive(Debug)]
pub struct EndpointState {
    id: EndpointId,
    id_hash: u64,
    address: SocketAddr,
    in_flight: AtomicU32,
    ejection: AtomicU64,
    healthy: AtomicBool,
}

impl EndpointState {
    fn new(endpoint: &Endpoint) -> Arc<Self> {
        Arc::new(Self {
            id: endpoint.id.clone(),
            id_hash: stable_hash(0, endpoint.id.0.as_str().as_bytes()),
            address: endpoint.address,
            in_flight: AtomicU32::new(0),
            ejection: AtomicU64::new(0),
            healthy: AtomicBool::new(true),
        })
    }

    /// Where to connect.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its handle.
    #[must_use]
    pub const fn id(&self) -> &EndpointId {
        &self.id
    }

    /// Verdict of the active checks.
    pub fn set_healthy(&self, healthy: bool) {
        self.healthy.store(healthy, Ordering::Relaxed);
    }

    /// Rests after failures.
    #[must_use]
    pub fn is_ejected(&self) -> bool {
        Ejection::from_bits(self.ejection.load(Ordering::Relaxed)).is_out(now_ms())
    }

    pub(crate) fn succeeded(&self) {
        // The usual case is a read of a line that all workers share.
        let held = Ejection::from_bits(self.ejection.load(Ordering::Relaxed));
        if held.succeeded() != held {
            self.update(Ejection::succeeded);
        }
    }

    fn update(&self, change: impl Fn(Ejection) -> Ejection) {
        // The closure never declines, so this cannot fail.
        let _ = self
            .ejection
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |bits| {
                Some(change(Ejection::from_bits(bits)).to_bits())
            });
    }
}

/// One stream on an endpoint, while it lives.
pub(crate) struct InFlight(Arc<EndpointState>);

impl InFlight {
    pub(crate) fn new(state: Arc<EndpointState>) -> Self {
        state.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(state)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One port of a local service with the live state of its endpoints.
#[derive(Debug)]
pub struct PortRoute {
    /// Readiness by the slice, beside each endpoint.
    endpoints: Vec<(bool, Arc<EndpointState>)>,
}

impl PortRoute {
    /// Its endpoints.
    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<EndpointState>> {
        self.endpoints.iter().map(|(_, state)| state)
    }

    /// Chooses an endpoint that is not in `tried`; exactly `member`, if given.
    pub(crate) fn pick(
        &self,
        member: Option<&EndpointId>,
        affinity: Option<u64>,
        tried: &[Arc<EndpointState>],
        rng: &mut fastrand::Rng,
    ) -> Option<Arc<EndpointState>> {
        let views: Vec<EndpointView> = self.endpoints.iter().map(|e| view(e, member, tried)).collect();
        let index = pick_endpoint(&views, affinity, rng)?;
        Some(Arc::clone(&self.endpoints[index].1))
    }

    /// A connection to `state` failed.
    pub(crate) fn failed(&self, state: &EndpointState) {
        let usable = self
            .endpoints
            .iter()
            .filter(|(ready, s)| *ready && s.healthy.load(Ordering::Relaxed));
        let resting = usable.clone().filter(|(_, s)| s.is_ejected()).count();
        let may = may_eject(usable.count(), resting);
        state.update(|ejection| ejection.failed(now_ms(), may));
    }
}

fn view(
    (ready, state): &(bool, Arc<EndpointState>),
    member: Option<&EndpointId>,
    tried: &[Arc<EndpointState>],
) -> EndpointView {
    EndpointView {
        id_hash: state.id_hash,
        usable: *ready && state.healthy.load(Ordering::Relaxed) && member.is_none_or(|id| *id == state.id),
        ejected: state.is_ejected(),
        tried: tried.iter().any(|t| Arc::ptr_eq(t, state)),
        in_flight: state.in_flight.load(Ordering::Relaxed),
    }
}

/// A local service with its ports.
#[derive(Debug)]
pub struct ExportRoute {
    /// As in the snapshot.
    pub export: Arc<Export>,
    ports: Vec<(Protocol, u16, Arc<PortRoute>)>,
}

impl ExportRoute {
    fn new(export: &Arc<Export>, old: Option<&Self>) -> Self {
        let ports = export.ports.iter().map(|port| {
            let before = old.and_then(|old| old.port(port.protocol, port.port));
            let endpoints = port.endpoints.iter().map(|endpoint| {
                let held = before.and_then(|b| {
                    b.endpoints()
                        .find(|s| s.id == endpoint.id && s.address == endpoint.address)
                });
                (
                    endpoint.ready,
                    held.map_or_else(|| EndpointState::new(endpoint), Arc::clone),
                )
            });
            let route = PortRoute {
                endpoints: endpoints.collect(),
            };
            (port.protocol, port.port, Arc::new(route))
        });
        Self {
            ports: ports.collect(),
            export: Arc::clone(export),
        }
    }

    /// The route of one port.
    #[must_use]
    pub fn port(&self, protocol: Protocol, port: u16) -> Option<&Arc<PortRoute>> {
        self.ports
            .iter()
            .find(|(proto, number, _)| *proto == protocol && *number == port)
            .map(|(_, _, route)| route)
    }

    /// Every port.
    pub fn ports(&self) -> impl Iterator<Item = (Protocol, u16, &Arc<PortRoute>)> {
        self.ports
            .iter()
            .map(|(protocol, port, route)| (*protocol, *port, route))
    }
}

/// Everything the data path looks up.
#[derive(Debug)]
pub struct View {
    /// As the controller built it.
    pub snapshot: Arc<Snapshot>,
    exports: HashMap<ServiceKey, Arc<ExportRoute>>,
    targets: BTreeMap<(IpAddr, u16), Arc<Target>>,
}

impl View {
    /// Makes the tables; `old` lends what did not change.
    #[must_use]
    pub fn new(snapshot: Arc<Snapshot>, old: Option<&Self>) -> Self {
        let exports = snapshot.exports.iter().map(|(key, export)| {
            let before = old.and_then(|old| old.exports.get(key));
            let route = match before {
                Some(route) if Arc::ptr_eq(&route.export, export) => Arc::clone(route),
                _ => Arc::new(ExportRoute::new(export, before.map(|b| &**b))),
            };
            (key.clone(), route)
        });
        Self {
            exports: exports.collect(),
            targets: targets(&snapshot),
            snapshot,
        }
    }

    /// A local service.
    #[must_use]
    pub fn export(&self, key: &ServiceKey) -> Option<&Arc<ExportRoute>> {
        self.exports.get(key)
    }

    /// Every local service.
    pub fn exports(&self) -> impl Iterator<Item = &Arc<ExportRoute>> {
        self.exports.values()
    }

    /// What an address of ours leads to.
    #[must_use]
    pub fn at(&self, ip: IpAddr, port: u16) -> Option<&Arc<Target>> {
        self.targets.get(&(ip, port))
    }

    /// Every address that should be listened on, TCP.
    #[must_use]
    pub const fn targets(&self) -> &BTreeMap<(IpAddr, u16), Arc<Target>> {
        &self.targets
    }

    /// What a name leads to; `None` when there is no such import, cluster or member.
    #[must_use]
    pub fn named(&self, name: &Name, port: u16) -> Option<Target> {
        let import = self.snapshot.imports.get(name.service())?;
        let only = match name.cluster() {
            None => None,
            Some(id) if *id == self.snapshot.cluster => Some(BackendCluster::Local),
            Some(id) => Some(BackendCluster::Peer(id.clone())),
        };
        let backend = only
            .as_ref()
            .map(|only| import.backends.iter().find(|b| b.cluster == *only));
        if backend == Some(None) {
            return None;
        }
        let member = match name {
            Name::Member { label, .. } => {
                let members = &backend.flatten()?.members;
                let found = members.iter().find(|m| m.member.label() == label.as_str())?;
                Some(found.member.id.clone())
            }
            Name::Service(_) | Name::InCluster { .. } => None,
        };
        Some(Target {
            service: import.service.clone(),
            port,
            only,
            member,
        })
    }
}

/// Virtual addresses of imports, of their clusters and of remote members, with every TCP port served there.
fn targets(snapshot: &Snapshot) -> BTreeMap<(IpAddr, u16), Arc<Target>> {
    let mut table = BTreeMap::new();
    for import in snapshot.imports.values() {
        let whole = import.ports.iter().map(|p| (p.protocol, p.port));
        add(&mut table, import, &import.vips, whole, None, None);
        for backend in &import.backends {
            let ports = || backend.ports.iter().copied();
            let only = Some(&backend.cluster);
            add(&mut table, import, &backend.vips, ports(), only, None);
            if backend.cluster != BackendCluster::Local {
                for m in &backend.members {
                    add(
                        &mut table,
                        import,
                        &[m.address],
                        ports(),
                        only,
                        Some(&m.member.id),
                    );
                }
            }
        }
    }
    table
}

fn add(
    table: &mut BTreeMap<(IpAddr, u16), Arc<Target>>,
    import: &Import,
    ips: &[IpAddr],
    ports: impl Iterator<Item = (Protocol, u16)>,
    only: Option<&BackendCluster>,
    member: Option<&EndpointId>,
) {
    for (protocol, port) in ports {
        if protocol == Protocol::Tcp {
            let target = Arc::new(Target {
                service: import.service.clone(),
                port,
                only: only.cloned(),
                member: member.cloned(),
            });
            table.extend(ips.iter().map(|ip| ((*ip, port), Arc::clone(&target))));
        }
    }
}

#[cfg(test)]
mod tests;
