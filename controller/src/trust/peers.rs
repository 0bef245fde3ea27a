//! The trust held in each peer, as records and in the store.
//!
//! Owns one record per peer and keeps the store equal to them. Called by the engine.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use rustls_pki_types::UnixTime;
use serde::{Deserialize, Serialize};
use strait_federation_api::{
    ClusterId, Reason, TrustDomain, resources::FederationName, snapshot::GatewayAddress,
};
use strait_trust_bridge::{
    InviteId, PeerTrust,
    envelope::{self, BundleUpdate},
};

use super::Authority;
use crate::{
    ControllerError,
    records::{Record, RecordName, Records},
};

/// How trust in a peer came about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "camelCase")]
pub(crate) enum Origin {
    /// It joined with this invite of ours.
    Invite {
        /// The invite.
        invite: InviteId,
    },
    /// We joined with this invite of its.
    Join {
        /// The invite.
        invite: InviteId,
    },
    /// Both sides were told by their operators.
    Static,
}

/// The trust held in one peer. A record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TrustRecord {
    /// Local name of the Federation.
    pub(crate) federation: FederationName,
    /// How it came about.
    pub(crate) origin: Origin,
    /// Its bundle, with sequence and removed keys.
    pub(crate) peer: PeerTrust,
    /// Addresses it was last known at: of the token, then as it advertises them.
    pub(crate) addresses: Vec<GatewayAddress>,
    /// Both sides are known to hold each other's bundle. Until then nothing but its control connection counts.
    pub(crate) activated: bool,
}

impl Record for TrustRecord {
    const KIND: &'static str = "trust";
    const SCHEMA: u32 = 1;
}

/// Every peer's trust.
pub(crate) struct Peers {
    records: Arc<Records>,
    held: BTreeMap<ClusterId, TrustRecord>,
}

impl Peers {
    /// Loads the records. None is in force before [`Self::enforce`]. Blocking.
    pub(crate) fn open(records: Arc<Records>) -> Result<Self, ControllerError> {
        let mut held = BTreeMap::new();
        for name in records.names() {
            if name.of_kind(TrustRecord::KIND).is_some()
                && let Some(record) = records.load::<TrustRecord>(&name)?
            {
                held.insert(record.peer.cluster().clone(), record);
            }
        }
        Ok(Self { records, held })
    }

    /// Makes the store equal to the records of the Federations that exist; gives the Federations of the others.
    pub(crate) fn enforce(
        &self,
        authority: &Authority,
        exists: impl Fn(&FederationName) -> bool,
    ) -> Result<Vec<FederationName>, ControllerError> {
        let mut dormant = Vec::new();
        let mut changed = false;
        for record in self.held.values() {
            let view = authority.store().view();
            let in_force = view.peer(record.peer.trust_domain());
            if !exists(&record.federation) {
                dormant.push(record.federation.clone());
                if in_force.is_some() {
                    authority.store().update(|view| {
                        view.remove(record.peer.trust_domain());
                        Ok(())
                    })?;
                    changed = true;
                }
            } else if in_force != Some(&record.peer) {
                authority
                    .store()
                    .update(|view| view.insert(record.peer.clone()))?;
                changed = true;
            }
        }
        if changed {
            authority.announce();
        }
        Ok(dormant)
    }

    /// The record of a peer.
    pub(crate) fn get(&self, cluster: &ClusterId) -> Option<&TrustRecord> {
        self.held.get(cluster)
    }

    /// The record of a Federation: the one in use, if a new joiner is about to take its place.
    pub(crate) fn of_federation(&self, name: &FederationName) -> Option<&TrustRecord> {
        let mine = || self.held.values().filter(|record| record.federation == *name);
        mine().find(|record| record.activated).or_else(|| mine().next())
    }

    /// Every record, by peer.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&ClusterId, &TrustRecord)> {
        self.held.iter()
    }

    /// Trust domains of the peers that are activated: those who must acknowledge our bundle.
    pub(crate) fn active_domains(&self) -> BTreeSet<TrustDomain> {
        let active = self.held.values().filter(|record| record.activated);
        active.map(|record| record.peer.trust_domain().clone()).collect()
    }

    /// The peer whose record stands in the way of one with this ClusterId for another Federation, or for another trust domain.
    pub(crate) fn taken(&self, cluster: &ClusterId, federation: &FederationName) -> Option<&TrustRecord> {
        self.held
            .get(cluster)
            .filter(|record| record.federation != *federation)
    }

    /// Holds a record: durable first, then in force. Blocking.
    pub(crate) fn put(&mut self, authority: &Authority, record: TrustRecord) -> Result<(), ControllerError> {
        let cluster = record.peer.cluster().clone();
        let before = self.held.get(&cluster);
        if before == Some(&record) {
            return Ok(());
        }
        self.records.save(&RecordName::trust(&cluster), &record)?;
        let replaced = before
            .map(|old| old.peer.trust_domain().clone())
            .filter(|old| old != record.peer.trust_domain());
        let same_trust = before.is_some_and(|old| old.peer == record.peer);
        if !same_trust {
            authority.store().update(|view| {
                if let Some(old) = &replaced {
                    view.remove(old);
                }
                view.insert(record.peer.clone())
            })?;
            authority.announce();
        }
        self.held.insert(cluster, record);
        Ok(())
    }

    /// Ends the trust in a peer: out of force first, then forgotten. Blocking.
    pub(crate) fn forget(
        &mut self,
        authority: &Authority,
        cluster: &ClusterId,
    ) -> Result<Option<TrustRecord>, ControllerError> {
        let Some(record) = self.held.remove(cluster) else {
            return Ok(None);
        };
        authority.store().update(|view| {
            view.remove(record.peer.trust_domain());
            Ok(())
        })?;
        authority.announce();
        self.records.remove(&RecordName::trust(cluster))?;
        Ok(Some(record))
    }

    /// Takes a bundle update of a peer; gives the sequence to acknowledge. Blocking.
    ///
    /// # Errors
    /// As [`envelope::open`]; nothing changed then.
    pub(crate) fn update(
        &mut self,
        authority: &Authority,
        cluster: &ClusterId,
        bytes: &[u8],
        now: UnixTime,
    ) -> Result<u64, ControllerError> {
        let held = self.held(cluster)?;
        match envelope::open(bytes, &held.peer, now)? {
            BundleUpdate::Unchanged { sequence } => Ok(sequence),
            BundleUpdate::Replace(peer) => {
                let sequence = peer.bundle().sequence();
                let record = TrustRecord { peer, ..held.clone() };
                self.put(authority, record)?;
                Ok(sequence)
            }
        }
    }

    /// Looks at a bundle update of a peer whose trust is pinned: it is acknowledged only if it is what is held.
    ///
    /// # Errors
    /// [`Reason::TrustPinned`], or as [`envelope::open`].
    pub(crate) fn check_pinned(
        &self,
        cluster: &ClusterId,
        bytes: &[u8],
        now: UnixTime,
    ) -> Result<u64, ControllerError> {
        let held = self.held(cluster)?;
        match envelope::open(bytes, &held.peer, now)? {
            BundleUpdate::Unchanged { sequence } => Ok(sequence),
            // The roots are those of the file; only keys removed earlier are added, which no file can name.
            BundleUpdate::Replace(peer) if peer.bundle().sequence() == held.peer.bundle().sequence() => {
                Ok(peer.bundle().sequence())
            }
            BundleUpdate::Replace(peer) => Err(ControllerError::refused(
                Reason::TrustPinned,
                format!(
                    "'{cluster}' announces bundle {}, trust is pinned to {}: update the bundle file of the Federation '{}', or set updates: Follow",
                    peer.bundle().sequence(),
                    held.peer.bundle().sequence(),
                    held.federation
                ),
            )),
        }
    }

    fn held(&self, cluster: &ClusterId) -> Result<&TrustRecord, ControllerError> {
        self.held.get(cluster).ok_or_else(|| {
            ControllerError::refused(
                Reason::UnknownTrustDomain,
                format!("no trust is held in '{cluster}'"),
            )
        })
    }
}
