//! The snapshot: the immutable value that tells the data plane and DNS everything they need.
//!
//! Owns its shape. Built by the controller only; read by gateway and dns through a `watch` channel; kept on disk by cli so that
//! a restart serves without a control plane. Never holds a secret: keys and roots travel in the trust store.

use std::{collections::BTreeSet, net::IpAddr, net::SocketAddr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    catalog::{EndpointId, Member, Protocol, ServiceKind, ServicePort, SessionAffinity},
    ids::{ClusterId, Epoch, Hostname, InstanceId, PortName, ServiceKey, TrustDomain},
};

/// Everything the data plane needs. A clone is O(1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Epoch of the controller that built it; the data plane refuses a lower one.
    pub epoch: Epoch,
    /// Rises with every change within an epoch.
    pub version: u64,
    /// Our own cluster.
    pub cluster: ClusterId,
    /// Zone of this gateway, if known.
    pub zone: Option<Arc<str>>,
    /// Peers we hold a Federation with.
    pub peers: imbl::OrdMap<ClusterId, Arc<Peer>>,
    /// Services reachable here by clusterset name.
    pub imports: imbl::OrdMap<ServiceKey, Arc<Import>>,
    /// Local services that peers (or local imports) may reach.
    pub exports: imbl::OrdMap<ServiceKey, Arc<Export>>,
}

impl Snapshot {
    /// A snapshot with no peer and no service.
    #[must_use]
    pub fn empty(cluster: ClusterId) -> Self {
        Self {
            epoch: Epoch(0),
            version: 0,
            cluster,
            zone: None,
            peers: imbl::OrdMap::new(),
            imports: imbl::OrdMap::new(),
            exports: imbl::OrdMap::new(),
        }
    }

    /// Nothing was ever built or restored: [`Snapshot::empty`] says "not known yet", not "there is no service". Real epochs
    /// start at 1.
    #[must_use]
    pub fn is_unset(&self) -> bool {
        self.epoch == Epoch(0)
    }
}

/// `spec.mode` of a Federation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PeerMode {
    /// Streams, exchange, names.
    #[default]
    Active,
    /// No new streams; names and exchange stay.
    Drain,
    /// Tunnels and exchange closed, imports withdrawn, trust and VIPs kept.
    Suspended,
}

/// How to reach a peer and what it is to us.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its ClusterId.
    pub cluster: ClusterId,
    /// Its Strait trust domain: the only one its leaves may name.
    pub trust_domain: TrustDomain,
    /// Mode of our Federation with it.
    pub mode: PeerMode,
    /// Addresses to dial, at most 16; empty means it dials us.
    pub addresses: Vec<GatewayAddress>,
    /// Instances it advertises; behind one address the dialler redials until its hellos cover them.
    pub instances: BTreeSet<InstanceId>,
    /// We import from it, so a warm tunnel is kept.
    pub importing: bool,
}

/// `host:port` of a gateway. The host may be a name, resolved at each dial.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GatewayAddress {
    /// DNS name or IP literal (IPv6 without brackets), at most 253 bytes.
    pub host: Arc<str>,
    /// UDP port, never 0.
    pub port: u16,
}

/// A service reachable here by its clusterset name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Import {
    /// Local namespace and name (after `as` mapping).
    pub service: ServiceKey,
    /// Type after merge.
    pub kind: ServiceKind,
    /// Union of the ports.
    pub ports: Vec<ServicePort>,
    /// Virtual addresses, at most one a family, stable for the import's life; empty when headless.
    pub vips: Vec<IpAddr>,
    /// Session affinity after merge.
    pub session_affinity: SessionAffinity,
    /// Clusters that serve it, in ClusterId order; local first where there is one.
    pub backends: Vec<Backend>,
}

/// One cluster that serves an import.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Backend {
    /// Where.
    pub cluster: BackendCluster,
    /// Namespace and name at that cluster (before `as` mapping).
    pub remote: ServiceKey,
    /// Lower first; local is 0, the default of a peer is 1.
    pub priority: u16,
    /// Share within one priority; 0 takes no traffic.
    pub weight: u16,
    /// Ports this cluster exports: traffic for any other port never goes there.
    pub ports: Vec<(Protocol, u16)>,
    /// Endpoints ready there, as last told.
    pub ready: u32,
    /// Zone there, if told.
    pub locality: Option<Arc<str>>,
    /// Members there; empty unless headless.
    pub members: Vec<BackendMember>,
    /// Virtual addresses that lead to this cluster only, at most one a family: what its per-cluster name resolves to. Empty
    /// where none are allotted.
    #[serde(default)]
    pub vips: Vec<IpAddr>,
    /// Ports whose requests may be sent twice.
    pub replayable_ports: Vec<u16>,
    /// The peer is out of reach and this is the last word we had.
    pub stale: bool,
}

/// A headless member with the address that leads to it from here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendMember {
    /// As offered.
    pub member: Member,
    /// The address workloads here use: a VIP for a remote member, its own address for a local one.
    pub address: IpAddr,
}

/// Where a backend runs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum BackendCluster {
    /// This cluster: `remote` is a key of `exports`.
    Local,
    /// A peer.
    Peer(ClusterId),
}

/// A local service that streams may end at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Export {
    /// Namespace and name.
    pub service: ServiceKey,
    /// Ports with their endpoints.
    pub ports: Vec<ExportPort>,
    /// Peers that may open streams to it: ServiceExport AND an export rule.
    pub allowed: BTreeSet<ClusterId>,
    /// Session affinity of the Service.
    pub session_affinity: SessionAffinity,
    /// How its endpoints are probed.
    pub health: HealthCheck,
}

/// One port of a local service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportPort {
    /// Name.
    pub name: Option<PortName>,
    /// Protocol.
    pub protocol: Protocol,
    /// Service port.
    pub port: u16,
    /// Endpoints with the target port resolved.
    pub endpoints: Vec<Endpoint>,
}

/// One address that serves one port of a local service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Handle within the service; the same for every port of one endpoint.
    pub id: EndpointId,
    /// Where to connect.
    pub address: SocketAddr,
    /// `conditions.ready` of the slice; health checks only ever take away from it.
    pub ready: bool,
    /// `hostname` of the slice.
    pub hostname: Option<Hostname>,
    /// `zone` of the slice.
    pub zone: Option<Arc<str>>,
}

/// How endpoints of an export are probed (ServiceExport annotation `strait.dev/health-check`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum HealthCheck {
    /// Readiness of the slice alone counts.
    Off,
    /// A TCP connect (file mode's default: nobody else watches those endpoints).
    #[default]
    Tcp,
    /// An HTTP/1.1 GET that must answer 200..=399.
    Http {
        /// Path, starting with `/`.
        path: Arc<str>,
    },
}
