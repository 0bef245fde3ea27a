//! How many connection attempts one source may make.
//!
//! Owns the bounds at the accept edge, as pure functions. A source is counted only once its address is proven, else a spoofed flood
//! could lock a real peer out. Called by the accept loop.

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

/// Handshakes under way, over all workers, above which a source must prove its address first: each costs a signature and memory.
const RETRY_ABOVE: u32 = 256;
/// Handshakes under way above which new ones are refused: about what one core signs in a handshake time-out.
const REFUSE_ABOVE: u32 = 4096;
/// Attempts a source may make at once: a peer's gateways behind one NAT, each dialling from every worker.
const BURST: f64 = 256.0;
/// Attempts a source regains each second.
const PER_SECOND: f64 = 64.0;
/// Sources remembered. More are forgotten oldest first, which only a distributed flood brings about.
const MAX_SOURCES: usize = 4096;
/// A source that was quiet so long has its burst back.
const FORGET_AFTER: Duration = Duration::from_secs(8);

/// What to do with an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gate {
    Accept,
    /// Ask the source to prove its address.
    Retry,
    /// Too many.
    Refuse,
}

/// Attempts per source.
#[derive(Debug, Default)]
pub(crate) struct Limiter {
    sources: HashMap<IpAddr, Bucket>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

/// IPv6 sources are counted by /64: one host has that many addresses.
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.into(),
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            std::net::Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

impl Limiter {
    /// Judges one attempt; `proven` says that the source has shown it receives at its address.
    pub(crate) fn judge(&mut self, now: Instant, address: IpAddr, proven: bool, under_way: u32) -> Gate {
        let bucket = self.bucket(now, source(address));
        let gate = match (proven, bucket.tokens >= 1.0) {
            _ if under_way >= REFUSE_ABOVE => Gate::Refuse,
            (false, true) if under_way >= RETRY_ABOVE => Gate::Retry,
            (false, false) => Gate::Retry,
            (true, false) => Gate::Refuse,
            (_, true) => Gate::Accept,
        };
        if gate == Gate::Accept {
            bucket.tokens -= 1.0;
        }
        gate
    }

    fn bucket(&mut self, now: Instant, source: IpAddr) -> &mut Bucket {
        if self.sources.len() >= MAX_SOURCES && !self.sources.contains_key(&source) {
            self.make_room(now);
        }
        let bucket = self.sources.entry(source).or_insert(Bucket {
            tokens: BURST,
            at: now,
        });
        let gained = now.saturating_duration_since(bucket.at).as_secs_f64() * PER_SECOND;
        (bucket.tokens, bucket.at) = ((bucket.tokens + gained).min(BURST), now);
        bucket
    }

    fn make_room(&mut self, now: Instant) {
        self.sources
            .retain(|_, bucket| now.saturating_duration_since(bucket.at) < FORGET_AFTER);
        let oldest = self
            .sources
            .iter()
            .min_by_key(|(_, bucket)| bucket.at)
            .map(|(source, _)| *source);
        if self.sources.len() >= MAX_SOURCES
            && let Some(oldest) = oldest
        {
            self.sources.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    #[test]
    fn a_proven_source_is_refused_over_its_burst_and_let_in_again_later() {
        let (mut limiter, now) = (Limiter::default(), Instant::now());
        let accepted = (0..1000)
            .filter(|_| limiter.judge(now, PEER, true, 0) == Gate::Accept)
            .count();
        assert_eq!(accepted, BURST as usize);
        assert_eq!(limiter.judge(now, PEER, true, 0), Gate::Refuse);
        assert_eq!(
            limiter.judge(now + Duration::from_secs(1), PEER, true, 0),
            Gate::Accept
        );
    }

    #[test]
    fn an_unproven_source_is_asked_for_proof_instead_of_refused() {
        let (mut limiter, now) = (Limiter::default(), Instant::now());
        assert_eq!(limiter.judge(now, PEER, false, RETRY_ABOVE), Gate::Retry);
        assert_eq!(limiter.judge(now, PEER, true, RETRY_ABOVE), Gate::Accept);
        for _ in 0..1000 {
            limiter.judge(now, PEER, false, 0);
        }
        assert_eq!(limiter.judge(now, PEER, false, 0), Gate::Retry);
        assert_eq!(limiter.judge(now, PEER, true, REFUSE_ABOVE), Gate::Refuse);
    }

    #[test]
    fn memory_is_bounded_and_one_ipv6_host_is_one_source() {
        let (mut limiter, now) = (Limiter::default(), Instant::now());
        for host in 0..10_000u32 {
            limiter.judge(now, IpAddr::V4(host.into()), true, 0);
        }
        assert!(limiter.sources.len() <= MAX_SOURCES);
        let mut limiter = Limiter::default();
        let accepted = (0..1000u16)
            .filter(|i| {
                let address = std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, *i);
                limiter.judge(now, address.into(), true, 0) == Gate::Accept
            })
            .count();
        assert_eq!(accepted, BURST as usize);
    }
}
