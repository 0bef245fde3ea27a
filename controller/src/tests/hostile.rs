//! Peers and strangers that do not behave.

use std::net::SocketAddr;

use strait_federation_api::{
    InstanceId, Reason,
    control::{ControlStream, GatewayEvent, JoinStream, Role, VerifiedPeer},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::{
    catalogs::federated,
    world::{Node, World, until},
};
use crate::ReasonLabel;

fn remote() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 7], 4000))
}

fn control_of(peer: &Node) -> (GatewayEvent, DuplexStream) {
    let (near, far) = duplex(64 * 1024);
    let stream = ControlStream {
        peer: VerifiedPeer {
            cluster: peer.snapshot().cluster.clone(),
            trust_domain: peer.domain(),
            instance: InstanceId::parse("gw-x").unwrap(),
        },
        role: Role::Acceptor,
        remote: remote(),
        io: Box::new(far),
    };
    (GatewayEvent::Control(stream), near)
}

fn join_stream() -> (GatewayEvent, DuplexStream) {
    let (near, far) = duplex(64 * 1024);
    let stream = JoinStream {
        role: Role::Acceptor,
        remote: remote(),
        exporter: [7; 32],
        io: Box::new(far),
    };
    (GatewayEvent::Join(stream), near)
}

/// Reads until the other side closes.
async fn closed(mut stream: DuplexStream) -> usize {
    let mut bytes = Vec::new();
    let end = tokio::time::timeout(std::time::Duration::from_secs(30), stream.read_to_end(&mut bytes)).await;
    let _reset_or_clean = end.expect("the stream was left open");
    bytes.len()
}

#[tokio::test]
async fn garbage_on_a_control_stream_harms_nothing() {
    let world = World::default();
    let (east, west) = federated(&world).await;
    for garbage in [
        &b""[..],
        b"GET / HTTP/1.1\r\n\r\n",
        &[0xFF; 4096],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\xFF\xFF\xFF\xFF\xFF",
    ] {
        let (event, mut near) = control_of(&west);
        east.tell(event).await;
        near.write_all(garbage).await.unwrap();
        near.shutdown().await.unwrap();
        closed(near).await;
    }
    assert!(east.import("greeter").is_some());
    west.remove("export-greeter.yaml");
    until("the real stream still works", || east.import("greeter").is_none()).await;
}

#[tokio::test]
async fn a_control_stream_of_somebody_unknown_is_dropped() {
    let world = World::default();
    let (east, _west) = federated(&world).await;
    let mut north = world.node("north", 17003);
    north.start();
    let (event, near) = control_of(&north);
    east.tell(event).await;
    assert_eq!(closed(near).await, 0, "nothing is said to it");
    assert_eq!(east.view().federations.len(), 1);
}

#[tokio::test]
async fn join_sessions_of_one_source_are_bounded() {
    let world = World::default();
    let mut east = world.node("east", 17001);
    east.start();
    let mut streams = Vec::new();
    for _ in 0..25 {
        let (event, near) = join_stream();
        east.tell(event).await;
        streams.push(near);
    }
    let refused = || {
        let label = ReasonLabel {
            reason: Reason::TooManyAttempts.name(),
        };
        east.metrics().joins_refused.get_or_create(&label).get()
    };
    until("the others are refused", || refused() == 15).await;
    let mut silent = streams.split_off(10);
    for stream in silent.drain(..) {
        assert_eq!(closed(stream).await, 0);
    }
}

#[tokio::test]
async fn a_join_that_speaks_nonsense_is_closed_without_a_trace() {
    let world = World::default();
    let mut east = world.node("east", 17001);
    east.start();
    let _open = east.handle().invite("west", None).await.unwrap();
    let before = east.view();
    for nonsense in [
        &b"\0\0\0\x01\x09"[..],
        b"\xFF\xFF\xFF\xFF",
        b"\0\0\0\0",
        b"\0\0\x10\0short",
    ] {
        let (event, mut near) = join_stream();
        east.tell(event).await;
        near.write_all(nonsense).await.unwrap();
        near.shutdown().await.unwrap();
        assert!(closed(near).await < 100);
    }
    assert_eq!(east.view().invites, before.invites);
    assert_eq!(east.store().view().peers().count(), 0);
}
