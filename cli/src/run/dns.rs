//! The DNS shim's settings and figures.
//!
//! Owns the way from a Cluster to them. Used by `run`.

use std::sync::Arc;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::counter::ConstCounter,
    registry::Registry,
};
use strait_dns::{DnsConfig, DnsServer, DnsTotals, HealthView, UPSTREAMS_MAX};
use strait_federation_api::{resources::Cluster, snapshot::Snapshot};
use tokio::sync::watch;

use super::{resolv, start_error};
use crate::exit::CliError;

/// Starts it, unless the Cluster turns it off.
pub(super) async fn start(
    cluster: &Cluster,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    health: watch::Receiver<Arc<HealthView>>,
) -> Result<Option<DnsServer>, CliError> {
    let spec = &cluster.spec.dns;
    let Some(address) = spec.listen.address() else {
        return Ok(None);
    };
    let listen = vec![address];
    let upstreams = match spec.upstreams.as_slice() {
        [] => resolv::upstreams(UPSTREAMS_MAX, &listen),
        some => some.to_vec(),
    };
    let config = DnsConfig { listen, upstreams };
    match DnsServer::start(&config, snapshots, health).await {
        Ok(server) => Ok(Some(server)),
        Err(e) => Err(start_error("DNS", &e, e.reason())
            .help("set spec.dns of the Cluster; `listen: off` for no name server")),
    }
}

/// Registers its figures.
pub(super) fn register(registry: &mut Registry, server: &DnsServer) {
    registry.register_collector(Box::new(Figures {
        totals: Box::new(server.totals_reader()),
    }));
}

/// Totals, read when scraped.
struct Figures {
    totals: Box<dyn Fn() -> DnsTotals + Send + Sync>,
}

impl std::fmt::Debug for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Figures").finish_non_exhaustive()
    }
}

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for (name, total) in (self.totals)().named() {
            let counter = ConstCounter::new(total);
            let name = format!("strait_dns_{name}");
            let metric =
                encoder.encode_descriptor(&name, "What the DNS shim did", None, counter.metric_type())?;
            counter.encode(metric)?;
        }
        Ok(())
    }
}
