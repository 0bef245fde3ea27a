//! One admitted connection, of either kind.
//!
//! Owns what is known of it: who, which way, with which certificates. Never does I/O but closing. Listed in [`crate::shared`].

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use rustls_pki_types::{CertificateDer, UnixTime};
use strait_federation_api::{
    Reason,
    control::VerifiedPeer,
    observation::{TunnelKind, TunnelStatus},
};
use strait_trust_bridge::{OwnIdentity, TrustStore};
use tokio::sync::watch;

use crate::{
    codes::varint,
    phase::Phase,
    plan::{ConnSeen, ConnState},
    runtime::{Guarded, Health},
    tunnel::{Tunnel, canonical},
};

/// The proven other end of a handshake.
#[derive(Debug)]
pub(crate) struct Proven {
    pub(crate) peer: VerifiedPeer,
    /// What it presented, kept to be verified again when trust changes.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    /// When its leaf expires, Unix seconds.
    pub(crate) leaf_ends: i64,
}

/// Where a connection came from.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) quic: quinn::Connection,
    pub(crate) health: Arc<Health>,
    pub(crate) worker: u32,
    pub(crate) dialled: bool,
    /// What we presented.
    pub(crate) identity: Option<Arc<OwnIdentity>>,
}

/// One admitted control or data connection.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) id: u64,
    pub(crate) kind: TunnelKind,
    pub(crate) worker: u32,
    pub(crate) dialled: bool,
    pub(crate) born: Instant,
    pub(crate) remote: SocketAddr,
    pub(crate) proven: Proven,
    /// Data: the receive window that it was given, bytes. Control: 0, it keeps the one of its handshake.
    pub(crate) window: u32,
    identity: Option<Arc<OwnIdentity>>,
    quic: Guarded<quinn::Connection>,
    /// Data connections have one.
    pub(crate) tunnel: Option<Arc<Tunnel>>,
    /// Set once the connection shall take no new streams and end with its last one.
    pub(crate) leave: watch::Sender<Option<Reason>>,
    /// Control: the stream was handed on.
    up: AtomicBool,
    peer_renewed: AtomicBool,
}

impl Conn {
    pub(crate) fn new(id: u64, kind: TunnelKind, proven: Proven, origin: Origin, window: u32) -> Arc<Self> {
        let remote = canonical(origin.quic.remote_address());
        let guard = || Guarded::new(origin.quic.clone(), Arc::clone(&origin.health));
        let tunnel = (kind == TunnelKind::Data).then(|| {
            Tunnel::new(
                guard(),
                id,
                origin.worker,
                proven.peer.clone(),
                origin.dialled,
                remote,
            )
        });
        Arc::new(Self {
            id,
            kind,
            worker: origin.worker,
            dialled: origin.dialled,
            born: Instant::now(),
            remote,
            quic: guard(),
            identity: origin.identity,
            proven,
            window,
            tunnel,
            leave: watch::Sender::new(None),
            up: AtomicBool::new(false),
            peer_renewed: AtomicBool::new(false),
        })
    }

    pub(crate) const fn peer(&self) -> &VerifiedPeer {
        &self.proven.peer
    }

    /// The connection, unless it broke from within.
    pub(crate) fn quic(&self) -> Option<&quinn::Connection> {
        self.quic.get()
    }

    pub(crate) const fn health(&self) -> &Arc<Health> {
        self.quic.health()
    }

    pub(crate) fn set_up(&self) {
        self.up.store(true, Ordering::Release);
    }

    pub(crate) fn is_up(&self) -> bool {
        match &self.tunnel {
            Some(tunnel) => tunnel.is_usable(),
            None => self.up.load(Ordering::Acquire),
        }
    }

    /// Ends it at once, telling the peer why.
    pub(crate) fn close(&self, reason: Reason) {
        if let Some(tunnel) = &self.tunnel {
            tunnel.close(reason);
        } else if let Some(quic) = self.quic() {
            quic.close(varint(reason), reason.name().as_bytes());
        }
    }

    /// No new streams; it ends with its last one. The first reason stays.
    pub(crate) fn retire(&self, reason: Reason) {
        self.leave.send_if_modified(|held| {
            let first = held.is_none();
            held.get_or_insert(reason);
            first
        });
    }

    /// Verifies the stored chain against the trust held now.
    pub(crate) fn reverify(&self, trust: &TrustStore, now: UnixTime) -> Result<(), Reason> {
        let found =
            trust
                .view()
                .reverify(&self.proven.chain, now)
                .map_err(|error| match Reason::from(&error) {
                    // It was known when the connection was admitted.
                    Reason::UnknownTrustDomain => Reason::FederationRemoved,
                    other => other,
                })?;
        if found.cluster == self.peer().cluster {
            Ok(())
        } else {
            Err(Reason::FederationRemoved)
        }
    }

    fn state(&self) -> ConnState {
        match self.tunnel.as_ref().map(|tunnel| tunnel.phase()) {
            Some(Phase::Suspect | Phase::Closed) => ConnState::Suspect,
            Some(Phase::Draining) => ConnState::Leaving,
            _ if self.leave.borrow().is_some() => ConnState::Leaving,
            Some(Phase::Opening | Phase::Usable) | None => ConnState::Good,
        }
    }

    /// It was made with a leaf of ours that was renewed since.
    pub(crate) fn is_outdated(&self, trust: &TrustStore) -> bool {
        match (&self.identity, trust.identity()) {
            (Some(then), Some(now)) => !Arc::ptr_eq(then, &now),
            _ => false,
        }
    }

    /// Resolves when [`Conn::is_outdated`] becomes true.
    pub(crate) async fn outdated(&self, trust: &TrustStore, mut changes: watch::Receiver<u64>) {
        while !self.is_outdated(trust) {
            if changes.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// The peer said that it has a new leaf.
    pub(crate) fn peer_renewed(&self) {
        self.peer_renewed.store(true, Ordering::Release);
    }

    /// One side renewed its leaf since, or the peer must have: the dialler replaces the connection.
    fn is_stale(&self, trust: &TrustStore, now: UnixTime) -> bool {
        let renewed = self.is_outdated(trust) || self.peer_renewed.load(Ordering::Acquire);
        let peer_expired = u64::try_from(self.proven.leaf_ends).is_ok_and(|ends| ends < now.as_secs());
        self.dialled && (renewed || peer_expired)
    }

    /// As the planner of `worker` sees it.
    pub(crate) fn seen(&self, worker: u32, trust: &TrustStore, now: Instant) -> ConnSeen {
        ConnSeen {
            id: self.id,
            peer: self.peer().cluster.clone(),
            instance: self.peer().instance.clone(),
            kind: self.kind,
            here: self.worker == worker,
            dialled: self.dialled,
            state: self.state(),
            in_flight: self.tunnel.as_ref().map_or(0, |tunnel| tunnel.in_flight()),
            stale: self.is_stale(trust, UnixTime::now()),
            age: now.saturating_duration_since(self.born),
        }
    }

    /// As people see it.
    pub(crate) fn status(&self, trust: &TrustStore, now: Instant) -> TunnelStatus {
        let stats = self.quic().map(quinn::Connection::stats);
        let path = stats.map(|stats| stats.path);
        TunnelStatus {
            id: self.id,
            peer: self.peer().cluster.clone(),
            trust_domain: self.peer().trust_domain.clone(),
            instance: self.peer().instance.clone(),
            kind: self.kind,
            dialled: self.dialled,
            remote: self
                .quic()
                .map_or(self.remote, |quic| canonical(quic.remote_address())),
            worker: self.worker,
            rtt: path.map(|path| path.rtt).unwrap_or_default(),
            mtu: path.map(|path| path.current_mtu).unwrap_or_default(),
            streams: self
                .tunnel
                .as_ref()
                .map_or_else(|| u32::from(self.is_up()), |tunnel| tunnel.in_flight()),
            lost_packets: path.map(|path| path.lost_packets).unwrap_or_default(),
            age: now.saturating_duration_since(self.born),
            silent_for: self
                .tunnel
                .as_ref()
                .map(|tunnel| tunnel.silent_for(now))
                .unwrap_or_default(),
            draining: self.state() == ConnState::Leaving,
            outdated: self.is_outdated(trust),
        }
    }
}
