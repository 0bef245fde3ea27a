//! The command line as types.
//!
//! Owns names, defaults and environment variables of commands and flags. Never does anything: `commands` carries out what was
//! parsed. A flag wins over its variable, a variable over the default.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::exit::Exit;

/// Where manifests are looked for unless told otherwise.
pub(crate) const DEFAULT_CONFIG_DIR: &str = "/etc/strait";
/// Where records, cache, socket and last snapshot live unless told otherwise.
pub(crate) const DEFAULT_STATE_DIR: &str = "/var/lib/strait";

/// Joins service meshes across clusters over QUIC.
#[derive(Debug, Parser)]
#[command(name = "strait", version, about, after_help = Exit::HELP, propagate_version = true)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run one cluster's control plane, gateway and DNS in this process.
    Run(RunArgs),
    /// Show three clusters federating on this machine; no root, nothing left behind.
    Demo(DemoArgs),
    /// Make, list or revoke an invite for another cluster.
    Invite(InviteArgs),
    /// Join the cluster that made TOKEN.
    Join(JoinArgs),
    /// Print federations, exports, imports, gateways or tunnels.
    Get(GetArgs),
    /// Print how this cluster is, in one page.
    Status(ShowArgs),
    /// Send no new streams to a peer (sets spec.mode of its Federation).
    Drain(DrainArgs),
    /// Replace this cluster's root key without dropping a stream.
    RotateRoot(RotateArgs),
    /// Print this cluster's trust domain and SPIFFE bundle, for static trust on the other side.
    Bundle(BundleArgs),
    /// Find out what stands between here and a peer or service, and whose side to fix.
    Check(CheckArgs),
    /// Check manifests without applying them.
    Validate(ValidateArgs),
    /// Give up a lost or damaged record, so that the next start makes it anew.
    Repair(RepairArgs),
    /// Look into a join token.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Show or change what the running process logs.
    LogLevel(LogLevelArgs),
    /// Print shell completions.
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Print version and build.
    Version,
    /// A cluster of the demo.
    #[command(name = "demo-greeter", hide = true)]
    DemoGreeter(GreeterArgs),
    /// Removes the demo's folder when the demo is gone, however it went.
    #[command(name = "demo-janitor", hide = true)]
    DemoJanitor {
        /// The folder.
        dir: PathBuf,
    },
}

/// Which running process a command addresses.
#[derive(Debug, Clone, Args)]
pub(crate) struct StateArg {
    /// State directory of the running process; its command socket is inside.
    #[arg(long, value_name = "DIR", env = "STRAIT_STATE", default_value = DEFAULT_STATE_DIR)]
    pub(crate) state: PathBuf,
}

/// `strait repair`.
#[derive(Debug, Clone, Args)]
pub(crate) struct RepairArgs {
    /// The record, as the error at the start names it.
    pub(crate) record: String,
    /// State directory; nothing may run on it.
    #[command(flatten)]
    pub(crate) state: StateArg,
}

/// `strait run`.
#[derive(Debug, Clone, Args)]
pub(crate) struct RunArgs {
    /// Directory of manifests; watched, changes apply live.
    #[arg(long, value_name = "DIR", env = "STRAIT_CONFIG", default_value = DEFAULT_CONFIG_DIR)]
    pub(crate) config: PathBuf,
    /// State directory: records, cache, socket and last snapshot. Back it up: it holds the cluster's CA key.
    #[command(flatten)]
    pub(crate) state: StateArg,
    /// How long running streams may go on after SIGTERM, seconds. A second signal ends them at once.
    #[arg(long, value_name = "SECONDS", env = "STRAIT_GRACE", default_value = "30", value_parser = seconds)]
    pub(crate) grace: Duration,
    /// Which streams get a line in the access log.
    #[arg(
        long,
        value_name = "WHICH",
        env = "STRAIT_ACCESS_LOG",
        value_enum,
        default_value_t
    )]
    pub(crate) access_log: AccessLog,
    /// How to log.
    #[command(flatten)]
    pub(crate) log: LogArgs,
    /// End when the process with this id is no longer the parent.
    #[arg(long, value_name = "PID", hide = true)]
    pub(crate) die_with: Option<u32>,
}

/// How to log.
#[derive(Debug, Clone, Args)]
pub(crate) struct LogArgs {
    /// Level, or directives such as `info,strait_tunnel=debug`.
    #[arg(long, value_name = "DIRECTIVES", env = "STRAIT_LOG", default_value = "info")]
    pub(crate) log: String,
    /// Lines for people or for machines.
    #[arg(
        long,
        value_name = "FORMAT",
        env = "STRAIT_LOG_FORMAT",
        value_enum,
        default_value_t
    )]
    pub(crate) log_format: LogFormat,
}

/// Log line format.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    #[default]
    Human,
    /// One JSON object a line.
    Json,
}

/// Which streams get a line in the access log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum AccessLog {
    /// Those that failed.
    #[default]
    Failed,
    /// Every one.
    All,
    /// None.
    Off,
}

/// `strait demo`.
#[derive(Debug, Clone, Args)]
pub(crate) struct DemoArgs {
    /// End after the last step, with exit code 0 only if every step held.
    #[arg(long)]
    pub(crate) exit: bool,
    /// Story for people, or one JSON line a step.
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: DemoOutput,
    /// Trust by bundles in the manifests instead of invites.
    #[arg(long)]
    pub(crate) static_trust: bool,
    /// West has no reachable address: it dials out and still serves.
    #[arg(long)]
    pub(crate) dial_out_only: bool,
    /// Keep manifests, state and logs of the clusters when the demo ends.
    #[arg(long)]
    pub(crate) keep: bool,
    /// Requests per second of the steady load.
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(20..=5_000))]
    pub(crate) rate: u32,
}

/// Output of the demo.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum DemoOutput {
    /// For people.
    #[default]
    Text,
    /// One JSON object a step.
    Json,
}

/// The demo's service.
#[derive(Debug, Clone, Args)]
pub(crate) struct GreeterArgs {
    /// Where to listen.
    #[arg(long)]
    pub(crate) listen: SocketAddr,
    /// The cluster it greets for.
    #[arg(long)]
    pub(crate) cluster: String,
    /// File every request id is appended to.
    #[arg(long)]
    pub(crate) seen: PathBuf,
    /// File whose first line is the greeting, read at each request.
    #[arg(long)]
    pub(crate) greeting: PathBuf,
    /// See `RunArgs::die_with`.
    #[arg(long)]
    pub(crate) die_with: Option<u32>,
}

/// `strait invite`.
#[derive(Debug, Clone, Args)]
pub(crate) struct InviteArgs {
    /// Name of the Federation to invite for; made if it does not exist.
    #[arg(required_unless_present = "list")]
    pub(crate) name: Option<String>,
    /// List open and past invites.
    #[arg(long, conflicts_with_all = ["name", "revoke", "ttl"])]
    pub(crate) list: bool,
    /// Revoke the invite instead of making one.
    #[arg(long, requires = "name", conflicts_with = "ttl")]
    pub(crate) revoke: bool,
    /// How long the token may be used, e.g. 30m, 1h, 2d.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) ttl: Option<Duration>,
    /// Output.
    #[command(flatten)]
    pub(crate) show: ShowArgs,
}

/// `strait join`.
#[derive(Debug, Clone, Args)]
pub(crate) struct JoinArgs {
    /// The token; `-` reads it from standard input, which keeps it out of the process list.
    pub(crate) token: String,
    /// Name of the Federation to make here; the inviting cluster's id unless given.
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// How long to wait for the join to complete; it goes on in the running process either way.
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "30s")]
    pub(crate) wait: Duration,
    /// Which process.
    #[command(flatten)]
    pub(crate) state: StateArg,
}

/// Output flags of every command that prints.
#[derive(Debug, Clone, Args)]
pub(crate) struct ShowArgs {
    /// Output format.
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: OutputFormat,
    /// Which process.
    #[command(flatten)]
    pub(crate) state: StateArg,
}

/// How to print.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    /// Aligned columns.
    #[default]
    Table,
    /// More columns.
    Wide,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

/// `strait get`.
#[derive(Debug, Clone, Args)]
pub(crate) struct GetArgs {
    /// What.
    #[arg(value_enum)]
    pub(crate) what: Resource,
    /// Only this one: its name, `namespace/name` for services.
    pub(crate) name: Option<String>,
    /// Output.
    #[command(flatten)]
    pub(crate) show: ShowArgs,
}

/// What `get` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Resource {
    /// Peers and how things stand with them.
    #[value(alias = "federation", alias = "fed")]
    Federations,
    /// What we offer, to whom, and what they made of it.
    #[value(alias = "export", alias = "serviceexports")]
    Exports,
    /// What is reachable here, and what is offered but not allowed.
    #[value(alias = "import", alias = "serviceimports")]
    Imports,
    /// This gateway: addresses, buffers, listeners.
    #[value(alias = "gateway")]
    Gateways,
    /// Connections to peers.
    #[value(alias = "tunnel")]
    Tunnels,
}

/// `strait check`.
#[derive(Debug, Clone, Args)]
pub(crate) struct CheckArgs {
    /// A peer (Federation name or ClusterId) or a service (`namespace/name`); everything unless given.
    pub(crate) target: Option<String>,
    /// Output.
    #[command(flatten)]
    pub(crate) show: ShowArgs,
}

/// `strait validate`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ValidateArgs {
    /// Directory of manifests.
    #[arg(value_name = "DIR", env = "STRAIT_CONFIG", default_value = DEFAULT_CONFIG_DIR)]
    pub(crate) dir: PathBuf,
    /// Also print what applying it would withdraw or cut, compared with what the running process has in force.
    #[arg(long)]
    pub(crate) diff: bool,
    /// Output.
    #[command(flatten)]
    pub(crate) show: ShowArgs,
}

/// `strait drain`.
#[derive(Debug, Clone, Args)]
pub(crate) struct DrainArgs {
    /// Federation name.
    pub(crate) peer: String,
    /// Take traffic again instead.
    #[arg(long)]
    pub(crate) undo: bool,
    /// Which process.
    #[command(flatten)]
    pub(crate) state: StateArg,
}

/// `strait rotate-root`.
#[derive(Debug, Clone, Args)]
pub(crate) struct RotateArgs {
    /// Say how far a rotation is and who lags.
    #[arg(long, conflicts_with_all = ["force", "remove"])]
    pub(crate) status: bool,
    /// Go on without the peers that lag; they must re-join.
    #[arg(long, conflicts_with = "remove")]
    pub(crate) force: bool,
    /// Emergency: remove this root (key hash as --status prints it) at once and cut what depends on it.
    #[arg(long, value_name = "KEY_HASH")]
    pub(crate) remove: Option<String>,
    /// Output.
    #[command(flatten)]
    pub(crate) show: ShowArgs,
}

/// `strait bundle`.
#[derive(Debug, Clone, Args)]
pub(crate) struct BundleArgs {
    /// Only the SPIFFE JSON document, as `bundleFile` wants it.
    #[arg(long)]
    pub(crate) raw: bool,
    /// Which process.
    #[command(flatten)]
    pub(crate) state: StateArg,
}

/// `strait token`.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum TokenCommand {
    /// Print what a token says, without its secret.
    Decode {
        /// The token; `-` reads it from standard input.
        token: String,
        /// Output format.
        #[arg(short, long, value_enum, default_value_t)]
        output: OutputFormat,
    },
}

/// `strait log-level`.
#[derive(Debug, Clone, Args)]
pub(crate) struct LogLevelArgs {
    /// New directives; prints the present ones unless given.
    pub(crate) directives: Option<String>,
    /// Which process.
    #[command(flatten)]
    pub(crate) state: StateArg,
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.parse()
        .map(Duration::from_secs)
        .map_err(|_| "a whole number of seconds".to_owned())
}

/// `90s`, `30m`, `1h`, `2d`: one number, one unit.
fn duration(text: &str) -> Result<Duration, String> {
    const RULE: &str = "a number and a unit: 90s, 30m, 1h or 2d";
    let unit = text.chars().last().ok_or(RULE)?;
    let per: u64 = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return Err(RULE.to_owned()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| RULE)?;
    let seconds = number.checked_mul(per).filter(|&s| s > 0).ok_or(RULE)?;
    Ok(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_tree_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_have_one_unit() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1h"), Ok(Duration::from_secs(3_600)));
        for bad in [
            "",
            "1",
            "h",
            "-1h",
            "0s",
            "1w",
            "1h30m",
            "999999999999999999d",
            "1µ",
        ] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn invite_needs_a_name_or_list() {
        assert!(Cli::try_parse_from(["strait", "invite"]).is_err());
        assert!(Cli::try_parse_from(["strait", "invite", "--list"]).is_ok());
        assert!(Cli::try_parse_from(["strait", "invite", "west", "--list"]).is_err());
        assert!(Cli::try_parse_from(["strait", "invite", "--revoke"]).is_err());
        assert!(Cli::try_parse_from(["strait", "invite", "west", "--revoke"]).is_ok());
    }
}
