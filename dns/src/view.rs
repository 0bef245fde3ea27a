//! What exists at a name, read from a snapshot and what is known of health.
//!
//! Owns the choice of members and clusters that may be answered. Never builds a DNS record. Called by the answer function.

use std::{collections::BTreeSet, net::IpAddr};

use strait_federation_api::{
    catalog::{Protocol, ServiceKind},
    ids::{ClusterId, Hostname, PortName},
    names,
    snapshot::{Backend, BackendCluster, BackendMember, Import, Snapshot},
};

use crate::{health::HealthView, shape::Shape};

/// Members in one answer, at most: as many SRV records with uncompressed targets (RFC 2782) stay below the 65,535 bytes of a
/// message over TCP. The standard allows a subset; the choice does not depend on the record type.
pub(crate) const MEMBERS_MAX: usize = 200;
/// SRV targets in one answer, at most, for the same reason: several named ports multiply the members.
const TARGETS_MAX: usize = 400;

/// What exists at a name.
pub(crate) enum Node {
    /// The zone's own records.
    Apex,
    /// The schema version.
    Version,
    /// Nothing itself, something below (RFC 8020: the name must not be denied).
    Inner,
    /// A service or a member.
    Host {
        /// Where it is reached.
        addresses: Vec<IpAddr>,
        /// SRV targets of every named port; empty for a member.
        targets: Vec<Target>,
    },
    /// SRV records of one port.
    Port(Vec<Target>),
}

/// One SRV record's right side with the addresses behind it.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Target {
    /// Name, lower case, without trailing dot.
    pub(crate) host: String,
    /// Service port.
    pub(crate) port: u16,
    /// Addresses of `host`.
    pub(crate) addresses: Vec<IpAddr>,
}

/// A snapshot with health laid over it.
pub(crate) struct View<'a> {
    /// The snapshot.
    pub(crate) snapshot: &'a Snapshot,
    /// Health.
    pub(crate) health: &'a HealthView,
}

/// A cluster filter: `None` is the whole set.
type Only<'c> = Option<&'c ClusterId>;

impl<'a> View<'a> {
    /// What exists at a shape; `None`: the name does not exist.
    pub(crate) fn node(&self, shape: &Shape) -> Option<Node> {
        let inner = |exists: bool| exists.then_some(Node::Inner);
        match shape {
            Shape::Nowhere => None,
            Shape::Apex => Some(Node::Apex),
            Shape::Services => Some(Node::Inner),
            Shape::Version => Some(Node::Version),
            Shape::Namespace(only, namespace) => {
                inner(self.any(only.as_ref(), |import| import.service.namespace == *namespace))
            }
            Shape::Cluster(cluster) => inner(self.any(Some(cluster), |_| true)),
            Shape::MembersOf(cluster, service) => {
                let import = self.snapshot.imports.get(service)?;
                inner(!self.members(import, Some(cluster)).is_empty())
            }
            Shape::Name(name) => self.host(name),
            Shape::Protocol(name, protocol) => inner(!self.targets(name, |p, _| p == *protocol).is_empty()),
            Shape::Port(name, protocol, port) => {
                let targets = self.targets(name, |p, n| p == *protocol && n == port);
                (!targets.is_empty()).then_some(Node::Port(targets))
            }
        }
    }

    fn any(&self, only: Only<'_>, wanted: impl Fn(&Import) -> bool) -> bool {
        let mut imports = self.snapshot.imports.values();
        imports.any(|import| {
            wanted(import) && only.is_none_or(|c| import.backends.iter().any(|b| self.cluster_of(b) == c))
        })
    }

    fn host(&self, name: &names::Name) -> Option<Node> {
        let import = self.snapshot.imports.get(name.service())?;
        if let names::Name::Member { label, cluster, .. } = name {
            let named = self.members(import, Some(cluster)).into_iter();
            let addresses: BTreeSet<_> = named
                .filter(|(_, m)| m.member.label() == label.as_str())
                .map(|(_, m)| m.address)
                .collect();
            return (!addresses.is_empty()).then(|| Node::Host {
                addresses: addresses.into_iter().collect(),
                targets: Vec::new(),
            });
        }
        Some(Node::Host {
            addresses: self.addresses(import, name.cluster())?,
            targets: self.targets(name, |_, _| true),
        })
    }

    /// Addresses of a service; `None` where its name does not exist: headless or pinned to a cluster, with nothing ready.
    fn addresses(&self, import: &Import, only: Only<'_>) -> Option<Vec<IpAddr>> {
        let found: BTreeSet<IpAddr> = match (import.kind, only) {
            // A VIP name answers its VIP whatever happens: the gateway behind it does the failing over.
            (ServiceKind::ClusterSetIp, None) => return Some(import.vips.clone()),
            (ServiceKind::ClusterSetIp, Some(_)) => {
                let mut ready = self
                    .backends(import, only)
                    .into_iter()
                    .filter(|b| b.ready > 0)
                    .peekable();
                ready.peek()?;
                return Some(ready.flat_map(|b| b.vips.iter().copied()).collect());
            }
            (ServiceKind::Headless, _) => self
                .members(import, only)
                .into_iter()
                .map(|(_, m)| m.address)
                .collect(),
        };
        (!found.is_empty()).then(|| found.into_iter().collect())
    }

    /// SRV targets of the named ports `wanted`. Ports that differ in protocol only fall together: (port, target) is unique.
    fn targets(&self, name: &names::Name, wanted: impl Fn(Protocol, &PortName) -> bool) -> Vec<Target> {
        let Some(import) = self.snapshot.imports.get(name.service()) else {
            return Vec::new();
        };
        let named = import
            .ports
            .iter()
            .filter(|p| p.name.as_ref().is_some_and(|n| wanted(p.protocol, n)));
        let ports: Vec<(Protocol, u16)> = named.map(|p| (p.protocol, p.port)).collect();
        let unique: BTreeSet<Target> = match import.kind {
            ServiceKind::ClusterSetIp => self.service_targets(import, name, &ports),
            ServiceKind::Headless => self.member_targets(import, name.cluster(), &ports),
        };
        unique.into_iter().take(TARGETS_MAX).collect()
    }

    fn service_targets(
        &self,
        import: &Import,
        name: &names::Name,
        ports: &[(Protocol, u16)],
    ) -> BTreeSet<Target> {
        let only = name.cluster();
        let Some(addresses) = self.addresses(import, only) else {
            return BTreeSet::new();
        };
        let backends = self.backends(import, only);
        let offered = |port| only.is_none() || backends.iter().any(|b| b.ports.contains(port));
        let target = |&(_, port): &(Protocol, u16)| Target {
            host: name.to_string(),
            port,
            addresses: addresses.clone(),
        };
        ports.iter().filter(|p| offered(p)).map(target).collect()
    }

    fn member_targets(&self, import: &Import, only: Only<'_>, ports: &[(Protocol, u16)]) -> BTreeSet<Target> {
        let mut targets = BTreeSet::new();
        for (backend, member) in self.members(import, only) {
            // A label that is no host name has no name to point at.
            let Ok(label) = Hostname::parse(&member.member.label()) else {
                continue;
            };
            let (cluster, service) = (self.cluster_of(backend).clone(), import.service.clone());
            let host = names::Name::Member {
                label,
                cluster,
                service,
            }
            .to_string();
            for &(_, port) in ports.iter().filter(|p| backend.ports.contains(p)) {
                let (host, addresses) = (host.clone(), vec![member.address]);
                targets.insert(Target {
                    host,
                    port,
                    addresses,
                });
            }
        }
        targets
    }

    /// Ready members that can be reached, in the snapshot's order.
    fn members<'i>(&self, import: &'i Import, only: Only<'_>) -> Vec<(&'i Backend, &'i BackendMember)>
    where
        'a: 'i,
    {
        let backends = self.backends(import, only).into_iter();
        let all = backends.flat_map(|b| b.members.iter().map(move |m| (b, m)));
        let live = all.filter(|(b, m)| {
            let failing =
                b.cluster == BackendCluster::Local && self.health.is_failing(&b.remote, &m.member.id);
            m.member.ready && !failing
        });
        live.take(MEMBERS_MAX).collect()
    }

    /// Backends that can be reached. A stale one whose link was never observed is a last choice: its members may be long gone.
    fn backends<'i>(&self, import: &'i Import, only: Only<'_>) -> Vec<&'i Backend>
    where
        'a: 'i,
    {
        let link = |b: &Backend| match &b.cluster {
            BackendCluster::Local => Some(true),
            BackendCluster::Peer(peer) => self.health.link(peer),
        };
        let wanted = |b: &&Backend| only.is_none_or(|c| self.cluster_of(b) == c) && link(b) != Some(false);
        let reachable: Vec<&Backend> = import.backends.iter().filter(wanted).collect();
        let fresh = |b: &&&Backend| !b.stale || link(b) == Some(true);
        if reachable.iter().any(|b| fresh(&b)) {
            reachable.iter().filter(fresh).copied().collect()
        } else {
            reachable
        }
    }

    fn cluster_of<'b>(&'b self, backend: &'b Backend) -> &'b ClusterId {
        match &backend.cluster {
            BackendCluster::Local => &self.snapshot.cluster,
            BackendCluster::Peer(peer) => peer,
        }
    }
}
