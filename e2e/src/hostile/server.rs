//! Servers that a gateway is made to dial: one with a bad identity, and a relay that stands in the middle.
//!
//! Owns their endpoints and what they saw: a connection that was let through, a stream that was opened.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use quinn::{Endpoint, ServerConfig, crypto::rustls::QuicServerConfig};
use strait_trust_bridge::tls::{JoinGate, RefusalSink, server_config};
use tokio::task::JoinHandle;

use super::{Hostile, join::open_join};

/// A server with the identity of a [`Hostile`]. Ends when dropped.
#[derive(Debug)]
pub struct BadServer {
    /// Where it listens.
    pub address: SocketAddr,
    seen: Arc<Seen>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Seen {
    dials: AtomicU64,
    streams: AtomicU64,
}

impl BadServer {
    /// Connections begun, whatever became of them.
    #[must_use]
    pub fn dials(&self) -> u64 {
        self.seen.dials.load(SeqCst)
    }

    /// Streams that a dialler opened: none, if it refused us.
    #[must_use]
    pub fn streams(&self) -> u64 {
        self.seen.streams.load(SeqCst)
    }
}

impl Drop for BadServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Hostile {
    fn listen(&self, at: SocketAddr) -> Endpoint {
        let sink = RefusalSink::new(|_| ());
        let tls = server_config(&self.cluster.store, JoinGate::new(|| true), sink).expect("TLS");
        let quic = QuicServerConfig::try_from(tls).expect("QUIC's cipher suite");
        Endpoint::server(ServerConfig::with_crypto(Arc::new(quic)), at).expect("a UDP socket")
    }

    /// Listens and takes whatever comes, saying nothing.
    ///
    /// # Panics
    /// If it cannot listen.
    #[must_use]
    pub fn serve(&self, at: SocketAddr) -> BadServer {
        let endpoint = self.listen(at);
        let address = endpoint.local_addr().expect("an address");
        let seen = Arc::<Seen>::default();
        let task = tokio::spawn(accept_all(endpoint, Arc::clone(&seen)));
        BadServer { address, seen, task }
    }
}

async fn accept_all(endpoint: Endpoint, seen: Arc<Seen>) {
    while let Some(incoming) = endpoint.accept().await {
        seen.dials.fetch_add(1, SeqCst);
        let seen = Arc::clone(&seen);
        tokio::spawn(async move {
            let Ok(quic) = incoming.await else { return };
            let came = tokio::select! {
                uni = quic.accept_uni() => uni.is_ok(),
                bi = quic.accept_bi() => bi.is_ok(),
            };
            if came {
                seen.streams.fetch_add(1, SeqCst);
            }
            quic.closed().await;
        });
    }
}

/// Somebody between a joiner and an inviter: ends the joiner's TLS with its own root, opens its own to the inviter, and passes
/// on what is said. Ends when dropped.
#[derive(Debug)]
pub struct Relay {
    /// Where it listens.
    pub address: SocketAddr,
    passed: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Relay {
    /// Join streams that came to be passed on.
    #[must_use]
    pub fn passed(&self) -> u64 {
        self.passed.load(SeqCst)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Hostile {
    /// Stands at `at`, between whoever dials it and the inviter at `to`.
    ///
    /// # Panics
    /// If it cannot listen.
    #[must_use]
    pub fn relay(&self, at: SocketAddr, to: SocketAddr, pin: strait_trust_bridge::RootPin) -> Relay {
        let endpoint = self.listen(at);
        let address = endpoint.local_addr().expect("an address");
        let passed = Arc::<AtomicU64>::default();
        let (count, from) = (Arc::clone(&passed), self.from);
        let task = tokio::spawn(async move {
            while let Some(incoming) = endpoint.accept().await {
                let (count, pin) = (Arc::clone(&count), pin.clone());
                tokio::spawn(async move {
                    let Ok(quic) = incoming.await else { return };
                    let Ok((mut send, mut recv)) = quic.accept_bi().await else {
                        return;
                    };
                    count.fetch_add(1, SeqCst);
                    let Ok((line, mut far_send, mut far_recv)) = open_join(from, to, pin).await else {
                        return;
                    };
                    let _ = tokio::join!(
                        tokio::io::copy(&mut recv, &mut far_send),
                        tokio::io::copy(&mut far_recv, &mut send),
                    );
                    drop(line);
                });
            }
        });
        Relay {
            address,
            passed,
            task,
        }
    }
}
