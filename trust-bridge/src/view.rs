//! [`TrustView`]: whom this cluster trusts, as one immutable value.
//!
//! Owns the choice of the bundle: by the leaf's trust domain alone, from the one peer that lists it, never ours, never pooled.

use std::collections::BTreeMap;

use rustls_pki_types::{CertificateDer, UnixTime};
use serde::{Deserialize, Serialize};

use crate::verify::{VerifiedChain, claimed_id, reverify_roots, verify_chain};
use crate::{Bundle, ClusterId, TrustDomain, TrustError};

/// What we trust one peer with: its own trust domain and nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Bundle", into = "Bundle")]
pub struct PeerTrust {
    cluster: ClusterId,
    bundle: Bundle,
}

impl PeerTrust {
    /// Trust in the cluster that the bundle's trust domain names.
    ///
    /// # Errors
    /// [`TrustError::NotStraitTrustDomain`].
    pub fn new(bundle: Bundle) -> Result<Self, TrustError> {
        Ok(Self {
            cluster: bundle.trust_domain().cluster_id()?,
            bundle,
        })
    }

    /// The peer's ClusterId.
    #[must_use]
    pub const fn cluster(&self) -> &ClusterId {
        &self.cluster
    }

    /// The peer's roots.
    #[must_use]
    pub const fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// The peer's trust domain.
    #[must_use]
    pub const fn trust_domain(&self) -> &TrustDomain {
        self.bundle.trust_domain()
    }
}

impl TryFrom<Bundle> for PeerTrust {
    type Error = TrustError;

    fn try_from(bundle: Bundle) -> Result<Self, TrustError> {
        Self::new(bundle)
    }
}

impl From<PeerTrust> for Bundle {
    fn from(peer: PeerTrust) -> Self {
        peer.bundle
    }
}

/// A peer's gateway whose chain was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedPeer {
    /// The peer's ClusterId.
    pub cluster: ClusterId,
    /// The chain's facts; `chain.id.trust_domain()` is the peer's key.
    pub chain: VerifiedChain,
}

/// Our own trust domain and the peers we trust, each with its bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustView {
    own: TrustDomain,
    peers: BTreeMap<TrustDomain, PeerTrust>,
}

impl TrustView {
    /// A view that trusts nobody.
    #[must_use]
    pub const fn new(own: TrustDomain) -> Self {
        Self {
            own,
            peers: BTreeMap::new(),
        }
    }

    /// Our own trust domain.
    #[must_use]
    pub const fn own(&self) -> &TrustDomain {
        &self.own
    }

    /// Trusts a peer, or replaces what was held for its trust domain. A cluster that came back with a new trust domain takes the
    /// place of the old one only after [`TrustView::remove`].
    ///
    /// # Errors
    /// [`TrustError::OwnTrustDomain`]: nobody else may ever speak for us. [`TrustError::ClusterIdTaken`]: connections are kept by
    /// ClusterId, so two trust domains may never share one.
    pub fn insert(&mut self, peer: PeerTrust) -> Result<(), TrustError> {
        if *peer.trust_domain() == self.own {
            return Err(TrustError::OwnTrustDomain(self.own.clone()));
        }
        let same_id =
            |other: &PeerTrust| other.cluster == peer.cluster && other.trust_domain() != peer.trust_domain();
        if self.own.cluster_id().is_ok_and(|own| own == peer.cluster) || self.peers.values().any(same_id) {
            return Err(TrustError::ClusterIdTaken(peer.cluster));
        }
        self.peers.insert(peer.trust_domain().clone(), peer);
        Ok(())
    }

    /// Ends the trust in a peer.
    pub fn remove(&mut self, domain: &TrustDomain) -> Option<PeerTrust> {
        self.peers.remove(domain)
    }

    /// What is held for a trust domain.
    #[must_use]
    pub fn peer(&self, domain: &TrustDomain) -> Option<&PeerTrust> {
        self.peers.get(domain)
    }

    /// All peers, in the order of their trust domains.
    pub fn peers(&self) -> impl Iterator<Item = &PeerTrust> {
        self.peers.values()
    }

    /// Verifies what a peer presented, with the bundle of the trust domain its leaf names.
    ///
    /// # Errors
    /// [`TrustError::OwnTrustDomain`], [`TrustError::UnknownTrustDomain`], or as [`verify_chain`].
    pub fn verify(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<VerifiedPeer, TrustError> {
        let peer = self.claimed(chain)?;
        Ok(VerifiedPeer {
            cluster: peer.cluster.clone(),
            chain: verify_chain(chain, now, &peer.bundle)?,
        })
    }

    /// As [`TrustView::verify`], and the peer must be in trust domain `expected`.
    ///
    /// # Errors
    /// [`TrustError::WrongTrustDomain`], whether we know the other domain or not, or as [`TrustView::verify`].
    pub fn verify_pinned(
        &self,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
        expected: &TrustDomain,
    ) -> Result<VerifiedPeer, TrustError> {
        let found = claimed_id(chain)?.trust_domain().clone();
        if found != *expected && found != self.own {
            return Err(TrustError::WrongTrustDomain {
                expected: expected.clone(),
                found,
            });
        }
        self.verify(chain, now)
    }

    /// Verifies the stored chain of a live tunnel against the roots held now; expiry of the leaf does not count.
    ///
    /// # Errors
    /// As [`TrustView::verify`]; any error ends the tunnel.
    pub fn reverify(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<VerifiedPeer, TrustError> {
        let peer = self.claimed(chain)?;
        Ok(VerifiedPeer {
            cluster: peer.cluster.clone(),
            chain: reverify_roots(chain, now, &peer.bundle)?,
        })
    }

    /// The peer that a leaf claims to belong to.
    fn claimed(&self, chain: &[CertificateDer<'_>]) -> Result<&PeerTrust, TrustError> {
        let domain = claimed_id(chain)?.trust_domain().clone();
        if domain == self.own {
            return Err(TrustError::OwnTrustDomain(domain));
        }
        self.peers
            .get(&domain)
            .ok_or(TrustError::UnknownTrustDomain(domain))
    }
}
