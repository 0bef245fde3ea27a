//! Carrying a rotation of our root: acks in, steps out.
//!
//! Owns when a step is tried. What a step is, and whether it is due, `strait_trust_bridge::rotation` decides.

use std::{collections::BTreeSet, time::Duration};

use rustls_pki_types::UnixTime;
use strait_federation_api::{TrustDomain, view::RotationView};
use strait_trust_bridge::{
    KeyHash, TrustError,
    rotation::{Facts, Phase, Step},
};

use super::Authority;
use crate::ControllerError;

/// The gateway tells of its connections once a second, and `since` is in whole seconds: from then on, what it told is newer than the
/// step.
const TOLD_WITHIN_SECS: u64 = 3;

/// What the outside knows of a rotation.
#[derive(Debug, Clone)]
pub(crate) struct RotationFacts {
    /// Peers that must acknowledge.
    pub(crate) peers: BTreeSet<TrustDomain>,
    /// Live data and control connections that rest on an earlier leaf; `None` while nobody can tell.
    pub(crate) outdated_connections: Option<usize>,
    /// How long peers may take to acknowledge.
    pub(crate) ack_grace: Duration,
}

impl Authority {
    /// A peer holds our bundle of this sequence. Blocking.
    pub(crate) fn acked(&mut self, peer: &TrustDomain, sequence: u64) -> Result<(), ControllerError> {
        let before = self.ca().rotation().clone();
        self.try_change(|ca| {
            ca.ack(peer, sequence)?;
            Ok(*ca.rotation() != before)
        })
        .map(drop)
    }

    /// A Federation ended. Blocking.
    pub(crate) fn forget_peer(&mut self, peer: &TrustDomain) -> Result<(), ControllerError> {
        self.change(|ca| {
            ca.forget_peer(peer);
            Ok(())
        })
    }

    /// Publishes the next root. Blocking.
    pub(crate) fn begin_rotation(&mut self, now: UnixTime) -> Result<(), ControllerError> {
        self.change(|ca| ca.begin_rotation(now))?;
        // The join chain carries every published root.
        self.issue(now)
    }

    /// Takes the step that is due, if any. Blocking.
    pub(crate) fn advance(
        &mut self,
        facts: &RotationFacts,
        now: UnixTime,
    ) -> Result<Option<Step>, ControllerError> {
        if self.ca().rotation().phase() == Phase::Stable {
            return Ok(None);
        }
        let facts_now = Facts {
            peers: &facts.peers,
            old_leaves: self.old_leaves(),
            old_tunnels: self.old_tunnels(facts.outdated_connections, now),
            ack_grace: facts.ack_grace,
        };
        if self.ca().rotation().due(&facts_now, now).is_none() {
            return Ok(None);
        }
        let step = self.change(|ca| ca.advance(&facts_now, now))?;
        if step.is_some() {
            self.issue(now)?;
        }
        Ok(step)
    }

    /// Takes the next step whoever lags. Blocking.
    pub(crate) fn force_step(&mut self, now: UnixTime) -> Result<Step, ControllerError> {
        let step = self.change(|ca| ca.force_step(now))?;
        self.issue(now)?;
        Ok(step)
    }

    /// Removes a root at once; gives the peers that must join again. Blocking.
    pub(crate) fn remove_root(
        &mut self,
        key: KeyHash,
        peers: &BTreeSet<TrustDomain>,
        now: UnixTime,
    ) -> Result<Vec<TrustDomain>, ControllerError> {
        let rejoin = self.change(|ca| ca.remove_root(key, peers, now))?;
        self.issue(now)?;
        Ok(rejoin)
    }

    /// Where a rotation stands, for people.
    pub(crate) fn rotation_view(&self, peers: &BTreeSet<TrustDomain>) -> RotationView {
        let rotation = self.ca().rotation();
        RotationView {
            phase: match rotation.phase() {
                Phase::Stable => "Stable",
                Phase::Published { .. } => "Published",
                Phase::Issuing { .. } => "Issuing",
            }
            .into(),
            sequence: rotation.sequence(),
            current: rotation.current().to_string(),
            next: rotation.next().map(|key| key.to_string()),
            previous: rotation.previous().map(|key| key.to_string()),
            lagging: rotation.lagging(peers),
        }
    }

    /// Whether a rotation waits for this peer.
    pub(crate) fn is_lagging(&self, peer: &TrustDomain) -> bool {
        let rotation = self.ca().rotation();
        rotation.phase() != Phase::Stable && !rotation.lagging(&BTreeSet::from([peer.clone()])).is_empty()
    }

    /// The key that a person names: whole, or the first eight or more characters.
    ///
    /// # Errors
    /// [`TrustError::NoSuchRoot`] or [`TrustError::InvalidFingerprint`].
    pub(crate) fn root_named(&self, text: &str) -> Result<KeyHash, TrustError> {
        /// Eight hexadecimal characters tell three roots apart and are still short to type.
        const SHORTEST: usize = 8;
        let rotation = self.ca().rotation();
        let mut named = rotation
            .published()
            .filter(|key| text.len() >= SHORTEST && key.to_string().starts_with(text));
        match (named.next(), named.next()) {
            (Some(key), None) => Ok(key),
            _ => Err(TrustError::InvalidFingerprint(text.chars().take(64).collect())),
        }
    }

    fn old_leaves(&self) -> usize {
        let current = self.ca().rotation().current();
        usize::from(
            self.store()
                .identity()
                .is_none_or(|identity| identity.root_key() != current),
        )
    }

    /// Connections that rest on an earlier leaf. Not knowing counts as one, and so does what was told before the present root
    /// began to issue.
    fn old_tunnels(&self, outdated: Option<usize>, now: UnixTime) -> usize {
        match self.ca().rotation().phase() {
            Phase::Issuing { since } if now.as_secs() < since.saturating_add(TOLD_WITHIN_SECS) => 1,
            _ => outdated.unwrap_or(1),
        }
    }
}
