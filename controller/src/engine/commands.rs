//! Commands of people.
//!
//! Owns what each does and answers. Called by the engine.

use std::path::Path;

use strait_federation_api::{
    Reason,
    resources::{Federation, FederationName, InviteTrust, Trust},
    snapshot::PeerMode,
    view::{InviteView, RotationView},
};
use strait_trust_bridge::JoinToken;
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use super::{Ask, Engine, RotateAction, ask::unknown_federation};
use crate::{
    ControllerError, clock,
    join::view_of,
    records::{Disk, FileDisk},
    trust::{Origin, RotationFacts},
};

impl Engine {
    /// Answers one; gives whether anything follows from it.
    pub(super) fn answer(&mut self, ask: Ask) -> bool {
        // A session or person that is gone misses its answer: what was done stays done.
        match ask {
            Ask::Invite {
                federation,
                ttl,
                reply,
            } => {
                let made = self.invite(&federation, ttl);
                self.answer_settled(reply, made);
            }
            Ask::Revoke { federation, reply } => {
                let revoked = self.revoke(&federation);
                self.answer_settled(reply, revoked);
            }
            Ask::Join {
                token,
                federation,
                reply,
            } => {
                let begun = self.join(&token, federation);
                self.answer_settled(reply, begun);
            }
            Ask::SetMode {
                federation,
                drain,
                reply,
            } => drop(reply.send(self.set_mode(&federation, drain))),
            Ask::Rotate { action, reply } => drop(reply.send(self.rotate(&action))),
            Ask::Offer { invite, reply } => {
                let _gone = reply.send(self.offer(invite));
                return false;
            }
            Ask::Decide {
                request,
                offer,
                exporter,
                reply,
            } => drop(reply.send(self.decide(&request, &offer, &exporter))),
            Ask::Answer {
                federation,
                offer,
                exporter,
                reply,
            } => {
                let _gone = reply.send(self.answer_offer(&federation, &offer, &exporter));
                return false;
            }
            Ask::Complete {
                federation,
                offer,
                request,
                exporter,
                proof,
                reply,
            } => drop(reply.send(self.complete(&federation, (&offer, &request, &exporter), &proof))),
            Ask::JoinEnded { federation, ended } => self.on_join_ended(&federation, ended),
            Ask::JoinRefused { remote, reason, why } => {
                self.metrics
                    .joins_refused
                    .get_or_create(&crate::metrics::ReasonLabel {
                        reason: reason.name(),
                    })
                    .inc();
                tracing::warn!(%remote, %reason, "a join session ended without a join: {why}");
                return false;
            }
        }
        true
    }

    /// Whoever asked looks at the view next: it must not show how things stood before.
    fn answer_settled<T>(&mut self, reply: oneshot::Sender<T>, answer: T) {
        self.settle();
        // A person that is gone misses its answer.
        drop(reply.send(answer));
    }

    fn invite(
        &mut self,
        name: &FederationName,
        ttl: Option<u64>,
    ) -> Result<(Zeroizing<String>, InviteView), ControllerError> {
        let ttl = ttl.map(duration).transpose()?;
        let spec = self.invite_spec(name)?;
        if let Some(open) = self.open_invite(name, spec.serial, ttl) {
            return Ok(open);
        }
        let used = self
            .invites
            .get(name)
            .is_some_and(|record| record.serial >= spec.serial);
        let spec = InviteTrust {
            ttl: ttl.unwrap_or(spec.ttl),
            serial: if used {
                spec.serial.saturating_add(1)
            } else {
                spec.serial
            },
        };
        // The invite first: a manifest that asks for it later finds it made.
        self.make_invite(name, spec.serial, spec.ttl.get())?;
        let file = self.write_trust(name, &Trust::Invite(spec.clone()))?;
        tracing::info!(federation = %name, file = %file.display(), serial = spec.serial, "an invite is open");
        self.open_invite(name, spec.serial, None).ok_or_else(|| {
            ControllerError::refused(Reason::InviteExpired, "the invite expired while it was made")
        })
    }

    /// What the manifest of a Federation asks for, or would.
    fn invite_spec(&self, name: &FederationName) -> Result<InviteTrust, ControllerError> {
        Ok(
            match self
                .set()
                .federations
                .get(name)
                .map(|federation| &federation.spec.trust)
            {
                Some(Trust::Static(_)) => {
                    return Err(ControllerError::refused(
                        Reason::ConfigInvalid,
                        format!(
                            "the Federation '{name}' has static trust; change spec.trust in its file by hand if you mean to invite"
                        ),
                    ));
                }
                Some(Trust::Invite(spec)) => spec.clone(),
                Some(Trust::Join(_)) | None => InviteTrust {
                    // Not one that a former invite of this Federation was made for: that one is spent.
                    serial: self
                        .invites
                        .get(name)
                        .map_or(1, |record| record.serial.saturating_add(1)),
                    ..InviteTrust::default()
                },
            },
        )
    }

    /// The token of an open invite. A ttl asks for a new one.
    fn open_invite(
        &self,
        name: &FederationName,
        serial: u32,
        ttl: Option<strait_federation_api::resources::HumanDuration>,
    ) -> Option<(Zeroizing<String>, InviteView)> {
        let record = self
            .invites
            .get(name)
            .filter(|record| record.serial == serial && ttl.is_none())?;
        Some((self.invites.token(name, clock::unix_time())?, view_of(record)))
    }

    fn revoke(&mut self, name: &FederationName) -> Result<(), ControllerError> {
        let Some(joiner) = self.invites.revoke(name, clock::unix_time())? else {
            return Ok(());
        };
        let bound = self
            .trusted
            .iter()
            .find(|(_, record)| record.peer.trust_domain() == &joiner && !record.activated)
            .map(|(peer, _)| peer.clone());
        match bound {
            Some(peer) => self.forget_peer(&peer),
            None => Ok(()),
        }
    }

    fn join(&mut self, text: &str, name: Option<FederationName>) -> Result<FederationName, ControllerError> {
        let token = JoinToken::decode(text)?;
        let cluster = token.trust_domain().cluster_id()?;
        let name = match name {
            Some(name) => name,
            None => FederationName::parse(cluster.as_str()).map_err(|e| {
                ControllerError::refused(Reason::ConfigInvalid, format!("give a --name: {e}"))
            })?,
        };
        let federation = self.set().federations.get(&name).cloned();
        if let Some(Federation { spec, .. }) = &federation
            && let Trust::Static(_) = spec.trust
        {
            return Err(ControllerError::refused(
                Reason::ConfigInvalid,
                format!(
                    "the Federation '{name}' has static trust; give another --name, or change spec.trust in its file by hand"
                ),
            ));
        }
        if self.trusted.of_federation(&name).is_some_and(|r| {
            r.origin
                == (Origin::Join {
                    invite: token.invite(),
                })
        }) {
            return Ok(name);
        }
        // Durable before a byte is sent, and before the manifest speaks of it.
        self.begin_join(
            &name,
            token,
            federation.as_ref().and_then(Federation::peer_cluster),
        )?;
        let file = self.token_file(&name);
        write_private(&file, text.as_bytes())?;
        let source = strait_federation_api::resources::TokenSource::TokenFile(file);
        let manifest = self.write_trust(&name, &Trust::Join(source))?;
        tracing::info!(federation = %name, peer = %cluster, file = %manifest.display(), "joining");
        self.start_joins();
        Ok(name)
    }

    fn set_mode(&mut self, name: &FederationName, drain: bool) -> Result<String, ControllerError> {
        if !self.set().federations.contains_key(name) {
            return Err(unknown_federation(name));
        }
        let mode = if drain { PeerMode::Drain } else { PeerMode::Active };
        // Written whatever the set says: the file may have changed since it was read.
        let file = self.write_mode(name, mode)?;
        Ok(format!(
            "spec.mode of the Federation '{name}' is now {mode:?} (in {})",
            file.display()
        ))
    }

    fn rotate(&mut self, action: &RotateAction) -> Result<RotationView, ControllerError> {
        let now = clock::unix_time();
        match action {
            RotateAction::Status => {}
            RotateAction::Start => {
                self.authority.begin_rotation(now)?;
                tracing::info!("the next root is published; waiting for peers to acknowledge it");
            }
            RotateAction::Force => {
                let step = self.authority.force_step(now)?;
                tracing::warn!(
                    ?step,
                    "a step of the rotation was forced; lagging peers must join again"
                );
            }
            RotateAction::Remove(text) => self.remove_root(text)?,
        }
        self.advance_rotation();
        Ok(self.authority.rotation_view(&self.peer_domains()))
    }

    fn remove_root(&mut self, text: &str) -> Result<(), ControllerError> {
        let key = self.authority.root_named(text)?;
        let rejoin = self
            .authority
            .remove_root(key, &self.peer_domains(), clock::unix_time())?;
        tracing::warn!(%key, "a root was removed at once; tunnels that rest on it end");
        for domain in rejoin {
            tracing::warn!(peer = %domain, "this peer holds no other root of ours: it must join again");
        }
        Ok(())
    }

    /// Takes the step of a rotation that is due.
    pub(super) fn advance_rotation(&mut self) -> bool {
        let outdated = self.carrier.as_ref().map(|carrier| {
            let status = carrier.gateway.borrow();
            status.tunnels.iter().filter(|tunnel| tunnel.outdated).count()
        });
        let facts = RotationFacts {
            peers: self.peer_domains(),
            outdated_connections: outdated,
            ack_grace: self.timing.ack_grace,
        };
        match self.authority.advance(&facts, clock::unix_time()) {
            Ok(Some(step)) => {
                tracing::info!(?step, "the rotation of our root took a step");
                true
            }
            Ok(None) => false,
            Err(error) => self.failed("advance the rotation", &error),
        }
    }
}

/// A token's life as the manifest will say it: never one that the manifest's check refuses.
fn duration(seconds: u64) -> Result<strait_federation_api::resources::HumanDuration, ControllerError> {
    Some(seconds)
        .filter(|seconds| *seconds <= InviteTrust::TTL_MAX_SECS)
        .and_then(strait_federation_api::resources::HumanDuration::from_secs)
        .ok_or_else(|| {
            ControllerError::refused(
                Reason::ConfigInvalid,
                "--ttl must be at least a second and at most 30 days",
            )
        })
}

/// Writes a file that holds a secret.
fn write_private(path: &Path, bytes: &[u8]) -> Result<(), ControllerError> {
    let what = || format!("write {}", path.display());
    let disk = FileDisk;
    let dir = path.parent().unwrap_or(path);
    let temp = path.with_extension("tmp");
    disk.create_dir(dir).map_err(ControllerError::io(what()))?;
    disk.write(&temp, bytes).map_err(ControllerError::io(what()))?;
    disk.sync_file(&temp).map_err(ControllerError::io(what()))?;
    disk.rename(&temp, path).map_err(ControllerError::io(what()))?;
    disk.sync_dir(dir).map_err(ControllerError::io(what()))
}
