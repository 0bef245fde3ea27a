//! Figures that tunnels count themselves, read at each scrape.

use std::sync::Arc;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, TypedMetric, counter::ConstCounter, gauge::ConstGauge},
};
use strait_federation_api::observation::{SocketStatus, TunnelKind};
use strait_tunnel::TunnelHub;

use crate::outbox::Outbox;

/// Name, help and value of one figure of a socket.
type SocketFigure = (&'static str, &'static str, fn(&SocketStatus) -> u64);

/// Figures that tunnels count themselves, read at each scrape.
pub(super) struct TunnelFigures {
    pub(super) hub: Arc<TunnelHub>,
    pub(super) outbox: Outbox,
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
