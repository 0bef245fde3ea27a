//! Gateways for tests: real sockets on loopback, real certificates, each worker on its own thread.
#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(unreachable_pub, reason = "a module of each test binary")]

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rustls_pki_types::UnixTime;
use strait_federation_api::{
    ClusterId, InstanceId,
    control::GatewayEvent,
    observation::{TunnelKind, TunnelStatus},
    snapshot::{GatewayAddress, Peer, PeerMode, Snapshot},
};
use strait_trust_bridge::testing::TestCluster;
use strait_tunnel::{
    Links, RecvHalf, SendHalf, StreamAcceptor, StreamError, Tunnel, TunnelConfig, TunnelHub,
};
use tokio::sync::{mpsc, watch};

/// Long enough for any loaded machine; nothing is measured by it.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What a gateway does with accepted streams.
pub type OnStream = Arc<dyn Fn(Arc<Tunnel>, SendHalf, RecvHalf) + Send + Sync>;

struct Acceptor(OnStream);

impl StreamAcceptor for Acceptor {
    fn accept(&self, tunnel: Arc<Tunnel>, send: SendHalf, recv: RecvHalf) {
        (self.0)(tunnel, send, recv);
    }
}

/// Sends back what comes, with its clean end.
pub fn echo() -> OnStream {
    Arc::new(|_, send, recv| {
        tokio::spawn(async move {
            let _ = copy(send, recv).await;
        });
    })
}

pub async fn copy(mut send: SendHalf, mut recv: RecvHalf) -> Result<(), StreamError> {
    let mut chunks: [Bytes; 16] = Default::default();
    while let Some(count) = recv.read_chunks(&mut chunks).await? {
        send.write_chunks(&mut chunks[..count]).await?;
    }
    send.finish()
}

/// One gateway process, as far as tunnels go.
pub struct Gateway {
    pub cluster: TestCluster,
    pub instance: String,
    pub hub: TunnelHub,
    pub events: mpsc::Receiver<GatewayEvent>,
    pub invite_open: Arc<AtomicBool>,
    pub snapshot: watch::Sender<Arc<Snapshot>>,
    pub trust_changes: watch::Sender<u64>,
    threads: Vec<JoinHandle<()>>,
    kill: watch::Sender<bool>,
}

pub struct Options {
    pub workers: u32,
    pub coalesce: bool,
    pub listen: SocketAddr,
    pub on_stream: OnStream,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            workers: 1,
            coalesce: true,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            on_stream: echo(),
        }
    }
}

pub fn trusting(names: &[&str]) -> Vec<TestCluster> {
    let now = UnixTime::now();
    let clusters: Vec<_> = names.iter().map(|name| TestCluster::new(name, now)).collect();
    for one in &clusters {
        for other in &clusters {
            if one.domain() != other.domain() {
                one.trust(other);
            }
        }
    }
    clusters
}

impl Gateway {
    pub fn start(cluster: TestCluster, options: Options) -> Self {
        Self::start_as(cluster, "gw-0", options)
    }

    pub fn start_as(cluster: TestCluster, instance: &str, options: Options) -> Self {
        let (events_in, events) = mpsc::channel(1024);
        let id = cluster.domain().cluster_id().unwrap();
        let (snapshot, snapshots) = watch::channel(Arc::new(Snapshot::empty(id)));
        let (trust_changes, trust_changed) = watch::channel(0);
        let invite_open = Arc::new(AtomicBool::new(false));
        let config = TunnelConfig {
            listen: options.listen,
            workers: options.workers,
            instance: InstanceId::parse(instance).unwrap(),
            cid_key: [1; 32],
            reset_key: [2; 32],
            allow_loopback: true,
            coalesce: options.coalesce,
        };
        let links = Links {
            trust: Arc::clone(&cluster.store),
            trust_changes: trust_changed,
            snapshots,
            events: events_in,
            invite_open: Arc::clone(&invite_open),
        };
        let (hub, workers) = TunnelHub::bind(config, links).unwrap();
        let kill = watch::Sender::new(false);
        let acceptor: Arc<dyn StreamAcceptor> = Arc::new(Acceptor(options.on_stream));
        let threads = workers
            .into_iter()
            .map(|worker| {
                let (acceptor, mut kill) = (Arc::clone(&acceptor), kill.subscribe());
                std::thread::spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread()
                        .enable_all()
                        .build()
                        .unwrap();
                    runtime.block_on(async {
                        tokio::select! {
                            result = worker.run(acceptor) => result.unwrap(),
                            _ = kill.wait_for(|kill| *kill) => {}
                        }
                    });
                    // A killed process says nothing: its sockets are just gone.
                    runtime.shutdown_background();
                })
            })
            .collect();
        Self {
            cluster,
            instance: instance.into(),
            hub,
            events,
            invite_open,
            snapshot,
            trust_changes,
            threads,
            kill,
        }
    }

    pub fn id(&self) -> ClusterId {
        self.cluster.domain().cluster_id().unwrap()
    }

    pub fn address(&self) -> GatewayAddress {
        GatewayAddress {
            host: "127.0.0.1".into(),
            port: self.hub.listen().port(),
        }
    }

    /// As a peer in another gateway's snapshot.
    pub fn as_peer(&self, addresses: Vec<GatewayAddress>) -> Peer {
        Peer {
            cluster: self.id(),
            trust_domain: self.cluster.domain().clone(),
            mode: PeerMode::Active,
            addresses,
            instances: [InstanceId::parse(&self.instance).unwrap()].into(),
            importing: true,
        }
    }

    pub fn set_peer(&self, peer: Peer) {
        self.snapshot.send_modify(|held| {
            let mut snapshot = Snapshot::clone(held);
            snapshot.version += 1;
            snapshot.peers.insert(peer.cluster.clone(), Arc::new(peer));
            *held = Arc::new(snapshot);
        });
    }

    pub fn remove_peer(&self, peer: &ClusterId) {
        self.snapshot.send_modify(|held| {
            let mut snapshot = Snapshot::clone(held);
            snapshot.version += 1;
            snapshot.peers.remove(peer);
            *held = Arc::new(snapshot);
        });
    }

    /// Dials `other`; `other` only accepts.
    pub fn dial(&self, other: &Self) {
        self.set_peer(other.as_peer(vec![other.address()]));
        other.set_peer(self.as_peer(vec![]));
    }

    pub fn usable(&self, peer: &ClusterId) -> Vec<Arc<Tunnel>> {
        let tunnels = self.hub.tunnels().to_peer(peer);
        tunnels
            .iter()
            .filter(|tunnel| tunnel.is_usable())
            .cloned()
            .collect()
    }

    pub async fn tunnel(&self, peer: &ClusterId) -> Arc<Tunnel> {
        eventually("a usable tunnel", || self.usable(peer).into_iter().next()).await
    }

    pub fn connections(&self, kind: TunnelKind) -> Vec<TunnelStatus> {
        let (_, tunnels) = self.hub.status();
        tunnels.into_iter().filter(|tunnel| tunnel.kind == kind).collect()
    }

    /// Tells the gateway that its trust store changed.
    pub fn trust_changed(&self) {
        self.trust_changes.send_modify(|generation| *generation += 1);
    }

    /// Ends without a word, like a killed process.
    pub fn kill(mut self) {
        self.kill.send_replace(true);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.hub.close();
        for thread in self.threads.drain(..) {
            let joined = thread.join();
            if !std::thread::panicking() {
                joined.unwrap();
            }
        }
    }
}

/// Waits for something to become true.
pub async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "still waiting for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Two gateways with a tunnel between them, dialled by the first.
pub async fn pair(first: Options, second: Options) -> (Gateway, Gateway) {
    let mut clusters = trusting(&["east", "west"]).into_iter();
    let east = Gateway::start(clusters.next().unwrap(), first);
    let west = Gateway::start(clusters.next().unwrap(), second);
    east.dial(&west);
    east.tunnel(&west.id()).await;
    west.tunnel(&east.id()).await;
    (east, west)
}

pub async fn read_all(recv: &mut RecvHalf) -> Result<Vec<u8>, StreamError> {
    let mut all = Vec::new();
    let mut chunks: [Bytes; 16] = Default::default();
    while let Some(count) = recv.read_chunks(&mut chunks).await? {
        chunks[..count]
            .iter()
            .for_each(|chunk| all.extend_from_slice(chunk));
    }
    Ok(all)
}

/// One request and its echo.
pub async fn round_trip(tunnel: &Arc<Tunnel>, payload: &[u8]) -> Vec<u8> {
    let (mut send, mut recv) = tunnel.open().await.unwrap();
    send.write_chunk(Bytes::copy_from_slice(payload)).await.unwrap();
    send.finish().unwrap();
    read_all(&mut recv).await.unwrap()
}

pub fn open_invite(gateway: &Gateway) {
    gateway.invite_open.store(true, Ordering::Release);
}
