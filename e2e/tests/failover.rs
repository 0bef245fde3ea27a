//! What clients see when a cluster dies, vanishes, drains and returns.
//!
//! Three real clusters: east imports the greeter of west, and that of north for when west is away.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use strait_e2e::{
    apps::{
        self, App, eventually,
        http::Greeter,
        loopback,
        witness::{End, Witness, witness},
    },
    client::{Failure, Load, LoadSpec, Outcome, get, tally},
    cluster::{PATIENCE, PeerSpec, Service, Star, greeter_service},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::{sleep, timeout},
};

const HOST: &str = "greeter.demo.svc.clusterset.local";
/// What is promised after a kill, at round trips up to 80 ms.
const AFTER_KILL: Duration = Duration::from_millis(300);
/// What is promised after a black hole.
const AFTER_CUT: Duration = Duration::from_secs(1);
/// The promises are of the data path. Here an unoptimised build shares two cores with the load, four clusters' worth of apps, links and
/// other tests, and reads its sockets late; only a bug takes three times as long.
const SLACK: u32 = 3;
/// A stream to a silent peer ends after 10 s of silence; the rest is the slack above and the ping that has to go unanswered first.
const NEVER_HANGS: Duration = Duration::from_secs(30);
/// Time between two requests of the load.
const EVERY: Duration = Duration::from_millis(20);
/// A request that takes longer has failed: three attempts have 10 s together.
const REQUEST: Duration = Duration::from_secs(12);
/// Load before and after each event.
const WHILE: Duration = Duration::from_secs(3);

struct Trio {
    star: Star,
    _greeters: [App<Greeter>; 2],
    witness: App<Witness>,
    rtt: Duration,
    services: [Vec<Service>; 2],
}

impl Trio {
    async fn start(rtt: Duration) -> Self {
        let west = apps::http::greeter(loopback(), "west").await.unwrap();
        let north = apps::http::greeter(loopback(), "north").await.unwrap();
        let witness = witness(true).await.unwrap();
        let long = Service::new("demo", "long", 9000, witness.address());
        let services = [
            vec![greeter_service(west.address()), long],
            vec![greeter_service(north.address())],
        ];
        let star = Star::start("", &specs(&services, rtt)).await.unwrap();
        // Both clusters behind the one name, before anything is judged.
        star.east
            .until_imported("demo/greeter", &["west", "north"])
            .await
            .unwrap();
        Self {
            star,
            _greeters: [west, north],
            witness,
            rtt,
            services,
        }
    }

    fn load(&self) -> Load {
        Load::start(LoadSpec {
            dial: self.star.east.socks("demo", "greeter", 8080),
            host: HOST.to_owned(),
            every: EVERY,
            patience: REQUEST,
            prefix: "r".to_owned(),
        })
    }

    /// Connections to west's witness on which nothing moves.
    async fn long_streams(&self, count: u64) -> Vec<TcpStream> {
        let mut streams = Vec::new();
        for id in 0..count {
            let mut stream = self
                .star
                .east
                .socks("demo", "long", 9000)
                .connect()
                .await
                .unwrap();
            stream.write_all(&id.to_be_bytes()).await.unwrap();
            echo(&mut stream).await.unwrap();
            streams.push(stream);
        }
        streams
    }

    async fn until_served_by(&self, cluster: &str) {
        let dial = self.star.east.socks("demo", "greeter", 8080);
        let served = async {
            loop {
                let answer = get(&dial, HOST, "/", None, REQUEST).await;
                if answer.is_ok_and(|a| a.cluster().as_deref() == Some(cluster)) {
                    return;
                }
                sleep(EVERY).await;
            }
        };
        timeout(PATIENCE, served).await.unwrap();
    }

    async fn until_whole(&self) {
        self.star
            .until_whole(&specs(&self.services, self.rtt))
            .await
            .unwrap();
    }

    fn west(&mut self) -> &mut strait_e2e::cluster::Peer {
        &mut self.star.peers[0]
    }
}

fn specs(services: &[Vec<Service>; 2], rtt: Duration) -> [PeerSpec<'static>; 2] {
    let spec = |id, at: usize| PeerSpec {
        id,
        services: services[at].clone(),
        priority: u16::try_from(at + 1).unwrap(),
        rtt,
    };
    [spec("west", 0), spec("north", 1)]
}

async fn echo(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(b"ping").await?;
    stream.read_exact(&mut [0; 4]).await.map(drop)
}

/// Every one ends with an error, not as if all had been said.
async fn all_reset(streams: Vec<TcpStream>) {
    for mut stream in streams {
        let end = timeout(NEVER_HANGS, stream.read(&mut [0; 1])).await;
        assert!(
            end.expect("a stream hangs").is_err(),
            "a clean end that nobody sent"
        );
    }
}

/// Nothing that was started at `since` or later failed, and only `cluster` served it.
fn none_failed(outcomes: &[Outcome], since: Duration, cluster: &str) {
    let later: Vec<_> = outcomes.iter().filter(|o| o.started >= since).cloned().collect();
    assert!(later.len() > 20, "only {} requests", later.len());
    let failed: Vec<_> = later.iter().filter(|o| o.result.is_err()).collect();
    assert!(failed.is_empty(), "started after {since:?}: {failed:?}");
    assert_eq!(tally(&later).keys().collect::<Vec<_>>(), [cluster]);
}

/// No request at all failed.
fn not_one_failed(outcomes: &[Outcome]) {
    let failed: Vec<_> = outcomes.iter().filter(|o| o.result.is_err()).collect();
    assert!(failed.is_empty(), "of {}: {failed:?}", outcomes.len());
}

/// What failed before that failed at once and loudly.
fn failures_are_resets(outcomes: &[Outcome]) {
    for outcome in outcomes {
        let loud = matches!(&outcome.result, Ok(_) | Err(Failure::Reset | Failure::Socks(_)));
        assert!(loud, "{outcome:?}");
    }
}

async fn dies(trio: &mut Trio, load: &Load, bound: Duration, kill: bool) -> Duration {
    sleep(WHILE).await;
    let at = load.now();
    if kill {
        trio.west().cluster.kill9().await.unwrap();
    } else {
        trio.west().link.cut();
    }
    sleep(WHILE + bound * SLACK).await;
    at
}

async fn killed_at(rtt: Duration) {
    let mut trio = Trio::start(rtt).await;
    let streams = trio.long_streams(4).await;
    trio.until_served_by("west").await;
    let load = trio.load();
    let at = dies(&mut trio, &load, AFTER_KILL, true).await;
    // Long enough for requests under way to be recorded.
    all_reset(streams).await;
    let outcomes = load.stop().await;
    let before: Vec<_> = outcomes
        .iter()
        .filter(|o| o.started + o.took < at)
        .cloned()
        .collect();
    assert_eq!(tally(&before).keys().collect::<Vec<_>>(), ["west"]);
    none_failed(&outcomes, at + AFTER_KILL * SLACK, "north");
    failures_are_resets(&outcomes);

    // It returns on the same state: little by little, and nobody is hurt.
    let load = trio.load();
    trio.west().cluster.start().await.unwrap();
    returns(&trio, load).await;
}

/// Traffic comes back to west step by step.
async fn returns(trio: &Trio, load: Load) {
    trio.until_whole().await;
    trio.until_served_by("west").await;
    sleep(WHILE).await;
    let outcomes = load.stop().await;
    not_one_failed(&outcomes);
    let first = outcomes.iter().position(|o| o.result.as_deref() == Ok("west"));
    let after = &outcomes[first.expect("west serves again")..];
    let north = after
        .iter()
        .filter(|o| o.result.as_deref() == Ok("north"))
        .count();
    // The first step back is a tenth of the traffic for a second: about 45 of 50 requests still go north in it.
    assert!(north >= 10, "all at once: {:?}", tally(after));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_gateway_on_a_short_path() {
    killed_at(Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_gateway_on_a_path_of_80_ms() {
    killed_at(Duration::from_millis(80)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_vanishes_and_returns() {
    let mut trio = Trio::start(Duration::from_millis(40)).await;
    let streams = trio.long_streams(4).await;
    trio.until_served_by("west").await;
    let load = trio.load();
    let at = dies(&mut trio, &load, AFTER_CUT, false).await;
    all_reset(streams).await;
    let outcomes = load.stop().await;
    none_failed(&outcomes, at + AFTER_CUT * SLACK, "north");
    failures_are_resets(&outcomes);
    // Its side ends too: nobody keeps half a connection for ever.
    let over = || trio.witness.state().count(|end| end == End::Open) == 0;
    eventually(NEVER_HANGS, over).await.unwrap();
    assert_eq!(trio.witness.state().count(|end| end == End::Reset), 4);

    let load = trio.load();
    trio.west().link.mend();
    returns(&trio, load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_drains_fails_nobody() {
    let mut trio = Trio::start(Duration::from_millis(40)).await;
    let mut streams = trio.long_streams(2).await;
    trio.until_served_by("west").await;
    let load = trio.load();
    sleep(WHILE).await;
    let west = trio.west().cluster.process().unwrap();
    west.terminate();
    trio.until_served_by("north").await;
    // The grace period: what runs goes on.
    for stream in &mut streams {
        timeout(PATIENCE, echo(stream)).await.unwrap().unwrap();
    }
    let status = trio
        .west()
        .cluster
        .process()
        .unwrap()
        .wait(PATIENCE)
        .await
        .unwrap();
    assert!(status.success(), "{status}");
    all_reset(streams).await;
    sleep(WHILE).await;
    not_one_failed(&load.stop().await);

    let load = trio.load();
    trio.west().cluster.start().await.unwrap();
    returns(&trio, load).await;
}

/// The address that east's DNS gives for the greeter.
async fn resolved(trio: &Trio) -> Option<IpAddr> {
    let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in HOST.split('.') {
        query.push(u8::try_from(label.len()).unwrap());
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    let socket = UdpSocket::bind(loopback()).await.unwrap();
    socket
        .send_to(&query, trio.star.east.addresses().dns)
        .await
        .unwrap();
    let mut answer = [0; 512];
    let length = timeout(PATIENCE, socket.recv(&mut answer))
        .await
        .unwrap()
        .unwrap();
    // One A record, its four bytes of data before whatever EDNS adds; found behind type, class, TTL and length.
    let is_answer = answer[3] & 15 == 0 && answer[7] == 1;
    let behind = answer[query.len()..length].get(12..16)?;
    is_answer.then(|| IpAddr::from(<[u8; 4]>::try_from(behind).unwrap()))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_own_restart_with_all_peers_away_serves_the_names_it_knew() {
    let mut trio = Trio::start(Duration::ZERO).await;
    let vip = trio
        .star
        .east
        .until_imported("demo/greeter", &["west", "north"])
        .await
        .unwrap();
    assert_eq!(resolved(&trio).await, Some(vip));
    for peer in &trio.star.peers {
        peer.link.cut();
    }
    trio.star.east.kill9().await.unwrap();
    trio.star.east.start().await.unwrap();
    assert_eq!(resolved(&trio).await, Some(vip), "the name after the restart");
    let imports = trio.star.east.get("imports").await.unwrap();
    let greeter = imports["imports"]
        .as_array()
        .unwrap()
        .iter()
        .find(|i| i["service"] == "demo/greeter");
    assert_eq!(greeter.expect("the import is kept")["vips"][0], vip.to_string());
    // It listens there, and says no instead of nothing.
    let refused = get(
        &trio.star.east.socks("demo", "greeter", 8080),
        HOST,
        "/",
        None,
        REQUEST,
    )
    .await;
    assert!(matches!(refused, Err(Failure::Socks(_))), "{refused:?}");
    let direct = SocketAddr::new(vip, 8080);
    let direct = get(
        &strait_e2e::client::Dial::Direct(direct),
        HOST,
        "/",
        None,
        REQUEST,
    )
    .await;
    assert!(
        matches!(direct, Err(Failure::Reset | Failure::Refused)),
        "{direct:?}"
    );

    for peer in &trio.star.peers {
        peer.link.mend();
    }
    trio.until_whole().await;
    trio.until_served_by("west").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_cache_costs_no_address_and_no_trust() {
    let mut trio = Trio::start(Duration::ZERO).await;
    let vip = trio
        .star
        .east
        .until_imported("demo/greeter", &["west", "north"])
        .await
        .unwrap();
    let trust = trio.star.east.bundle().await.unwrap();
    let west_trust = trio.star.peers[0].cluster.bundle().await.unwrap();
    trio.star.east.kill9().await.unwrap();
    trio.west().cluster.kill9().await.unwrap();
    for state in [trio.star.east.state(), trio.west().cluster.state()] {
        std::fs::remove_dir_all(state.join("cache")).expect("the cache is there");
    }
    trio.star.east.start().await.unwrap();
    trio.west().cluster.start().await.unwrap();
    assert_eq!(trio.star.east.bundle().await.unwrap(), trust);
    assert_eq!(trio.star.peers[0].cluster.bundle().await.unwrap(), west_trust);
    trio.until_whole().await;
    let again = trio
        .star
        .east
        .until_imported("demo/greeter", &["west", "north"])
        .await
        .unwrap();
    assert_eq!(again, vip);
    trio.until_served_by("west").await;
}

/// What the disk did to it, not its absence.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_cache_is_told_of_and_rebuilt() {
    let mut trio = Trio::start(Duration::ZERO).await;
    let vip = trio
        .star
        .east
        .until_imported("demo/greeter", &["west", "north"])
        .await
        .unwrap();
    trio.star.east.kill9().await.unwrap();
    let cache = trio.star.east.state().join("cache");
    let mut damaged = 0;
    for entry in std::fs::read_dir(&cache).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            std::fs::write(&path, b"not what it was").unwrap();
            damaged += 1;
        }
    }
    assert!(damaged > 0, "nothing to damage in {}", cache.display());
    trio.star.east.start().await.unwrap();
    let told = trio
        .star
        .east
        .log()
        .iter()
        .any(|line| line.contains("WARN") && line.contains("cache"));
    assert!(told, "{:#?}", trio.star.east.log());
    trio.until_whole().await;
    assert_eq!(
        trio.star
            .east
            .until_imported("demo/greeter", &["west"])
            .await
            .unwrap(),
        vip
    );
    trio.until_served_by("west").await;
}
