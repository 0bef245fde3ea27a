//! The pure verifier: which presented chain is which gateway.
//!
//! Owns every rule of SPIFFE X.509-SVID sections 2 to 5 and of Strait's own ids. Reads no clock: `now` is passed in and has zero
//! tolerance. Path building is rustls-webpki's; names, flags, key usages, removed keys and a root's own limits, which webpki
//! does not look at, are checked here. Called by the TLS verifiers, by joining, and for live tunnels.

use std::cell::RefCell;

use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{ExtendedKeyUsageValidator, KeyPurposeIdIter, KeyUsage, VerifiedPath};

use crate::bundle::Root;
use crate::error::quoted;
use crate::x509::{Parsed, Validity, check_count, seconds};
use crate::{Bundle, KeyHash, RootFingerprint, SpiffeId, TrustError};

/// What a verified chain proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedChain {
    /// The gateway's id.
    pub id: SpiffeId,
    /// The root that the chain was verified against.
    pub root: RootFingerprint,
    /// That root's key.
    pub root_key: KeyHash,
    /// The leaf's notAfter in Unix seconds.
    pub not_after: i64,
}

/// Verifies a chain (leaf first) as a gateway of `bundle`'s trust domain.
///
/// # Errors
/// The first rule that is broken; every variant of [`TrustError`] under "a presented chain".
pub fn verify_chain(
    chain: &[CertificateDer<'_>],
    now: UnixTime,
    bundle: &Bundle,
) -> Result<VerifiedChain, TrustError> {
    verify(chain, Moment::Handshake(now), bundle)
}

/// Verifies the stored chain of a live tunnel again: roots and removed keys count, the leaf's and the signers' expiry does not.
///
/// # Errors
/// As [`verify_chain`].
pub fn reverify_roots(
    chain: &[CertificateDer<'_>],
    now: UnixTime,
    bundle: &Bundle,
) -> Result<VerifiedChain, TrustError> {
    verify(chain, Moment::Live(now), bundle)
}

/// The id in a chain's leaf, NOT verified: only good for choosing the bundle to verify with.
///
/// # Errors
/// When there is no certificate, or its names break the rules for a leaf.
pub fn claimed_id(chain: &[CertificateDer<'_>]) -> Result<SpiffeId, TrustError> {
    check_count(chain)?;
    leaf_id(&Parsed::parse(&chain[0])?)
}

/// When a chain is judged.
#[derive(Clone, Copy)]
enum Moment {
    /// In a handshake: everything must be valid now.
    Handshake(UnixTime),
    /// Later, for a tunnel that was admitted: only roots must be valid now.
    Live(UnixTime),
}

fn verify(
    chain: &[CertificateDer<'_>],
    moment: Moment,
    bundle: &Bundle,
) -> Result<VerifiedChain, TrustError> {
    check_count(chain)?;
    let certs = chain
        .iter()
        .map(|der| Parsed::parse(der))
        .collect::<Result<Vec<_>, _>>()?;
    let id = check_leaf(&certs[0])?;
    if id.trust_domain() != bundle.trust_domain() {
        let (expected, found) = (bundle.trust_domain().clone(), id.trust_domain().clone());
        return Err(TrustError::WrongTrustDomain { expected, found });
    }
    if bundle.roots().is_empty() {
        return Err(TrustError::BundleEmpty(bundle.trust_domain().clone()));
    }
    certs[1..].iter().try_for_each(check_signer)?;
    check_removed(&certs, bundle)?;
    let validity = certs[0].validity();
    let path_time = match moment {
        Moment::Handshake(now) => {
            check_leaf_validity(validity, now)?;
            now
        }
        Moment::Live(_) => admission_time(&certs),
    };
    let (Moment::Handshake(now) | Moment::Live(now)) = moment;
    let root = verify_path(chain, path_time, now, bundle)?;
    Ok(VerifiedChain {
        id,
        root: root.fingerprint(),
        root_key: root.key(),
        not_after: validity.not_after,
    })
}

/// Everything about the leaf that no other certificate is needed for.
fn check_leaf(leaf: &Parsed<'_>) -> Result<SpiffeId, TrustError> {
    let id = leaf_id(leaf)?;
    if id.gateway_instance().is_none() {
        return Err(TrustError::NotGateway(quoted(id.as_str())));
    }
    if leaf.constraints()?.0 {
        return Err(TrustError::LeafIsCa);
    }
    // Extended key usage is judged with the path, for the leaf and its signers alike: see [`BothUsages`].
    check_leaf_usage(leaf)?;
    Ok(id)
}

/// Exactly one URI SAN, a SPIFFE ID with a path.
fn leaf_id(leaf: &Parsed<'_>) -> Result<SpiffeId, TrustError> {
    let id = match leaf.uri_sans()?.as_slice() {
        [] => return Err(TrustError::NoUriSan),
        [uri] => SpiffeId::parse(uri)?,
        several => return Err(TrustError::MultipleUriSans(several.len())),
    };
    if id.path().is_empty() {
        return Err(TrustError::RootPath(quoted(id.as_str())));
    }
    Ok(id)
}

fn check_leaf_usage(leaf: &Parsed<'_>) -> Result<(), TrustError> {
    let (critical, usage) = leaf.key_usage()?.ok_or(TrustError::KeyUsageMissing)?;
    if !critical {
        return Err(TrustError::KeyUsageNotCritical);
    }
    if !usage.digital_signature() {
        return Err(TrustError::DigitalSignatureMissing);
    }
    if usage.key_cert_sign() {
        return Err(TrustError::LeafKeyCertSign);
    }
    if usage.crl_sign() {
        return Err(TrustError::LeafCrlSign);
    }
    Ok(())
}

/// Every certificate after the leaf must be one that may sign, whether the path uses it or not.
pub(crate) fn check_signer(signer: &Parsed<'_>) -> Result<(), TrustError> {
    if !signer.constraints()?.0 {
        return Err(TrustError::SignerNotCa);
    }
    if !signer
        .key_usage()?
        .is_some_and(|(_, usage)| usage.key_cert_sign())
    {
        return Err(TrustError::SignerKeyCertSignMissing);
    }
    for uri in signer.uri_sans()? {
        // Other URIs on a signer mean nothing to SPIFFE; a SPIFFE ID must be that of a domain.
        if uri.starts_with("spiffe:") && !SpiffeId::parse(uri)?.path().is_empty() {
            return Err(TrustError::SignerIdHasPath(quoted(uri)));
        }
    }
    Ok(())
}

/// A removed key is refused wherever it stands: as a leaf's, an intermediate's or a cross-certificate's.
pub(crate) fn check_removed(certs: &[Parsed<'_>], bundle: &Bundle) -> Result<(), TrustError> {
    match certs
        .iter()
        .map(Parsed::key_hash)
        .find(|key| bundle.removed().contains(key))
    {
        Some(key) => Err(TrustError::KeyRemoved(key)),
        None => Ok(()),
    }
}

fn check_leaf_validity(validity: Validity, now: UnixTime) -> Result<(), TrustError> {
    let now = seconds(now);
    if now > validity.not_after {
        return Err(TrustError::LeafExpired {
            ago_seconds: now.abs_diff(validity.not_after),
        });
    }
    if now < validity.not_before {
        return Err(TrustError::LeafNotYetValid {
            in_seconds: now.abs_diff(validity.not_before),
        });
    }
    Ok(())
}

/// A moment at which all certificates of an admitted chain were valid: the latest notBefore.
fn admission_time(certs: &[Parsed<'_>]) -> UnixTime {
    let latest = certs
        .iter()
        .map(|cert| cert.validity().not_before)
        .max()
        .unwrap_or(0);
    UnixTime::since_unix_epoch(std::time::Duration::from_secs(u64::try_from(latest).unwrap_or(0)))
}

/// Builds and checks the path with webpki, then what webpki does not know about a root: its validity and path length.
fn verify_path<'b>(
    chain: &[CertificateDer<'_>],
    path_time: UnixTime,
    now: UnixTime,
    bundle: &'b Bundle,
) -> Result<&'b Root, TrustError> {
    let anchors: Vec<TrustAnchor<'_>> = bundle.roots().iter().map(|root| root.anchor().clone()).collect();
    let root_of = |anchor: &TrustAnchor<'_>| {
        anchors
            .iter()
            .position(|a| std::ptr::eq(a, anchor))
            .map(|index| &bundle.roots()[index])
    };
    let refused: RefCell<Option<TrustError>> = RefCell::new(None);
    let check_root = |path: &VerifiedPath<'_>| {
        let problem = root_of(path.anchor()).and_then(|root| root_problem(root, path, now));
        let Some(problem) = problem else { return Ok(()) };
        refused.replace(Some(problem));
        Err(webpki::Error::UnknownIssuer)
    };
    let end_entity = webpki::EndEntityCert::try_from(&chain[0]).map_err(|e| path_error(&e, bundle))?;
    let path = end_entity
        .verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &anchors,
            &chain[1..],
            path_time,
            BothUsages,
            None,
            Some(&check_root),
        )
        .map_err(|e| refused.take().unwrap_or_else(|| path_error(&e, bundle)))?;
    root_of(path.anchor()).ok_or_else(|| TrustError::UnknownIssuer(bundle.trust_domain().clone()))
}

fn root_problem(root: &Root, path: &VerifiedPath<'_>, now: UnixTime) -> Option<TrustError> {
    let signers = u32::try_from(path.intermediate_certificates().count()).unwrap_or(u32::MAX);
    if root.path_len().is_some_and(|allowed| signers > allowed) {
        return Some(TrustError::PathTooLong);
    }
    (!root.validity().holds(now)).then(|| TrustError::RootExpired(root.fingerprint()))
}

fn path_error(error: &webpki::Error, bundle: &Bundle) -> TrustError {
    use webpki::Error as E;
    match error {
        E::UnknownIssuer | E::InvalidSignatureForPublicKey => {
            TrustError::UnknownIssuer(bundle.trust_domain().clone())
        }
        // The leaf's own validity and flags were checked before: these speak of a signer.
        E::CertExpired { .. } | E::CertNotValidYet { .. } | E::InvalidCertValidity => {
            TrustError::SignerExpired
        }
        E::EndEntityUsedAsCa => TrustError::SignerNotCa,
        E::PathLenConstraintViolated => TrustError::PathTooLong,
        E::RequiredEkuNotFoundContext(_) => TrustError::ExtendedKeyUsage,
        other => TrustError::InvalidPath(quoted(&other.to_string())),
    }
}

/// SPIFFE 4.4: where extended key usage is present it must allow both roles, for a gateway is client and server.
struct BothUsages;

impl ExtendedKeyUsageValidator for BothUsages {
    fn validate(&self, iter: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        let mut present = Vec::new();
        for id in iter {
            present.push(id?.to_decoded_oid());
        }
        // webpki refuses an empty extension itself: nothing here means that there is none.
        if present.is_empty() {
            return Ok(());
        }
        for required in [KeyUsage::server_auth(), KeyUsage::client_auth()] {
            let oid: Vec<usize> = required.oid_values().collect();
            if !present.contains(&oid) && !present.iter().any(|p| p == ANY_USAGE) {
                return Err(webpki::Error::RequiredEkuNotFoundContext(
                    webpki::RequiredEkuNotFoundContext { required, present },
                ));
            }
        }
        Ok(())
    }
}

/// anyExtendedKeyUsage (RFC 5280, 4.2.1.12).
const ANY_USAGE: &[usize] = &[2, 5, 29, 37, 0];

/// What a join token pins: the root, and the trust domain that the inviter's leaf must be in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootPin {
    /// The inviter's trust domain.
    pub trust_domain: crate::TrustDomain,
    /// SHA-256 of the root's DER.
    pub root: RootFingerprint,
}

/// Verifies a chain that carries its own root, against exactly the root that is pinned; all rules for a gateway apply.
///
/// # Errors
/// [`TrustError::WrongRoot`] if the pinned root is not in the chain, or as [`verify_chain`].
pub fn verify_with_pin(
    chain: &[CertificateDer<'_>],
    now: UnixTime,
    pin: &RootPin,
) -> Result<VerifiedChain, TrustError> {
    check_count(chain)?;
    let pinned = chain[1..]
        .iter()
        .find(|der| RootFingerprint::of_der(der) == pin.root);
    let root = Root::from_der(pinned.ok_or(TrustError::WrongRoot)?)?;
    let bundle = Bundle::new(pin.trust_domain.clone(), 0, None, vec![root], Default::default())?;
    verify_chain(chain, now, &bundle)
}
