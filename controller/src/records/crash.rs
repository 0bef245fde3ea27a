//! Crash points: kills the process at the n-th durable step, so that a test can walk through every one of them.
//!
//! Built with the feature `crash-points` only, which no shipped binary has. Called by [`super::FileDisk`] before each step that
//! changes the disk. `STRAIT_CRASH_AT` is n, counted from 1; with `STRAIT_CRASH_ARMED` steps count only while the file it names
//! exists, so that a start can be told from what comes after it.

use std::{
    path::PathBuf,
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::process::{Signal, getpid, kill_process};

static PLAN: LazyLock<Option<Plan>> = LazyLock::new(Plan::from_env);

struct Plan {
    at: u64,
    armed: Option<PathBuf>,
    taken: AtomicU64,
}

impl Plan {
    fn from_env() -> Option<Self> {
        let at = std::env::var("STRAIT_CRASH_AT").ok()?.parse().ok()?;
        Some(Self {
            at,
            armed: std::env::var_os("STRAIT_CRASH_ARMED").map(PathBuf::from),
            taken: AtomicU64::new(0),
        })
    }
}

/// One step is about to be taken.
pub(super) fn step() {
    let Some(plan) = &*PLAN else { return };
    if plan.armed.as_ref().is_some_and(|file| !file.exists()) {
        return;
    }
    if plan.taken.fetch_add(1, Ordering::SeqCst) + 1 == plan.at {
        // As `kill -9`: no destructor, no handler, no core file.
        let _ = kill_process(getpid(), Signal::KILL);
        loop {
            std::thread::park();
        }
    }
}
