//! Starting, draining and ending a gateway.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use strait_federation_api::{Reason, control::GatewayRequest, observation::GatewayStatus};
use strait_proxy::{Shared, View};
use strait_tunnel::{Links, TunnelHub};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::AbortHandle,
};

use crate::{
    GatewayConfig, GatewayError, GatewayLinks,
    health::Checker,
    house::{Errand, House},
    listeners::Listeners,
    metrics::Metrics,
    outbox::Outbox,
    system,
    workers::Workers,
};

/// Time between two looks at whether flows are gone.
const LOOK: Duration = Duration::from_millis(50);
/// Requests of the controller carried out at a time; each takes at most seconds.
const REQUESTS_AT_ONCE: usize = 64;

/// A running data plane. Dropping it ends its work as [`shutdown`](Self::shutdown) does, without waiting.
pub struct Gateway {
    hub: Arc<TunnelHub>,
    shared: Arc<Shared>,
    workers: Arc<Workers>,
    metrics: Arc<Metrics>,
    status: watch::Receiver<Arc<GatewayStatus>>,
    failed: watch::Receiver<Option<String>>,
    errands: mpsc::Sender<Errand>,
    socks: Option<SocketAddr>,
    tasks: Mutex<Vec<AbortHandle>>,
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway")
            .field("hub", &self.hub)
            .finish_non_exhaustive()
    }
}

impl Gateway {
    /// Binds everything, starts the data workers and returns. Must be called inside the control runtime.
    ///
    /// # Errors
    /// [`GatewayError`] when an address is taken or a thread cannot be made; a VIP port that cannot be bound is no error but an
    /// observation.
    pub fn start(config: GatewayConfig, links: GatewayLinks) -> Result<Self, GatewayError> {
        let max_flows = system::raise_file_limit();
        let outbox = Outbox::default();
        let metrics = Metrics::new(config.access_log, outbox.clone());
        let snapshot = Arc::clone(&links.snapshots.borrow());
        let (accepted, for_tunnels) = watch::channel(Arc::clone(&snapshot));
        let tunnel_links = Links {
            trust: Arc::clone(&links.trust),
            trust_changes: links.trust_changes,
            snapshots: for_tunnels,
            events: links.events.clone(),
            invite_open: links.invite_open,
        };
        let (hub, tunnels) = TunnelHub::bind(config.tunnels(), tunnel_links)?;
        let hub = Arc::new(hub);
        let view = View::new(snapshot, None);
        let recorder = Arc::clone(&metrics);
        let shared = Shared::new(view, hub.tunnels(), recorder, config.limits, max_flows);
        let (failing, failed) = watch::channel(None);
        let workers = Workers::start(tunnels, &shared, &failing).inspect_err(|_| hub.close())?;
        let workers = Arc::new(workers);
        let mut listeners = Listeners::new(Arc::clone(&workers), outbox.clone());
        let socks = match config.socks.map(|address| listeners.socks(address)) {
            None => None,
            Some(Ok(address)) => Some(address),
            Some(Err(error)) => {
                hub.close();
                return Err(GatewayError::Socks(error));
            }
        };
        let (status_sender, status) = watch::channel(Arc::default());
        let house = House {
            instance: config.instance,
            trust: links.trust,
            hub: Arc::clone(&hub),
            shared: Arc::clone(&shared),
            metrics: Arc::clone(&metrics),
            listeners,
            checker: Checker::new(outbox.clone()),
            socks,
            workers: config.workers,
            status: status_sender,
            accepted,
            closed: false,
            published: None,
        };
        let (errands, errands_received) = mpsc::channel(1);
        let tasks = vec![
            tokio::spawn(house.run(links.snapshots, errands_received)).abort_handle(),
            tokio::spawn(outbox.run(links.events)).abort_handle(),
            tokio::spawn(carry_out(Arc::clone(&hub), links.requests)).abort_handle(),
        ];
        Ok(Self {
            hub,
            shared,
            workers,
            metrics,
            status,
            failed,
            errands,
            socks,
            tasks: Mutex::new(tasks),
        })
    }

    /// The UDP address that peers dial.
    #[must_use]
    pub fn listen(&self) -> SocketAddr {
        self.hub.listen()
    }

    /// The TCP address of the SOCKS5 listener, if there is one.
    #[must_use]
    pub const fn socks(&self) -> Option<SocketAddr> {
        self.socks
    }

    /// The gateway as people see it, refreshed once a second and at each snapshot.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Arc<GatewayStatus>> {
        self.status.clone()
    }

    /// Set to why when a data worker ended by itself: the process should end and be started anew.
    #[must_use]
    pub fn failed(&self) -> watch::Receiver<Option<String>> {
        self.failed.clone()
    }

    /// Proxied connections alive.
    #[must_use]
    pub fn flows(&self) -> u32 {
        self.shared.flows()
    }

    /// Puts the metrics of the data plane under `registry`.
    pub fn register(&self, registry: &mut Registry) {
        self.metrics.register(registry, &self.hub);
    }

    /// Takes no new clients and no new streams, tells peers so, and resolves when the last flow has ended or `grace` is over. What is
    /// left then is reset.
    pub async fn drain(&self, grace: Duration) {
        let end = Instant::now() + grace;
        let (done, closed) = oneshot::channel();
        if self.errands.send(Errand::CloseListeners(done)).await.is_ok() {
            // Fails only when the house has ended, and its listeners with it.
            let _ = closed.await;
        }
        self.shared.drain();
        let flows_gone = async {
            while self.shared.flows() > 0 && Instant::now() < end {
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::join!(self.hub.drain(grace), flows_gone);
        self.workers.end_all(Reason::Draining);
    }

    /// Ends everything at once; what still runs is reset. Resolves when the data workers have ended.
    pub async fn shutdown(&self) {
        self.end();
        self.workers.join().await;
    }

    fn end(&self) {
        self.tasks.lock().drain(..).for_each(|task| task.abort());
        self.workers.end_all(Reason::Draining);
        self.hub.close();
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.end();
    }
}

async fn carry_out(hub: Arc<TunnelHub>, mut requests: mpsc::Receiver<GatewayRequest>) {
    let places = Arc::new(tokio::sync::Semaphore::new(REQUESTS_AT_ONCE));
    while let Some(request) = requests.recv().await {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let hub = Arc::clone(&hub);
        tokio::spawn(async move {
            hub.request(request).await;
            drop(place);
        });
    }
}
