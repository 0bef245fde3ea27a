//! Tests of metrics: names, labels and their bounds.

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
        seen.contains(r#"strait_streams_active{direction="inbound",peer="other",service="demo/greeter"} 1"#),
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
