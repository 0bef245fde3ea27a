//! [`Invite`]: the inviter's side of joining, as a pure state machine over a record.
//!
//! Owns who may use an invite and until when. Open → Bound (to the first valid joiner's root) → Activated; or Expired, or
//! Revoked. Only this clock judges expiry. The controller persists each new state before it answers, and bounds the attempts of
//! each source.

use rustls_pki_types::UnixTime;
use serde::{Deserialize, Serialize};

use crate::envelope::decode_payload;
use crate::join::{Exporter, JoinRequest, PROOF_LEN, Prover, Transcript};
use crate::signer_chain::verify_signer_chain;
use crate::token::{InviteId, JoinToken};
use crate::{PeerTrust, RootFingerprint, TrustDomain, TrustError};

/// Who an invite is bound to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Joiner {
    /// The joiner's trust domain.
    pub trust_domain: TrustDomain,
    /// The root under which its issuing CA signed.
    pub root: RootFingerprint,
}

/// Where an invite stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "camelCase", deny_unknown_fields)]
pub enum InviteState {
    /// Nobody has used it.
    Open,
    /// A joiner has proven the secret; its control connection has not been seen yet.
    Bound {
        /// Who.
        joiner: Joiner,
    },
    /// The joiner's control connection was seen: the join is done on both sides.
    Activated {
        /// Who.
        joiner: Joiner,
    },
    /// Nobody used it in time.
    Expired,
    /// An operator took it back.
    Revoked,
}

/// The inviter's record of one invite. The token, and with it the secret, is erased as soon as nobody may use it any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Invite {
    id: InviteId,
    expires: u64,
    state: InviteState,
    token: Option<JoinToken>,
}

/// A request that was accepted. Persist `invite` and `peer`, trust the peer, then answer with `proof`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// The invite, bound.
    pub invite: Invite,
    /// What to trust the joiner with.
    pub peer: PeerTrust,
    /// Our proof, for [`crate::join::JoinMessage::Accept`].
    pub proof: [u8; PROOF_LEN],
}

/// What a decision is made with, beside the invite.
#[derive(Debug, Clone, Copy)]
pub struct InviteContext<'a> {
    /// Our own trust domain.
    pub own: &'a TrustDomain,
    /// The offer that was sent on this session.
    pub offer: &'a [u8],
    /// Exported from this session.
    pub exporter: &'a Exporter,
    /// Trust domains that other Federations list.
    pub taken: &'a [TrustDomain],
}

impl Invite {
    /// A fresh invite for a token.
    #[must_use]
    pub const fn new(token: JoinToken) -> Self {
        Self {
            id: token.invite(),
            expires: token.expires(),
            state: InviteState::Open,
            token: Some(token),
        }
    }

    /// The id, as in the token.
    #[must_use]
    pub const fn id(&self) -> InviteId {
        self.id
    }

    /// Unix seconds.
    #[must_use]
    pub const fn expires(&self) -> u64 {
        self.expires
    }

    /// Where it stands.
    #[must_use]
    pub const fn state(&self) -> &InviteState {
        &self.state
    }

    /// Whether a join may be offered for it now; what a [`crate::tls::JoinGate`] asks.
    #[must_use]
    pub fn is_usable(&self, now: UnixTime) -> bool {
        self.usable_token(now).is_ok()
    }

    /// The token, while somebody may use it: to show it once more to the person who asked for it.
    #[must_use]
    pub fn token(&self, now: UnixTime) -> Option<&JoinToken> {
        self.usable_token(now).ok()
    }

    /// Decides on a request: the first valid one binds the invite to its root, the same joiner may come again until expiry.
    ///
    /// # Errors
    /// [`TrustError::UnknownInvite`], [`TrustError::InviteExpired`], [`TrustError::InviteRevoked`], [`TrustError::InviteSpent`],
    /// [`TrustError::BadProof`], [`TrustError::OwnTrustDomain`], [`TrustError::TrustDomainTaken`], [`TrustError::ClusterIdTaken`],
    /// [`TrustError::InviteBound`],
    /// [`TrustError::BadSignature`], or as [`verify_signer_chain`] and [`decode_payload`].
    pub fn decide(
        &self,
        request: &JoinRequest,
        context: &InviteContext<'_>,
        now: UnixTime,
    ) -> Result<Accepted, TrustError> {
        if request.invite != self.id {
            return Err(TrustError::UnknownInvite);
        }
        let token = self.usable_token(now)?;
        let transcript = Transcript {
            exporter: context.exporter,
            joiner: &request.payload,
            inviter: context.offer,
        };
        // Whoever does not know the secret gets no further: nothing it sent has been parsed yet.
        transcript.check(token, Prover::Joiner, &request.proof)?;
        let peer = PeerTrust::new(decode_payload(&request.payload)?)?;
        let domain = peer.trust_domain().clone();
        if domain == *context.own {
            return Err(TrustError::OwnTrustDomain(domain));
        }
        if context.taken.contains(&domain) {
            return Err(TrustError::TrustDomainTaken(domain));
        }
        let same_id = |known: &TrustDomain| known.cluster_id().is_ok_and(|id| id == *peer.cluster());
        if same_id(context.own) || context.taken.iter().any(same_id) {
            return Err(TrustError::ClusterIdTaken(peer.cluster().clone()));
        }
        let signer = verify_signer_chain(&request.chain, now, peer.bundle())?;
        signer.verify(&transcript.signed_bytes(), &request.signature)?;
        let joiner = Joiner {
            trust_domain: domain,
            root: signer.root,
        };
        if matches!(&self.state, InviteState::Bound { joiner: bound } if *bound != joiner) {
            return Err(TrustError::InviteBound);
        }
        let proof = transcript.prove(token, Prover::Inviter)?;
        let invite = Self {
            state: InviteState::Bound { joiner },
            ..self.clone()
        };
        Ok(Accepted { invite, peer, proof })
    }

    /// The joiner's first control connection was verified: the invite is done and the secret erased. Again for the same peer
    /// changes nothing. Gives whether anything changed.
    ///
    /// # Errors
    /// [`TrustError::WrongJoinState`] if the invite is not bound to this trust domain.
    pub fn activate(&mut self, peer: &TrustDomain) -> Result<bool, TrustError> {
        match &self.state {
            InviteState::Bound { joiner } if joiner.trust_domain == *peer => {
                self.state = InviteState::Activated {
                    joiner: joiner.clone(),
                };
                self.token = None;
                Ok(true)
            }
            InviteState::Activated { joiner } if joiner.trust_domain == *peer => Ok(false),
            _ => Err(TrustError::WrongJoinState("the invite is not bound to this peer")),
        }
    }

    /// Erases what time has made useless: an open invite expires; a bound one keeps its joiner, who may still connect, but
    /// loses the secret. Gives whether anything changed.
    pub fn sweep(&mut self, now: UnixTime) -> bool {
        if now.as_secs() < self.expires || self.token.is_none() {
            return false;
        }
        if self.state == InviteState::Open {
            self.state = InviteState::Expired;
        }
        self.token = None;
        true
    }

    /// Takes the invite back; a joiner that was bound is to be trusted no more. Gives it.
    ///
    /// # Errors
    /// [`TrustError::InviteSpent`] once activated: remove the Federation instead.
    pub fn revoke(&mut self) -> Result<Option<Joiner>, TrustError> {
        let joiner = match &self.state {
            InviteState::Activated { .. } => return Err(TrustError::InviteSpent),
            InviteState::Bound { joiner } => Some(joiner.clone()),
            _ => None,
        };
        self.state = InviteState::Revoked;
        self.token = None;
        Ok(joiner)
    }

    fn usable_token(&self, now: UnixTime) -> Result<&JoinToken, TrustError> {
        match (&self.state, &self.token) {
            (InviteState::Revoked, _) => Err(TrustError::InviteRevoked),
            (InviteState::Activated { .. }, _) => Err(TrustError::InviteSpent),
            (InviteState::Open | InviteState::Bound { .. }, Some(token)) if now.as_secs() < self.expires => {
                Ok(token)
            }
            _ => Err(TrustError::InviteExpired),
        }
    }
}
