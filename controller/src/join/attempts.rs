//! How many join sessions one source may open.
//!
//! Owns the bound: ten at once, then one every six seconds. A /64 counts as one source, since one host may hold all of it.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    num::NonZeroU32,
    time::Duration,
};

use governor::{Quota, RateLimiter, clock::DefaultClock, state::keyed::HashMapStateStore};

/// Sessions one source may open in a burst: a person's retries, and the addresses of one gateway.
const BURST: NonZeroU32 = NonZeroU32::new(10).unwrap();
/// One more session is allowed after this.
const REFILL: Duration = Duration::from_secs(6);
/// Sources remembered before those at rest are forgotten: 64 KiB or so.
const SOURCES_MAX: usize = 1024;

/// Counts sessions per source.
pub(crate) struct Attempts(RateLimiter<IpAddr, HashMapStateStore<IpAddr>, DefaultClock>);

impl Attempts {
    pub(crate) fn new() -> Self {
        #[expect(clippy::expect_used, reason = "REFILL is not zero")]
        let quota = Quota::with_period(REFILL).expect("a period").allow_burst(BURST);
        Self(RateLimiter::hashmap(quota))
    }

    /// Whether this source may open a session now; counts it.
    pub(crate) fn allow(&self, source: SocketAddr) -> bool {
        if self.0.len() >= SOURCES_MAX {
            self.0.retain_recent();
            // Still full of sources that are active now: that is an attack, and the first of them are as good as any.
            if self.0.len() >= SOURCES_MAX {
                return false;
            }
        }
        self.0.check_key(&network(source.ip())).is_ok()
    }
}

fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        v4 @ IpAddr::V4(_) => v4,
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ip: &str) -> SocketAddr {
        SocketAddr::new(ip.parse().unwrap(), 9)
    }

    #[test]
    fn a_source_is_bounded_and_others_are_not_hurt() {
        let attempts = Attempts::new();
        let allowed = (0..50).filter(|_| attempts.allow(at("192.0.2.1"))).count();
        assert_eq!(allowed, 10);
        assert!(attempts.allow(at("192.0.2.2")));
    }

    #[test]
    fn one_network_of_v6_is_one_source() {
        let attempts = Attempts::new();
        let allowed = (0..50)
            .filter(|n| attempts.allow(at(&format!("2001:db8::{n:x}"))))
            .count();
        assert_eq!(allowed, 10);
        assert!(attempts.allow(at("2001:db8:0:1::1")));
        assert!(!attempts.allow(at("2001:db8::ffff")));
    }

    #[test]
    fn memory_is_bounded() {
        let attempts = Attempts::new();
        for n in 0..3000_u32 {
            attempts.allow(SocketAddr::new(IpAddr::from((n + 0x0a00_0000).to_be_bytes()), 1));
        }
        assert!(attempts.0.len() <= SOURCES_MAX);
    }
}
