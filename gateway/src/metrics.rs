//! Figures and the access log.
//!
//! Owns every metric of the data plane and the line a failed stream leaves. Labels are bounded: a service or peer that the snapshot does
//! not know is `other`, whatever a peer may have asked for. Called on data workers: nothing here waits.

use std::{collections::HashSet, net::SocketAddr, sync::Arc};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{
        MetricType, TypedMetric,
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::{ConstGauge, Gauge},
        histogram::Histogram,
    },
    registry::Registry,
};
use strait_federation_api::{
    ClusterId, Reason, ServiceKey,
    observation::{Observation, SocketStatus, TunnelKind},
    snapshot::Snapshot,
};
use strait_proxy::{Ended, FlowInfo, Recorder};
use strait_tunnel::TunnelHub;

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
        let reason = ended.reason.map_or("Ok", Reason::name);
        if ended.reason.is_none() && self.access_log == AccessLog::Failed {
            return;
        }
        tracing::info!(
            target: "access",
            reason,
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

/// Name, help and value of one figure of a socket.
type SocketFigure = (&'static str, &'static str, fn(&SocketStatus) -> u64);

/// Figures that tunnels count themselves, read at each scrape.
struct TunnelFigures {
    hub: Arc<TunnelHub>,
    outbox: Outbox,
}

impl std::fmt::Debug for TunnelFigures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TunnelFigures")
    }
}

impl TunnelFigures {
    fn counters(&self) -> [(&'static str, &'static str, u64); 14] {
        let c = self.hub.counters();
        let (steered, steer_dropped) = self.hub.steered();
        [
            ("accepted", "Connections accepted and admitted", c.accepted.get()),
            ("dialled", "Connections dialled that came up", c.dialled.get()),
            (
                "dial_failures",
                "Dials that failed on every address",
                c.dial_failures.get(),
            ),
            ("retries", "First packets answered with a retry", c.retries.get()),
            (
                "streams_accepted",
                "Streams that peers opened",
                c.streams_accepted.get(),
            ),
            (
                "streams_refused",
                "Streams refused while draining",
                c.streams_refused.get(),
            ),
            ("pings", "Liveness pings sent", c.pings.get()),
            ("suspects", "Times a tunnel became suspect", c.suspects.get()),
            (
                "driver_panics",
                "QUIC drivers that panicked",
                c.driver_panics.get(),
            ),
            (
                "task_panics",
                "Connection tasks that panicked",
                c.task_panics.get(),
            ),
            (
                "endpoint_restarts",
                "Endpoints built again",
                c.endpoint_restarts.get(),
            ),
            ("steered", "Packets passed to the worker that owns them", steered),
            ("steer_dropped", "Packets lost on that way", steer_dropped),
            (
                "observations_dropped",
                "Observations the controller did not keep up with",
                c.observations_dropped.get() + self.outbox.dropped(),
            ),
        ]
    }

    fn encode_tunnels(&self, encoder: &mut DescriptorEncoder<'_>) -> std::fmt::Result {
        let (sockets, tunnels) = self.hub.status();
        let mut family = encoder.encode_descriptor(
            "strait_tunnel_rtt_seconds",
            "Smoothed round trip",
            None,
            MetricType::Gauge,
        )?;
        for t in tunnels.iter().filter(|t| t.kind == TunnelKind::Data) {
            let labels = [
                ("peer", t.peer.as_str().to_owned()),
                ("instance", t.instance.as_str().to_owned()),
                ("tunnel", t.id.to_string()),
            ];
            ConstGauge::new(t.rtt.as_secs_f64()).encode(family.encode_family(&labels)?)?;
        }
        self.encode_sockets(encoder, &sockets)
    }

    fn encode_sockets(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        sockets: &[SocketStatus],
    ) -> std::fmt::Result {
        let figures: [SocketFigure; 3] = [
            ("strait_socket_receive_bytes", "UDP receive buffer granted", |s| {
                s.receive_granted
            }),
            ("strait_socket_send_bytes", "UDP send buffer granted", |s| {
                s.send_granted
            }),
            (
                "strait_socket_gso_segments",
                "Segments one send may carry; 1 means offload broke",
                |s| s.gso_segments.into(),
            ),
        ];
        for (name, help, value) in figures {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for socket in sockets {
                let labels = [
                    ("worker", socket.worker.to_string()),
                    ("local", socket.local.to_string()),
                ];
                let value = i64::try_from(value(socket)).unwrap_or(i64::MAX);
                ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

impl Collector for TunnelFigures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        for (name, help, value) in self.counters() {
            let name = format!("strait_tunnel_{name}");
            let metric =
                encoder.encode_descriptor(&name, help, None, <ConstCounter<u64> as TypedMetric>::TYPE)?;
            ConstCounter::new(value).encode(metric)?;
        }
        let mut family = encoder.encode_descriptor(
            "strait_tunnel_refused",
            "Connections refused, by reason",
            None,
            MetricType::Counter,
        )?;
        for (reason, count) in self.hub.counters().refused() {
            ConstCounter::new(count).encode(family.encode_family(&[("reason", reason.name())])?)?;
        }
        self.encode_tunnels(&mut encoder)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prometheus_client::encoding::text::encode;

    use strait_proxy::Direction;

    use super::*;

    fn info(service: &str, peer: &str) -> FlowInfo {
        FlowInfo {
            direction: Direction::Inbound,
            service: Some(ServiceKey::parse("demo", service).unwrap()),
            port: 80,
            peer: Some(ClusterId::parse(peer).unwrap()),
            remote: "127.0.0.1:1".parse().unwrap(),
        }
    }

    fn ended(info: FlowInfo, reason: Option<Reason>) -> Ended {
        Ended {
            info,
            reason,
            detail: String::new(),
            bytes_up: 3,
            bytes_down: 4,
            duration: Duration::from_secs(1),
            answered_after: Some(Duration::from_millis(3)),
        }
    }

    fn text(metrics: &Metrics) -> String {
        let mut registry = Registry::default();
        registry.register("strait_streams", "h", metrics.streams.clone());
        registry.register("strait_streams_active", "h", metrics.active.clone());
        registry.register("strait_stream_bytes", "h", metrics.bytes.clone());
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        text
    }

    fn knowing(services: &[&str]) -> Snapshot {
        use strait_federation_api::{
            catalog::SessionAffinity,
            snapshot::{Export, HealthCheck},
        };
        let mut snapshot = Snapshot::empty(ClusterId::parse("east").unwrap());
        for name in services {
            let service = ServiceKey::parse("demo", name).unwrap();
            let export = Export {
                service: service.clone(),
                ports: vec![],
                allowed: Default::default(),
                session_affinity: SessionAffinity::Unset,
                health: HealthCheck::Off,
            };
            snapshot.exports.insert(service, Arc::new(export));
        }
        snapshot
    }

    #[test]
    fn a_peer_cannot_make_labels() {
        let metrics = Metrics::new(AccessLog::Failed, Outbox::default());
        metrics.learn(&knowing(&["greeter"]));
        for i in 0..100 {
            metrics.ended(
                &ended(info(&format!("guess{i}"), "west"), Some(Reason::UnknownService)),
                false,
            );
        }
        assert_eq!(text(&metrics).matches("strait_streams_total{").count(), 1);
        assert!(
            text(&metrics).contains(r#"service="other",reason="UnknownService"} 100"#),
            "{}",
            text(&metrics)
        );
    }

    #[test]
    fn flows_are_counted_and_forgotten_with_their_service() {
        let metrics = Metrics::new(AccessLog::Failed, Outbox::default());
        metrics.learn(&knowing(&["greeter"]));
        let info = info("greeter", "west");
        metrics.established(&info);
        metrics.moved(&info, 3, 4);
        let seen = text(&metrics);
        assert!(
            seen.contains(
                r#"strait_streams_active{direction="inbound",peer="other",service="demo/greeter"} 1"#
            ),
            "{seen}"
        );
        assert!(seen.contains(r#"way="down"} 4"#), "{seen}");
        metrics.learn(&knowing(&[]));
        assert!(text(&metrics).contains("demo/greeter"), "its flow is still there");
        metrics.learn(&knowing(&["greeter"]));
        metrics.ended(&ended(info, None), true);
        assert!(text(&metrics).contains(r#"reason="Ok"} 1"#));
        metrics.learn(&knowing(&[]));
        assert!(!text(&metrics).contains("demo/greeter"), "{}", text(&metrics));
    }
}
