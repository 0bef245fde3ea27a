//! The wall clock: read here and nowhere else in this room, passed on as a value.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Seconds since 1970. A clock before that reads as 0.
#[must_use]
pub fn unix_seconds() -> u64 {
    since_epoch().as_secs()
}

/// The same as the time type of certificates.
#[must_use]
pub fn unix_time() -> rustls_pki_types::UnixTime {
    rustls_pki_types::UnixTime::since_unix_epoch(since_epoch())
}

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Microseconds that start at Unix time and never go back, whatever becomes of the clock while we run. Where the exchange's numbers
/// start: above every number of an earlier process or a restored backup.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SteadyMicros {
    base: Duration,
    since: Instant,
}

impl SteadyMicros {
    /// Reads the wall clock, once.
    pub(crate) fn start() -> Self {
        Self {
            base: since_epoch(),
            since: Instant::now(),
        }
    }

    /// Now.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from((self.base + self.since.elapsed()).as_micros()).unwrap_or(u64::MAX)
    }
}
