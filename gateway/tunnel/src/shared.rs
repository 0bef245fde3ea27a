//! What all workers share.
//!
//! Owns the list of connections, the choice of the one control connection of a pair, the stage of the process, and what is told to
//! the controller. Never drives anything. Written by connection tasks, read by planners and status.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use strait_federation_api::{
    ClusterId, Reason, TrustDomain,
    control::GatewayEvent,
    observation::{LinkState, Observation, SocketStatus, TunnelKind},
    snapshot::Snapshot,
};
use tokio::sync::{Notify, mpsc, watch};

use crate::{
    budget,
    config::{Links, TunnelConfig},
    conn::{Conn, Origin, Proven},
    counters::Counters,
    dial::JoinDial,
    join::Sessions,
    limit::Limiter,
    registry::Tunnels,
    resolve::Resolver,
    udp::WorkerSocket,
};

/// Connections that a peer may have with us, of each kind, before one more of it is refused. Control needs one; a second and third
/// exist while two gateways race or renew.
const fn max_live(kind: TunnelKind) -> usize {
    match kind {
        TunnelKind::Data => budget::MAX_DATA,
        TunnelKind::Control => 16,
    }
}

/// How long a peer's wish for a tunnel is kept alive: it repeats it as long as it needs one.
const ASKED_FOR: Duration = Duration::from_secs(60);

/// Life of the process as connections see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    Running,
    /// No new connections, no new streams.
    Draining,
    /// Everything ends now.
    Closed,
}

/// How to reach one worker.
#[derive(Debug)]
pub(crate) struct WorkerHandle {
    pub(crate) joins: mpsc::Sender<JoinDial>,
    /// Rung when its planner should look again.
    pub(crate) wake: Notify,
}

pub(crate) struct Shared {
    pub(crate) config: TunnelConfig,
    pub(crate) links: Links,
    pub(crate) own: TrustDomain,
    pub(crate) listen: SocketAddr,
    pub(crate) counters: Arc<Counters>,
    pub(crate) directory: Tunnels,
    pub(crate) stage: watch::Sender<Stage>,
    pub(crate) workers: Vec<WorkerHandle>,
    pub(crate) limiter: Mutex<Limiter>,
    pub(crate) resolver: Arc<Resolver>,
    /// Handshakes that we accepted and that are under way.
    pub(crate) handshakes: AtomicU32,
    /// Join sessions under way.
    pub(crate) joins: Sessions,
    next_id: AtomicU64,
    conns: Mutex<BTreeMap<u64, Arc<Conn>>>,
    control: Mutex<BTreeMap<ClusterId, Arc<Conn>>>,
    sockets: Mutex<Vec<(SocketStatus, Arc<WorkerSocket>)>>,
    told: Mutex<BTreeMap<ClusterId, LinkState>>,
    dial_errors: Mutex<BTreeMap<ClusterId, (Reason, String)>>,
    asked: Mutex<BTreeMap<ClusterId, Instant>>,
}

impl Shared {
    pub(crate) fn new(
        config: TunnelConfig,
        links: Links,
        listen: SocketAddr,
        workers: Vec<WorkerHandle>,
    ) -> Arc<Self> {
        Arc::new(Self {
            own: links.trust.view().own().clone(),
            config,
            links,
            listen,
            counters: Arc::default(),
            directory: Tunnels::default(),
            stage: watch::Sender::new(Stage::Running),
            workers,
            limiter: Mutex::default(),
            resolver: Arc::default(),
            handshakes: AtomicU32::new(0),
            joins: Sessions::default(),
            next_id: AtomicU64::new(1),
            conns: Mutex::default(),
            control: Mutex::default(),
            sockets: Mutex::default(),
            told: Mutex::default(),
            dial_errors: Mutex::default(),
            asked: Mutex::default(),
        })
    }

    pub(crate) fn stage(&self) -> Stage {
        *self.stage.borrow()
    }

    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.links.snapshots.borrow())
    }

    /// Lists a connection that was admitted, and opens the window of a data connection. What we dial is our own choice and is never
    /// one too many.
    ///
    /// # Errors
    /// [`Reason::TooManyConnections`] when the peer dialled and there are too many already.
    pub(crate) fn admit(
        &self,
        kind: TunnelKind,
        proven: Proven,
        origin: Origin,
    ) -> Result<Arc<Conn>, Reason> {
        let mut conns = self.conns.lock();
        let same = |conn: &&Arc<Conn>| conn.kind == kind && conn.peer().cluster == proven.peer.cluster;
        let live = conns.values().filter(same).count();
        if !origin.dialled && live >= max_live(kind) {
            return Err(Reason::TooManyConnections);
        }
        let window = (kind == TunnelKind::Data).then(|| {
            let held = conns.values().filter(same).map(|conn| u64::from(conn.window));
            budget::window(live, held.sum())
        });
        if let Some(window) = window {
            origin.quic.set_receive_window(quinn::VarInt::from_u32(window));
        }
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let conn = Conn::new(id, kind, proven, origin, window.unwrap_or_default());
        conns.insert(id, Arc::clone(&conn));
        Ok(conn)
    }

    /// A connection is gone: planners look again, the controller is told.
    fn forget(&self, conn: &Conn) {
        self.conns.lock().remove(&conn.id);
        let cluster = &conn.peer().cluster;
        {
            let mut control = self.control.lock();
            if control.get(cluster).is_some_and(|held| held.id == conn.id) {
                control.remove(cluster);
            }
        }
        if let Some(tunnel) = &conn.tunnel {
            self.directory.remove(tunnel);
        }
        self.changed(cluster);
    }

    pub(crate) fn conns(&self) -> Vec<Arc<Conn>> {
        self.conns.lock().values().cloned().collect()
    }

    /// Makes `new` the control connection of its pair and closes the loser.
    ///
    /// # Errors
    /// [`Reason::Superseded`] when the one that is there stays.
    pub(crate) fn elect(&self, new: &Arc<Conn>) -> Result<(), Reason> {
        let cluster = &new.peer().cluster;
        let mut control = self.control.lock();
        let old = control
            .get(cluster)
            .filter(|old| old.quic().is_some_and(|quic| quic.close_reason().is_none()));
        if let Some(old) = old {
            let by_lower = |conn: &Conn| {
                let dialler = if conn.dialled {
                    &self.own
                } else {
                    &conn.peer().trust_domain
                };
                *dialler <= self.own && *dialler <= conn.peer().trust_domain
            };
            if !replaces(by_lower(new), by_lower(old)) {
                return Err(Reason::Superseded);
            }
            old.close(Reason::Superseded);
        }
        control.insert(cluster.clone(), Arc::clone(new));
        new.set_up();
        Ok(())
    }

    pub(crate) fn wake_planners(&self) {
        for worker in &self.workers {
            worker.wake.notify_one();
        }
    }

    /// Links to a peer changed.
    pub(crate) fn changed(&self, cluster: &ClusterId) {
        self.wake_planners();
        self.tell_link(cluster);
    }

    /// The last dial of a peer failed, or did not.
    pub(crate) fn dial_ended(&self, cluster: &ClusterId, error: Option<(Reason, String)>) {
        let mut errors = self.dial_errors.lock();
        match error {
            Some(error) => errors.insert(cluster.clone(), error),
            None => errors.remove(cluster),
        };
        drop(errors);
        self.tell_link(cluster);
    }

    /// The peer cannot dial and asked for a tunnel.
    pub(crate) fn ask(&self, cluster: ClusterId, now: Instant) {
        self.asked.lock().insert(cluster, now + ASKED_FOR);
        self.wake_planners();
    }

    pub(crate) fn is_asked(&self, cluster: &ClusterId, now: Instant) -> bool {
        self.asked.lock().get(cluster).is_some_and(|until| *until > now)
    }

    /// Links to one peer now.
    fn link(&self, cluster: &ClusterId) -> LinkState {
        let tunnels = self.directory.to_peer(cluster);
        let usable: Vec<_> = tunnels.iter().filter(|tunnel| tunnel.is_usable()).collect();
        let instances: BTreeSet<_> = usable
            .iter()
            .map(|tunnel| tunnel.peer().instance.clone())
            .collect();
        let control = self.control.lock().contains_key(cluster);
        let count = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        LinkState {
            usable_tunnels: count(usable.len()),
            tunnels: count(tunnels.len()),
            control,
            rtt: usable.iter().map(|tunnel| tunnel.rtt()).min(),
            instances: instances.into_iter().collect(),
            last_error: self
                .dial_errors
                .lock()
                .get(cluster)
                .filter(|_| usable.is_empty() && !control)
                .cloned(),
        }
    }

    /// Tells the controller of a link if it changed otherwise than in its round trip.
    pub(crate) fn tell_link(&self, cluster: &ClusterId) {
        // Held while looking: of two that tell at the same time, the later look must be the later word.
        let mut told = self.told.lock();
        let state = self.link(cluster);
        let same = |held: &LinkState| {
            LinkState {
                rtt: None,
                ..held.clone()
            } == LinkState {
                rtt: None,
                ..state.clone()
            }
        };
        if told.get(cluster).is_some_and(same) {
            return;
        }
        let observed = Observation::Link {
            peer: cluster.clone(),
            state: state.clone(),
        };
        if self.observe(observed) {
            told.insert(cluster.clone(), state);
        }
    }

    /// Tells again what did not get through.
    pub(crate) fn tell_all_links(&self) {
        let mut clusters: BTreeSet<_> = self.snapshot().peers.keys().cloned().collect();
        clusters.extend(self.told.lock().keys().cloned());
        clusters.iter().for_each(|cluster| self.tell_link(cluster));
    }

    /// Never blocks: a controller that does not keep up loses observations, and links are told again.
    fn observe(&self, observation: Observation) -> bool {
        let sent = self
            .links
            .events
            .try_send(GatewayEvent::Observed(observation))
            .is_ok();
        if !sent {
            self.counters.observations_dropped.add(1);
        }
        sent
    }

    /// Logs, counts and reports a refusal.
    pub(crate) fn refused(&self, remote: SocketAddr, peer: Option<&ClusterId>, reason: Reason, detail: &str) {
        self.counters.refuse(reason);
        let peer_shown = peer.map(tracing::field::display);
        if reason == Reason::TunnelLost {
            // Connections that cross while a peer starts: nobody was refused, there is nothing to do.
            tracing::info!(
                reason = reason.name(),
                %remote,
                peer = peer_shown,
                detail,
                "a connection ended before it was admitted"
            );
        } else {
            tracing::warn!(
                reason = reason.name(),
                %remote,
                peer = peer_shown,
                detail,
                remedy = reason.remedy(),
                "refused"
            );
        }
        self.observe(Observation::Refused {
            remote,
            peer: peer.cloned(),
            reason,
        });
    }

    pub(crate) fn add_socket(&self, status: SocketStatus, socket: Arc<WorkerSocket>) {
        let mut sockets = self.sockets.lock();
        sockets.retain(|(held, _)| held.local != status.local || held.worker != status.worker);
        sockets.push((status, socket));
    }

    pub(crate) fn remove_socket(&self, socket: &Arc<WorkerSocket>) {
        self.sockets.lock().retain(|(_, held)| !Arc::ptr_eq(held, socket));
    }

    /// Batches that all sockets sent.
    pub(crate) fn batches(&self) -> u64 {
        self.sockets
            .lock()
            .iter()
            .map(|(_, socket)| socket.batches())
            .sum()
    }

    pub(crate) fn sockets(&self) -> Vec<SocketStatus> {
        let sockets = self.sockets.lock();
        let now = |(status, socket): &(SocketStatus, Arc<WorkerSocket>)| SocketStatus {
            gso_segments: u32::try_from(socket.gso_segments()).unwrap_or(u32::MAX),
            ..status.clone()
        };
        sockets.iter().map(now).collect()
    }
}

/// Takes a connection off the list when its task ends, also by a panic.
pub(crate) struct Listed<'a> {
    shared: &'a Shared,
    conn: &'a Conn,
}

impl<'a> Listed<'a> {
    pub(crate) const fn new(shared: &'a Shared, conn: &'a Conn) -> Self {
        Self { shared, conn }
    }
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.shared.forget(self.conn);
    }
}

/// The rule of a pair: the connection dialled by the lower trust domain wins, then the newest. Both sides come to the same answer.
const fn replaces(new_by_lower: bool, old_by_lower: bool) -> bool {
    new_by_lower || !old_by_lower
}

#[cfg(test)]
mod tests {
    use super::replaces;

    #[test]
    fn the_lower_dialler_wins_then_the_newest() {
        assert!(replaces(true, true), "newest");
        assert!(replaces(true, false), "lower over higher");
        assert!(replaces(false, false), "newest");
        assert!(!replaces(false, true), "higher never over lower");
    }
}
