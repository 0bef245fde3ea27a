//! The life of one proxied connection, as everybody but its copy loop sees it.
//!
//! Owns the counters and the one place where a flow ends: both directions clean, or one reason for both. Dropping the last handle
//! without a clean end resets the TCP side: a task that was cancelled or panicked must never look like a complete transfer.

use std::{
    net::SocketAddr,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use socket2::SockRef;
use strait_federation_api::{ClusterId, Reason, ServiceKey};
use tokio::{net::TcpStream, sync::Notify};

/// Which side of the tunnel a flow is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// A client of ours came in through a listener.
    Outbound,
    /// A peer opened a stream to an endpoint of ours.
    Inbound,
}

impl Direction {
    /// As label and log field.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }
}

/// What a flow is, for logs and metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowInfo {
    /// Which way.
    pub direction: Direction,
    /// The service under its local name; `None` before a name was understood.
    pub service: Option<ServiceKey>,
    /// Service port.
    pub port: u16,
    /// The other cluster; `None` for a local endpoint or before one was chosen.
    pub peer: Option<ClusterId>,
    /// The TCP client (outbound) or the peer's gateway (inbound).
    pub remote: SocketAddr,
}

/// How a flow ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// What it was.
    pub info: FlowInfo,
    /// `None` for a clean end in both directions.
    pub reason: Option<Reason>,
    /// More words, possibly empty.
    pub detail: String,
    /// Bytes from client to service.
    pub bytes_up: u64,
    /// Bytes from service to client.
    pub bytes_down: u64,
    /// From accept to end.
    pub duration: Duration,
    /// From accept to the answer; `None` if there was none.
    pub answered_after: Option<Duration>,
}

/// Who is told of flows: metrics and access log. Called on data workers, must not block.
pub trait Recorder: Send + Sync + 'static {
    /// A flow has an endpoint at the other end.
    fn established(&self, info: &FlowInfo);
    /// Bytes moved since the last report.
    fn moved(&self, info: &FlowInfo, up: u64, down: u64);
    /// A flow ended, established or not.
    fn ended(&self, ended: &Ended, established: bool);
    /// A stream was refused for a reason of trust or policy.
    fn refused(&self, remote: SocketAddr, peer: &ClusterId, reason: Reason);
}

/// Milliseconds since the process first asked: small, monotonic, fit for an atomic. Never 0.
#[must_use]
pub fn now_ms() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1
}

/// One direction's counters. Written by its copy loop, read by the sweeper.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    bytes: AtomicU64,
    /// Of `bytes`, what the recorder knows.
    reported: AtomicU64,
    /// When a byte last moved, [`now_ms`].
    moved: AtomicU64,
    /// Since when bytes wait for a reader that does not take them; 0 when none wait.
    blocked: AtomicU64,
    /// Bytes that wait here.
    pending: AtomicU32,
    /// More waits in the tunnel than is counted in `pending`.
    deep: AtomicBool,
    done: AtomicBool,
}

/// A [`Lane`] at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct LaneView {
    pub(crate) moved: u64,
    pub(crate) blocked: u64,
    pub(crate) pending: u32,
    pub(crate) deep: bool,
    pub(crate) done: bool,
}

impl Lane {
    /// `len` bytes were handed on.
    pub(crate) fn moved(&self, len: usize) {
        if len == 0 {
            return;
        }
        self.bytes.fetch_add(len as u64, Ordering::Relaxed);
        self.moved.store(now_ms(), Ordering::Relaxed);
        if self.blocked.load(Ordering::Relaxed) != 0 {
            self.blocked.store(now_ms(), Ordering::Relaxed);
        }
    }

    /// `pending` bytes wait for the reader.
    pub(crate) fn blocked(&self, pending: usize, deep: bool) {
        if self.blocked.load(Ordering::Relaxed) == 0 {
            self.blocked.store(now_ms(), Ordering::Relaxed);
        }
        self.pending
            .store(pending.try_into().unwrap_or(u32::MAX), Ordering::Relaxed);
        self.deep.store(deep, Ordering::Relaxed);
    }

    /// Nothing waits any more.
    pub(crate) fn flowing(&self) {
        if self.blocked.load(Ordering::Relaxed) != 0 {
            self.blocked.store(0, Ordering::Relaxed);
            self.pending.store(0, Ordering::Relaxed);
            self.deep.store(false, Ordering::Relaxed);
        }
    }

    /// Bytes since the last call.
    fn unreported(&self) -> u64 {
        let bytes = self.bytes.load(Ordering::Relaxed);
        bytes - self.reported.swap(bytes, Ordering::Relaxed)
    }

    /// This direction ended cleanly.
    pub(crate) fn done(&self) {
        self.flowing();
        self.done.store(true, Ordering::Release);
    }

    pub(crate) fn view(&self) -> LaneView {
        LaneView {
            moved: self.moved.load(Ordering::Relaxed),
            blocked: self.blocked.load(Ordering::Relaxed),
            pending: self.pending.load(Ordering::Relaxed),
            deep: self.deep.load(Ordering::Relaxed),
            done: self.done.load(Ordering::Acquire),
        }
    }
}

/// An established flow with its TCP ends. Both copy loops hold it; dropping the last handle closes the sockets and tells the recorder.
pub(crate) struct Flow {
    /// The client (outbound) or the endpoint (inbound).
    pub(crate) tcp: TcpStream,
    /// The local endpoint, when no tunnel is in between.
    pub(crate) local: Option<TcpStream>,
    pub(crate) up: Lane,
    pub(crate) down: Lane,
    info: FlowInfo,
    started: Instant,
    answered: Instant,
    /// [`Reason::code`], 0 while it lives.
    end: AtomicU16,
    ending: Notify,
    recorder: Arc<dyn Recorder>,
    /// What counts as in flight somewhere else while this lives.
    _held: Option<Box<dyn Send + Sync>>,
}

impl Flow {
    pub(crate) fn new(
        tcp: TcpStream,
        local: Option<TcpStream>,
        info: FlowInfo,
        started: Instant,
        recorder: Arc<dyn Recorder>,
        held: Option<Box<dyn Send + Sync>>,
    ) -> Arc<Self> {
        recorder.established(&info);
        let flow = Self {
            tcp,
            local,
            up: Lane::default(),
            down: Lane::default(),
            info,
            started,
            answered: Instant::now(),
            end: AtomicU16::new(0),
            ending: Notify::new(),
            recorder,
            _held: held,
        };
        // The idle clock of both directions starts now.
        let now = now_ms();
        flow.up.moved.store(now, Ordering::Relaxed);
        flow.down.moved.store(now, Ordering::Relaxed);
        Arc::new(flow)
    }

    pub(crate) const fn info(&self) -> &FlowInfo {
        &self.info
    }

    /// Tells the recorder of bytes that it does not know of. Called by the worker's sweeper and at the end.
    pub(crate) fn report(&self) {
        let (up, down) = (self.up.unreported(), self.down.unreported());
        if up + down > 0 {
            self.recorder.moved(&self.info, up, down);
        }
    }

    /// Ends both directions with a reset. The first reason stands.
    pub(crate) fn end(&self, reason: Reason) {
        let first = self
            .end
            .compare_exchange(0, reason.code(), Ordering::AcqRel, Ordering::Acquire)
            .is_ok();
        if first {
            self.ending.notify_waiters();
        }
    }

    /// The reason, once it was ended by one.
    pub(crate) fn end_reason(&self) -> Option<Reason> {
        Reason::from_code(self.end.load(Ordering::Acquire))
    }

    /// Resolves with the reason once the flow is ended by one.
    pub(crate) async fn ended(&self) -> Reason {
        loop {
            let notified = self.ending.notified();
            if let Some(reason) = self.end_reason() {
                return reason;
            }
            notified.await;
        }
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        let clean = self.up.view().done && self.down.view().done;
        let reason = if clean {
            end_on_close(&self.tcp);
            self.local.iter().for_each(end_on_close);
            None
        } else {
            reset_on_close(&self.tcp);
            self.local.iter().for_each(reset_on_close);
            // Nobody gave a reason: the worker is shutting down, or a task was lost.
            Some(self.end_reason().unwrap_or(Reason::Draining))
        };
        let ended = Ended {
            info: self.info.clone(),
            reason,
            detail: String::new(),
            bytes_up: self.up.bytes.load(Ordering::Relaxed),
            bytes_down: self.down.bytes.load(Ordering::Relaxed),
            duration: self.started.elapsed(),
            answered_after: Some(self.answered.saturating_duration_since(self.started)),
        };
        self.report();
        self.recorder.ended(&ended, true);
    }
}

/// Makes closing `tcp` send RST (RFC 9293 section 3.10.4, ABORT).
fn reset_on_close(tcp: &TcpStream) {
    // Fails only on a socket that is dead already.
    let _ = tcp.set_zero_linger();
}

/// Makes closing `tcp` send FIN: both directions have ended well.
fn end_on_close(tcp: &TcpStream) {
    let _ = SockRef::from(tcp).set_linger(None);
}

/// A TCP connection that is reset when closed, unless it ended well. The socket itself knows that from its first moment: a process
/// that is killed runs no destructor, and the system would close its sockets as if all had been said.
pub(crate) struct ResetOnDrop(Option<TcpStream>);

impl ResetOnDrop {
    pub(crate) fn new(tcp: TcpStream) -> Self {
        reset_on_close(&tcp);
        Self(Some(tcp))
    }

    pub(crate) const fn get(&self) -> Option<&TcpStream> {
        self.0.as_ref()
    }

    pub(crate) const fn get_mut(&mut self) -> Option<&mut TcpStream> {
        self.0.as_mut()
    }

    /// For a [`Flow`], which closes it as it ended.
    pub(crate) const fn take(&mut self) -> Option<TcpStream> {
        self.0.take()
    }

    /// Closes it cleanly: all has been said.
    pub(crate) fn end(&mut self) {
        self.0.take().iter().for_each(end_on_close);
    }
}
