//! The bundle update: how a cluster tells its peers about its roots.
//!
//! Owns the wire form of the payload and the envelope, and the rules by which an update is accepted: signed by a CA key (never a
//! leaf's) under a root that is held now and stays, and never an older sequence. Called by the controller for each update over
//! control, and by joining, which exchanges payloads.
//!
//! Payload: version (1 byte), trust domain (1-byte length), sequence (8), count of removed keys (2) and their hashes (32 each), the
//! exact SPIFFE document (4-byte length). Envelope: version (1), payload (4-byte length), count of certificates (1), each with a
//! 4-byte length, signature (1-byte length). All integers big-endian.

use std::collections::BTreeSet;

use rustls_pki_types::{CertificateDer, UnixTime};

use crate::bundle::{MAX_REMOVED, bounded};
use crate::signer_chain::verify_signer_chain;
use crate::spiffe_json::{MAX_DOCUMENT, from_json, to_json};
use crate::wire::{Reader, put_long, put_short};
use crate::x509::{MAX_CERTIFICATE, MAX_CHAIN};
use crate::{Bundle, CaRecord, KeyHash, PeerTrust, SHA256_LEN, TrustDomain, TrustError};

/// Version of payload and envelope that is written, and the highest that is read.
const VERSION: u8 = 1;
/// What a signature is made over comes after this, so that it can never be taken for another message.
const SIGN_PREFIX: &[u8] = b"strait-bundle/1\0";
/// Largest payload in bytes: the document, all removed keys, and the fields around them.
pub const MAX_PAYLOAD: usize = MAX_DOCUMENT + MAX_REMOVED * SHA256_LEN + 512;
/// Largest envelope in bytes.
pub const MAX_ENVELOPE: usize = MAX_PAYLOAD + MAX_CHAIN * (MAX_CERTIFICATE + 4) + 512;

/// What an accepted update means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BundleUpdate {
    /// The update is what is held already: acknowledge it again.
    Unchanged {
        /// The sequence to acknowledge.
        sequence: u64,
    },
    /// Persist this, put it into the store, then acknowledge its sequence.
    Replace(PeerTrust),
}

/// Writes a bundle as a payload.
#[must_use]
pub fn encode_payload(bundle: &Bundle) -> Vec<u8> {
    let mut out = vec![VERSION];
    put_short(&mut out, bundle.trust_domain().as_str().as_bytes());
    out.extend_from_slice(&bundle.sequence().to_be_bytes());
    let removed = u16::try_from(bundle.removed().len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&removed.to_be_bytes());
    for key in bundle.removed() {
        out.extend_from_slice(key.as_bytes());
    }
    put_long(&mut out, to_json(bundle).as_bytes());
    out
}

/// Reads a payload.
///
/// # Errors
/// [`TrustError::MalformedEnvelope`], [`TrustError::UnsupportedVersion`], [`TrustError::BundleTooLarge`], or as
/// [`crate::spiffe_json::from_json`].
pub fn decode_payload(payload: &[u8]) -> Result<Bundle, TrustError> {
    bounded("payload bytes", payload.len(), MAX_PAYLOAD)?;
    let mut reader = Reader::new(payload);
    check_version("a bundle payload", reader.u8())?;
    let fields = read_fields(&mut reader).ok_or(TrustError::MalformedEnvelope("the payload ends early"))?;
    if !reader.is_empty() {
        return Err(TrustError::MalformedEnvelope("bytes follow the payload"));
    }
    let bundle = from_json(TrustDomain::parse(fields.trust_domain)?, fields.document)?;
    if bundle.sequence() != fields.sequence {
        return Err(TrustError::MalformedEnvelope(
            "payload and document carry two sequences",
        ));
    }
    bundle.with_removed(&fields.removed)
}

struct Fields<'a> {
    trust_domain: &'a str,
    sequence: u64,
    removed: BTreeSet<KeyHash>,
    document: &'a [u8],
}

fn read_fields<'a>(reader: &mut Reader<'a>) -> Option<Fields<'a>> {
    let trust_domain = reader.text()?;
    let sequence = reader.u64()?;
    let count = reader.u16()?;
    let removed = (0..count)
        .map(|_| reader.array().map(KeyHash::from_bytes))
        .collect::<Option<_>>()?;
    Some(Fields {
        trust_domain,
        sequence,
        removed,
        document: reader.long()?,
    })
}

/// Seals the cluster's present bundle for its peers.
///
/// # Errors
/// [`TrustError::DamagedRecord`], [`TrustError::Crypto`].
pub fn seal(ca: &CaRecord) -> Result<Vec<u8>, TrustError> {
    seal_payload(ca, &encode_payload(&ca.bundle()?), &ca.signing_chain()?)
}

/// Signs a payload with the CA's issuing key and puts `chain` beside it.
pub(crate) fn seal_payload(
    ca: &CaRecord,
    payload: &[u8],
    chain: &[CertificateDer<'_>],
) -> Result<Vec<u8>, TrustError> {
    let signature = ca.sign(&signed_bytes(payload))?;
    Ok(encode_envelope(payload, chain, &signature))
}

fn encode_envelope(payload: &[u8], chain: &[CertificateDer<'_>], signature: &[u8]) -> Vec<u8> {
    let mut out = vec![VERSION];
    put_long(&mut out, payload);
    out.push(u8::try_from(chain.len()).unwrap_or(u8::MAX));
    for cert in chain {
        put_long(&mut out, cert);
    }
    put_short(&mut out, signature);
    out
}

/// Opens an update from a peer of which `held` is held.
///
/// # Errors
/// [`TrustError::WrongTrustDomain`], [`TrustError::SequenceRollback`], [`TrustError::SequenceReused`],
/// [`TrustError::SignerRemoved`], [`TrustError::BadSignature`], or as [`verify_signer_chain`] and [`decode_payload`].
pub fn open(envelope: &[u8], held: &PeerTrust, now: UnixTime) -> Result<BundleUpdate, TrustError> {
    bounded("envelope bytes", envelope.len(), MAX_ENVELOPE)?;
    let mut reader = Reader::new(envelope);
    check_version("a bundle update", reader.u8())?;
    let (payload, chain, signature) =
        read_envelope(&mut reader).ok_or(TrustError::MalformedEnvelope("the update ends early"))?;
    if !reader.is_empty() {
        return Err(TrustError::MalformedEnvelope("bytes follow the update"));
    }
    // Nothing of the payload is looked at before its signature holds.
    let signer = verify_signer_chain(&chain, now, held.bundle())?;
    signer.verify(&signed_bytes(payload), signature)?;
    let offered = decode_payload(payload)?;
    if offered.trust_domain() != held.trust_domain() {
        let (expected, found) = (held.trust_domain().clone(), offered.trust_domain().clone());
        return Err(TrustError::WrongTrustDomain { expected, found });
    }
    let update = judge(&offered, held.bundle())?;
    if update.root(&signer.root).is_none() {
        return Err(TrustError::SignerRemoved(signer.root));
    }
    if update == *held.bundle() {
        return Ok(BundleUpdate::Unchanged {
            sequence: update.sequence(),
        });
    }
    PeerTrust::new(update).map(BundleUpdate::Replace)
}

/// Sequence rules; earlier removals are kept, so a root once removed never returns. Under the held sequence, further removals of
/// keys that are no root of it are the one thing that may be news.
fn judge(offered: &Bundle, held: &Bundle) -> Result<Bundle, TrustError> {
    if offered.sequence() < held.sequence() {
        return Err(TrustError::SequenceRollback {
            trust_domain: held.trust_domain().clone(),
            held: held.sequence(),
            offered: offered.sequence(),
        });
    }
    let update = offered.clone().with_removed(held.removed())?;
    // A SPIFFE document cannot name removed keys: whoever holds one learns of them from the first update, under the same sequence.
    let known = held.clone().with_removed(offered.removed());
    if update.sequence() == held.sequence() && known != Ok(update.clone()) {
        let (trust_domain, sequence) = (held.trust_domain().clone(), held.sequence());
        return Err(TrustError::SequenceReused {
            trust_domain,
            sequence,
        });
    }
    Ok(update)
}

type Envelope<'a> = (&'a [u8], Vec<CertificateDer<'a>>, &'a [u8]);

fn read_envelope<'a>(reader: &mut Reader<'a>) -> Option<Envelope<'a>> {
    let payload = reader.long()?;
    let count = reader.u8()?;
    let chain = (0..count)
        .map(|_| reader.long().map(CertificateDer::from))
        .collect::<Option<_>>()?;
    Some((payload, chain, reader.short()?))
}

fn signed_bytes(payload: &[u8]) -> Vec<u8> {
    [SIGN_PREFIX, payload].concat()
}

fn check_version(what: &'static str, found: Option<u8>) -> Result<(), TrustError> {
    match found {
        Some(VERSION) => Ok(()),
        Some(found) => Err(TrustError::UnsupportedVersion {
            what,
            found,
            known: VERSION,
        }),
        None => Err(TrustError::MalformedEnvelope("it is empty")),
    }
}
