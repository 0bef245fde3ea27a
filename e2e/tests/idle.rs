//! What a gateway costs while nothing happens. Processes of this platform's /proc are measured.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

use std::time::Duration;

use strait_e2e::{
    apps::witness::{End, witness},
    client::Dial,
    cluster::{PATIENCE, PeerSpec, Service, Star},
    process::{resident, resident_anonymous},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

/// Promised for a gateway with three peers and ten services, bytes. Judged where code is optimised: the development build has more code
/// than that alone.
const PROCESS_MAX: u64 = 30 << 20;
/// Of these, what every profile is held to: all that is not code, which leaves half of the promise for the code.
const OWN_MAX: u64 = PROCESS_MAX / 2;
/// Promised for a proxied connection on which nothing moves, bytes in each gateway.
const CONNECTION_MAX: u64 = 8 << 10;
/// Connections measured.
const CONNECTIONS: u64 = 2_000;
/// Opened before the first look: allocators, tables and tunnels grow in steps, and the first steps are not the connections'.
const WARM: u64 = 500;
/// What start and first syncs allocated for the moment is given back by then.
const SETTLE: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread")]
async fn three_peers_and_ten_services_fit_into_30_mb() {
    let app = witness(true).await.unwrap();
    let services = |peer: &str, count: usize| -> Vec<Service> {
        (0..count)
            .map(|n| Service::new("demo", &format!("{peer}-{n}"), 8080, app.address()))
            .collect()
    };
    let spec = |id, count| PeerSpec {
        id,
        services: services(id, count),
        priority: 1,
        rtt: Duration::ZERO,
    };
    let mut star = Star::start("", &[spec("west", 4), spec("north", 3), spec("south", 3)])
        .await
        .unwrap();
    sleep(SETTLE).await;
    let pid = star.east.process().unwrap().pid();
    let (all, own) = (resident(pid).unwrap(), resident_anonymous(pid).unwrap());
    println!("{} KiB, {} KiB of it not code", all >> 10, own >> 10);
    assert!(own < OWN_MAX, "{own} bytes that are not code");
    if !cfg!(debug_assertions) {
        assert!(all < PROCESS_MAX, "{all} bytes");
    }
}

async fn open(way: &Dial, id: u64) -> TcpStream {
    let connected = async {
        let mut stream = way.connect().await.unwrap();
        stream.write_all(&id.to_be_bytes()).await.unwrap();
        stream.write_all(b"ping").await.unwrap();
        stream.read_exact(&mut [0; 4]).await.unwrap();
        stream
    };
    timeout(PATIENCE, connected).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_costs_less_than_8_kib_a_gateway() {
    let app = witness(true).await.unwrap();
    let service = Service::new("demo", "quiet", 8080, app.address());
    let west = PeerSpec {
        id: "west",
        services: vec![service.clone()],
        priority: 1,
        rtt: Duration::ZERO,
    };
    let mut star = Star::start("", &[west]).await.unwrap();
    let ways = star.ways(&service).await.unwrap();
    let mut idle = Vec::new();
    for id in 0..WARM {
        idle.push(open(&ways[usize::from(id % 2 == 0)], id).await);
    }
    sleep(SETTLE).await;
    let before = both(&mut star);
    for id in WARM..WARM + CONNECTIONS {
        idle.push(open(&ways[usize::from(id % 2 == 0)], id).await);
    }
    sleep(SETTLE).await;
    let after = both(&mut star);
    let open = app.state().count(|end| end == End::Open);
    assert_eq!(open as u64, WARM + CONNECTIONS);
    for ((gateway, before), (_, after)) in before.into_iter().zip(after) {
        let each = after.saturating_sub(before) / CONNECTIONS;
        println!("{gateway}: {each} bytes a connection");
        assert!(each < CONNECTION_MAX, "{gateway}: {each} bytes a connection");
    }
    drop(idle);
}

fn both(star: &mut Star) -> [(&'static str, u64); 2] {
    let east = star.east.process().unwrap().resident().unwrap();
    let west = star.peers[0].cluster.process().unwrap().resident().unwrap();
    [("near", east), ("far", west)]
}
