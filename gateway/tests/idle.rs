//! What idle connections may cost. Alone in its binary: the figure is the memory of the process.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

mod common;

use common::{endpoint, name_of, pair, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Resident memory of this process, bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// A service that says its name and then only waits.
async fn quiet() -> std::net::SocketAddr {
    let (listener, address) = endpoint().await;
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = tcp.write_all(b"west").await;
                let _ = tcp.read(&mut [0; 1]).await;
            });
        }
    });
    address
}

/// Both gateways, the client and the service live in this one process: all of it together must fit what two gateways may use.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_connection_costs_little() {
    const COUNT: usize = 2_000;
    const PER_GATEWAY: usize = 8 * 1024;
    let (east, _west) = pair(&[quiet().await]).await;
    drop(east.connect_when_up("greeter").await);
    let mut warm = vec![];
    for _ in 0..200 {
        let mut tcp = within(east.connect("greeter")).await.unwrap();
        within(name_of(&mut tcp)).await.unwrap();
        warm.push(tcp);
    }
    let before = resident();
    let mut idle = Vec::with_capacity(COUNT);
    for _ in 0..COUNT {
        let mut tcp = within(east.connect("greeter")).await.unwrap();
        within(name_of(&mut tcp)).await.unwrap();
        idle.push(tcp);
    }
    let each = resident().saturating_sub(before) / COUNT;
    println!("{each} bytes for an idle connection, both gateways, client and service together");
    assert!(each < 2 * PER_GATEWAY, "{each} bytes");
}
