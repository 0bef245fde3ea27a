//! The engine's side of joins: what is written, and in which order.
//!
//! Owns the order of records on both sides, so that a stop between any two of them ends joined or can be run again. Called by the
//! engine for the desks of sessions, and when control streams arrive.

use strait_federation_api::{
    ClusterId, Reason, TrustDomain,
    control::JoinStream,
    resources::{Federation, FederationName},
};
use strait_trust_bridge::{
    InviteId, PeerTrust, TrustError,
    envelope::encode_payload,
    invite::{InviteContext, InviteState},
    join::{Exporter, JoinAttempt, JoinRequest, PROOF_LEN},
};

use super::{
    Ask, Engine,
    ask::{FederationDesk, as_trust},
    join_task::{addresses_of, keep_joining, token_facts},
};
use crate::{
    ControllerError, clock,
    join::{Ended, InviteRecord, Retry, Running, serve},
    trust::{Origin, TrustRecord},
};

/// Join sessions served at a time: each holds some 100 KiB at most.
pub(crate) const SESSIONS_MAX: usize = 16;

impl Engine {
    /// The bundle to offer to somebody who comes with an invite.
    pub(super) fn offer(&self, invite: InviteId) -> Result<Vec<u8>, TrustError> {
        let record = self.invites.named(invite)?;
        // Who cannot use it is told why before anything else is said.
        if !record.invite.is_usable(clock::unix_time()) {
            return Err(match record.invite.state() {
                InviteState::Revoked => TrustError::InviteRevoked,
                InviteState::Activated { .. } => TrustError::InviteSpent,
                _ => TrustError::InviteExpired,
            });
        }
        Ok(encode_payload(&self.authority.ca().bundle()?))
    }

    /// Decides on a request. The invite's binding is durable before the trust, and the trust before the answer: a stop after
    /// either leaves the same joiner free to come again.
    pub(super) fn decide(
        &mut self,
        request: &JoinRequest,
        offer: &[u8],
        exporter: &Exporter,
    ) -> Result<[u8; PROOF_LEN], TrustError> {
        let now = clock::unix_time();
        let record = self.invites.named(request.invite)?.clone();
        let taken = self.domains_of_others(&record.federation);
        let context = InviteContext {
            own: self.authority.ca().trust_domain(),
            offer,
            exporter,
            taken: &taken,
        };
        let accepted = record.invite.decide(request, &context, now)?;
        self.check_joiner(&record.federation, &accepted.peer)?;
        let bound = InviteRecord {
            invite: accepted.invite,
            ..record
        };
        let (federation, proof) = (bound.federation.clone(), accepted.proof);
        self.invites.put(bound, now).map_err(as_trust)?;
        self.hold_joiner(federation, request.invite, accepted.peer)
            .map_err(as_trust)?;
        Ok(proof)
    }

    /// A peer's name and domain must be free here. The other side learns no more than that they are not.
    fn check_joiner(&self, federation: &FederationName, peer: &PeerTrust) -> Result<(), TrustError> {
        let set = self.set();
        let stated = set.federations.get(federation).and_then(Federation::peer_cluster);
        self.check_free(federation, peer, stated).map_err(|error| {
            tracing::warn!(%federation, domain = %peer.trust_domain(), reason = %error.reason(), "a join is refused: {error}");
            match error {
                ControllerError::Trust(error) => error,
                _ => TrustError::TrustDomainTaken(peer.trust_domain().clone()),
            }
        })
    }

    fn hold_joiner(
        &mut self,
        federation: FederationName,
        invite: InviteId,
        peer: PeerTrust,
    ) -> Result<(), ControllerError> {
        let domain = peer.trust_domain().clone();
        // A joiner that is active already does not wait for its control stream again.
        let held = self.trusted.get(peer.cluster());
        let activated = held.is_some_and(|held| held.activated && *held.peer.trust_domain() == domain);
        tracing::info!(%federation, %domain, "a joiner has proven the invite's secret; waiting for its control connection");
        self.replace_trust(TrustRecord {
            federation,
            origin: Origin::Invite { invite },
            peer,
            addresses: Vec::new(),
            activated,
        })
    }

    /// Our request for an inviter's offer.
    pub(super) fn answer_offer(
        &self,
        federation: &FederationName,
        offer: &[u8],
        exporter: &Exporter,
    ) -> Result<JoinRequest, TrustError> {
        self.attempt(federation)?
            .answer(offer, exporter, self.authority.ca())
    }

    /// Takes an inviter's proof: trust is durable before the token is erased.
    pub(super) fn complete(
        &mut self,
        federation: &FederationName,
        (offer, request, exporter): (&[u8], &JoinRequest, &Exporter),
        proof: &[u8; PROOF_LEN],
    ) -> Result<(), TrustError> {
        let attempt = self.attempt(federation)?;
        let token = attempt.token()?.clone();
        let JoinAttempt::Joined { peer } = attempt.complete(offer, request, exporter, proof)? else {
            return Err(TrustError::WrongJoinState("the attempt did not complete"));
        };
        self.check_joiner(federation, &peer)?;
        let cluster = peer.cluster().clone();
        let trust = TrustRecord {
            federation: federation.clone(),
            origin: Origin::Join {
                invite: token.invite(),
            },
            peer,
            addresses: addresses_of(&token),
            activated: true,
        };
        self.replace_trust(trust).map_err(as_trust)?;
        // What it said of our bundle before it was given the present one counts no more.
        self.with(&cluster, |peering| peering.bundle_refused = None);
        self.metrics.joins.inc();
        tracing::info!(%federation, peer = %cluster, "joined");
        self.close_join(federation);
        self.start_tasks();
        Ok(())
    }

    /// The token of a completed join is erased; a stop before this is made good at the next start. The file goes first: once the
    /// record says that the join is over, nobody looks for it any more.
    pub(super) fn close_join(&mut self, federation: &FederationName) {
        self.remove_token(federation);
        if let Err(error) = self
            .joins
            .note(federation, Reason::Trusted, "joined".into(), true)
        {
            self.failed("erase a used token", &error);
        }
    }

    /// Removes the file that `strait join` wrote.
    pub(super) fn remove_token(&self, federation: &FederationName) {
        let file = self.token_file(federation);
        if let Err(error) = std::fs::remove_file(&file)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(file = %file.display(), %error, "a used token could not be removed");
        }
    }

    /// Where `strait join` keeps a token until it is used.
    pub(super) fn token_file(&self, federation: &FederationName) -> std::path::PathBuf {
        // Manifests name it, and a relative path there starts at the manifests' folder.
        let state = self.records.state_dir();
        std::path::absolute(state)
            .unwrap_or_else(|_| state.to_path_buf())
            .join("tokens")
            .join(format!("{federation}.token"))
    }

    /// A control stream of a peer: the first one proves that a joiner holds our bundle.
    pub(super) fn activate(&mut self, peer: &ClusterId, domain: &TrustDomain) -> Result<(), ControllerError> {
        let Some(record) = self
            .trusted
            .get(peer)
            .filter(|record| record.peer.trust_domain() == domain)
            .cloned()
        else {
            return Err(TrustError::UnknownTrustDomain(domain.clone()).into());
        };
        if let Origin::Invite { invite } = record.origin
            && self.invites.is_bound(invite)
        {
            self.invites.activate(invite, domain, clock::unix_time())?;
        }
        if record.activated {
            return Ok(());
        }
        tracing::info!(federation = %record.federation, %peer, "the join is complete on both sides; the secret is erased");
        self.metrics.joins.inc();
        self.replace_trust(TrustRecord {
            activated: true,
            ..record
        })
    }

    /// Serves a join session of somebody.
    pub(super) fn serve_join(&self, stream: JoinStream) {
        let Some(carrier) = &self.carrier else { return };
        let remote = stream.remote;
        if !carrier.attempts.allow(remote) {
            return self.refuse_join(remote, Reason::TooManyAttempts);
        }
        let Ok(permit) = carrier.sessions.clone().try_acquire_owned() else {
            return self.refuse_join(remote, Reason::Overloaded);
        };
        let desk = carrier.desk.clone();
        carrier.runtime.spawn(async move {
            let ended = serve(stream, &desk).await;
            drop(permit);
            if let Err((reason, why)) = ended {
                let _stopped = desk.0.send(Ask::JoinRefused { remote, reason, why }).await;
            }
        });
    }

    fn refuse_join(&self, remote: std::net::SocketAddr, reason: Reason) {
        self.metrics
            .joins_refused
            .get_or_create(&crate::metrics::ReasonLabel {
                reason: reason.name(),
            })
            .inc();
        tracing::warn!(%remote, %reason, "a join session is refused");
    }

    /// Starts what is pending and not running: after a start, and after a token came.
    pub(super) fn start_joins(&mut self) {
        let Some(carrier) = &self.carrier else { return };
        let set = self.set();
        let mut started = Vec::new();
        let mut done = Vec::new();
        for record in self.joins.iter() {
            let name = &record.federation;
            let Some((attempt, invite)) = self.joins.pending(name) else {
                continue;
            };
            let trusted = self.trusted.of_federation(name).map(|trust| &trust.origin);
            if trusted == Some(&Origin::Join { invite }) {
                done.push(name.clone());
                continue;
            }
            if self.joins.is_running(name) || !set.federations.contains_key(name) {
                continue;
            }
            if let Ok(token) = attempt.token() {
                let desk = FederationDesk {
                    desk: carrier.desk.clone(),
                    federation: name.clone(),
                };
                let task = carrier.runtime.spawn(keep_joining(
                    token_facts(token),
                    desk,
                    carrier.requests.clone(),
                    self.timing.join_retry,
                ));
                started.push((name.clone(), Running(task)));
            }
        }
        for (name, task) in started {
            self.joins.keep(name, task);
        }
        for name in done {
            self.close_join(&name);
        }
    }

    /// A try ended.
    pub(super) fn on_join_ended(&mut self, federation: &FederationName, ended: Ended) {
        let is_final = ended.retry == Retry::Never;
        if is_final {
            tracing::error!(%federation, reason = %ended.reason, "the join failed: {}", ended.detail);
            self.metrics
                .joins_refused
                .get_or_create(&crate::metrics::ReasonLabel {
                    reason: ended.reason.name(),
                })
                .inc();
        } else {
            tracing::info!(%federation, reason = %ended.reason, "the join is tried again: {}", ended.detail);
        }
        if let Err(error) = self.joins.note(federation, ended.reason, ended.detail, is_final) {
            self.failed("note how a join ended", &error);
        }
    }

    fn attempt(&self, federation: &FederationName) -> Result<&JoinAttempt, TrustError> {
        let pending = self.joins.pending(federation).map(|(attempt, _)| attempt);
        pending.ok_or(TrustError::WrongJoinState(
            "no join of this Federation is pending",
        ))
    }

    fn domains_of_others(&self, federation: &FederationName) -> Vec<TrustDomain> {
        let others = self
            .trusted
            .iter()
            .filter(|(_, record)| record.federation != *federation);
        others
            .map(|(_, record)| record.peer.trust_domain().clone())
            .collect()
    }
}
