//! One root of a cluster with its issuing certificate: the key material and what it signs.
//!
//! Owns the certificate profiles: root (pathLen 2), cross-certificate (pathLen 1), issuing (pathLen 0), gateway leaf. Does not
//! know which root issues now; `ca.rs` does.

use std::time::Duration;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, SigningKey,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, UnixTime};
use serde::{Deserialize, Serialize};
use x509_parser::time::ASN1Time;
use zeroize::Zeroize;

use crate::leaf::{BACKDATE, LeafRequest, crypto, generate_pair, read_pair};
use crate::x509::{Parsed, seconds};
use crate::{ClusterId, KeyHash, SecretPem, SpiffeId, TrustDomain, TrustError};

/// How long a root lasts: ten years, far beyond the rotations that replace it.
const ROOT_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// How long an issuing certificate lasts: a year; it is renewed under the same root at half of it.
const ISSUING_LIFE: Duration = Duration::from_secs(365 * 24 * 3600);
/// Bytes of a serial number: 127 random bits, within the 20 bytes of RFC 5280, 4.1.2.2.
const SERIAL_LEN: usize = 16;

/// A root and its issuing certificate, with both keys.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RootSet {
    root: String,
    root_key: SecretPem,
    issuing: String,
    issuing_key: SecretPem,
}

impl RootSet {
    /// Makes the first root of a cluster, and with it the cluster's trust domain.
    pub(crate) fn first(cluster: &ClusterId, now: UnixTime) -> Result<(TrustDomain, Self), TrustError> {
        let pair = generate_pair()?;
        let domain = TrustDomain::for_root(cluster, &pair.subject_public_key_info());
        let set = Self::from_root_pair(&domain, pair, now)?;
        Ok((domain, set))
    }

    /// Makes a further root of `domain`.
    pub(crate) fn further(domain: &TrustDomain, now: UnixTime) -> Result<Self, TrustError> {
        Self::from_root_pair(domain, generate_pair()?, now)
    }

    fn from_root_pair(domain: &TrustDomain, mut pair: KeyPair, now: UnixTime) -> Result<Self, TrustError> {
        let root = ca_params(domain, &pair, "root", 2, now, ROOT_LIFE)?
            .self_signed(&pair)
            .map_err(crypto)?;
        let root_key = SecretPem::new(pair.serialize_pem());
        pair.zeroize();
        let (issuing, issuing_key) = make_issuing(domain, &root.pem(), &root_key, now)?;
        Ok(Self {
            root: root.pem(),
            root_key,
            issuing,
            issuing_key,
        })
    }

    pub(crate) fn root_der(&self) -> Result<CertificateDer<'static>, TrustError> {
        read_cert(&self.root)
    }

    pub(crate) fn issuing_der(&self) -> Result<CertificateDer<'static>, TrustError> {
        read_cert(&self.issuing)
    }

    /// Hash of the root's key.
    pub(crate) fn key(&self) -> Result<KeyHash, TrustError> {
        Ok(Parsed::parse(&self.root_der()?)?.key_hash())
    }

    /// Renews the issuing certificate, with a new key, when half of its life is over. Whether it did.
    pub(crate) fn renew_issuing(&mut self, domain: &TrustDomain, now: UnixTime) -> Result<bool, TrustError> {
        let issuing = self.issuing_der()?;
        if seconds(now) < seconds(crate::leaf::renew_at(&issuing)?) {
            return Ok(false);
        }
        (self.issuing, self.issuing_key) = make_issuing(domain, &self.root, &self.root_key, now)?;
        Ok(true)
    }

    /// The certificate by which this root vouches for `other`'s root: same subject and key, pathLen 1.
    pub(crate) fn cross_sign(
        &self,
        domain: &TrustDomain,
        other: &Self,
        now: UnixTime,
    ) -> Result<String, TrustError> {
        let mut other_pair = read_pair(&other.root_key)?;
        let life = Duration::from_secs(remaining(&self.root_der()?, now)?.min(ROOT_LIFE.as_secs()));
        let params = ca_params(domain, &other_pair, "root", 1, now, life)?;
        let cross = params
            .signed_by(&other_pair, &self.root_signer()?)
            .map_err(crypto)?;
        other_pair.zeroize();
        Ok(cross.pem())
    }

    /// Issues a gateway leaf for `ttl`, at most until the issuing certificate ends.
    pub(crate) fn issue(
        &self,
        id: &SpiffeId,
        request: &LeafRequest,
        ttl: Duration,
        now: UnixTime,
    ) -> Result<CertificateDer<'static>, TrustError> {
        let ttl = ttl.as_secs().min(remaining(&self.issuing_der()?, now)?);
        let mut params = params("strait gateway", now, Duration::from_secs(ttl))?;
        params.subject_alt_names = vec![uri(id)?];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let leaf = params
            .signed_by(&request.spki, &self.issuing_signer()?)
            .map_err(crypto)?;
        Ok(leaf.into())
    }

    /// The root as a signer.
    pub(crate) fn root_signer(&self) -> Result<Issuer<'static, KeyPair>, TrustError> {
        issuer(&self.root, &self.root_key)
    }

    /// The issuing certificate as a signer.
    pub(crate) fn issuing_signer(&self) -> Result<Issuer<'static, KeyPair>, TrustError> {
        issuer(&self.issuing, &self.issuing_key)
    }

    /// Signs a message with the issuing key: ECDSA P-256, SHA-256, ASN.1.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, TrustError> {
        let mut pair = read_pair(&self.issuing_key)?;
        let signature = pair.sign(message).map_err(crypto);
        pair.zeroize();
        signature
    }
}

fn make_issuing(
    domain: &TrustDomain,
    root: &str,
    root_key: &SecretPem,
    now: UnixTime,
) -> Result<(String, SecretPem), TrustError> {
    let mut pair = generate_pair()?;
    let params = ca_params(domain, &pair, "issuing", 0, now, ISSUING_LIFE)?;
    let cert = params
        .signed_by(&pair, &issuer(root, root_key)?)
        .map_err(crypto)?;
    let key = SecretPem::new(pair.serialize_pem());
    pair.zeroize();
    Ok((cert.pem(), key))
}

fn issuer(cert: &str, key: &SecretPem) -> Result<Issuer<'static, KeyPair>, TrustError> {
    Issuer::from_ca_cert_pem(cert, read_pair(key)?)
        .map_err(|_| TrustError::DamagedRecord("a CA certificate cannot be read".into()))
}

/// A signing certificate. Its name carries the key's hash, so that two roots of a cluster never share a name.
pub(crate) fn ca_params(
    domain: &TrustDomain,
    key: &KeyPair,
    role: &str,
    path_len: u8,
    now: UnixTime,
    life: Duration,
) -> Result<CertificateParams, TrustError> {
    let hash = KeyHash::of_spki(&key.subject_public_key_info()).to_string();
    let mut params = params(&format!("strait {role} {}", &hash[..16]), now, life)?;
    params.subject_alt_names = vec![uri(&domain.id())?];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_len));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

pub(crate) fn params(name: &str, now: UnixTime, life: Duration) -> Result<CertificateParams, TrustError> {
    let mut params = CertificateParams::default();
    let backdate = i64::try_from(BACKDATE.as_secs()).unwrap_or(0);
    let life = i64::try_from(life.as_secs()).unwrap_or(i64::MAX);
    params.not_before = date(seconds(now).saturating_sub(backdate))?.to_datetime();
    params.not_after = date(seconds(now).saturating_add(life))?.to_datetime();
    params.serial_number = Some(serial()?);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

pub(crate) fn date(seconds: i64) -> Result<ASN1Time, TrustError> {
    ASN1Time::from_timestamp(seconds)
        .map_err(|_| TrustError::BadRequest("the time is beyond what a certificate can hold"))
}

/// Positive and random, so that nobody can predict what is signed.
fn serial() -> Result<SerialNumber, TrustError> {
    let mut bytes = [0; SERIAL_LEN];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| TrustError::Crypto("no randomness".into()))?;
    // The first byte stays between 0x40 and 0x7f: positive, and never shortened by DER.
    bytes[0] = (bytes[0] & 0x3f) | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

pub(crate) fn uri(id: &SpiffeId) -> Result<SanType, TrustError> {
    Ok(SanType::URI(id.as_str().try_into().map_err(crypto)?))
}

/// Seconds until notAfter of a certificate of ours that signs.
fn remaining(cert: &CertificateDer<'_>, now: UnixTime) -> Result<u64, TrustError> {
    let left = Parsed::parse(cert)?.validity().not_after - seconds(now);
    u64::try_from(left).map_err(|_| TrustError::SignerExpired)
}

/// Reads one PEM certificate of a record.
pub(crate) fn read_cert(pem: &str) -> Result<CertificateDer<'static>, TrustError> {
    CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|_| TrustError::DamagedRecord("a certificate cannot be read".into()))
}
