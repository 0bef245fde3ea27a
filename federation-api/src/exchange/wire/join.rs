//! The two messages of a join as plain values: shapes and bounds only. What they prove is trust-bridge's business.

use bytes::Bytes;

use super::{decode::address, join_v1 as pb};
use crate::{
    Reason,
    exchange::{ADDRESSES_MAX, Refusal, clean_text},
    ids::{ClusterId, Hostname},
    snapshot::GatewayAddress,
};

/// Version of what is proven.
const VERSION: u32 = 1;
/// Bytes of a proof: HMAC-SHA-256.
pub const PROOF_LEN: usize = 32;
/// Certificates of a CA chain: root, cross-certificate, issuing, and one to spare.
const CHAIN_MAX: usize = 4;
/// Bytes of one certificate; ML-DSA ones take some 8 KiB.
const CERTIFICATE_MAX: usize = 16 * 1024;
/// Bytes of a SPIFFE bundle: as in an exchange envelope.
const BUNDLE_MAX: usize = 256 * 1024;
/// Bytes of a signature; ML-DSA-87 takes 4,627.
const SIGNATURE_MAX: usize = 8 * 1024;

/// What the joiner submits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinRequest {
    /// Handle of the invite, not secret: one label.
    pub invite: Hostname,
    /// The joiner.
    pub cluster: ClusterId,
    /// DER: issuing certificate first, root last. 1 to 4.
    pub ca_chain: Vec<Bytes>,
    /// The joiner's SPIFFE bundle, exactly as proven.
    pub bundle: Bytes,
    /// The joiner's gateways, at most 16; none means it dials.
    pub addresses: Vec<GatewayAddress>,
    /// Proof of the secret.
    pub proof: [u8; PROOF_LEN],
    /// Signature of the issuing CA's key over the TLS exporter.
    pub signature: Bytes,
}

/// What the inviter gives back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// The inviter.
    pub cluster: ClusterId,
    /// The inviter's SPIFFE bundle, exactly as proven.
    pub bundle: Bytes,
    /// Proof of the secret by the other role.
    pub proof: [u8; PROOF_LEN],
    /// The inviter's gateways, at most 16.
    pub addresses: Vec<GatewayAddress>,
}

/// The inviter's answer.
pub type JoinReply = Result<Joined, Refusal>;

fn bad(what: &str) -> Refusal {
    Refusal::new(Reason::Malformed, what)
}

fn bounded(what: &str, bytes: Bytes, max: usize) -> Result<Bytes, Refusal> {
    if bytes.is_empty() || bytes.len() > max {
        return Err(bad(&format!("{what} is empty or over {max} bytes")));
    }
    Ok(bytes)
}

fn proof(bytes: &[u8]) -> Result<[u8; PROOF_LEN], Refusal> {
    bytes.try_into().map_err(|_| bad("proof has not 32 bytes"))
}

fn cluster(id: &str) -> Result<ClusterId, Refusal> {
    ClusterId::parse(id).map_err(|e| bad(&format!("cluster: {e}")))
}

fn addresses(list: &[pb::JoinAddress]) -> Result<Vec<GatewayAddress>, Refusal> {
    if list.len() > ADDRESSES_MAX {
        return Err(bad("more than 16 addresses"));
    }
    list.iter().map(|a| address(&a.host, a.port)).collect()
}

fn encode_addresses(list: &[GatewayAddress]) -> Vec<pb::JoinAddress> {
    let one = |a: &GatewayAddress| pb::JoinAddress {
        host: a.host.to_string(),
        port: a.port.into(),
    };
    list.iter().map(one).collect()
}

impl JoinRequest {
    /// The message.
    #[must_use]
    pub fn encode(&self) -> pb::JoinRequest {
        pb::JoinRequest {
            version: VERSION,
            invite: self.invite.to_string(),
            cluster: self.cluster.to_string(),
            ca_chain: self.ca_chain.clone(),
            bundle: self.bundle.clone(),
            addresses: encode_addresses(&self.addresses),
            proof: Bytes::copy_from_slice(&self.proof),
            signature: self.signature.clone(),
        }
    }

    /// Parses a joiner's message.
    ///
    /// # Errors
    /// [`Reason::VersionSkew`] or [`Reason::Malformed`] with the field.
    pub fn decode(request: pb::JoinRequest) -> Result<Self, Refusal> {
        if request.version != VERSION {
            let words = format!("join version {} is not known, ours is {VERSION}", request.version);
            return Err(Refusal::new(Reason::VersionSkew, words));
        }
        if request.ca_chain.is_empty() || request.ca_chain.len() > CHAIN_MAX {
            return Err(bad("CA chain has not 1 to 4 certificates"));
        }
        let certificate = |der| bounded("certificate", der, CERTIFICATE_MAX);
        Ok(Self {
            invite: Hostname::parse(&request.invite).map_err(|e| bad(&format!("invite: {e}")))?,
            cluster: cluster(&request.cluster)?,
            ca_chain: request
                .ca_chain
                .into_iter()
                .map(certificate)
                .collect::<Result<_, _>>()?,
            bundle: bounded("bundle", request.bundle, BUNDLE_MAX)?,
            addresses: addresses(&request.addresses)?,
            proof: proof(&request.proof)?,
            signature: bounded("signature", request.signature, SIGNATURE_MAX)?,
        })
    }
}

/// The message of a reply.
#[must_use]
pub fn encode_reply(reply: &JoinReply) -> pb::JoinReply {
    let outcome = match reply {
        Ok(joined) => pb::join_reply::Outcome::Joined(pb::Joined {
            cluster: joined.cluster.to_string(),
            bundle: joined.bundle.clone(),
            proof: Bytes::copy_from_slice(&joined.proof),
            addresses: encode_addresses(&joined.addresses),
        }),
        Err(refusal) => pb::join_reply::Outcome::Refused(pb::Refused {
            reason: refusal.reason.code().into(),
            message: clean_text(&refusal.message),
        }),
    };
    pb::JoinReply {
        outcome: Some(outcome),
    }
}

/// Parses an inviter's reply.
///
/// # Errors
/// The inviter's refusal, or [`Reason::Malformed`] with the field.
pub fn decode_reply(reply: pb::JoinReply) -> JoinReply {
    match reply.outcome {
        Some(pb::join_reply::Outcome::Joined(joined)) => Ok(Joined {
            cluster: cluster(&joined.cluster)?,
            bundle: bounded("bundle", joined.bundle, BUNDLE_MAX)?,
            proof: proof(&joined.proof)?,
            addresses: addresses(&joined.addresses)?,
        }),
        Some(pb::join_reply::Outcome::Refused(refused)) => {
            let code = u16::try_from(refused.reason).ok().and_then(Reason::from_code);
            Err(Refusal::new(
                code.unwrap_or(Reason::Failed),
                clean_text(&refused.message),
            ))
        }
        None => Err(bad("reply has no outcome")),
    }
}
