//! The way in: binding, and the handle that all workers and rooms share.
//!
//! Owns the public face of this crate. Never drives anything itself. Made by strait-gateway.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use strait_federation_api::{
    ClusterId, Reason,
    control::{DialError, GatewayRequest},
    observation::{SocketStatus, TunnelStatus},
};
use strait_trust_bridge::RootPin;
use tokio::sync::{Notify, mpsc, oneshot};

use crate::{
    cid::CidKey,
    config::{Links, TunnelConfig},
    counters::Counters,
    dial::JoinDial,
    endpoint::PortConfig,
    error::TunnelError,
    registry::Tunnels,
    shared::{Shared, Stage, WorkerHandle},
    socket::{accepting, bind_client, bind_server},
    steer::Steering,
    transport,
    worker::{TunnelWorker, index},
};

/// Join dials that may wait for the worker: people join one cluster at a time.
const JOIN_QUEUE: usize = 8;

/// All sockets and connections of the process, for whoever runs and watches them; the data path is given [`Tunnels`] only.
/// A clone is two reference counts.
#[derive(Clone)]
pub struct TunnelHub {
    shared: Arc<Shared>,
    steering: Arc<Steering>,
}

impl std::fmt::Debug for TunnelHub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TunnelHub")
            .field("config", &self.shared.config)
            .finish_non_exhaustive()
    }
}

impl TunnelHub {
    /// Binds all sockets and makes one worker for each.
    ///
    /// # Errors
    /// [`TunnelError::Bind`] when the port is taken, [`TunnelError::Config`].
    pub fn bind(config: TunnelConfig, links: Links) -> Result<(Self, Vec<TunnelWorker>), TunnelError> {
        config.check()?;
        let accepting = accepting(config.workers);
        let bind = |address| {
            bind_server(address, accepting > 1).map_err(|source| TunnelError::Bind { address, source })
        };
        let first = bind(config.listen)?;
        let listen = first
            .local_addr()
            .map_err(|source| TunnelError::Socket { worker: 0, source })?;
        let mut servers = vec![Some(first)];
        for worker in 1..config.workers {
            // With port 0 the others take the port that the first was given.
            servers.push(if worker < accepting {
                Some(bind(listen)?)
            } else {
                None
            });
        }
        let key = CidKey::new(&config.cid_key);
        let steering = Steering::new(key, index(accepting));
        let (handles, joins): (Vec<_>, Vec<_>) = (0..config.workers).map(|_| handle()).unzip();
        let shared = Shared::new(config, links, listen, handles);
        let mut workers = Vec::new();
        for ((worker, server), joins) in (0..).zip(servers).zip(joins) {
            let client = bind_client().map_err(|source| TunnelError::Socket { worker, source })?;
            workers.push(TunnelWorker {
                index: worker,
                ports: PortConfig {
                    // Checked above: at most 256 workers.
                    endpoint: transport::endpoint(
                        key,
                        u8::try_from(worker).unwrap_or(0),
                        &shared.config.reset_key,
                    ),
                    coalesce: shared.config.coalesce,
                    counters: Arc::clone(&shared.counters),
                },
                shared: Arc::clone(&shared),
                server,
                client,
                steering: Arc::clone(&steering),
                joins,
            });
        }
        Ok((Self { shared, steering }, workers))
    }

    /// The UDP address that peers dial.
    #[must_use]
    pub fn listen(&self) -> std::net::SocketAddr {
        self.shared.listen
    }

    /// The tunnels, for the data path.
    #[must_use]
    pub fn tunnels(&self) -> Tunnels {
        self.shared.directory.clone()
    }

    /// Sockets and connections as people see them.
    #[must_use]
    pub fn status(&self) -> (Vec<SocketStatus>, Vec<TunnelStatus>) {
        let (now, trust) = (Instant::now(), &self.shared.links.trust);
        let conns = self.shared.conns();
        (
            self.shared.sockets(),
            conns.iter().map(|conn| conn.status(trust, now)).collect(),
        )
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// Batched sends on the present sockets.
    #[must_use]
    pub fn batches(&self) -> u64 {
        self.shared.batches()
    }

    /// Packets that reached the worker that owns their connection by way of another one, and those dropped on that way.
    #[must_use]
    pub fn steered(&self) -> (u64, u64) {
        use std::sync::atomic::Ordering::Relaxed;
        (
            self.steering.forwarded.load(Relaxed),
            self.steering.dropped.load(Relaxed),
        )
    }

    /// Carries out a request of the controller. A probe takes up to two seconds: callers that serve others meanwhile spawn it.
    pub async fn request(&self, request: GatewayRequest) {
        match request {
            GatewayRequest::JoinDial {
                addresses,
                trust_domain,
                root,
                timeout,
                reply,
            } => self.join(JoinDial {
                addresses,
                pin: RootPin { trust_domain, root },
                timeout,
                reply,
            }),
            GatewayRequest::OpenTunnel { peer } => self.shared.ask(peer, Instant::now()),
            GatewayRequest::Probe { peer, reply } => self.probe(&peer, reply).await,
        }
    }

    fn join(&self, join: JoinDial) {
        let Some(worker) = self.shared.workers.first() else {
            return;
        };
        if let Err(refused) = worker.joins.try_send(join) {
            let (mpsc::error::TrySendError::Full(join) | mpsc::error::TrySendError::Closed(join)) = refused;
            // Whoever asked may have given up.
            let _ = join.reply.send(Err(DialError {
                reason: Reason::Overloaded,
                detail: "too many joins are being dialled".into(),
            }));
        }
    }

    async fn probe(&self, peer: &ClusterId, reply: oneshot::Sender<Result<Duration, DialError>>) {
        let tunnels = self.shared.directory.to_peer(peer);
        let result = match tunnels.iter().find(|tunnel| tunnel.is_usable()) {
            None => Err(DialError {
                reason: Reason::NoTunnel,
                detail: format!("no usable tunnel to {peer}"),
            }),
            Some(tunnel) => tunnel.probe().await.map_err(|reason| DialError {
                reason,
                detail: format!(
                    "tunnel {} to {}: {}",
                    tunnel.id(),
                    tunnel.peer().instance,
                    reason.meaning()
                ),
            }),
        };
        // Whoever asked may have given up.
        let _ = reply.send(result);
    }

    /// Takes no new connections and no new streams, tells every peer so, and resolves when the last stream is gone or `grace` is over.
    pub async fn drain(&self, grace: Duration) {
        self.shared.stage.send_if_modified(|stage| {
            let first = *stage == Stage::Running;
            if first {
                *stage = Stage::Draining;
            }
            first
        });
        let gone = async {
            loop {
                let conns = self.shared.conns();
                let Some(tunnel) = conns.iter().find_map(|conn| conn.tunnel.clone()) else {
                    return;
                };
                tunnel.closed().await;
                // Its task takes it off the list at once.
                tokio::task::yield_now().await;
            }
        };
        let _ = tokio::time::timeout(grace, gone).await;
    }

    /// Ends everything at once; the workers return.
    pub fn close(&self) {
        self.shared.stage.send_replace(Stage::Closed);
    }
}

fn handle() -> (WorkerHandle, mpsc::Receiver<JoinDial>) {
    let (joins, receiver) = mpsc::channel(JOIN_QUEUE);
    let handle = WorkerHandle {
        joins,
        wake: Notify::new(),
    };
    (handle, receiver)
}
