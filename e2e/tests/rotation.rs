//! Roots that rotate under load: a planned rotation fails no request, an emergency removal cuts what depends on the root.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed"
)]

mod common;

use std::time::Duration;

use common::{Node, PATIENCE, until};
use strait_e2e::{
    apps::{self, App},
    client::{Dial, Load, LoadSpec, tally},
};
use tokio::time::{Instant, sleep};

const GREETER: &str = "greeter.demo.svc.clusterset.local";

struct World {
    east: Node,
    west: Node,
    _app: App<apps::http::Greeter>,
}

/// East imports from west, joined by token.
async fn world() -> World {
    let (mut east, mut west) = (Node::new("east"), Node::new("west"));
    let app = apps::http::greeter(apps::loopback(), "west").await.unwrap();
    west.serve("greeter", 8080, app.address(), true);
    east.start().await;
    west.start().await;
    let token = east.invite("west").await;
    west.ok(&["join", &token, "--name", "east"]).await;
    west.edit(
        "east.yaml",
        "exports: []",
        "exports: [{namespace: demo, name: greeter}]",
    );
    east.edit(
        "west.yaml",
        "imports: []",
        "imports: [{namespace: demo, name: greeter}]",
    );
    let world = World {
        east,
        west,
        _app: app,
    };
    until("served", async || {
        let load = world.load("probe");
        sleep(Duration::from_millis(200)).await;
        let outcomes = load.stop().await;
        !outcomes.is_empty() && outcomes.iter().all(|o| o.result.is_ok())
    })
    .await;
    world
}

impl World {
    fn load(&self, prefix: &str) -> Load {
        Load::start(LoadSpec {
            dial: Dial::Socks {
                proxy: self.east.socks(),
                host: GREETER.into(),
                port: 8080,
            },
            host: GREETER.into(),
            every: Duration::from_millis(20),
            patience: Duration::from_secs(10),
            prefix: prefix.into(),
        })
    }
}

/// The key hash of the root that issues, and the phase.
async fn rotation(node: &Node) -> (String, String) {
    let view = node.json(&["rotate-root", "--status"]).await;
    let text = |field: &str| view[field].as_str().unwrap_or_default().to_owned();
    (text("current"), text("phase"))
}

#[tokio::test]
async fn a_planned_rotation_of_either_side_fails_no_request() {
    let world = world().await;
    let load = world.load("planned");
    for node in [&world.west, &world.east] {
        let (before, _) = rotation(node).await;
        node.ok(&["rotate-root"]).await;
        until("the new root issues", async || rotation(node).await.0 != before).await;
    }
    for node in [&world.west, &world.east] {
        until("the old root is retired", async || {
            rotation(node).await.1 == "Stable"
        })
        .await;
    }
    // Well after the last step, when nothing may rest on the old roots any more.
    sleep(Duration::from_secs(1)).await;
    let outcomes = load.stop().await;
    assert!(outcomes.len() > 50, "{}", outcomes.len());
    let failed: Vec<_> = outcomes.iter().filter(|o| o.result.is_err()).collect();
    let told = world.east.lines_with(&["access", "outbound", "demo/greeter"]);
    assert!(
        failed.is_empty(),
        "{failed:?}\n{}\n{}\n{}",
        told.join("\n"),
        world.east.tail(),
        world.west.tail()
    );
    println!("{:?}", tally(&outcomes));
    for (node, peer) in [(&world.east, "west"), (&world.west, "east")] {
        node.until_condition(peer, "Trusted", "Trusted").await;
    }
}

#[tokio::test]
async fn an_emergency_removal_cuts_what_rests_on_the_root_and_the_peer_follows() {
    let world = world().await;
    // The next root is known to the peer before the old one must go: else it would have to join again.
    let (old, _) = rotation(&world.west).await;
    let start = world.west.json(&["rotate-root"]).await;
    assert!(start["next"].is_string(), "{start}");
    until("the peer holds the next root", async || {
        world.east.federation("west").await["bundleSequence"].as_u64() >= Some(2)
    })
    .await;
    // Tunnels that exist now may rest on either root; after the removal none may rest on the old one.
    let before = tunnels(&world.east).await;
    let removed = Instant::now();
    world.west.ok(&["rotate-root", "--remove", &old]).await;
    until("the old tunnels are gone", async || {
        let now = shown(&world.east).await;
        before.iter().all(|id| !now.contains(id))
    })
    .await;
    let took = removed.elapsed();
    assert!(took < Duration::from_secs(5), "it took {took:?}");
    assert_ne!(rotation(&world.west).await.0, old);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let load = world.load("after");
        sleep(Duration::from_millis(300)).await;
        let outcomes = load.stop().await;
        if !outcomes.is_empty() && outcomes.iter().all(|o| o.result.is_ok()) {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "{outcomes:?}\n{}\n{}",
            world.east.tail(),
            world.west.tail()
        );
    }
    world.east.until_condition("west", "Trusted", "Trusted").await;
}

#[tokio::test]
#[ignore = "a cluster does not yet cut tunnels under its own removed root when the peer cannot be told"]
async fn removing_the_only_root_cuts_the_own_tunnels_that_rest_on_it() {
    let world = world().await;
    let (old, _) = rotation(&world.west).await;
    let before = tunnels(&world.east).await;
    let removed = Instant::now();
    world.west.ok(&["rotate-root", "--remove", &old]).await;
    until("every tunnel of the old root is cut", async || {
        let now = shown(&world.east).await;
        before.iter().all(|id| !now.contains(id))
    })
    .await;
    assert!(
        removed.elapsed() < Duration::from_secs(5),
        "{:?}",
        removed.elapsed()
    );
}

#[tokio::test]
async fn a_peer_that_knew_only_the_removed_root_refuses_the_new_one_until_a_new_join() {
    let world = world().await;
    let (old, _) = rotation(&world.west).await;
    world.west.ok(&["rotate-root", "--remove", &old]).await;
    let refused = "strait_tunnel_refused_total{reason=\"UntrustedRoot\"}";
    until("refused by reason", async || {
        world.east.figures().await.get(refused) >= 1.0
    })
    .await;
    // A new token brings it back.
    let token = world.east.invite("west").await;
    world.west.ok(&["join", &token, "--name", "east"]).await;
    until("served again", async || {
        let load = world.load("again");
        sleep(Duration::from_millis(300)).await;
        let outcomes = load.stop().await;
        !outcomes.is_empty() && outcomes.iter().all(|o| o.result.is_ok())
    })
    .await;
    world.east.until_condition("west", "Trusted", "Trusted").await;
}

/// Ids of the tunnels that are shown.
async fn shown(node: &Node) -> Vec<u64> {
    let all = node.json(&["get", "tunnels"]).await;
    all.as_array()
        .unwrap()
        .iter()
        .filter_map(|t| t["id"].as_u64())
        .collect()
}

/// Ids of a node's tunnels, of which one carries data: what is shown is up to a second old.
async fn tunnels(node: &Node) -> Vec<u64> {
    until("a data tunnel is shown", async || {
        node.json(&["get", "tunnels"])
            .await
            .to_string()
            .contains("\"data\"")
    })
    .await;
    shown(node).await
}
