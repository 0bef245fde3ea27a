//! Figures of the control plane.
//!
//! Owns the counters; cli registers and serves them. Labels are bounded: reasons and Federations only.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// A reason by name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabel {
    /// The name.
    pub reason: &'static str,
}

/// One peer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PeerLabel {
    /// Its ClusterId.
    pub peer: String,
}

/// The counters. A clone counts into the same ones.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// 1 while the manifests are valid.
    pub config_valid: Gauge,
    /// Looks at the manifests that found them invalid.
    pub config_errors: Counter,
    /// Leaves issued to the gateway after the first.
    pub leaf_renewals: Counter,
    /// Things that could not be done and are tried again.
    pub failures: Counter,
    /// Joins that completed here.
    pub joins: Counter,
    /// Join sessions that ended without a join, by reason.
    pub joins_refused: Family<ReasonLabel, Counter>,
    /// Refusals the gateway observed, by reason.
    pub refused: Family<ReasonLabel, Counter>,
    /// Snapshots published.
    pub snapshots: Counter,
    /// Services held of each peer.
    pub offered: Family<PeerLabel, Gauge>,
    /// 1 while a peer's catalog is complete and current.
    pub synced: Family<PeerLabel, Gauge>,
    /// Rules of the exchange broken by each peer.
    pub violations: Family<PeerLabel, Counter>,
}

impl Metrics {
    /// Puts the counters into a registry, under `strait_`.
    pub fn register(&self, registry: &mut Registry) {
        let mut add = Adder(registry.sub_registry_with_prefix("strait"));
        add.one(
            "config_valid",
            "1 while the manifests are valid",
            &self.config_valid,
        );
        add.one(
            "config_errors",
            "Looks at the manifests that found them invalid",
            &self.config_errors,
        );
        add.one(
            "leaf_renewals",
            "Leaves issued to the gateway after the first",
            &self.leaf_renewals,
        );
        add.one(
            "controller_failures",
            "Things that could not be done and are tried again",
            &self.failures,
        );
        add.one("joins", "Joins completed", &self.joins);
        add.one(
            "joins_refused",
            "Join sessions without a join, by reason",
            &self.joins_refused,
        );
        add.one(
            "refused",
            "Connections and streams refused for a reason of trust or policy",
            &self.refused,
        );
        add.one("snapshots", "Snapshots published", &self.snapshots);
        add.one("peer_offered_services", "Services held of a peer", &self.offered);
        add.one(
            "peer_synced",
            "1 while a peer's catalog is complete and current",
            &self.synced,
        );
        add.one(
            "peer_violations",
            "Rules of the exchange broken by a peer",
            &self.violations,
        );
    }
}

struct Adder<'a>(&'a mut Registry);

impl Adder<'_> {
    fn one<M: prometheus_client::registry::Metric + Clone>(&mut self, name: &str, help: &str, metric: &M) {
        self.0.register(name, help, metric.clone());
    }
}
