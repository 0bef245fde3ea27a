//! [`Bundle`]: the roots of ONE trust domain, with its sequence, refresh hint and removed keys.
//!
//! Owns the invariants of a bundle: every root is a signing certificate, none has a removed key, none is there twice, all
//! is bounded. Bundles of different domains are never merged; there is no function that could.

use std::collections::BTreeSet;

use rustls_pki_types::{CertificateDer, TrustAnchor};
use serde::{Deserialize, Serialize};

use crate::x509::{Parsed, Validity};
use crate::{KeyHash, RootFingerprint, TrustDomain, TrustError, spiffe_json};

/// Most roots in one bundle: three are enough for a rotation; foreign domains get some room.
pub const MAX_ROOTS: usize = 16;
/// Most removed keys in one bundle (8 KiB of hashes): a rotation a year for two centuries, or one a day for eight months.
pub const MAX_REMOVED: usize = 256;
/// Refresh hint of our own bundles in seconds: the default polling interval of the SPIFFE standard.
pub const DEFAULT_REFRESH_HINT: u32 = 300;

/// One root certificate, parsed once.
#[derive(Debug, Clone)]
pub struct Root {
    der: CertificateDer<'static>,
    fingerprint: RootFingerprint,
    key: KeyHash,
    path_len: Option<u32>,
    validity: Validity,
    anchor: TrustAnchor<'static>,
}

impl PartialEq for Root {
    fn eq(&self, other: &Self) -> bool {
        self.der == other.der
    }
}

impl Eq for Root {}

impl Root {
    /// Reads a root from DER.
    ///
    /// # Errors
    /// [`TrustError::MalformedCertificate`], [`TrustError::CertificateTooLarge`], or [`TrustError::RootNotSigner`] when cA or
    /// keyCertSign is missing.
    pub fn from_der(der: &[u8]) -> Result<Self, TrustError> {
        let parsed = Parsed::parse(der)?;
        let fingerprint = RootFingerprint::of_der(der);
        let (is_ca, path_len) = parsed.constraints()?;
        let signs = parsed
            .key_usage()?
            .is_some_and(|(_, usage)| usage.key_cert_sign());
        if !is_ca || !signs {
            return Err(TrustError::RootNotSigner(fingerprint));
        }
        let der = CertificateDer::from(der.to_vec());
        let anchor = webpki::anchor_from_trusted_cert(&der)
            .map_err(|e| TrustError::MalformedCertificate(e.to_string()))?
            .to_owned();
        let (key, validity) = (parsed.key_hash(), parsed.validity());
        Ok(Self {
            fingerprint,
            key,
            path_len,
            validity,
            anchor,
            der,
        })
    }

    /// The certificate.
    #[must_use]
    pub const fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// SHA-256 of the certificate.
    #[must_use]
    pub const fn fingerprint(&self) -> RootFingerprint {
        self.fingerprint
    }

    /// SHA-256 of its SubjectPublicKeyInfo.
    #[must_use]
    pub const fn key(&self) -> KeyHash {
        self.key
    }

    /// notAfter in Unix seconds.
    #[must_use]
    pub const fn not_after(&self) -> i64 {
        self.validity.not_after
    }

    pub(crate) const fn anchor(&self) -> &TrustAnchor<'static> {
        &self.anchor
    }

    pub(crate) const fn path_len(&self) -> Option<u32> {
        self.path_len
    }

    pub(crate) const fn validity(&self) -> Validity {
        self.validity
    }
}

/// The roots of one trust domain. No roots means: everything of this domain is revoked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BundleRecord", into = "BundleRecord")]
pub struct Bundle {
    trust_domain: TrustDomain,
    sequence: u64,
    refresh_hint: Option<u32>,
    roots: Vec<Root>,
    removed: BTreeSet<KeyHash>,
}

impl Bundle {
    /// Makes a bundle. A root that is there twice is kept once; the order of roots means nothing.
    ///
    /// # Errors
    /// [`TrustError::BundleTooLarge`], or [`TrustError::RemovedRootListed`].
    pub fn new(
        trust_domain: TrustDomain,
        sequence: u64,
        refresh_hint: Option<u32>,
        roots: Vec<Root>,
        removed: BTreeSet<KeyHash>,
    ) -> Result<Self, TrustError> {
        bounded("roots", roots.len(), MAX_ROOTS)?;
        bounded("removed keys", removed.len(), MAX_REMOVED)?;
        let mut kept: Vec<Root> = Vec::with_capacity(roots.len());
        for root in roots {
            if removed.contains(&root.key) {
                return Err(TrustError::RemovedRootListed(root.fingerprint));
            }
            if !kept.contains(&root) {
                kept.push(root);
            }
        }
        // One order, whatever a rotation does, so that equal bundles are equal.
        kept.sort_by_key(Root::fingerprint);
        Ok(Self {
            trust_domain,
            sequence,
            refresh_hint,
            roots: kept,
            removed,
        })
    }

    /// Whose roots.
    #[must_use]
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Grows with every change.
    #[must_use]
    pub const fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Seconds after which a consumer should ask again.
    #[must_use]
    pub const fn refresh_hint(&self) -> Option<u32> {
        self.refresh_hint
    }

    /// The roots, at most [`MAX_ROOTS`].
    #[must_use]
    pub fn roots(&self) -> &[Root] {
        &self.roots
    }

    /// Keys that are refused anywhere in a chain, at most [`MAX_REMOVED`].
    #[must_use]
    pub const fn removed(&self) -> &BTreeSet<KeyHash> {
        &self.removed
    }

    /// The root with this fingerprint.
    #[must_use]
    pub fn root(&self, fingerprint: &RootFingerprint) -> Option<&Root> {
        self.roots.iter().find(|root| root.fingerprint == *fingerprint)
    }

    /// The same bundle with `earlier` removals added: a removal is never forgotten.
    ///
    /// # Errors
    /// As [`Bundle::new`]: a root whose key was removed earlier cannot come back.
    pub fn with_removed(self, earlier: &BTreeSet<KeyHash>) -> Result<Self, TrustError> {
        let removed = self.removed.union(earlier).copied().collect();
        Self::new(
            self.trust_domain,
            self.sequence,
            self.refresh_hint,
            self.roots,
            removed,
        )
    }
}

/// How a bundle is kept in a record: its domain, the SPIFFE document and what that cannot hold.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BundleRecord {
    trust_domain: TrustDomain,
    document: String,
    #[serde(default)]
    removed: BTreeSet<KeyHash>,
}

impl From<Bundle> for BundleRecord {
    fn from(bundle: Bundle) -> Self {
        let document = spiffe_json::to_json(&bundle);
        Self {
            trust_domain: bundle.trust_domain,
            document,
            removed: bundle.removed,
        }
    }
}

impl TryFrom<BundleRecord> for Bundle {
    type Error = TrustError;

    fn try_from(record: BundleRecord) -> Result<Self, TrustError> {
        spiffe_json::from_json(record.trust_domain, record.document.as_bytes())?.with_removed(&record.removed)
    }
}

/// Refuses more than `max` of something.
pub(crate) const fn bounded(what: &'static str, found: usize, max: usize) -> Result<(), TrustError> {
    if found > max {
        return Err(TrustError::BundleTooLarge { what, found, max });
    }
    Ok(())
}
