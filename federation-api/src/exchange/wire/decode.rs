//! Protobuf to plain values. Everything here comes from a peer and is hostile until parsed.

use std::{fmt::Display, net::IpAddr, sync::Arc, time::Duration};

use super::exchange_v1::{self as pb, envelope::Body};
use crate::{
    Reason,
    catalog::{
        EndpointId, InternalTrafficPolicy, IpFamily, Member, OfferedService, Protocol, ServiceKind,
        ServicePort, SessionAffinity,
    },
    exchange::{
        ADDRESSES_MAX, CatalogVersion, Gateways, Hello, INSTANCES_MAX, Inbound, Message, REASONS_MAX,
        Refusal, Verdict, VersionRange, clean_text,
    },
    ids::{ClusterId, Epoch, Hostname, InstanceId, PortName, ServiceKey, TrustDomain, Uid},
    snapshot::GatewayAddress,
};

/// What an envelope says. Total: whatever a peer sends has a value here.
#[must_use]
pub fn decode(envelope: pb::Envelope) -> Inbound {
    let Some(body) = envelope.body else {
        return Inbound::Unknown {
            critical: envelope.critical,
        };
    };
    // The name is read first, so that a broken object can be refused by name.
    let service = match &body {
        Body::Upsert(service) => service.service.as_ref().and_then(|k| key(k).ok()),
        _ => None,
    };
    match message(body) {
        Ok(message) => Inbound::Message(message),
        Err(refusal) => Inbound::Malformed { service, refusal },
    }
}

type Parsed<T> = Result<T, Refusal>;

fn bad(field: &str, why: impl Display) -> Refusal {
    Refusal::new(Reason::Malformed, clean_text(&format!("{field}: {why}")))
}

/// A value this version does not know: perhaps the peer is newer.
fn newer(field: &str, value: i32) -> Refusal {
    Refusal::new(
        Reason::Unsupported,
        format!("{field} {value} is not known to this version"),
    )
}

fn message(body: Body) -> Parsed<Message> {
    Ok(match body {
        Body::Hello(hello) => Message::Hello(Box::new(decode_hello(hello)?)),
        Body::BeginSync(begin) => Message::BeginSync { full: begin.full },
        Body::Upsert(service) => Message::Upsert(Arc::new(offer(service)?)),
        Body::Delete(service) => Message::Delete(key(&service)?),
        Body::EndOfSync(end) => Message::EndOfSync { number: end.number },
        Body::Ack(ack) => Message::Ack { number: ack.number },
        Body::Nack(nack) => Message::Nack {
            service: nack.service.as_ref().map(key).transpose()?,
            refusal: refusal(nack.reason, &nack.message),
        },
        Body::Verdict(verdict) => decode_verdict(&verdict)?,
        Body::SyncRequest(pb::SyncRequest {}) => Message::SyncRequest,
        Body::Heartbeat(heartbeat) => Message::Heartbeat {
            staleness: Duration::from_millis(heartbeat.staleness_ms),
        },
        Body::Bundle(bundle) => Message::Bundle {
            envelope: bundle.envelope,
        },
        Body::BundleAck(ack) => Message::BundleAck {
            sequence: ack.sequence,
            refused: (ack.refused != 0).then(|| refusal(ack.refused, &ack.message)),
        },
        Body::OpenTunnel(pb::OpenTunnel {}) => Message::OpenTunnel,
        Body::AddressesChanged(gateways) => Message::AddressesChanged(decode_gateways(gateways)?),
    })
}

/// A code this version does not know stays visible by its number.
fn reason(code: u32) -> Option<Reason> {
    u16::try_from(code).ok().and_then(Reason::from_code)
}

fn refusal(code: u32, text: &str) -> Refusal {
    reason(code).map_or_else(
        || Refusal::new(Reason::Failed, clean_text(&format!("reason {code}: {text}"))),
        |reason| Refusal::new(reason, clean_text(text)),
    )
}

fn decode_verdict(verdict: &pb::Verdict) -> Parsed<Message> {
    let service = required("service", verdict.service.as_ref())?;
    if verdict.reasons.len() > REASONS_MAX {
        return Err(bad("reasons", format_args!("more than {REASONS_MAX}")));
    }
    let reasons = verdict
        .reasons
        .iter()
        .map(|code| reason(*code).unwrap_or(Reason::Failed));
    Ok(Message::Verdict {
        service: key(service)?,
        verdict: Verdict {
            accepted: verdict.accepted,
            reasons: reasons.collect(),
            message: clean_text(&verdict.message).into(),
        },
    })
}

fn decode_hello(hello: pb::Hello) -> Parsed<Hello> {
    if hello.epoch == 0 {
        return Err(bad("epoch", "starts at 1"));
    }
    let claim = hello.mesh_trust_domain.as_deref().map(TrustDomain::parse);
    Ok(Hello {
        versions: VersionRange {
            min: hello.version_min,
            max: hello.version_max,
        },
        cluster: ClusterId::parse(&hello.cluster).map_err(|e| bad("cluster", e))?,
        epoch: Epoch(hello.epoch),
        mesh_trust_domain: claim.transpose().map_err(|e| bad("mesh_trust_domain", e))?,
        gateways: decode_gateways(hello.gateways.unwrap_or_default())?,
        held: hello.held.map(|held| CatalogVersion {
            epoch: Epoch(held.epoch),
            number: held.number,
        }),
    })
}

fn decode_gateways(gateways: pb::Gateways) -> Parsed<Gateways> {
    if gateways.addresses.len() > ADDRESSES_MAX {
        return Err(bad("addresses", format_args!("more than {ADDRESSES_MAX}")));
    }
    if gateways.instances.len() > INSTANCES_MAX {
        return Err(bad("instances", format_args!("more than {INSTANCES_MAX}")));
    }
    let instance = |i: &String| InstanceId::parse(i).map_err(|e| bad("instances", e));
    Ok(Gateways {
        addresses: gateways
            .addresses
            .iter()
            .map(|a| address(&a.host, a.port))
            .collect::<Parsed<_>>()?,
        instances: gateways.instances.iter().map(instance).collect::<Parsed<_>>()?,
    })
}

/// Syntax only (loopback may be allowed): whether it may be dialled is judged where policy is known.
pub(super) fn address(host: &str, port: u32) -> Parsed<GatewayAddress> {
    let address = GatewayAddress {
        host: host.into(),
        port: port_number("address port", port)?,
    };
    crate::exchange::check_address(&address, true).map_err(|why| bad("address", why))?;
    Ok(address)
}

fn key(key: &pb::ServiceKey) -> Parsed<ServiceKey> {
    ServiceKey::parse(&key.namespace, &key.name).map_err(|e| bad("service", e))
}

fn required<T>(field: &str, value: Option<T>) -> Parsed<T> {
    value.ok_or_else(|| bad(field, "is missing"))
}

fn port_number(field: &str, port: u32) -> Parsed<u16> {
    u16::try_from(port)
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| bad(field, "is outside 1..=65535"))
}

fn offer(service: pb::Service) -> Parsed<OfferedService> {
    let own_key = key(&required("service", service.service)?)?;
    Ok(OfferedService {
        service: own_key,
        uid: Uid::parse(&service.uid).map_err(|e| bad("uid", e))?,
        created: service.created,
        kind: kind(service.kind)?,
        ports: service.ports.iter().map(port).collect::<Parsed<_>>()?,
        session_affinity: affinity(service.session_affinity, service.affinity_timeout_seconds)?,
        internal_traffic_policy: traffic_policy(service.internal_traffic_policy)?,
        traffic_distribution: service.traffic_distribution.map(Into::into),
        ip_families: service
            .ip_families
            .iter()
            .map(|f| family(*f))
            .collect::<Parsed<_>>()?,
        labels: service.labels.into_iter().collect(),
        annotations: service.annotations.into_iter().collect(),
        ready: service.ready,
        locality: service.locality.map(Into::into),
        members: service.members.iter().map(member).collect::<Parsed<_>>()?,
        replayable_ports: service
            .replayable_ports
            .iter()
            .map(|p| port_number("replayable port", *p))
            .collect::<Parsed<_>>()?,
    })
}

fn kind(value: i32) -> Parsed<ServiceKind> {
    match pb::Kind::try_from(value) {
        Ok(pb::Kind::ClusterSetIp) => Ok(ServiceKind::ClusterSetIp),
        Ok(pb::Kind::Headless) => Ok(ServiceKind::Headless),
        Ok(pb::Kind::Unspecified) => Err(bad("kind", "is missing")),
        Err(_) => Err(newer("kind", value)),
    }
}

fn port(port: &pb::Port) -> Parsed<ServicePort> {
    let name = port.name.as_deref().map(PortName::parse);
    Ok(ServicePort {
        name: name.transpose().map_err(|e| bad("port name", e))?,
        protocol: match pb::Protocol::try_from(port.protocol) {
            Ok(pb::Protocol::Tcp) => Protocol::Tcp,
            Ok(pb::Protocol::Udp) => Protocol::Udp,
            Ok(pb::Protocol::Sctp) => Protocol::Sctp,
            Ok(pb::Protocol::Unspecified) => return Err(bad("protocol", "is missing")),
            Err(_) => return Err(newer("protocol", port.protocol)),
        },
        port: port_number("port", port.port)?,
        app_protocol: port.app_protocol.as_deref().map(Into::into),
    })
}

fn affinity(value: i32, timeout_seconds: Option<u32>) -> Parsed<SessionAffinity> {
    match pb::Affinity::try_from(value) {
        Ok(pb::Affinity::Unset) => Ok(SessionAffinity::Unset),
        Ok(pb::Affinity::None) => Ok(SessionAffinity::None),
        Ok(pb::Affinity::ClientIp) => Ok(SessionAffinity::ClientIp { timeout_seconds }),
        Err(_) => Err(newer("session affinity", value)),
    }
}

fn traffic_policy(value: i32) -> Parsed<Option<InternalTrafficPolicy>> {
    match pb::TrafficPolicy::try_from(value) {
        Ok(pb::TrafficPolicy::Unset) => Ok(None),
        Ok(pb::TrafficPolicy::Cluster) => Ok(Some(InternalTrafficPolicy::Cluster)),
        Ok(pb::TrafficPolicy::Local) => Ok(Some(InternalTrafficPolicy::Local)),
        Err(_) => Err(newer("internal traffic policy", value)),
    }
}

fn family(value: i32) -> Parsed<IpFamily> {
    match pb::IpFamily::try_from(value) {
        Ok(pb::IpFamily::V4) => Ok(IpFamily::V4),
        Ok(pb::IpFamily::V6) => Ok(IpFamily::V6),
        Ok(pb::IpFamily::Unspecified) => Err(bad("IP family", "is missing")),
        Err(_) => Err(newer("IP family", value)),
    }
}

fn member(member: &pb::Member) -> Parsed<Member> {
    let hostname = member.hostname.as_deref().map(Hostname::parse);
    Ok(Member {
        id: EndpointId(Hostname::parse(&member.id).map_err(|e| bad("member id", e))?),
        hostname: hostname.transpose().map_err(|e| bad("member hostname", e))?,
        ip: ip(&member.ip).ok_or_else(|| bad("member address", "has neither 4 nor 16 bytes"))?,
        ready: member.ready,
    })
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(v4.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(Into::into)
}
