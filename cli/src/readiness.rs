//! Readiness by explicit conditions: ready when every condition that was named at start has been met.
//!
//! Owns the set of what is still missing. Never decides when a condition holds: whoever was handed a [`Gate`] opens it. Read by
//! the admin endpoint and the command socket.

use std::{collections::BTreeSet, sync::Arc};

use tokio::sync::watch;

/// What readiness waits for. Clones share one set.
#[derive(Debug, Clone)]
pub(crate) struct Readiness {
    missing: Arc<watch::Sender<BTreeSet<&'static str>>>,
}

/// One condition. Dropping it unopened leaves the process unready: a part that died early never made it ready.
#[derive(Debug)]
#[must_use]
pub(crate) struct Gate {
    name: &'static str,
    missing: Arc<watch::Sender<BTreeSet<&'static str>>>,
}

impl Readiness {
    /// Nothing to wait for yet.
    pub(crate) fn new() -> Self {
        Self {
            missing: Arc::new(watch::Sender::new(BTreeSet::new())),
        }
    }

    /// Adds a condition. Names are unique within a process.
    pub(crate) fn gate(&self, name: &'static str) -> Gate {
        self.missing.send_modify(|missing| {
            missing.insert(name);
        });
        Gate {
            name,
            missing: Arc::clone(&self.missing),
        }
    }

    /// What is still missing; ready when empty.
    pub(crate) fn missing(&self) -> Vec<&'static str> {
        self.missing.borrow().iter().copied().collect()
    }
}

impl Gate {
    /// The condition holds from now on.
    pub(crate) fn open(self) {
        self.missing.send_modify(|missing| {
            missing.remove(self.name);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_gate_stays_closed() {
        let readiness = Readiness::new();
        let (a, b) = (readiness.gate("a"), readiness.gate("b"));
        a.open();
        drop(b);
        assert_eq!(readiness.missing(), ["b"]);
    }

    #[test]
    fn ready_when_every_gate_is_open() {
        let readiness = Readiness::new();
        let gate = readiness.gate("snapshot");
        assert_eq!(readiness.missing(), ["snapshot"]);
        gate.open();
        assert!(readiness.missing().is_empty());
    }
}
