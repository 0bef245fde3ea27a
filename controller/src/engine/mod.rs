//! The engine: the one owner of everything this cluster's control plane knows.
//!
//! Owns the state and the order of its changes: input in, records written, snapshot out. One task on a thread of its own, because
//! most of its changes wait for a disk. What it decides it decides in pure functions (`merge`, `vip`, trust-bridge); what it
//! carries are channels. Started by [`crate::Prepared`].

mod ask;
mod commands;
mod compile;
mod conditions;
mod editing;
mod events;
mod federations;
mod health;
mod join_task;
mod joining;
mod local;
mod opening;
mod peering;
mod settle;
mod view;
mod view_federations;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

pub use ask::RotateAction;
pub(crate) use ask::{Ask, Desk};
pub(crate) use joining::SESSIONS_MAX;
use strait_federation_api::{
    ClusterId, Epoch, ServiceKey,
    catalog::Catalog,
    control::{GatewayEvent, GatewayRequest},
    manifest::ResourceSet,
    observation::{GatewayStatus, ListenError},
    resources::{Cluster, FederationName},
    snapshot::Snapshot,
    view::ControllerView,
};
use tokio::{
    runtime::Handle,
    sync::{mpsc, watch},
    time::sleep_until,
};
use tokio_util::sync::CancellationToken;

use self::{conditions::Conditions, health::Health, local::LocalExports, peering::Peering};
use crate::{
    Timing,
    cache::CatalogStore,
    exchange::PeerReport,
    join::{Attempts, Invites, Joins},
    metrics::Metrics,
    records::{
        Records,
        types::{FirstSights, InstanceRecord, OwnExports},
    },
    source::SourceState,
    trust::{Authority, Peers},
    vip::VipTable,
};

/// Inputs taken in before what follows from them is worked out.
const BATCH_MAX: usize = 512;
/// Between two looks at what only time changes: leaf renewal in tests is a matter of seconds.
const TICK: Duration = Duration::from_millis(500);
/// Questions that wait for the engine.
pub(crate) const ASKS_MAX: usize = 64;
/// Reports of peers that wait for the engine.
pub(crate) const REPORTS_MAX: usize = 64;

/// Everything the control plane knows.
pub(crate) struct Engine {
    pub(crate) cluster: Cluster,
    pub(crate) instance: InstanceRecord,
    pub(crate) epoch: Epoch,
    pub(crate) timing: Timing,

    pub(crate) records: Arc<Records>,
    pub(crate) cache: Arc<dyn CatalogStore>,
    pub(crate) authority: Authority,
    pub(crate) trusted: Peers,
    pub(crate) invites: Invites,
    pub(crate) joins: Joins,
    pub(crate) kept: Kept,

    pub(crate) source: SourceState,
    pub(crate) folder: Option<std::path::PathBuf>,
    /// Federations that a set has shown: only what was there can be gone.
    pub(crate) shown: BTreeSet<FederationName>,
    /// The Cluster manifest names another cluster than the CA's: it is not obeyed.
    pub(crate) renamed_to: Option<ClusterId>,
    pub(crate) local: LocalExports,
    pub(crate) health: Health,
    /// Everything that could be offered.
    pub(crate) offered: Catalog,
    pub(crate) peerings: BTreeMap<ClusterId, Peering>,
    pub(crate) listeners: BTreeMap<(ServiceKey, IpAddr, u16), Result<SocketAddr, ListenError>>,
    /// What stands in the way of a Federation, by its name: trust that cannot be used.
    pub(crate) troubles: BTreeMap<FederationName, (strait_federation_api::Reason, String)>,
    pub(crate) sights_changed: bool,
    pub(crate) cache_rebuilt: Option<String>,

    pub(crate) conditions: Conditions,
    pub(crate) out: Outlets,
    pub(crate) metrics: Metrics,
    pub(crate) carrier: Option<Carrier>,
    /// Where numbers of our catalogs start.
    pub(crate) numbers: crate::clock::SteadyMicros,
    pub(crate) tasks: u64,
}

/// Small records, as they are on disk.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    pub(crate) vips: VipTable,
    pub(crate) own: OwnExports,
    pub(crate) sights: FirstSights,
}

/// What everybody may read.
pub(crate) struct Outlets {
    pub(crate) snapshot: watch::Sender<Arc<Snapshot>>,
    pub(crate) view: watch::Sender<Arc<ControllerView>>,
    pub(crate) bundle: watch::Sender<Arc<crate::OwnBundle>>,
}

/// The ways out, once there is a gateway and a runtime.
pub(crate) struct Carrier {
    pub(crate) runtime: Handle,
    pub(crate) requests: mpsc::Sender<GatewayRequest>,
    pub(crate) gateway: watch::Receiver<Arc<GatewayStatus>>,
    pub(crate) desk: Desk,
    pub(crate) reports: mpsc::Sender<PeerReport>,
    pub(crate) attempts: Attempts,
    /// Join sessions at a time.
    pub(crate) sessions: Arc<tokio::sync::Semaphore>,
}

/// The ways in.
pub(crate) struct Inlets {
    pub(crate) source: watch::Receiver<SourceState>,
    pub(crate) events: mpsc::Receiver<GatewayEvent>,
    pub(crate) asks: mpsc::Receiver<Ask>,
    pub(crate) reports: mpsc::Receiver<PeerReport>,
    pub(crate) stop: CancellationToken,
}

impl Engine {
    /// The set in force. There is always one: without it the engine is not made.
    pub(crate) fn set(&self) -> Arc<ResourceSet> {
        self.source.set.clone().unwrap_or_default()
    }

    /// Runs until told to stop.
    pub(crate) async fn run(mut self, mut inlets: Inlets) {
        self.start_tasks();
        let mut settle_at: Option<Instant> = Some(Instant::now());
        let mut tick_at = Instant::now() + TICK;
        loop {
            let wake = settle_at.map_or(tick_at, |at| at.min(tick_at));
            let changed = tokio::select! {
                () = inlets.stop.cancelled() => break,
                Ok(()) = inlets.source.changed() => self.take_source(&mut inlets.source),
                Some(ask) = inlets.asks.recv() => self.answer(ask),
                Some(event) = inlets.events.recv() => self.on_gateway(event),
                Some(report) = inlets.reports.recv() => self.on_report(report),
                () = sleep_until(wake.into()) => false,
            };
            let changed = self.take_waiting(&mut inlets) || changed;
            let now = Instant::now();
            if now >= tick_at {
                tick_at = now + TICK;
                if self.tick() {
                    settle_at.get_or_insert(now);
                }
            }
            if changed {
                settle_at.get_or_insert(now + self.timing.settle);
            }
            if settle_at.is_some_and(|at| at <= Instant::now()) {
                settle_at = None;
                self.settle();
            }
        }
        self.close();
    }

    /// What has already arrived: a burst is worked out once.
    fn take_waiting(&mut self, inlets: &mut Inlets) -> bool {
        let mut changed = false;
        for _ in 0..BATCH_MAX {
            let one = if let Ok(ask) = inlets.asks.try_recv() {
                self.answer(ask)
            } else if let Ok(event) = inlets.events.try_recv() {
                self.on_gateway(event)
            } else if let Ok(report) = inlets.reports.try_recv() {
                self.on_report(report)
            } else {
                return changed;
            };
            changed |= one;
        }
        changed
    }

    fn take_source(&mut self, source: &mut watch::Receiver<SourceState>) -> bool {
        let state = source.borrow_and_update().clone();
        self.on_source(state);
        true
    }

    /// What only time changes. Gives whether anything did.
    fn tick(&mut self) -> bool {
        let renewed = self.renew();
        let swept = match self.invites.sweep(crate::clock::unix_time()) {
            Ok(swept) => swept,
            Err(error) => self.failed("sweep the invites", &error),
        };
        let stepped = self.advance_rotation();
        let moved = self.record_addresses();
        self.ask_for_tunnels();
        self.write_cache();
        self.start_joins();
        renewed | swept | stepped | moved
    }

    fn renew(&mut self) -> bool {
        match self.authority.renew(crate::clock::unix_time()) {
            Ok(renewed) => {
                if renewed {
                    tracing::info!("the gateway's leaf was renewed");
                    self.metrics.leaf_renewals.inc();
                }
                renewed
            }
            Err(error) => self.failed("renew the gateway's leaf", &error),
        }
    }

    /// Logs what could not be done; it is tried again at the next occasion. Always false.
    pub(crate) fn failed(&self, what: &str, error: &crate::ControllerError) -> bool {
        self.metrics.failures.inc();
        tracing::error!(reason = %error.reason(), "cannot {what}: {error}");
        false
    }

    fn close(&mut self) {
        self.write_cache();
        self.cache.flush();
    }
}
