//! A request that was sent and not answered is never sent twice, whatever dies in the middle of it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

use std::{collections::HashMap, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use strait_e2e::{
    apps::{self, App, http::Greeter, loopback},
    client::{Failure, get},
    cluster::{PATIENCE, PeerSpec, Star, greeter_service},
};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

const HOST: &str = "greeter.demo.svc.clusterset.local";
/// Kills, each with its own seed. The model with every step of opening and many thousands of seeds is in the proxy's own tests; this
/// is the proof that the real thing follows it.
const ROUNDS: u64 = 30;
/// Requests around each kill.
const REQUESTS: u64 = 40;
/// The kill comes at a random moment of this: opening takes two round trips, and requests start all over it.
const WINDOW_MS: u64 = 120;
/// Round trip to both clusters: opening is slow enough to die in.
const RTT: Duration = Duration::from_millis(20);
/// Three attempts have 10 s; a stream to a silent peer ends after 10 s of silence.
const REQUEST: Duration = Duration::from_secs(25);

/// How a far gateway goes away in a round.
#[derive(Debug, Clone, Copy)]
enum Death {
    /// `kill -9`.
    Kill,
    /// Its packets vanish, both ways or one.
    Cut,
    /// SIGTERM.
    Drain,
    /// `kill -9` of the client's own gateway.
    OwnKill,
}

impl Death {
    fn of(round: u64) -> Self {
        [
            Self::Kill,
            Self::Kill,
            Self::Cut,
            Self::Kill,
            Self::Drain,
            Self::OwnKill,
        ][usize::try_from(round % 6).unwrap()]
    }
}

struct World {
    star: Star,
    greeters: [App<Greeter>; 2],
}

impl World {
    async fn start() -> Self {
        let west = apps::http::greeter(loopback(), "west").await.unwrap();
        let north = apps::http::greeter(loopback(), "north").await.unwrap();
        // One priority: both are used, and each is the other's second candidate.
        let spec = |id, app: &App<Greeter>| PeerSpec {
            id,
            services: vec![greeter_service(app.address())],
            priority: 1,
            rtt: RTT,
        };
        let star = Star::start("", &[spec("west", &west), spec("north", &north)])
            .await
            .unwrap();
        Self {
            star,
            greeters: [west, north],
        }
    }

    async fn round(&mut self, seed: u64) -> Vec<(String, Result<(), Failure>)> {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut requests = JoinSet::new();
        for number in 0..REQUESTS {
            let (id, wait) = (format!("{seed}-{number}"), rng.random_range(0..WINDOW_MS));
            let dial = self.star.east.socks("demo", "greeter", 8080);
            requests.spawn(async move {
                sleep(Duration::from_millis(wait)).await;
                let answer = get(&dial, HOST, "/", Some(&id), REQUEST).await;
                (id, answer.map(drop))
            });
        }
        sleep(Duration::from_millis(rng.random_range(0..WINDOW_MS))).await;
        let victim = usize::from(rng.random::<bool>());
        self.dies(Death::of(seed), victim).await;
        let results = timeout(PATIENCE, requests.join_all()).await.unwrap();
        self.returns(Death::of(seed), victim).await;
        results
    }

    async fn dies(&mut self, death: Death, victim: usize) {
        let peer = &mut self.star.peers[victim];
        match death {
            Death::Kill => peer.cluster.kill9().await.unwrap(),
            Death::Cut => peer.link.cut(),
            Death::Drain => peer.cluster.process().unwrap().terminate(),
            Death::OwnKill => self.star.east.kill9().await.unwrap(),
        }
    }

    async fn returns(&mut self, death: Death, victim: usize) {
        let peer = &mut self.star.peers[victim];
        match death {
            Death::Kill => peer.cluster.start().await.unwrap(),
            Death::Cut => peer.link.mend(),
            Death::Drain => {
                peer.cluster.process().unwrap().wait(PATIENCE).await.unwrap();
                peer.cluster.start().await.unwrap();
            }
            Death::OwnKill => self.star.east.start().await.unwrap(),
        }
        self.star
            .east
            .until_imported("demo/greeter", &["west", "north"])
            .await
            .unwrap();
    }

    /// How often each id arrived anywhere.
    fn arrived(&self) -> HashMap<String, u32> {
        let mut all = HashMap::new();
        for (id, count) in self.greeters.iter().flat_map(|greeter| greeter.state().seen()) {
            *all.entry(id).or_default() += count;
        }
        all
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_arrives_twice_whatever_dies() {
    let mut world = World::start().await;
    let (mut answered, mut failed) = (0, 0);
    for seed in 0..ROUNDS {
        for (id, result) in world.round(seed).await {
            let times = world.arrived().get(&id).copied().unwrap_or_default();
            assert!(
                times <= 1,
                "seed {seed}, {:?}: {id} arrived {times} times",
                Death::of(seed)
            );
            match result {
                Ok(()) => {
                    assert_eq!(times, 1, "seed {seed}: {id} was answered by nobody");
                    answered += 1;
                }
                Err(_) => failed += 1,
            }
        }
    }
    let repeated: Vec<_> = world
        .arrived()
        .into_iter()
        .filter(|(_, times)| *times > 1)
        .collect();
    assert!(repeated.is_empty(), "late arrivals: {repeated:?}");
    // The rounds must reach the interesting places: some die in the middle, most find another way.
    assert!(
        failed > 0 && answered > failed,
        "{answered} answered, {failed} failed"
    );
    println!("{answered} answered, {failed} failed, none twice");
}
