//! The gateway's side of issuing: its key, its request, the leaf it got, and when to renew.
//!
//! Owns the lifetimes and their arithmetic. The private key never leaves the gateway; only its request does.

use std::fmt;
use std::time::Duration;

use rcgen::{
    CertificateParams, CertificateSigningRequestParams, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData,
};
use rustls_pki_types::{
    CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime,
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use crate::x509::Parsed;
use crate::{KeyHash, SecretPem, TrustError};

/// How long a leaf lasts unless asked otherwise: traffic survives half a day without a control plane.
pub const DEFAULT_LEAF_TTL: Duration = Duration::from_secs(24 * 3600);
/// Shortest lifetime: certificates count whole seconds, and a test wants to see several renewals.
pub const MIN_LEAF_TTL: Duration = Duration::from_secs(2);
/// Longest lifetime: beyond a week a stolen key outlives every alarm.
pub const MAX_LEAF_TTL: Duration = Duration::from_secs(7 * 24 * 3600);
/// How far notBefore lies before issuing, for the clocks of verifiers, which have no tolerance.
pub const BACKDATE: Duration = Duration::from_secs(300);

/// A gateway's private key (ECDSA P-256).
pub struct GatewayKey {
    pub(crate) pair: KeyPair,
}

impl GatewayKey {
    /// Makes a new key.
    ///
    /// # Errors
    /// [`TrustError::Crypto`].
    pub fn generate() -> Result<Self, TrustError> {
        Ok(Self {
            pair: generate_pair()?,
        })
    }

    /// Reads a stored key.
    ///
    /// # Errors
    /// [`TrustError::DamagedRecord`].
    pub fn from_pem(pem: &SecretPem) -> Result<Self, TrustError> {
        Ok(Self {
            pair: read_pair(pem)?,
        })
    }

    /// For the gateway's own record.
    #[must_use]
    pub fn to_pem(&self) -> SecretPem {
        SecretPem::new(self.pair.serialize_pem())
    }

    /// The SubjectPublicKeyInfo, DER.
    #[must_use]
    pub fn spki(&self) -> Vec<u8> {
        self.pair.subject_public_key_info()
    }

    /// A signing request: proves possession of the key; the issuer takes nothing else from it.
    ///
    /// # Errors
    /// [`TrustError::Crypto`].
    pub fn csr(&self) -> Result<CertificateSigningRequestDer<'static>, TrustError> {
        let request = CertificateParams::default()
            .serialize_request(&self.pair)
            .map_err(crypto)?;
        Ok(request.into())
    }

    pub(crate) fn private_der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.pair.serialize_der()))
    }
}

impl Drop for GatewayKey {
    fn drop(&mut self) {
        self.pair.zeroize();
    }
}

impl fmt::Debug for GatewayKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GatewayKey(redacted)")
    }
}

/// The public key that a leaf is asked for. Only ECDSA P-256 is accepted.
#[derive(Debug, Clone)]
pub struct LeafRequest {
    pub(crate) spki: rcgen::SubjectPublicKeyInfo,
}

impl LeafRequest {
    /// From a signing request whose own signature verifies.
    ///
    /// # Errors
    /// [`TrustError::BadRequest`].
    pub fn from_csr(csr: &CertificateSigningRequestDer<'_>) -> Result<Self, TrustError> {
        let parsed = CertificateSigningRequestParams::from_der(csr)
            .map_err(|_| TrustError::BadRequest("it cannot be read, or its own signature does not verify"))?;
        Self::from_spki(&parsed.public_key.subject_public_key_info())
    }

    /// From a public key of our own process, where possession needs no proof.
    ///
    /// # Errors
    /// [`TrustError::BadRequest`].
    pub fn from_spki(spki: &[u8]) -> Result<Self, TrustError> {
        let spki = rcgen::SubjectPublicKeyInfo::from_der(spki)
            .map_err(|_| TrustError::BadRequest("its public key cannot be read"))?;
        if spki.algorithm() != &PKCS_ECDSA_P256_SHA256 {
            return Err(TrustError::BadRequest("its key is not ECDSA P-256"));
        }
        Ok(Self { spki })
    }
}

/// A leaf and what is presented with it. Holds no secret; a gateway keeps it beside its key, so that it can restart while the
/// control plane is away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuedLeaf {
    /// Leaf first, then issuing, then, during a rotation, the cross-certificate.
    #[serde(with = "der_list")]
    pub chain: Vec<CertificateDer<'static>>,
    /// The cluster's roots, presented in addition on a join only.
    #[serde(with = "der_list")]
    pub roots: Vec<CertificateDer<'static>>,
    /// The root key that the leaf was issued under.
    pub root_key: KeyHash,
}

/// Certificates in a record: a list of base64.
mod der_list {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use rustls_pki_types::CertificateDer;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(list: &[CertificateDer<'_>], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(list.iter().map(|der| STANDARD.encode(der)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Vec<CertificateDer<'static>>, D::Error> {
        Vec::<String>::deserialize(from)?
            .iter()
            .map(|text| {
                STANDARD
                    .decode(text)
                    .map(CertificateDer::from)
                    .map_err(de::Error::custom)
            })
            .collect()
    }
}

/// When a leaf should be renewed: at half of its life, not counting the backdating.
///
/// # Errors
/// [`TrustError::MalformedCertificate`].
pub fn renew_at(leaf: &CertificateDer<'_>) -> Result<UnixTime, TrustError> {
    let validity = Parsed::parse(leaf)?.validity();
    let backdate = i64::try_from(BACKDATE.as_secs()).unwrap_or(0);
    let issued = validity
        .not_before
        .saturating_add(backdate)
        .min(validity.not_after);
    let half = issued + (validity.not_after - issued) / 2;
    Ok(UnixTime::since_unix_epoch(Duration::from_secs(
        u64::try_from(half).unwrap_or(0),
    )))
}

/// Makes an ECDSA P-256 key.
pub(crate) fn generate_pair() -> Result<KeyPair, TrustError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(crypto)
}

/// Reads an ECDSA P-256 key.
pub(crate) fn read_pair(pem: &SecretPem) -> Result<KeyPair, TrustError> {
    KeyPair::from_pkcs8_pem_and_sign_algo(pem.expose(), &PKCS_ECDSA_P256_SHA256)
        .map_err(|_| TrustError::DamagedRecord("a private key cannot be read".into()))
}

pub(crate) fn crypto(error: rcgen::Error) -> TrustError {
    TrustError::Crypto(error.to_string())
}
