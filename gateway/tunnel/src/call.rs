//! One dial, from the planner's order to the end of the connection.
//!
//! Owns the order of steps: dial, prove, list, serve; and that the planner hears of the end whatever happens. Started by a worker.

use std::{net::SocketAddr, sync::Arc};

use strait_federation_api::{
    ClusterId, InstanceId, Reason, control::DialError, observation::TunnelKind, snapshot::Peer,
};
use strait_trust_bridge::tls::Alpn;
use tokio::sync::mpsc;

use crate::{
    codes::varint,
    conn::{Conn, Origin},
    control, data,
    dial::{self, Dialler, JoinDial, Target},
    endpoint::Port,
    join,
    plan::Purpose,
    shared::Shared,
    tunnel::StreamAcceptor,
};

/// A dial that ended.
pub(crate) struct Ended {
    pub(crate) peer: ClusterId,
    pub(crate) purpose: Purpose,
    pub(crate) up: bool,
}

/// A join, from the order to the end of its session.
pub(crate) async fn join(dialler: Dialler, order: JoinDial) {
    let JoinDial {
        addresses,
        pin,
        timeout,
        reply,
    } = order;
    let dialling = async {
        let dialled = dialler.dial(&addresses, 0, &Target::Join(pin)).await?;
        let remote = dialled.remote;
        join::dialled(dialled.quic, &dialled.health, remote)
            .await
            .map_err(|reason| said(remote, reason))
    };
    // Whoever asked may have given up: the stream is dropped then, and `keep` ends.
    match tokio::time::timeout(timeout, dialling).await {
        Ok(Ok((stream, keep))) => {
            let _ = reply.send(Ok(stream));
            keep.await;
        }
        Ok(Err(error)) => drop(reply.send(Err(error))),
        Err(_) => drop(reply.send(Err(DialError {
            reason: Reason::DeadlineExceeded,
            detail: "no address answered in the time allowed".into(),
        }))),
    }
}

/// What one address said.
fn said(remote: SocketAddr, reason: Reason) -> DialError {
    DialError {
        reason,
        detail: format!("{remote}: {}", reason.meaning()),
    }
}

/// Tells the planner of a dial's end, also when its task panics.
pub(crate) struct EndedGuard {
    ended: mpsc::UnboundedSender<Ended>,
    value: Option<Ended>,
}

impl EndedGuard {
    pub(crate) const fn new(ended: mpsc::UnboundedSender<Ended>, peer: ClusterId, purpose: Purpose) -> Self {
        let value = Ended {
            peer,
            purpose,
            up: false,
        };
        Self {
            ended,
            value: Some(value),
        }
    }

    fn up(&mut self) {
        if let Some(value) = &mut self.value {
            value.up = true;
        }
    }
}

impl Drop for EndedGuard {
    fn drop(&mut self) {
        if let Some(value) = self.value.take() {
            // Fails only when the worker has ended.
            let _ = self.ended.send(value);
        }
    }
}

/// One dial to a peer and, when it succeeds, the life of the connection.
pub(crate) struct Call {
    pub(crate) shared: Arc<Shared>,
    pub(crate) acceptor: Arc<dyn StreamAcceptor>,
    pub(crate) worker: u32,
    pub(crate) port: Port,
    pub(crate) peer: Arc<Peer>,
    pub(crate) purpose: Purpose,
    /// Number of the address to start with.
    pub(crate) turn: usize,
}

impl Call {
    pub(crate) async fn run(self, guard: EndedGuard) {
        let fresh = (self.purpose == Purpose::Cover).then(|| Arc::clone(&self.port.socket));
        let shared = Arc::clone(&self.shared);
        match self.connect().await {
            Ok(conn) => self.serve(conn, guard).await,
            Err(error) => {
                self.failed(&error);
                drop(guard);
            }
        }
        if let Some(socket) = fresh {
            shared.remove_socket(&socket);
        }
    }

    const fn kind(&self) -> TunnelKind {
        match self.purpose {
            Purpose::Control => TunnelKind::Control,
            Purpose::Warm | Purpose::Load | Purpose::Cover => TunnelKind::Data,
        }
    }

    async fn connect(&self) -> Result<Arc<Conn>, DialError> {
        let domain = &self.peer.trust_domain;
        let dialler = Dialler::new(&self.shared, &self.port);
        let identity = self.shared.links.trust.identity();
        let alpn = match self.kind() {
            TunnelKind::Control => Alpn::Control,
            TunnelKind::Data => Alpn::Data,
        };
        let target = Target::Peer {
            domain: domain.clone(),
            alpn,
        };
        let dialled = dialler.dial(&self.peer.addresses, self.turn, &target).await?;
        let remote = dialled.remote;
        let refused = |reason: Reason| {
            dialled.quic.close(varint(reason), reason.name().as_bytes());
            said(remote, reason)
        };
        let proven = dial::prove_server(&dialled.quic, &self.shared.links.trust, domain).map_err(refused)?;
        if self.purpose == Purpose::Cover && self.is_covered(&proven.peer.instance) {
            return Err(refused(Reason::Superseded));
        }
        let origin = Origin {
            quic: dialled.quic.clone(),
            health: Arc::clone(&dialled.health),
            worker: self.worker,
            dialled: true,
            identity,
        };
        self.shared.admit(self.kind(), proven, origin).map_err(refused)
    }

    /// A redial reached an instance that has a tunnel already.
    fn is_covered(&self, instance: &InstanceId) -> bool {
        let tunnels = self.shared.directory.to_peer(&self.peer.cluster);
        tunnels
            .iter()
            .any(|tunnel| tunnel.is_usable() && tunnel.peer().instance == *instance)
    }

    async fn serve(self, conn: Arc<Conn>, mut guard: EndedGuard) {
        let (shared, cluster) = (Arc::clone(&self.shared), self.peer.cluster.clone());
        let remote = conn.remote;
        let ready = move |result: Result<(), Reason>| {
            match result {
                Ok(()) => {
                    guard.up();
                    shared.counters.dialled.add(1);
                    shared.dial_ended(&cluster, None);
                }
                // A race that the other side's connection has won is a link that is up.
                Err(Reason::Superseded) => {}
                Err(reason) => {
                    shared.counters.dial_failures.add(1);
                    shared.dial_ended(
                        &cluster,
                        Some((reason, format!("{remote}: {}", reason.meaning()))),
                    );
                }
            }
            drop(guard);
        };
        match conn.kind {
            TunnelKind::Control => control::serve(self.shared, conn, ready).await,
            TunnelKind::Data => data::serve(self.shared, conn, self.acceptor, ready).await,
        }
    }

    fn failed(&self, error: &DialError) {
        if self.purpose == Purpose::Cover && error.reason == Reason::Superseded {
            return;
        }
        self.shared.counters.dial_failures.add(1);
        tracing::debug!(
            peer = %self.peer.cluster, purpose = ?self.purpose, reason = error.reason.name(), detail = error.detail,
            "dial failed"
        );
        self.shared
            .dial_ended(&self.peer.cluster, Some((error.reason, error.detail.clone())));
    }
}
