//! Catalog values: what one cluster offers one peer.
//!
//! Owns the plain value of an offered service, with the fields of the Multi-Cluster Services API. Never holds an address a peer
//! could dial (streams end at the offering gateway) and never a protobuf. Called by the exchange, merge and diff.

use std::{collections::BTreeMap, fmt, net::IpAddr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::ids::{Hostname, PortName, ServiceKey, Uid};

/// Everything one cluster offers one peer. A clone is O(1); a change costs what it changes.
pub type Catalog = imbl::OrdMap<ServiceKey, Arc<OfferedService>>;

/// Transport protocol of a Service port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP, the default of the standard.
    #[default]
    Tcp,
    /// UDP: kept in import and catalog, not yet carried.
    Udp,
    /// SCTP: kept in import and catalog, not yet carried.
    Sctp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// One port of a Service. Within a service, names and (protocol, port) pairs are unique.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePort {
    /// Name; optional when the service has one port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<PortName>,
    /// Protocol.
    #[serde(default)]
    pub protocol: Protocol,
    /// Port number, never 0.
    pub port: u16,
    /// `appProtocol` of the standard, verbatim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<Arc<str>>,
}

/// ServiceImport type of the standard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ServiceKind {
    /// One virtual address for the set.
    #[serde(rename = "ClusterSetIP")]
    ClusterSetIp,
    /// No virtual address; members have their own names.
    Headless,
}

/// IP family of a Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum IpFamily {
    /// IPv4.
    #[serde(rename = "IPv4")]
    V4,
    /// IPv6.
    #[serde(rename = "IPv6")]
    V6,
}

impl IpFamily {
    /// Family of an address.
    #[must_use]
    pub const fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// Session affinity. Unset in a manifest is `Unset` and stays unset in what we write.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SessionAffinity {
    /// Not stated.
    #[default]
    Unset,
    /// `None`.
    None,
    /// `ClientIP` with `sessionAffinityConfig.clientIP.timeoutSeconds`, seconds (unset stays unset; 10800 applies).
    ClientIp {
        /// Seconds, 1..=86400.
        timeout_seconds: Option<u32>,
    },
}

/// `internalTrafficPolicy` of the standard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum InternalTrafficPolicy {
    /// Any endpoint.
    Cluster,
    /// Endpoints of the client's node only.
    Local,
}

/// One service as its owner offers it to one peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OfferedService {
    /// The owner's own namespace and name.
    pub service: ServiceKey,
    /// UID of the owner's ServiceExport: a new UID is a new object to conflict resolution.
    pub uid: Uid,
    /// Claimed creation time of the ServiceExport, Unix seconds. The receiver fixes it at first sight of the UID.
    pub created: i64,
    /// Type.
    pub kind: ServiceKind,
    /// Ports, in the owner's order.
    pub ports: Vec<ServicePort>,
    /// Session affinity.
    pub session_affinity: SessionAffinity,
    /// `internalTrafficPolicy`; unset stays unset.
    pub internal_traffic_policy: Option<InternalTrafficPolicy>,
    /// `trafficDistribution`; unset stays unset.
    pub traffic_distribution: Option<Arc<str>>,
    /// Families in the owner's order, at most two.
    pub ip_families: Vec<IpFamily>,
    /// `spec.exportedLabels`, never the object's own labels.
    pub labels: BTreeMap<String, String>,
    /// `spec.exportedAnnotations`, never the object's own annotations.
    pub annotations: BTreeMap<String, String>,
    /// Endpoints able to serve now, by readiness and health.
    pub ready: u32,
    /// Zone of the owner's gateways, if known.
    pub locality: Option<Arc<str>>,
    /// Members; empty unless headless.
    pub members: Vec<Member>,
    /// Ports whose requests may be sent twice (annotation `strait.dev/replayable-ports`).
    pub replayable_ports: Vec<u16>,
}

/// One endpoint of a headless service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    /// Stable handle of this endpoint within the service; a stream header names it.
    pub id: EndpointId,
    /// `hostname` of the endpoint, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<Hostname>,
    /// Original address: the name of a member without hostname is made of it. Never dialled by a peer.
    pub ip: IpAddr,
    /// Serves now.
    pub ready: bool,
}

impl Member {
    /// The DNS label of this member: hostname, else the original address with `.` and `:` as `-` (Multicluster DNS 1.0.0).
    #[must_use]
    pub fn label(&self) -> String {
        self.hostname.as_ref().map_or_else(
            || self.ip.to_string().replace(['.', ':'], "-"),
            ToString::to_string,
        )
    }
}

/// Handle of one endpoint within one service: its label form, so it is bounded and printable.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EndpointId(pub Hostname);
