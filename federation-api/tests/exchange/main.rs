//! The exchange, both sides of it, in virtual time: links break at any step, either side crashes and restarts with or without its
//! cache, sources fail, bytes are damaged. After quiescence each side must hold what the other offers; on the way nothing may be
//! withdrawn without cause and no older epoch may be heard.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "the helpers of a test may panic as the test may"
)]

mod rules;
mod sim;
mod talk;

/// Seeds of one test: a second or two for each test.
const SEEDS: u64 = 1_000;
/// Nights are long: half a minute of heartbeats for two thousand of them.
const NIGHT_SEEDS: u64 = 60;

/// Runs the seeds from `first` on; the seed and step of a failure are in its message. `EXCHANGE_SEED=n` runs one,
/// `EXCHANGE_SEEDS=n` that many.
fn run(first: u64, count: u64, plan: sim::Plan) {
    let number = |name| std::env::var(name).ok().and_then(|s| s.parse::<u64>().ok());
    let seeds = match number("EXCHANGE_SEED") {
        Some(seed) => seed..seed + 1,
        None => first..first + number("EXCHANGE_SEEDS").unwrap_or(count),
    };
    for seed in seeds {
        let outcome = std::panic::catch_unwind(|| sim::World::new(seed, plan).run());
        assert!(
            outcome.is_ok(),
            "failed with EXCHANGE_SEED={seed} and {plan:?}; see the message above"
        );
    }
}

#[test]
fn converges_over_lossy_links() {
    run(0, SEEDS, sim::Plan::default());
}

#[test]
fn converges_when_either_side_crashes_at_any_step() {
    let plan = sim::Plan {
        crashes: true,
        ..Default::default()
    };
    run(10_000, SEEDS, plan);
}

#[test]
fn converges_with_failing_sources_and_damaged_objects() {
    let plan = sim::Plan {
        crashes: true,
        source_errors: true,
        damage: true,
        ..Default::default()
    };
    run(20_000, SEEDS, plan);
}

#[test]
fn converges_under_a_tight_limit() {
    let plan = sim::Plan {
        crashes: true,
        limit: Some(4),
        damage: true,
        ..Default::default()
    };
    run(30_000, SEEDS, plan);
}

#[test]
fn a_restored_old_epoch_is_never_heard() {
    let plan = sim::Plan {
        crashes: true,
        rollbacks: true,
        ..Default::default()
    };
    run(40_000, SEEDS, plan);
}

#[test]
fn entries_live_until_nothing_reached_the_peer_for_a_day() {
    let plan = sim::Plan {
        crashes: true,
        long_nights: true,
        ..Default::default()
    };
    run(50_000, NIGHT_SEEDS, plan);
}
