//! `Service` (v1) and `EndpointSlice` (discovery.k8s.io/v1): the parts that say what runs here.
//!
//! Owns the fields we read, as Kubernetes writes them; everything else is read past. Called by manifest, and by the controller
//! for objects of a cluster.

use std::{net::IpAddr, sync::Arc};

use serde::{Deserialize, Deserializer, de};

use super::mcs::SessionAffinityConfig;
use crate::{
    catalog::{InternalTrafficPolicy, IpFamily, Protocol, ServicePort},
    ids::{Hostname, Namespace, PortName, ServiceKey, ServiceName},
};

/// Label of an EndpointSlice that names its Service.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// A Service as loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Namespace and name.
    pub key: ServiceKey,
    /// The spec.
    pub spec: ServiceSpec,
}

/// `spec` of a Service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceSpec {
    /// Type.
    #[serde(default, rename = "type")]
    pub kind: ServiceType,
    /// `None` makes it headless.
    #[serde(default, rename = "clusterIP")]
    pub cluster_ip: Option<String>,
    /// Ports.
    #[serde(default)]
    pub ports: Vec<ServicePortSpec>,
    /// `None` or `ClientIP`; unset stays unset.
    #[serde(default)]
    pub session_affinity: Option<AffinityKind>,
    /// Timeout of the affinity.
    #[serde(default)]
    pub session_affinity_config: Option<SessionAffinityConfig>,
    /// Unset stays unset.
    #[serde(default)]
    pub internal_traffic_policy: Option<InternalTrafficPolicy>,
    /// Unset stays unset.
    #[serde(default)]
    pub traffic_distribution: Option<Arc<str>>,
    /// Families in order; empty: taken from the endpoints.
    #[serde(default)]
    pub ip_families: Vec<IpFamily>,
    /// Endpoints count as ready whatever their readiness.
    #[serde(default)]
    pub publish_not_ready_addresses: bool,
}

impl ServiceSpec {
    /// `clusterIP: None`.
    #[must_use]
    pub fn is_headless(&self) -> bool {
        self.cluster_ip.as_deref() == Some("None")
    }
}

/// `spec.type` of a Service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum ServiceType {
    /// The default.
    #[default]
    #[serde(rename = "ClusterIP")]
    ClusterIp,
    /// Exported like ClusterIP.
    NodePort,
    /// Exported like ClusterIP.
    LoadBalancer,
    /// Cannot be exported.
    ExternalName,
}

/// `spec.sessionAffinity` of a Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum AffinityKind {
    /// No affinity.
    None,
    /// By client address.
    #[serde(rename = "ClientIP")]
    ClientIp,
}

/// One port of a Service.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePortSpec {
    /// Name; empty means none.
    #[serde(default, deserialize_with = "name_or_empty")]
    pub name: Option<PortName>,
    /// Protocol.
    #[serde(default)]
    pub protocol: Protocol,
    /// Number, 1..=65535.
    #[serde(deserialize_with = "port_number")]
    pub port: u16,
    /// Application protocol.
    #[serde(default)]
    pub app_protocol: Option<Arc<str>>,
}

impl From<&ServicePortSpec> for ServicePort {
    fn from(p: &ServicePortSpec) -> Self {
        Self {
            name: p.name.clone(),
            protocol: p.protocol,
            port: p.port,
            app_protocol: p.app_protocol.clone(),
        }
    }
}

/// An EndpointSlice as loaded. Its ports carry resolved numbers, matched to Service ports by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Namespace.
    pub namespace: Namespace,
    /// Name of the slice: a DNS subdomain.
    pub name: Arc<str>,
    /// The Service it belongs to.
    pub service: ServiceName,
    /// The rest.
    pub spec: SliceSpec,
}

/// Top-level fields of an EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SliceSpec {
    /// Family of the addresses.
    pub address_type: AddressType,
    /// Endpoints.
    #[serde(default, deserialize_with = "list_or_null")]
    pub endpoints: Vec<SliceEndpoint>,
    /// Ports, the same for every endpoint.
    #[serde(default, deserialize_with = "list_or_null")]
    pub ports: Vec<SlicePort>,
}

/// `addressType` of an EndpointSlice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum AddressType {
    /// IPv4.
    #[serde(rename = "IPv4")]
    V4,
    /// IPv6.
    #[serde(rename = "IPv6")]
    V6,
    /// Names: not supported, nothing says when they change.
    #[serde(rename = "FQDN")]
    Fqdn,
}

/// One endpoint of a slice.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SliceEndpoint {
    /// Addresses of one endpoint: only the first is used, as kube-proxy does.
    pub addresses: Vec<EndpointAddress>,
    /// Readiness.
    #[serde(default)]
    pub conditions: EndpointConditions,
    /// Name of a headless member.
    #[serde(default)]
    pub hostname: Option<Hostname>,
    /// Zone.
    #[serde(default)]
    pub zone: Option<Arc<str>>,
}

/// `conditions` of an endpoint. Unset ready means ready, as the API says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub struct EndpointConditions {
    /// Serves, and takes new connections.
    #[serde(default)]
    pub ready: Option<bool>,
}

/// One port of a slice.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct SlicePort {
    /// Name of the Service port; empty means the unnamed one.
    #[serde(default, deserialize_with = "name_or_empty")]
    pub name: Option<PortName>,
    /// Protocol.
    #[serde(default)]
    pub protocol: Protocol,
    /// Number to connect to; the API allows none, which means all: not supported.
    #[serde(deserialize_with = "port_number")]
    pub port: u16,
}

/// An address of a slice: an IP literal, or a name in an FQDN slice (refused later, with its reason).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub enum EndpointAddress {
    /// An IP address.
    Ip(IpAddr),
    /// Anything else.
    Other(String),
}

impl From<String> for EndpointAddress {
    fn from(s: String) -> Self {
        s.parse().map_or(Self::Other(s), Self::Ip)
    }
}

/// Kubernetes writes an absent port name as `""` too.
fn name_or_empty<'de, D: Deserializer<'de>>(d: D) -> Result<Option<PortName>, D::Error> {
    match Option::<String>::deserialize(d)? {
        None => Ok(None),
        Some(s) if s.is_empty() => Ok(None),
        Some(s) => PortName::parse(&s).map(Some).map_err(de::Error::custom),
    }
}

/// Kubernetes writes an empty list as `null` in slices.
fn list_or_null<'de, D: Deserializer<'de>, T: Deserialize<'de>>(d: D) -> Result<Vec<T>, D::Error> {
    Option::<Vec<T>>::deserialize(d).map(Option::unwrap_or_default)
}

fn port_number<'de, D: Deserializer<'de>>(d: D) -> Result<u16, D::Error> {
    let n = i64::deserialize(d)?;
    u16::try_from(n).ok().filter(|&p| p != 0).ok_or_else(|| {
        de::Error::custom(super::values::ValueError::new(
            crate::manifest::ErrorCode::BadPort,
            format!("{n} is not a port"),
            "use a whole number from 1 to 65535",
        ))
    })
}
