//! Join sessions: connections without a client certificate.
//!
//! Owns their one stream, the exported keying material that binds proofs to the session, and their bounds. Never learns what is said.
//! Spawned by accept; called by a worker for a join that we dial.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use strait_federation_api::{
    Reason,
    control::{EXPORTER_LEN, GatewayEvent, JOIN_EXPORTER_LABEL, JoinStream, Role},
};
use tokio::time::timeout;

use crate::{
    codes::varint,
    failure,
    pipe::{self, Holder, PREFACE_TIMEOUT, Pipe},
    runtime::Health,
    shared::Shared,
};

/// A join takes a few round trips and one signature; whoever takes longer is cut.
const MAX_TIME: Duration = Duration::from_secs(60);
/// Sessions at a time: nobody is authenticated yet, and an invite has one joiner.
const MAX_SESSIONS: u32 = 16;

/// A join that came in.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    quic: quinn::Connection,
    health: Arc<Health>,
    remote: SocketAddr,
) {
    let sessions = shared.joins.fetch_add(1, Ordering::AcqRel);
    let reason = if sessions >= MAX_SESSIONS {
        Err(Reason::TooManyAttempts)
    } else {
        timeout(MAX_TIME, accept(&shared, &quic, &health, remote))
            .await
            .unwrap_or(Err(Reason::DeadlineExceeded))
    };
    shared.joins.fetch_sub(1, Ordering::AcqRel);
    let reason = match reason {
        Ok(()) => Reason::Connected,
        Err(reason) => {
            shared.refused(remote, None, reason, "join session");
            reason
        }
    };
    quic.close(varint(reason), reason.name().as_bytes());
}

async fn accept(
    shared: &Shared,
    quic: &quinn::Connection,
    health: &Arc<Health>,
    remote: SocketAddr,
) -> Result<(), Reason> {
    let opening = async {
        let (mut send, recv) = pipe::accept(quic).await?;
        pipe::send_preface(&mut send).await?;
        Ok::<_, Reason>((send, recv))
    };
    let (send, recv) = timeout(PREFACE_TIMEOUT, opening)
        .await
        .map_err(|_| Reason::HandshakeTimeout)??;
    let (pipe, holder) = Pipe::new(send, recv, health);
    let stream = stream(quic, Role::Acceptor, remote, pipe)?;
    let _ = shared.links.events.send(GatewayEvent::Join(stream)).await;
    tokio::select! {
        () = holder.gone() => {}
        _ = quic.closed() => {}
    }
    Ok(())
}

/// A join that we dialled: the session, and a future that keeps the connection until its holder lets go.
pub(crate) async fn dialled(
    quic: quinn::Connection,
    health: &Arc<Health>,
    remote: SocketAddr,
) -> Result<(JoinStream, impl Future<Output = ()> + Send + use<>), Reason> {
    let opened = timeout(PREFACE_TIMEOUT, pipe::open(&quic)).await;
    let (send, recv) = match opened {
        Ok(Ok(halves)) => halves,
        Ok(Err(reason)) => return Err(quic.close_reason().as_ref().map_or(reason, failure::reason)),
        Err(_) => return Err(Reason::HandshakeTimeout),
    };
    let (pipe, holder) = Pipe::new(send, recv, health);
    let stream = stream(&quic, Role::Dialler, remote, pipe)?;
    Ok((stream, keep(quic, holder)))
}

async fn keep(quic: quinn::Connection, holder: Holder) {
    let _ = timeout(MAX_TIME, async {
        tokio::select! {
            () = holder.gone() => {}
            _ = quic.closed() => {}
        }
    })
    .await;
    quic.close(varint(Reason::Connected), b"");
}

fn stream(
    quic: &quinn::Connection,
    role: Role,
    remote: SocketAddr,
    pipe: Pipe,
) -> Result<JoinStream, Reason> {
    let mut exporter = [0; EXPORTER_LEN];
    quic.export_keying_material(&mut exporter, JOIN_EXPORTER_LABEL, b"")
        .map_err(|_| Reason::TlsFailed)?;
    Ok(JoinStream {
        role,
        remote,
        exporter,
        io: Box::new(pipe),
    })
}
