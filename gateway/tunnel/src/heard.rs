//! When something last came from the peer, readable without a lock.
//!
//! Owns one atomic per tunnel. Quinn counts received packets but does not say when they came, so whoever sees a packet's effect
//! (a datagram, a stream's bytes, a risen counter) marks the time here. Written by streams and the connection task, read by proxy.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// All marks count from here, so that an `Instant` fits an atomic.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The last moment at which the peer was known to be alive: never later than the truth, in microseconds since [`START`].
#[derive(Debug)]
pub(crate) struct Heard(AtomicU64);

fn micros(at: Instant) -> u64 {
    u64::try_from(at.saturating_duration_since(*START).as_micros()).unwrap_or(u64::MAX)
}

impl Heard {
    pub(crate) fn new(now: Instant) -> Self {
        Self(AtomicU64::new(micros(now)))
    }

    /// Something came at `at`; an older mark never replaces a newer one.
    pub(crate) fn mark(&self, at: Instant) {
        self.0.fetch_max(micros(at), Ordering::Relaxed);
    }

    pub(crate) fn silent_for(&self, now: Instant) -> Duration {
        Duration::from_micros(micros(now).saturating_sub(self.0.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_never_go_back() {
        let now = Instant::now() + Duration::from_secs(100);
        let heard = Heard::new(now);
        heard.mark(now + Duration::from_secs(5));
        heard.mark(now + Duration::from_secs(2));
        assert_eq!(
            heard.silent_for(now + Duration::from_secs(6)),
            Duration::from_secs(1)
        );
        assert_eq!(heard.silent_for(now), Duration::ZERO);
    }
}
