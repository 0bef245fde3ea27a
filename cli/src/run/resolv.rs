//! Upstream resolvers from /etc/resolv.conf, for a Cluster that lists none.
//!
//! Owns the reading of that file (resolv.conf(5)): `nameserver` lines only. Used by `run`.

use std::net::{IpAddr, SocketAddr};

/// The port of DNS (RFC 1035 section 4.2).
const DNS_PORT: u16 = 53;

/// The system's resolvers, at most `max`, without those that are ourselves.
pub(super) fn upstreams(max: usize, ourselves: &[SocketAddr]) -> Vec<SocketAddr> {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    parse(&text, max, ourselves)
}

fn parse(text: &str, max: usize, ourselves: &[SocketAddr]) -> Vec<SocketAddr> {
    let is_us = |address: &SocketAddr| {
        ourselves
            .iter()
            .any(|us| us.port() == address.port() && (us.ip() == address.ip() || us.ip().is_unspecified()))
    };
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            words.next().filter(|&word| word == "nameserver")?;
            let address = words.next()?;
            // An address with a zone (fe80::1%eth0) cannot be an upstream of ours: it is passed over.
            address.parse::<IpAddr>().ok()
        })
        .map(|ip| SocketAddr::new(ip, DNS_PORT))
        .filter(|address| !is_us(address))
        .take(max)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nameservers_in_order_bounded_and_never_ourselves() {
        let text = "# nameserver 9.9.9.9\nsearch x\nnameserver 127.0.0.53\nnameserver\nnameserver fe80::1%eth0\nnameserver ::1\n\
                    options ndots:5\nnameserver 10.0.0.2\nnameserver 10.0.0.3\n";
        let ips = |max, ours: &[&str]| -> Vec<String> {
            let ours: Vec<SocketAddr> = ours.iter().map(|a| a.parse().unwrap()).collect();
            parse(text, max, &ours).iter().map(ToString::to_string).collect()
        };
        assert_eq!(
            ips(9, &[]),
            ["127.0.0.53:53", "[::1]:53", "10.0.0.2:53", "10.0.0.3:53"]
        );
        assert_eq!(ips(2, &["127.0.0.53:53"]), ["[::1]:53", "10.0.0.2:53"]);
        assert_eq!(
            ips(9, &["127.0.0.53:5353"]).len(),
            4,
            "another port is another server"
        );
        assert!(ips(9, &["0.0.0.0:53"]).is_empty());
    }
}
