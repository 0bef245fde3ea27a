//! The copy loop: bytes between TCP and a stream, or between two TCP connections.
//!
//! Owns how bytes move: reads into pooled buffers, chunks handed on without a copy, vectored writes, half-close kept as half-close,
//! everything else turned into a reset on both sides. Never decides when to give up: the sweeper ends flows that idle or stall.
//!
//! Each turn of a loop takes from the task's budget: sockets that are always ready would otherwise never let go of the worker, whose
//! tunnels then look dead. A budget is some 128 turns, 10 MB and more, so it costs nothing.
//!
//! Two tasks a flow. An idle flow holds no buffer, and each future stays small: a gateway holds thousands.

use std::{
    cell::RefCell,
    collections::VecDeque,
    io::{self, IoSlice},
    net::Shutdown,
    sync::Arc,
    task::Poll,
};

use bytes::{Buf, Bytes};
use strait_federation_api::Reason;
use strait_tunnel::{RecvHalf, SendHalf, StreamError};
use tokio::{io::Interest, net::TcpStream, task::coop::consume_budget};

use crate::{
    flow::{Direction, Flow, Lane},
    pool,
};

/// Chunks taken from a stream at a time: 64 datagram payloads are about one vectored write of 90 KB.
const CHUNKS: usize = 64;
/// Bytes read ahead of a blocked TCP writer. Enough to fill the pipe again when it opens, and to tell a stream with little to say from
/// one with more behind it.
const READ_AHEAD: usize = 128 * 1024;

thread_local! {
    static SCRATCH: RefCell<[Bytes; CHUNKS]> = const { RefCell::new([const { Bytes::new() }; CHUNKS]) };
}

/// A stream with what was read ahead for each direction before copying starts.
pub(crate) struct Joint {
    pub(crate) send: SendHalf,
    pub(crate) recv: RecvHalf,
    /// Goes into the stream first.
    pub(crate) kept: Bytes,
    /// Came out of the stream behind its header.
    pub(crate) early: Pending,
}

/// Starts copying between the flow's TCP connection and a stream.
pub(crate) fn spawn_tunnel(flow: &Arc<Flow>, joint: Joint) {
    // Outbound, the sending half carries the client's bytes.
    let up = flow.info().direction == Direction::Outbound;
    tokio::spawn(tcp_to_stream(Arc::clone(flow), joint.send, joint.kept, up));
    tokio::spawn(stream_to_tcp(Arc::clone(flow), joint.recv, joint.early, !up));
}

/// Starts copying between the flow's client and its local endpoint.
pub(crate) fn spawn_local(flow: &Arc<Flow>, early: Pending) {
    tokio::spawn(tcp_to_tcp(Arc::clone(flow), early, true));
    tokio::spawn(tcp_to_tcp(Arc::clone(flow), Pending::default(), false));
}

fn lane(flow: &Flow, up: bool) -> &Lane {
    if up { &flow.up } else { &flow.down }
}

/// Client or endpoint bytes into the tunnel.
pub(crate) async fn tcp_to_stream(flow: Arc<Flow>, mut send: SendHalf, kept: Bytes, up: bool) {
    match pump_out(&flow, &mut send, kept, lane(&flow, up)).await {
        Ok(()) => lane(&flow, up).done(),
        Err(reason) => {
            send.reset(reason);
            flow.end(reason);
        }
    }
}

async fn pump_out(flow: &Flow, send: &mut SendHalf, kept: Bytes, lane: &Lane) -> Result<(), Reason> {
    let mut chunk = kept;
    loop {
        consume_budget().await;
        if !chunk.is_empty() {
            let len = chunk.len();
            lane.blocked(len, false);
            tokio::select! {
                biased;
                written = send.write_chunk(chunk) => written.map_err(StreamError::reason)?,
                reason = flow.ended() => return Err(reason),
            }
            lane.moved(len);
            lane.flowing();
        }
        chunk = match pool::try_read(&flow.tcp) {
            Ok(end) if end.is_empty() => return send.finish().map_err(StreamError::reason),
            Ok(chunk) => chunk,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                wait_for_client(flow, send).await?;
                Bytes::new()
            }
            Err(error) => return Err(of_tcp(&error)),
        };
    }
}

/// Until the client has something, or there is no point in asking.
async fn wait_for_client(flow: &Flow, send: &mut SendHalf) -> Result<(), Reason> {
    tokio::select! {
        biased;
        reason = flow.ended() => Err(reason),
        ready = flow.tcp.readable() => ready.map_err(|error| of_tcp(&error)),
        stopped = send.stopped() => Err(stopped.unwrap_or(Reason::PeerReset)),
    }
}

/// Tunnel bytes to the client or endpoint.
pub(crate) async fn stream_to_tcp(flow: Arc<Flow>, mut recv: RecvHalf, early: Pending, up: bool) {
    let mut pending = early;
    let result = pump_stream(&flow, &mut recv, &mut pending, lane(&flow, up)).await;
    match result {
        Ok(()) => lane(&flow, up).done(),
        Err(reason) => {
            recv.stop(reason);
            flow.end(reason);
        }
    }
}

async fn pump_stream(
    flow: &Flow,
    recv: &mut RecvHalf,
    pending: &mut Pending,
    lane: &Lane,
) -> Result<(), Reason> {
    let mut open = true;
    loop {
        consume_budget().await;
        lane.moved(pending.write_to(&flow.tcp)?);
        if pending.is_empty() {
            lane.flowing();
            if !open {
                return shut_down(&flow.tcp);
            }
            tokio::select! {
                biased;
                more = read_into(recv, pending) => open = more?,
                reason = flow.ended() => return Err(reason),
                // A client that is gone without a word must be noticed while the stream is silent.
                _ = flow.tcp.ready(Interest::ERROR) => return Err(Reason::PeerReset),
            }
        } else {
            let room = open && pending.len() < READ_AHEAD;
            lane.blocked(pending.len(), open && !room);
            tokio::select! {
                biased;
                ready = flow.tcp.writable() => if let Err(error) = ready { return Err(of_tcp(&error)) },
                reason = flow.ended() => return Err(reason),
                more = read_into(recv, pending), if room => open = more?,
            }
        }
    }
}

/// Takes what the stream has into `pending`; `false` at its clean end.
pub(crate) async fn read_into(recv: &mut RecvHalf, pending: &mut Pending) -> Result<bool, Reason> {
    std::future::poll_fn(|cx| {
        SCRATCH.with_borrow_mut(|scratch| match recv.poll_read_chunks(cx, scratch) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(Some(count))) => {
                for chunk in &mut scratch[..count] {
                    pending.push(std::mem::take(chunk));
                }
                Poll::Ready(Ok(true))
            }
            Poll::Ready(Ok(None)) => Poll::Ready(Ok(false)),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error.reason())),
        })
    })
    .await
}

/// Between client and local endpoint.
pub(crate) async fn tcp_to_tcp(flow: Arc<Flow>, early: Pending, up: bool) {
    let mut pending = early;
    let lane = lane(&flow, up);
    match pump_tcp(&flow, &mut pending, lane, up).await {
        Ok(()) => lane.done(),
        Err(reason) => flow.end(reason),
    }
}

async fn pump_tcp(flow: &Flow, pending: &mut Pending, lane: &Lane, up: bool) -> Result<(), Reason> {
    let Some(local) = &flow.local else {
        return Err(Reason::Internal);
    };
    let (from, to) = if up {
        (&flow.tcp, local)
    } else {
        (local, &flow.tcp)
    };
    loop {
        consume_budget().await;
        lane.moved(pending.write_to(to)?);
        if !pending.is_empty() {
            lane.blocked(pending.len(), false);
            tokio::select! {
                biased;
                ready = to.writable() => if let Err(error) = ready { return Err(of_tcp(&error)) },
                reason = flow.ended() => return Err(reason),
            }
            continue;
        }
        lane.flowing();
        match pool::try_read(from) {
            Ok(chunk) if chunk.is_empty() => return shut_down(to),
            Ok(chunk) => pending.push(chunk),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                tokio::select! {
                    biased;
                    reason = flow.ended() => return Err(reason),
                    ready = from.readable() => if let Err(error) = ready { return Err(of_tcp(&error)) },
                    _ = to.ready(Interest::ERROR) => return Err(Reason::PeerReset),
                }
            }
            Err(error) => return Err(of_tcp(&error)),
        }
    }
}

/// The clean end of one direction: FIN.
fn shut_down(tcp: &TcpStream) -> Result<(), Reason> {
    match socket2::SockRef::from(tcp).shutdown(Shutdown::Write) {
        Ok(()) => Ok(()),
        Err(error) => Err(of_tcp(&error)),
    }
}

/// Whatever a TCP socket reports in mid-stream means that its other end is gone.
const fn of_tcp(_error: &io::Error) -> Reason {
    Reason::PeerReset
}

/// Chunks that wait for a TCP writer.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    chunks: VecDeque<Bytes>,
    len: usize,
}

impl Pending {
    pub(crate) fn push(&mut self, chunk: Bytes) {
        if !chunk.is_empty() {
            self.len += chunk.len();
            self.chunks.push_back(chunk);
        }
    }

    /// The first `len` bytes, if there are as many; they stay.
    pub(crate) fn peek<const N: usize>(&self) -> Option<[u8; N]> {
        if self.len < N {
            return None;
        }
        let mut bytes = self.chunks.iter().flat_map(|chunk| chunk.iter().copied());
        let mut out = [0; N];
        out.iter_mut()
            .for_each(|slot| *slot = bytes.next().unwrap_or_default());
        Some(out)
    }

    /// Takes out the first `len` bytes, fewer if there are fewer.
    pub(crate) fn take(&mut self, len: usize) -> Vec<u8> {
        let len = len.min(self.len);
        let mut out = Vec::with_capacity(len);
        for chunk in &self.chunks {
            let want = (len - out.len()).min(chunk.len());
            out.extend_from_slice(&chunk[..want]);
        }
        self.advance(len);
        out
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Writes as much as the socket takes now and returns how much that was.
    fn write_to(&mut self, tcp: &TcpStream) -> Result<usize, Reason> {
        let mut total = 0;
        while !self.is_empty() {
            match self.write_once(tcp) {
                Ok(0) => return Err(Reason::PeerReset),
                Ok(len) => {
                    total += len;
                    self.advance(len);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(of_tcp(&error)),
            }
        }
        if self.is_empty() {
            // An idle flow holds nothing.
            self.chunks = VecDeque::new();
        }
        Ok(total)
    }

    fn write_once(&self, tcp: &TcpStream) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); CHUNKS];
        let mut count = 0;
        for (slice, chunk) in slices.iter_mut().zip(&self.chunks) {
            *slice = IoSlice::new(chunk);
            count += 1;
        }
        tcp.try_write_vectored(&slices[..count])
    }

    fn advance(&mut self, mut len: usize) {
        self.len -= len;
        while let Some(first) = self.chunks.front_mut() {
            if len < first.len() {
                first.advance(len);
                return;
            }
            len -= first.len();
            self.chunks.pop_front();
        }
    }
}

#[cfg(test)]
mod tests;
