//! Housekeeping: everything that happens on the control runtime when a snapshot comes, a second passes or the controller asks.
//!
//! Owns the order: tables first, then listeners and checks, so that no listener leads to nothing.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use strait_federation_api::{InstanceId, observation::GatewayStatus, snapshot::Snapshot};
use strait_proxy::{Shared, View};
use strait_trust_bridge::TrustStore;
use strait_tunnel::TunnelHub;
use tokio::sync::{mpsc, watch};

use crate::{health::Checker, listeners::Listeners, metrics::Metrics};

/// Time between two refreshes of the status, and between two looks at listeners that failed.
const STATUS_EVERY: Duration = Duration::from_secs(1);

/// What the house is asked from inside the gateway.
pub(crate) enum Errand {
    /// Close all listeners; tell when it is done.
    CloseListeners(tokio::sync::oneshot::Sender<()>),
}

pub(crate) struct House {
    pub(crate) instance: InstanceId,
    pub(crate) trust: Arc<TrustStore>,
    pub(crate) hub: Arc<TunnelHub>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) listeners: Listeners,
    pub(crate) checker: Checker,
    pub(crate) socks: Option<std::net::SocketAddr>,
    pub(crate) workers: u32,
    pub(crate) status: watch::Sender<Arc<GatewayStatus>>,
    /// Snapshots that were accepted, for the tunnels.
    pub(crate) accepted: watch::Sender<Arc<Snapshot>>,
    pub(crate) closed: bool,
    /// When the status was last refreshed.
    pub(crate) published: Option<Instant>,
}

impl House {
    pub(crate) async fn run(
        mut self,
        mut snapshots: watch::Receiver<Arc<Snapshot>>,
        mut errands: mpsc::Receiver<Errand>,
    ) {
        let mut second = tokio::time::interval(STATUS_EVERY);
        second.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        self.take(&Arc::clone(&snapshots.borrow_and_update()));
        loop {
            tokio::select! {
                biased;
                errand = errands.recv() => match errand {
                    Some(Errand::CloseListeners(done)) => {
                        self.closed = true;
                        self.listeners.close();
                        // Whoever asked may have given up.
                        let _ = done.send(());
                    }
                    None => return,
                },
                Ok(()) = snapshots.changed() => self.take(&Arc::clone(&snapshots.borrow_and_update())),
                _ = second.tick() => self.each_second(),
                () = self.checker.turn() => {}
            }
        }
    }

    /// Makes a snapshot the present one. An older epoch is refused: it comes from a controller that was replaced.
    fn take(&mut self, snapshot: &Arc<Snapshot>) {
        let old = self.shared.view.load_full();
        if snapshot.epoch < old.snapshot.epoch {
            tracing::warn!(
                epoch = %snapshot.epoch, held = %old.snapshot.epoch, "snapshot of an older epoch refused"
            );
            return;
        }
        self.metrics.learn(snapshot);
        let view = Arc::new(View::new(Arc::clone(snapshot), Some(&old)));
        self.shared.view.store(Arc::clone(&view));
        self.accepted.send_replace(Arc::clone(snapshot));
        let now = Instant::now();
        if !self.closed {
            self.listeners.reconcile(&view, now);
        }
        self.checker.take(&view, now);
        // In a burst of snapshots the next second tells the last.
        if self.published.is_none_or(|at| now >= at + STATUS_EVERY) {
            self.publish();
        }
    }

    fn each_second(&mut self) {
        if !self.closed {
            let view = self.shared.view.load_full();
            self.listeners.reconcile(&view, Instant::now());
        }
        self.publish();
    }

    fn publish(&mut self) {
        self.published = Some(Instant::now());
        let (sockets, tunnels) = self.hub.status();
        let status = GatewayStatus {
            instance: Some(self.instance.clone()),
            listen: Some(self.hub.listen()),
            socks: self.socks,
            workers: self.workers,
            sockets,
            tunnels,
            listeners: self.listeners.status(),
            leaf_expires_in: self.trust.identity().map(|own| seconds_until(own.not_after())),
        };
        self.status.send_replace(Arc::new(status));
    }
}

/// Seconds from now to a Unix time, 0 when it is past.
fn seconds_until(unix: i64) -> u64 {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(unix).unwrap_or(0).saturating_sub(now.as_secs())
}
