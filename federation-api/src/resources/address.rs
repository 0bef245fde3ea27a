//! Addresses of gateways as manifests write them: `host:port`.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::values::{ValueError, as_text, dns_name, shown};
use crate::{manifest::ErrorCode, snapshot::GatewayAddress};

impl GatewayAddress {
    /// Parses `host:port`; IPv6 literals stand in brackets.
    ///
    /// # Errors
    /// [`ValueError`] when host or port is missing or wrong.
    pub fn parse(s: &str) -> Result<Self, ValueError> {
        let bad = |why: &str| {
            ValueError::new(
                ErrorCode::BadAddress,
                format!("{} {why}", shown(s)),
                "write host:port, such as gw.west.example:7443 or [2001:db8::1]:7443",
            )
        };
        let (host, port) = s.rsplit_once(':').ok_or_else(|| bad("has no port"))?;
        let port = match port.parse::<u16>() {
            Ok(p) if p != 0 && !port.starts_with('+') => p,
            _ => return Err(bad("has no port between 1 and 65535")),
        };
        let host = match host.strip_prefix('[') {
            Some(rest) => {
                let inner = rest
                    .strip_suffix(']')
                    .ok_or_else(|| bad("has an unclosed bracket"))?;
                let ip: std::net::Ipv6Addr = inner
                    .parse()
                    .map_err(|_| bad("has no IPv6 address between the brackets"))?;
                ip.to_string()
            }
            None if host.contains(':') => return Err(bad("has an IPv6 address without brackets")),
            None => checked_host(host).ok_or_else(|| bad("has no valid host"))?,
        };
        Ok(Self {
            host: host.into(),
            port,
        })
    }

    /// The address as an IP literal, if it is one.
    #[must_use]
    pub fn ip(&self) -> Option<std::net::IpAddr> {
        self.host.parse().ok()
    }

    /// Names or is this machine's own loopback, or is link-local: useful only where allowed.
    #[must_use]
    pub fn is_local_only(&self) -> bool {
        match self.ip() {
            Some(std::net::IpAddr::V4(ip)) => ip.is_loopback() || ip.is_link_local(),
            Some(std::net::IpAddr::V6(ip)) => ip.is_loopback() || ip.is_unicast_link_local(),
            None => &*self.host == "localhost",
        }
    }

    /// Can never be dialled: the unspecified or a multicast address.
    #[must_use]
    pub fn is_undiallable(&self) -> bool {
        self.ip()
            .is_some_and(|ip| ip.is_unspecified() || ip.is_multicast())
    }
}

/// A host that looks like an IPv4 address must be one: `10.0.0.300` is a mistake, not a name.
fn checked_host(host: &str) -> Option<String> {
    let numeric = host.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if numeric {
        return host.parse::<std::net::Ipv4Addr>().ok().map(|ip| ip.to_string());
    }
    dns_name(host).is_ok().then(|| host.to_owned())
}

impl fmt::Display for GatewayAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// A [`GatewayAddress`] as manifests write it: `host:port`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddressText(pub GatewayAddress);

impl AddressText {
    /// See [`GatewayAddress::parse`].
    ///
    /// # Errors
    /// [`ValueError`] when host or port is missing or wrong.
    pub fn parse(s: &str) -> Result<Self, ValueError> {
        GatewayAddress::parse(s).map(Self)
    }
}

impl fmt::Display for AddressText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

as_text!(AddressText, {"type": "string", "minLength": 3, "maxLength": 261, "pattern": "^.+:[0-9]{1,5}$"});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_round_trip_and_refuse_what_cannot_be_dialled() {
        for good in [
            "gw.west.example:7443",
            "10.0.0.1:1",
            "[2001:db8::1]:7443",
            "localhost:65535",
        ] {
            assert_eq!(GatewayAddress::parse(good).unwrap().to_string(), good);
        }
        for bad in [
            "",
            "west",
            "west:",
            "west:0",
            "west:65536",
            "west:+1",
            "2001:db8::1:7443",
            "[2001:db8::1:7443",
            "[west]:7443",
            "We st:1",
            "10.0.0.300:1",
            ":7443",
        ] {
            let err = GatewayAddress::parse(bad).unwrap_err();
            assert_eq!(err.code, ErrorCode::BadAddress, "{bad}");
        }
        assert!(GatewayAddress::parse("127.0.0.1:1").unwrap().is_local_only());
        assert!(GatewayAddress::parse("[fe80::1]:1").unwrap().is_local_only());
        assert!(!GatewayAddress::parse("10.0.0.1:1").unwrap().is_local_only());
    }
}
