//! The joiner's side of one session, and what follows from its end.
//!
//! Owns the order of a session and which ends are final. The same record is used for every retry. Run by the engine.

use strait_federation_api::{Reason, control::JoinStream};
use strait_trust_bridge::{
    InviteId, TrustError,
    join::{Exporter, JoinMessage, JoinRequest, PROOF_LEN},
};

use super::frame::{SessionError, receive, send};

/// Who answers for our side: the engine, with the join record and the CA.
pub(crate) trait JoinerDesk: Send + Sync {
    /// Our request for an offer.
    fn answer(
        &self,
        offer: Vec<u8>,
        exporter: Exporter,
    ) -> impl Future<Output = Result<JoinRequest, TrustError>> + Send;
    /// Takes the inviter's proof: durable and in force before this returns.
    fn complete(
        &self,
        offer: Vec<u8>,
        request: JoinRequest,
        exporter: Exporter,
        proof: [u8; PROOF_LEN],
    ) -> impl Future<Output = Result<(), TrustError>> + Send;
}

/// Whether trying again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Retry {
    /// The reply was lost, or the path is down: the same record may succeed.
    Later,
    /// The inviter refused, or the answer proves nothing: only a new token helps.
    Never,
}

/// A session that did not join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ended {
    /// Whether to try again.
    pub(crate) retry: Retry,
    /// Why.
    pub(crate) reason: Reason,
    /// In words.
    pub(crate) detail: String,
}

/// Runs one session.
pub(crate) async fn join_once(
    mut stream: JoinStream,
    invite: InviteId,
    desk: &impl JoinerDesk,
) -> Result<(), Ended> {
    let exporter = Exporter(stream.exporter);
    match session(&mut stream, invite, exporter, desk).await {
        Ok(None) => Ok(()),
        Ok(Some(code)) => Err(outcome_of_code(&code)),
        // Our disk: the invite is bound to us by now, so the same record will do once there is room again.
        Err(SessionError::Trust(error @ (TrustError::DamagedRecord(_) | TrustError::Crypto(_)))) => {
            Err(Ended {
                retry: Retry::Later,
                reason: Reason::JoinPending,
                detail: format!("this side could not finish: {error}"),
            })
        }
        Err(SessionError::Trust(error)) => Err(Ended {
            retry: Retry::Never,
            reason: (&error).into(),
            detail: format!("the join was broken off here: {error}"),
        }),
        Err(error) => Err(Ended {
            retry: Retry::Later,
            reason: Reason::JoinPending,
            detail: format!("no answer yet: {error}"),
        }),
    }
}

/// Gives the code of a refusal, if there was one.
async fn session(
    stream: &mut JoinStream,
    invite: InviteId,
    exporter: Exporter,
    desk: &impl JoinerDesk,
) -> Result<Option<String>, SessionError> {
    send(&mut *stream.io, &JoinMessage::Hello(invite)).await?;
    let offer = match receive(&mut *stream.io).await? {
        JoinMessage::Offer(offer) => offer,
        JoinMessage::Refuse(code) => return Ok(Some(code)),
        _ => return Err(out_of_order()),
    };
    let request = desk.answer(offer.clone(), exporter).await?;
    send(&mut *stream.io, &JoinMessage::Request(request.clone())).await?;
    match receive(&mut *stream.io).await? {
        JoinMessage::Accept(proof) => desk.complete(offer, request, exporter, proof).await?,
        JoinMessage::Refuse(code) => return Ok(Some(code)),
        _ => return Err(out_of_order()),
    }
    Ok(None)
}

fn out_of_order() -> SessionError {
    TrustError::MalformedEnvelope("a join message came out of order").into()
}

/// What an inviter's refusal means here.
fn outcome_of_code(code: &str) -> Ended {
    let (retry, reason) = match code {
        "UnknownInvite" => (Retry::Never, Reason::InviteUnknown),
        "InviteExpired" => (Retry::Never, Reason::InviteExpired),
        "InviteRevoked" => (Retry::Never, Reason::InviteRevoked),
        "InviteSpent" => (Retry::Never, Reason::InviteSpent),
        "InviteBound" => (Retry::Never, Reason::InviteBoundToOther),
        "BadProof" | "BadSignature" => (Retry::Never, Reason::ProofInvalid),
        "TrustDomainTaken" | "ClusterIdTaken" => (Retry::Never, Reason::ClusterIdTaken),
        "OwnTrustDomain" => (Retry::Never, Reason::SelfJoin),
        "UnsupportedVersion" => (Retry::Never, Reason::VersionSkew),
        // The inviter's disk or a newer word: its state did not change, so the next try may find it well again.
        "Crypto" | "DamagedRecord" => (Retry::Later, Reason::JoinPending),
        other => (Retry::Never, Reason::from_name(other).unwrap_or(Reason::Failed)),
    };
    let word: String = code
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .take(64)
        .collect();
    Ended {
        retry,
        reason,
        detail: format!("the inviting side refused ({word}): {}", reason.remedy()),
    }
}
