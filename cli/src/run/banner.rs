//! The block of addresses printed at start.
//!
//! Owns its layout. Used by `run`.

use std::{fmt::Write as _, net::SocketAddr, path::Path};

/// What is served where. `None` is off.
#[derive(Debug)]
pub(crate) struct Banner<'a> {
    /// ClusterId.
    pub(crate) cluster: &'a str,
    /// Strait trust domain.
    pub(crate) trust_domain: &'a str,
    /// Tunnels, UDP.
    pub(crate) gateway: SocketAddr,
    /// What peers are told to dial.
    pub(crate) advertised: Vec<String>,
    /// SOCKS5.
    pub(crate) socks: Option<SocketAddr>,
    /// DNS, UDP and TCP.
    pub(crate) dns: Option<SocketAddr>,
    /// Health, metrics, dump.
    pub(crate) admin: Option<SocketAddr>,
    /// Command socket.
    pub(crate) socket: &'a Path,
    /// Manifests.
    pub(crate) config: &'a Path,
}

impl Banner<'_> {
    /// The block.
    pub(crate) fn text(&self) -> String {
        let address = |a: Option<SocketAddr>| a.map_or_else(|| "off".to_owned(), |a| a.to_string());
        let advertised = if self.advertised.is_empty() {
            "nothing: peers cannot dial this cluster, it dials out".to_owned()
        } else {
            self.advertised.join(", ")
        };
        let lines = [
            ("cluster", self.cluster.to_owned()),
            ("trust domain", self.trust_domain.to_owned()),
            ("gateway (UDP)", self.gateway.to_string()),
            ("advertised", advertised),
            ("SOCKS5", address(self.socks)),
            ("DNS", address(self.dns)),
            ("admin (HTTP)", address(self.admin)),
            ("commands", self.socket.display().to_string()),
            ("manifests", self.config.display().to_string()),
        ];
        let mut text = String::new();
        for (label, value) in lines {
            let _ = writeln!(text, "{label:<14}  {value}"); // a String cannot fail to grow
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_is_on_its_line() {
        let address: SocketAddr = "127.0.0.1:7443".parse().unwrap();
        let banner = Banner {
            cluster: "east",
            trust_domain: "east.abc",
            gateway: address,
            advertised: Vec::new(),
            socks: Some(address),
            dns: None,
            admin: Some(address),
            socket: Path::new("/s/control.sock"),
            config: Path::new("/c"),
        };
        let text = banner.text();
        assert_eq!(text.lines().count(), 9);
        assert!(text.contains("DNS             off\n"), "{text}");
        assert!(text.contains("it dials out"));
    }
}
