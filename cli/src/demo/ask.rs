//! What the steps ask of clusters, and how they wait for an answer.
//!
//! Owns patience. Never judges. Used by the story.

use std::time::{Duration, Instant};

use strait_federation_api::{
    snapshot::BackendCluster,
    view::{ConditionStatus, FederationView, ImportView, RotationView},
};
use tokio::time::sleep;

use super::{cluster::Cluster, manifests};
use crate::local::{Reply, Request, RotateAction};

/// How long any wait may take before its step fails: most take under a second, the whole demo must stay under 60 s.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often a wait looks.
pub(super) const POLL: Duration = Duration::from_millis(50);

/// Peers with something ready, in order.
pub(super) fn served_by(import: &ImportView) -> Vec<&str> {
    let ready = import.backends.iter().filter(|b| b.ready > 0 && !b.stale);
    ready
        .map(|b| match &b.cluster {
            BackendCluster::Local => "local",
            BackendCluster::Peer(cluster) => cluster.as_str(),
        })
        .collect()
}

pub(super) fn is_up(federation: &FederationView) -> bool {
    let holds = |kind: &str| {
        federation
            .conditions
            .iter()
            .any(|c| c.kind == kind && c.status == ConditionStatus::True)
    };
    holds("Trusted") && holds("Connected")
}

pub(super) async fn federation(cluster: &Cluster, name: &str) -> Result<Option<FederationView>, String> {
    Ok(cluster
        .status()
        .await?
        .controller
        .federations
        .into_iter()
        .find(|f| f.name == name))
}

pub(super) async fn bundle(cluster: &Cluster) -> Result<(String, String), String> {
    match cluster.ask(Request::Bundle).await? {
        Reply::Bundle(bundle) => Ok((bundle.trust_domain, bundle.spiffe)),
        other => Err(format!("{}: unexpected reply {other:?}", cluster.name)),
    }
}

pub(super) async fn rotation(cluster: &Cluster, action: RotateAction) -> Result<RotationView, String> {
    match cluster.ask(Request::RotateRoot { action }).await? {
        Reply::Rotation(view) => Ok(view),
        other => Err(format!("{}: unexpected reply {other:?}", cluster.name)),
    }
}

pub(super) fn set(cluster: &Cluster, federation: &str, field: &str, value: &str) -> Result<(), String> {
    manifests::set(cluster, federation, field, value)
        .map_err(|e| format!("{}: cannot edit Federation {federation}: {e}", cluster.name))
}

/// Waits until a cluster is ready, or says that its process has ended.
pub(super) async fn ready(cluster: &mut Cluster) -> Result<(), String> {
    let start = Instant::now();
    loop {
        cluster.alive()?;
        let waiting = match cluster.status().await {
            Ok(status) if status.not_ready.is_empty() => return Ok(()),
            Ok(status) => format!("it waits for {}", status.not_ready.join(", ")),
            Err(why) => why,
        };
        if start.elapsed() > PATIENCE {
            return Err(format!(
                "{} is not ready after {} s: {waiting}",
                cluster.name,
                PATIENCE.as_secs()
            ));
        }
        sleep(POLL).await;
    }
}

/// Asks `look` until it gives something; an error it gives at the end of patience is told.
pub(super) async fn wait<T>(
    what: &str,
    look: impl AsyncFn() -> Result<Option<T>, String>,
) -> Result<T, String> {
    let start = Instant::now();
    loop {
        let seen = look().await;
        if let Ok(Some(found)) = seen {
            return Ok(found);
        }
        if start.elapsed() > PATIENCE {
            let why = seen.err().map(|e| format!(": {e}")).unwrap_or_default();
            return Err(format!("waited {} s for {what}{why}", PATIENCE.as_secs()));
        }
        sleep(POLL).await;
    }
}
