//! Whole gateways in one process: real sockets and certificates, a path that can be cut, services that talk.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a module of each test binary, which uses its part"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use rustls_pki_types::UnixTime;
use strait_federation_api::{
    ClusterId, Epoch, InstanceId, ServiceKey,
    catalog::{EndpointId, Protocol, ServiceKind, ServicePort, SessionAffinity},
    control::{GatewayEvent, GatewayRequest},
    observation::Observation,
    snapshot::{
        Backend, BackendCluster, Endpoint, Export, ExportPort, GatewayAddress, HealthCheck, Import, Peer,
        PeerMode, Snapshot,
    },
};
use strait_gateway::{AccessLog, Gateway, GatewayConfig, GatewayLinks, Limits};
use strait_trust_bridge::testing::TestCluster;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream, UdpSocket},
    sync::{mpsc, watch},
};

/// Long enough for any loaded machine; nothing is measured by it.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// The port every test service has.
pub const PORT: u16 = 8080;

pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("in time")
}

pub fn id(name: &str) -> ClusterId {
    ClusterId::parse(name).unwrap()
}

pub fn key(name: &str) -> ServiceKey {
    ServiceKey::parse("demo", name).unwrap()
}

/// One cluster's gateway.
pub struct Node {
    pub name: String,
    pub cluster: TestCluster,
    pub gateway: Gateway,
    pub socks: SocketAddr,
    pub observed: Arc<Mutex<Vec<Observation>>>,
    pub requests: mpsc::Sender<GatewayRequest>,
    snapshot: watch::Sender<Arc<Snapshot>>,
    _trust_changes: watch::Sender<u64>,
}

/// Clusters that all trust each other.
pub async fn nodes(names: &[&str], workers: u32) -> Vec<Node> {
    nodes_with(names, workers, Limits::default()).await
}

pub async fn nodes_with(names: &[&str], workers: u32, limits: Limits) -> Vec<Node> {
    let now = UnixTime::now();
    let clusters: Vec<_> = names.iter().map(|name| TestCluster::new(name, now)).collect();
    for one in &clusters {
        for other in clusters.iter().filter(|other| other.domain() != one.domain()) {
            one.trust(other);
        }
    }
    let mut nodes = vec![];
    for (name, cluster) in names.iter().zip(clusters) {
        nodes.push(Node::start(name, cluster, workers, limits).await);
    }
    nodes
}

impl Node {
    async fn start(name: &str, cluster: TestCluster, workers: u32, limits: Limits) -> Self {
        let (events, mut received) = mpsc::channel(256);
        let (requests, requested) = mpsc::channel(8);
        let mut empty = Snapshot::empty(id(name));
        empty.epoch = Epoch(1);
        let (snapshot, snapshots) = watch::channel(Arc::new(empty));
        let (trust_changes, trust_changed) = watch::channel(0);
        let config = GatewayConfig {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            workers,
            instance: InstanceId::parse("gw-0").unwrap(),
            cid_key: [1; 32],
            reset_key: [2; 32],
            allow_loopback: true,
            socks: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
            limits,
            access_log: AccessLog::Failed,
        };
        let links = GatewayLinks {
            trust: Arc::clone(&cluster.store),
            trust_changes: trust_changed,
            snapshots,
            events,
            requests: requested,
            invite_open: Arc::new(AtomicBool::new(false)),
        };
        let gateway = Gateway::start(config, links).unwrap();
        let observed = Arc::new(Mutex::new(vec![]));
        let seen = Arc::clone(&observed);
        tokio::spawn(async move {
            // Control streams are kept open: dropping one closes its connection.
            let mut control = vec![];
            while let Some(event) = received.recv().await {
                match event {
                    GatewayEvent::Observed(observation) => seen.lock().push(observation),
                    other => control.push(other),
                }
            }
        });
        let socks = gateway.socks().unwrap();
        Self {
            name: name.to_owned(),
            cluster,
            gateway,
            socks,
            observed,
            requests,
            snapshot,
            _trust_changes: trust_changes,
        }
    }

    /// Changes the snapshot.
    pub fn change(&self, change: impl FnOnce(&mut Snapshot)) {
        self.snapshot.send_modify(|held| {
            let mut next = Snapshot::clone(held);
            change(&mut next);
            next.version += 1;
            *held = Arc::new(next);
        });
    }

    /// Knows `other`; dials it at `address`, if there is one.
    pub fn peer(&self, other: &Self, address: Option<SocketAddr>) {
        let peer = Peer {
            cluster: id(&other.name),
            trust_domain: other.cluster.domain().clone(),
            mode: PeerMode::Active,
            addresses: address.iter().map(|a| gateway_address(*a)).collect(),
            instances: BTreeSet::new(),
            importing: address.is_some(),
        };
        self.change(|s| drop(s.peers.insert(peer.cluster.clone(), Arc::new(peer))));
    }

    /// Exports a service with these endpoints to these peers.
    pub fn export(&self, service: &str, endpoints: &[SocketAddr], to: &[&str], health: HealthCheck) {
        let endpoints = endpoints.iter().enumerate().map(|(i, address)| Endpoint {
            id: EndpointId(format!("e{i}").parse().unwrap()),
            address: *address,
            ready: true,
            hostname: None,
            zone: None,
        });
        let export = Export {
            service: key(service),
            ports: vec![ExportPort {
                name: None,
                protocol: Protocol::Tcp,
                port: PORT,
                endpoints: endpoints.collect(),
            }],
            allowed: to.iter().map(|name| id(name)).collect(),
            session_affinity: SessionAffinity::Unset,
            health,
        };
        self.change(|s| drop(s.exports.insert(key(service), Arc::new(export))));
    }

    /// Imports a service from peers, with a priority each.
    pub fn import(&self, service: &str, from: &[(&str, u16)], vip: Option<SocketAddr>) {
        let backends = from.iter().map(|(name, priority)| Backend {
            cluster: if *name == self.name {
                BackendCluster::Local
            } else {
                BackendCluster::Peer(id(name))
            },
            remote: key(service),
            priority: *priority,
            weight: 100,
            ports: vec![(Protocol::Tcp, PORT)],
            ready: 1,
            locality: None,
            members: vec![],
            vips: vec![],
            replayable_ports: vec![],
            stale: false,
        });
        let import = Import {
            service: key(service),
            kind: ServiceKind::ClusterSetIp,
            ports: vec![ServicePort {
                name: None,
                protocol: Protocol::Tcp,
                port: PORT,
                app_protocol: None,
            }],
            vips: vip.iter().map(SocketAddr::ip).collect(),
            session_affinity: SessionAffinity::Unset,
            backends: backends.collect(),
        };
        self.change(|s| drop(s.imports.insert(key(service), Arc::new(import))));
    }

    /// A SOCKS client of an imported service: the connection, or the reply code that refused it.
    pub async fn connect(&self, service: &str) -> Result<TcpStream, u8> {
        let name = format!("{service}.demo.svc.clusterset.local");
        let mut tcp = TcpStream::connect(self.socks).await.map_err(|_| 0xff)?;
        let mut hello = vec![5, 1, 0, 5, 1, 0, 3, u8::try_from(name.len()).unwrap()];
        hello.extend(name.as_bytes());
        hello.extend(PORT.to_be_bytes());
        tcp.write_all(&hello).await.map_err(|_| 0xfe)?;
        let mut reply = [0; 12];
        tcp.read_exact(&mut reply).await.map_err(|_| 0xfd)?;
        if reply[3] == 0 { Ok(tcp) } else { Err(reply[3]) }
    }

    /// As [`connect`](Self::connect) once the first tunnel is up.
    pub async fn connect_when_up(&self, service: &str) -> TcpStream {
        within(async {
            loop {
                match self.connect(service).await {
                    Ok(tcp) => return tcp,
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        })
        .await
    }

    /// Waits for an observation.
    pub async fn observes(&self, wanted: impl Fn(&Observation) -> bool) {
        within(async {
            while !self.observed.lock().iter().any(&wanted) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }

    /// Waits until no flow is left.
    pub async fn quiet(&self) {
        within(async {
            while self.gateway.flows() > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }

    pub fn metrics(&self) -> String {
        let mut registry = prometheus_client::registry::Registry::default();
        self.gateway.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text
    }
}

fn gateway_address(address: SocketAddr) -> GatewayAddress {
    GatewayAddress {
        host: address.ip().to_string().into(),
        port: address.port(),
    }
}

/// East imports `greeter` from west, which exports it with these endpoints.
pub async fn pair(endpoints: &[SocketAddr]) -> (Node, Node) {
    let mut nodes = nodes(&["east", "west"], 2).await.into_iter();
    let (east, west) = (nodes.next().unwrap(), nodes.next().unwrap());
    west.peer(&east, None);
    west.export("greeter", endpoints, &["east"], HealthCheck::Off);
    east.peer(&west, Some(west.gateway.listen()));
    east.import("greeter", &[("west", 1)], None);
    (east, west)
}

/// East imports `greeter` from west first and from north second; the way to west can be cut.
pub async fn three(west: SocketAddr, north: SocketAddr) -> (Node, Node, Node, Path) {
    let mut all = nodes(&["east", "west", "north"], 2).await.into_iter();
    let mut next = || all.next().unwrap();
    let (east_node, west_node, north_node) = (next(), next(), next());
    for (node, endpoint) in [(&west_node, west), (&north_node, north)] {
        node.peer(&east_node, None);
        node.export("greeter", &[endpoint], &["east"], HealthCheck::Off);
    }
    let path = Path::to(west_node.gateway.listen()).await;
    east_node.peer(&west_node, Some(path.address));
    east_node.peer(&north_node, Some(north_node.gateway.listen()));
    east_node.import("greeter", &[("west", 1), ("north", 2)], None);
    (east_node, west_node, north_node, path)
}

/// A listener for a service that the test plays itself.
pub async fn endpoint() -> (TcpListener, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    // A full accept queue makes the kernel forget connections that their client believes in: a server that speaks first never does.
    let listener = socket.listen(4096).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// A service that says its name and then echoes.
pub async fn greeter(name: &'static str) -> SocketAddr {
    let (listener, address) = endpoint().await;
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = tcp.write_all(name.as_bytes()).await;
                let (mut r, mut w) = tcp.split();
                let _ = tokio::io::copy(&mut r, &mut w).await;
                let _ = w.shutdown().await;
            });
        }
    });
    address
}

/// Reads the name a [`greeter`] says first; all names have four letters.
pub async fn name_of(tcp: &mut TcpStream) -> std::io::Result<String> {
    let mut name = [0; 4];
    tcp.read_exact(&mut name).await?;
    Ok(String::from_utf8_lossy(&name).into_owned())
}

pub fn is_error(result: &std::io::Result<usize>) -> bool {
    matches!(result, Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset)
}

/// A UDP path that can be cut, each way by itself: packets vanish, nobody is told.
pub struct Path {
    pub address: SocketAddr,
    there: Arc<AtomicBool>,
    back: Arc<AtomicBool>,
}

impl Path {
    pub async fn to(target: SocketAddr) -> Self {
        let front = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let address = front.local_addr().unwrap();
        let there = Arc::new(AtomicBool::new(false));
        let back_cut = Arc::new(AtomicBool::new(false));
        let (there_is_cut, back_is_cut) = (Arc::clone(&there), Arc::clone(&back_cut));
        tokio::spawn(async move {
            let mut backs: BTreeMap<SocketAddr, Arc<UdpSocket>> = BTreeMap::new();
            let mut buffer = vec![0; 65_536];
            while let Ok((len, from)) = front.recv_from(&mut buffer).await {
                let back = match backs.get(&from) {
                    Some(back) => Arc::clone(back),
                    None => {
                        let back = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
                        back.connect(target).await.unwrap();
                        let (out, home, cut) =
                            (Arc::clone(&back), Arc::clone(&front), Arc::clone(&back_is_cut));
                        tokio::spawn(answer(out, home, from, cut));
                        backs.insert(from, Arc::clone(&back));
                        back
                    }
                };
                if !there_is_cut.load(Ordering::Relaxed) {
                    let _ = back.send(&buffer[..len]).await;
                }
            }
        });
        Self {
            address,
            there,
            back: back_cut,
        }
    }

    pub fn cut(&self, cut: bool) {
        self.cut_ways(cut, cut);
    }

    pub fn cut_ways(&self, there: bool, back: bool) {
        self.there.store(there, Ordering::Relaxed);
        self.back.store(back, Ordering::Relaxed);
    }
}

async fn answer(back: Arc<UdpSocket>, front: Arc<UdpSocket>, to: SocketAddr, cut: Arc<AtomicBool>) {
    let mut buffer = vec![0; 65_536];
    loop {
        match back.recv(&mut buffer).await {
            Ok(len) if !cut.load(Ordering::Relaxed) => drop(front.send_to(&buffer[..len], to).await),
            // A refused port reports here; the path itself goes on.
            Ok(_) | Err(_) => {}
        }
    }
}
