//! Join sessions: connections without a client certificate.
//!
//! Owns their one stream, the exported keying material that binds proofs to the session, and their bounds. Never learns what is said.
//! Spawned by accept; called by a worker for a join that we dial.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use strait_federation_api::{
    Reason,
    control::{EXPORTER_LEN, GatewayEvent, JOIN_EXPORTER_LABEL, JoinStream, Role},
};
use tokio::time::timeout;

use crate::{
    codes::varint,
    failure, limit,
    pipe::{self, Holder, PREFACE_TIMEOUT, Pipe},
    runtime::Health,
    shared::Shared,
};

/// A join takes a few round trips and one signature; whoever takes longer is cut.
const MAX_TIME: Duration = Duration::from_secs(60);
/// Sessions at a time: nobody is authenticated yet, and an invite has one joiner.
const MAX_SESSIONS: usize = 16;
/// Of these, by one source: a joiner retries one after the other, and must find room beside somebody who holds sessions open.
const MAX_PER_SOURCE: usize = 4;

/// Sources of the sessions under way, each as often as it has one.
pub(crate) type Sessions = Mutex<Vec<IpAddr>>;

/// One session's place, given back however the session ends.
struct Place<'a>(&'a Sessions, IpAddr);

impl<'a> Place<'a> {
    fn take(sessions: &'a Sessions, remote: SocketAddr) -> Option<Self> {
        let source = limit::source(remote.ip());
        let mut held = sessions.lock();
        let own = held.iter().filter(|other| **other == source).count();
        let free = held.len() < MAX_SESSIONS && own < MAX_PER_SOURCE;
        free.then(|| {
            held.push(source);
            Self(sessions, source)
        })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut held = self.0.lock();
        if let Some(at) = held.iter().position(|source| *source == self.1) {
            held.swap_remove(at);
        }
    }
}

/// A join that came in.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    quic: quinn::Connection,
    health: Arc<Health>,
    remote: SocketAddr,
) {
    let place = Place::take(&shared.joins, remote);
    let reason = if place.is_some() {
        timeout(MAX_TIME, accept(&shared, &quic, &health, remote))
            .await
            .unwrap_or(Err(Reason::DeadlineExceeded))
    } else {
        Err(Reason::TooManyAttempts)
    };
    drop(place);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_source_cannot_take_every_place_and_places_come_back() {
        let sessions = Sessions::default();
        let at = |host: u8, port| SocketAddr::from(([192, 0, 2, host], port));
        let held: Vec<_> = (0..100)
            .filter_map(|port| Place::take(&sessions, at(1, port)))
            .collect();
        assert_eq!(held.len(), MAX_PER_SOURCE);
        let others: Vec<_> = (2..100)
            .filter_map(|host| Place::take(&sessions, at(host, 1)))
            .collect();
        assert_eq!(held.len() + others.len(), MAX_SESSIONS);
        drop((held, others));
        assert!(sessions.lock().is_empty());
        assert!(Place::take(&sessions, at(1, 1)).is_some());
    }
}
