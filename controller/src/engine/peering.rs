//! What is known of each peer beside its trust: its catalog, its words, its links. And the task that speaks with it.
//!
//! Owns starting and stopping those tasks and taking in their reports. Called by the engine.

use std::{net::SocketAddr, sync::Arc};

use strait_federation_api::{
    ClusterId, Reason, ServiceKey,
    control::GatewayRequest,
    exchange::{Config, Event, ExchangeStatus, Gateways, HeldCatalog, Limits, Refusal, Verdict},
    observation::LinkState,
    resources::Federation,
    snapshot::PeerMode,
};

use super::{Engine, ask::gone};
use crate::{
    clock,
    exchange::{PeerConfig, PeerHandle, PeerInputs, PeerReport},
    metrics::PeerLabel,
    trust::TrustRecord,
};

/// One peer.
#[derive(Default)]
pub(crate) struct Peering {
    /// Its task, unless suspended.
    pub(super) task: Option<PeerHandle>,
    /// Its catalog, live or cached.
    pub(super) held: HeldCatalog,
    /// The catalog is the last word of a peer that is away.
    pub(super) stale: bool,
    /// Its word on our exports.
    pub(super) feedback: imbl::OrdMap<ServiceKey, Verdict>,
    /// Figures of the exchange.
    pub(super) status: Option<ExchangeStatus>,
    /// Its gateways, as it said last.
    pub(super) gateways: Option<Gateways>,
    /// The record of its addresses is behind `gateways`.
    pub(super) addresses_due: bool,
    /// Links as the gateway sees them.
    pub(super) link: LinkState,
    /// Address of its control stream.
    pub(super) remote: Option<SocketAddr>,
    /// Unix seconds of the last finished sync.
    pub(super) synced_at: Option<i64>,
    /// Data tunnels asked for so far.
    pub(super) asked: u64,
    /// Its task has heard of our exports.
    pub(super) told: bool,
    /// The cache is behind.
    pub(super) unsaved: bool,
    /// What it refused last that is no object of ours.
    pub(super) refused: Option<Refusal>,
    /// What it made of our bundle, if it refused it.
    pub(super) bundle_refused: Option<Refusal>,
}

impl Engine {
    /// Starts the tasks of peers that should have one and ends the others.
    pub(super) fn start_tasks(&mut self) {
        if self.carrier.is_none() {
            return;
        }
        for (federation, record) in self.active() {
            let peer = record.peer.cluster().clone();
            let peering = self.peerings.entry(peer.clone()).or_default();
            if federation.spec.mode == PeerMode::Suspended {
                peering.task = None;
                peering.status = None;
            } else if peering.task.is_none() {
                self.start_task(&peer);
            }
        }
        self.start_joins();
    }

    fn start_task(&mut self, peer: &ClusterId) {
        let Some(carrier) = &self.carrier else { return };
        let Some(peering) = self.peerings.get_mut(peer) else {
            return;
        };
        self.tasks += 1;
        let limits = limits(&self.cluster.spec.limits);
        let machine = Config {
            cluster: self.cluster.id.clone(),
            epoch: self.epoch,
            mesh_trust_domain: None,
            peer: peer.clone(),
            limits,
            allow_loopback: self.cluster.spec.allow_loopback,
            first_number: self.numbers.now(),
        };
        let sights = self
            .kept
            .sights
            .created
            .get(peer)
            .map(|seen| seen.iter().map(|(u, c)| (u.clone(), *c)).collect());
        let config = PeerConfig {
            machine,
            held: peering.held.clone(),
            sights: sights.unwrap_or_default(),
            inputs: PeerInputs {
                limits,
                tunnels_up: peering.link.usable_tunnels > 0,
                ..PeerInputs::default()
            },
        };
        let _entered = carrier.runtime.enter();
        peering.told = false;
        peering.task = Some(PeerHandle::start(self.tasks, config, carrier.reports.clone()));
    }

    /// Takes in a report; gives whether anything follows from it.
    pub(super) fn on_report(&mut self, report: PeerReport) -> bool {
        let Some(peering) = self.peerings.get_mut(&report.peer) else {
            gone(&report.peer);
            return false;
        };
        if peering.task.as_ref().is_none_or(|task| task.task != report.task) {
            gone(&report.peer);
            return false;
        }
        peering.unsaved |= peering.held != report.held;
        peering.held = report.held;
        peering.stale = report.stale;
        peering.feedback = report.feedback;
        peering.status = Some(report.status);
        peering.remote = report.remote;
        for event in report.events {
            self.on_event(&report.peer, event);
        }
        true
    }

    fn on_event(&mut self, peer: &ClusterId, event: Event) {
        match event {
            Event::Gateways(gateways) => self.on_gateways(peer, gateways),
            Event::FirstSight { uid, created } => {
                self.kept
                    .sights
                    .created
                    .entry(peer.clone())
                    .or_default()
                    .insert(uid, created);
                self.sights_changed = true;
            }
            Event::SightsForgotten(uids) => {
                if let Some(seen) = self.kept.sights.created.get_mut(peer) {
                    seen.retain(|uid, _| !uids.contains(uid));
                    self.sights_changed = true;
                }
            }
            Event::Bundle { envelope } => self.on_bundle(peer, &envelope),
            Event::BundleAcked { sequence, refused } => self.on_bundle_acked(peer, sequence, refused),
            Event::OpenTunnel => self.on_open_tunnel(peer),
            Event::SyncFinished { full, refused, .. } => {
                tracing::debug!(%peer, full, refused, "a sync of the peer's catalog ended");
                self.with(peer, |peering| peering.synced_at = Some(now()));
            }
            Event::Refused(refusal) => {
                tracing::warn!(%peer, reason = %refusal.reason, "the peer refused something: {}", refusal.message);
                self.with(peer, |peering| peering.refused = Some(refusal));
            }
            // A silent peer breaks no rule; its stream is closed all the same.
            Event::CloseLink { refusal, .. } if refusal.reason == Reason::PeerSilent => {}
            Event::Violation(refusal) | Event::CloseLink { refusal, .. } => {
                self.metrics.violations.get_or_create(&label(peer)).inc();
                tracing::warn!(%peer, reason = %refusal.reason, "the peer broke a rule of the exchange: {}", refusal.message);
            }
            Event::Hello(hello) => {
                tracing::info!(%peer, epoch = %hello.epoch, version = hello.version, "the peer's control plane is there");
                self.with(peer, |peering| peering.refused = None);
            }
            Event::Stale(true) => {
                tracing::warn!(%peer, reason = "Stale", "the peer is away; what it said last stays")
            }
            Event::Withdrawn { service, reason } => {
                tracing::info!(%peer, %service, %reason, "the peer withdrew a service")
            }
            Event::Stale(false)
            | Event::Upserted(_)
            | Event::Feedback(_)
            | Event::Acked { .. }
            | Event::Heartbeat { .. } => {}
        }
    }

    pub(super) fn with(&mut self, peer: &ClusterId, change: impl FnOnce(&mut Peering)) {
        if let Some(peering) = self.peerings.get_mut(peer) {
            change(peering);
        }
    }

    /// The peer's gateways: where it is dialled from the next tick on, also after a restart. Not written here: a peer that says it a
    /// thousand times a second would keep the engine at the disk, and away from the removal of a root.
    fn on_gateways(&mut self, peer: &ClusterId, gateways: Gateways) {
        // No addresses is no reason to forget where it was reached: it may have been misconfigured for a moment.
        let due = !gateways.addresses.is_empty();
        self.with(peer, |peering| {
            peering.addresses_due = due;
            peering.gateways = Some(gateways);
        });
    }

    /// Records addresses that peers have announced since the last tick. Gives whether any changed.
    pub(super) fn record_addresses(&mut self) -> bool {
        let mut changed = false;
        for (peer, peering) in &mut self.peerings {
            let due = std::mem::take(&mut peering.addresses_due);
            let (true, Some(gateways), Some(held)) = (due, &peering.gateways, self.trusted.get(peer)) else {
                continue;
            };
            if gateways.addresses == held.addresses {
                continue;
            }
            let record = TrustRecord {
                addresses: gateways.addresses.clone(),
                ..held.clone()
            };
            match self.trusted.put(&self.authority, record) {
                Ok(()) => changed = true,
                Err(error) => {
                    peering.addresses_due = true;
                    self.metrics.failures.inc();
                    tracing::error!(%peer, reason = %error.reason(), "cannot record a peer's addresses: {error}");
                }
            }
        }
        changed
    }

    fn on_bundle(&mut self, peer: &ClusterId, envelope: &[u8]) {
        use strait_federation_api::resources::{Trust, Updates};
        let set = self.set();
        let pinned = self.trusted.get(peer).and_then(|record| set.federations.get(&record.federation)).is_some_and(
            |federation: &Federation| matches!(&federation.spec.trust, Trust::Static(s) if s.updates == Updates::Pinned),
        );
        let held = self
            .trusted
            .get(peer)
            .map_or(0, |record| record.peer.bundle().sequence());
        let result = if pinned {
            self.trusted.check_pinned(peer, envelope, clock::unix_time())
        } else {
            self.trusted
                .update(&self.authority, peer, envelope, clock::unix_time())
        };
        let (sequence, answer) = match result {
            Ok(sequence) => {
                if sequence != held {
                    tracing::info!(%peer, sequence, "the peer's bundle was updated");
                }
                (sequence, Ok(()))
            }
            Err(error) => {
                tracing::warn!(%peer, reason = %error.reason(), "the peer's bundle update is refused: {error}");
                (held, Err(Refusal::new(error.reason(), error.to_string())))
            }
        };
        if let Some(task) = self.peerings.get(peer).and_then(|peering| peering.task.as_ref()) {
            task.answer_bundle(sequence, answer);
        }
    }

    fn on_bundle_acked(&mut self, peer: &ClusterId, sequence: u64, refused: Option<Refusal>) {
        if let Some(refusal) = refused {
            tracing::warn!(%peer, reason = %refusal.reason, "the peer does not take our bundle: {}", refusal.message);
            return self.with(peer, |peering| peering.bundle_refused = Some(refusal));
        }
        self.with(peer, |peering| peering.bundle_refused = None);
        let Some(domain) = self
            .trusted
            .get(peer)
            .map(|record| record.peer.trust_domain().clone())
        else {
            return;
        };
        if let Err(error) = self.authority.acked(&domain, sequence) {
            self.failed("note a peer's acknowledgement of our bundle", &error);
        }
    }

    fn on_open_tunnel(&self, peer: &ClusterId) {
        let Some(carrier) = &self.carrier else { return };
        if carrier
            .requests
            .try_send(GatewayRequest::OpenTunnel { peer: peer.clone() })
            .is_err()
        {
            tracing::warn!(%peer, "the gateway is too busy to open the tunnel the peer asks for");
        }
    }

    /// Asks peers that we import from and cannot dial for a data tunnel.
    pub(super) fn ask_for_tunnels(&mut self) {
        let snapshot = Arc::clone(&self.out.snapshot.borrow());
        for (cluster, peering) in &mut self.peerings {
            let Some(peer) = snapshot.peers.get(cluster) else {
                continue;
            };
            let waits = peer.importing
                && peer.addresses.is_empty()
                && peering.link.usable_tunnels == 0
                && peering.status.as_ref().is_some_and(|status| status.connected);
            if let Some(task) = peering.task.as_ref().filter(|_| waits) {
                peering.asked += 1;
                let asked = peering.asked;
                task.tell(|inputs| {
                    inputs.tunnels_asked = asked;
                    true
                });
            }
        }
    }

    /// Writes what changed to the cache, off this thread.
    pub(super) fn write_cache(&mut self) {
        let changed: Vec<(ClusterId, HeldCatalog)> = self
            .peerings
            .iter_mut()
            .filter_map(|(peer, peering)| {
                std::mem::take(&mut peering.unsaved).then(|| (peer.clone(), peering.held.clone()))
            })
            .collect();
        for (peer, held) in &changed {
            self.cache.keep(peer, held);
        }
        if !changed.is_empty() {
            self.cache.flush();
        }
    }
}

/// The operator's bounds on a peer; the others are the protocol's.
pub(super) fn limits(spec: &strait_federation_api::resources::Limits) -> Limits {
    Limits {
        objects: usize::try_from(spec.services_per_peer).unwrap_or(usize::MAX),
        expire_after: spec.stale_after.get(),
        ..Limits::default()
    }
}

pub(super) fn label(peer: &ClusterId) -> PeerLabel {
    PeerLabel {
        peer: peer.to_string(),
    }
}

fn now() -> i64 {
    i64::try_from(clock::unix_seconds()).unwrap_or(i64::MAX)
}
