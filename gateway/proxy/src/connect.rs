//! From an accepted client to a way that said yes.
//!
//! Owns the shell around the retry contract: it keeps the client's first bytes, runs the tries and carries out what
//! [`crate::attempt::Attempts`] decides. Called by ingress.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use strait_balance::{Ask, Choice, TunnelView, affinity_key, pick_tunnel};
use strait_federation_api::{
    ClusterId, InstanceId, Reason,
    catalog::{Protocol, SessionAffinity},
    snapshot::{Backend, BackendCluster, Import},
};
use strait_tunnel::Tunnel;
use tokio::{io::Interest, net::TcpStream};

use crate::{
    attempt::{Attempts, KEPT_MAX, MAX_ATTEMPTS, Step, TryId},
    endpoint,
    header::{Refusal, Request},
    plan::{Last, Offer, Plan, Way},
    pool,
    route::{Target, View},
    tries::{Event, Exit, Running, next_event},
    worker::{ENDPOINT_TIMEOUT, Worker},
};

/// Longest wait for a tunnel when there is none to any candidate: a dial on one continent and a bit.
const TUNNEL_GRACE: Duration = Duration::from_secs(1);
/// Time between two looks meanwhile.
const TUNNEL_LOOK: Duration = Duration::from_millis(25);

/// A way, and what the client said meanwhile and was not sent there yet.
pub(crate) struct Established {
    pub(crate) exit: Exit,
    pub(crate) kept: Bytes,
}

/// No way.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) reason: Reason,
    pub(crate) detail: String,
    /// The cluster that had the last word.
    pub(crate) peer: Option<ClusterId>,
}

impl Failed {
    fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: detail.into(),
            peer: None,
        }
    }
}

/// Finds a way to `target` for the client on `tcp`.
pub(crate) async fn establish(
    worker: &Arc<Worker>,
    target: &Target,
    tcp: &TcpStream,
    remote: SocketAddr,
) -> Result<Established, Failed> {
    let view = worker.shared.view.load_full();
    let Some(import) = view.snapshot.imports.get(&target.service) else {
        return Err(Failed::new(
            Reason::UnknownName,
            format!("{} is not imported", target.service),
        ));
    };
    if !import
        .ports
        .iter()
        .any(|p| p.port == target.port && p.protocol == Protocol::Tcp)
    {
        let words = format!("{} has no TCP port {}", target.service, target.port);
        return Err(Failed::new(Reason::UnknownName, words));
    }
    let affinity = sticky(import).then(|| affinity_key(remote.ip()));
    let ask = Ask {
        import,
        protocol: Protocol::Tcp,
        port: target.port,
        only: target.only.as_ref(),
        member: target.member.as_ref(),
        affinity,
    };
    let choice = choose(worker, &view, ask).await;
    let replayable = !choice.candidates.is_empty()
        && choice
            .candidates
            .iter()
            .all(|b| b.replayable_ports.contains(&target.port));
    let mut dialling = Dialling {
        worker,
        view: &view,
        target,
        affinity,
        plan: Plan::new(choice.candidates.len()),
        candidates: choice.candidates,
        obstacle: choice.obstacle,
        attempts: Attempts::new(Instant::now(), replayable),
        tries: [const { None }; MAX_ATTEMPTS],
        clusters: [None; MAX_ATTEMPTS],
        used: Vec::new(),
        last: None,
        detail: String::new(),
        kept: BytesMut::new(),
        client: Client::Open,
    };
    dialling.run(tcp).await
}

/// Orders the candidates, and gives tunnels a moment where none is usable: one that starved for a few hundred milliseconds on a busy
/// machine, or is just being dialled, is back before a client would try again.
async fn choose<'a>(worker: &Worker, view: &View, ask: Ask<'a>) -> Choice<'a> {
    let end = Instant::now() + TUNNEL_GRACE;
    loop {
        let choice = worker.choose(&view.snapshot, ask);
        let hopeless = choice.obstacle != Reason::NoTunnel || Instant::now() >= end;
        if !choice.candidates.is_empty() || hopeless {
            return choice;
        }
        tokio::time::sleep(TUNNEL_LOOK).await;
    }
}

const fn sticky(import: &Import) -> bool {
    matches!(import.session_affinity, SessionAffinity::ClientIp { .. })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Client {
    Open,
    /// Said that it has nothing more: the copy loop will read the same end again.
    Ended,
}

struct Dialling<'a> {
    worker: &'a Arc<Worker>,
    view: &'a View,
    target: &'a Target,
    affinity: Option<u64>,
    plan: Plan,
    candidates: Vec<&'a Backend>,
    obstacle: Reason,
    attempts: Attempts,
    tries: [Option<Running>; MAX_ATTEMPTS],
    /// Position of each try's candidate.
    clusters: [Option<usize>; MAX_ATTEMPTS],
    /// Tunnels tried, with their instances.
    used: Vec<(u64, InstanceId)>,
    last: Option<Last>,
    detail: String,
    kept: BytesMut,
    client: Client,
}

impl Dialling<'_> {
    async fn run(&mut self, tcp: &TcpStream) -> Result<Established, Failed> {
        loop {
            let now = Instant::now();
            let tries = &self.tries;
            let fresh = |id: TryId| tries[id.index()].as_ref().is_some_and(|t| t.is_fresh(now));
            match self.attempts.poll(now, fresh) {
                Step::Open(id) => self.open(id, now),
                Step::Send { to, from, until } => {
                    let payload = Bytes::copy_from_slice(&self.kept[from..until]);
                    if let Some(running) = &mut self.tries[to.index()] {
                        running.send(payload);
                    }
                }
                Step::Abandon(id) => {
                    self.tries[id.index()] = None;
                    self.report(id, false);
                }
                Step::Commit { to, sent } => return self.commit(to, sent).await,
                Step::Fail(reason) => return Err(self.failed(reason)),
                Step::Wait { until, read } => self.wait(tcp, until, read).await?,
            }
        }
    }

    async fn commit(&mut self, to: TryId, sent: usize) -> Result<Established, Failed> {
        self.report(to, true);
        let exit = match self.tries[to.index()].take() {
            Some(running) => running.into_exit().await,
            None => None,
        };
        let exit = exit.ok_or_else(|| self.failed(Reason::PeerReset))?;
        let kept = std::mem::take(&mut self.kept).freeze().slice(sent..);
        Ok(Established { exit, kept })
    }

    fn failed(&self, reason: Reason) -> Failed {
        let last = self.clusters.iter().rev().flatten().next();
        Failed {
            reason,
            detail: self.detail.clone(),
            peer: last.and_then(|i| peer_of(self.candidates[*i])),
        }
    }

    fn open(&mut self, id: TryId, now: Instant) {
        // Silence of the tries before is what a hedge is about.
        let before = self.last.take().unwrap_or(Last::Gateway);
        let last = (id.index() > 0).then_some(before);
        let mut plan = std::mem::take(&mut self.plan);
        let way = plan.next(last, |candidate| self.offer(candidate));
        self.plan = plan;
        let running = match way {
            None => None,
            Some(Way::Local { cluster }) => {
                self.clusters[id.index()] = Some(cluster);
                self.local(self.candidates[cluster])
            }
            Some(Way::Tunnel {
                cluster,
                fresh_instance,
            }) => {
                self.clusters[id.index()] = Some(cluster);
                self.tunnel(cluster, fresh_instance, now)
            }
        };
        match running {
            None => self.attempts.exhausted(id, self.obstacle),
            Some(running) => {
                let local = matches!(way, Some(Way::Local { .. }));
                self.tries[id.index()] = Some(running);
                // A slow dial of ours is no sign of a dead gateway: others are asked when it has failed.
                if local {
                    self.attempts.opened(id, ENDPOINT_TIMEOUT, now);
                }
            }
        }
    }

    fn offer(&self, candidate: usize) -> Offer {
        let BackendCluster::Peer(peer) = &self.candidates[candidate].cluster else {
            return Offer::Local;
        };
        let tunnels = self.worker.shared.tunnels.to_peer(peer);
        let mut offer = (false, false);
        for tunnel in tunnels.iter().filter(|t| self.is_new(t)) {
            offer.0 = true;
            offer.1 |= self.is_new_instance(tunnel);
        }
        Offer::Tunnels {
            any: offer.0,
            fresh_instance: offer.1,
        }
    }

    fn is_new(&self, tunnel: &Tunnel) -> bool {
        tunnel.is_usable() && self.used.iter().all(|(id, _)| *id != tunnel.id())
    }

    fn is_new_instance(&self, tunnel: &Tunnel) -> bool {
        self.used
            .iter()
            .all(|(_, instance)| *instance != tunnel.peer().instance)
    }

    fn tunnel(&mut self, cluster: usize, fresh_instance: bool, now: Instant) -> Option<Running> {
        let backend = self.candidates[cluster];
        let peer = peer_of(backend)?;
        let tunnels = self.worker.shared.tunnels.to_peer(&peer);
        let usable: Vec<&Arc<Tunnel>> = tunnels
            .iter()
            .filter(|t| self.is_new(t) && (!fresh_instance || self.is_new_instance(t)))
            .collect();
        let views: Vec<TunnelView> = usable.iter().map(|t| self.tunnel_view(t)).collect();
        let index = self.worker.with_rng(|rng| pick_tunnel(&views, rng))?;
        let tunnel = Arc::clone(usable[index]);
        self.used.push((tunnel.id(), tunnel.peer().instance.clone()));
        Some(Running::tunnel(tunnel, &self.request(backend, now)))
    }

    fn tunnel_view(&self, tunnel: &Tunnel) -> TunnelView {
        TunnelView {
            in_flight: tunnel.in_flight(),
            rtt: tunnel.rtt(),
            same_worker: tunnel.worker() == self.worker.index,
            saturated: tunnel.waiting() > 0,
        }
    }

    fn request(&self, backend: &Backend, now: Instant) -> Request {
        Request {
            protocol: Protocol::Tcp,
            port: self.target.port,
            hops: 1,
            deadline: self.attempts.deadline().saturating_duration_since(now),
            service: backend.remote.clone(),
            origin: self.view.snapshot.cluster.clone(),
            source: None,
            endpoint: self.target.member.clone(),
            affinity: self.affinity,
            trace: None,
        }
    }

    fn local(&self, backend: &Backend) -> Option<Running> {
        let port = self
            .view
            .export(&backend.remote)?
            .port(Protocol::Tcp, self.target.port)?;
        let (worker, port) = (Arc::clone(self.worker), Arc::clone(port));
        let (member, affinity) = (self.target.member.clone(), self.affinity);
        let limit = self.attempts.deadline().saturating_duration_since(Instant::now());
        Some(Running::local(async move {
            endpoint::connect(&worker, &port, member.as_ref(), affinity, limit).await
        }))
    }

    async fn wait(&mut self, tcp: &TcpStream, until: Instant, read: bool) -> Result<(), Failed> {
        let reading = read && self.client == Client::Open;
        let mut ready_for = Interest::ERROR;
        if reading {
            ready_for = Interest::READABLE;
        }
        tokio::select! {
            biased;
            (id, event) = next_event(&mut self.tries, TryId::at) => self.took_place(id, event),
            ready = tcp.ready(ready_for) => {
                let gone = |_| Failed::new(Reason::PeerReset, "the client is gone");
                ready.map_err(gone)?;
                if !reading {
                    return Err(gone(io::ErrorKind::ConnectionReset.into()));
                }
                self.read(tcp).map_err(gone)?;
            }
            () = tokio::time::sleep_until(until.into()) => {}
        }
        Ok(())
    }

    fn read(&mut self, tcp: &TcpStream) -> io::Result<()> {
        match pool::try_read_at_most(tcp, KEPT_MAX - self.kept.len()) {
            Ok(end) if end.is_empty() => self.client = Client::Ended,
            Ok(chunk) => {
                self.kept.extend_from_slice(&chunk);
                self.attempts.kept(chunk.len());
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn took_place(&mut self, id: TryId, event: Event) {
        match event {
            Event::Opened(expected) => self.attempts.opened(id, expected, Instant::now()),
            Event::Accepted => self.attempts.accepted(id),
            Event::Suspected => self.attempts.suspected(id, Instant::now()),
            Event::Refused(Refusal {
                reason,
                retryable,
                message,
            }) => {
                self.tries[id.index()] = None;
                self.report(id, false);
                self.detail = message;
                let gateway = matches!(reason, Reason::Overloaded | Reason::Draining);
                self.last = Some(if gateway { Last::Gateway } else { Last::Cluster });
                self.attempts.refused(id, reason, retryable);
            }
            Event::Lost(reason, words) => {
                self.tries[id.index()] = None;
                self.report(id, false);
                self.detail = words;
                self.last = Some(Last::Gateway);
                self.attempts.lost(id, reason);
            }
        }
    }

    /// Tells the worker how a try ended, once for each.
    fn report(&mut self, id: TryId, ok: bool) {
        if let Some(cluster) = self.clusters[id.index()] {
            self.worker
                .report(&self.target.service, &self.candidates[cluster].cluster, ok);
        }
    }
}

fn peer_of(backend: &Backend) -> Option<ClusterId> {
    match &backend.cluster {
        BackendCluster::Local => None,
        BackendCluster::Peer(peer) => Some(peer.clone()),
    }
}
