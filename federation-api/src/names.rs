//! Names of services in DNS and SOCKS, one syntax for both.
//!
//! Owns the two zones and the shapes of names inside them, in both directions. Never knows which services exist: that is the
//! snapshot's matter. Called by dns (queries) and by the gateway's SOCKS listener.
//!
//! | name | means |
//! | --- | --- |
//! | `<svc>.<ns>.svc.clusterset.local` | the service, wherever it runs (Multicluster DNS 1.0.0) |
//! | `<hostname>.<cluster>.<svc>.<ns>.svc.clusterset.local` | one member of a headless service |
//! | `<svc>.<ns>.svc.<cluster>.clusters.strait.internal` | the service as one cluster serves it |
//! | `<hostname>.<svc>.<ns>.svc.<cluster>.clusters.strait.internal` | one member, in the second zone's order |

use std::fmt;

use crate::ids::{ClusterId, Hostname, ServiceKey};

/// Zone of the Multicluster DNS specification.
pub const CLUSTERSET_ZONE: &str = "clusterset.local";
/// Zone of names that pin one cluster. `internal` is reserved for private use, so it never leaks into the public tree.
pub const CLUSTERS_ZONE: &str = "clusters.strait.internal";
/// Longest text form of a domain name without its trailing dot (RFC 1035 section 3.1).
pub const NAME_MAX: usize = 253;

/// What a name asks for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Name {
    /// A service of the clusterset.
    Service(ServiceKey),
    /// One member of a headless service.
    Member {
        /// [`crate::catalog::Member::label`] of the member.
        label: Hostname,
        /// The cluster that runs it.
        cluster: ClusterId,
        /// The service under its local name.
        service: ServiceKey,
    },
    /// A service as served by one cluster.
    InCluster {
        /// The cluster.
        cluster: ClusterId,
        /// The service under its local name.
        service: ServiceKey,
    },
}

impl Name {
    /// The service the name belongs to.
    #[must_use]
    pub const fn service(&self) -> &ServiceKey {
        match self {
            Self::Service(service) | Self::Member { service, .. } | Self::InCluster { service, .. } => {
                service
            }
        }
    }

    /// The cluster the name pins, if it pins one.
    #[must_use]
    pub const fn cluster(&self) -> Option<&ClusterId> {
        match self {
            Self::Service(_) => None,
            Self::Member { cluster, .. } | Self::InCluster { cluster, .. } => Some(cluster),
        }
    }
}

/// The canonical form, without trailing dot. A member is shown in the standard's zone.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ServiceKey { namespace, name } = self.service();
        match self {
            Self::Service(_) => write!(f, "{name}.{namespace}.svc.{CLUSTERSET_ZONE}"),
            Self::Member { label, cluster, .. } => {
                write!(f, "{label}.{cluster}.{name}.{namespace}.svc.{CLUSTERSET_ZONE}")
            }
            Self::InCluster { cluster, .. } => {
                write!(f, "{name}.{namespace}.svc.{cluster}.{CLUSTERS_ZONE}")
            }
        }
    }
}

/// Why a text is no name of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotOurs {
    /// It lies outside both zones.
    #[error("not under {CLUSTERSET_ZONE} or {CLUSTERS_ZONE}")]
    OtherZone,
    /// It lies in a zone of ours, but no such shape exists there.
    #[error("not <service>.<namespace>.svc.{CLUSTERSET_ZONE} nor another name of these zones")]
    NoSuchShape,
}

/// Parses a domain name, with or without the trailing dot, in any case (RFC 4343).
///
/// # Errors
/// [`NotOurs`] says whether a resolver should forward it or answer that it does not exist.
pub fn parse(text: &str) -> Result<Name, NotOurs> {
    let text = text.strip_suffix('.').unwrap_or(text);
    if text.len() > NAME_MAX {
        return Err(NotOurs::OtherZone);
    }
    let lower = text.to_ascii_lowercase();
    if let Some(prefix) = within(&lower, CLUSTERSET_ZONE) {
        in_clusterset(prefix).ok_or(NotOurs::NoSuchShape)
    } else if let Some(prefix) = within(&lower, CLUSTERS_ZONE) {
        in_clusters(prefix).ok_or(NotOurs::NoSuchShape)
    } else {
        Err(NotOurs::OtherZone)
    }
}

/// What stands before `zone`: empty for its apex, `None` outside it.
fn within<'a>(name: &'a str, zone: &str) -> Option<&'a str> {
    let rest = name.strip_suffix(zone)?;
    if rest.is_empty() {
        Some(rest)
    } else {
        rest.strip_suffix('.')
    }
}

fn in_clusterset(prefix: &str) -> Option<Name> {
    let labels: Vec<&str> = prefix.split('.').collect();
    match labels.as_slice() {
        [name, namespace, "svc"] => Some(Name::Service(ServiceKey::parse(namespace, name).ok()?)),
        [label, cluster, name, namespace, "svc"] => member(label, cluster, namespace, name),
        _ => None,
    }
}

fn in_clusters(prefix: &str) -> Option<Name> {
    let labels: Vec<&str> = prefix.split('.').collect();
    match labels.as_slice() {
        [name, namespace, "svc", cluster] => Some(Name::InCluster {
            cluster: ClusterId::parse(cluster).ok()?,
            service: ServiceKey::parse(namespace, name).ok()?,
        }),
        [label, name, namespace, "svc", cluster] => member(label, cluster, namespace, name),
        _ => None,
    }
}

fn member(label: &str, cluster: &str, namespace: &str, name: &str) -> Option<Name> {
    Some(Name::Member {
        label: Hostname::parse(label).ok()?,
        cluster: ClusterId::parse(cluster).ok()?,
        service: ServiceKey::parse(namespace, name).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_is_read_and_shown() {
        for text in [
            "greeter.demo.svc.clusterset.local",
            "db-0.west.db.demo.svc.clusterset.local",
            "greeter.demo.svc.west.clusters.strait.internal",
        ] {
            assert_eq!(parse(text).map(|n| n.to_string()).as_deref(), Ok(text));
        }
        let member = parse("db-0.db.demo.svc.west.clusters.strait.internal").unwrap();
        assert_eq!(member.to_string(), "db-0.west.db.demo.svc.clusterset.local");
        assert_eq!(member.cluster().map(ClusterId::as_str), Some("west"));
    }

    #[test]
    fn case_and_trailing_dot_do_not_matter() {
        let plain = parse("greeter.demo.svc.clusterset.local");
        assert_eq!(parse("Greeter.DEMO.svc.ClusterSet.Local."), plain);
    }

    #[test]
    fn other_zones_are_told_from_missing_names() {
        for other in [
            "",
            ".",
            "example.org",
            "local",
            "xclusterset.local",
            "strait.internal",
        ] {
            assert_eq!(parse(other), Err(NotOurs::OtherZone), "{other}");
        }
        for missing in [
            "clusterset.local",
            "svc.clusterset.local",
            "west.greeter.demo.svc.clusterset.local",
            "greeter.demo.pod.clusterset.local",
            "gree_ter.demo.svc.clusterset.local",
            "greeter..svc.clusterset.local",
            "greeter.demo.svc.clusters.strait.internal",
            "..clusterset.local",
        ] {
            assert_eq!(parse(missing), Err(NotOurs::NoSuchShape), "{missing}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_parsed_without_panic_and_what_is_ours_round_trips(text in ".{0,300}") {
            if let Ok(name) = parse(&text) {
                proptest::prop_assert_eq!(parse(&name.to_string()), Ok(name));
            }
        }
    }
}
