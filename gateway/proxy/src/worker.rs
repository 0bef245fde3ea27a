//! What the streams of one worker share, and what all workers share.
//!
//! Owns the two contexts and the choice of clusters with its memory of who was away. Made by strait-gateway, one [`Worker`] a data
//! worker.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use strait_balance::{Ask, Choice, PeerPath, Recovery, choose};
use strait_federation_api::{
    ClusterId, Reason, ServiceKey,
    snapshot::{Backend, BackendCluster, PeerMode, Snapshot},
};
use strait_tunnel::Tunnels;

use crate::{
    flow::Recorder,
    route::View,
    sweep::{self, Limits, Registry},
};

/// Sweeps between two looks for memories of backends that are gone.
const PRUNE_EVERY: u32 = 60;

/// What all workers share. Read without locks.
pub struct Shared {
    /// The current tables; replaced whole.
    pub view: ArcSwap<View>,
    /// Ways to peers.
    pub tunnels: Tunnels,
    /// Metrics and access log.
    pub recorder: Arc<dyn Recorder>,
    /// Limits of flows.
    pub limits: Limits,
    flows: Arc<AtomicU32>,
    max_flows: u32,
    draining: AtomicBool,
}

impl Shared {
    /// `max_flows`: flows at a time over all workers; what file descriptors allow.
    #[must_use]
    pub fn new(
        view: View,
        tunnels: Tunnels,
        recorder: Arc<dyn Recorder>,
        limits: Limits,
        max_flows: u32,
    ) -> Arc<Self> {
        Arc::new(Self {
            view: ArcSwap::from_pointee(view),
            tunnels,
            recorder,
            limits,
            flows: Arc::default(),
            max_flows,
            draining: AtomicBool::new(false),
        })
    }

    /// Streams of peers are refused from now on.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Flows alive.
    #[must_use]
    pub fn flows(&self) -> u32 {
        self.flows.load(Ordering::Relaxed)
    }

    /// A place for one more flow.
    pub(crate) fn admit(&self) -> Option<Permit> {
        let permit = Permit(Arc::clone(&self.flows));
        let before = self.flows.fetch_add(1, Ordering::Relaxed);
        (before < self.max_flows).then_some(permit)
    }

    /// The way to a peer now.
    pub(crate) fn path(&self, snapshot: &Snapshot, peer: &ClusterId) -> PeerPath {
        match snapshot.peers.get(peer).map(|p| p.mode) {
            None | Some(PeerMode::Suspended) => PeerPath::Suspended,
            Some(PeerMode::Drain) => PeerPath::Draining,
            Some(PeerMode::Active) if self.tunnels.to_peer(peer).iter().any(|t| t.is_usable()) => {
                PeerPath::Usable
            }
            Some(PeerMode::Active) => PeerPath::NoTunnel,
        }
    }
}

/// One flow's place.
pub(crate) struct Permit(Arc<AtomicU32>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What the streams of one worker share. Only that worker's thread takes its locks, so they are never waited for.
pub struct Worker {
    pub(crate) index: u32,
    pub(crate) shared: Arc<Shared>,
    pub(crate) flows: Registry,
    memory: Mutex<Memory>,
}

struct Memory {
    rng: fastrand::Rng,
    recoveries: HashMap<ServiceKey, Vec<(BackendCluster, Recovery)>>,
}

impl Memory {
    fn recovery(&mut self, service: &ServiceKey, cluster: &BackendCluster) -> &mut Recovery {
        if !self.recoveries.contains_key(service) {
            self.recoveries.insert(service.clone(), Vec::new());
        }
        let list = self.recoveries.entry(service.clone()).or_default();
        let position = list
            .iter()
            .position(|(held, _)| held == cluster)
            .unwrap_or_else(|| {
                list.push((cluster.clone(), Recovery::default()));
                list.len() - 1
            });
        &mut list[position].1
    }
}

impl Worker {
    /// `index` is that of the tunnel worker on the same thread.
    #[must_use]
    pub fn new(index: u32, shared: Arc<Shared>) -> Arc<Self> {
        Arc::new(Self {
            index,
            shared,
            flows: Registry::default(),
            memory: Mutex::new(Memory {
                rng: fastrand::Rng::new(),
                recoveries: HashMap::new(),
            }),
        })
    }

    /// Its number.
    #[must_use]
    pub const fn index(&self) -> u32 {
        self.index
    }

    /// What it shares with the others.
    #[must_use]
    pub const fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Orders the clusters for one stream.
    pub(crate) fn choose<'a>(&self, snapshot: &Snapshot, ask: Ask<'a>) -> Choice<'a> {
        let now = Instant::now();
        let mut memory = self.memory.lock();
        let mut rng = memory.rng.fork();
        let share = |backend: &'a Backend, available| {
            memory
                .recovery(&ask.import.service, &backend.cluster)
                .observe(available, now)
        };
        choose(ask, |peer| self.shared.path(snapshot, peer), share, &mut rng)
    }

    /// What became of a try at a cluster.
    pub(crate) fn report(&self, service: &ServiceKey, cluster: &BackendCluster, ok: bool) {
        let mut memory = self.memory.lock();
        let recovery = memory.recovery(service, cluster);
        if ok {
            recovery.succeeded();
        } else {
            recovery.failed(Instant::now());
        }
    }

    pub(crate) fn with_rng<T>(&self, f: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
        f(&mut self.memory.lock().rng)
    }

    /// Ends flows that idle or stall, for ever. Run one on the worker's runtime.
    pub async fn sweep(self: Arc<Self>) {
        let mut every = tokio::time::interval(sweep::EVERY);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for round in 1u32.. {
            every.tick().await;
            self.flows.sweep(&self.shared.limits);
            if round % PRUNE_EVERY == 0 {
                let view = self.shared.view.load();
                let known = |service: &ServiceKey| view.snapshot.imports.contains_key(service);
                self.memory.lock().recoveries.retain(|service, _| known(service));
            }
        }
    }

    /// Resets every flow of this worker.
    pub fn end_all(&self, reason: Reason) {
        self.flows.end_all(reason);
    }
}

/// How long a connection to an endpoint may take. A SYN that is lost once comes back after 1 s.
pub(crate) const ENDPOINT_TIMEOUT: Duration = Duration::from_millis(2_500);
