//! How many connection attempts one source may make.
//!
//! Owns the bounds at the accept edge, as pure functions. Attempts from a proven address and from a claimed one are counted apart, else
//! a flood that claims a peer's address would lock the real peer out. Called by the accept loop.

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
/// Refusals of one source are told so far apart; all are counted. A flood must not become a flood of log lines.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// What to do with an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gate {
    Accept,
    /// Ask the source to prove its address.
    Retry,
    /// Too many.
    Refuse {
        /// Worth a log line: none was due for this source just before.
        news: bool,
    },
}

/// Attempts per source.
#[derive(Debug, Default)]
pub(crate) struct Limiter {
    sources: HashMap<IpAddr, Source>,
    /// When a refusal was last told that is nobody's in particular.
    told: Option<Instant>,
}

/// What is left to one source, and since when.
#[derive(Debug, Clone, Copy)]
struct Source {
    /// For attempts that show the address to be real.
    proven: f64,
    /// For attempts that anybody may have sent.
    claimed: f64,
    at: Instant,
    told: Option<Instant>,
}

fn is_news(told: &mut Option<Instant>, now: Instant) -> bool {
    let news = told.is_none_or(|at| now.saturating_duration_since(at) >= TELL_EVERY);
    if news {
        *told = Some(now);
    }
    news
}

/// IPv6 sources are counted by /64: one host has that many addresses.
pub(crate) fn source(address: IpAddr) -> IpAddr {
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
        // Decided without the table: a flood of claimed addresses must cost next to nothing.
        if under_way >= REFUSE_ABOVE {
            let news = is_news(&mut self.told, now);
            return Gate::Refuse { news };
        }
        if !proven && under_way >= RETRY_ABOVE {
            return Gate::Retry;
        }
        let source = self.source(now, source(address));
        let tokens = if proven {
            &mut source.proven
        } else {
            &mut source.claimed
        };
        if *tokens >= 1.0 {
            *tokens -= 1.0;
            Gate::Accept
        } else if proven {
            let news = is_news(&mut source.told, now);
            Gate::Refuse { news }
        } else {
            Gate::Retry
        }
    }

    fn source(&mut self, now: Instant, address: IpAddr) -> &mut Source {
        if self.sources.len() >= MAX_SOURCES && !self.sources.contains_key(&address) {
            self.make_room(now);
        }
        let source = self.sources.entry(address).or_insert(Source {
            proven: BURST,
            claimed: BURST,
            at: now,
            told: None,
        });
        let gained = now.saturating_duration_since(source.at).as_secs_f64() * PER_SECOND;
        source.proven = (source.proven + gained).min(BURST);
        source.claimed = (source.claimed + gained).min(BURST);
        source.at = now;
        source
    }

    fn make_room(&mut self, now: Instant) {
        self.sources
            .retain(|_, source| now.saturating_duration_since(source.at) < FORGET_AFTER);
        let oldest = self
            .sources
            .iter()
            .min_by_key(|(_, source)| source.at)
            .map(|(address, _)| *address);
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
        // The first refusal was told in the loop.
        assert_eq!(limiter.judge(now, PEER, true, 0), Gate::Refuse { news: false });
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
        assert_eq!(
            limiter.judge(now, PEER, true, REFUSE_ABOVE),
            Gate::Refuse { news: true }
        );
    }

    #[test]
    fn a_flood_that_claims_a_peers_address_does_not_lock_the_peer_out() {
        let (mut limiter, now) = (Limiter::default(), Instant::now());
        for _ in 0..100_000 {
            limiter.judge(now, PEER, false, 0);
        }
        assert_eq!(limiter.judge(now, PEER, false, 0), Gate::Retry);
        assert_eq!(limiter.judge(now, PEER, true, 0), Gate::Accept);
    }

    #[test]
    fn refusals_of_one_source_are_told_once_a_second() {
        let (mut limiter, now) = (Limiter::default(), Instant::now());
        let told = |limiter: &mut Limiter, now| {
            let judged = (0..1000).map(|_| limiter.judge(now, PEER, true, 0));
            judged.filter(|gate| *gate == Gate::Refuse { news: true }).count()
        };
        assert_eq!(told(&mut limiter, now), 1);
        assert_eq!(told(&mut limiter, now), 0);
        assert_eq!(told(&mut limiter, now + TELL_EVERY), 1);
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
