//! Why a peer or a service does not work, step by step, and whose side has to act.
//!
//! Owns the order of the steps, what each needs, and which side a reason points to. Pure: it is given what is known and asks
//! nothing. Called by `check`.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Reason;

mod peer;
mod service;

pub use peer::PeerInput;
pub use service::{PeerLink, ServiceInput};

/// What is to be diagnosed.
#[derive(Debug, Clone)]
pub enum DiagnoseInput {
    /// A peer.
    Peer(PeerInput),
    /// A service.
    Service(ServiceInput),
}

/// Outcome of one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum StepStatus {
    /// It holds.
    Ok,
    /// It does not.
    Fail,
    /// It was not looked at.
    Skipped,
}

/// Who has to act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Side {
    /// This cluster.
    Ours,
    /// The peer.
    Theirs,
    /// The network between.
    Path,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ours => "our side",
            Self::Theirs => "their side",
            Self::Path => "the path between",
        })
    }
}

/// One step of a diagnosis.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// Name: `address`, `reach`, `handshake`, `trust`, `catalog`, `policy`, `probe`; of services also `offered`, `rule`, `import`,
    /// `backends`, `ready`, `name`, `listener`.
    pub name: String,
    /// Outcome.
    pub status: StepStatus,
    /// Why; `None` when skipped.
    pub reason: Option<Reason>,
    /// Who has to act; `None` unless it failed.
    pub whose_side: Option<Side>,
    /// What was found, with names and figures.
    pub detail: String,
    /// What to do; empty unless it failed.
    pub fix: String,
}

impl Step {
    fn ok(name: &str, reason: Reason, detail: impl Into<String>) -> Self {
        Self {
            name: name.to_owned(),
            status: StepStatus::Ok,
            reason: Some(reason),
            whose_side: None,
            detail: detail.into(),
            fix: String::new(),
        }
    }

    /// A failure whose remedy is the reason's own.
    fn fail(name: &str, reason: Reason, side: Side, detail: impl Into<String>) -> Self {
        Self {
            name: name.to_owned(),
            status: StepStatus::Fail,
            reason: Some(reason),
            whose_side: Some(side),
            detail: detail.into(),
            fix: reason.remedy().to_owned(),
        }
    }

    fn with_fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = fix.into();
        self
    }

    fn skipped(name: &str, detail: impl Into<String>) -> Self {
        Self {
            name: name.to_owned(),
            status: StepStatus::Skipped,
            reason: None,
            whose_side: None,
            detail: detail.into(),
            fix: String::new(),
        }
    }
}

/// Steps in order; one that needs a step which did not succeed is skipped and says which.
struct Steps(Vec<Step>);

impl Steps {
    fn add(&mut self, name: &str, needs: &[&str], step: impl FnOnce() -> Step) {
        let missing = needs.iter().find_map(|need| self.blocker(need));
        self.0.push(match missing {
            Some(blocker) => Step::skipped(name, format!("needs {blocker}, which failed")),
            None => step(),
        });
    }

    /// The failed step behind `need`: itself, or the one for which it was skipped.
    fn blocker(&self, need: &str) -> Option<String> {
        let step = self.0.iter().find(|s| s.name == need)?;
        match step.status {
            StepStatus::Ok => None,
            StepStatus::Fail => Some(step.name.clone()),
            StepStatus::Skipped => {
                let cause = step.detail.strip_prefix("needs ").and_then(|d| d.split_once(','));
                cause.map(|(name, _)| name.to_owned())
            }
        }
    }
}

/// The message, or the reason's own meaning where it has none.
fn words(reason: Reason, message: &str) -> String {
    if message.is_empty() {
        reason.meaning().to_owned()
    } else {
        message.to_owned()
    }
}

/// Runs the steps.
#[must_use]
pub fn diagnose(input: &DiagnoseInput) -> Vec<Step> {
    match input {
        DiagnoseInput::Peer(p) => peer::steps(p),
        DiagnoseInput::Service(s) => service::steps(s),
    }
}

/// True if no step failed.
#[must_use]
pub fn is_healthy(steps: &[Step]) -> bool {
    steps.iter().all(|s| s.status != StepStatus::Fail)
}

/// The side a reason points to, seen from the one that was refused or got no answer.
#[must_use]
pub const fn side_of(reason: Reason) -> Side {
    use Reason as R;
    match reason {
        R::Unreachable
        | R::HandshakeTimeout
        | R::PeerSilent
        | R::TunnelLost
        | R::Stale
        | R::PeerExpired
        | R::DeadlineExceeded => Side::Path,
        R::AlpnRefused
        | R::Draining
        | R::Overloaded
        | R::NoEndpoint
        | R::ConnectFailed
        | R::UnknownService
        | R::Denied
        | R::PeerReset
        | R::ProbeFailed
        | R::Ejected
        | R::LeafExpired
        | R::LeafNotYetValid
        | R::MultipleUriSans
        | R::NoUriSan
        | R::BadSpiffeId
        | R::RootPath
        | R::NotAGateway
        | R::LeafIsCa
        | R::KeyUsageWrong
        | R::ExtendedKeyUsageWrong
        | R::PathTooLong
        | R::KeyRemoved
        | R::ChainMalformed
        | R::BundleEmpty
        | R::SequenceRollback
        | R::CertificateRefused
        | R::UpdateNotAuthorised
        | R::PeerLagging
        | R::NoClientCertificate
        | R::UnknownTrustDomain
        | R::UntrustedRoot
        | R::FederationRemoved
        | R::InviteUnknown
        | R::InviteExpired
        | R::InviteRevoked
        | R::InviteSpent
        | R::InviteOpen
        | R::EpochTooOld
        | R::OverLimit
        | R::NotAllowed
        | R::NamespaceMissing
        | R::Withdrawn
        | R::ProtocolViolation => Side::Theirs,
        _ => Side::Ours,
    }
}

#[cfg(test)]
mod tests;
