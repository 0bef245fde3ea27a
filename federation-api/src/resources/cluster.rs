//! `Cluster` (strait.dev/v1alpha1, files only): this cluster's own settings. `metadata.name` is its ClusterId.
//!
//! Owns the fields, defaults and bounds. In Kubernetes the same settings come from the chart. Called by manifest and cli.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::values::{AddressText, ByteSize, HumanDuration, ValueError, as_text, shown};
use crate::{ids::ClusterId, manifest::ErrorCode, snapshot::GatewayAddress};

/// The one port of gateways, UDP.
pub const GATEWAY_PORT: u16 = 7443;

/// This cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// Its ClusterId, from `metadata.name`. Immutable once peers know it.
    pub id: ClusterId,
    /// The rest.
    pub spec: ClusterSpec,
}

impl Cluster {
    /// Addresses peers may dial; empty means nobody can dial us.
    #[must_use]
    pub fn advertised(&self) -> Vec<GatewayAddress> {
        self.spec.advertise.iter().map(|a| a.0.clone()).collect()
    }
}

/// `spec` of a Cluster. Every field has a default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
pub struct ClusterSpec {
    /// UDP address the gateway listens on.
    pub listen: Listener,
    /// `host:port` under which peers reach this gateway, at most 16. Empty: this cluster only dials out.
    #[cfg_attr(feature = "crd", schemars(length(max = 16)))]
    pub advertise: Vec<AddressText>,
    /// Loopback and link-local addresses may be advertised and dialled: for trials on one machine.
    pub allow_loopback: bool,
    /// Zone of this gateway, told to peers.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "crd", schemars(with = "Option<String>"))]
    pub zone: Option<Arc<str>>,
    /// Ranges virtual addresses are taken from: at most one of each IP family.
    pub vip_range: VipRange,
    /// The name server.
    pub dns: DnsSpec,
    /// SOCKS5 listener that resolves clusterset names; `off` for none.
    pub socks: Listener,
    /// HTTP listener for health, metrics and dumps; `off` for none.
    pub admin: Listener,
    /// Data workers; absent: one for each CPU, at most 16.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "crd", schemars(range(min = 1, max = 256)))]
    pub workers: Option<u16>,
    /// Bounds that protect this cluster from its peers.
    pub limits: Limits,
}

impl Default for ClusterSpec {
    fn default() -> Self {
        Self {
            listen: Listener::at(Ipv4Addr::UNSPECIFIED, GATEWAY_PORT),
            advertise: Vec::new(),
            allow_loopback: false,
            zone: None,
            vip_range: VipRange::default(),
            dns: DnsSpec::default(),
            socks: Listener::at(Ipv4Addr::LOCALHOST, 1080),
            admin: Listener::at(Ipv4Addr::LOCALHOST, 7480),
            workers: None,
            limits: Limits::default(),
        }
    }
}

/// `spec.dns`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
pub struct DnsSpec {
    /// UDP and TCP address to answer on; `off` for none.
    pub listen: Listener,
    /// Name servers for everything else, `ip:port`. Empty: those of /etc/resolv.conf.
    #[cfg_attr(feature = "crd", schemars(with = "Vec<String>", length(max = 8)))]
    pub upstreams: Vec<SocketAddr>,
}

impl Default for DnsSpec {
    fn default() -> Self {
        Self {
            // 53 needs root and belongs to the host's resolver.
            listen: Listener::at(Ipv4Addr::LOCALHOST, 5353),
            upstreams: Vec::new(),
        }
    }
}

/// `spec.limits`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
pub struct Limits {
    /// Streams one peer may have open at once.
    #[cfg_attr(feature = "crd", schemars(range(min = 1, max = 1_000_000)))]
    pub streams_per_peer: u32,
    /// Bytes buffered for one peer over all its streams.
    pub memory_per_peer: ByteSize,
    /// Services taken from one peer's catalog.
    #[cfg_attr(feature = "crd", schemars(range(min = 1, max = 1_000_000)))]
    pub services_per_peer: u32,
    /// A stream on which nothing moved for so long is reset.
    pub idle_timeout: HumanDuration,
    /// How long entries of a lost peer are kept.
    pub stale_after: HumanDuration,
}

impl Default for Limits {
    fn default() -> Self {
        #[expect(clippy::expect_used, reason = "constants, parsed by the test of this module")]
        let secs = |s| HumanDuration::from_secs(s).expect("within bounds");
        Self {
            // Twice what the largest test opens, a fraction of what a worker can hold.
            streams_per_peer: 10_000,
            memory_per_peer: ByteSize(256 << 20),
            services_per_peer: 5_000,
            idle_timeout: secs(3600),
            stale_after: secs(24 * 3600),
        }
    }
}

/// An address to listen on, `ip:port`, or `off`. Port 0 takes any free port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listener {
    /// Does not listen.
    Off,
    /// Listens here.
    On(SocketAddr),
}

impl Listener {
    const fn at(ip: Ipv4Addr, port: u16) -> Self {
        Self::On(SocketAddr::new(IpAddr::V4(ip), port))
    }

    /// Parses `ip:port` or `off`.
    ///
    /// # Errors
    /// [`ValueError`] for anything else.
    pub fn parse(s: &str) -> Result<Self, ValueError> {
        if s == "off" {
            return Ok(Self::Off);
        }
        s.parse().map(Self::On).map_err(|_| {
            ValueError::new(
                ErrorCode::BadListener,
                format!("{} is not an IP address with a port", shown(s)),
                "write ip:port, such as 0.0.0.0:7443 or [::]:7443, or off",
            )
        })
    }

    /// The address, unless off.
    #[must_use]
    pub const fn address(self) -> Option<SocketAddr> {
        match self {
            Self::Off => None,
            Self::On(a) => Some(a),
        }
    }
}

impl std::fmt::Display for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::On(a) => a.fmt(f),
        }
    }
}

as_text!(Listener, {"type": "string", "pattern": "^(off|.+:[0-9]{1,5})$", "maxLength": 64});

/// `spec.vipRange`: at most one network of each IP family, each with room for at least 14 addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VipRange(Vec<IpNet>);

impl VipRange {
    /// Fewest host bits a range may have: 16 addresses, of which the first and last are never given out.
    pub const MIN_HOST_BITS: u8 = 4;

    /// Checks the set.
    ///
    /// # Errors
    /// [`ValueError`] when empty, two of a family, too small, not a network address, or never usable as a VIP.
    pub fn new(nets: Vec<IpNet>) -> Result<Self, ValueError> {
        let bad = |net: Option<&IpNet>, why: &str, fix: &str| {
            let what = net.map_or_else(String::new, |n| format!("{n} "));
            Err(ValueError::new(ErrorCode::BadRange, format!("{what}{why}"), fix))
        };
        if nets.is_empty() {
            return bad(
                None,
                "lists no range",
                "list one IPv4 range, one IPv6 range, or both",
            );
        }
        let families: BTreeSet<bool> = nets.iter().map(|n| n.addr().is_ipv4()).collect();
        if families.len() != nets.len() {
            return bad(
                None,
                "lists two ranges of one IP family",
                "list at most one IPv4 and one IPv6 range",
            );
        }
        for net in &nets {
            if net.addr() != net.network() {
                let fix = format!("write {}", net.trunc());
                return bad(Some(net), "has bits set beyond its prefix", &fix);
            }
            if net.max_prefix_len() - net.prefix_len() < Self::MIN_HOST_BITS {
                return bad(
                    Some(net),
                    "is too small",
                    "leave at least 4 host bits, such as /24",
                );
            }
            let ip = net.addr();
            if ip.is_multicast() || (ip.is_unspecified() && net.prefix_len() < 8) {
                return bad(
                    Some(net),
                    "cannot be used for services",
                    "use a private or loopback range",
                );
            }
        }
        Ok(Self(nets))
    }

    /// The networks, at most one of each family.
    #[must_use]
    pub fn nets(&self) -> &[IpNet] {
        &self.0
    }

    /// The network of one family.
    #[must_use]
    pub fn of(&self, family: crate::catalog::IpFamily) -> Option<IpNet> {
        let v4 = family == crate::catalog::IpFamily::V4;
        self.0.iter().find(|n| n.addr().is_ipv4() == v4).copied()
    }

    /// True if `ip` may have been given out from here.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.0.iter().any(|n| n.contains(&ip))
    }
}

impl Default for VipRange {
    /// A corner of the loopback network, away from 127.0.0.0/16 and 127.0.0.53.
    fn default() -> Self {
        Self(vec![IpNet::V4(Ipv4Net::new_assert(
            Ipv4Addr::new(127, 77, 0, 0),
            16,
        ))])
    }
}

impl<'de> Deserialize<'de> for VipRange {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let texts = Vec::<Network>::deserialize(d)?;
        Self::new(texts.into_iter().map(|n| n.0).collect()).map_err(serde::de::Error::custom)
    }
}

impl Serialize for VipRange {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(&self.0)
    }
}

#[cfg(feature = "crd")]
impl schemars::JsonSchema for VipRange {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "VipRange".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let items = Network::json_schema(generator);
        schemars::json_schema!({"type": "array", "items": items, "minItems": 1, "maxItems": 2})
    }
}

/// One network in CIDR notation.
#[derive(Debug, Clone, Copy)]
struct Network(IpNet);

impl Network {
    fn parse(s: &str) -> Result<Self, ValueError> {
        s.parse().map(Self).map_err(|_| {
            ValueError::new(
                ErrorCode::BadRange,
                format!("{} is not a network", shown(s)),
                "write it as address/prefix, such as 127.77.0.0/16",
            )
        })
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

as_text!(Network, {"type": "string", "minLength": 4, "maxLength": 49, "pattern": "^[0-9a-fA-F.:]+/[0-9]{1,3}$"});

/// Ranges that neighbours give out by default, with their owner: a Cluster that overlaps one gets a warning.
pub const TAKEN_RANGES: &[(&str, &str)] = &[
    ("240.240.0.0/16", "Istio"),
    ("240.0.0.0/16", "Admiral"),
    ("241.0.0.0/8", "Kuma (MeshService)"),
    (
        "242.0.0.0/8",
        "Kuma (MeshExternalService) and Submariner Globalnet",
    ),
    ("243.0.0.0/8", "Kuma (MeshMultiZoneService)"),
];

/// The neighbour whose default range overlaps `net`.
#[must_use]
pub fn taken_by(net: &IpNet) -> Option<(&'static str, &'static str)> {
    TAKEN_RANGES.iter().copied().find(|(cidr, _)| {
        cidr.parse::<IpNet>()
            .is_ok_and(|taken| taken.contains(net) || net.contains(&taken))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_round_trip() {
        let spec = ClusterSpec::default();
        let json = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<ClusterSpec>(&json).unwrap(), spec);
        assert_eq!(serde_json::from_str::<ClusterSpec>("{}").unwrap(), spec);
        assert!(VipRange::new(spec.vip_range.nets().to_vec()).is_ok());
    }

    #[test]
    fn vip_ranges_are_checked() {
        for good in [r#"["10.9.0.0/24"]"#, r#"["10.9.0.0/24","fd00::/64"]"#] {
            assert!(serde_json::from_str::<VipRange>(good).is_ok(), "{good}");
        }
        for bad in [
            "[]",
            r#"["10.9.0.0"]"#,
            r#"["10.9.0.1/24"]"#,
            r#"["10.9.0.0/29"]"#,
            r#"["224.0.0.0/8"]"#,
            r#"["10.0.0.0/8","11.0.0.0/8"]"#,
            r#"["0.0.0.0/0"]"#,
            r#"["10.0.0.0/33"]"#,
        ] {
            assert!(serde_json::from_str::<VipRange>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn taken_ranges_parse_and_overlap_both_ways() {
        for (cidr, _) in TAKEN_RANGES {
            assert!(cidr.parse::<IpNet>().is_ok(), "{cidr}");
        }
        let owner = |s: &str| taken_by(&s.parse().unwrap()).map(|t| t.1);
        assert_eq!(owner("240.240.7.0/24"), Some("Istio"));
        assert_eq!(owner("240.0.0.0/4").map(|_| ()), Some(()));
        assert_eq!(owner("127.77.0.0/16"), None);
    }
}
