//! The task of one data connection.
//!
//! Owns hello, the acceptance of streams, pings, the send window, leaving and the end. Decides nothing by itself: liveness, window and
//! hello are pure modules. Spawned by accept and dial on the worker that drives the connection.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use quinn::{ReadExactError, RecvStream, SendStream, VarInt};
use strait_federation_api::Reason;
use tokio::time::{sleep, sleep_until, timeout};

use crate::{
    codes::varint,
    conn::Conn,
    failure,
    hello::{self, Frame, HEADER_LEN, Hello},
    liveness::{Liveness, Sight, Verdict},
    plan::LOAD_STREAMS,
    runtime::Guarded,
    shared::{Listed, Shared, Stage},
    transport::STREAMS_AFTER_HELLO,
    tunnel::{StreamAcceptor, Tunnel},
    window::SendWindow,
};

/// Both hellos must be here by then: a few round trips of the longest path.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that leaves ends at this age even with streams on it; the leaf it was made with is then long expired.
const MAX_AGE: Duration = Duration::from_secs(48 * 3600);
/// After the last stream of a leaving connection, streams that crossed the drain message are still refused for so long (plus three
/// round trips): a refusal may be retried, a lost connection may not.
const LINGER: Duration = Duration::from_millis(100);

/// Datagram: any packet is life, so it has no content.
const PING: &[u8] = &[1];
/// Datagram: 8 bytes follow and come back.
const PROBE: u8 = 2;
/// Datagram: the answer.
const PROBE_REPLY: u8 = 3;

/// Drives `conn` to its end. `ready` learns whether the hellos were fine.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    conn: Arc<Conn>,
    acceptor: Arc<dyn StreamAcceptor>,
    ready: impl FnOnce(Result<(), Reason>) + Send,
) {
    let _listed = Listed::new(&shared, &conn);
    let reason = match greet(&shared, &conn).await {
        Ok(streams) => {
            ready(Ok(()));
            run(&shared, &conn, &*acceptor, streams).await
        }
        Err(reason) => {
            shared.refused(
                conn.remote,
                Some(&conn.peer().cluster),
                reason,
                "before the peer's hello",
            );
            ready(Err(reason));
            reason
        }
    };
    conn.close(reason);
    tracing::info!(tunnel = conn.id, peer = %conn.peer().cluster, reason = reason.name(), "data tunnel down");
}

struct HelloStreams {
    send: Guarded<SendStream>,
    recv: Guarded<RecvStream>,
}

async fn greet(shared: &Shared, conn: &Conn) -> Result<HelloStreams, Reason> {
    let (Some(quic), Some(tunnel)) = (conn.quic(), &conn.tunnel) else {
        return Err(Reason::TunnelLost);
    };
    let ours = Hello {
        versions: hello::VERSIONS,
        instance: shared.config.instance.clone(),
        max_streams: STREAMS_AFTER_HELLO,
    };
    let greeting = async {
        let lost = |error| failure::reason(&error);
        let mut send = Guarded::new(quic.open_uni().await.map_err(lost)?, Arc::clone(conn.health()));
        write(&mut send, &ours.encode())
            .await
            .map_err(|()| closed_as(quic))?;
        let mut recv = Guarded::new(quic.accept_uni().await.map_err(lost)?, Arc::clone(conn.health()));
        let first = read_frame(&mut recv)
            .await
            .map_err(|reason| reason.unwrap_or_else(|| closed_as(quic)))?;
        let Some(Frame::Hello(theirs)) = first else {
            return Err(Reason::Malformed);
        };
        Ok((HelloStreams { send, recv }, theirs))
    };
    let (streams, theirs) = timeout(HELLO_TIMEOUT, greeting)
        .await
        .map_err(|_| Reason::HandshakeTimeout)??;
    theirs.version()?;
    if theirs.instance != conn.peer().instance {
        return Err(Reason::ProtocolViolation);
    }
    quic.set_max_concurrent_bi_streams(VarInt::from_u32(STREAMS_AFTER_HELLO));
    tunnel.hello_done(theirs.max_streams);
    Ok(streams)
}

/// What the peer said when it closed, or that it was lost.
fn closed_as(quic: &quinn::Connection) -> Reason {
    quic.close_reason()
        .as_ref()
        .map_or(Reason::TunnelLost, failure::reason)
}

/// Fails with the connection.
async fn write(send: &mut Guarded<SendStream>, bytes: &[u8]) -> Result<(), ()> {
    let send = send.get_mut().ok_or(())?;
    send.write_all(bytes).await.map_err(|_| ())
}

/// One frame; `Ok(None)` at the clean end, `Err(None)` when the stream broke.
async fn read_frame(recv: &mut Guarded<RecvStream>) -> Result<Option<Frame>, Option<Reason>> {
    let recv = recv.get_mut().ok_or(None)?;
    let mut header = [0; HEADER_LEN];
    match recv.read_exact(&mut header).await {
        Ok(()) => {}
        Err(ReadExactError::FinishedEarly(0)) => return Ok(None),
        Err(ReadExactError::FinishedEarly(_)) => return Err(Some(Reason::Malformed)),
        Err(ReadExactError::ReadError(_)) => return Err(None),
    }
    let mut body = vec![0; hello::body_len(header)?];
    recv.read_exact(&mut body).await.map_err(|error| match error {
        ReadExactError::FinishedEarly(_) => Some(Reason::Malformed),
        ReadExactError::ReadError(_) => None,
    })?;
    Ok(Some(hello::decode(header, &body)?))
}

async fn run(shared: &Shared, conn: &Conn, acceptor: &dyn StreamAcceptor, streams: HelloStreams) -> Reason {
    let (Some(quic), Some(tunnel)) = (conn.quic(), &conn.tunnel) else {
        return Reason::TunnelLost;
    };
    tracing::info!(
        tunnel = conn.id, peer = %conn.peer().cluster, instance = %conn.peer().instance, remote = %conn.remote,
        dialled = conn.dialled, worker = conn.worker, "data tunnel up"
    );
    shared.directory.insert(tunnel);
    shared.changed(&conn.peer().cluster);
    let leaving = AtomicBool::new(false);
    let HelloStreams { send, recv } = streams;
    tokio::select! {
        biased;
        () = conn.health().broken() => Reason::Internal,
        error = quic.closed() => failure::reason(&error),
        reason = accept_streams(shared, quic, tunnel, acceptor, &leaving) => reason,
        reason = stay_alive(shared, quic, tunnel) => reason,
        reason = read_datagrams(quic, tunnel) => reason,
        reason = listen(shared, conn, recv, tunnel) => reason,
        reason = leave(shared, conn, tunnel, send, &leaving) => reason,
    }
}

async fn accept_streams(
    shared: &Shared,
    quic: &quinn::Connection,
    tunnel: &Arc<Tunnel>,
    acceptor: &dyn StreamAcceptor,
    leaving: &AtomicBool,
) -> Reason {
    loop {
        let (mut send, mut recv) = match quic.accept_bi().await {
            Ok(halves) => halves,
            Err(error) => return failure::reason(&error),
        };
        tunnel.heard_at(Instant::now());
        if leaving.load(Ordering::Acquire) {
            shared.counters.streams_refused.add(1);
            let _ = send.reset(varint(Reason::Draining));
            let _ = recv.stop(varint(Reason::Draining));
            continue;
        }
        shared.counters.streams_accepted.add(1);
        let (send, recv) = tunnel.adopt(send, recv);
        let accept = || acceptor.accept(Arc::clone(tunnel), send, recv);
        if catch_unwind(AssertUnwindSafe(accept)).is_err() {
            shared.counters.task_panics.add(1);
        }
    }
}

/// Pings, judges silence, moves the send window. Returns when the peer is given up.
async fn stay_alive(shared: &Shared, quic: &quinn::Connection, tunnel: &Tunnel) -> Reason {
    let mut live = Liveness::new(Instant::now());
    let mut window = SendWindow::new(Instant::now());
    let (mut stream_frames, mut was_loaded) = (0, false);
    loop {
        let now = Instant::now();
        let loaded = tunnel.in_flight() >= LOAD_STREAMS;
        if loaded && !was_loaded {
            // The rest of this tunnel must last until another one is up.
            shared.wake_planners();
        }
        was_loaded = loaded;
        let stats = quic.stats();
        let frames = stats.frame_tx.stream + stats.frame_rx.stream;
        let sight = Sight {
            received: tunnel.look(now),
            used: tunnel.take_used() || frames != stream_frames,
            rtt: stats.path.rtt,
        };
        stream_frames = frames;
        tunnel.set_rtt(stats.path.rtt);
        let step = live.tick(now, sight);
        if step.ping {
            shared.counters.pings.add(1);
            // Fails only when the connection ends, which is seen elsewhere, or the peer takes no datagrams: then acks must do.
            let _ = quic.send_datagram(Bytes::from_static(PING));
        }
        if step.verdict == Verdict::Dead {
            return Reason::PeerSilent;
        }
        judge(shared, tunnel, step.verdict == Verdict::Suspect);
        let delivered = stats.udp_tx.bytes.saturating_sub(stats.path.lost_bytes);
        if let Some(bytes) = window.look(now, delivered, stats.path.rtt) {
            quic.set_send_window(bytes);
        }
        tokio::select! {
            () = sleep_until(step.next.into()) => {}
            () = tunnel.used() => {}
        }
    }
}

fn judge(shared: &Shared, tunnel: &Tunnel, suspect: bool) {
    if tunnel.set_suspect(suspect) {
        if suspect {
            shared.counters.suspects.add(1);
            tracing::warn!(
                tunnel = tunnel.id(), peer = %tunnel.peer().cluster, reason = "PeerSilent", "data tunnel is suspect"
            );
        }
        shared.changed(&tunnel.peer().cluster);
    }
}

async fn read_datagrams(quic: &quinn::Connection, tunnel: &Tunnel) -> Reason {
    loop {
        let datagram = match quic.read_datagram().await {
            Ok(datagram) => datagram,
            Err(error) => return failure::reason(&error),
        };
        tunnel.heard_at(Instant::now());
        match datagram.split_first() {
            Some((&PROBE, nonce)) if nonce.len() == size_of::<u64>() => {
                let _ = quic.send_datagram([&[PROBE_REPLY], nonce].concat().into());
            }
            Some((&PROBE_REPLY, nonce)) => {
                if let Ok(nonce) = nonce.try_into() {
                    tunnel.probe_answered(u64::from_be_bytes(nonce));
                }
            }
            // Pings, and what later versions add.
            _ => {}
        }
    }
}

/// A probe datagram.
pub(crate) fn probe(nonce: u64) -> Bytes {
    [&[PROBE][..], &nonce.to_be_bytes()].concat().into()
}

/// Reads what follows the peer's hello. Its end is no event: a later version may finish it. Only the first of each frame does
/// anything: each one makes every planner look.
async fn listen(shared: &Shared, conn: &Conn, mut recv: Guarded<RecvStream>, tunnel: &Tunnel) -> Reason {
    let (mut drained, mut renewed) = (false, false);
    loop {
        match read_frame(&mut recv).await {
            Ok(Some(Frame::Drain(_))) if drained => {}
            Ok(Some(Frame::Renew)) if renewed => {}
            Ok(Some(Frame::Drain(reason))) => {
                drained = true;
                tracing::info!(
                    tunnel = tunnel.id(), peer = %tunnel.peer().cluster, reason = reason.name(),
                    "the peer takes no new streams on this tunnel"
                );
                tunnel.change(|facts| facts.draining = true);
                shared.changed(&tunnel.peer().cluster);
            }
            Ok(Some(Frame::Renew)) => {
                renewed = true;
                conn.peer_renewed();
                shared.changed(&tunnel.peer().cluster);
            }
            Ok(Some(Frame::Skipped)) => {}
            Ok(Some(Frame::Hello(_))) => return Reason::ProtocolViolation,
            Ok(None) | Err(None) => return std::future::pending().await,
            Err(Some(reason)) => return reason,
        }
    }
}

/// Waits until this connection shall leave, says so, and resolves when it may be closed.
async fn leave(
    shared: &Shared,
    conn: &Conn,
    tunnel: &Tunnel,
    mut send: Guarded<SendStream>,
    leaving: &AtomicBool,
) -> Reason {
    let reason = tokio::select! {
        reason = told_to_leave(shared, conn) => reason,
        never = ask_to_renew(shared, conn, &mut send) => match never {},
    };
    leaving.store(true, Ordering::Release);
    tunnel.change(|facts| facts.draining = true);
    shared.changed(&tunnel.peer().cluster);
    let gone = async {
        // Fails with the connection, whose end is seen elsewhere.
        let _ = write(&mut send, &hello::encode_drain(reason)).await;
        loop {
            tunnel.streams_gone().await;
            sleep(LINGER + 3 * tunnel.rtt()).await;
            if tunnel.in_flight() == 0 {
                return;
            }
        }
    };
    let mut stage = shared.stage.subscribe();
    tokio::select! {
        () = gone => {}
        _ = stage.wait_for(|stage| *stage == Stage::Closed) => {}
        () = sleep_until((conn.born + MAX_AGE).into()) => {}
    }
    reason
}

/// Only a dialler can replace a connection without a gap: the side that was dialled tells it when its leaf was renewed.
async fn ask_to_renew(
    shared: &Shared,
    conn: &Conn,
    send: &mut Guarded<SendStream>,
) -> std::convert::Infallible {
    if !conn.dialled {
        let links = &shared.links;
        conn.outdated(&links.trust, links.trust_changes.clone()).await;
        // Fails with the connection, whose end is seen elsewhere.
        let _ = write(send, &hello::encode_renew()).await;
    }
    std::future::pending().await
}

async fn told_to_leave(shared: &Shared, conn: &Conn) -> Reason {
    let (mut stage, mut leave) = (shared.stage.subscribe(), conn.leave.subscribe());
    tokio::select! {
        _ = stage.wait_for(|stage| *stage >= Stage::Draining) => Reason::Draining,
        reason = leave.wait_for(Option::is_some) => {
            reason.ok().and_then(|reason| *reason).unwrap_or(Reason::Draining)
        }
    }
}
