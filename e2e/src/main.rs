//! The harness as a program: `bench`, and the roles it plays inside namespaces.
//!
//! Owns the command line. Decides nothing.

use std::{net::SocketAddr, process::ExitCode, time::Duration};

use clap::{Parser, Subcommand, ValueEnum};
use strait_e2e::bench::{self, Metric, Plan, System, load};

/// Benches of Strait beside rivals.
#[derive(Debug, Parser)]
#[command(name = "strait-e2e", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Two gateways in two network namespaces, Strait and Envoy by turns; prints ratios with their spread. Needs root, Linux,
    /// iproute2 and, once, pip.
    Bench(BenchArgs),
    /// The server behind the gateways.
    #[command(hide = true)]
    BenchServer {
        #[arg(long)]
        listen: SocketAddr,
    },
    /// Load on one gateway.
    #[command(hide = true)]
    BenchLoad {
        kind: load::Kind,
        #[arg(long)]
        target: SocketAddr,
        #[arg(long, default_value_t = 1)]
        connections: usize,
        #[arg(long, default_value_t = 1000)]
        millis: u64,
    },
}

#[derive(Debug, clap::Args)]
struct BenchArgs {
    /// Shorter measurements, fewer rounds: a look, not a result.
    #[arg(long)]
    quick: bool,
    /// Report for people or as one JSON object.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    /// Whom to measure.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [System::Strait, System::Envoy])]
    systems: Vec<System>,
    /// What to measure.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Metric::ALL)]
    metrics: Vec<Metric>,
    /// Rounds; each measures everything once.
    #[arg(long)]
    rounds: Option<u32>,
    /// Data workers of each gateway; all CPUs if not given.
    #[arg(long)]
    workers: Option<u16>,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum Output {
    #[default]
    Text,
    Json,
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("strait-e2e: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<(), Box<dyn std::error::Error>> {
    let mut builder = match &command {
        // One thread: the generator shares the machine with what it measures.
        Command::BenchLoad { .. } | Command::BenchServer { .. } => {
            tokio::runtime::Builder::new_current_thread()
        }
        Command::Bench(_) => tokio::runtime::Builder::new_multi_thread(),
    };
    builder.enable_all().build()?.block_on(async {
        match command {
            Command::Bench(arguments) => bench(&arguments).await?,
            Command::BenchServer { listen } => load::serve(listen).await?,
            Command::BenchLoad {
                kind,
                target,
                connections,
                millis,
            } => {
                let result = load::run(kind, target, connections, Duration::from_millis(millis)).await?;
                println!("{}", serde_json::to_string(&result)?);
            }
        }
        Ok(())
    })
}

async fn bench(arguments: &BenchArgs) -> Result<(), Box<dyn std::error::Error>> {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let plan = Plan {
        systems: arguments.systems.clone(),
        metrics: arguments.metrics.clone(),
        rounds: arguments.rounds.unwrap_or(if arguments.quick { 2 } else { 5 }),
        length: Duration::from_secs(if arguments.quick { 2 } else { 5 }),
        workers: arguments.workers.unwrap_or(u16::try_from(cpus)?),
    };
    let report = tokio::select! {
        report = bench::run(&plan) => report?,
        _ = tokio::signal::ctrl_c() => return Err("interrupted".into()),
    };
    match arguments.output {
        Output::Text => print!("{}", report.text()),
        Output::Json => println!("{}", serde_json::to_string(&report)?),
    }
    Ok(())
}
