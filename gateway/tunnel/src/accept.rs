//! Letting connections in.
//!
//! Owns the accept loop and the way from a first packet to an admitted connection. Never trusts anything before TLS is done, and lets
//! no stream be opened before the connection is admitted. Run by a worker.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use quinn::{
    Incoming, ServerConfig,
    crypto::rustls::{HandshakeData, QuicServerConfig},
};
use rustls_pki_types::UnixTime;
use strait_federation_api::{Reason, observation::TunnelKind, snapshot::PeerMode};
use strait_trust_bridge::{
    TrustError,
    tls::{Admission, JoinGate, admit, server_config},
};
use tokio::time::timeout;

use crate::{
    codes::varint,
    conn::Origin,
    control, data,
    dial::{presented, proven},
    failure::{self, RefusalSlot},
    isolate::isolated,
    join,
    limit::Gate,
    runtime::with_health,
    shared::{Shared, Stage},
    transport,
    tunnel::{StreamAcceptor, canonical},
};

/// One handshake, seen from here: what a dialler allows itself, and a margin.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// What an accept loop needs.
#[derive(Clone)]
pub(crate) struct Door {
    pub(crate) shared: Arc<Shared>,
    pub(crate) acceptor: Arc<dyn StreamAcceptor>,
    pub(crate) worker: u32,
    /// Everything but TLS, which is made per connection.
    pub(crate) base: ServerConfig,
}

/// The configuration that endpoints are made with. Its TLS refuses joins and forgets refusals; [`Door`] replaces it per connection.
pub(crate) fn base_config(shared: &Shared) -> Result<ServerConfig, TrustError> {
    let mut config = ServerConfig::with_crypto(tls(shared, &RefusalSlot::default())?);
    config.transport_config(transport::server()).migration(true);
    Ok(config)
}

fn tls(shared: &Shared, slot: &RefusalSlot) -> Result<Arc<QuicServerConfig>, TrustError> {
    let invite_open = Arc::clone(&shared.links.invite_open);
    let gate = JoinGate::new(move || invite_open.load(Ordering::Acquire));
    let tls = server_config(&shared.links.trust, gate, slot.sink())?;
    let quic = QuicServerConfig::try_from(tls)
        .map_err(|_| TrustError::Provider("QUIC's initial cipher suite is missing"))?;
    Ok(Arc::new(quic))
}

impl Door {
    /// Accepts until the endpoint closes.
    pub(crate) async fn run(self, endpoint: quinn::Endpoint) {
        while let Some(incoming) = endpoint.accept().await {
            let remote = canonical(incoming.remote_address());
            if self.shared.stage() != Stage::Running {
                incoming.refuse();
                continue;
            }
            let gate = self.shared.limiter.lock().judge(
                Instant::now(),
                remote.ip(),
                incoming.remote_address_validated(),
                self.shared.handshakes.load(Ordering::Relaxed),
            );
            match gate {
                Gate::Accept => isolated(
                    Arc::clone(&self.shared.counters),
                    self.clone().admit(incoming, remote),
                ),
                Gate::Retry => self.retry(incoming),
                Gate::Refuse { news } => {
                    let reason = Reason::TooManyConnections;
                    if news {
                        self.shared.refused(remote, None, reason, "attempts");
                    } else {
                        self.shared.counters.refuse(reason);
                    }
                    incoming.refuse();
                }
            }
        }
    }

    fn retry(&self, incoming: Incoming) {
        self.shared.counters.retries.add(1);
        // Fails for a source that is proven already: such a one is refused by the drop.
        let _ = incoming.retry();
    }

    async fn admit(self, incoming: Incoming, remote: SocketAddr) {
        let slot = RefusalSlot::default();
        let quic = {
            let _under_way = UnderWay::new(&self.shared);
            self.handshake(incoming, &slot).await
        };
        let (quic, origin) = match quic {
            Ok(made) => made,
            Err((reason, detail)) => return self.shared.refused(remote, None, reason, &detail),
        };
        if let Err((reason, detail)) = self.clone().enter(quic.clone(), origin, remote).await {
            // Before any stream: the peer cannot have been given one.
            quic.close(varint(reason), reason.name().as_bytes());
            self.shared.refused(remote, None, reason, &detail);
        }
    }

    async fn handshake(
        &self,
        incoming: Incoming,
        slot: &RefusalSlot,
    ) -> Result<(quinn::Connection, Origin), (Reason, String)> {
        let mut config = self.base.clone();
        config.crypto = tls(&self.shared, slot).map_err(|error| (Reason::from(&error), error.to_string()))?;
        let identity = self.shared.links.trust.identity();
        let (connecting, health) = with_health(|| incoming.accept_with(Arc::new(config)));
        let failed = |error: &quinn::ConnectionError| failure::handshake(error, slot);
        let connecting = connecting.map_err(|error| failed(&error))?;
        let quic = timeout(HANDSHAKE_TIMEOUT, connecting)
            .await
            .map_err(|_| (Reason::HandshakeTimeout, "handshake".to_owned()))?
            .map_err(|error| failed(&error))?;
        let origin = Origin {
            quic: quic.clone(),
            health,
            worker: self.worker,
            dialled: false,
            identity,
        };
        Ok((quic, origin))
    }

    async fn enter(
        self,
        quic: quinn::Connection,
        origin: Origin,
        remote: SocketAddr,
    ) -> Result<(), (Reason, String)> {
        let alpn = quic
            .handshake_data()
            .and_then(|data| data.downcast::<HandshakeData>().ok())
            .and_then(|data| data.protocol);
        let chain = presented(&quic);
        let slot = RefusalSlot::default();
        let admission = admit(
            alpn.as_deref(),
            (!chain.is_empty()).then_some(&chain[..]),
            &self.shared.links.trust,
            UnixTime::now(),
            &slot.sink(),
        )
        .map_err(|error| (Reason::from(&error), error.to_string()))?;
        let (kind, found) = match admission {
            Admission::Join => {
                self.shared.counters.accepted.add(1);
                join::serve(self.shared, quic, origin.health, remote).await;
                return Ok(());
            }
            Admission::Control(found) => (TunnelKind::Control, found),
            Admission::Data(found) => (TunnelKind::Data, found),
        };
        let plain = |reason: Reason| (reason, format!("{kind:?} of {}", found.chain.id.as_str()));
        if self.is_suspended(&found.cluster) {
            return Err(plain(Reason::PeerSuspended));
        }
        let proven = proven(found.clone(), chain).map_err(plain)?;
        let conn = self.shared.admit(kind, proven, origin).map_err(plain)?;
        self.shared.counters.accepted.add(1);
        match kind {
            TunnelKind::Control => control::serve(self.shared, conn, |_| ()).await,
            TunnelKind::Data => data::serve(self.shared, conn, self.acceptor, |_| ()).await,
        }
        Ok(())
    }

    fn is_suspended(&self, cluster: &strait_federation_api::ClusterId) -> bool {
        let snapshot = self.shared.snapshot();
        snapshot
            .peers
            .get(cluster)
            .is_some_and(|peer| peer.mode == PeerMode::Suspended)
    }
}

/// Counts one handshake, also when its task is dropped.
struct UnderWay<'a>(&'a Shared);

impl<'a> UnderWay<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.handshakes.fetch_add(1, Ordering::Relaxed);
        Self(shared)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.handshakes.fetch_sub(1, Ordering::Relaxed);
    }
}
