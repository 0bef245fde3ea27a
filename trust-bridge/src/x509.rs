//! One parsed certificate: what the verifiers ask of it.
//!
//! Owns the reading of certificates with bounds, and turns extensions into plain answers. Decides nothing about trust.

use rustls_pki_types::{CertificateDer, SubjectPublicKeyInfoDer, UnixTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, KeyUsage};
use x509_parser::prelude::FromDer;

use crate::error::quoted;
use crate::{KeyHash, TrustError};

/// Largest certificate that is read, in bytes: ours have about 700; a foreign root with long names and an RSA key fits.
pub const MAX_CERTIFICATE: usize = 8 * 1024;
/// Longest presented chain: leaf, issuing, cross-certificate, and up to three roots on a join.
pub const MAX_CHAIN: usize = 6;

/// A certificate, parsed to its last byte.
pub(crate) struct Parsed<'a> {
    cert: X509Certificate<'a>,
}

impl<'a> Parsed<'a> {
    /// Parses one DER certificate, refusing trailing bytes.
    pub(crate) fn parse(der: &'a [u8]) -> Result<Self, TrustError> {
        if der.len() > MAX_CERTIFICATE {
            return Err(TrustError::CertificateTooLarge {
                size: der.len(),
                max: MAX_CERTIFICATE,
            });
        }
        match X509Certificate::from_der(der) {
            Ok(([], cert)) => Ok(Self { cert }),
            Ok(_) => Err(TrustError::MalformedCertificate(
                "bytes follow the certificate".into(),
            )),
            Err(error) => Err(malformed(&error)),
        }
    }

    /// SubjectPublicKeyInfo, DER.
    pub(crate) fn spki(&self) -> &'a [u8] {
        self.cert.tbs_certificate.subject_pki.raw
    }

    /// Hash of [`Self::spki`].
    pub(crate) fn key_hash(&self) -> KeyHash {
        KeyHash::of_spki(self.spki())
    }

    /// basicConstraints: whether it is a CA, and its path length constraint.
    pub(crate) fn constraints(&self) -> Result<(bool, Option<u32>), TrustError> {
        let found = self.cert.basic_constraints().map_err(|e| malformed(&e))?;
        Ok(found.map_or((false, None), |bc| (bc.value.ca, bc.value.path_len_constraint)))
    }

    /// keyUsage and whether it is critical.
    pub(crate) fn key_usage(&self) -> Result<Option<(bool, &KeyUsage)>, TrustError> {
        let found = self.cert.key_usage().map_err(|e| malformed(&e))?;
        Ok(found.map(|ku| (ku.critical, ku.value)))
    }

    /// Every URI of the subjectAltName. A name that cannot be decoded makes the certificate malformed: it might be a URI.
    pub(crate) fn uri_sans(&self) -> Result<Vec<&'a str>, TrustError> {
        let Some(san) = self.cert.subject_alternative_name().map_err(|e| malformed(&e))? else {
            return Ok(Vec::new());
        };
        let mut uris = Vec::new();
        for name in &san.value.general_names {
            match name {
                GeneralName::URI(uri) => uris.push(*uri),
                GeneralName::Invalid(..) => {
                    return Err(TrustError::MalformedCertificate(
                        "a subject alternative name is not readable".into(),
                    ));
                }
                _ => {}
            }
        }
        Ok(uris)
    }

    /// notBefore and notAfter in Unix seconds.
    pub(crate) fn validity(&self) -> Validity {
        let validity = self.cert.validity();
        Validity {
            not_before: validity.not_before.timestamp(),
            not_after: validity.not_after.timestamp(),
        }
    }

    /// Whether `signer` is named as the issuer and its ECDSA P-256 key, the only kind of our CAs, made the signature.
    pub(crate) fn is_signed_by(&self, signer: &Parsed<'_>) -> bool {
        self.cert.issuer().as_raw() == signer.cert.subject().as_raw()
            && verify_p256(
                signer.spki(),
                self.cert.tbs_certificate.as_ref(),
                &self.cert.signature_value.data,
            )
    }

    /// The parsed public key.
    pub(crate) fn public_key(&self) -> Option<x509_parser::public_key::PublicKey<'_>> {
        self.cert.public_key().parsed().ok()
    }
}

/// Whether `signature` (ASN.1) over `message` is of the ECDSA P-256 key `spki`, with SHA-256.
pub(crate) fn verify_p256(spki: &[u8], message: &[u8], signature: &[u8]) -> bool {
    webpki::RawPublicKeyEntity::try_from(&SubjectPublicKeyInfoDer::from(spki)).is_ok_and(|key| {
        key.verify_signature(webpki::aws_lc_rs::ECDSA_P256_SHA256, message, signature)
            .is_ok()
    })
}

/// A validity in Unix seconds, both ends included (RFC 5280, 4.1.2.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Validity {
    pub(crate) not_before: i64,
    pub(crate) not_after: i64,
}

impl Validity {
    /// Whether `now` lies within; no tolerance.
    pub(crate) fn holds(&self, now: UnixTime) -> bool {
        let now = seconds(now);
        self.not_before <= now && now <= self.not_after
    }
}

/// Unix seconds of `now`, saturating far beyond any certificate.
pub(crate) fn seconds(now: UnixTime) -> i64 {
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
}

/// Checks the number of presented certificates; the size of each is checked where it is parsed.
pub(crate) const fn check_count(chain: &[CertificateDer<'_>]) -> Result<(), TrustError> {
    match chain.len() {
        0 => Err(TrustError::NoCertificate),
        count if count > MAX_CHAIN => Err(TrustError::ChainTooLong {
            count,
            max: MAX_CHAIN,
        }),
        _ => Ok(()),
    }
}

fn malformed(error: &dyn std::fmt::Display) -> TrustError {
    TrustError::MalformedCertificate(quoted(&error.to_string()))
}
