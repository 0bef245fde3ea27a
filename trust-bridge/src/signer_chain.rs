//! Chains of signing certificates: who may sign a bundle update or a join.
//!
//! Owns the check that a CA key stands under a root we hold. Unlike a gateway's chain there is no leaf in it, so no leaf can ever
//! sign. The order is fixed (each certificate is signed by the next, the last by a root), so no path has to be searched.

use rustls_pki_types::{CertificateDer, UnixTime};

use crate::bundle::Root;
use crate::verify::{check_removed, check_signer};
use crate::x509::{Parsed, check_count, verify_p256};
use crate::{Bundle, KeyHash, RootFingerprint, TrustError};

/// A CA key whose chain was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedSigner {
    spki: Vec<u8>,
    /// The root it stands under.
    pub root: RootFingerprint,
    /// That root's key.
    pub root_key: KeyHash,
}

impl VerifiedSigner {
    /// Verifies an ECDSA P-256 SHA-256 signature (ASN.1) of this CA key.
    ///
    /// # Errors
    /// [`TrustError::BadSignature`].
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), TrustError> {
        if verify_p256(&self.spki, message, signature) {
            Ok(())
        } else {
            Err(TrustError::BadSignature)
        }
    }
}

/// Verifies a chain of signing certificates, the signing one first, to a root of `bundle`. Every certificate must be a CA with
/// keyCertSign, valid now, within its signers' path lengths, and its key not removed.
///
/// # Errors
/// As for signers in [`crate::verify_chain`].
pub fn verify_signer_chain(
    chain: &[CertificateDer<'_>],
    now: UnixTime,
    bundle: &Bundle,
) -> Result<VerifiedSigner, TrustError> {
    check_count(chain)?;
    let certs = chain
        .iter()
        .map(|der| Parsed::parse(der))
        .collect::<Result<Vec<_>, _>>()?;
    chain.iter().try_for_each(check_form)?;
    certs.iter().try_for_each(check_signer)?;
    check_removed(&certs, bundle)?;
    for (below, cert) in certs.iter().enumerate() {
        check_place(cert, below, now)?;
        if let Some(root) = signing_root(cert, bundle)? {
            check_root(root, below, now)?;
            let (root, root_key) = (root.fingerprint(), root.key());
            return Ok(VerifiedSigner {
                spki: certs[0].spki().to_vec(),
                root,
                root_key,
            });
        }
        if !certs.get(below + 1).is_some_and(|next| cert.is_signed_by(next)) {
            break;
        }
    }
    Err(TrustError::UnknownIssuer(bundle.trust_domain().clone()))
}

/// webpki's parser is the stricter one: it also holds the two signature algorithms of a certificate against each other.
fn check_form(der: &CertificateDer<'_>) -> Result<(), TrustError> {
    webpki::EndEntityCert::try_from(der)
        .map(drop)
        .map_err(|e| TrustError::MalformedCertificate(e.to_string()))
}

/// `below` is the number of signing certificates between this one and a leaf: what pathLen counts.
fn check_place(cert: &Parsed<'_>, below: usize, now: UnixTime) -> Result<(), TrustError> {
    if exceeds(cert.constraints()?.1, below) {
        return Err(TrustError::PathTooLong);
    }
    if !cert.validity().holds(now) {
        return Err(TrustError::SignerExpired);
    }
    Ok(())
}

fn check_root(root: &Root, below: usize, now: UnixTime) -> Result<(), TrustError> {
    if exceeds(root.path_len(), below + 1) {
        return Err(TrustError::PathTooLong);
    }
    if !root.validity().holds(now) {
        return Err(TrustError::RootExpired(root.fingerprint()));
    }
    Ok(())
}

fn exceeds(path_len: Option<u32>, below: usize) -> bool {
    path_len.is_some_and(|allowed| u32::try_from(below).is_ok_and(|below| below > allowed))
}

/// The root of the bundle that signed `cert`.
fn signing_root<'b>(cert: &Parsed<'_>, bundle: &'b Bundle) -> Result<Option<&'b Root>, TrustError> {
    for root in bundle.roots() {
        if cert.is_signed_by(&Parsed::parse(root.der())?) {
            return Ok(Some(root));
        }
    }
    Ok(None)
}
