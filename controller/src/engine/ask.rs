//! What others ask of the engine, and how they ask.
//!
//! Owns the messages: commands of people, and the desks of join sessions. Each carries the way back. Never decides.

use strait_federation_api::{
    ClusterId, Reason,
    resources::FederationName,
    view::{InviteView, RotationView},
};
use strait_trust_bridge::{
    InviteId, TrustError,
    join::{Exporter, JoinRequest, PROOF_LEN},
};
use tokio::sync::{mpsc, oneshot};
use zeroize::Zeroizing;

use crate::{
    ControllerError,
    join::{Ended, JoinDesk, JoinerDesk},
};

/// The way back.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, ControllerError>>;
type TrustReply<T> = oneshot::Sender<Result<T, TrustError>>;

/// A command or a question.
pub(crate) enum Ask {
    Invite {
        federation: FederationName,
        ttl: Option<u64>,
        reply: Reply<(Zeroizing<String>, InviteView)>,
    },
    Revoke {
        federation: FederationName,
        reply: Reply<()>,
    },
    Join {
        token: Zeroizing<String>,
        federation: Option<FederationName>,
        reply: Reply<FederationName>,
    },
    SetMode {
        federation: FederationName,
        drain: bool,
        reply: Reply<String>,
    },
    Rotate {
        action: RotateAction,
        reply: Reply<RotationView>,
    },
    /// An inviter's session wants the offer.
    Offer {
        invite: InviteId,
        reply: TrustReply<Vec<u8>>,
    },
    /// An inviter's session has a request.
    Decide {
        request: Box<JoinRequest>,
        offer: Vec<u8>,
        exporter: Exporter,
        reply: TrustReply<[u8; PROOF_LEN]>,
    },
    /// A joiner's session has an offer.
    Answer {
        federation: FederationName,
        offer: Vec<u8>,
        exporter: Exporter,
        reply: TrustReply<JoinRequest>,
    },
    /// A joiner's session has the proof.
    Complete {
        federation: FederationName,
        offer: Vec<u8>,
        request: Box<JoinRequest>,
        exporter: Exporter,
        proof: [u8; PROOF_LEN],
        reply: TrustReply<()>,
    },
    /// A joiner's try ended.
    JoinEnded {
        federation: FederationName,
        ended: Ended,
    },
    /// A join session of somebody ended without a join.
    JoinRefused {
        remote: std::net::SocketAddr,
        reason: Reason,
        why: String,
    },
}

/// What to do about our root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RotateAction {
    /// Say how far it is.
    Status,
    /// Start a planned rotation.
    Start,
    /// Take the next step, whoever lags.
    Force,
    /// Remove the root whose key hash begins with this, at once.
    Remove(String),
}

/// Asks the engine; a stopped engine answers like a lost connection.
#[derive(Clone)]
pub(crate) struct Desk(pub(crate) mpsc::Sender<Ask>);

impl Desk {
    async fn trust<T>(&self, ask: impl FnOnce(TrustReply<T>) -> Ask) -> Result<T, TrustError> {
        let stopped = || TrustError::Crypto("the control plane is stopping".into());
        let (reply, answer) = oneshot::channel();
        self.0.send(ask(reply)).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

impl JoinDesk for Desk {
    async fn offer(&self, invite: InviteId) -> Result<Vec<u8>, TrustError> {
        self.trust(|reply| Ask::Offer { invite, reply }).await
    }

    async fn decide(
        &self,
        request: JoinRequest,
        offer: Vec<u8>,
        exporter: Exporter,
    ) -> Result<[u8; PROOF_LEN], TrustError> {
        self.trust(|reply| Ask::Decide {
            request: Box::new(request),
            offer,
            exporter,
            reply,
        })
        .await
    }
}

/// The joiner's desk of one Federation.
#[derive(Clone)]
pub(crate) struct FederationDesk {
    pub(crate) desk: Desk,
    pub(crate) federation: FederationName,
}

impl JoinerDesk for FederationDesk {
    async fn answer(&self, offer: Vec<u8>, exporter: Exporter) -> Result<JoinRequest, TrustError> {
        let federation = self.federation.clone();
        self.desk
            .trust(|reply| Ask::Answer {
                federation,
                offer,
                exporter,
                reply,
            })
            .await
    }

    async fn complete(
        &self,
        offer: Vec<u8>,
        request: JoinRequest,
        exporter: Exporter,
        proof: [u8; PROOF_LEN],
    ) -> Result<(), TrustError> {
        let federation = self.federation.clone();
        self.desk
            .trust(|reply| Ask::Complete {
                federation,
                offer,
                request: Box::new(request),
                exporter,
                proof,
                reply,
            })
            .await
    }
}

/// How errors of our own disk look to a session: its other side may try again.
pub(crate) fn as_trust(error: ControllerError) -> TrustError {
    match error {
        ControllerError::Trust(error) => error,
        other => {
            tracing::error!(reason = %other.reason(), "{other}");
            TrustError::DamagedRecord("a record could not be written".into())
        }
    }
}

/// A peer that is not known here.
pub(crate) fn unknown_federation(name: &FederationName) -> ControllerError {
    ControllerError::refused(
        Reason::ConfigInvalid,
        format!("there is no Federation '{name}'; see `strait get federations`"),
    )
}

/// For logs: the peer of a report that nobody waits for any more.
pub(crate) fn gone(peer: &ClusterId) {
    tracing::debug!(%peer, "word of a peer that is gone is dropped");
}
