//! `check` inside the running process: gathers what is known, probes what can be probed, and lets `diagnose` conclude.
//!
//! Owns the gathering. Never concludes. Used by `service`.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use strait_controller::{
    ControllerHandle,
    source::{ManifestFile, read_last_good, read_manifests},
};
use strait_federation_api::{
    ClusterId, Reason, ServiceKey,
    catalog::Protocol,
    control::GatewayRequest,
    diagnose::{DiagnoseInput, PeerInput, PeerLink, ServiceInput, diagnose},
    manifest::{Loaded, ResourceSet, load},
    names::CLUSTERSET_ZONE,
    observation::GatewayStatus,
    resources::FederationName,
    view::{ControllerView, FederationView, ImportView},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::timeout,
};

use crate::{
    client::{dns, socks},
    local::Diagnosis,
};

/// Bound on one probe: the slowest failover promised, twice.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// Targets of one `check`: with two bounded probes each they must end within the command's patience.
const TARGETS_MAX: usize = 256;

/// Whom it asks.
pub(super) struct Checker {
    pub(super) controller: ControllerHandle,
    pub(super) gateway: watch::Receiver<Arc<GatewayStatus>>,
    pub(super) requests: mpsc::Sender<GatewayRequest>,
    pub(super) manifests: PathBuf,
    pub(super) state: PathBuf,
    pub(super) dns: Option<SocketAddr>,
}

impl Checker {
    /// Diagnoses a peer or service by name, or all of them. Empty if the name is neither.
    pub(super) async fn check(&self, target: Option<&str>) -> Vec<Diagnosis> {
        let view = self.controller.view();
        let set = self.resources().await;
        let peers = view.federations.iter().filter(|f| {
            target.is_none_or(|t| t == f.name || f.cluster.as_ref().is_some_and(|c| c.as_str() == t))
        });
        let services = services(&view, target);
        // All at once: each waits for the network, and together they must not take longer than one.
        let peers = peers.take(TARGETS_MAX).map(|f| self.peer(f, &view, &set));
        let services = services
            .into_iter()
            .take(TARGETS_MAX)
            .map(|key| self.service(key, &view, &set));
        let (mut found, services) = tokio::join!(join_all(peers), join_all(services));
        found.extend(services);
        found
    }

    async fn peer(&self, federation: &FederationView, view: &ControllerView, set: &ResourceSet) -> Diagnosis {
        let spec = FederationName::parse(&federation.name)
            .ok()
            .and_then(|name| set.federations.get(&name));
        let probe = match &federation.cluster {
            Some(cluster) => self.probe_peer(cluster).await,
            None => None,
        };
        let input = PeerInput {
            federation: federation.clone(),
            export_rules: spec.map_or(0, |f| f.spec.exports.0.len()),
            import_rules: spec.map_or(0, |f| f.spec.imports.0.len()),
            exports: view.exports.clone(),
            probe,
        };
        let target = format!("peer {}", federation.name);
        Diagnosis {
            target,
            steps: diagnose(&DiagnoseInput::Peer(input)),
        }
    }

    async fn service(&self, key: ServiceKey, view: &ControllerView, set: &ResourceSet) -> Diagnosis {
        let import = view.imports.imports.iter().find(|i| i.service == key);
        let gateway = Arc::clone(&self.gateway.borrow());
        let name = format!("{}.{}.svc.{CLUSTERSET_ZONE}", key.name, key.namespace);
        let (answer, probe) = tokio::join!(self.resolve(&name), probe_service(gateway.socks, &name, import));
        let input = ServiceInput {
            import: import.cloned(),
            offers: view
                .imports
                .offers
                .iter()
                .filter(|o| o.service == key)
                .cloned()
                .collect(),
            peers: links(view),
            local_service: set.services.contains_key(&key),
            name: answer,
            listeners: gateway
                .listeners
                .iter()
                .filter(|l| l.service == key)
                .cloned()
                .collect(),
            socks: gateway.socks.is_some(),
            probe,
            service: key.clone(),
        };
        let target = format!("service {key}");
        Diagnosis {
            target,
            steps: diagnose(&DiagnoseInput::Service(input)),
        }
    }

    async fn probe_peer(&self, peer: &ClusterId) -> Option<Result<Duration, (Reason, String)>> {
        let (reply, answer) = oneshot::channel();
        self.requests
            .try_send(GatewayRequest::Probe {
                peer: peer.clone(),
                reply,
            })
            .ok()?;
        let late = || {
            (
                Reason::DeadlineExceeded,
                format!("no answer within {} s", PROBE_TIMEOUT.as_secs()),
            )
        };
        match timeout(PROBE_TIMEOUT, answer).await {
            Ok(Ok(result)) => Some(result.map_err(|e| (e.reason, e.detail))),
            Ok(Err(_)) => None,
            Err(_) => Some(Err(late())),
        }
    }

    async fn resolve(&self, name: &str) -> Option<Result<Vec<IpAddr>, String>> {
        Some(dns::addresses(self.dns?, name).await)
    }

    /// The manifests in force, for what no view holds: those in the folder, or the last good ones while it is broken, which `status`
    /// reports.
    async fn resources(&self) -> ResourceSet {
        let (folder, state) = (self.manifests.clone(), self.state.clone());
        let read = tokio::task::spawn_blocking(move || in_force(&folder, &state));
        read.await.unwrap_or_default()
    }
}

fn in_force(folder: &Path, state: &Path) -> ResourceSet {
    let parse = |files: Vec<ManifestFile>| -> Loaded {
        let texts: Vec<_> = files
            .iter()
            .map(|f| (f.path.display().to_string(), &f.text))
            .collect();
        load(&texts)
    };
    let now = read_manifests(folder).map(parse).ok();
    now.filter(|loaded| loaded.errors.is_empty())
        .or_else(|| read_last_good(state).map(parse))
        .unwrap_or_default()
        .resources
}

/// The services a target names: the one, or every import.
fn services(view: &ControllerView, target: Option<&str>) -> Vec<ServiceKey> {
    match target {
        None => view.imports.imports.iter().map(|i| i.service.clone()).collect(),
        // A name nobody offers is worth a diagnosis too: its first step says so.
        Some(target) => target.parse().into_iter().collect(),
    }
}

fn links(view: &ControllerView) -> BTreeMap<ClusterId, PeerLink> {
    let link = |f: &FederationView| {
        let link = PeerLink {
            usable_tunnels: f.link.usable_tunnels,
            mode: f.mode,
        };
        f.cluster.clone().map(|cluster| (cluster, link))
    };
    view.federations.iter().filter_map(link).collect()
}

/// Opens a connection through the service as a workload would, and closes it.
async fn probe_service(
    socks: Option<SocketAddr>,
    name: &str,
    import: Option<&ImportView>,
) -> Option<Result<Duration, (Reason, String)>> {
    let port = import?.ports.iter().find(|p| p.protocol == Protocol::Tcp)?.port;
    let start = Instant::now();
    Some(
        match timeout(PROBE_TIMEOUT, socks::connect(socks?, name, port)).await {
            Ok(Ok(_)) => Ok(start.elapsed()),
            Ok(Err(e)) => Err((
                Reason::NoBackend,
                format!("port {port}: {e}; the access log has the reason"),
            )),
            Err(_) => Err((
                Reason::DeadlineExceeded,
                format!("port {port}: nothing within {} s", PROBE_TIMEOUT.as_secs()),
            )),
        },
    )
}

async fn join_all<T>(futures: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    futures_util::future::join_all(futures).await
}
