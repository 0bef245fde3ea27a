//! `kill -9` of either side at every durable step of joining: it ends joined, or the same command makes it so.
//!
//! The program is `strait` with crash points (feature `crash-points`), which kills itself before the n-th step that changes the
//! disk once it is armed. n is walked from 1 until a join comes through without a death.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed"
)]

mod common;

use std::time::Duration;

use common::{Node, told, until};
use strait_e2e::process::crash_binary;
use tokio::time::{Instant, sleep};

/// Fewer steps than this would mean that the crash points are not where joins write.
const STEPS_MIN: u32 = 12;
/// More than any join takes.
const STEPS_MAX: u32 = 200;
/// A join that is not through by now waits for somebody dead.
const DEATH: Duration = Duration::from_millis(1500);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Inviter,
    Joiner,
}

/// Lets `node` die before step `n` once it is armed.
fn doom(node: &mut Node, n: u32) {
    let armed = node.dir().join("armed").display().to_string();
    let variables = vec![
        ("STRAIT_CRASH_AT".to_owned(), n.to_string()),
        ("STRAIT_CRASH_ARMED".to_owned(), armed),
    ];
    let binary = crash_binary().expect("the program with crash points");
    node.cluster.run_instead(Some((binary, variables)));
}

/// One join during which `side` dies at its step `n`. False if it came through alive.
async fn dies(side: Side, n: u32) -> bool {
    let (mut east, mut west) = (Node::new("east"), Node::new("west"));
    doom(
        if side == Side::Inviter {
            &mut east
        } else {
            &mut west
        },
        n,
    );
    east.launch();
    west.launch();
    east.ready().await;
    west.ready().await;
    let token = east.invite("west").await;
    let victim = if side == Side::Inviter { &east } else { &west };
    std::fs::write(victim.dir().join("armed"), "").unwrap();
    let join = ["join", &token, "--name", "east", "--wait", "20s"];
    let (said, died) = {
        let command = west.strait(&join);
        tokio::pin!(command);
        let mut said = None;
        let mut quiet_since = None;
        let died = loop {
            tokio::select! {
                output = &mut command, if said.is_none() => {
                    said = Some(output);
                    quiet_since = Some(Instant::now());
                }
                () = sleep(Duration::from_millis(30)) => {}
            }
            if !is_alive(victim) {
                break true;
            }
            if quiet_since.is_some_and(|since| since.elapsed() > DEATH) {
                break false;
            }
        };
        let said = match said {
            Some(said) => Some(said),
            // The command ends when the process it speaks to does; when the other one died, it waits: that is what it is for.
            None if side == Side::Joiner => Some(command.await),
            None => None,
        };
        (said, died)
    };
    if !died {
        joined(side, n, &east, &west).await;
        return false;
    }
    let victim = if side == Side::Inviter {
        &mut east
    } else {
        &mut west
    };
    never_half_trusted(side, n, victim).await;
    if !said.is_some_and(|said| said.status.success()) {
        // What the operator does: the same command again. It may have been done before the death.
        let again = west
            .strait(&["join", &token, "--name", "east", "--wait", "40s"])
            .await;
        assert!(
            again.status.success(),
            "{side:?} at {n}: {}\n{}\n{}",
            told(&again),
            east.tail(),
            west.tail()
        );
    }
    joined(side, n, &east, &west).await;
    true
}

fn is_alive(node: &Node) -> bool {
    node.cluster.pid().is_some_and(strait_e2e::process::is_alive)
}

/// The victim comes back with its records whole: it starts, and what it trusts it trusts with a bundle.
async fn never_half_trusted(side: Side, n: u32, victim: &mut Node) {
    victim.cluster.run_instead(None);
    victim.kill().await;
    victim.start().await;
    let peer = if side == Side::Inviter { "west" } else { "east" };
    let federation = victim.federation(peer).await;
    if common::condition(&federation, "Trusted") == "Trusted" {
        assert!(
            federation["bundleSequence"].as_u64() >= Some(1),
            "{side:?} at {n}: {federation}"
        );
        assert!(
            federation["trustDomain"].is_string(),
            "{side:?} at {n}: {federation}"
        );
    }
}

async fn joined(side: Side, n: u32, east: &Node, west: &Node) {
    println!("{side:?} at {n}");
    for (node, peer) in [(east, "west"), (west, "east")] {
        node.until_condition(peer, "Trusted", "Trusted").await;
        node.until_condition(peer, "Synced", "Synced").await;
    }
    until("the secret is erased", async || {
        east.json(&["invite", "--list"]).await[0]["state"] == "Trusted"
    })
    .await;
    until("the joiner's token is erased", async || {
        !west.state().join("tokens/east.token").exists()
    })
    .await;
}

async fn walk(side: Side) {
    let started = Instant::now();
    for n in 1..STEPS_MAX {
        if !dies(side, n).await {
            assert!(n > STEPS_MIN, "only {} steps were found", n - 1);
            println!("{side:?}: {} deaths in {:?}", n - 1, started.elapsed());
            return;
        }
    }
    panic!("no join came through within {STEPS_MAX} steps");
}

#[tokio::test]
async fn the_joiner_is_killed_at_every_step() {
    walk(Side::Joiner).await;
}

#[tokio::test]
async fn the_inviter_is_killed_at_every_step() {
    walk(Side::Inviter).await;
}
