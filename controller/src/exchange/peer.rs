//! The task of one peer: machine, stream, timers.
//!
//! Owns the machine for as long as the Federation has trust, over any number of streams. The engine's word arrives as one value
//! (the newest counts), so neither ever waits for the other. Started by the engine.

use std::{
    future::pending,
    net::SocketAddr,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use strait_federation_api::{
    ClusterId, ServiceKey, Uid,
    catalog::Catalog,
    control::ControlStream,
    exchange::{
        BundleUpdate, Config, Event, Exchange, ExchangeStatus, Gateways, HeldCatalog, Limits, LinkId,
        Refusal, Verdict, wire,
    },
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::sleep_until,
};

use super::pipe::{self, Pipe};

/// Streams that wait to be opened: the gateway hands on one at a time; the newest counts.
const STREAMS_MAX: usize = 4;
/// Answers to bundle updates on their way to the machine.
const ANSWERS_MAX: usize = 8;
/// Messages read before the engine is told: a sync of thousands is reported in batches.
const BATCH_MAX: usize = 256;
/// Wake-up of a machine that waits for nothing.
const IDLE: Duration = Duration::from_secs(3600);

/// What the engine says; the newest counts.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct PeerInputs {
    /// Our catalog for this peer.
    pub(crate) catalog: Catalog,
    /// Our sources have been listed and answer.
    pub(crate) listed: bool,
    /// The merge's verdict on each object of the peer.
    pub(crate) verdicts: imbl::OrdMap<ServiceKey, Verdict>,
    /// How our gateways can be reached.
    pub(crate) gateways: Gateways,
    /// Our bundle.
    pub(crate) bundle: Option<BundleUpdate>,
    /// A data tunnel to the peer is up.
    pub(crate) tunnels_up: bool,
    /// Bounds on the peer.
    pub(crate) limits: Limits,
    /// Raised by one for each data tunnel to ask for.
    pub(crate) tunnels_asked: u64,
}

/// What a task begins with.
pub(crate) struct PeerConfig {
    /// For the machine.
    pub(crate) machine: Config,
    /// What the cache kept.
    pub(crate) held: HeldCatalog,
    /// The record of first sights.
    pub(crate) sights: imbl::OrdMap<Uid, i64>,
    /// The first word.
    pub(crate) inputs: PeerInputs,
}

/// What became of a batch of input.
#[derive(Debug)]
pub(crate) struct PeerReport {
    /// The peer.
    pub(crate) peer: ClusterId,
    /// Which task of this peer speaks: a replaced one is not listened to.
    pub(crate) task: u64,
    /// What happened, in order.
    pub(crate) events: Vec<Event>,
    /// The peer's catalog now.
    pub(crate) held: HeldCatalog,
    /// It is the last word of a peer that is away.
    pub(crate) stale: bool,
    /// The peer's word on our objects.
    pub(crate) feedback: imbl::OrdMap<ServiceKey, Verdict>,
    /// Figures.
    pub(crate) status: ExchangeStatus,
    /// The peer's address, while a stream is open.
    pub(crate) remote: Option<SocketAddr>,
}

/// The engine's end of a task; dropping it ends the task and closes its stream.
pub(crate) struct PeerHandle {
    /// Which task: see [`PeerReport::task`].
    pub(crate) task: u64,
    inputs: watch::Sender<PeerInputs>,
    streams: mpsc::Sender<ControlStream>,
    answers: mpsc::Sender<(u64, Result<(), Refusal>)>,
    running: JoinHandle<()>,
}

impl Drop for PeerHandle {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl PeerHandle {
    /// Starts the task.
    pub(crate) fn start(task: u64, config: PeerConfig, reports: mpsc::Sender<PeerReport>) -> Self {
        let (inputs, inputs_seen) = watch::channel(config.inputs.clone());
        let (streams, streams_seen) = mpsc::channel(STREAMS_MAX);
        let (answers, answers_seen) = mpsc::channel(ANSWERS_MAX);
        let running = tokio::spawn(async move {
            let peer = Peer::new(task, config, inputs_seen, reports);
            peer.run(streams_seen, answers_seen).await;
        });
        Self {
            task,
            inputs,
            streams,
            answers,
            running,
        }
    }

    /// Says something new; gives whether it differed.
    pub(crate) fn tell(&self, change: impl FnOnce(&mut PeerInputs) -> bool) -> bool {
        self.inputs.send_if_modified(change)
    }

    /// Hands a control stream on. One too many is dropped: the gateway dials again.
    pub(crate) fn hand(&self, stream: ControlStream) {
        if self.streams.try_send(stream).is_err() {
            tracing::warn!("control streams come faster than they can be opened; one is dropped");
        }
    }

    /// Answers a bundle update.
    pub(crate) fn answer_bundle(&self, sequence: u64, result: Result<(), Refusal>) {
        // A peer that sends more updates than it waits for answers misses some: it sends the last one again on the next stream.
        let _full = self.answers.try_send((sequence, result));
    }
}

struct Peer {
    cluster: ClusterId,
    task: u64,
    machine: Exchange,
    inputs: watch::Receiver<PeerInputs>,
    reports: mpsc::Sender<PeerReport>,
    link: Option<Link>,
    links: u64,
    asked: u64,
    limits: Limits,
    /// Collected since the last report.
    events: Vec<Event>,
    /// A stream came or went since the last report.
    moved: bool,
}

struct Link {
    id: LinkId,
    pipe: Pipe,
    remote: SocketAddr,
    /// The queue was full when we had more to say.
    blocked: bool,
}

type Opened = (SocketAddr, Result<Pipe, String>);
type Heard = Result<Option<wire::exchange_v1::Envelope>, tonic::Status>;

/// Ends a task when it is not wanted any more.
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn open(stream: ControlStream, opened: mpsc::Sender<Opened>) {
    let remote = stream.remote;
    let _peer_is_gone = opened.send((remote, pipe::open(stream).await)).await;
}

/// The next message, not before the peer may speak again; or `None` when the queue takes a message that was held back.
async fn next_on(link: Option<&mut Link>, after: Option<Instant>) -> Option<Heard> {
    let Some(Link { pipe, blocked, .. }) = link else {
        return pending().await;
    };
    let Pipe { out, inbound, .. } = pipe;
    let read = async {
        if let Some(at) = after {
            sleep_until(at.into()).await;
        }
        inbound.message().await
    };
    tokio::select! {
        heard = read => Some(heard),
        // A closed queue is told by the reading side.
        Ok(_permit) = out.reserve(), if *blocked => None,
    }
}

impl Peer {
    fn new(
        task: u64,
        config: PeerConfig,
        inputs: watch::Receiver<PeerInputs>,
        reports: mpsc::Sender<PeerReport>,
    ) -> Self {
        let mut peer = Self {
            cluster: config.machine.peer.clone(),
            task,
            limits: config.machine.limits,
            machine: Exchange::new(config.machine, config.held, config.sights, Instant::now()),
            inputs,
            reports,
            link: None,
            links: 0,
            asked: 0,
            events: Vec::new(),
            moved: false,
        };
        peer.apply_inputs();
        peer
    }

    async fn run(
        mut self,
        mut streams: mpsc::Receiver<ControlStream>,
        mut answers: mpsc::Receiver<(u64, Result<(), Refusal>)>,
    ) {
        let (opened, mut openings) = mpsc::channel::<Opened>(1);
        let mut opening: Option<AbortOnDrop> = None;
        loop {
            self.speak();
            if (self.moved || !self.events.is_empty()) && !self.report().await {
                return;
            }
            let wake = self
                .machine
                .next_timer()
                .map_or_else(|| Instant::now() + IDLE, |timer| timer.at);
            tokio::select! {
                Some(stream) = streams.recv() => {
                    // The gateway has already chosen: the newest stream counts, an unfinished opening is given up.
                    opening = Some(AbortOnDrop(tokio::spawn(open(stream, opened.clone()))));
                }
                Some((remote, result)) = openings.recv() => {
                    opening = None;
                    self.opened(remote, result);
                }
                changed = self.inputs.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.apply_inputs();
                }
                Some((sequence, result)) = answers.recv() => self.machine.answer_bundle(sequence, result),
                heard = next_on(self.link.as_mut(), self.machine.read_after()) => {
                    if let Some(heard) = heard {
                        self.heard_all(heard);
                    }
                }
                () = sleep_until(wake.into()) => self.machine.on_timer(Instant::now()),
            }
            let _kept_until_done = &opening;
        }
    }

    fn apply_inputs(&mut self) {
        let now = Instant::now();
        let inputs = self.inputs.borrow_and_update().clone();
        self.machine.set_catalog(inputs.catalog, inputs.listed, now);
        self.machine.set_verdicts(inputs.verdicts);
        self.machine.set_gateways(inputs.gateways);
        if let Some(bundle) = inputs.bundle {
            self.machine.set_bundle(bundle);
        }
        self.machine.set_tunnels_up(inputs.tunnels_up, now);
        if inputs.tunnels_asked > self.asked {
            self.asked = inputs.tunnels_asked;
            self.machine.ask_tunnel();
        }
        // Telling the same bounds again would ask the peer to state everything again.
        if inputs.limits != self.limits {
            self.limits = inputs.limits;
            self.machine.set_limits(inputs.limits);
        }
    }

    fn opened(&mut self, remote: SocketAddr, result: Result<Pipe, String>) {
        let pipe = match result {
            Ok(pipe) => pipe,
            Err(why) => {
                tracing::info!(peer = %self.cluster, %remote, "a control stream could not be used: {why}");
                return;
            }
        };
        self.links += 1;
        let id = LinkId(self.links);
        self.machine.link_up(id, Instant::now());
        self.moved = true;
        self.link = Some(Link {
            id,
            pipe,
            remote,
            blocked: false,
        });
    }

    /// Takes in a message and what has already arrived behind it.
    fn heard_all(&mut self, first: Heard) {
        let mut next = Some(first);
        for _ in 0..BATCH_MAX {
            let Some(heard) = next else { return };
            self.heard(heard);
            let now = Instant::now();
            let may_read = self.machine.read_after().is_none_or(|at| at <= now);
            next = match &mut self.link {
                Some(link) if may_read => link.pipe.inbound.message().now_or_never(),
                _ => None,
            };
        }
        if let Some(heard) = next {
            self.heard(heard);
        }
    }

    fn heard(&mut self, heard: Heard) {
        let Some(link) = &self.link else { return };
        match heard {
            Ok(Some(envelope)) => self
                .machine
                .receive(link.id, wire::decode(envelope), Instant::now()),
            Ok(None) => self.link_down("the peer closed it"),
            Err(status) => self.link_down(status.message()),
        }
    }

    fn link_down(&mut self, why: &str) {
        if let Some(link) = self.link.take() {
            tracing::info!(peer = %self.cluster, remote = %link.remote, "the control stream ended: {why}");
            self.machine.link_down(link.id, Instant::now());
            self.moved = true;
        }
    }

    /// Says what there is to say while the queue takes it, and takes in the events.
    fn speak(&mut self) {
        let now = Instant::now();
        if let Some(link) = &mut self.link {
            link.blocked = false;
            loop {
                let Ok(permit) = link.pipe.out.try_reserve() else {
                    link.blocked = true;
                    break;
                };
                let Some(message) = self.machine.poll_message(now) else {
                    break;
                };
                permit.send(wire::encode(&message));
            }
        }
        while let Some(event) = self.machine.poll_event() {
            if let Event::CloseLink { link, refusal } = &event
                && self.link.as_ref().is_some_and(|l| l.id == *link)
            {
                tracing::warn!(peer = %self.cluster, reason = %refusal.reason, "closing the control stream: {}", refusal.message);
                self.link = None;
                self.moved = true;
            }
            self.events.push(event);
        }
    }

    async fn report(&mut self) -> bool {
        self.moved = false;
        let report = PeerReport {
            peer: self.cluster.clone(),
            task: self.task,
            events: std::mem::take(&mut self.events),
            held: self.machine.held(),
            stale: self.machine.is_stale(),
            feedback: self.machine.feedback().clone(),
            status: self.machine.status(Instant::now()),
            remote: self.link.as_ref().map(|l| l.remote),
        };
        self.reports.send(report).await.is_ok()
    }
}
