//! The one error of this room.
//!
//! Owns what can go wrong in the control plane in the operator's words: what failed, on what, why, what to do. Every variant
//! maps to a [`Reason`]. Never carries a secret.

use std::path::PathBuf;

use strait_federation_api::{Reason, manifest::Finding};
use strait_trust_bridge::TrustError;

use crate::records::Damage;

/// Why the controller could not do something.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControllerError {
    /// Another process holds the state directory.
    #[error("the state directory {} is held by another process; stop it, or use another --state", .0.display())]
    Locked(PathBuf),
    /// Records are missing or damaged. Nothing is guessed: the process does not start.
    #[error("{} of {} must be repaired before anything starts:{}", plural(.damage.len()), .state.display(), list(.damage))]
    RecordLost {
        /// The state directory.
        state: PathBuf,
        /// Every damage found.
        damage: Vec<Damage>,
    },
    /// The manifests are invalid and no earlier state is known.
    #[error("the manifests are invalid:{}", findings(.0))]
    Config(Vec<Finding>),
    /// The file system refused.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried, on which path.
        what: String,
        /// The system's words.
        source: std::io::Error,
    },
    /// An identity, bundle, token or proof was refused.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// A command was refused.
    #[error("{detail}")]
    Refused {
        /// Why.
        reason: Reason,
        /// What, on what, and what to do.
        detail: String,
    },
    /// The controller has stopped.
    #[error("the controller has stopped; start `strait run` again")]
    Stopped,
}

impl ControllerError {
    /// The reason shown in conditions, metrics and exit messages.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Locked(_) => Reason::StateLocked,
            Self::RecordLost { .. } => Reason::RecordLost,
            Self::Config(_) => Reason::ConfigInvalid,
            Self::Io { .. } | Self::Stopped => Reason::Internal,
            Self::Trust(error) => error.into(),
            Self::Refused { reason, .. } => *reason,
        }
    }

    /// A refusal.
    #[must_use]
    pub fn refused(reason: Reason, detail: impl Into<String>) -> Self {
        Self::Refused {
            reason,
            detail: detail.into(),
        }
    }

    /// Wraps an I/O error with what was tried.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

fn plural(count: usize) -> String {
    if count == 1 {
        "one record".into()
    } else {
        format!("{count} records")
    }
}

fn list(damage: &[Damage]) -> String {
    damage
        .iter()
        .fold(String::new(), |text, one| text + "\n  - " + &one.to_string())
}

fn findings(findings: &[Finding]) -> String {
    findings
        .iter()
        .fold(String::new(), |text, one| text + "\n  - " + &one.to_string())
}
