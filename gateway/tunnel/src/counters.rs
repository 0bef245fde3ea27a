//! What happened, counted.
//!
//! Owns plain atomics; strait-gateway turns them into metrics. Written everywhere in this crate.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use strait_federation_api::Reason;

/// A counter that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, by: u64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }

    /// The present value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// All counters of the tunnels of one process.
#[derive(Debug, Default)]
pub struct Counters {
    /// Handshakes we accepted that ended in an admitted connection.
    pub accepted: Counter,
    /// Dials that ended in a connection that is up.
    pub dialled: Counter,
    /// Dials that failed on every address.
    pub dial_failures: Counter,
    /// First packets answered with a retry: the source had to prove its address.
    pub retries: Counter,
    /// Streams that peers opened.
    pub streams_accepted: Counter,
    /// Streams refused because we drain.
    pub streams_refused: Counter,
    /// Liveness pings sent.
    pub pings: Counter,
    /// Times a tunnel became suspect.
    pub suspects: Counter,
    /// Observations dropped because the controller did not keep up.
    pub observations_dropped: Counter,
    /// QUIC drivers that panicked.
    pub driver_panics: Counter,
    /// Tasks of ours that panicked.
    pub task_panics: Counter,
    /// Endpoints rebuilt after their driver ended.
    pub endpoint_restarts: Counter,
    refused: Mutex<Vec<(Reason, u64)>>,
}

impl Counters {
    pub(crate) fn refuse(&self, reason: Reason) {
        let mut refused = self.refused.lock();
        match refused.iter_mut().find(|(held, _)| *held == reason) {
            Some((_, count)) => *count += 1,
            None => refused.push((reason, 1)),
        }
    }

    /// Connections refused or ended for a reason of trust or policy, by reason.
    #[must_use]
    pub fn refused(&self) -> Vec<(Reason, u64)> {
        self.refused.lock().clone()
    }
}
