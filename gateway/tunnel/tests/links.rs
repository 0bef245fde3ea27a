//! Life and death of links: drain, loss, trust, suspension, control, join, probes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed"
)]

mod common;

use std::{
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use common::{Gateway, Options, PATIENCE, eventually, open_invite, pair, round_trip, trusting};
use rustls_pki_types::UnixTime;
use strait_federation_api::{
    Reason,
    control::{ControlStream, GatewayEvent, GatewayRequest, JoinStream, Role},
    observation::{LinkState, Observation, TunnelKind},
    snapshot::{GatewayAddress, PeerMode},
};
use strait_trust_bridge::{DEFAULT_LEAF_TTL, RootFingerprint};
use strait_tunnel::{OpenError, Phase, Tunnel};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::oneshot,
    time::timeout,
};

fn options() -> Options {
    Options::default()
}

async fn next_event<T>(gateway: &mut Gateway, mut pick: impl FnMut(GatewayEvent) -> Option<T>) -> T {
    timeout(PATIENCE, async {
        loop {
            let event = gateway.events.recv().await.expect("events");
            if let Some(found) = pick(event) {
                return found;
            }
        }
    })
    .await
    .expect("an event in time")
}

async fn control(gateway: &mut Gateway) -> ControlStream {
    next_event(gateway, |event| match event {
        GatewayEvent::Control(stream) => Some(stream),
        _ => None,
    })
    .await
}

async fn refusal(gateway: &mut Gateway) -> Reason {
    next_event(gateway, |event| match event {
        GatewayEvent::Observed(Observation::Refused { reason, .. }) => Some(reason),
        _ => None,
    })
    .await
}

async fn link(gateway: &mut Gateway, wanted: impl Fn(&LinkState) -> bool) -> LinkState {
    next_event(gateway, |event| match event {
        GatewayEvent::Observed(Observation::Link { state, .. }) if wanted(&state) => Some(state),
        _ => None,
    })
    .await
}

async fn phase(tunnel: &Arc<Tunnel>, wanted: Phase) {
    eventually("a phase", || (tunnel.phase() == wanted).then_some(())).await;
}

#[tokio::test]
async fn a_draining_gateway_refuses_new_streams_and_lets_running_ones_end() {
    let (east, west) = pair(options(), options()).await;
    let (out, back) = (east.tunnel(&west.id()).await, west.tunnel(&east.id()).await);
    let (mut send, mut recv) = out.open().await.unwrap();
    send.write_chunk(Bytes::from_static(b"before")).await.unwrap();
    // Its echo shows that the stream was taken: one that crosses the drain message is refused.
    let mut chunks = [Bytes::new()];
    assert_eq!(recv.read_chunks(&mut chunks).await.unwrap(), Some(1));
    assert_eq!(&chunks[0][..], b"before");
    let draining = {
        let hub = west.hub.clone();
        tokio::spawn(async move { hub.drain(PATIENCE).await })
    };
    phase(&out, Phase::Draining).await;
    assert_eq!(out.open().await.unwrap_err(), OpenError::Draining);
    assert_eq!(back.open().await.unwrap_err(), OpenError::Draining);
    assert!(!draining.is_finished(), "a running stream is waited for");
    send.write_chunk(Bytes::from_static(b" and after")).await.unwrap();
    send.finish().unwrap();
    assert_eq!(common::read_all(&mut recv).await.unwrap(), b" and after");
    drop((send, recv));
    timeout(PATIENCE, draining).await.unwrap().unwrap();
    phase(&out, Phase::Closed).await;
}

#[tokio::test]
async fn drain_ends_with_its_grace_when_a_stream_does_not() {
    let (east, west) = pair(options(), options()).await;
    let out = east.tunnel(&west.id()).await;
    let (mut send, _recv) = out.open().await.unwrap();
    send.write_chunk(Bytes::from_static(b"x")).await.unwrap();
    west.hub.drain(Duration::from_millis(300)).await;
    west.hub.close();
    phase(&out, Phase::Closed).await;
    assert_eq!(
        send.write_chunk(Bytes::from_static(b"y"))
            .await
            .unwrap_err()
            .reason(),
        Reason::TunnelLost
    );
}

#[tokio::test]
async fn a_killed_peer_is_noticed_and_dialled_again_when_it_is_back() {
    let (east, west) = pair(options(), options()).await;
    let tunnel = east.tunnel(&west.id()).await;
    round_trip(&tunnel, b"alive").await;
    let listen = west.hub.listen();
    let (id, cluster) = (west.id(), west.cluster.ca.clone());
    let store = Arc::clone(&west.cluster.store);
    west.kill();
    let killed = Instant::now();
    timeout(PATIENCE, tunnel.lost())
        .await
        .expect("the loss is noticed");
    assert!(!tunnel.is_usable());
    assert!(matches!(
        tunnel.open().await,
        Err(OpenError::NotUsable | OpenError::Lost)
    ));
    eprintln!("noticed after {:?}", killed.elapsed());

    let key = strait_trust_bridge::GatewayKey::generate().unwrap();
    let again = strait_trust_bridge::testing::TestCluster {
        ca: cluster,
        store,
        key,
    };
    again.renew("gw-0", DEFAULT_LEAF_TTL, UnixTime::now());
    let west = Gateway::start(again, Options { listen, ..options() });
    west.set_peer(east.as_peer(vec![]));
    assert_eq!(west.id(), id);
    let tunnel = east.tunnel(&id).await;
    assert_eq!(round_trip(&tunnel, b"again").await, b"again");
}

#[tokio::test]
async fn a_black_hole_makes_a_used_tunnel_suspect_and_life_makes_it_usable_again() {
    let mut clusters = trusting(&["east", "west"]).into_iter();
    let east = Gateway::start(clusters.next().unwrap(), options());
    let west = Gateway::start(clusters.next().unwrap(), options());
    let middle = Middle::start(west.hub.listen());
    east.set_peer(west.as_peer(vec![middle.address()]));
    west.set_peer(east.as_peer(vec![]));
    let tunnel = east.tunnel(&west.id()).await;
    round_trip(&tunnel, b"through the middle").await;
    middle.block(true);
    timeout(PATIENCE, tunnel.lost()).await.unwrap();
    assert_eq!(tunnel.phase(), Phase::Suspect);
    assert!(tunnel.silent_for(Instant::now()) >= Duration::from_millis(200));
    middle.block(false);
    phase(&tunnel, Phase::Usable).await;
    assert_eq!(round_trip(&tunnel, b"again").await, b"again");
    assert!(east.hub.counters().suspects.get() >= 1);
}

#[tokio::test]
async fn a_nat_rebinding_moves_the_connection_to_another_socket_and_it_lives_on() {
    let mut clusters = trusting(&["east", "west"]).into_iter();
    let east = Gateway::start(clusters.next().unwrap(), options());
    let west = Gateway::start(
        clusters.next().unwrap(),
        Options {
            workers: 4,
            ..options()
        },
    );
    let middle = Middle::start(west.hub.listen());
    east.set_peer(west.as_peer(vec![middle.address()]));
    west.set_peer(east.as_peer(vec![]));
    let tunnel = east.tunnel(&west.id()).await;
    round_trip(&tunnel, b"first port").await;
    let accepted = west.tunnel(&east.id()).await;
    let before = accepted.remote();
    // Sixteen ports over four workers: all of them stay on the owner's with probability 4^-16.
    for port in 0..16 {
        middle.rebind();
        assert_eq!(
            round_trip(&tunnel, b"another port").await,
            b"another port",
            "rebinding {port}"
        );
    }
    assert!(tunnel.is_usable() && accepted.is_usable());
    assert_ne!(accepted.remote(), before);
    assert!(west.hub.steered().0 > 0, "no packet landed on a foreign worker");
    assert_eq!(east.usable(&west.id()).len(), 1, "it is the same connection");
}

#[tokio::test]
async fn a_removed_root_ends_live_tunnels_with_its_reason() {
    let (east, mut west) = pair(options(), options()).await;
    let tunnel = west.tunnel(&east.id()).await;
    west.cluster
        .store
        .update(|view| {
            view.remove(east.cluster.domain());
            Ok(())
        })
        .unwrap();
    let removed = Instant::now();
    west.trust_changed();
    phase(&tunnel, Phase::Closed).await;
    assert!(
        removed.elapsed() < Duration::from_secs(5),
        "{:?}",
        removed.elapsed()
    );
    assert_eq!(refusal(&mut west).await, Reason::FederationRemoved);
    eventually("the connections to be gone", || {
        west.hub.status().1.is_empty().then_some(())
    })
    .await;
    // The dialler is refused from now on. (Control and data connection were each reported above.)
    while refusal(&mut west).await != Reason::UnknownTrustDomain {}
}

#[tokio::test]
async fn a_change_of_trust_that_does_not_touch_a_peer_leaves_its_tunnels_alone() {
    let mut clusters = trusting(&["east", "west", "north"]).into_iter();
    let east = Gateway::start(clusters.next().unwrap(), options());
    let west = Gateway::start(clusters.next().unwrap(), options());
    let north = clusters.next().unwrap();
    east.dial(&west);
    let tunnel = east.tunnel(&west.id()).await;
    east.cluster
        .store
        .update(|view| {
            view.remove(north.domain());
            Ok(())
        })
        .unwrap();
    east.trust_changed();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(tunnel.is_usable());
    assert_eq!(round_trip(&tunnel, b"still").await, b"still");
}

#[tokio::test]
async fn a_suspended_or_removed_peer_loses_its_connections_at_once() {
    let (east, west) = pair(options(), options()).await;
    let tunnel = east.tunnel(&west.id()).await;
    let mut peer = west.as_peer(vec![west.address()]);
    peer.mode = PeerMode::Suspended;
    east.set_peer(peer);
    phase(&tunnel, Phase::Closed).await;
    eventually("no connection", || east.hub.status().1.is_empty().then_some(())).await;
    east.set_peer(west.as_peer(vec![west.address()]));
    let tunnel = east.tunnel(&west.id()).await;
    east.remove_peer(&west.id());
    phase(&tunnel, Phase::Closed).await;
    eventually("no connection", || east.hub.status().1.is_empty().then_some(())).await;
}

#[tokio::test]
async fn a_suspending_side_refuses_the_peers_dials() {
    let (east, mut west) = pair(options(), options()).await;
    let mut peer = east.as_peer(vec![]);
    peer.mode = PeerMode::Suspended;
    west.set_peer(peer);
    assert_eq!(refusal(&mut west).await, Reason::PeerSuspended);
}

#[tokio::test]
async fn a_renewed_leaf_moves_to_a_new_tunnel_and_the_old_one_ends_with_its_last_stream() {
    let (east, west) = pair(options(), options()).await;
    let old = east.tunnel(&west.id()).await;
    let (mut send, recv) = old.open().await.unwrap();
    send.write_chunk(Bytes::from_static(b"x")).await.unwrap();
    east.cluster.renew("gw-0", DEFAULT_LEAF_TTL, UnixTime::now());
    east.trust_changed();
    let new = eventually("a new tunnel", || {
        let usable = east.usable(&west.id());
        usable.into_iter().find(|tunnel| tunnel.id() != old.id())
    })
    .await;
    phase(&old, Phase::Draining).await;
    assert_eq!(round_trip(&new, b"new").await, b"new");
    send.write_chunk(Bytes::from_static(b"still flows"))
        .await
        .unwrap();
    send.finish().unwrap();
    drop((send, recv));
    phase(&old, Phase::Closed).await;
    assert!(new.is_usable());
}

#[tokio::test]
async fn a_leaf_renewed_on_the_side_that_was_dialled_moves_to_a_new_tunnel_too() {
    let (east, west) = pair(options(), options()).await;
    let old = east.tunnel(&west.id()).await;
    let (mut send, recv) = old.open().await.unwrap();
    send.write_chunk(Bytes::from_static(b"x")).await.unwrap();
    west.cluster.renew("gw-0", DEFAULT_LEAF_TTL, UnixTime::now());
    west.trust_changed();
    let new = eventually("a new tunnel", || {
        let usable = east.usable(&west.id());
        usable.into_iter().find(|tunnel| tunnel.id() != old.id())
    })
    .await;
    phase(&old, Phase::Draining).await;
    assert_eq!(round_trip(&new, b"new").await, b"new");
    send.finish().unwrap();
    drop((send, recv));
    phase(&old, Phase::Closed).await;
    assert!(new.is_usable());
}

#[tokio::test]
async fn the_control_connection_of_the_lower_trust_domain_wins_and_carries_bytes() {
    let mut clusters = trusting(&["east", "west"]).into_iter();
    let mut east = Gateway::start(clusters.next().unwrap(), options());
    let mut west = Gateway::start(clusters.next().unwrap(), options());
    assert!(east.cluster.domain() < west.cluster.domain());
    // The higher one dials first and is up before the lower one dials.
    west.dial(&east);
    let first = control(&mut west).await;
    assert_eq!(first.role, Role::Dialler);
    assert_eq!(control(&mut east).await.role, Role::Acceptor);
    east.set_peer(west.as_peer(vec![west.address()]));
    // It has one already, so it dials only when that one is gone.
    drop(first);
    let (mut lower, mut higher) = loop {
        let (lower, higher) = (control(&mut east).await, control(&mut west).await);
        if lower.role == Role::Dialler && higher.role == Role::Acceptor {
            break (lower, higher);
        }
    };
    assert_eq!(
        (&lower.peer.cluster, &higher.peer.cluster),
        (&west.id(), &east.id())
    );
    lower.io.write_all(b"hello").await.unwrap();
    let mut read = [0; 5];
    timeout(PATIENCE, higher.io.read_exact(&mut read))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&read, b"hello");
    higher.io.write_all(b"world").await.unwrap();
    higher.io.shutdown().await.unwrap();
    let mut all = Vec::new();
    timeout(PATIENCE, lower.io.read_to_end(&mut all))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(all, b"world");
}

#[tokio::test]
async fn dropping_the_control_stream_closes_its_connection_and_a_new_one_is_dialled() {
    let mut clusters = trusting(&["east", "west"]).into_iter();
    let mut east = Gateway::start(clusters.next().unwrap(), options());
    let west = Gateway::start(clusters.next().unwrap(), options());
    east.dial(&west);
    let first = control(&mut east).await;
    assert_eq!(east.connections(TunnelKind::Control).len(), 1);
    let id = east.connections(TunnelKind::Control)[0].id;
    drop(first);
    let _second = control(&mut east).await;
    eventually("one control connection", || {
        let held = east.connections(TunnelKind::Control);
        (held.len() == 1 && held[0].id != id).then_some(())
    })
    .await;
}

#[tokio::test]
async fn both_sides_dialling_at_once_end_with_one_control_connection() {
    let mut clusters = trusting(&["east", "west"]).into_iter();
    let mut east = Gateway::start(clusters.next().unwrap(), options());
    let mut west = Gateway::start(clusters.next().unwrap(), options());
    east.set_peer(west.as_peer(vec![west.address()]));
    west.set_peer(east.as_peer(vec![east.address()]));
    let (_east_io, _west_io) = (control(&mut east).await, control(&mut west).await);
    let mut held = Vec::new();
    eventually("one and the same control connection", || {
        // A controller holds the newest stream it was given.
        while let Ok(event) = east.events.try_recv() {
            held.push(event);
        }
        while let Ok(event) = west.events.try_recv() {
            held.push(event);
        }
        let (a, b) = (
            east.connections(TunnelKind::Control),
            west.connections(TunnelKind::Control),
        );
        (a.len() == 1 && b.len() == 1 && a[0].dialled != b[0].dialled).then_some(())
    })
    .await;
}

async fn join(east: &Gateway, west: &Gateway, root: RootFingerprint) -> Result<JoinStream, Reason> {
    let (reply, answer) = oneshot::channel();
    west.hub
        .request(GatewayRequest::JoinDial {
            addresses: vec![east.address()],
            trust_domain: east.cluster.domain().clone(),
            root,
            timeout: PATIENCE,
            reply,
        })
        .await;
    answer.await.unwrap().map_err(|error| error.reason)
}

fn root_of(gateway: &Gateway) -> RootFingerprint {
    gateway.cluster.ca.bundle().unwrap().roots()[0].fingerprint()
}

#[tokio::test]
async fn a_join_session_binds_both_sides_to_the_same_keying_material() {
    let now = UnixTime::now();
    let cluster = |name| strait_trust_bridge::testing::TestCluster::new(name, now);
    let mut east = Gateway::start(cluster("east"), options());
    let west = Gateway::start(cluster("west"), options());
    // No invite is open.
    assert_eq!(
        join(&east, &west, root_of(&east)).await.unwrap_err(),
        Reason::AlpnRefused
    );
    open_invite(&east);
    // Another root than the one that is pinned.
    assert_eq!(
        join(&east, &west, root_of(&west)).await.unwrap_err(),
        Reason::FingerprintMismatch
    );
    let mut joiner = join(&east, &west, root_of(&east)).await.unwrap();
    let mut inviter = next_event(&mut east, |event| match event {
        GatewayEvent::Join(stream) => Some(stream),
        _ => None,
    })
    .await;
    assert_eq!((joiner.role, inviter.role), (Role::Dialler, Role::Acceptor));
    assert_eq!(joiner.exporter, inviter.exporter);
    assert_ne!(joiner.exporter, [0; 32]);
    joiner.io.write_all(b"proof").await.unwrap();
    let mut read = [0; 5];
    inviter.io.read_exact(&mut read).await.unwrap();
    // What was written and shut down arrives, although the stream is dropped at once.
    inviter.io.write_all(b"reply").await.unwrap();
    inviter.io.shutdown().await.unwrap();
    drop(inviter);
    let mut all = Vec::new();
    timeout(PATIENCE, joiner.io.read_to_end(&mut all))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(all, b"reply");
}

#[tokio::test]
async fn a_server_of_another_cluster_is_refused_by_the_dialler() {
    let mut clusters = trusting(&["east", "west", "north"]).into_iter();
    let mut east = Gateway::start(clusters.next().unwrap(), options());
    let west = Gateway::start(clusters.next().unwrap(), options());
    let north = Gateway::start(clusters.next().unwrap(), options());
    east.set_peer(west.as_peer(vec![north.address()]));
    let state = link(&mut east, |state| state.last_error.is_some()).await;
    assert_eq!(state.last_error.unwrap().0, Reason::WrongTrustDomain);
    assert!(east.usable(&west.id()).is_empty());
}

#[tokio::test]
async fn an_address_that_does_not_answer_is_passed_over() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut clusters = trusting(&["east", "west"]).into_iter();
    let east = Gateway::start(clusters.next().unwrap(), options());
    let west = Gateway::start(clusters.next().unwrap(), options());
    let nobody = GatewayAddress {
        host: "127.0.0.1".into(),
        port: silent.local_addr().unwrap().port(),
    };
    east.set_peer(west.as_peer(vec![nobody, west.address()]));
    west.set_peer(east.as_peer(vec![]));
    east.tunnel(&west.id()).await;
}

#[tokio::test]
async fn every_worker_keeps_a_warm_tunnel_and_links_are_reported() {
    let (mut east, west) = pair(
        Options {
            workers: 2,
            ..options()
        },
        options(),
    )
    .await;
    let workers = || {
        let mut workers: Vec<_> = east
            .usable(&west.id())
            .iter()
            .map(|tunnel| tunnel.worker())
            .collect();
        workers.sort_unstable();
        workers
    };
    eventually("a tunnel on each worker", || (workers() == [0, 1]).then_some(())).await;
    let state = link(&mut east, |state| state.usable_tunnels == 2).await;
    assert_eq!(state.instances.len(), 1);
    let (sockets, tunnels) = east.hub.status();
    assert_eq!(sockets.len(), 4, "a server and a client socket each");
    assert!(sockets.iter().all(|socket| socket.receive_granted > 0));
    assert!(
        tunnels
            .iter()
            .all(|tunnel| tunnel.peer == west.id() && tunnel.mtu >= 1200)
    );
}

#[tokio::test]
async fn every_advertised_instance_behind_one_address_is_reached() {
    let mut clusters = trusting(&["east", "west"]).into_iter();
    let east = Gateway::start(clusters.next().unwrap(), options());
    let first = Gateway::start(clusters.next().unwrap(), options());
    let now = UnixTime::now();
    let key = strait_trust_bridge::GatewayKey::generate().unwrap();
    let store = strait_trust_bridge::TrustStore::new(first.cluster.domain().clone());
    let other = strait_trust_bridge::testing::TestCluster {
        ca: first.cluster.ca.clone(),
        store,
        key,
    };
    other.trust(&east.cluster);
    other.renew("gw-1", DEFAULT_LEAF_TTL, now);
    let second = Gateway::start_as(other, "gw-1", options());
    let balancer = Middle::balancing(vec![first.hub.listen(), second.hub.listen()]);
    let mut peer = first.as_peer(vec![balancer.address()]);
    peer.instances.extend(second.as_peer(vec![]).instances);
    first.set_peer(east.as_peer(vec![]));
    second.set_peer(east.as_peer(vec![]));
    east.set_peer(peer);
    eventually("both instances", || {
        let instances: std::collections::BTreeSet<_> = east
            .usable(&first.id())
            .iter()
            .map(|tunnel| tunnel.peer().instance.clone())
            .collect();
        (instances.len() == 2).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_probe_measures_a_round_trip_and_fails_without_a_tunnel() {
    let (east, west) = pair(options(), options()).await;
    let ask = async |peer| {
        let (reply, answer) = oneshot::channel();
        east.hub.request(GatewayRequest::Probe { peer, reply }).await;
        answer.await.unwrap()
    };
    assert!(ask(west.id()).await.unwrap() > Duration::ZERO);
    assert_eq!(ask(east.id()).await.unwrap_err().reason, Reason::NoTunnel);
}

#[tokio::test]
async fn a_tunnel_asked_for_is_dialled_although_nothing_is_imported() {
    let mut clusters = trusting(&["east", "west"]).into_iter();
    let east = Gateway::start(clusters.next().unwrap(), options());
    let mut west = Gateway::start(clusters.next().unwrap(), options());
    let mut peer = west.as_peer(vec![west.address()]);
    peer.importing = false;
    east.set_peer(peer);
    west.set_peer(east.as_peer(vec![]));
    let _control = control(&mut west).await;
    assert!(east.usable(&west.id()).is_empty());
    east.hub
        .request(GatewayRequest::OpenTunnel { peer: west.id() })
        .await;
    let back = west.tunnel(&east.id()).await;
    assert_eq!(
        round_trip(&back, b"served by the dialler").await,
        b"served by the dialler"
    );
}

/// A NAT or load balancer: passes packets between diallers and a server, each dialler address by its own port to the server.
struct Middle {
    address: SocketAddr,
    control: std::sync::mpsc::Sender<Order>,
}

enum Order {
    Block(bool),
    Rebind,
}

impl Middle {
    fn start(server: SocketAddr) -> Self {
        Self::balancing(vec![server])
    }

    /// Each new dialler address is led to the next server.
    fn balancing(servers: Vec<SocketAddr>) -> Self {
        let front = UdpSocket::bind("127.0.0.1:0").unwrap();
        front.set_nonblocking(true).unwrap();
        let address = front.local_addr().unwrap();
        let (control, orders) = std::sync::mpsc::channel();
        std::thread::spawn(move || relay(&front, &servers, &orders));
        Self { address, control }
    }

    fn address(&self) -> GatewayAddress {
        GatewayAddress {
            host: "127.0.0.1".into(),
            port: self.address.port(),
        }
    }

    fn block(&self, block: bool) {
        self.control.send(Order::Block(block)).unwrap();
    }

    fn rebind(&self) {
        self.control.send(Order::Rebind).unwrap();
        // The relay looks for orders every millisecond.
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn outward(server: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(server).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

fn relay(front: &UdpSocket, servers: &[SocketAddr], orders: &std::sync::mpsc::Receiver<Order>) {
    let mut flows: Vec<(SocketAddr, SocketAddr, UdpSocket)> = Vec::new();
    let (mut blocked, mut next) = (false, 0);
    let mut buffer = [0; 2048];
    loop {
        match orders.try_recv() {
            Ok(Order::Block(block)) => blocked = block,
            Ok(Order::Rebind) => flows
                .iter_mut()
                .for_each(|(_, server, socket)| *socket = outward(*server)),
            Err(std::sync::mpsc::TryRecvError::Empty) => {}
            Err(std::sync::mpsc::TryRecvError::Disconnected) => return,
        }
        let mut moved = false;
        while let Ok((length, from)) = front.recv_from(&mut buffer) {
            moved = true;
            if blocked {
                continue;
            }
            if !flows.iter().any(|(dialler, ..)| *dialler == from) {
                let server = servers[next % servers.len()];
                next += 1;
                flows.push((from, server, outward(server)));
            }
            let (.., socket) = flows.iter().find(|(dialler, ..)| *dialler == from).unwrap();
            let _ = socket.send(&buffer[..length]);
        }
        for (dialler, _, socket) in &flows {
            while let Ok(length) = socket.recv(&mut buffer) {
                moved = true;
                if !blocked {
                    let _ = front.send_to(&buffer[..length], dialler);
                }
            }
        }
        if !moved {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
