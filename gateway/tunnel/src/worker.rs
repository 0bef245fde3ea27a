//! One data worker: its endpoints, its accept loop, its dials.
//!
//! Owns what happens when: a snapshot, a trust change, an ended dial, a dead endpoint each lead to one look of the pure planner, whose
//! actions it carries out. Run by strait-gateway on a current-thread runtime of its own.

use std::{
    collections::BTreeSet,
    hash::{DefaultHasher, Hash, Hasher},
    net::UdpSocket,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use quinn::ServerConfig;
use rustls_pki_types::UnixTime;
use socket2::SockRef;
use strait_federation_api::{
    ClusterId, Reason,
    control::DialError,
    observation::TunnelKind,
    snapshot::{Peer, PeerMode, Snapshot},
};
use strait_trust_bridge::tls::Alpn;
use tokio::sync::mpsc;

use crate::{
    accept::{Door, base_config},
    conn::{Conn, Origin},
    control,
    counters::Counters,
    data,
    dial::{self, Dialler, JoinDial, Target},
    endpoint::{Port, PortConfig},
    error::TunnelError,
    join,
    plan::{Action, PeerWant, Planner, Purpose},
    shared::{Shared, Stage},
    socket,
    steer::Steering,
    tunnel::StreamAcceptor,
};

/// Longest time between two looks of the planner: leaves expire and spare tunnels age without an event.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// After everything was closed, the closes have so long to go out.
const CLOSE_LINGER: Duration = Duration::from_secs(1);
/// Pause before an endpoint is built again: a driver that dies at once must not spin.
const RESTART_PAUSE: Duration = Duration::from_millis(100);

/// Runs `task` so that its panic ends nothing else; the panic hook has printed it.
pub(crate) fn isolated(counters: Arc<Counters>, task: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(async move {
        if AssertUnwindSafe(task).catch_unwind().await.is_err() {
            counters.task_panics.add(1);
            tracing::error!(reason = "Internal", "a connection task panicked; others go on");
        }
    });
}

/// One data worker, bound and not yet running.
pub struct TunnelWorker {
    pub(crate) index: u32,
    pub(crate) shared: Arc<Shared>,
    pub(crate) ports: PortConfig,
    /// Where this worker accepts, it has one.
    pub(crate) server: Option<UdpSocket>,
    pub(crate) client: UdpSocket,
    pub(crate) steering: Arc<Steering>,
    pub(crate) joins: mpsc::Receiver<JoinDial>,
}

impl std::fmt::Debug for TunnelWorker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TunnelWorker")
            .field("index", &self.index)
            .finish_non_exhaustive()
    }
}

/// A dial that ended.
struct Ended {
    peer: ClusterId,
    purpose: Purpose,
    up: bool,
}

impl TunnelWorker {
    /// Number of this worker.
    #[must_use]
    pub const fn index(&self) -> u32 {
        self.index
    }

    /// Drives sockets and connections until the tunnels are closed.
    ///
    /// # Errors
    /// [`TunnelError`] when a socket or TLS cannot be used; failures of peers are never errors here.
    pub async fn run(self, acceptor: Arc<dyn StreamAcceptor>) -> Result<(), TunnelError> {
        let base = base_config(&self.shared).map_err(|error| TunnelError::Tls(error.to_string()))?;
        let (ended, dials) = mpsc::unbounded_channel();
        let running = Running {
            client: self.open(&self.client, None)?,
            server: None,
            index: self.index,
            base,
            acceptor,
            planner: Planner::default(),
            turns: 0,
            ended,
            snapshot: self.shared.snapshot(),
            worker: self,
        };
        running.run(dials).await
    }

    /// Opens a port on a copy of `socket`, so that it can be opened again.
    fn open(&self, socket: &UdpSocket, server: Option<ServerConfig>) -> Result<Port, TunnelError> {
        let failed = |source| TunnelError::Socket {
            worker: self.index,
            source,
        };
        let steering = server
            .is_some()
            .then(|| (index(self.index), Arc::clone(&self.steering)));
        let port = self
            .ports
            .open(socket.try_clone().map_err(failed)?, server, steering)
            .map_err(failed)?;
        let status = socket::status(&SockRef::from(socket), self.index).map_err(failed)?;
        self.shared.add_socket(status, Arc::clone(&port.socket));
        Ok(port)
    }
}

/// A worker index as a place in a list.
pub(crate) fn index(worker: u32) -> usize {
    usize::try_from(worker).unwrap_or(usize::MAX)
}

struct Running {
    worker: TunnelWorker,
    index: u32,
    base: ServerConfig,
    acceptor: Arc<dyn StreamAcceptor>,
    client: Port,
    server: Option<Port>,
    planner: Planner,
    /// Dials so far: each starts with another address.
    turns: usize,
    ended: mpsc::UnboundedSender<Ended>,
    snapshot: Arc<Snapshot>,
}

impl Running {
    fn shared(&self) -> &Arc<Shared> {
        &self.worker.shared
    }

    async fn run(mut self, mut dials: mpsc::UnboundedReceiver<Ended>) -> Result<(), TunnelError> {
        self.listen()?;
        let shared = Arc::clone(self.shared());
        let mut snapshots = shared.links.snapshots.clone();
        let mut trust = shared.links.trust_changes.clone();
        let mut stage = shared.stage.subscribe();
        snapshots.mark_changed();
        loop {
            let next = self.look();
            let server_ended = self.server.as_ref().map(|port| Arc::clone(&port.ended));
            let client_ended = Arc::clone(&self.client.ended);
            tokio::select! {
                biased;
                _ = stage.wait_for(|stage| *stage == Stage::Closed) => break,
                Ok(()) = trust.changed() => self.reverify(),
                Ok(()) = snapshots.changed() => self.take_snapshot(&Arc::clone(&snapshots.borrow_and_update())),
                Some(ended) = dials.recv() => {
                    let jitter = rand::random();
                    self.planner.dialled(Instant::now(), &ended.peer, ended.purpose, ended.up, jitter);
                }
                Some(join) = self.worker.joins.recv() => self.dial_join(join),
                () = broken(server_ended) => self.rebuild_server().await?,
                () = client_ended.broken() => self.rebuild_client().await?,
                () = shared.workers[index(self.index)].wake.notified() => {}
                () = tokio::time::sleep_until(next.into()) => self.each_second(),
            }
        }
        self.close().await;
        Ok(())
    }

    fn listen(&mut self) -> Result<(), TunnelError> {
        let Some(socket) = &self.worker.server else {
            return Ok(());
        };
        let port = self.worker.open(socket, Some(self.base.clone()))?;
        let door = Door {
            shared: Arc::clone(self.shared()),
            acceptor: Arc::clone(&self.acceptor),
            worker: self.index,
            base: self.base.clone(),
        };
        isolated(
            Arc::clone(&self.shared().counters),
            door.run(port.endpoint.clone()),
        );
        self.server = Some(port);
        Ok(())
    }

    /// The endpoint's driver is gone, and its connections with it: dialled ones are planned anew, accepted ones are dialled anew.
    async fn rebuild_server(&mut self) -> Result<(), TunnelError> {
        // A poisoned endpoint panics when dropped.
        std::mem::forget(self.server.take());
        self.restarting().await;
        self.listen()
    }

    async fn rebuild_client(&mut self) -> Result<(), TunnelError> {
        self.restarting().await;
        let fresh = self.worker.open(&self.worker.client, None)?;
        std::mem::forget(std::mem::replace(&mut self.client, fresh));
        Ok(())
    }

    async fn restarting(&self) {
        self.shared().counters.endpoint_restarts.add(1);
        tracing::error!(
            worker = self.index,
            reason = "Internal",
            "a QUIC endpoint ended; it is built again"
        );
        tokio::time::sleep(RESTART_PAUSE).await;
    }

    fn each_second(&self) {
        if self.index == 0 {
            self.shared().tell_all_links();
        }
    }

    /// Ends what the new snapshot no longer holds; planning follows.
    fn take_snapshot(&mut self, new: &Arc<Snapshot>) {
        let old = std::mem::replace(&mut self.snapshot, Arc::clone(new));
        for conn in self.own_conns() {
            let cluster = &conn.peer().cluster;
            let gone = old.peers.contains_key(cluster) && !new.peers.contains_key(cluster);
            let other_domain = new
                .peers
                .get(cluster)
                .is_some_and(|peer| peer.trust_domain != conn.peer().trust_domain);
            if gone || other_domain {
                conn.close(Reason::FederationRemoved);
            }
        }
        for (cluster, peer) in &new.peers {
            if old
                .peers
                .get(cluster)
                .is_none_or(|held| held.addresses != peer.addresses || held.mode != peer.mode)
            {
                self.planner.forgive(Instant::now(), cluster);
            }
        }
    }

    /// Trust changed: ends every connection whose chain no longer holds.
    fn reverify(&mut self) {
        let now = UnixTime::now();
        for conn in self.own_conns() {
            if let Err(reason) = conn.reverify(&self.shared().links.trust, now) {
                self.shared().refused(
                    conn.remote,
                    Some(&conn.peer().cluster),
                    reason,
                    "verified again after a change of trust",
                );
                conn.close(reason);
            }
        }
    }

    fn own_conns(&self) -> Vec<Arc<Conn>> {
        let mut conns = self.shared().conns();
        conns.retain(|conn| conn.worker == self.index);
        conns
    }

    /// Plans and acts; gives the time of the next look.
    fn look(&mut self) -> Instant {
        let now = Instant::now();
        let latest = now + LOOK_EVERY;
        let shared = Arc::clone(self.shared());
        if shared.stage() != Stage::Running || shared.links.trust.identity().is_none() {
            return latest;
        }
        let peers: Vec<_> = self
            .snapshot
            .peers
            .values()
            .map(|peer| self.want(peer, now))
            .collect();
        let conns = shared.conns();
        let seen: Vec<_> = conns
            .iter()
            .filter(|conn| conn.quic().is_some_and(|quic| quic.close_reason().is_none()))
            .map(|conn| conn.seen(self.index, &shared.links.trust, now))
            .collect();
        let plan = self.planner.plan(now, &peers, &seen);
        for action in plan.actions {
            self.act(action, &conns);
        }
        plan.next.unwrap_or(latest).min(latest)
    }

    fn want(&self, peer: &Peer, now: Instant) -> PeerWant {
        let workers = self.shared().config.workers;
        let mine = |name: &str| share(name, workers) == self.index;
        let asked = self.shared().is_asked(&peer.cluster, now);
        let control = mine(peer.cluster.as_str());
        PeerWant {
            cluster: peer.cluster.clone(),
            dialable: !peer.addresses.is_empty(),
            suspended: peer.mode == PeerMode::Suspended,
            warm: peer.importing || (asked && control),
            control,
            cover: peer
                .instances
                .iter()
                .filter(|instance| mine(instance.as_str()))
                .cloned()
                .collect::<BTreeSet<_>>(),
        }
    }

    fn act(&mut self, action: Action, conns: &[Arc<Conn>]) {
        let find = |id: u64| conns.iter().find(|conn| conn.id == id);
        match action {
            Action::Close { id, reason } => {
                if let Some(conn) = find(id) {
                    conn.close(reason);
                }
            }
            Action::Retire { id } => {
                if let Some(conn) = find(id) {
                    conn.retire(Reason::Superseded);
                }
            }
            Action::Dial { peer, purpose } => self.dial(&peer, purpose),
        }
    }

    fn dial(&mut self, cluster: &ClusterId, purpose: Purpose) {
        let Some(peer) = self.snapshot.peers.get(cluster).cloned() else {
            return;
        };
        self.turns = self.turns.wrapping_add(1);
        // A load balancer spreads by address and port: only a fresh port can lead to another instance.
        let fresh = (purpose == Purpose::Cover).then(|| self.fresh_port()).flatten();
        let call = Call {
            shared: Arc::clone(self.shared()),
            acceptor: Arc::clone(&self.acceptor),
            worker: self.index,
            port: fresh.unwrap_or_else(|| self.client.clone()),
            peer,
            purpose,
            turn: if purpose == Purpose::Cover { self.turns } else { 0 },
        };
        let guard = EndedGuard {
            ended: self.ended.clone(),
            value: Some(Ended {
                peer: cluster.clone(),
                purpose,
                up: false,
            }),
        };
        isolated(Arc::clone(&self.shared().counters), call.run(guard));
    }

    fn fresh_port(&self) -> Option<Port> {
        let socket = socket::bind_client().ok()?;
        self.worker.open(&socket, None).ok()
    }

    fn dial_join(&self, join: JoinDial) {
        let dialler = self.dialler(&self.client);
        isolated(Arc::clone(&self.shared().counters), async move {
            let JoinDial {
                addresses,
                pin,
                timeout,
                reply,
            } = join;
            let dialling = dial_join(dialler, addresses, pin);
            match tokio::time::timeout(timeout, dialling).await {
                Ok(Ok((stream, keep))) => {
                    // Whoever asked may have given up: the stream is dropped, and `keep` ends.
                    let _ = reply.send(Ok(stream));
                    keep.await;
                }
                Ok(Err(error)) => drop(reply.send(Err(error))),
                Err(_) => drop(reply.send(Err(DialError {
                    reason: Reason::DeadlineExceeded,
                    detail: "no address answered in the time allowed".into(),
                }))),
            }
        });
    }

    fn dialler(&self, port: &Port) -> Dialler {
        Dialler {
            endpoint: port.endpoint.clone(),
            trust: Arc::clone(&self.shared().links.trust),
            allow_loopback: self.shared().config.allow_loopback,
        }
    }

    async fn close(self) {
        for conn in self.own_conns() {
            conn.close(Reason::Draining);
        }
        for port in self.server.iter().chain([&self.client]) {
            if !port.ended.is_broken() {
                port.endpoint.close(crate::codes::varint(Reason::Draining), b"");
                let _ = tokio::time::timeout(CLOSE_LINGER, port.endpoint.wait_idle()).await;
            }
        }
    }
}

/// Spreads duties over workers.
fn share(name: &str, workers: u32) -> u32 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    // The remainder is below `workers`.
    u32::try_from(hasher.finish() % u64::from(workers.max(1))).unwrap_or(0)
}

async fn broken(health: Option<Arc<crate::runtime::Health>>) {
    match health {
        Some(health) => health.broken().await,
        None => std::future::pending().await,
    }
}

async fn dial_join(
    dialler: Dialler,
    addresses: Vec<strait_federation_api::snapshot::GatewayAddress>,
    pin: strait_trust_bridge::RootPin,
) -> Result<
    (
        strait_federation_api::control::JoinStream,
        impl Future<Output = ()> + Send,
    ),
    DialError,
> {
    let dialled = dialler.dial(&addresses, 0, &Target::Join(pin)).await?;
    let remote = dialled.remote;
    join::dialled(dialled.quic, remote)
        .await
        .map_err(|reason| DialError {
            reason,
            detail: format!("{remote}: {}", reason.meaning()),
        })
}

/// Tells the planner of a dial's end, also when its task panics.
struct EndedGuard {
    ended: mpsc::UnboundedSender<Ended>,
    value: Option<Ended>,
}

impl EndedGuard {
    fn up(&mut self) {
        if let Some(value) = &mut self.value {
            value.up = true;
        }
    }
}

impl Drop for EndedGuard {
    fn drop(&mut self) {
        if let Some(value) = self.value.take() {
            // Fails only when the worker has ended.
            let _ = self.ended.send(value);
        }
    }
}

/// One dial to a peer and, when it succeeds, the life of the connection.
struct Call {
    shared: Arc<Shared>,
    acceptor: Arc<dyn StreamAcceptor>,
    worker: u32,
    port: Port,
    peer: Arc<Peer>,
    purpose: Purpose,
    turn: usize,
}

impl Call {
    async fn run(self, guard: EndedGuard) {
        let fresh = (self.purpose == Purpose::Cover).then(|| Arc::clone(&self.port.socket));
        let shared = Arc::clone(&self.shared);
        match self.connect().await {
            Ok(conn) => self.serve(conn, guard).await,
            Err(error) => {
                self.failed(&error);
                drop(guard);
            }
        }
        if let Some(socket) = fresh {
            shared.remove_socket(&socket);
        }
    }

    const fn kind(&self) -> TunnelKind {
        match self.purpose {
            Purpose::Control => TunnelKind::Control,
            Purpose::Warm | Purpose::Load | Purpose::Cover => TunnelKind::Data,
        }
    }

    async fn connect(&self) -> Result<Arc<Conn>, DialError> {
        let domain = &self.peer.trust_domain;
        let dialler = Dialler {
            endpoint: self.port.endpoint.clone(),
            trust: Arc::clone(&self.shared.links.trust),
            allow_loopback: self.shared.config.allow_loopback,
        };
        let identity = self.shared.links.trust.identity();
        let alpn = match self.kind() {
            TunnelKind::Control => Alpn::Control,
            TunnelKind::Data => Alpn::Data,
        };
        let target = Target::Peer {
            domain: domain.clone(),
            alpn,
        };
        let dialled = dialler.dial(&self.peer.addresses, self.turn, &target).await?;
        let remote = dialled.remote;
        let refused = |reason: Reason| {
            dialled
                .quic
                .close(crate::codes::varint(reason), reason.name().as_bytes());
            DialError {
                reason,
                detail: format!("{remote}: {}", reason.meaning()),
            }
        };
        let proven = dial::prove_server(&dialled.quic, &self.shared.links.trust, domain).map_err(refused)?;
        if self.purpose == Purpose::Cover && self.is_covered(&proven.peer.instance) {
            return Err(refused(Reason::Superseded));
        }
        let origin = Origin {
            quic: dialled.quic.clone(),
            health: Arc::clone(&dialled.health),
            worker: self.worker,
            dialled: true,
            identity,
        };
        self.shared.admit(self.kind(), proven, origin).map_err(refused)
    }

    /// A redial reached an instance that has a tunnel already.
    fn is_covered(&self, instance: &strait_federation_api::InstanceId) -> bool {
        let tunnels = self.shared.directory.to_peer(&self.peer.cluster);
        tunnels
            .iter()
            .any(|tunnel| tunnel.is_usable() && tunnel.peer().instance == *instance)
    }

    async fn serve(self, conn: Arc<Conn>, mut guard: EndedGuard) {
        let (shared, cluster) = (Arc::clone(&self.shared), self.peer.cluster.clone());
        let remote = conn.remote;
        let ready = move |result: Result<(), Reason>| {
            match result {
                Ok(()) => {
                    guard.up();
                    shared.counters.dialled.add(1);
                    shared.dial_ended(&cluster, None);
                }
                // A race that the other side's connection has won is a link that is up.
                Err(Reason::Superseded) => {}
                Err(reason) => {
                    shared.counters.dial_failures.add(1);
                    shared.dial_ended(
                        &cluster,
                        Some((reason, format!("{remote}: {}", reason.meaning()))),
                    );
                }
            }
            drop(guard);
        };
        match conn.kind {
            TunnelKind::Control => control::serve(self.shared, conn, ready).await,
            TunnelKind::Data => data::serve(self.shared, conn, self.acceptor, ready).await,
        }
    }

    fn failed(&self, error: &DialError) {
        if self.purpose == Purpose::Cover && error.reason == Reason::Superseded {
            return;
        }
        self.shared.counters.dial_failures.add(1);
        tracing::debug!(
            peer = %self.peer.cluster, purpose = ?self.purpose, reason = error.reason.name(), detail = error.detail,
            "dial failed"
        );
        self.shared
            .dial_ended(&self.peer.cluster, Some((error.reason, error.detail.clone())));
    }
}
