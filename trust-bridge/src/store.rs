//! [`TrustStore`]: the present trust and identity of a process, hot-swappable.
//!
//! Owns the two pointers that TLS reads and a generation counter. Swapping never touches live connections: whoever holds tunnels
//! polls [`TrustStore::generation`] and verifies them again with [`TrustView::reverify`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::sign::CertifiedKey;
use rustls_pki_types::UnixTime;

use crate::leaf::{GatewayKey, IssuedLeaf, renew_at};
use crate::verify::claimed_id;
use crate::x509::Parsed;
use crate::{KeyHash, SpiffeId, TrustDomain, TrustError, TrustView};

/// What this gateway presents: its leaf, chain and key.
#[derive(Debug)]
pub struct OwnIdentity {
    id: SpiffeId,
    root_key: KeyHash,
    renew_at: UnixTime,
    not_after: i64,
    presented: Arc<CertifiedKey>,
    presented_on_join: Arc<CertifiedKey>,
}

impl OwnIdentity {
    /// Joins a leaf with the key it was issued for.
    ///
    /// # Errors
    /// [`TrustError::BadRequest`] if leaf and key do not match; [`TrustError::MalformedCertificate`].
    pub fn new(leaf: &IssuedLeaf, key: &GatewayKey) -> Result<Self, TrustError> {
        Self::with_id(claimed_id(&leaf.chain)?, leaf, key)
    }

    /// As [`OwnIdentity::new`] for a leaf whose id is known, or is meant to be wrong in a test.
    pub(crate) fn with_id(id: SpiffeId, leaf: &IssuedLeaf, key: &GatewayKey) -> Result<Self, TrustError> {
        let signing = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&key.private_der())
            .map_err(|e| TrustError::Crypto(e.to_string()))?;
        let presented = CertifiedKey::new(leaf.chain.clone(), Arc::clone(&signing));
        presented
            .keys_match()
            .map_err(|_| TrustError::BadRequest("the leaf was issued for another key"))?;
        let join_chain = leaf.chain.iter().chain(&leaf.roots).cloned().collect();
        Ok(Self {
            id,
            root_key: leaf.root_key,
            renew_at: renew_at(&leaf.chain[0])?,
            not_after: Parsed::parse(&leaf.chain[0])?.validity().not_after,
            presented: Arc::new(presented),
            presented_on_join: Arc::new(CertifiedKey::new(join_chain, signing)),
        })
    }

    /// Our id.
    #[must_use]
    pub const fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The root key our leaf was issued under: what tells old leaves and tunnels apart in a rotation.
    #[must_use]
    pub const fn root_key(&self) -> KeyHash {
        self.root_key
    }

    /// When to ask for the next leaf.
    #[must_use]
    pub const fn renew_at(&self) -> UnixTime {
        self.renew_at
    }

    /// Last second at which the leaf is valid, Unix time.
    #[must_use]
    pub const fn not_after(&self) -> i64 {
        self.not_after
    }

    /// Chain and key for control and data connections.
    pub(crate) fn presented(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.presented)
    }

    /// The same with the roots appended, for a joiner that holds only a root's fingerprint.
    pub(crate) fn presented_on_join(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.presented_on_join)
    }
}

/// The present [`TrustView`] and [`OwnIdentity`].
#[derive(Debug)]
pub struct TrustStore {
    view: ArcSwap<TrustView>,
    identity: ArcSwapOption<OwnIdentity>,
    generation: AtomicU64,
}

impl TrustStore {
    /// A store that trusts nobody and has no identity yet: every handshake fails until both are set.
    #[must_use]
    pub fn new(own: TrustDomain) -> Arc<Self> {
        Arc::new(Self {
            view: ArcSwap::from_pointee(TrustView::new(own)),
            identity: ArcSwapOption::empty(),
            generation: AtomicU64::new(0),
        })
    }

    /// The present view.
    #[must_use]
    pub fn view(&self) -> Arc<TrustView> {
        self.view.load_full()
    }

    /// The present identity.
    #[must_use]
    pub fn identity(&self) -> Option<Arc<OwnIdentity>> {
        self.identity.load_full()
    }

    /// Grows with every change of the view or the identity.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Changes the view atomically; on an error nothing changes. `change` may run again when writers race.
    ///
    /// # Errors
    /// What `change` gives.
    pub fn update(
        &self,
        mut change: impl FnMut(&mut TrustView) -> Result<(), TrustError>,
    ) -> Result<(), TrustError> {
        let mut result = Ok(());
        self.view.rcu(|held| {
            let mut view = TrustView::clone(held);
            result = change(&mut view);
            if result.is_ok() {
                Arc::new(view)
            } else {
                Arc::clone(held)
            }
        });
        if result.is_ok() {
            self.generation.fetch_add(1, Ordering::AcqRel);
        }
        result
    }

    /// Swaps the identity; new handshakes present it.
    ///
    /// # Errors
    /// [`TrustError::WrongTrustDomain`] for an identity of another trust domain than the store's.
    pub fn set_identity(&self, identity: OwnIdentity) -> Result<(), TrustError> {
        let own = self.view.load();
        if identity.id.trust_domain() != own.own() {
            let (expected, found) = (own.own().clone(), identity.id.trust_domain().clone());
            return Err(TrustError::WrongTrustDomain { expected, found });
        }
        self.identity.store(Some(Arc::new(identity)));
        self.generation.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }
}
