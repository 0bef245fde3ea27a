//! What slow readers may cost.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

mod common;

use common::{endpoint, greeter, is_error, name_of, nodes_with, within};
use strait_federation_api::snapshot::HealthCheck;
use strait_gateway::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A service that says its name, then sends for ever.
async fn firehose() -> std::net::SocketAddr {
    let (listener, address) = endpoint().await;
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = tcp.write_all(b"hose").await;
                let chunk = vec![0; 64 * 1024];
                while tcp.write_all(&chunk).await.is_ok() {}
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_pressure_the_stalled_reader_is_reset_and_others_are_unharmed() {
    let limits = Limits {
        peer_bytes: 1 << 20,
        ..Limits::default()
    };
    let mut nodes = nodes_with(&["east", "west"], 1, limits).await.into_iter();
    let (east, west) = (nodes.next().unwrap(), nodes.next().unwrap());
    west.peer(&east, None);
    west.export("hose", &[firehose().await], &["east"], HealthCheck::Off);
    west.export("greeter", &[greeter("west").await], &["east"], HealthCheck::Off);
    east.peer(&west, Some(west.gateway.listen()));
    east.import("hose", &[("west", 1)], None);
    east.import("greeter", &[("west", 1)], None);
    let mut other = east.connect_when_up("greeter").await;
    assert_eq!(within(name_of(&mut other)).await.unwrap(), "west");
    let mut stalled = within(east.connect("hose")).await.unwrap();
    assert_eq!(within(name_of(&mut stalled)).await.unwrap(), "hose");

    // Nobody reads `stalled`; the other flow talks on until the reset is there.
    within(async {
        loop {
            other.write_all(b"ping").await.unwrap();
            assert_eq!(name_of(&mut other).await.unwrap(), "ping");
            if east
                .metrics()
                .contains(r#"service="demo/hose",reason="StalledReader"} 1"#)
            {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    })
    .await;
    let mut buffer = vec![0; 64 * 1024];
    let end = within(async {
        loop {
            match stalled.read(&mut buffer).await {
                Ok(0) => return Ok(0),
                Ok(_) => {}
                Err(error) => return Err(error),
            }
        }
    })
    .await;
    assert!(is_error(&end), "{end:?}");
    other.write_all(b"ping").await.unwrap();
    assert_eq!(within(name_of(&mut other)).await.unwrap(), "ping");
}
