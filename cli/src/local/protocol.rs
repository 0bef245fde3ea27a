//! Requests and replies of the command socket.
//!
//! Owns their shape, shared by both ends. A reply never holds a secret, with one exception that is the point of asking: the
//! token of a new invite. Read by `local::client` and `local::server`.

use std::fmt;

use serde::{Deserialize, Serialize};
use strait_federation_api::{
    Reason,
    diagnose::Step,
    observation::GatewayStatus,
    view::{ControllerView, InviteView, RotationView},
};

/// What a command asks of the running process.
#[derive(Clone, Serialize, Deserialize)]
#[serde(
    tag = "op",
    rename_all = "kebab-case",
    rename_all_fields = "camelCase",
    deny_unknown_fields
)]
pub(crate) enum Request {
    /// Make an invite.
    Invite {
        /// Federation name; made if absent.
        federation: String,
        /// Life of the token, seconds.
        ttl: Option<u64>,
    },
    /// List invites.
    Invites,
    /// Revoke an invite.
    RevokeInvite {
        /// Federation name.
        federation: String,
    },
    /// Join with a token.
    Join {
        /// The token: a secret.
        token: String,
        /// Federation name; the inviting cluster's id if absent.
        federation: Option<String>,
    },
    /// Everything `get` and `status` print.
    Status,
    /// Find out what stands between here and a target.
    Check {
        /// Peer or service; everything if absent.
        target: Option<String>,
    },
    /// Set `spec.mode` of a Federation.
    Drain {
        /// Federation name.
        federation: String,
        /// Back to Active.
        undo: bool,
    },
    /// Rotate the root.
    RotateRoot {
        /// What to do.
        action: RotateAction,
    },
    /// Our trust domain and bundle.
    Bundle,
    /// Read or change the log directives.
    LogLevel {
        /// New ones.
        set: Option<String>,
    },
}

impl fmt::Debug for Request {
    /// Names the request only: a token must not reach a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Invite { .. } => "invite",
            Self::Invites => "invites",
            Self::RevokeInvite { .. } => "revoke-invite",
            Self::Join { .. } => "join",
            Self::Status => "status",
            Self::Check { .. } => "check",
            Self::Drain { .. } => "drain",
            Self::RotateRoot { .. } => "rotate-root",
            Self::Bundle => "bundle",
            Self::LogLevel { .. } => "log-level",
        })
    }
}

/// What to do about the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum RotateAction {
    /// Say how far it is.
    Status,
    /// Start a planned rotation.
    Start,
    /// Go on without lagging peers.
    Force,
    /// Remove the root with this key hash at once.
    Remove(String),
}

/// What the running process answers.
#[derive(Clone, Serialize, Deserialize)]
#[serde(
    tag = "kind",
    content = "value",
    rename_all = "kebab-case",
    rename_all_fields = "camelCase"
)]
pub(crate) enum Reply {
    /// A new invite.
    Invited {
        /// The token: a secret, shown once.
        token: String,
        /// The invite.
        invite: InviteView,
    },
    /// Invites.
    Invites(Vec<InviteView>),
    /// Done, in one sentence.
    Done {
        /// The sentence.
        message: String,
    },
    /// A join is under way under this Federation name.
    Joining {
        /// Federation name.
        federation: String,
    },
    /// How everything is.
    Status(Box<StatusReply>),
    /// What `check` found, one entry a peer or service; empty if the target is neither.
    Check(Vec<Diagnosis>),
    /// Root rotation.
    Rotation(RotationView),
    /// Trust domain and bundle.
    Bundle(BundleReply),
    /// Log directives in force.
    LogLevel {
        /// The directives.
        directives: String,
    },
}

impl fmt::Debug for Reply {
    /// Names the reply only: a token must not reach a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Invited { .. } => "invited",
            Self::Invites(_) => "invites",
            Self::Done { .. } => "done",
            Self::Joining { .. } => "joining",
            Self::Status(_) => "status",
            Self::Check(_) => "check",
            Self::Rotation(_) => "rotation",
            Self::Bundle(_) => "bundle",
            Self::LogLevel { .. } => "log-level",
        })
    }
}

/// How everything is.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StatusReply {
    /// Version of the running binary.
    pub(crate) version: String,
    /// Its process id.
    pub(crate) pid: u32,
    /// Seconds since it started.
    pub(crate) uptime: u64,
    /// What readiness still waits for; ready when empty.
    pub(crate) not_ready: Vec<String>,
    /// Control plane.
    pub(crate) controller: ControllerView,
    /// Data plane.
    pub(crate) gateway: GatewayStatus,
}

/// What stands between here and one peer or service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Diagnosis {
    /// `peer NAME` or `service NAMESPACE/NAME`.
    pub(crate) target: String,
    /// Steps, in order.
    pub(crate) steps: Vec<Step>,
}

/// What the other side of static trust needs.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BundleReply {
    /// Our trust domain.
    pub(crate) trust_domain: String,
    /// Sequence of the bundle.
    pub(crate) sequence: u64,
    /// The SPIFFE bundle document.
    pub(crate) spiffe: String,
}

/// Why the running process refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    /// Reason, where one of the table applies.
    pub(crate) reason: Option<Reason>,
    /// What failed, on what object, why.
    pub(crate) message: String,
    /// What to do.
    pub(crate) help: Option<String>,
}

impl Failure {
    /// A failure in words.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            reason: None,
            message: message.into(),
            help: None,
        }
    }

    /// The request is of another version.
    pub(crate) fn version(found: u32) -> Self {
        let message = format!(
            "the running strait speaks version {} of the command protocol, not {found}",
            super::PROTOCOL_VERSION
        );
        Self {
            reason: Some(Reason::VersionSkew),
            message,
            help: Some("use the binary the process runs, or restart it".into()),
        }
    }

    /// The request cannot be parsed.
    pub(crate) fn malformed(why: &dyn fmt::Display) -> Self {
        Self {
            reason: Some(Reason::Malformed),
            message: format!("the request cannot be parsed: {why}"),
            help: None,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// A versioned line.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Envelope<T> {
    /// See [`super::PROTOCOL_VERSION`].
    pub(crate) version: u32,
    /// What is said.
    pub(crate) body: T,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_never_shows_a_token() {
        let join = Request::Join {
            token: "sekrit".into(),
            federation: None,
        };
        assert!(!format!("{join:?}").contains("sekrit"));
    }

    #[test]
    fn an_unknown_operation_is_named() {
        let error = serde_json::from_str::<Request>(r#"{"op":"format-disk"}"#).unwrap_err();
        assert!(error.to_string().contains("format-disk"));
    }
}
