//! The gateway's settings, from the Cluster and the instance's record.
//!
//! Owns the defaults that depend on the machine. Used by `run`.

use std::{net::SocketAddr, thread::available_parallelism};

use strait_controller::Prepared;
use strait_federation_api::{Reason, resources::Cluster};
use strait_gateway::{GatewayConfig, Limits};

use crate::{
    args::{AccessLog, RunArgs},
    exit::CliError,
};

/// Data workers unless the Cluster says: one a CPU, but a bigger machine has other work too.
const WORKERS_MAX: usize = 16;

/// The settings.
///
/// # Errors
/// [`CliError`] for a Cluster that turns the gateway off: nothing would be left to run.
pub(super) fn gateway(args: &RunArgs, prepared: &Prepared) -> Result<GatewayConfig, CliError> {
    let (cluster, instance) = (prepared.cluster(), prepared.instance());
    let spec = &cluster.spec;
    Ok(GatewayConfig {
        listen: listen(cluster)?,
        workers: spec.workers.map_or_else(default_workers, u32::from),
        instance: instance.instance.clone(),
        cid_key: *instance.cid_key.expose(),
        reset_key: *instance.reset_key.expose(),
        allow_loopback: spec.allow_loopback,
        socks: spec.socks.address(),
        limits: Limits {
            idle: spec.limits.idle_timeout.get(),
            peer_bytes: spec.limits.memory_per_peer.0,
            ..Limits::default()
        },
        access_log: match args.access_log {
            AccessLog::All => strait_gateway::AccessLog::All,
            // What is off is filtered out with the log's own filter.
            AccessLog::Failed | AccessLog::Off => strait_gateway::AccessLog::Failed,
        },
    })
}

fn listen(cluster: &Cluster) -> Result<SocketAddr, CliError> {
    cluster.spec.listen.address().ok_or_else(|| {
        CliError::config("spec.listen of the Cluster is off: a gateway needs a UDP address")
            .because(Reason::ConfigInvalid)
            .help("write ip:port, such as 0.0.0.0:7443")
    })
}

fn default_workers() -> u32 {
    let cpus = available_parallelism().map_or(1, |n| n.get().min(WORKERS_MAX));
    u32::try_from(cpus).unwrap_or(1)
}
