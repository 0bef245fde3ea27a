//! The task of one control connection.
//!
//! Owns the opening of its one stream, the election, and its life until the holder of the byte stream lets go. Never reads what is
//! said on it. Spawned by accept and dial.

use std::sync::Arc;

use strait_federation_api::{
    Reason,
    control::{ControlStream, GatewayEvent, Role},
};
use tokio::time::timeout;

use crate::{
    conn::Conn,
    failure,
    pipe::{self, PREFACE_TIMEOUT, Pipe},
    shared::{Listed, Shared, Stage},
};

/// Drives `conn` to its end. `ready` learns whether it became the pair's control connection.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    conn: Arc<Conn>,
    ready: impl FnOnce(Result<(), Reason>) + Send,
) {
    let _listed = Listed::new(&shared, &conn);
    let reason = match establish(&shared, &conn).await {
        Ok(pipe) => {
            ready(Ok(()));
            run(&shared, &conn, pipe).await
        }
        Err(reason) => {
            ready(Err(reason));
            reason
        }
    };
    conn.close(reason);
    tracing::info!(tunnel = conn.id, peer = %conn.peer().cluster, reason = reason.name(), "control connection down");
}

async fn establish(shared: &Shared, conn: &Arc<Conn>) -> Result<(Pipe, pipe::Holder), Reason> {
    let quic = conn.quic().ok_or(Reason::TunnelLost)?;
    let opening = async {
        if conn.dialled {
            let (send, recv) = pipe::open(quic).await?;
            shared.elect(conn)?;
            Ok((send, recv))
        } else {
            let (mut send, recv) = pipe::accept(quic).await?;
            shared.elect(conn)?;
            pipe::send_preface(&mut send).await?;
            Ok((send, recv))
        }
    };
    match timeout(PREFACE_TIMEOUT, opening).await {
        Ok(Ok((send, recv))) => Ok(Pipe::new(send, recv, conn.health())),
        // The peer's own words, if it closed, tell more than the broken stream.
        Ok(Err(Reason::TunnelLost)) => Err(quic
            .close_reason()
            .as_ref()
            .map_or(Reason::TunnelLost, failure::reason)),
        Ok(Err(reason)) => Err(reason),
        Err(_) => Err(Reason::HandshakeTimeout),
    }
}

async fn run(shared: &Shared, conn: &Conn, (pipe, holder): (Pipe, pipe::Holder)) -> Reason {
    let Some(quic) = conn.quic() else {
        return Reason::TunnelLost;
    };
    tracing::info!(
        tunnel = conn.id, peer = %conn.peer().cluster, remote = %conn.remote, dialled = conn.dialled,
        "control connection up"
    );
    shared.changed(&conn.peer().cluster);
    let event = GatewayEvent::Control(ControlStream {
        peer: conn.peer().clone(),
        role: if conn.dialled {
            Role::Dialler
        } else {
            Role::Acceptor
        },
        remote: conn.remote,
        io: Box::new(pipe),
    });
    let held = async {
        // A controller that is busy is waited for; one that is gone drops the stream, and the holder with it.
        let _ = shared.links.events.send(event).await;
        holder.gone().await;
    };
    let mut stage = shared.stage.subscribe();
    tokio::select! {
        biased;
        () = conn.health().broken() => Reason::Internal,
        error = quic.closed() => failure::reason(&error),
        () = held => Reason::Connected,
        () = replaced(shared, conn) => Reason::Superseded,
        _ = stage.wait_for(|stage| *stage == Stage::Closed) => Reason::Draining,
    }
}

/// Resolves when our leaf was renewed on a connection that the peer dialled: it dials again, and the exchange resumes where it was.
async fn replaced(shared: &Shared, conn: &Conn) {
    if conn.dialled {
        return std::future::pending().await;
    }
    let links = &shared.links;
    conn.outdated(&links.trust, links.trust_changes.clone()).await;
}
