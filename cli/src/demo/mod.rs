//! The demo: three real clusters as processes of this very binary on the loopback network, told in steps that must hold.
//!
//! Owns the order of set-up and clean-up: whatever way the demo ends, no process and no folder is left. Called by `strait demo`.

mod ask;
mod cluster;
mod family;
mod greeter;
mod joining;
mod judge;
mod load;
mod manifests;
mod ports;
mod record;
mod request;
mod story;
mod tell;

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

pub(crate) use family::{die_with, janitor};
pub(crate) use greeter::greeter;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::sleep,
};

use self::{
    cluster::{SERVICE_NAME, SERVICE_PORT},
    family::MARKER,
    record::Outcome,
    story::{STEPS, Story},
    tell::Teller,
};
use crate::{
    args::DemoArgs,
    exit::{CliError, Exit},
};

/// Requests a second once the story is told: enough to see a change at once, too few to warm a laptop.
const QUIET_RATE: u32 = 20;
/// How often the answers are looked at once the story is told.
const LOOK: Duration = Duration::from_millis(250);
/// How long ended requests are kept once the story is told.
const MEMORY: Duration = Duration::from_secs(60);

/// Runs the demo.
pub(crate) fn demo(args: &DemoArgs) -> Result<Exit, CliError> {
    let failed = |e: io::Error| CliError::failed(format!("demo: {e}"));
    // One thread: the parent-death signal of the clusters follows the thread that started them.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed)?;
    let folder = Folder::new(args.keep).map_err(failed)?;
    let mut story = Story::new(args.clone(), &folder.path).map_err(failed)?;
    let mut outcome = None;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let run = async {
            outcome = Some(tell(args, &mut story, &folder.path).await);
            if !args.exit {
                stay(args, &mut story).await;
            }
        };
        tokio::select! {
            () = run => {}
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        Ok::<(), CliError>(())
    })?;
    drop(story);
    match outcome {
        Some(Ok(())) => Ok(Exit::Ok),
        Some(Err(step)) => Err(CliError::failed(format!("demo: step {step:?} did not hold"))),
        None => Err(CliError::failed("demo: interrupted before the story was told")),
    }
}

/// Tells the story. `Err` is the step that did not hold.
async fn tell(args: &DemoArgs, story: &mut Story, folder: &Path) -> Result<(), &'static str> {
    let teller = Teller::new(args.output, STEPS.len());
    teller.say(&format!(
        "Three Strait clusters on this machine: east, west and north. All they have is in {}\n",
        folder.display()
    ));
    let told = story.tell(&teller).await;
    match told {
        Ok(()) => teller.say("\nEvery step held."),
        Err(_) => story
            .clusters()
            .iter()
            .flat_map(|c| c.troubles())
            .for_each(|line| eprintln!("{line}")),
    }
    told
}

/// Keeps everything up and says whenever the answers change, until the demo is interrupted.
async fn stay(args: &DemoArgs, story: &mut Story) {
    let teller = Teller::new(args.output, STEPS.len());
    teller.say(&invitation(story));
    if let Some(load) = story.load() {
        load.set_rate(QUIET_RATE);
    }
    let mut last = None;
    loop {
        sleep(LOOK).await;
        let Some(load) = story.load() else { continue };
        load.forget_before(load.now().saturating_sub(MEMORY));
        let now = load.last().map(|record| in_words(&record.outcome));
        if now != last {
            teller.say(&format!("  now: {}", now.as_deref().unwrap_or("no answer yet")));
            last = now;
            // Nothing judges them any more.
            for cluster in [&story.west, &story.north] {
                let _ = fs::File::create(cluster.seen());
            }
        }
    }
}

fn in_words(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Answered { line, .. } => format!("\"{line}\""),
        Outcome::Refused(code) => format!("refused by the proxy (SOCKS code {code})"),
        Outcome::Reset(why) => format!("broken: {why}"),
        Outcome::TimedOut => "timed out".to_owned(),
        Outcome::Wrong(why) => format!("wrong answer: {why}"),
    }
}

/// What to try, with everything needed to paste.
fn invitation(story: &mut Story) -> String {
    let mut text = String::from(
        "\nAll stays up until Ctrl-C, with a quiet load. What answers is told below when it changes. Try:\n\n",
    );
    let socks = story.east.addresses.socks;
    text += &format!("  curl -x socks5h://{socks} http://{SERVICE_NAME}:{SERVICE_PORT}\n");
    let strait =
        std::env::current_exe().map_or_else(|_| "strait".to_owned(), |exe| exe.display().to_string());
    let state = story.east.state().display().to_string();
    for command in ["get imports", "get federations", "check", "status"] {
        text += &format!("  {strait} {command} --state {state}\n");
    }
    if let Ok(path) = manifests::federation(&story.east.manifests(), "north") {
        text += &format!("  edit {}: set priority of north to 0 and save\n", path.display());
    }
    text += &format!("  rm {}\n\n", manifests::export_file(&story.west).display());
    for cluster in story.clusters() {
        let pids: Vec<_> = cluster.pids().iter().map(ToString::to_string).collect();
        let admin = cluster.addresses.admin;
        text += &format!(
            "  {:<6} pids {}, manifests {}, http://{admin}/metrics\n",
            cluster.name,
            pids.join(" "),
            cluster.manifests().display()
        );
    }
    text
}

/// The demo's folder. Removed on drop, and by the janitor if there is no drop.
#[derive(Debug)]
struct Folder {
    path: PathBuf,
    janitor: Option<Child>,
}

impl Folder {
    fn new(keep: bool) -> io::Result<Self> {
        use std::os::unix::process::CommandExt as _;
        let path = tempfile::Builder::new().prefix("strait-demo-").tempdir()?.keep();
        let mut folder = Self { path, janitor: None };
        fs::write(folder.path.join(MARKER), "")?;
        if !keep {
            let mut command = Command::new(std::env::current_exe()?);
            command.arg("demo-janitor").arg(&folder.path).process_group(0);
            command
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            folder.janitor = Some(command.spawn()?);
        }
        Ok(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let Some(mut janitor) = self.janitor.take() else {
            return;
        };
        drop(janitor.stdin.take()); // its signal to clean up
        let _ = janitor.wait();
    }
}
