//! What the command socket and the dump say: requests in, the rooms' answers out.
//!
//! Owns the translation and nothing else. Used by `run`.

use std::{sync::Arc, time::Instant};

use serde_json::json;
use strait_controller::{ControllerError, ControllerHandle};
use strait_federation_api::{Reason, observation::GatewayStatus};
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::check::Checker;
use crate::{
    exit::CliError,
    local::{BundleReply, Failure, Handler, Reply, Request, RotateAction, StatusReply},
    logging::LogLevel,
    readiness::Readiness,
};

/// Everything a request may need.
pub(super) struct Service {
    pub(super) controller: ControllerHandle,
    pub(super) gateway: watch::Receiver<Arc<GatewayStatus>>,
    pub(super) checker: Checker,
    pub(super) readiness: Readiness,
    pub(super) log: LogLevel,
    pub(super) started: Instant,
}

impl Service {
    /// Snapshot and status as JSON: neither type can hold a secret.
    pub(super) fn dump(&self) -> String {
        let snapshot = self.controller.snapshot();
        json!({"snapshot": *snapshot, "status": self.status()}).to_string()
    }

    fn status(&self) -> StatusReply {
        StatusReply {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime: self.started.elapsed().as_secs(),
            not_ready: self.readiness.missing().into_iter().map(str::to_owned).collect(),
            controller: (*self.controller.view()).clone(),
            gateway: (**self.gateway.borrow()).clone(),
        }
    }

    async fn invite(&self, federation: &str, ttl: Option<u64>) -> Result<Reply, Failure> {
        let invited = self.controller.invite(federation, ttl).await?;
        Ok(Reply::Invited {
            token: (*invited.token).clone(),
            invite: invited.invite,
        })
    }

    async fn join(&self, token: String, federation: Option<&str>) -> Result<Reply, Failure> {
        let federation = self.controller.join(Zeroizing::new(token), federation).await?;
        Ok(Reply::Joining {
            federation: federation.to_string(),
        })
    }

    fn bundle(&self) -> Reply {
        let bundle = self.controller.bundle();
        Reply::Bundle(BundleReply {
            trust_domain: bundle.trust_domain.to_string(),
            sequence: bundle.sequence,
            spiffe: bundle.spiffe,
        })
    }

    fn log_level(&self, set: Option<&str>) -> Result<Reply, Failure> {
        if let Some(directives) = set {
            self.log.set(directives)?;
            tracing::info!(directives, "log level changed");
        }
        Ok(Reply::LogLevel {
            directives: self.log.get(),
        })
    }
}

impl Handler for Service {
    async fn handle(&self, request: Request) -> Result<Reply, Failure> {
        match request {
            Request::Invite { federation, ttl } => self.invite(&federation, ttl).await,
            Request::Invites => Ok(Reply::Invites(self.controller.view().invites.clone())),
            Request::RevokeInvite { federation } => {
                self.controller.revoke_invite(&federation).await?;
                Ok(Reply::Done {
                    message: format!("the invite of federation {federation:?} is revoked"),
                })
            }
            Request::Join { token, federation } => self.join(token, federation.as_deref()).await,
            Request::Status => Ok(Reply::Status(Box::new(self.status()))),
            Request::Check { target } => Ok(Reply::Check(self.checker.check(target.as_deref()).await)),
            Request::Drain { federation, undo } => Ok(Reply::Done {
                message: self.controller.drain(&federation, undo).await?,
            }),
            Request::RotateRoot { action } => {
                Ok(Reply::Rotation(self.controller.rotate_root(action.into()).await?))
            }
            Request::Bundle => Ok(self.bundle()),
            Request::LogLevel { set } => self.log_level(set.as_deref()),
        }
    }
}

impl From<RotateAction> for strait_controller::RotateAction {
    fn from(action: RotateAction) -> Self {
        match action {
            RotateAction::Status => Self::Status,
            RotateAction::Start => Self::Start,
            RotateAction::Force => Self::Force,
            RotateAction::Remove(hash) => Self::Remove(hash),
        }
    }
}

impl From<ControllerError> for Failure {
    fn from(e: ControllerError) -> Self {
        // What a command was refused for is no manifest's mistake: its own words say what to do, `strait validate` would find nothing.
        let own_words = matches!(&e, ControllerError::Refused { .. } | ControllerError::Trust(_))
            && e.reason() == Reason::ConfigInvalid;
        Self {
            reason: (!own_words).then(|| e.reason()),
            ..Self::new(e.to_string())
        }
    }
}

impl From<CliError> for Failure {
    fn from(e: CliError) -> Self {
        Self {
            reason: e.reason,
            message: e.message,
            help: e.help,
        }
    }
}
