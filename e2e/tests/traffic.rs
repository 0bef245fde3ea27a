//! Bytes through two real gateways: whole, in order, with the ends that were meant; and nothing that was not asked for.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use strait_e2e::{
    apps::{
        self,
        bulk::{self, Transfer},
        eventually, half_close_exchange,
        witness::{End, witness},
    },
    client::{Dial, Failure, socks_reply},
    cluster::{Cluster, PATIENCE, PeerSpec, Service, Star},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};

/// East and west with `service` of west imported.
async fn pair(service: &Service) -> Star {
    pair_with("", service, Duration::ZERO).await
}

async fn pair_with(spec: &str, service: &Service, rtt: Duration) -> Star {
    let west = PeerSpec {
        id: "west",
        services: vec![service.clone()],
        priority: 1,
        rtt,
    };
    Star::start(spec, &[west]).await.unwrap()
}

fn service(name: &str, endpoint: SocketAddr) -> Service {
    Service::new("demo", name, 8080, endpoint)
}

/// Bytes of the large transfer: every buffer and window turns over thousands of times.
const LARGE: u64 = 1 << 30;
/// Over the other way the bytes take behind the door, where they travel alike.
const SMALLER: u64 = 64 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_gibibyte_is_byte_identical() {
    let app = bulk::sender().await.unwrap();
    let service = service("bulk", app.address());
    let star = pair(&service).await;
    let ways = star.ways(&service).await.unwrap();
    for ((seed, length), way) in [(7, SMALLER), (11, LARGE)].into_iter().zip(ways) {
        let mut stream = way.connect().await.unwrap();
        let got = bulk::fetch(&mut stream, length, seed).await.unwrap();
        assert_eq!(got, Transfer::Whole, "{way:?}");
    }
}

/// Uploads: the server counts and the half-close tells it that all is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_half_close_gets_through_and_the_answer_back() {
    let app = apps::half_close().await.unwrap();
    let service = service("half", app.address());
    let star = pair(&service).await;
    let ways = star.ways(&service).await.unwrap();
    for length in [0, 1, 64 * 1024, 5_000_000] {
        for way in &ways {
            let stream = way.connect().await.unwrap();
            let answer = timeout(PATIENCE, half_close_exchange(stream, &vec![7; length])).await;
            assert_eq!(answer.unwrap().unwrap(), length as u64, "{way:?}");
        }
    }
    assert_eq!(app.stats().resets(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_may_speak_first() {
    const BANNER: &[u8] = b"220 mail.example ready\r\n";
    let app = apps::banner(BANNER).await.unwrap();
    let service = service("mail", app.address());
    let star = pair(&service).await;
    for way in star.ways(&service).await.unwrap() {
        let mut stream = way.connect().await.unwrap();
        let mut first = [0; BANNER.len()];
        timeout(PATIENCE, stream.read_exact(&mut first))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(first, BANNER);
        stream.write_all(b"EHLO me").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut rest = Vec::new();
        timeout(PATIENCE, stream.read_to_end(&mut rest))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(rest, b"EHLO me");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_of_the_server_is_a_reset_at_the_client() {
    let app = apps::reset_after(3).await.unwrap();
    let service = service("rude", app.address());
    let star = pair(&service).await;
    for way in star.ways(&service).await.unwrap() {
        let mut stream = way.connect().await.unwrap();
        stream.write_all(b"abc").await.unwrap();
        let end = timeout(PATIENCE, stream.read(&mut [0; 1])).await.unwrap();
        assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset, "{way:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_of_the_client_is_a_reset_at_the_server_and_a_clean_end_is_none() {
    let app = witness(true).await.unwrap();
    let service = service("echo", app.address());
    let star = pair(&service).await;
    let ways = star.ways(&service).await.unwrap();
    for (id, way) in ways.iter().enumerate() {
        let stream = known(way, id as u64).await;
        stream.set_zero_linger().unwrap();
    }
    for (id, way) in ways.iter().enumerate() {
        drop(known(way, id as u64 + 2).await);
    }
    let over = || app.state().count(|end| end != End::Open) == 4;
    eventually(PATIENCE, over).await.unwrap();
    let reset = vec![End::Reset];
    let clean = vec![End::Clean(PROBE.len() as u64)];
    let wanted = [(0, reset.clone()), (1, reset), (2, clean.clone()), (3, clean)];
    assert_eq!(app.state().ends(), wanted.into());
}

/// What goes there and back on a [`known`] connection.
const PROBE: &[u8] = b"there and back";

/// A connection on which client `id` of a witness has sent something and got it back.
async fn known(way: &Dial, id: u64) -> TcpStream {
    let mut stream = way.connect().await.unwrap();
    stream.write_all(&id.to_be_bytes()).await.unwrap();
    timeout(PATIENCE, exchange(&mut stream, PROBE))
        .await
        .unwrap()
        .unwrap();
    stream
}

async fn exchange(stream: &mut TcpStream, payload: &[u8]) -> io::Result<()> {
    stream.write_all(payload).await?;
    let mut back = vec![0; payload.len()];
    stream.read_exact(&mut back).await?;
    if back == payload {
        Ok(())
    } else {
        Err(io::Error::other("other bytes than were sent"))
    }
}

/// Connections held open at the same time.
const CONNECTIONS: usize = 5_000;
/// Of these, being opened at the same time: what the listen queue of the proxies holds, and this test's own.
const OPENING: usize = 250;

#[tokio::test(flavor = "multi_thread")]
async fn five_thousand_connections_at_once() {
    let app = witness(true).await.unwrap();
    let service = service("echo", app.address());
    let star = pair(&service).await;
    let ways = star.ways(&service).await.unwrap();
    let opening = Arc::new(Semaphore::new(OPENING));
    let mut clients = JoinSet::new();
    for id in 0..CONNECTIONS {
        let (way, opening) = (ways[id % 2].clone(), Arc::clone(&opening));
        clients.spawn(async move {
            let _turn = opening.acquire_owned().await.unwrap();
            let mut stream = way.connect().await?;
            stream.write_all(&(id as u64).to_be_bytes()).await?;
            exchange(&mut stream, PROBE).await?;
            Ok::<_, Failure>((id as u64, stream))
        });
    }
    let streams = whole(clients).await;
    assert_eq!(app.state().count(|end| end == End::Open), CONNECTIONS);
    // Every one still carries its own bytes.
    let mut clients = JoinSet::new();
    for (id, mut stream) in streams {
        clients.spawn(async move {
            exchange(&mut stream, &id.to_be_bytes().repeat(512)).await?;
            stream.shutdown().await?;
            match stream.read(&mut [0; 1]).await? {
                0 => Ok(()),
                _ => Err(Failure::Garbled),
            }
        });
    }
    whole(clients).await;
    let bytes = (PROBE.len() + 8 * 512) as u64;
    assert_eq!(app.state().count(|end| end == End::Clean(bytes)), CONNECTIONS);
}

/// All of them, none failed.
async fn whole<T: 'static>(clients: JoinSet<Result<T, Failure>>) -> Vec<T> {
    let results = timeout(PATIENCE * 4, clients.join_all()).await.unwrap();
    let (mut whole, mut failed) = (Vec::new(), Vec::new());
    for result in results {
        match result {
            Ok(value) => whole.push(value),
            Err(failure) => failed.push(failure),
        }
    }
    assert!(
        failed.is_empty(),
        "{} failed, {} did not: {:?}",
        failed.len(),
        whole.len(),
        failed.first()
    );
    whole
}

/// Which gateway is killed.
#[derive(Debug, Clone, Copy)]
enum Victim {
    /// The client's.
    Near,
    /// The server's.
    Far,
}

impl Victim {
    async fn kill(self, star: &mut Star) {
        self.of(star).kill9().await.unwrap();
    }

    fn of(self, star: &mut Star) -> &mut Cluster {
        match self {
            Self::Near => &mut star.east,
            Self::Far => &mut star.peers[0].cluster,
        }
    }
}

/// Transfers under way at each kill: the ends of their buffers differ.
const TRANSFERS: usize = 8;
/// Never done by the time of the kill: the link carries this much in 50 s.
const ENDLESS: u64 = 1 << 30;
/// Bytes a second of the link in tests that kill.
const SLOW: u64 = 20 << 20;

async fn killed_mid_download(victim: Victim) {
    let app = bulk::sender().await.unwrap();
    let service = service("bulk", app.address());
    let mut star = pair(&service).await;
    star.peers[0].link.change(|c| c.rate = Some(SLOW));
    let ways = star.ways(&service).await.unwrap();
    let mut downloads = JoinSet::new();
    for number in 0..TRANSFERS {
        let way = ways[number % 2].clone();
        downloads.spawn(async move {
            let mut stream = way.connect().await.unwrap();
            bulk::fetch(&mut stream, ENDLESS, number as u64).await.unwrap()
        });
    }
    eventually(PATIENCE, || app.stats().open() == TRANSFERS as u64)
        .await
        .unwrap();
    sleep(Duration::from_millis(500)).await;
    victim.kill(&mut star).await;
    let ends = timeout(PATIENCE, downloads.join_all()).await.unwrap();
    for end in ends {
        assert!(matches!(end, Transfer::Broken(..)), "{victim:?} killed: {end:?}");
    }
}

async fn killed_mid_upload(victim: Victim) {
    let app = witness(false).await.unwrap();
    let service = service("sink", app.address());
    let mut star = pair(&service).await;
    star.peers[0].link.change(|c| c.rate = Some(SLOW));
    let ways = star.ways(&service).await.unwrap();
    let mut uploads = JoinSet::new();
    for id in 0..TRANSFERS {
        let way = ways[id % 2].clone();
        uploads.spawn(async move {
            let mut stream = way.connect().await.unwrap();
            stream.write_all(&(id as u64).to_be_bytes()).await?;
            bulk::send(&mut stream, ENDLESS, id as u64).await
        });
    }
    let witness = app.state();
    // Also: no upload starves another of even its first bytes.
    eventually(PATIENCE, || witness.count(|_| true) == TRANSFERS)
        .await
        .unwrap();
    sleep(Duration::from_millis(500)).await;
    victim.kill(&mut star).await;
    for end in timeout(PATIENCE, uploads.join_all()).await.unwrap() {
        assert!(
            end.is_err(),
            "{victim:?} killed: the client was told that all was taken"
        );
    }
    eventually(PATIENCE, || witness.count(|end| end == End::Open) == 0)
        .await
        .unwrap();
    // A clean end here is a short file that looks complete.
    assert_eq!(
        witness.count(|end| end == End::Reset),
        TRANSFERS,
        "{victim:?} killed: {:?}",
        witness.ends()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_far_gateway_killed_mid_download_is_an_error() {
    killed_mid_download(Victim::Far).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_near_gateway_killed_mid_download_is_an_error() {
    killed_mid_download(Victim::Near).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_far_gateway_killed_mid_upload_is_an_error() {
    killed_mid_upload(Victim::Far).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_near_gateway_killed_mid_upload_is_an_error() {
    killed_mid_upload(Victim::Near).await;
}

/// A connection on which nothing moves: what has not ended must not look ended.
#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_connection_whose_gateway_is_killed_is_an_error() {
    for victim in [Victim::Near, Victim::Far] {
        let app = witness(true).await.unwrap();
        let service = service("echo", app.address());
        let mut star = pair(&service).await;
        let ways = star.ways(&service).await.unwrap();
        let mut quiet = [known(&ways[0], 0).await, known(&ways[1], 1).await];
        victim.kill(&mut star).await;
        for stream in &mut quiet {
            let end = timeout(PATIENCE, stream.read(&mut [0; 1])).await.unwrap();
            assert!(end.is_err(), "{victim:?} killed: {end:?}");
        }
        let witness = app.state();
        eventually(PATIENCE, || witness.count(|end| end == End::Open) == 0)
            .await
            .unwrap();
        assert_eq!(
            witness.count(|end| end == End::Reset),
            2,
            "{victim:?} killed: {:?}",
            witness.ends()
        );
    }
}

fn v4(address: SocketAddr) -> Vec<u8> {
    let IpAddr::V4(ip) = address.ip() else {
        panic!("{address} is not IPv4")
    };
    [&[1][..], &ip.octets(), &address.port().to_be_bytes()].concat()
}

fn name(host: &str, port: u16) -> Vec<u8> {
    let length = u8::try_from(host.len()).unwrap();
    [&[3, length], host.as_bytes(), &port.to_be_bytes()].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn socks_serves_our_names_and_nothing_else() {
    const CONNECT: u8 = 1;
    const NOT_ALLOWED: u8 = 2;
    const UNREACHABLE: u8 = 4;
    const NO_COMMAND: u8 = 7;
    const NO_ADDRESS_TYPE: u8 = 8;
    let (app, other) = (apps::echo().await.unwrap(), apps::echo().await.unwrap());
    let service = service("echo", app.address());
    let star = pair(&service).await;
    let own = "echo.demo.svc.clusterset.local";
    let forbidden = other.address();
    let Dial::Direct(vip) = star.ways(&service).await.unwrap()[1].clone() else {
        unreachable!()
    };
    let cases: Vec<(u8, Vec<u8>, &[u8], &str)> = vec![
        (CONNECT, name(own, 8080), &[0], "our own name"),
        (CONNECT, v4(vip), &[0], "our own virtual address"),
        (2, name(own, 8080), &[NO_COMMAND], "BIND"),
        (3, name(own, 8080), &[NO_COMMAND], "UDP ASSOCIATE"),
        (3, v4(forbidden), &[NO_COMMAND], "UDP ASSOCIATE to an address"),
        (
            CONNECT,
            vec![9, 0, 0, 0, 0, 0, 0],
            &[NO_ADDRESS_TYPE],
            "an address type that is none",
        ),
        (
            CONNECT,
            name(own, 8081),
            &[NOT_ALLOWED, UNREACHABLE],
            "a port that is not exported",
        ),
        (
            CONNECT,
            name("nobody.demo.svc.clusterset.local", 8080),
            &[UNREACHABLE],
            "a service that is none",
        ),
        (
            CONNECT,
            name("localhost", forbidden.port()),
            &[NOT_ALLOWED, UNREACHABLE],
            "a host of this machine",
        ),
        (
            CONNECT,
            name("127.0.0.1", forbidden.port()),
            &[NOT_ALLOWED, UNREACHABLE],
            "an address as name",
        ),
        (
            CONNECT,
            name("www.example.com", 80),
            &[NOT_ALLOWED, UNREACHABLE],
            "the internet",
        ),
        (CONNECT, v4(forbidden), &[NOT_ALLOWED, UNREACHABLE], "an address"),
        (
            CONNECT,
            v4(app.address()),
            &[NOT_ALLOWED, UNREACHABLE],
            "the endpoint itself",
        ),
    ];
    for (command, address, allowed, what) in cases {
        let reply = socks_reply(star.east.addresses().socks, command, &address)
            .await
            .unwrap();
        assert!(allowed.contains(&reply), "{what}: reply {reply}");
    }
    assert_eq!(other.stats().accepted(), 0, "an open proxy");
}

/// What a client gets of a VIP whose service is taken back: refused or reset, never taken and left alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_taken_back_ends_at_its_virtual_address_too() {
    let app = witness(true).await.unwrap();
    let service = service("echo", app.address());
    let star = pair(&service).await;
    let ways = star.ways(&service).await.unwrap();
    star.peers[0].cluster.keep_local(&service).unwrap();
    let gone = |imports: &serde_json::Value| imports["imports"].as_array().is_some_and(Vec::is_empty);
    star.east
        .until("imports", "the import's end", gone)
        .await
        .unwrap();
    for way in &ways {
        let tried = timeout(PATIENCE, async {
            let mut stream = way.connect().await?;
            exchange(&mut stream, b"are you still there?")
                .await
                .map_err(Failure::from)
        });
        assert!(tried.await.unwrap().is_err(), "{way:?}");
    }
    assert_eq!(app.state().count(|_| true), 0);
}
