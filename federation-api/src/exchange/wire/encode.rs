//! Plain values to protobuf.

use std::{net::IpAddr, time::Duration};

use bytes::Bytes;

use super::exchange_v1::{self as pb, envelope::Body};
use crate::{
    catalog::{
        InternalTrafficPolicy, IpFamily, Member, OfferedService, Protocol, ServiceKind, ServicePort,
        SessionAffinity,
    },
    exchange::{CatalogVersion, Gateways, Hello, Message, Refusal, Verdict, clean_text},
    ids::ServiceKey,
};

/// The envelope of a message.
#[must_use]
pub fn encode(message: &Message) -> pb::Envelope {
    let body = match message {
        Message::Hello(hello) => Body::Hello(encode_hello(hello)),
        Message::BeginSync { full } => Body::BeginSync(pb::BeginSync { full: *full }),
        Message::Upsert(offer) => Body::Upsert(encode_offer(offer)),
        Message::Delete(service) => Body::Delete(encode_key(service)),
        Message::EndOfSync { number } => Body::EndOfSync(pb::EndOfSync { number: *number }),
        Message::Ack { number } => Body::Ack(pb::Ack { number: *number }),
        Message::Nack { service, refusal } => Body::Nack(pb::Nack {
            service: service.as_ref().map(encode_key),
            reason: refusal.reason.code().into(),
            message: clean_text(&refusal.message),
        }),
        Message::Verdict { service, verdict } => Body::Verdict(encode_verdict(service, verdict)),
        Message::SyncRequest => Body::SyncRequest(pb::SyncRequest {}),
        Message::Heartbeat { staleness } => Body::Heartbeat(pb::Heartbeat {
            staleness_ms: millis(*staleness),
        }),
        Message::Bundle { envelope } => Body::Bundle(pb::Bundle {
            envelope: envelope.clone(),
        }),
        Message::BundleAck { sequence, refused } => {
            Body::BundleAck(encode_bundle_ack(*sequence, refused.as_ref()))
        }
        Message::OpenTunnel => Body::OpenTunnel(pb::OpenTunnel {}),
        Message::AddressesChanged(gateways) => Body::AddressesChanged(encode_gateways(gateways)),
    };
    pb::Envelope {
        critical: is_critical(message),
        body: Some(body),
    }
}

/// What a reader must not skip: without these a catalog would be read wrongly.
const fn is_critical(message: &Message) -> bool {
    matches!(
        message,
        Message::Hello(_)
            | Message::BeginSync { .. }
            | Message::Upsert(_)
            | Message::Delete(_)
            | Message::EndOfSync { .. }
    )
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn encode_hello(hello: &Hello) -> pb::Hello {
    pb::Hello {
        version_min: hello.versions.min,
        version_max: hello.versions.max,
        cluster: hello.cluster.to_string(),
        epoch: hello.epoch.0,
        mesh_trust_domain: hello.mesh_trust_domain.as_ref().map(ToString::to_string),
        gateways: Some(encode_gateways(&hello.gateways)),
        held: hello
            .held
            .map(|CatalogVersion { epoch, number }| pb::CatalogVersion {
                epoch: epoch.0,
                number,
            }),
    }
}

fn encode_gateways(gateways: &Gateways) -> pb::Gateways {
    let address = |a: &crate::snapshot::GatewayAddress| pb::GatewayAddress {
        host: a.host.to_string(),
        port: a.port.into(),
    };
    pb::Gateways {
        addresses: gateways.addresses.iter().map(address).collect(),
        instances: gateways.instances.iter().map(ToString::to_string).collect(),
    }
}

fn encode_bundle_ack(sequence: u64, refused: Option<&Refusal>) -> pb::BundleAck {
    pb::BundleAck {
        sequence,
        refused: refused.map_or(0, |r| r.reason.code().into()),
        message: refused.map(|r| clean_text(&r.message)).unwrap_or_default(),
    }
}

fn encode_verdict(service: &ServiceKey, verdict: &Verdict) -> pb::Verdict {
    pb::Verdict {
        service: Some(encode_key(service)),
        accepted: verdict.accepted,
        reasons: verdict.reasons.iter().map(|r| r.code().into()).collect(),
        message: clean_text(&verdict.message),
    }
}

fn encode_key(key: &ServiceKey) -> pb::ServiceKey {
    pb::ServiceKey {
        namespace: key.namespace.to_string(),
        name: key.name.to_string(),
    }
}

fn encode_offer(offer: &OfferedService) -> pb::Service {
    let (affinity, timeout) = encode_affinity(offer.session_affinity);
    pb::Service {
        service: Some(encode_key(&offer.service)),
        uid: offer.uid.to_string(),
        created: offer.created,
        kind: match offer.kind {
            ServiceKind::ClusterSetIp => pb::Kind::ClusterSetIp,
            ServiceKind::Headless => pb::Kind::Headless,
        }
        .into(),
        ports: offer.ports.iter().map(encode_port).collect(),
        session_affinity: affinity.into(),
        affinity_timeout_seconds: timeout,
        internal_traffic_policy: match offer.internal_traffic_policy {
            None => pb::TrafficPolicy::Unset,
            Some(InternalTrafficPolicy::Cluster) => pb::TrafficPolicy::Cluster,
            Some(InternalTrafficPolicy::Local) => pb::TrafficPolicy::Local,
        }
        .into(),
        traffic_distribution: offer.traffic_distribution.as_deref().map(Into::into),
        ip_families: offer
            .ip_families
            .iter()
            .map(|f| encode_family(*f).into())
            .collect(),
        labels: offer.labels.clone().into_iter().collect(),
        annotations: offer.annotations.clone().into_iter().collect(),
        ready: offer.ready,
        locality: offer.locality.as_deref().map(Into::into),
        members: offer.members.iter().map(encode_member).collect(),
        replayable_ports: offer.replayable_ports.iter().map(|p| u32::from(*p)).collect(),
    }
}

const fn encode_affinity(affinity: SessionAffinity) -> (pb::Affinity, Option<u32>) {
    match affinity {
        SessionAffinity::Unset => (pb::Affinity::Unset, None),
        SessionAffinity::None => (pb::Affinity::None, None),
        SessionAffinity::ClientIp { timeout_seconds } => (pb::Affinity::ClientIp, timeout_seconds),
    }
}

const fn encode_family(family: IpFamily) -> pb::IpFamily {
    match family {
        IpFamily::V4 => pb::IpFamily::V4,
        IpFamily::V6 => pb::IpFamily::V6,
    }
}

fn encode_port(port: &ServicePort) -> pb::Port {
    pb::Port {
        name: port.name.as_ref().map(ToString::to_string),
        protocol: match port.protocol {
            Protocol::Tcp => pb::Protocol::Tcp,
            Protocol::Udp => pb::Protocol::Udp,
            Protocol::Sctp => pb::Protocol::Sctp,
        }
        .into(),
        port: port.port.into(),
        app_protocol: port.app_protocol.as_deref().map(Into::into),
    }
}

fn encode_member(member: &Member) -> pb::Member {
    pb::Member {
        id: member.id.0.to_string(),
        hostname: member.hostname.as_ref().map(ToString::to_string),
        ip: match member.ip {
            IpAddr::V4(ip) => Bytes::copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => Bytes::copy_from_slice(&ip.octets()),
        },
        ready: member.ready,
    }
}
