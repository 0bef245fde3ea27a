//! A peer that keeps no rule: a raw QUIC client and server with a CA of its own.
//!
//! Owns its identity (good, or bad in any of the ways of `strait_trust_bridge::testing`), its connections to a live gateway, and
//! what it says on them: stream headers, exchange envelopes, join messages, each as bytes of its own making where Strait's own
//! types would not let it. Decides nothing about what is right; tests do. Panics where a test cannot set up its world.
#![expect(clippy::expect_used, reason = "test helpers")]

mod exchange;
mod join;
mod server;
mod stream;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use quinn::{ClientConfig, ConnectionError, Endpoint, crypto::rustls::QuicClientConfig};
use rustls_pki_types::UnixTime;
use strait_federation_api::Reason;
use strait_trust_bridge::{
    PeerTrust, TrustDomain, spiffe_json,
    testing::TestCluster,
    tls::{Alpn, RefusalSink, client_config},
};
use tokio::time::timeout;

pub use exchange::{Exchange, catalog_end, hello, key, offer};
pub use join::{JoinSession, TokenField, alter, readdress};
pub use server::{BadServer, Relay};
pub use stream::{Answer, DataLine, Header};

/// Longest wait for an answer of the gateway; a slow machine takes longer, never another answer.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// First bytes of a control or join stream.
const PREFACE: [u8; 8] = *b"strait\x00\x01";
/// Name in the place of the server's: nobody looks at it.
const SERVER_NAME: &str = "hostile.invalid";

/// Somebody with a CA of its own.
#[derive(Debug)]
pub struct Hostile {
    /// CA, key and store; what is presented is the store's identity.
    pub cluster: TestCluster,
    /// Address it dials from.
    pub from: IpAddr,
}

/// A connection with the endpoint that carries it.
#[derive(Debug)]
pub struct Line {
    /// The connection.
    pub quic: quinn::Connection,
    _endpoint: Endpoint,
}

impl Hostile {
    /// A cluster named `name` with a good leaf for `gw-0`.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            cluster: TestCluster::new(name, UnixTime::now()),
            from: Ipv4Addr::LOCALHOST.into(),
        }
    }

    /// Its trust domain.
    #[must_use]
    pub const fn domain(&self) -> &TrustDomain {
        self.cluster.domain()
    }

    /// Its bundle as SPIFFE JSON: what a `bundleFile` holds.
    #[must_use]
    pub fn bundle(&self) -> String {
        spiffe_json::to_json(&self.cluster.ca.bundle().expect("bundle"))
    }

    /// Trusts the victim, as a peer with static trust would.
    ///
    /// # Panics
    /// If the bundle is not one.
    pub fn learn(&self, domain: &str, json: &str) -> TrustDomain {
        let domain = TrustDomain::parse(domain).expect("trust domain");
        let bundle = spiffe_json::from_json(domain.clone(), json.as_bytes()).expect("bundle");
        let peer = PeerTrust::new(bundle).expect("peer");
        self.cluster
            .store
            .update(|view| view.insert(peer.clone()))
            .expect("not our own domain");
        domain
    }

    /// Dials with the TLS settings as `change` leaves them.
    ///
    /// # Errors
    /// As quinn says. A refused client certificate shows only after the handshake: see [`Line::turned_away`].
    pub async fn dial(
        &self,
        to: SocketAddr,
        victim: &TrustDomain,
        alpn: Alpn,
        change: impl FnOnce(&mut rustls::ClientConfig),
    ) -> Result<Line, ConnectionError> {
        let sink = RefusalSink::new(|_| ());
        let mut tls = client_config(&self.cluster.store, victim.clone(), alpn, sink).expect("TLS");
        change(&mut tls);
        connect(self.from, to, tls).await
    }
}

/// Connects from `from` with these TLS settings.
async fn connect(from: IpAddr, to: SocketAddr, tls: rustls::ClientConfig) -> Result<Line, ConnectionError> {
    let endpoint = Endpoint::client(SocketAddr::new(from, 0)).expect("a UDP socket");
    let quic = QuicClientConfig::try_from(tls).expect("QUIC's cipher suite");
    let config = ClientConfig::new(Arc::new(quic));
    let connecting = endpoint.connect_with(config, to, SERVER_NAME).expect("a dial");
    let quic = timeout(PATIENCE, connecting)
        .await
        .expect("an answer to a handshake")?;
    Ok(Line {
        quic,
        _endpoint: endpoint,
    })
}

impl Line {
    /// Waits until the gateway closes; gives why. Panics if it opens a stream first, or does not close in time.
    pub async fn turned_away(&self) -> ConnectionError {
        let stream = timeout(PATIENCE, async {
            tokio::select! {
                Ok(_) = self.quic.accept_uni() => "uni",
                Ok(_) = self.quic.accept_bi() => "bi",
                _ = self.quic.closed() => "no",
            }
        });
        let came = stream.await.expect("the gateway closes");
        assert_eq!(came, "no", "a stream came before the refusal");
        self.quic.closed().await
    }
}

/// The reason that a close carries, if it is one of ours.
#[must_use]
pub fn reason_of(error: &ConnectionError) -> Option<Reason> {
    let ConnectionError::ApplicationClosed(close) = error else {
        return None;
    };
    u16::try_from(close.error_code.into_inner())
        .ok()
        .and_then(Reason::from_code)
}
