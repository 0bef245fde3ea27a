//! One data connection: opening streams on it, and whether it can be used.
//!
//! Owns the permit pool (quinn's `open_bi` waits for ever at the limit without a word), the stream count and the phase. Never drives
//! the connection: that is the connection task's. Used by proxy through [`crate::Tunnels::to_peer`].

use std::{
    collections::HashMap,
    fmt,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use strait_federation_api::{Reason, control::VerifiedPeer};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot, watch};

use crate::{
    codes::varint,
    error::OpenError,
    heard::Heard,
    phase::{Facts, Phase},
    runtime::{Guarded, Health},
    slot::{StreamSlot, Waiting},
    stream::{RecvHalf, SendHalf},
};

/// How long an open waits for a free stream: a stream's time-out is 10 s over three attempts, and a full tunnel is better left
/// for another one soon.
const OPEN_TIMEOUT: Duration = Duration::from_secs(1);

/// Bound on a probe: a person waits for it.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// Who is told of streams that a peer opens. Called on the worker that owns the tunnel: must spawn and return.
pub trait StreamAcceptor: Send + Sync + 'static {
    /// A stream came; not a byte of it was read.
    fn accept(&self, tunnel: Arc<Tunnel>, send: SendHalf, recv: RecvHalf);
}

/// One data connection to a peer's gateway.
pub struct Tunnel {
    conn: Guarded<quinn::Connection>,
    id: u64,
    worker: u32,
    peer: VerifiedPeer,
    dialled: bool,
    born: Instant,
    /// Its address at the handshake.
    first_remote: SocketAddr,
    facts: Mutex<Facts>,
    phase: watch::Sender<Phase>,
    /// The phase again, for readers that must not take a lock.
    phase_now: AtomicU8,
    /// Smoothed round trip at the last look, microseconds.
    rtt: AtomicU64,
    permits: Arc<Semaphore>,
    waiting: AtomicU32,
    blocked_writers: AtomicU32,
    in_flight: AtomicU32,
    heard: Heard,
    /// Received packets at the last look, with the time of that look.
    seen: Mutex<(u64, Instant)>,
    /// A stream was opened since the connection task looked.
    was_used: AtomicBool,
    /// Rung at the first open after a look: a quiet tunnel starts to ping at once.
    used: Notify,
    /// Probes under way.
    probes: Mutex<HashMap<u64, oneshot::Sender<()>>>,
    /// Rung when the last stream is gone.
    idle: Notify,
}

impl fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tunnel")
            .field("id", &self.id)
            .field("peer", &self.peer)
            .field("phase", &*self.phase.borrow())
            .field("in_flight", &self.in_flight())
            .finish_non_exhaustive()
    }
}

impl Tunnel {
    pub(crate) fn new(
        conn: Guarded<quinn::Connection>,
        id: u64,
        worker: u32,
        peer: VerifiedPeer,
        dialled: bool,
        remote: SocketAddr,
    ) -> Arc<Self> {
        let now = Instant::now();
        let rtt = conn.get().map_or(Duration::ZERO, quinn::Connection::rtt);
        Arc::new(Self {
            first_remote: remote,
            rtt: AtomicU64::new(micros(rtt)),
            conn,
            id,
            worker,
            peer,
            dialled,
            born: now,
            facts: Mutex::default(),
            phase: watch::Sender::new(Phase::Opening),
            phase_now: AtomicU8::new(Phase::Opening as u8),
            permits: Arc::new(Semaphore::new(0)),
            waiting: AtomicU32::new(0),
            blocked_writers: AtomicU32::new(0),
            in_flight: AtomicU32::new(0),
            heard: Heard::new(now),
            seen: Mutex::new((0, now)),
            was_used: AtomicBool::new(false),
            used: Notify::new(),
            probes: Mutex::default(),
            idle: Notify::new(),
        })
    }

    /// Who is at the other end.
    #[must_use]
    pub const fn peer(&self) -> &VerifiedPeer {
        &self.peer
    }

    /// Number of this connection within the process.
    #[must_use]
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// The worker that drives it; using it from another worker costs a cross-thread wake.
    #[must_use]
    pub const fn worker(&self) -> u32 {
        self.worker
    }

    /// We dialled it.
    #[must_use]
    pub const fn dialled(&self) -> bool {
        self.dialled
    }

    /// Since when it exists.
    #[must_use]
    pub const fn born(&self) -> Instant {
        self.born
    }

    /// The peer's address now: it may migrate.
    #[must_use]
    pub fn remote(&self) -> SocketAddr {
        let now = self.conn.get().map(quinn::Connection::remote_address);
        now.map_or(self.first_remote, canonical)
    }

    /// Smoothed round trip, at most one ping interval old. Lock-free.
    #[must_use]
    pub fn rtt(&self) -> Duration {
        Duration::from_micros(self.rtt.load(Ordering::Relaxed))
    }

    pub(crate) fn set_rtt(&self, rtt: Duration) {
        self.rtt.store(micros(rtt), Ordering::Relaxed);
    }

    /// Streams alive, opened by either side.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Opens that wait for a free stream.
    #[must_use]
    pub fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Writers that wait for room in the connection or in their stream. Each counts itself.
    pub(crate) const fn blocked_writers(&self) -> &AtomicU32 {
        &self.blocked_writers
    }

    /// How long nothing was heard: never less than the truth.
    #[must_use]
    pub fn silent_for(&self, now: Instant) -> Duration {
        self.look(now);
        self.heard.silent_for(now)
    }

    /// Where it is in its life. Lock-free.
    #[must_use]
    pub fn phase(&self) -> Phase {
        Phase::from_number(self.phase_now.load(Ordering::Acquire))
    }

    /// Takes streams: hello done, not draining, not suspect, not closed.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.phase() == Phase::Usable
    }

    /// Opens a stream. Nothing reaches the peer before the first byte is written.
    ///
    /// # Errors
    /// As [`OpenError`]; waits at most one second for a free stream.
    pub async fn open(self: &Arc<Self>) -> Result<(SendHalf, RecvHalf), OpenError> {
        match self.phase() {
            Phase::Usable => {}
            Phase::Draining => return Err(OpenError::Draining),
            Phase::Closed => return Err(OpenError::Lost),
            Phase::Opening | Phase::Suspect => return Err(OpenError::NotUsable),
        }
        let _waiting = Waiting::new(&self.waiting);
        let (permit, (send, recv)) = tokio::time::timeout(OPEN_TIMEOUT, self.open_when_free())
            .await
            .map_err(|_| OpenError::Exhausted {
                waiting: self.waiting().saturating_sub(1),
            })??;
        if !self.was_used.swap(true, Ordering::AcqRel) {
            self.used.notify_one();
        }
        let slot = StreamSlot::new(Arc::clone(self), Some(permit));
        Ok((SendHalf::new(send, Arc::clone(&slot)), RecvHalf::new(recv, slot)))
    }

    async fn open_when_free(
        &self,
    ) -> Result<(OwnedSemaphorePermit, (quinn::SendStream, quinn::RecvStream)), OpenError> {
        let permit = Arc::clone(&self.permits)
            .acquire_owned()
            .await
            .map_err(|_| OpenError::Lost)?;
        // A permit comes back when our halves are gone, the peer's credit one round trip later: this wait is short.
        let conn = self.conn.get().ok_or(OpenError::Lost)?;
        let halves = conn.open_bi().await.map_err(|_| OpenError::Lost)?;
        Ok((permit, halves))
    }

    /// Resolves when the tunnel is suspect or closed, at once if it is already.
    pub async fn lost(&self) {
        // The sender lives in `self`: waiting cannot fail.
        let _ = self
            .phase
            .subscribe()
            .wait_for(|phase| matches!(phase, Phase::Suspect | Phase::Closed))
            .await;
    }

    /// Resolves when the tunnel is closed.
    pub(crate) async fn closed(&self) {
        // The sender lives in `self`: waiting cannot fail.
        let _ = self
            .phase
            .subscribe()
            .wait_for(|phase| *phase == Phase::Closed)
            .await;
    }

    /// Takes in a stream that the peer opened.
    pub(crate) fn adopt(
        self: &Arc<Self>,
        send: quinn::SendStream,
        recv: quinn::RecvStream,
    ) -> (SendHalf, RecvHalf) {
        let slot = StreamSlot::new(Arc::clone(self), None);
        (SendHalf::new(send, Arc::clone(&slot)), RecvHalf::new(recv, slot))
    }

    pub(crate) const fn health(&self) -> &Arc<Health> {
        self.conn.health()
    }

    /// The peer's hello came: it lets us keep `streams` open at a time.
    pub(crate) fn hello_done(&self, streams: u32) {
        self.permits.add_permits(
            usize::try_from(streams)
                .unwrap_or(usize::MAX)
                .min(Semaphore::MAX_PERMITS),
        );
        self.change(|facts| facts.hello = true);
    }

    /// Changes the facts and tells those who wait when the phase changes with them.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Facts)) {
        let mut facts = self.facts.lock();
        change(&mut facts);
        let phase = facts.phase();
        self.phase_now.store(phase as u8, Ordering::Release);
        self.phase
            .send_if_modified(|held| std::mem::replace(held, phase) != phase);
        if phase == Phase::Closed {
            self.permits.close();
        }
    }

    pub(crate) fn heard_at(&self, at: Instant) {
        self.heard.mark(at);
    }

    /// Compares quinn's count of received packets with the last look: a rise means that something came since then.
    /// Returns the count.
    pub(crate) fn look(&self, now: Instant) -> u64 {
        let mut seen = self.seen.lock();
        let Some(conn) = self.conn.get() else {
            return seen.0;
        };
        let count = conn.stats().udp_rx.datagrams;
        if count > seen.0 {
            self.heard.mark(seen.1);
        }
        *seen = (count, now);
        count
    }

    /// Whether a stream was opened since the last call.
    pub(crate) fn take_used(&self) -> bool {
        self.was_used.swap(false, Ordering::AcqRel)
    }

    /// Resolves at the first open after [`take_used`](Self::take_used).
    pub(crate) async fn used(&self) {
        self.used.notified().await;
    }

    /// Whether that is news.
    pub(crate) fn set_suspect(&self, suspect: bool) -> bool {
        let news = self.facts.lock().suspect != suspect;
        if news {
            self.change(|facts| facts.suspect = suspect);
        }
        news
    }

    /// Sends one small packet and waits for its echo: the round trip of the path and of the other side's worker.
    ///
    /// # Errors
    /// [`Reason::PeerSilent`] after two seconds, [`Reason::TunnelLost`].
    pub async fn probe(&self) -> Result<Duration, Reason> {
        let conn = self.conn.get().ok_or(Reason::TunnelLost)?;
        let (answer, answered) = oneshot::channel();
        let nonce: u64 = rand::random();
        let started = Instant::now();
        self.probes.lock().insert(nonce, answer);
        let sent = conn.send_datagram(crate::data::probe(nonce));
        let result = match sent {
            Err(_) => Err(Reason::TunnelLost),
            Ok(()) => match tokio::time::timeout(PROBE_TIMEOUT, answered).await {
                Ok(Ok(())) => Ok(started.elapsed()),
                Ok(Err(_)) | Err(_) => Err(Reason::PeerSilent),
            },
        };
        self.probes.lock().remove(&nonce);
        result
    }

    pub(crate) fn probe_answered(&self, nonce: u64) {
        if let Some(answer) = self.probes.lock().remove(&nonce) {
            // Whoever asked may have given up.
            let _ = answer.send(());
        }
    }

    pub(crate) fn stream_begins(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn stream_ends(&self) {
        if self.in_flight.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.idle.notify_waiters();
        }
    }

    /// Resolves when no stream is left.
    pub(crate) async fn streams_gone(&self) {
        loop {
            let idle = self.idle.notified();
            if self.in_flight() == 0 {
                return;
            }
            idle.await;
        }
    }

    /// Closes at once; streams on it end with [`crate::StreamError::TunnelLost`].
    pub(crate) fn close(&self, reason: Reason) {
        self.change(|facts| facts.closed = true);
        if let Some(conn) = self.conn.get() {
            conn.close(varint(reason), reason.name().as_bytes());
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// An IPv4 peer on a dual-stack socket, shown as IPv4.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests;
