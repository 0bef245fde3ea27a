//! [`CaRecord`]: the certificate authority of one cluster.
//!
//! Owns the cluster's roots, what is published of them and what is issued. A record: the controller persists it (fsynced, 0600)
//! after every method that takes `&mut self`, before anything made by it leaves the process.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rustls_pki_types::{CertificateDer, UnixTime};
use serde::{Deserialize, Serialize};

use crate::bundle::{DEFAULT_REFRESH_HINT, Root};
use crate::ca_keys::{RootSet, read_cert};
use crate::leaf::{IssuedLeaf, LeafRequest, MAX_LEAF_TTL, MIN_LEAF_TTL};
use crate::rotation::{Facts, Rotation, Step};
use crate::{
    Bundle, ClusterId, InstanceId, KeyHash, RootFingerprint, RootPin, SpiffeId, TrustDomain, TrustError,
};

/// Version of the stored form.
const RECORD_VERSION: u8 = 1;

/// A cluster's CA with all its keys. `Debug` shows no key.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaRecord {
    version: u8,
    trust_domain: TrustDomain,
    refresh_hint: u32,
    rotation: Rotation,
    sets: BTreeMap<KeyHash, RootSet>,
    /// The old root's certificate for the new one, while the rotation issues.
    cross: Option<String>,
}

impl CaRecord {
    /// Makes a new cluster: a root, an issuing certificate and the trust domain that follows from the root.
    ///
    /// # Errors
    /// [`TrustError::Crypto`].
    pub fn create(cluster: &ClusterId, now: UnixTime) -> Result<Self, TrustError> {
        let (trust_domain, set) = RootSet::first(cluster, now)?;
        let key = set.key()?;
        Ok(Self {
            version: RECORD_VERSION,
            trust_domain,
            refresh_hint: DEFAULT_REFRESH_HINT,
            rotation: Rotation::new(key),
            sets: BTreeMap::from([(key, set)]),
            cross: None,
        })
    }

    /// Checks a record that was read: version, keys, and that every published root is there.
    ///
    /// # Errors
    /// [`TrustError::UnsupportedVersion`], [`TrustError::DamagedRecord`].
    pub fn check(&self) -> Result<(), TrustError> {
        if self.version != RECORD_VERSION {
            return Err(TrustError::UnsupportedVersion {
                what: "the CA record",
                found: self.version,
                known: RECORD_VERSION,
            });
        }
        self.trust_domain.cluster_id()?;
        for (key, set) in &self.sets {
            set.sign(b"check")?;
            if set.key()? != *key {
                return Err(TrustError::DamagedRecord(
                    "a root is filed under another key".into(),
                ));
            }
        }
        self.bundle().map(drop)
    }

    /// The cluster's trust domain.
    #[must_use]
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Where a rotation stands.
    #[must_use]
    pub const fn rotation(&self) -> &Rotation {
        &self.rotation
    }

    /// What peers may hold of us now.
    ///
    /// # Errors
    /// [`TrustError::DamagedRecord`].
    pub fn bundle(&self) -> Result<Bundle, TrustError> {
        let roots = self
            .roots()?
            .iter()
            .map(|der| Root::from_der(der))
            .collect::<Result<_, _>>()?;
        Bundle::new(
            self.trust_domain.clone(),
            self.rotation.sequence(),
            Some(self.refresh_hint),
            roots,
            self.rotation.removed().clone(),
        )
    }

    /// What an invite of this cluster pins: the root that issues now.
    ///
    /// # Errors
    /// [`TrustError::DamagedRecord`].
    pub fn pin(&self) -> Result<RootPin, TrustError> {
        let root = RootFingerprint::of_der(&self.current()?.root_der()?);
        Ok(RootPin {
            trust_domain: self.trust_domain.clone(),
            root,
        })
    }

    /// Issues a gateway's leaf. The issuer alone decides what is in it.
    ///
    /// # Errors
    /// [`TrustError::InvalidTtl`] outside 2 s to 7 days, [`TrustError::DamagedRecord`], [`TrustError::Crypto`].
    pub fn issue(
        &self,
        instance: &InstanceId,
        request: &LeafRequest,
        ttl: Duration,
        now: UnixTime,
    ) -> Result<IssuedLeaf, TrustError> {
        if !(MIN_LEAF_TTL..=MAX_LEAF_TTL).contains(&ttl) {
            let (seconds, min, max) = (ttl.as_secs(), MIN_LEAF_TTL.as_secs(), MAX_LEAF_TTL.as_secs());
            return Err(TrustError::InvalidTtl { seconds, min, max });
        }
        let id = SpiffeId::gateway(&self.trust_domain, instance);
        let mut chain = vec![self.current()?.issue(&id, request, ttl, now)?];
        chain.extend(self.signing_chain()?);
        Ok(IssuedLeaf {
            chain,
            roots: self.roots()?,
            root_key: self.rotation.current(),
        })
    }

    /// The certificates above a leaf: issuing, then the cross-certificate while there is one.
    ///
    /// # Errors
    /// [`TrustError::DamagedRecord`].
    pub fn signing_chain(&self) -> Result<Vec<CertificateDer<'static>>, TrustError> {
        let mut chain = vec![self.current()?.issuing_der()?];
        if let Some(cross) = &self.cross {
            chain.push(read_cert(cross)?);
        }
        Ok(chain)
    }

    /// Signs a message with the issuing CA key (ECDSA P-256, SHA-256, ASN.1). The caller separates domains by a prefix.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, TrustError> {
        self.current()?.sign(message)
    }

    /// Renews the issuing certificate under the same root when half of its year is over. Whether it did.
    ///
    /// # Errors
    /// [`TrustError::DamagedRecord`], [`TrustError::Crypto`].
    pub fn renew_issuing(&mut self, now: UnixTime) -> Result<bool, TrustError> {
        let domain = self.trust_domain.clone();
        let key = self.rotation.current();
        self.sets
            .get_mut(&key)
            .ok_or_else(|| missing(key))?
            .renew_issuing(&domain, now)
    }

    /// Begins a planned rotation: makes and publishes the next root.
    ///
    /// # Errors
    /// [`TrustError::WrongPhase`] while one runs; [`TrustError::Crypto`].
    pub fn begin_rotation(&mut self, now: UnixTime) -> Result<(), TrustError> {
        let next = RootSet::further(&self.trust_domain, now)?;
        let key = next.key()?;
        self.rotation.begin(key, now)?;
        self.sets.insert(key, next);
        Ok(())
    }

    /// A peer holds our bundle of `sequence`.
    ///
    /// # Errors
    /// As [`Rotation::ack`].
    pub fn ack(&mut self, peer: &TrustDomain, sequence: u64) -> Result<(), TrustError> {
        self.rotation.ack(peer, sequence)
    }

    /// A Federation ended.
    pub fn forget_peer(&mut self, peer: &TrustDomain) {
        self.rotation.forget(peer);
    }

    /// Takes the step that is due, if any, and says which.
    ///
    /// # Errors
    /// [`TrustError::DamagedRecord`], [`TrustError::Crypto`]; the record is unchanged then.
    pub fn advance(&mut self, facts: &Facts<'_>, now: UnixTime) -> Result<Option<Step>, TrustError> {
        match self.rotation.due(facts, now) {
            Some(step) => self.follow(step, now).map(|()| Some(step)),
            None => Ok(None),
        }
    }

    /// Takes the next step by an operator's order, whoever lags.
    ///
    /// # Errors
    /// [`TrustError::WrongPhase`] when no rotation runs; else as [`CaRecord::advance`].
    pub fn force_step(&mut self, now: UnixTime) -> Result<Step, TrustError> {
        let step = self
            .rotation
            .next_step()
            .ok_or(TrustError::WrongPhase("no rotation is running"))?;
        self.follow(step, now)?;
        Ok(step)
    }

    /// Removes a root at once because its key is lost to somebody. Gives the peers that must join again.
    ///
    /// # Errors
    /// [`TrustError::NoSuchRoot`], [`TrustError::Crypto`].
    pub fn remove_root(
        &mut self,
        key: KeyHash,
        peers: &BTreeSet<TrustDomain>,
        now: UnixTime,
    ) -> Result<Vec<TrustDomain>, TrustError> {
        let replacement = if self.rotation.needs_replacement(key) {
            let set = RootSet::further(&self.trust_domain, now)?;
            Some((set.key()?, set))
        } else {
            None
        };
        let rejoin = self
            .rotation
            .remove(key, replacement.as_ref().map(|(key, _)| *key), peers)?;
        self.sets.extend(replacement);
        self.cross = None;
        self.drop_unpublished();
        Ok(rejoin)
    }

    fn follow(&mut self, step: Step, now: UnixTime) -> Result<(), TrustError> {
        let cross = match step {
            Step::IssueFrom(next) => {
                let next = self.sets.get(&next).ok_or_else(|| missing(next))?;
                Some(self.current()?.cross_sign(&self.trust_domain, next, now)?)
            }
            Step::Retire(_) => None,
        };
        self.rotation.take(step, now)?;
        self.cross = cross;
        self.drop_unpublished();
        Ok(())
    }

    /// Keys of roots that are out of the bundle are wiped.
    fn drop_unpublished(&mut self) {
        let published: BTreeSet<KeyHash> = self.rotation.published().collect();
        self.sets.retain(|key, _| published.contains(key));
    }

    /// The keys that issue now.
    pub(crate) fn current(&self) -> Result<&RootSet, TrustError> {
        let key = self.rotation.current();
        self.sets.get(&key).ok_or_else(|| missing(key))
    }

    fn roots(&self) -> Result<Vec<CertificateDer<'static>>, TrustError> {
        self.rotation
            .published()
            .map(|key| self.sets.get(&key).ok_or_else(|| missing(key))?.root_der())
            .collect()
    }
}

fn missing(key: KeyHash) -> TrustError {
    TrustError::DamagedRecord(format!("root {key} is missing"))
}
