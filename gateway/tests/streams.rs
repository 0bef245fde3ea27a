//! Streams through a real tunnel between two gateways: how they begin, what they carry, how they end, who may open them.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

mod common;

use std::{net::SocketAddr, time::Duration};

use common::{PORT, endpoint, greeter, id, is_error, key, name_of, nodes, pair, within};
use strait_federation_api::{
    Reason,
    observation::Observation,
    snapshot::{HealthCheck, PeerMode},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// A client in east and its server in west, connected and proven by one byte each way.
async fn connected(listener: &TcpListener, east: &common::Node) -> (TcpStream, TcpStream) {
    let client = east.connect_when_up("greeter");
    let (mut client, server) = tokio::join!(client, within(listener.accept()));
    let mut server = server.unwrap().0;
    client.write_all(b"?").await.unwrap();
    within(server.read_exact(&mut [0; 1])).await.unwrap();
    server.write_all(b"!").await.unwrap();
    within(client.read_exact(&mut [0; 1])).await.unwrap();
    (client, server)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_are_identical_and_half_close_is_kept() {
    let (listener, address) = endpoint().await;
    let (east, west) = pair(&[address]).await;
    let (mut client, mut server) = connected(&listener, &east).await;
    let big: Vec<u8> = (0..20_000_000u32).map(|i| (i / 251) as u8 ^ i as u8).collect();
    let sent = big.clone();
    let client = tokio::spawn(async move {
        client.write_all(&sent).await.unwrap();
        client.shutdown().await.unwrap();
        let mut answer = vec![];
        client.read_to_end(&mut answer).await.unwrap();
        answer
    });
    let mut got = vec![];
    within(server.read_to_end(&mut got)).await.unwrap();
    assert!(
        got == big,
        "request arrives whole, {} of {}",
        got.len(),
        big.len()
    );
    server.write_all(&big).await.unwrap();
    server.shutdown().await.unwrap();
    assert!(within(client).await.unwrap() == big, "answer arrives whole");
    east.quiet().await;
    west.quiet().await;
    for (node, direction, peer) in [(&east, "outbound", "west"), (&west, "inbound", "east")] {
        let line = format!(
            r#"strait_streams_total{{direction="{direction}",peer="{peer}",service="demo/greeter",reason="Ok"}} 1"#
        );
        assert!(node.metrics().contains(&line), "{}", node.metrics());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_may_speak_first() {
    let (east, _west) = pair(&[greeter("west").await]).await;
    let mut client = east.connect_when_up("greeter").await;
    assert_eq!(within(name_of(&mut client)).await.unwrap(), "west");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_on_one_side_is_a_reset_on_the_other() {
    let (listener, address) = endpoint().await;
    let (east, _west) = pair(&[address]).await;
    for client_resets in [true, false] {
        let (client, server) = connected(&listener, &east).await;
        let (resets, mut sees) = if client_resets {
            (client, server)
        } else {
            (server, client)
        };
        resets.set_zero_linger().unwrap();
        drop(resets);
        let seen = within(sees.read(&mut [0; 8])).await;
        assert!(is_error(&seen), "client resets: {client_resets}, seen: {seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_ends_in_mid_transfer_is_an_error_never_a_short_file() {
    for far in [true, false] {
        let (listener, address) = endpoint().await;
        let (east, west) = pair(&[address]).await;
        let (mut client, mut server) = connected(&listener, &east).await;
        let serving = tokio::spawn(async move {
            let chunk = vec![7; 64 * 1024];
            while server.write_all(&chunk).await.is_ok() {}
        });
        let mut buffer = vec![0; 64 * 1024];
        for _ in 0..50 {
            within(client.read_exact(&mut buffer)).await.unwrap();
        }
        within(if far {
            west.gateway.shutdown()
        } else {
            east.gateway.shutdown()
        })
        .await;
        let end = within(async {
            loop {
                match client.read(&mut buffer).await {
                    Ok(0) => return Ok(0),
                    Ok(_) => {}
                    Err(error) => return Err(error),
                }
            }
        })
        .await;
        assert!(is_error(&end), "far side ends: {far}, seen: {end:?}");
        within(serving).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_without_an_export_rule_is_denied_and_told_of() {
    let (east, west) = pair(&[greeter("west").await]).await;
    drop(east.connect_when_up("greeter").await);
    west.export("greeter", &[greeter("west").await], &["north"], HealthCheck::Off);
    within(async {
        while east.connect("greeter").await.err() != Some(2) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    west.observes(|o| {
        matches!(o, Observation::Refused { peer: Some(p), reason: Reason::Denied, .. } if *p == id("east"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_exported_is_unreachable() {
    let (east, west) = pair(&[greeter("west").await]).await;
    drop(east.connect_when_up("greeter").await);
    // East believes in a service that west does not export.
    east.import("secret", &[("west", 1)], None);
    within(async {
        while east.connect("secret").await.err() != Some(4) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    west.change(|s| drop(s.exports.remove(&key("greeter"))));
    within(async {
        while east.connect("greeter").await.err() != Some(4) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let metrics = west.metrics();
    assert!(
        metrics.contains(r#"reason="UnknownService""#) && !metrics.contains("demo/secret"),
        "{metrics}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drain_and_suspend_stop_new_streams_and_drain_keeps_running_ones() {
    let (east, _west) = pair(&[greeter("west").await]).await;
    let mut client = east.connect_when_up("greeter").await;
    within(name_of(&mut client)).await.unwrap();
    for mode in [PeerMode::Drain, PeerMode::Active] {
        east.change(|s| {
            let mut peer = (*s.peers[&id("west")]).clone();
            peer.mode = mode;
            s.peers.insert(id("west"), std::sync::Arc::new(peer));
        });
        let wanted = if mode == PeerMode::Drain { Some(2) } else { None };
        within(async {
            while east.connect("greeter").await.err() != wanted {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        client.write_all(b"ping").await.unwrap();
        assert_eq!(within(name_of(&mut client)).await.unwrap(), "ping", "{mode:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_flow_against_the_direction_of_the_dial() {
    let mut both = nodes(&["east", "west"], 2).await.into_iter();
    let (east, west) = (both.next().unwrap(), both.next().unwrap());
    // East cannot be dialled, and serves.
    west.peer(&east, None);
    east.peer(&west, Some(west.gateway.listen()));
    east.export("greeter", &[greeter("east").await], &["west"], HealthCheck::Off);
    west.import("greeter", &[("east", 1)], None);
    let mut client = west.connect_when_up("greeter").await;
    assert_eq!(within(name_of(&mut client)).await.unwrap(), "east");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vip_listens_where_the_snapshot_says() {
    let (east, _west) = pair(&[greeter("west").await]).await;
    drop(east.connect_when_up("greeter").await);
    let vip = SocketAddr::from(([127, 84, 0, 1], PORT));
    east.import("greeter", &[("west", 1)], Some(vip));
    east.observes(|o| matches!(o, Observation::Listener { bound: Ok(at), .. } if *at == vip))
        .await;
    let mut client = within(TcpStream::connect(vip)).await.unwrap();
    assert_eq!(within(name_of(&mut client)).await.unwrap(), "west");
    east.import("greeter", &[("west", 1)], None);
    within(async {
        while TcpStream::connect(vip).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    // What runs goes on.
    client.write_all(b"ping").await.unwrap();
    assert_eq!(within(name_of(&mut client)).await.unwrap(), "ping");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_of_somebody_else_is_told_and_served_by_socks_and_retried() {
    let (east, _west) = pair(&[greeter("west").await]).await;
    let vip = SocketAddr::from(([127, 84, 0, 2], PORT));
    let other = TcpListener::bind(vip).await.unwrap();
    east.import("greeter", &[("west", 1)], Some(vip));
    east.observes(
        |o| matches!(o, Observation::Listener { bound: Err(e), .. } if e.reason == Reason::PortTaken),
    )
    .await;
    drop(east.connect_when_up("greeter").await);
    drop(other);
    east.observes(|o| matches!(o, Observation::Listener { bound: Ok(at), .. } if *at == vip))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_at_once() {
    let (east, west) = pair(&[greeter("west").await]).await;
    drop(east.connect_when_up("greeter").await);
    let mut clients = tokio::task::JoinSet::new();
    let east = std::sync::Arc::new(east);
    for i in 0..1_000u32 {
        let east = std::sync::Arc::clone(&east);
        clients.spawn(async move {
            let mut tcp = east.connect("greeter").await.expect("connected");
            assert_eq!(name_of(&mut tcp).await.unwrap(), "west");
            tcp.write_all(&i.to_be_bytes()).await.unwrap();
            let mut echo = [0; 4];
            tcp.read_exact(&mut echo).await.unwrap();
            assert_eq!(echo, i.to_be_bytes());
            tcp
        });
    }
    let all = within(clients.join_all()).await;
    assert_eq!(all.len(), 1_000);
    assert!(east.gateway.flows() >= 1_000 && west.gateway.flows() >= 1_000);
    drop(all);
    east.quiet().await;
    west.quiet().await;
}
