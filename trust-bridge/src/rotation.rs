//! The rotation of roots as a pure state machine.
//!
//! Owns which roots are published, which one issues, what the peers have acknowledged and what may happen next. Holds key
//! hashes only; `ca.rs` holds the keys and follows the steps. Time is passed in as Unix seconds.
//!
//! Stable → Published (the next root is in the bundle, the old one issues) → Issuing (the next one issues, cross-signed by the
//! old, which stays published) → Stable (the old one is removed).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rustls_pki_types::UnixTime;
use serde::{Deserialize, Serialize};

use crate::{KeyHash, TrustDomain, TrustError};

/// How long a published root waits for every peer before it issues: three times the refresh hint. Who has not acknowledged by
/// then is listed as lagging and still verifies us through the cross-certificate.
pub const DEFAULT_ACK_GRACE: Duration = Duration::from_secs(900);

/// Where a rotation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "camelCase")]
pub enum Phase {
    /// No rotation is running.
    Stable,
    /// The next root is in the bundle; the current one still issues.
    Published {
        /// Unix seconds.
        since: u64,
    },
    /// The new root issues; the old one is still in the bundle.
    Issuing {
        /// Unix seconds.
        since: u64,
    },
}

/// What the outside knows when a step is decided.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The peers that must acknowledge.
    pub peers: &'a BTreeSet<TrustDomain>,
    /// Own gateways whose present leaf was issued under the old root.
    pub old_leaves: usize,
    /// Live tunnels on which we presented a leaf issued under the old root.
    pub old_tunnels: usize,
    /// See [`DEFAULT_ACK_GRACE`].
    pub ack_grace: Duration,
}

/// The next step of a planned rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Issue from this root from now on; renew every leaf.
    IssueFrom(KeyHash),
    /// Take this root out of the bundle.
    Retire(KeyHash),
}

/// The roots of a cluster and how far a rotation is. A record: it survives restarts with the CA.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rotation {
    state: Phase,
    sequence: u64,
    current: KeyHash,
    next: Option<KeyHash>,
    previous: Option<KeyHash>,
    removed: BTreeSet<KeyHash>,
    acked: BTreeMap<TrustDomain, u64>,
}

impl Rotation {
    /// A new cluster: one root, sequence 1.
    #[must_use]
    pub const fn new(current: KeyHash) -> Self {
        Self {
            state: Phase::Stable,
            sequence: 1,
            current,
            next: None,
            previous: None,
            removed: BTreeSet::new(),
            acked: BTreeMap::new(),
        }
    }

    /// Where it stands.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        self.state
    }

    /// The sequence of the present bundle.
    #[must_use]
    pub const fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The root that issues.
    #[must_use]
    pub const fn current(&self) -> KeyHash {
        self.current
    }

    /// The published root that will issue.
    #[must_use]
    pub const fn next(&self) -> Option<KeyHash> {
        self.next
    }

    /// The published root that issued before.
    #[must_use]
    pub const fn previous(&self) -> Option<KeyHash> {
        self.previous
    }

    /// The roots of the present bundle, the issuing one first.
    pub fn published(&self) -> impl Iterator<Item = KeyHash> + use<> {
        [Some(self.current), self.next, self.previous]
            .into_iter()
            .flatten()
    }

    /// Every key ever removed.
    #[must_use]
    pub const fn removed(&self) -> &BTreeSet<KeyHash> {
        &self.removed
    }

    /// Peers of `peers` that have not acknowledged the present bundle.
    #[must_use]
    pub fn lagging(&self, peers: &BTreeSet<TrustDomain>) -> Vec<TrustDomain> {
        let behind = |peer: &&TrustDomain| self.acked.get(*peer).is_none_or(|seen| *seen < self.sequence);
        peers.iter().filter(behind).cloned().collect()
    }

    /// A peer holds our bundle of `sequence`. Older acknowledgements than one already seen change nothing.
    ///
    /// # Errors
    /// [`TrustError::SequenceRollback`] when the peer holds a newer bundle than ours: our record was restored from a backup.
    pub fn ack(&mut self, peer: &TrustDomain, sequence: u64) -> Result<(), TrustError> {
        if sequence > self.sequence {
            return Err(TrustError::SequenceRollback {
                trust_domain: peer.clone(),
                held: sequence,
                offered: self.sequence,
            });
        }
        let seen = self.acked.entry(peer.clone()).or_insert(sequence);
        *seen = (*seen).max(sequence);
        Ok(())
    }

    /// A Federation ended: its peer no longer counts.
    pub fn forget(&mut self, peer: &TrustDomain) {
        self.acked.remove(peer);
    }

    /// Publishes `next`.
    ///
    /// # Errors
    /// [`TrustError::WrongPhase`] while a rotation runs.
    pub fn begin(&mut self, next: KeyHash, now: UnixTime) -> Result<(), TrustError> {
        if self.state != Phase::Stable {
            return Err(TrustError::WrongPhase(
                "a rotation is already running; finish it or force its next step",
            ));
        }
        self.next = Some(next);
        self.sequence += 1;
        self.state = Phase::Published { since: now.as_secs() };
        Ok(())
    }

    /// The step that is due, if any.
    #[must_use]
    pub fn due(&self, facts: &Facts<'_>, now: UnixTime) -> Option<Step> {
        let all_acked = self.lagging(facts.peers).is_empty();
        let ready = match self.state {
            Phase::Stable => false,
            Phase::Published { since } => {
                all_acked || now.as_secs() >= since.saturating_add(facts.ack_grace.as_secs())
            }
            Phase::Issuing { .. } => all_acked && facts.old_leaves == 0 && facts.old_tunnels == 0,
        };
        if ready { self.next_step() } else { None }
    }

    /// The step that an operator may force now, whoever lags.
    #[must_use]
    pub const fn next_step(&self) -> Option<Step> {
        match (self.state, self.next, self.previous) {
            (Phase::Published { .. }, Some(next), _) => Some(Step::IssueFrom(next)),
            (Phase::Issuing { .. }, _, Some(previous)) => Some(Step::Retire(previous)),
            _ => None,
        }
    }

    /// Takes a step that [`Self::due`] or [`Self::next_step`] gave.
    ///
    /// # Errors
    /// [`TrustError::WrongPhase`] for any other step.
    pub fn take(&mut self, step: Step, now: UnixTime) -> Result<(), TrustError> {
        if self.next_step() != Some(step) {
            return Err(TrustError::WrongPhase(
                "the rotation has moved on; ask for the due step again",
            ));
        }
        match step {
            Step::IssueFrom(next) => {
                self.previous = Some(self.current);
                self.current = next;
                self.next = None;
                self.state = Phase::Issuing { since: now.as_secs() };
            }
            Step::Retire(previous) => {
                self.previous = None;
                self.finish_removal(previous);
            }
        }
        Ok(())
    }

    /// Whether removing `key` leaves no root to issue from, so that a new one must be made.
    #[must_use]
    pub fn needs_replacement(&self, key: KeyHash) -> bool {
        key == self.current && self.next.is_none() && self.previous.is_none()
    }

    /// Removes a root at once (its key is lost to somebody). `replacement` issues if no other root is left. Gives the peers of
    /// `peers` that hold no other root of ours and must join again.
    ///
    /// # Errors
    /// [`TrustError::NoSuchRoot`], or [`TrustError::WrongPhase`] without the replacement that is needed.
    pub fn remove(
        &mut self,
        key: KeyHash,
        replacement: Option<KeyHash>,
        peers: &BTreeSet<TrustDomain>,
    ) -> Result<Vec<TrustDomain>, TrustError> {
        if !self.published().any(|published| published == key) {
            return Err(TrustError::NoSuchRoot(key));
        }
        // Every peer holds `previous` since before this rotation; `next`, or `current` in its second half, is held by those
        // who acknowledged it.
        let (heir, rejoin) = match (key == self.current, self.previous, self.next) {
            (true, Some(previous), _) => (Some(previous), Vec::new()),
            (true, None, Some(next)) => (Some(next), self.lagging(peers)),
            (true, None, None) => (replacement, peers.iter().cloned().collect()),
            (false, Some(_), _) => (Some(self.current), self.lagging(peers)),
            (false, None, _) => (Some(self.current), Vec::new()),
        };
        self.current = heir.ok_or(TrustError::WrongPhase(
            "no other root is left; a replacement must be made first",
        ))?;
        (self.next, self.previous) = (None, None);
        self.finish_removal(key);
        Ok(rejoin)
    }

    fn finish_removal(&mut self, key: KeyHash) {
        self.removed.insert(key);
        self.sequence += 1;
        self.state = Phase::Stable;
    }
}
