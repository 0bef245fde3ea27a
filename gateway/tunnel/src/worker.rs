//! One data worker: its endpoints, its accept loop, its dials.
//!
//! Owns what happens when: a snapshot, a trust change, an ended dial, a dead endpoint each lead to one look of the pure planner, whose
//! actions it carries out. Run by strait-gateway on a current-thread runtime of its own.

use std::{
    collections::BTreeSet,
    hash::{DefaultHasher, Hash, Hasher},
    net::UdpSocket,
    sync::Arc,
    time::{Duration, Instant},
};

use quinn::ServerConfig;
use rustls_pki_types::UnixTime;
use socket2::SockRef;
use strait_federation_api::{
    ClusterId, Reason,
    snapshot::{Peer, PeerMode, Snapshot},
};
use tokio::sync::mpsc;

use crate::{
    accept::{Door, base_config},
    call::{self, Call, Ended, EndedGuard},
    codes::varint,
    conn::Conn,
    dial::{Dialler, JoinDial},
    endpoint::{Port, PortConfig},
    error::TunnelError,
    isolate::isolated,
    plan::{Action, PeerWant, Planner, Purpose},
    runtime::Health,
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
        let (running, dials) = self.start(acceptor)?;
        running.run(dials).await
    }

    fn start(
        self,
        acceptor: Arc<dyn StreamAcceptor>,
    ) -> Result<(Running, mpsc::UnboundedReceiver<Ended>), TunnelError> {
        let base = base_config(&self.shared).map_err(|error| TunnelError::Tls(error.to_string()))?;
        let (ended, dials) = mpsc::unbounded_channel();
        let mut running = Running {
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
        running.listen()?;
        Ok((running, dials))
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
        self.server = None;
        self.restarting().await;
        self.listen()
    }

    async fn rebuild_client(&mut self) -> Result<(), TunnelError> {
        self.restarting().await;
        self.client = self.worker.open(&self.worker.client, None)?;
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
        let guard = EndedGuard::new(self.ended.clone(), cluster.clone(), purpose);
        isolated(Arc::clone(&self.shared().counters), call.run(guard));
    }

    fn fresh_port(&self) -> Option<Port> {
        let socket = socket::bind_client().ok()?;
        self.worker.open(&socket, None).ok()
    }

    fn dial_join(&self, join: JoinDial) {
        let dialler = Dialler::new(self.shared(), &self.client);
        isolated(Arc::clone(&self.shared().counters), call::join(dialler, join));
    }

    async fn close(self) {
        for conn in self.own_conns() {
            conn.close(Reason::Draining);
        }
        for port in self.server.iter().chain([&self.client]) {
            if !port.ended.is_broken() {
                port.endpoint.close(varint(Reason::Draining), b"");
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

async fn broken(health: Option<Arc<Health>>) {
    match health {
        Some(health) => health.broken().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
