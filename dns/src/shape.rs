//! What a question's name can mean by its shape.
//!
//! Owns the inner nodes and SRV names of the two zones, on top of the names of `federation-api`. Never looks at a snapshot.
//! Called by the answer function.

use hickory_proto::rr::Name;
use strait_federation_api::{
    catalog::Protocol,
    ids::{ClusterId, Namespace, PortName, ServiceKey},
    names::{self, CLUSTERS_ZONE, CLUSTERSET_ZONE},
};

/// One of our two zones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Zone {
    /// `clusterset.local`, the zone of Multicluster DNS 1.0.0.
    Clusterset,
    /// The zone of names that pin one cluster.
    Clusters,
}

impl Zone {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Clusterset, Self::Clusters];

    /// The zone's name, lower case, without trailing dot.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Clusterset => CLUSTERSET_ZONE,
            Self::Clusters => CLUSTERS_ZONE,
        }
    }
}

/// A name by its shape; whether it exists is decided against a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Shape {
    /// The zone itself, or `svc` below it: always there, holds nothing but the zone's own records.
    Apex,
    /// `svc.clusterset.local`.
    Services,
    /// `dns-version.clusterset.local`.
    Version,
    /// `<ns>.svc…`; with a cluster in the second zone.
    Namespace(Option<ClusterId>, Namespace),
    /// `<cluster>` or `svc.<cluster>` of the second zone.
    Cluster(ClusterId),
    /// A name somebody may connect to.
    Name(names::Name),
    /// `_tcp.<service>`: inner node above the SRV names.
    Protocol(names::Name, Protocol),
    /// `_<port>._tcp.<service>`.
    Port(names::Name, Protocol, PortName),
    /// `<cluster>.<service>` of the first zone: the standard wants no record here; members may lie below.
    MembersOf(ClusterId, ServiceKey),
    /// No name of this shape ever exists.
    Nowhere,
}

/// The zone a name lies in and its shape there; `None` outside both.
pub(crate) fn of(name: &Name) -> Option<(Zone, Shape)> {
    let labels: Vec<String> = name
        .iter()
        .map(|label| String::from_utf8_lossy(label).to_ascii_lowercase())
        .collect();
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    for zone in Zone::ALL {
        let apex: Vec<&str> = zone.name().split('.').collect();
        if let Some(below) = labels.strip_suffix(apex.as_slice()) {
            return Some((zone, within(zone, below)));
        }
    }
    None
}

/// A label that holds a dot, an escape or anything but letters, digits, `-` and `_` names nothing of ours.
fn plain(label: &str) -> bool {
    label
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

fn within(zone: Zone, below: &[&str]) -> Shape {
    if !below.iter().all(|label| plain(label)) {
        return Shape::Nowhere;
    }
    match (zone, below) {
        (_, []) => Some(Shape::Apex),
        (Zone::Clusterset, ["svc"]) => Some(Shape::Services),
        (Zone::Clusterset, ["dns-version"]) => Some(Shape::Version),
        (Zone::Clusterset, [namespace, "svc"]) => Namespace::parse(namespace)
            .ok()
            .map(|ns| Shape::Namespace(None, ns)),
        (Zone::Clusters, [cluster] | ["svc", cluster]) => ClusterId::parse(cluster).ok().map(Shape::Cluster),
        (Zone::Clusters, [namespace, "svc", cluster]) => namespace_in(cluster, namespace),
        (_, [port, proto, rest @ ..]) if proto.starts_with('_') => port_of(zone, port, proto, rest),
        (_, [proto, rest @ ..]) if proto.starts_with('_') => protocol(proto)
            .zip(service(zone, rest))
            .map(|(proto, name)| Shape::Protocol(name, proto)),
        (Zone::Clusterset, [cluster, name, namespace, "svc"]) => ClusterId::parse(cluster)
            .ok()
            .zip(ServiceKey::parse(namespace, name).ok())
            .map(|(cluster, service)| Shape::MembersOf(cluster, service)),
        _ => text(zone, below).map(Shape::Name),
    }
    .unwrap_or(Shape::Nowhere)
}

fn namespace_in(cluster: &str, namespace: &str) -> Option<Shape> {
    Some(Shape::Namespace(
        Some(ClusterId::parse(cluster).ok()?),
        Namespace::parse(namespace).ok()?,
    ))
}

fn port_of(zone: Zone, port: &str, proto: &str, rest: &[&str]) -> Option<Shape> {
    Some(Shape::Port(
        service(zone, rest)?,
        protocol(proto)?,
        PortName::parse(port.strip_prefix('_')?).ok()?,
    ))
}

/// The service below which SRV names hang; members have none.
fn service(zone: Zone, labels: &[&str]) -> Option<names::Name> {
    text(zone, labels).filter(|name| !matches!(name, names::Name::Member { .. }))
}

fn text(zone: Zone, labels: &[&str]) -> Option<names::Name> {
    names::parse(&format!("{}.{}", labels.join("."), zone.name())).ok()
}

fn protocol(label: &str) -> Option<Protocol> {
    match label {
        "_tcp" => Some(Protocol::Tcp),
        "_udp" => Some(Protocol::Udp),
        "_sctp" => Some(Protocol::Sctp),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use super::*;

    fn shape(name: &str) -> Shape {
        of(&Name::from_str(name).unwrap()).unwrap().1
    }

    #[test]
    fn names_of_other_zones_are_not_ours() {
        for name in [
            ".",
            "local.",
            "example.com.",
            "a.demo.svc.cluster.local.",
            "xclusterset.local.",
            "strait.internal.",
        ] {
            assert_eq!(of(&Name::from_str(name).unwrap()), None, "{name}");
        }
    }

    #[test]
    fn inner_nodes_are_told_from_names_that_never_exist() {
        assert_eq!(shape("clusterset.local."), Shape::Apex);
        assert_eq!(shape("ClusterSet.LOCAL."), Shape::Apex);
        assert_eq!(shape("clusters.strait.internal."), Shape::Apex);
        assert_eq!(shape("svc.clusterset.local."), Shape::Services);
        assert!(matches!(
            shape("demo.svc.clusterset.local."),
            Shape::Namespace(None, _)
        ));
        assert!(matches!(
            shape("demo.svc.west.clusters.strait.internal."),
            Shape::Namespace(Some(_), _)
        ));
        assert!(matches!(
            shape("svc.west.clusters.strait.internal."),
            Shape::Cluster(_)
        ));
        assert!(matches!(
            shape("_tcp.a.demo.svc.clusterset.local."),
            Shape::Protocol(..)
        ));
        assert!(matches!(
            shape("_http._tcp.a.demo.svc.clusterset.local."),
            Shape::Port(..)
        ));
        assert!(matches!(
            shape("_http._tcp.a.demo.svc.west.clusters.strait.internal."),
            Shape::Port(..)
        ));
        assert!(matches!(
            shape("west.a.demo.svc.clusterset.local."),
            Shape::MembersOf(..)
        ));
        for name in [
            "svcx.clusterset.local.",
            "a.demo.clusterset.local.",
            "_http._quic.a.demo.svc.clusterset.local.",
            "http._tcp.a.demo.svc.clusterset.local.",
            "_http._tcp.m.west.a.demo.svc.clusterset.local.",
            "_tcp.clusterset.local.",
            "a.de_mo.svc.clusterset.local.",
            "x.y.z.a.demo.svc.clusterset.local.",
        ] {
            assert_eq!(shape(name), Shape::Nowhere, "{name}");
        }
    }

    #[test]
    fn a_dot_inside_a_label_never_splits_it() {
        let labels: [&[u8]; 4] = [b"a.demo", b"svc", b"clusterset", b"local"];
        let name = Name::from_labels(labels).unwrap();
        assert_eq!(of(&name), Some((Zone::Clusterset, Shape::Nowhere)));
    }
}
