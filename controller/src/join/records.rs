//! The records of invites and joins.

use serde::{Deserialize, Serialize};
use strait_federation_api::{Reason, resources::FederationName, view::InviteView};
use strait_trust_bridge::{
    invite::{Invite, InviteState},
    join::JoinAttempt,
};

use crate::records::Record;

/// One invite of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InviteRecord {
    /// The Federation it is for.
    pub(crate) federation: FederationName,
    /// `spec.trust.invite.serial` it was made for: another one asks for another invite.
    pub(crate) serial: u32,
    /// The invite; holds the secret while it may be used.
    pub(crate) invite: Invite,
}

impl Record for InviteRecord {
    const KIND: &'static str = "invite";
    const SCHEMA: u32 = 1;
}

/// One join of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct JoinRecord {
    /// The Federation it is for.
    pub(crate) federation: FederationName,
    /// The invite it uses; kept when the token is erased, so that the same token is not tried again.
    pub(crate) invite: strait_trust_bridge::InviteId,
    /// The attempt; holds the token while it is pending. `None` after a final refusal.
    pub(crate) attempt: Option<JoinAttempt>,
    /// Why the last try ended, for people.
    pub(crate) last: Option<(Reason, String)>,
}

impl Record for JoinRecord {
    const KIND: &'static str = "join";
    const SCHEMA: u32 = 1;
}

/// An invite as people see it.
pub(crate) fn view_of(record: &InviteRecord) -> InviteView {
    let (state, bound_to) = match record.invite.state() {
        InviteState::Open => (Reason::InviteOpen, None),
        InviteState::Bound { joiner } => (Reason::JoinPending, Some(joiner.trust_domain.clone())),
        InviteState::Activated { joiner } => (Reason::Trusted, Some(joiner.trust_domain.clone())),
        InviteState::Expired => (Reason::InviteExpired, None),
        InviteState::Revoked => (Reason::InviteRevoked, None),
    };
    InviteView {
        federation: record.federation.to_string(),
        serial: record.serial,
        state,
        expires: i64::try_from(record.invite.expires()).unwrap_or(i64::MAX),
        bound_to,
    }
}
