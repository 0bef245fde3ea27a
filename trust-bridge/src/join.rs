//! Joining: the messages on a `strait-join/1` stream, the proofs, and the joiner's side.
//!
//! Owns what is proven and how it is bound to one TLS session; the inviter's side is [`crate::invite`]. Four messages: the joiner
//! says which invite it is about, the inviter offers its bundle, the joiner sends its bundle with its proofs, the inviter answers
//! with its own proof or refuses. The secret never crosses the wire.

use std::fmt;

use aws_lc_rs::{hkdf, hmac};
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

use crate::envelope::{decode_payload, encode_payload};
use crate::token::{InviteId, JoinToken};
use crate::wire::{Reader, put_long, put_short};
use crate::x509::MAX_CHAIN;
use crate::{CaRecord, PeerTrust, SHA256_LEN, TrustDomain, TrustError};

/// Bytes of exported keying material (RFC 8446, 7.5) that the proofs are made over.
pub const EXPORTER_LEN: usize = 32;
/// Bytes of a proof: HMAC-SHA-256.
pub const PROOF_LEN: usize = SHA256_LEN;
/// Largest message in bytes; a reader refuses a longer length before it reads.
pub const MAX_MESSAGE: usize = crate::envelope::MAX_ENVELOPE;

/// Version of the messages, in the salt and in each message.
const VERSION: u8 = 1;
const SALT: &[u8] = b"strait-join/1 proof";
/// What a joiner's signature is made over comes after this.
const SIGN_PREFIX: &[u8] = b"strait-join/1\0";
/// Longest refusal code.
const MAX_CODE: usize = 64;

/// Keying material exported from the TLS session, so that no proof is worth anything in another one.
#[derive(Clone, Copy)]
pub struct Exporter(pub [u8; EXPORTER_LEN]);

impl fmt::Debug for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Exporter(redacted)")
    }
}

/// One message of a join stream; each is sent with a length before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JoinMessage {
    /// Joiner: I come with this invite.
    Hello(InviteId),
    /// Inviter: this is my bundle, as a payload.
    Offer(Vec<u8>),
    /// Joiner: this is mine, and my proofs.
    Request(JoinRequest),
    /// Inviter: accepted, and my proof.
    Accept([u8; PROOF_LEN]),
    /// Inviter: refused; the code of the [`TrustError`].
    Refuse(String),
}

/// What a joiner submits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinRequest {
    /// The invite.
    pub invite: InviteId,
    /// The joiner's bundle, as [`encode_payload`] writes it.
    pub payload: Vec<u8>,
    /// The chain of the joiner's issuing CA, that CA first.
    pub chain: Vec<CertificateDer<'static>>,
    /// Proof of the secret.
    pub proof: [u8; PROOF_LEN],
    /// The issuing CA's signature over the session and both bundles.
    pub signature: Vec<u8>,
}

impl JoinMessage {
    /// Writes the message, without its length.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        match self {
            Self::Hello(invite) => {
                out.push(1);
                out.extend_from_slice(invite.as_bytes());
            }
            Self::Offer(payload) => {
                out.push(2);
                put_long(&mut out, payload);
            }
            Self::Request(request) => {
                out.push(3);
                encode_request(&mut out, request);
            }
            Self::Accept(proof) => {
                out.push(4);
                out.extend_from_slice(proof);
            }
            Self::Refuse(code) => {
                out.push(5);
                put_short(
                    &mut out,
                    code.as_bytes().get(..MAX_CODE).unwrap_or(code.as_bytes()),
                );
            }
        }
        out
    }

    /// Reads a message.
    ///
    /// # Errors
    /// [`TrustError::UnsupportedVersion`], [`TrustError::MalformedEnvelope`].
    pub fn decode(bytes: &[u8]) -> Result<Self, TrustError> {
        let malformed = TrustError::MalformedEnvelope("a join message cannot be read");
        if bytes.len() > MAX_MESSAGE {
            return Err(malformed);
        }
        let mut reader = Reader::new(bytes);
        match reader.u8() {
            Some(VERSION) => {}
            Some(found) => {
                return Err(TrustError::UnsupportedVersion {
                    what: "a join message",
                    found,
                    known: VERSION,
                });
            }
            None => return Err(malformed),
        }
        read_message(&mut reader)
            .filter(|_| reader.is_empty())
            .ok_or(malformed)
    }
}

fn encode_request(out: &mut Vec<u8>, request: &JoinRequest) {
    out.extend_from_slice(request.invite.as_bytes());
    put_long(out, &request.payload);
    out.push(u8::try_from(request.chain.len()).unwrap_or(u8::MAX));
    for cert in &request.chain {
        put_long(out, cert);
    }
    out.extend_from_slice(&request.proof);
    put_short(out, &request.signature);
}

fn read_message(reader: &mut Reader<'_>) -> Option<JoinMessage> {
    Some(match reader.u8()? {
        1 => JoinMessage::Hello(InviteId::from_bytes(reader.array()?)),
        2 => JoinMessage::Offer(reader.long()?.to_vec()),
        3 => JoinMessage::Request(read_request(reader)?),
        4 => JoinMessage::Accept(reader.array()?),
        5 => {
            let code = reader.text()?;
            let plain = code.len() <= MAX_CODE && code.bytes().all(|b| b.is_ascii_alphanumeric());
            JoinMessage::Refuse(plain.then(|| code.to_owned())?)
        }
        _ => return None,
    })
}

fn read_request(reader: &mut Reader<'_>) -> Option<JoinRequest> {
    let invite = InviteId::from_bytes(reader.array()?);
    let payload = reader.long()?.to_vec();
    let count = usize::from(reader.u8()?);
    if count > MAX_CHAIN {
        return None;
    }
    let chain = (0..count)
        .map(|_| reader.long().map(|der| CertificateDer::from(der.to_vec())))
        .collect::<Option<_>>()?;
    Some(JoinRequest {
        invite,
        payload,
        chain,
        proof: reader.array()?,
        signature: reader.short()?.to_vec(),
    })
}

/// What both sides prove to have seen alike.
pub(crate) struct Transcript<'a> {
    pub(crate) exporter: &'a Exporter,
    /// The joiner's payload.
    pub(crate) joiner: &'a [u8],
    /// The inviter's payload.
    pub(crate) inviter: &'a [u8],
}

/// Who proves; in the proof, so that one side's cannot be played back as the other's.
#[derive(Clone, Copy)]
pub(crate) enum Prover {
    Joiner,
    Inviter,
}

impl Transcript<'_> {
    /// Proves the token's secret.
    pub(crate) fn prove(&self, token: &JoinToken, prover: Prover) -> Result<[u8; PROOF_LEN], TrustError> {
        let tag = hmac::sign(&proof_key(token)?, &self.labelled(prover));
        tag.as_ref()
            .try_into()
            .map_err(|_| TrustError::Crypto("an HMAC of another length".into()))
    }

    /// Checks a proof in constant time.
    pub(crate) fn check(
        &self,
        token: &JoinToken,
        prover: Prover,
        proof: &[u8; PROOF_LEN],
    ) -> Result<(), TrustError> {
        hmac::verify(&proof_key(token)?, &self.labelled(prover), proof).map_err(|_| TrustError::BadProof)
    }

    /// What the joiner's issuing CA signs.
    pub(crate) fn signed_bytes(&self) -> Vec<u8> {
        let mut out = SIGN_PREFIX.to_vec();
        self.put(&mut out);
        out
    }

    fn labelled(&self, prover: Prover) -> Vec<u8> {
        let mut out = match prover {
            Prover::Joiner => b"joiner\0".to_vec(),
            Prover::Inviter => b"inviter\0".to_vec(),
        };
        self.put(&mut out);
        out
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.exporter.0);
        put_long(out, self.joiner);
        put_long(out, self.inviter);
    }
}

/// HKDF-SHA-256 of the secret, bound to every other field of the token.
fn proof_key(token: &JoinToken) -> Result<hmac::Key, TrustError> {
    let fields = token.public_fields();
    let info = [fields.as_slice()];
    let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, SALT).extract(token.secret().expose());
    let okm = prk
        .expand(&info, hmac::HMAC_SHA256)
        .map_err(|_| TrustError::Crypto("HKDF refused its input".into()))?;
    Ok(hmac::Key::from(okm))
}

/// The joiner's record of one join. Persist it before the first message is sent; try again with the same record after any
/// failure that is not final.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "camelCase", deny_unknown_fields)]
pub enum JoinAttempt {
    /// Not known to have succeeded.
    Pending {
        /// The token, with its secret.
        token: JoinToken,
    },
    /// The inviter proved the secret and has bound the invite to us. Persist this, trust the peer, then dial it over control.
    Joined {
        /// What we trust.
        peer: PeerTrust,
    },
}

impl JoinAttempt {
    /// Begins a join.
    ///
    /// # Errors
    /// [`TrustError::OwnTrustDomain`] for a token of this very cluster.
    pub fn new(token: JoinToken, own: &TrustDomain) -> Result<Self, TrustError> {
        if token.trust_domain() == own {
            return Err(TrustError::OwnTrustDomain(own.clone()));
        }
        Ok(Self::Pending { token })
    }

    /// The token, until the join has succeeded.
    ///
    /// # Errors
    /// [`TrustError::WrongJoinState`].
    pub const fn token(&self) -> Result<&JoinToken, TrustError> {
        match self {
            Self::Pending { token } => Ok(token),
            Self::Joined { .. } => Err(TrustError::WrongJoinState("this cluster has joined already")),
        }
    }

    /// Answers the inviter's offer, on a session whose server was verified with the token's pin.
    ///
    /// # Errors
    /// [`TrustError::WrongTrustDomain`] or [`TrustError::WrongRoot`] if the offer is not what the token names; or as
    /// [`decode_payload`].
    pub fn answer(
        &self,
        offer: &[u8],
        exporter: &Exporter,
        ca: &CaRecord,
    ) -> Result<JoinRequest, TrustError> {
        let token = self.token()?;
        read_offer(offer, token)?;
        let payload = encode_payload(&ca.bundle()?);
        let transcript = Transcript {
            exporter,
            joiner: &payload,
            inviter: offer,
        };
        let proof = transcript.prove(token, Prover::Joiner)?;
        let signature = ca.sign(&transcript.signed_bytes())?;
        Ok(JoinRequest {
            invite: token.invite(),
            chain: ca.signing_chain()?,
            proof,
            signature,
            payload,
        })
    }

    /// Takes the inviter's proof for the request that [`Self::answer`] made on the same session.
    ///
    /// # Errors
    /// [`TrustError::BadProof`]: whoever answered does not hold the secret.
    pub fn complete(
        &self,
        offer: &[u8],
        request: &JoinRequest,
        exporter: &Exporter,
        proof: &[u8; PROOF_LEN],
    ) -> Result<Self, TrustError> {
        let token = self.token()?;
        let transcript = Transcript {
            exporter,
            joiner: &request.payload,
            inviter: offer,
        };
        transcript.check(token, Prover::Inviter, proof)?;
        Ok(Self::Joined {
            peer: read_offer(offer, token)?,
        })
    }
}

/// The offer must be the bundle of the token's trust domain and hold the token's root.
fn read_offer(offer: &[u8], token: &JoinToken) -> Result<PeerTrust, TrustError> {
    let bundle = decode_payload(offer)?;
    let pin = token.pin();
    if *bundle.trust_domain() != pin.trust_domain {
        let found = bundle.trust_domain().clone();
        return Err(TrustError::WrongTrustDomain {
            expected: pin.trust_domain,
            found,
        });
    }
    if bundle.root(&pin.root).is_none() {
        return Err(TrustError::WrongRoot);
    }
    PeerTrust::new(bundle)
}
