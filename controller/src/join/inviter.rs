//! The inviter's side of one session: hello in, offer out, request in, answer out.
//!
//! Owns the order and the bounds of a session with somebody who has proven nothing. Decides nothing: the desk does. Run by the
//! engine as one task a session.

use strait_federation_api::{Reason, control::JoinStream};
use strait_trust_bridge::{
    InviteId, TrustError,
    join::{Exporter, JoinMessage, JoinRequest, PROOF_LEN},
};
use tokio::io::AsyncWriteExt;

use super::frame::{SessionError, receive, send};

/// Who decides on a session: the engine.
pub(crate) trait JoinDesk: Send + Sync {
    /// The bundle to offer to somebody who comes with this invite.
    fn offer(&self, invite: InviteId) -> impl Future<Output = Result<Vec<u8>, TrustError>> + Send;
    /// Decides on a request and gives our proof. When it is accepted, everything is durable and in force before this returns.
    fn decide(
        &self,
        request: JoinRequest,
        offer: Vec<u8>,
        exporter: Exporter,
    ) -> impl Future<Output = Result<[u8; PROOF_LEN], TrustError>> + Send;
}

/// Serves one session to its end; says why it ended without a join.
pub(crate) async fn serve(mut stream: JoinStream, desk: &impl JoinDesk) -> Result<(), (Reason, String)> {
    let exporter = Exporter(stream.exporter);
    match session(&mut stream, exporter, desk).await {
        Ok(()) => Ok(()),
        Err(SessionError::Trust(error)) => {
            // The joiner learns the code, not the words: they may tell of our other Federations.
            let _gone = send(&mut *stream.io, &JoinMessage::Refuse(error.code().into())).await;
            let _gone = stream.io.shutdown().await;
            Err(((&error).into(), error.to_string()))
        }
        Err(error) => Err((Reason::JoinPending, error.to_string())),
    }
}

async fn session(
    stream: &mut JoinStream,
    exporter: Exporter,
    desk: &impl JoinDesk,
) -> Result<(), SessionError> {
    let JoinMessage::Hello(invite) = receive(&mut *stream.io).await? else {
        return Err(out_of_order());
    };
    let offer = desk.offer(invite).await?;
    send(&mut *stream.io, &JoinMessage::Offer(offer.clone())).await?;
    let JoinMessage::Request(request) = receive(&mut *stream.io).await? else {
        return Err(out_of_order());
    };
    if request.invite != invite {
        return Err(TrustError::UnknownInvite.into());
    }
    let proof = desk.decide(request, offer, exporter).await?;
    send(&mut *stream.io, &JoinMessage::Accept(proof)).await?;
    // The answer must leave before the connection is closed by dropping it.
    stream.io.shutdown().await?;
    Ok(())
}

fn out_of_order() -> SessionError {
    TrustError::MalformedEnvelope("a join message came out of order").into()
}
