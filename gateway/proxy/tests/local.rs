//! Clients of VIP and SOCKS listeners against real endpoints of the same cluster: every way a flow can begin and end, without a tunnel.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use strait_federation_api::{
    ClusterId, Hostname, Reason, ServiceKey,
    catalog::{EndpointId, Protocol, ServiceKind, ServicePort, SessionAffinity},
    snapshot::{Backend, BackendCluster, Endpoint, Export, ExportPort, HealthCheck, Import, Snapshot},
};
use strait_proxy::{Ended, Entry, FlowInfo, Limits, Recorder, Shared, View, Worker, accept_loop, listen};
use strait_tunnel::Tunnels;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const VIP: [u8; 4] = [127, 83, 9, 1];
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Default)]
struct Log(Mutex<Vec<(Ended, bool)>>);

impl Recorder for Log {
    fn established(&self, _: &FlowInfo) {}
    fn moved(&self, _: &FlowInfo, _: u64, _: u64) {}
    fn ended(&self, ended: &Ended, established: bool) {
        self.0.lock().unwrap().push((ended.clone(), established));
    }
    fn refused(&self, _: SocketAddr, _: &ClusterId, _: Reason) {}
}

impl Log {
    /// The next flow that ended.
    async fn next(&self) -> (Ended, bool) {
        tokio::time::timeout(PATIENCE, async {
            loop {
                if let Some(last) = self.0.lock().unwrap().pop() {
                    return last;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .unwrap()
    }
}

struct Cluster {
    vip: SocketAddr,
    socks: SocketAddr,
    log: Arc<Log>,
    worker: Arc<Worker>,
}

fn key() -> ServiceKey {
    ServiceKey::parse("demo", "greeter").unwrap()
}

/// One cluster with one import that its own endpoints serve.
fn cluster(endpoints: &[SocketAddr], limits: Limits) -> Cluster {
    let vip = listen::bind(SocketAddr::from((VIP, 0)), 1, false).unwrap();
    let port = vip.address.port();
    let mut snapshot = Snapshot::empty(ClusterId::parse("east").unwrap());
    let endpoints = endpoints.iter().enumerate().map(|(i, address)| Endpoint {
        id: EndpointId(Hostname::parse(&format!("e{i}")).unwrap()),
        address: *address,
        ready: true,
        hostname: None,
        zone: None,
    });
    let export = Export {
        service: key(),
        ports: vec![ExportPort {
            name: None,
            protocol: Protocol::Tcp,
            port,
            endpoints: endpoints.collect(),
        }],
        allowed: BTreeSet::new(),
        session_affinity: SessionAffinity::Unset,
        health: HealthCheck::Off,
    };
    let import = Import {
        service: key(),
        kind: ServiceKind::ClusterSetIp,
        ports: vec![ServicePort {
            name: None,
            protocol: Protocol::Tcp,
            port,
            app_protocol: None,
        }],
        vips: vec![vip.address.ip()],
        session_affinity: SessionAffinity::Unset,
        backends: vec![Backend {
            cluster: BackendCluster::Local,
            remote: key(),
            priority: 0,
            weight: 1,
            ports: vec![(Protocol::Tcp, port)],
            ready: 1,
            locality: None,
            members: vec![],
            vips: vec![],
            replayable_ports: vec![],
            stale: false,
        }],
    };
    snapshot.exports.insert(key(), Arc::new(export));
    snapshot.imports.insert(key(), Arc::new(import));
    let log = Arc::new(Log::default());
    let view = View::new(Arc::new(snapshot), None);
    let shared = Shared::new(view, Tunnels::default(), log.clone(), limits, 100);
    let worker = Worker::new(0, shared);
    let socks = listen::bind(SocketAddr::from(([127, 0, 0, 1], 0)), 1, false).unwrap();
    let (vip_address, socks_address) = (vip.address, socks.address);
    for (bound, entry) in [(vip, Entry::Vip(VIP.into(), port)), (socks, Entry::Socks)] {
        for socket in bound.sockets {
            tokio::spawn(accept_loop(worker.clone(), socket, entry));
        }
    }
    tokio::spawn(worker.clone().sweep());
    Cluster {
        vip: vip_address,
        socks: socks_address,
        log,
        worker,
    }
}

async fn endpoint() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

async fn pair(cluster: &Cluster, listener: &TcpListener) -> (TcpStream, TcpStream) {
    let (client, server) = tokio::join!(TcpStream::connect(cluster.vip), listener.accept());
    (client.unwrap(), server.unwrap().0)
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("in time")
}

#[tokio::test]
async fn bytes_and_half_close_pass_both_ways() {
    let (listener, address) = endpoint().await;
    let cluster = cluster(&[address], Limits::default());
    let (mut client, mut server) = pair(&cluster, &listener).await;
    let big: Vec<u8> = (0..3_000_000u32).map(|i| (i / 7) as u8).collect();
    let sent = big.clone();
    let upload = tokio::spawn(async move {
        client.write_all(&sent).await.unwrap();
        client.shutdown().await.unwrap();
        let mut answer = vec![];
        client.read_to_end(&mut answer).await.unwrap();
        answer
    });
    let mut got = vec![];
    within(server.read_to_end(&mut got)).await.unwrap();
    assert!(got == big, "byte-identical");
    // The request has ended; the answer is still to come.
    server.write_all(b"answer").await.unwrap();
    server.shutdown().await.unwrap();
    assert_eq!(within(upload).await.unwrap(), b"answer");
    let (ended, established) = cluster.log.next().await;
    assert_eq!((ended.reason, established), (None, true));
    assert_eq!((ended.bytes_up, ended.bytes_down), (3_000_000, 6));
}

#[tokio::test]
async fn the_server_may_speak_first() {
    let (listener, address) = endpoint().await;
    let cluster = cluster(&[address], Limits::default());
    let (mut client, mut server) = pair(&cluster, &listener).await;
    server.write_all(b"220 ready").await.unwrap();
    let mut greeting = [0; 9];
    within(client.read_exact(&mut greeting)).await.unwrap();
    assert_eq!(&greeting, b"220 ready");
}

fn is_reset(result: std::io::Result<usize>) -> bool {
    result.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset)
}

#[tokio::test]
async fn a_reset_on_one_side_is_a_reset_on_the_other() {
    let (listener, address) = endpoint().await;
    let cluster = cluster(&[address], Limits::default());
    for client_resets in [true, false] {
        let (mut client, mut server) = pair(&cluster, &listener).await;
        // Only an answered flow has two sides to reset.
        server.write_all(b"!").await.unwrap();
        within(client.read_exact(&mut [0; 1])).await.unwrap();
        let (resets, mut sees) = if client_resets {
            (client, server)
        } else {
            (server, client)
        };
        resets.set_zero_linger().unwrap();
        drop(resets);
        assert!(is_reset(within(sees.read(&mut [0; 8])).await));
        assert_eq!(cluster.log.next().await.0.reason, Some(Reason::PeerReset));
    }
}

#[tokio::test]
async fn a_client_that_is_gone_after_its_half_close_is_noticed() {
    let (listener, address) = endpoint().await;
    let cluster = cluster(&[address], Limits::default());
    let (mut client, mut server) = pair(&cluster, &listener).await;
    client.shutdown().await.unwrap();
    assert_eq!(within(server.read(&mut [0; 8])).await.unwrap(), 0);
    client.set_zero_linger().unwrap();
    drop(client);
    // The server says nothing, so only the socket's error can tell.
    assert_eq!(within(cluster.log.next()).await.0.reason, Some(Reason::PeerReset));
}

#[tokio::test]
async fn a_flow_that_is_ended_is_reset_never_a_clean_end() {
    let (listener, address) = endpoint().await;
    let cluster = cluster(&[address], Limits::default());
    let (mut client, mut server) = pair(&cluster, &listener).await;
    client.write_all(b"x").await.unwrap();
    within(server.read_exact(&mut [0; 1])).await.unwrap();
    cluster.worker.end_all(Reason::StalledReader);
    assert!(is_reset(within(client.read(&mut [0; 8])).await));
    assert!(is_reset(within(server.read(&mut [0; 8])).await));
    assert_eq!(cluster.log.next().await.0.reason, Some(Reason::StalledReader));
}

#[tokio::test]
async fn an_idle_flow_ends() {
    let (listener, address) = endpoint().await;
    let limits = Limits {
        idle: Duration::from_millis(50),
        ..Limits::default()
    };
    let cluster = cluster(&[address], limits);
    let (mut client, _server) = pair(&cluster, &listener).await;
    assert!(is_reset(within(client.read(&mut [0; 8])).await));
    assert_eq!(cluster.log.next().await.0.reason, Some(Reason::IdleTimeout));
}

#[tokio::test]
async fn a_dead_endpoint_is_passed_over_and_a_dead_service_resets() {
    let (listener, alive) = endpoint().await;
    let (gone, dead) = endpoint().await;
    drop(gone);
    let both = cluster(&[dead, alive], Limits::default());
    for _ in 0..20 {
        let (mut client, mut server) = pair(&both, &listener).await;
        server.write_all(b"!").await.unwrap();
        within(client.read_exact(&mut [0; 1])).await.unwrap();
    }
    let cluster = cluster(&[dead], Limits::default());
    let mut client = TcpStream::connect(cluster.vip).await.unwrap();
    assert!(is_reset(within(client.read(&mut [0; 8])).await));
    let (ended, established) = cluster.log.next().await;
    assert_eq!((ended.reason, established), (Some(Reason::ConnectFailed), false));
}

async fn socks(cluster: &Cluster, name: &str, port: u16) -> (TcpStream, u8) {
    let mut tcp = TcpStream::connect(cluster.socks).await.unwrap();
    let mut hello = vec![5, 1, 0, 5, 1, 0, 3, u8::try_from(name.len()).unwrap()];
    hello.extend(name.as_bytes());
    hello.extend(port.to_be_bytes());
    // Payload right behind the handshake must not be eaten.
    hello.extend(b"payload");
    tcp.write_all(&hello).await.unwrap();
    let mut reply = [0; 12];
    within(tcp.read_exact(&mut reply)).await.unwrap();
    assert_eq!(reply[..3], [5, 0, 5]);
    (tcp, reply[3])
}

#[tokio::test]
async fn socks_reaches_names_of_ours_and_nothing_else() {
    let (listener, address) = endpoint().await;
    let cluster = cluster(&[address], Limits::default());
    let port = cluster.vip.port();
    let vip = cluster.vip.ip().to_string();
    for name in [
        "greeter.demo.svc.clusterset.local",
        "GREETER.demo.svc.clusterset.local.",
        "greeter.demo.svc.east.clusters.strait.internal",
        &vip,
    ] {
        let ((_client, code), accepted) = tokio::join!(socks(&cluster, name, port), listener.accept());
        assert_eq!(code, 0, "{name}");
        let mut payload = [0; 7];
        within(accepted.unwrap().0.read_exact(&mut payload))
            .await
            .unwrap();
        assert_eq!(&payload, b"payload");
    }
    let open_proxy = address.ip().to_string();
    for (name, port) in [
        ("other.demo.svc.clusterset.local", port),
        ("example.org", 80),
        (open_proxy.as_str(), address.port()),
        ("greeter.demo.svc.clusterset.local", 1),
        ("greeter.demo.svc.west.clusters.strait.internal", port),
    ] {
        let (mut client, code) = socks(&cluster, name, port).await;
        assert_eq!(code, 4, "{name}");
        let end = within(client.read(&mut [0; 1])).await;
        assert!(matches!(end, Ok(0) | Err(_)));
    }
}

#[tokio::test]
async fn many_at_once_and_no_more_than_allowed() {
    let (listener, address) = endpoint().await;
    let cluster = cluster(&[address], Limits::default());
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut r, mut w) = tcp.split();
                tokio::io::copy(&mut r, &mut w).await
            });
        }
    });
    let vip = cluster.vip;
    let mut clients = vec![];
    for i in 0..100u32 {
        let mut tcp = TcpStream::connect(vip).await.unwrap();
        tcp.write_all(&i.to_be_bytes()).await.unwrap();
        let mut echo = [0; 4];
        within(tcp.read_exact(&mut echo)).await.unwrap();
        assert_eq!(echo, i.to_be_bytes());
        clients.push(tcp);
    }
    // The place of one more is taken.
    let mut over = TcpStream::connect(vip).await.unwrap();
    assert!(is_reset(within(over.read(&mut [0; 1])).await));
    assert_eq!(cluster.log.next().await.0.reason, Some(Reason::Overloaded));
    drop(clients);
    within(async {
        while cluster.worker.shared().flows() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}
