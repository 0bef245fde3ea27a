//! Strait beside a rival, in the same run on the same machine.
//!
//! Owns the rig (two network namespaces), the gateways on both sides, the load and the report. Never compares with figures from
//! another run: every ratio is of two measurements made one after the other. Needs root and Linux. Called by `strait-e2e bench`.

mod envoy;
pub mod load;
mod measure;
mod report;
mod rig;
mod strait;

use std::{path::PathBuf, time::Duration};

use crate::process::{Process, ProcessError};

pub use report::Report;

/// Why a bench gave no figures.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// Not root, not Linux, or a tool is missing.
    #[error("the bench needs {0}")]
    Needs(String),
    /// A command of the rig failed.
    #[error("`{command}` failed: {detail}")]
    Command {
        /// The command.
        command: String,
        /// Its words.
        detail: String,
    },
    /// A gateway or load generator.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// Files or pipes.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// Certificates for the rival.
    #[error("certificates for the rival: {0}")]
    Certificates(#[from] rcgen::Error),
    /// The load generator said something else than figures.
    #[error("{0}")]
    Load(String),
}

/// What is run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Systems, in the order of the first round; the order turns with each round.
    pub systems: Vec<System>,
    /// Measurements.
    pub metrics: Vec<Metric>,
    /// Rounds: each measures every metric on every system once.
    pub rounds: u32,
    /// Length of one measurement after its warm-up.
    pub length: Duration,
    /// Data workers of each gateway, Strait and rival alike.
    pub workers: u16,
}

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum System {
    /// Two `strait run`.
    Strait,
    /// Two Envoys, HTTP/2 CONNECT over mTLS.
    Envoy,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// Bytes per second over one connection.
    Bulk1,
    /// Bytes per second over eight connections.
    Bulk8,
    /// Requests per second over 64 kept connections.
    Requests,
    /// New connections with one request each, per second.
    Connections,
    /// Bytes of memory an idle connection costs, both gateways together.
    IdleMemory,
}

impl Metric {
    /// All, in the order of the report.
    pub const ALL: [Self; 5] = [
        Self::Bulk1,
        Self::Bulk8,
        Self::Requests,
        Self::Connections,
        Self::IdleMemory,
    ];

    /// A smaller figure is the better one.
    #[must_use]
    pub const fn less_is_better(self) -> bool {
        matches!(self, Self::IdleMemory)
    }

    /// Name and unit.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Bulk1 => "bulk, 1 stream (Gbit/s)",
            Self::Bulk8 => "bulk, 8 streams (Gbit/s)",
            Self::Requests => "requests/s, 64 connections",
            Self::Connections => "new connections/s",
            Self::IdleMemory => "memory per idle connection (bytes)",
        }
    }
}

/// Two gateways that carry a port of one namespace to the server in the other.
struct Pair {
    system: System,
    near: Process,
    far: Process,
    /// Where the load goes, in the near namespace.
    entry: std::net::SocketAddr,
    /// Kept until the end: configuration and state.
    _dir: tempfile::TempDir,
}

impl Pair {
    /// Ends both and waits until they are gone, so that their ports are free.
    async fn stop(&mut self) {
        self.near.kill9().await;
        self.far.kill9().await;
    }
}

async fn start(rig: &rig::Rig, system: System, workers: u16) -> Result<Pair, BenchError> {
    eprintln!("starting {system:?}");
    let pair = match system {
        System::Strait => strait::start(rig, workers).await?,
        System::Envoy => envoy::start(rig, workers).await?,
    };
    measure::wait_until_it_carries(rig, &pair).await?;
    Ok(pair)
}

/// Runs the plan. Progress goes to standard error.
///
/// # Errors
/// [`BenchError`]; everything started is gone then.
pub async fn run(plan: &Plan) -> Result<Report, BenchError> {
    let rig = rig::Rig::build()?;
    let server = rig.server().await?;
    let mut pairs = Vec::new();
    for &system in &plan.systems {
        pairs.push(start(&rig, system, plan.workers).await?);
    }
    let mut report = Report::new(plan);
    for round in 0..plan.rounds {
        for &metric in &plan.metrics {
            for turn in 0..pairs.len() {
                let at = (turn + round as usize) % pairs.len();
                if metric == Metric::IdleMemory {
                    // Memory freed by earlier load would be used again and hide the cost: only a fresh pair shows it.
                    pairs[at].stop().await;
                    pairs[at] = start(&rig, pairs[at].system, plan.workers).await?;
                }
                let pair = &pairs[at];
                let figure = measure::measure(&rig, pair, metric, plan.length).await?;
                eprintln!(
                    "round {} {:?} {}: {figure:.1}",
                    round + 1,
                    pair.system,
                    metric.title()
                );
                report.add(pair.system, metric, figure);
            }
        }
    }
    drop(server);
    Ok(report)
}

/// Where things fetched once are kept, outside the source tree: `$XDG_CACHE_HOME/strait-e2e`, else `~/.cache/strait-e2e`.
fn cache_dir() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(".cache");
    std::env::var_os("XDG_CACHE_HOME")
        .map_or_else(home, PathBuf::from)
        .join("strait-e2e")
}
