//! Figures and the access log.
//!
//! Owns every metric of the data plane and the line a failed stream leaves. Labels are bounded: a service or peer that the snapshot does
//! not know is `other`, whatever a peer may have asked for. Called on data workers: nothing here waits.

use std::{collections::HashSet, net::SocketAddr, sync::Arc, time::Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use strait_federation_api::{ClusterId, Reason, ServiceKey, observation::Observation, snapshot::Snapshot};
use strait_proxy::{Ended, FlowInfo, Recorder};
use strait_tunnel::TunnelHub;

mod lines;
mod tunnels;

use self::{lines::Lines, tunnels::TunnelFigures};
use crate::{AccessLog, outbox::Outbox};

/// Stands for every peer or service that the snapshot does not know.
const OTHER: &str = "other";
/// Stands for a flow to our own endpoints.
const LOCAL: &str = "local";
/// Answer times, seconds: from one loopback round trip to the whole deadline.
const ANSWER_BUCKETS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FlowLabels {
    direction: &'static str,
    peer: Arc<str>,
    service: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndLabels {
    direction: &'static str,
    peer: Arc<str>,
    service: Arc<str>,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByteLabels {
    direction: &'static str,
    peer: Arc<str>,
    service: Arc<str>,
    way: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DirectionLabel {
    direction: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusedLabels {
    peer: Arc<str>,
    reason: &'static str,
}

/// Names that may be labels.
#[derive(Debug, Default)]
struct Known {
    services: HashSet<ServiceKey>,
    peers: HashSet<ClusterId>,
}

/// See the module.
pub(crate) struct Metrics {
    known: ArcSwap<Known>,
    access_log: AccessLog,
    /// Of failed streams. Held for a look-up, never while a line is written.
    lines: Mutex<Lines>,
    outbox: Outbox,
    streams: Family<EndLabels, Counter>,
    active: Family<FlowLabels, Gauge>,
    bytes: Family<ByteLabels, Counter>,
    answers: Family<DirectionLabel, Histogram>,
    refused: Family<RefusedLabels, Counter>,
    /// Label sets in use, to be taken away with the service or peer they name.
    used: Mutex<HashSet<FlowLabels>>,
}

impl Metrics {
    pub(crate) fn new(access_log: AccessLog, outbox: Outbox) -> Arc<Self> {
        Arc::new(Self {
            known: ArcSwap::default(),
            access_log,
            lines: Mutex::default(),
            outbox,
            streams: Family::default(),
            active: Family::default(),
            bytes: Family::default(),
            answers: Family::new_with_constructor(|| Histogram::new(ANSWER_BUCKETS)),
            refused: Family::default(),
            used: Mutex::default(),
        })
    }

    /// Takes in which names are known now.
    pub(crate) fn learn(&self, snapshot: &Snapshot) {
        let imports = snapshot.imports.keys();
        let known = Known {
            services: imports.chain(snapshot.exports.keys()).cloned().collect(),
            peers: snapshot.peers.keys().cloned().collect(),
        };
        self.forget(&known);
        self.known.store(Arc::new(known));
    }

    /// Takes away what belongs to names that are gone and has no flow any more.
    fn forget(&self, known: &Known) {
        let services: HashSet<String> = known.services.iter().map(ToString::to_string).collect();
        let peers: HashSet<&str> = known.peers.iter().map(ClusterId::as_str).collect();
        self.used.lock().retain(|labels| {
            let service = *labels.service == *OTHER || services.contains(&*labels.service);
            let peer = [OTHER, LOCAL].contains(&&*labels.peer) || peers.contains(&*labels.peer);
            let keep = (service && peer) || self.active.get_or_create(labels).get() > 0;
            if !keep {
                self.active.remove(labels);
                for way in ["up", "down"] {
                    self.bytes.remove(&byte_labels(labels, way));
                }
                for reason in Reason::ALL.iter().map(|r| r.name()).chain(["Ok"]) {
                    self.streams.remove(&end_labels(labels, reason));
                }
            }
            keep
        });
    }

    fn labels(&self, info: &FlowInfo) -> FlowLabels {
        let known = self.known.load();
        let peer = match &info.peer {
            None => LOCAL.into(),
            Some(peer) if known.peers.contains(peer) => peer.as_str().into(),
            Some(_) => OTHER.into(),
        };
        let service = match &info.service {
            Some(service) if known.services.contains(service) => service.to_string().into(),
            _ => OTHER.into(),
        };
        let labels = FlowLabels {
            direction: info.direction.name(),
            peer,
            service,
        };
        if self.active.get(&labels).is_none() {
            self.used.lock().insert(labels.clone());
        }
        labels
    }

    fn log(&self, ended: &Ended) {
        let info = &ended.info;
        let left_out = match ended.reason {
            None if self.access_log == AccessLog::Failed => return,
            None => 0,
            Some(reason) => match self.lines.lock().next(info.peer.as_ref(), reason, Instant::now()) {
                Some(left_out) => left_out,
                None => return,
            },
        };
        tracing::info!(
            target: "access",
            reason = ended.reason.map_or("Ok", Reason::name),
            direction = info.direction.name(),
            peer = info.peer.as_ref().map(ClusterId::as_str),
            service = info.service.as_ref().map(tracing::field::display),
            port = info.port,
            remote = %info.remote,
            bytes_up = ended.bytes_up,
            bytes_down = ended.bytes_down,
            duration_ms = millis(ended.duration),
            answered_ms = ended.answered_after.map(millis),
            detail = (!ended.detail.is_empty()).then_some(ended.detail.as_str()),
            and_more = (left_out > 0).then_some(left_out),
            "stream ended"
        );
    }

    /// Puts everything under `registry`, names beginning with `strait_`.
    pub(crate) fn register(self: &Arc<Self>, registry: &mut Registry, hub: &Arc<TunnelHub>) {
        registry.register(
            "strait_streams",
            "Streams that ended, by reason (Ok is a clean end)",
            self.streams.clone(),
        );
        registry.register(
            "strait_streams_active",
            "Streams with an endpoint",
            self.active.clone(),
        );
        registry.register(
            "strait_stream_bytes",
            "Payload, up is from client to service",
            self.bytes.clone(),
        );
        registry.register(
            "strait_stream_answer_seconds",
            "From accept to the far side's answer",
            self.answers.clone(),
        );
        registry.register(
            "strait_streams_refused",
            "Streams of peers refused for trust or policy",
            self.refused.clone(),
        );
        registry.register_collector(Box::new(TunnelFigures {
            hub: Arc::clone(hub),
            outbox: self.outbox.clone(),
        }));
    }
}

fn end_labels(labels: &FlowLabels, reason: &'static str) -> EndLabels {
    EndLabels {
        direction: labels.direction,
        peer: Arc::clone(&labels.peer),
        service: Arc::clone(&labels.service),
        reason,
    }
}

fn byte_labels(labels: &FlowLabels, way: &'static str) -> ByteLabels {
    ByteLabels {
        direction: labels.direction,
        peer: Arc::clone(&labels.peer),
        service: Arc::clone(&labels.service),
        way,
    }
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Recorder for Metrics {
    fn established(&self, info: &FlowInfo) {
        self.active.get_or_create(&self.labels(info)).inc();
    }

    fn moved(&self, info: &FlowInfo, up: u64, down: u64) {
        let labels = self.labels(info);
        for (way, bytes) in [("up", up), ("down", down)] {
            if bytes > 0 {
                self.bytes.get_or_create(&byte_labels(&labels, way)).inc_by(bytes);
            }
        }
    }

    fn ended(&self, ended: &Ended, established: bool) {
        let labels = self.labels(&ended.info);
        let reason = ended.reason.map_or("Ok", Reason::name);
        self.streams.get_or_create(&end_labels(&labels, reason)).inc();
        if established {
            self.active.get_or_create(&labels).dec();
        }
        if let Some(answered) = ended.answered_after {
            let direction = DirectionLabel {
                direction: ended.info.direction.name(),
            };
            self.answers
                .get_or_create(&direction)
                .observe(answered.as_secs_f64());
        }
        self.log(ended);
    }

    fn refused(&self, remote: SocketAddr, peer: &ClusterId, reason: Reason) {
        // The peer has proven who it is, so its name is bounded by our Federations.
        let labels = RefusedLabels {
            peer: peer.as_str().into(),
            reason: reason.name(),
        };
        self.refused.get_or_create(&labels).inc();
        self.outbox.put(Observation::Refused {
            remote,
            peer: Some(peer.clone()),
            reason,
        });
    }
}

#[cfg(test)]
mod tests;
