//! The demo as its users run it: the story must hold, must fail when what it shows is broken, and must leave nothing behind.
//!
//! Each test runs three real clusters; they run one after the other, so that none starves another.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    fs,
    io::{BufRead as _, BufReader, Lines},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;

/// Longest wait for clean-up.
const PATIENCE: Duration = Duration::from_secs(20);

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

struct Demo {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    temp: tempfile::TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Demo {
    fn start(args: &[&str]) -> Self {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        // A folder of our own, so that what is left can be seen.
        let temp = tempfile::tempdir().unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_strait"))
            .args(["demo", "--output", "json"])
            .args(args)
            .env("TMPDIR", temp.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self {
            child,
            lines,
            temp,
            _turn: turn,
        }
    }

    fn step(&mut self) -> Option<Value> {
        self.lines
            .next()
            .map(|line| serde_json::from_str(&line.unwrap()).unwrap())
    }

    fn rest(&mut self) -> Vec<Value> {
        std::iter::from_fn(|| self.step()).collect()
    }

    fn exit_code(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }

    fn is_clean(&self) -> bool {
        fs::read_dir(self.temp.path()).unwrap().count() == 0
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Every process id the first step tells.
fn pids(started: &Value) -> Vec<i32> {
    let clusters = started["figures"]["pids"].as_object().unwrap().values();
    clusters
        .flat_map(|pids| pids.as_array().unwrap())
        .map(|pid| i32::try_from(pid.as_i64().unwrap()).unwrap())
        .collect()
}

fn pid(raw: i32) -> Pid {
    Pid::from_raw(raw).unwrap()
}

fn eventually(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "never {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn story_holds(args: &[&str]) {
    let mut demo = Demo::start(args);
    let steps = demo.rest();
    let told: Vec<_> = steps.iter().map(|step| step["text"].as_str().unwrap()).collect();
    assert!(steps.len() >= 8, "{told:#?}");
    assert!(steps.iter().all(|step| step["ok"] == true), "{told:#?}");
    assert_eq!(demo.exit_code(), Some(0));
    assert!(demo.is_clean());
}

#[test]
fn the_story_holds_by_invite() {
    story_holds(&["--exit"]);
}

#[test]
fn the_story_holds_with_static_trust_and_with_west_dialling_out_only() {
    story_holds(&["--exit", "--static-trust", "--dial-out-only"]);
}

#[test]
fn with_north_dead_the_demo_fails_and_names_the_step() {
    let mut demo = Demo::start(&["--exit"]);
    let started = demo.step().unwrap();
    while demo.step().unwrap()["name"] != "steady-traffic" {}
    let north = i32::try_from(started["figures"]["pids"]["north"][0].as_i64().unwrap()).unwrap();
    kill_process(pid(north), Signal::KILL).unwrap();
    let last = demo.rest().pop().unwrap();
    assert_eq!(
        (&last["ok"], &last["name"]),
        (&Value::Bool(false), &Value::from("west-killed"))
    );
    assert_eq!(demo.exit_code(), Some(1));
    assert!(demo.is_clean());
}

#[test]
fn a_killed_demo_leaves_no_process_and_no_folder() {
    let mut demo = Demo::start(&[]);
    let pids = pids(&demo.step().unwrap());
    demo.step().unwrap();
    kill_process(pid(i32::try_from(demo.child.id()).unwrap()), Signal::KILL).unwrap();
    demo.exit_code();
    eventually("without processes", || pids.iter().all(|&raw| is_gone(raw)));
    eventually("without a folder", || demo.is_clean());
}

/// Gone, or a zombie that waits for whoever adopted it.
fn is_gone(raw: i32) -> bool {
    let stat = PathBuf::from(format!("/proc/{raw}/stat"));
    test_kill_process(pid(raw)).is_err() || is_zombie(&stat)
}

fn is_zombie(stat: &Path) -> bool {
    fs::read_to_string(stat)
        .is_ok_and(|text| text.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z')))
}

#[test]
fn an_interrupted_demo_leaves_nothing_and_did_not_hold() {
    let mut demo = Demo::start(&[]);
    let pids = pids(&demo.step().unwrap());
    kill_process(pid(i32::try_from(demo.child.id()).unwrap()), Signal::INT).unwrap();
    assert_eq!(demo.exit_code(), Some(1), "interrupted before the story was told");
    assert!(pids.iter().all(|&raw| is_gone(raw)));
    assert!(demo.is_clean());
}
