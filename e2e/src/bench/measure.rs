//! One measurement: load in the near namespace, a figure out.

use std::{io, time::Duration};

use super::{
    BenchError, Metric, Pair,
    load::Result as LoadResult,
    rig::{Rig, Side},
};
use crate::process::Process;

/// Idle connections held for the memory figure: many enough that the noise of an allocator's pages is small beside them.
const IDLE_CONNECTIONS: usize = 2000;
/// After the load is gone, gateways may still free what it cost.
const SETTLE: Duration = Duration::from_millis(500);
/// Beyond the measurement itself: start, warm-up, connections.
const MARGIN: Duration = Duration::from_secs(40);
/// More than this share of failed requests makes a figure worthless.
const FAILURES_MAX: f64 = 0.001;

/// Resolves when a request comes through.
pub(super) async fn wait_until_it_carries(rig: &Rig, pair: &Pair) -> Result<(), BenchError> {
    match load(rig, pair, "probe", 1, Duration::ZERO).await {
        Ok(_) => Ok(()),
        Err(error) => Err(BenchError::Load(format!(
            "{:?} does not carry: {error}\nnear:\n{}\nfar:\n{}",
            pair.system,
            pair.near.tail(),
            pair.far.tail()
        ))),
    }
}

pub(super) async fn measure(
    rig: &Rig,
    pair: &Pair,
    metric: Metric,
    length: Duration,
) -> Result<f64, BenchError> {
    let gigabits = |result: LoadResult| result.figure * 8.0 / 1e9;
    Ok(match metric {
        Metric::Bulk1 => gigabits(load(rig, pair, "bulk", 1, length).await?),
        Metric::Bulk8 => gigabits(load(rig, pair, "bulk", 8, length).await?),
        Metric::Requests => load(rig, pair, "requests", 64, length).await?.figure,
        Metric::Connections => load(rig, pair, "connections", 1, length).await?.figure,
        Metric::IdleMemory => idle_memory(rig, pair).await?,
    })
}

async fn load(
    rig: &Rig,
    pair: &Pair,
    kind: &str,
    connections: usize,
    length: Duration,
) -> Result<LoadResult, BenchError> {
    let mut process = spawn(rig, pair, kind, connections, length)?;
    let line = process.wait_for_line("{", length + MARGIN).await?;
    process.wait(MARGIN).await?;
    let result = parse(&line)?;
    if result.failures as f64 > result.figure * length.as_secs_f64() * FAILURES_MAX {
        return Err(BenchError::Load(format!(
            "{} of {kind} failed through {:?}",
            result.failures, pair.system
        )));
    }
    // The next measurement must not pay for the end of this one.
    tokio::time::sleep(SETTLE).await;
    Ok(result)
}

fn spawn(
    rig: &Rig,
    pair: &Pair,
    kind: &str,
    connections: usize,
    length: Duration,
) -> Result<Process, BenchError> {
    let arguments = [
        "bench-load".to_owned(),
        kind.to_owned(),
        format!("--target={}", pair.entry),
        format!("--connections={connections}"),
        format!("--millis={}", length.as_millis()),
    ];
    Ok(Process::spawn("load", rig.own(Side::Near, &arguments)?)?)
}

fn parse(line: &str) -> Result<LoadResult, BenchError> {
    serde_json::from_str(line).map_err(|e| BenchError::Load(format!("the load generator said {line:?}: {e}")))
}

async fn idle_memory(rig: &Rig, pair: &Pair) -> Result<f64, BenchError> {
    let before = resident(pair)?;
    let mut holder = spawn(rig, pair, "idle", IDLE_CONNECTIONS, Duration::ZERO)?;
    let line = holder.wait_for_line("{", MARGIN).await?;
    let held = parse(&line)?.figure;
    tokio::time::sleep(SETTLE).await;
    let after = resident(pair)?;
    holder.kill9().await;
    tokio::time::sleep(SETTLE).await;
    Ok((after as f64 - before as f64) / held)
}

fn resident(pair: &Pair) -> io::Result<u64> {
    Ok(pair.near.resident()? + pair.far.resident()?)
}
