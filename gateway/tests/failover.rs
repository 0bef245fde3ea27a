//! What clients see when a cluster dies and comes back. The far side is cut off by a path that swallows packets, so nobody is told
//! anything: the hardest death there is.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

mod common;

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use common::{PORT, endpoint, greeter, is_error, name_of, pair, three, within};
use parking_lot::Mutex;
use strait_federation_api::snapshot::HealthCheck;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::sleep,
};

/// The cluster that serves a new connection now.
async fn served_by(east: &common::Node) -> String {
    let mut tcp = within(east.connect("greeter"))
        .await
        .expect("a new connection succeeds");
    within(name_of(&mut tcp)).await.expect("and is answered")
}

async fn until_served_by(east: &common::Node, wanted: &str) {
    within(async {
        loop {
            if let Ok(mut tcp) = east.connect("greeter").await
                && name_of(&mut tcp).await.is_ok_and(|name| name == wanted)
            {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_vanishes_fails_no_new_connection_and_returns_gradually() {
    let (east, west, _north, path) = three(greeter("west").await, greeter("nort").await).await;
    until_served_by(&east, "west").await;
    until_served_by(&east, "west").await;
    let mut running = within(east.connect("greeter")).await.unwrap();
    assert_eq!(within(name_of(&mut running)).await.unwrap(), "west");

    path.cut(true);
    // From this moment: every one succeeds, whether the death was noticed yet or not.
    for _ in 0..40 {
        assert_eq!(served_by(&east).await, "nort");
    }
    // What ran ends with an error, long before any idle limit.
    let seen = within(running.read(&mut [0; 8])).await;
    assert!(is_error(&seen), "{seen:?}");

    path.cut(false);
    until_served_by(&east, "west").await;
    // Gradually: the first of west's return is not yet all of it.
    let mut first = HashMap::new();
    for _ in 0..60 {
        *first.entry(served_by(&east).await).or_insert(0) += 1;
    }
    assert!(first.get("nort").is_some_and(|n| *n > 0), "{first:?}");
    // And all of it in the end.
    within(async {
        let mut row = 0;
        while row < 30 {
            row = if served_by(&east).await == "west" {
                row + 1
            } else {
                0
            };
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    drop(west);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_ends_moves_its_clients() {
    let (east, west, _north, _path) = three(greeter("west").await, greeter("nort").await).await;
    until_served_by(&east, "west").await;
    within(west.gateway.shutdown()).await;
    for _ in 0..20 {
        assert_eq!(served_by(&east).await, "nort");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_drains_fails_nobody() {
    let (east, west, _north, _path) = three(greeter("west").await, greeter("nort").await).await;
    until_served_by(&east, "west").await;
    let mut running = within(east.connect("greeter")).await.unwrap();
    assert_eq!(within(name_of(&mut running)).await.unwrap(), "west");
    let draining = tokio::spawn(async move {
        west.gateway.drain(common::PATIENCE).await;
        west
    });
    until_served_by(&east, "nort").await;
    for _ in 0..20 {
        assert_eq!(served_by(&east).await, "nort");
    }
    // The running one has its grace.
    running.write_all(b"ping").await.unwrap();
    assert_eq!(within(name_of(&mut running)).await.unwrap(), "ping");
    drop(running);
    within(draining).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_without_endpoints_is_passed_over() {
    let (listener, dead) = endpoint().await;
    drop(listener);
    let (east, west, _north, _path) = three(greeter("west").await, greeter("nort").await).await;
    until_served_by(&east, "west").await;
    west.export("greeter", &[dead], &["east"], HealthCheck::Off);
    until_served_by(&east, "nort").await;
    for _ in 0..20 {
        assert_eq!(served_by(&east).await, "nort");
    }
}

/// An endpoint that notes the id of every request it gets, and answers with it.
async fn noting(seen: Arc<Mutex<HashMap<u64, u32>>>) -> SocketAddr {
    let (listener, address) = endpoint().await;
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let seen = Arc::clone(&seen);
            tokio::spawn(async move {
                while let Ok(request) = tcp.read_u64().await {
                    *seen.lock().entry(request).or_default() += 1;
                    if tcp.write_u64(request).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

async fn request(vip: SocketAddr, request: u64) -> std::io::Result<u64> {
    let mut tcp = TcpStream::connect(vip).await?;
    tcp.write_u64(request).await?;
    tcp.read_u64().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_opened_300_ms_after_the_death_fails() {
    let seen: Arc<Mutex<HashMap<u64, u32>>> = Arc::default();
    let (east, _west, _north, path) = three(noting(seen.clone()).await, noting(seen.clone()).await).await;
    let vip = SocketAddr::from(([127, 84, 1, 2], PORT));
    east.import("greeter", &[("west", 1), ("north", 2)], Some(vip));
    within(async {
        while request(vip, 0).await.is_err() {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    // Steady use, so that the tunnel to west is fresh when it dies.
    for id in 1..50u64 {
        within(request(vip, id)).await.unwrap();
    }
    path.cut(true);
    sleep(Duration::from_millis(300)).await;
    for id in 100..160u64 {
        let answer = within(request(vip, id)).await;
        assert_eq!(answer.ok(), Some(id), "payload sent at once, as clients do");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_arrives_twice_however_the_path_is_cut() {
    let seen: Arc<Mutex<HashMap<u64, u32>>> = Arc::default();
    let (east, _west, _north, path) = three(noting(seen.clone()).await, noting(seen.clone()).await).await;
    let vip = SocketAddr::from(([127, 84, 1, 1], PORT));
    east.import("greeter", &[("west", 1), ("north", 2)], Some(vip));
    within(async {
        while request(vip, 0).await.is_err() {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    seen.lock().clear();
    let cutting = tokio::spawn(async move {
        let mut rng = fastrand::Rng::with_seed(11);
        loop {
            path.cut_ways(rng.bool(), rng.bool());
            sleep(Duration::from_millis(rng.u64(5..400))).await;
            path.cut(false);
            sleep(Duration::from_millis(rng.u64(5..400))).await;
        }
    });
    let mut requests = tokio::task::JoinSet::new();
    let mut rng = fastrand::Rng::with_seed(12);
    for id in 1..=600u64 {
        requests.spawn(async move { (id, within(request(vip, id)).await) });
        sleep(Duration::from_millis(rng.u64(0..20))).await;
    }
    let results = within(requests.join_all()).await;
    cutting.abort();
    let seen = seen.lock();
    let twice: Vec<_> = seen.iter().filter(|(_, n)| **n > 1).collect();
    assert!(twice.is_empty(), "arrived more than once: {twice:?}");
    let answered = results.iter().filter(|(_, result)| result.is_ok()).count();
    for (id, result) in &results {
        if let Ok(answer) = result {
            assert_eq!((answer, seen.get(id)), (id, Some(&1)));
        }
    }
    assert!(answered > 300, "only {answered} of 600 were answered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unhealthy_endpoint_gets_nothing_and_comes_back() {
    let (listener, address) = endpoint().await;
    let (east, west) = pair(&[]).await;
    west.export("greeter", &[address], &["east"], HealthCheck::Tcp);
    let healthy = |wanted: bool| move |o: &strait_federation_api::observation::Observation| matches!(o, strait_federation_api::observation::Observation::EndpointHealth { healthy, .. } if *healthy == wanted);
    west.observes(healthy(true)).await;
    drop(listener);
    west.observes(healthy(false)).await;
    // Refused for want of an endpoint, which is not even dialled.
    let start = Instant::now();
    while start.elapsed() < common::PATIENCE {
        if east.connect("greeter").await.err() == Some(4) {
            break;
        }
        sleep(Duration::from_millis(20)).await;
    }
    west.observed.lock().clear();
    let _listener = tokio::net::TcpListener::bind(address).await.unwrap();
    west.observes(healthy(true)).await;
    drop(east.connect_when_up("greeter").await);
}
