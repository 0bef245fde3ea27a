//! Round trips, unknown bodies, damaged objects and arbitrary bytes.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message as _;

use super::{exchange_v1 as pb, *};
use crate::{
    ClusterId, Epoch, Reason, ServiceKey, TrustDomain, Uid,
    catalog::{
        EndpointId, InternalTrafficPolicy, IpFamily, Member, OfferedService, Protocol, ServiceKind,
        ServicePort, SessionAffinity,
    },
    exchange::{
        CatalogVersion, Gateways, Hello, Inbound, Limits, MESSAGE_MAX, Message, Refusal, TEXT_MAX, VERSIONS,
        Verdict, check_offer,
    },
    snapshot::GatewayAddress,
};

/// What a change to a wire message must be refused for.
type Case<T> = (Reason, fn(&mut T));

fn key() -> ServiceKey {
    ServiceKey::parse("demo", "greeter").unwrap()
}

fn offer() -> OfferedService {
    OfferedService {
        service: key(),
        uid: Uid::parse("uid-1").unwrap(),
        created: 1_700_000_000,
        kind: ServiceKind::Headless,
        ports: vec![ServicePort {
            name: Some("http".parse().unwrap()),
            protocol: Protocol::Udp,
            port: 53,
            app_protocol: Some("kubernetes.io/h2c".into()),
        }],
        session_affinity: SessionAffinity::ClientIp {
            timeout_seconds: Some(10),
        },
        internal_traffic_policy: Some(InternalTrafficPolicy::Local),
        traffic_distribution: Some("PreferClose".into()),
        ip_families: vec![IpFamily::V6, IpFamily::V4],
        labels: BTreeMap::from([("a".into(), "b".into())]),
        annotations: BTreeMap::from([("c".into(), "line 1\nline 2".into())]),
        ready: 3,
        locality: Some("zone-a".into()),
        members: vec![Member {
            id: EndpointId("web-0".parse().unwrap()),
            hostname: Some("web-0".parse().unwrap()),
            ip: "fd00::1".parse().unwrap(),
            ready: true,
        }],
        replayable_ports: vec![53],
    }
}

fn gateways() -> Gateways {
    let address = |host: &str| GatewayAddress {
        host: host.into(),
        port: 7443,
    };
    Gateways {
        addresses: vec![
            address("gw.west.example"),
            address("127.0.0.1"),
            address("fd00::2"),
        ],
        instances: vec!["gw-0".parse().unwrap()],
    }
}

fn every_message() -> Vec<Message> {
    let refusal = Refusal::new(Reason::OverLimit, "too many");
    let bare = OfferedService {
        kind: ServiceKind::ClusterSetIp,
        session_affinity: SessionAffinity::Unset,
        internal_traffic_policy: None,
        traffic_distribution: None,
        locality: None,
        members: vec![],
        ..offer()
    };
    vec![
        Message::Hello(Box::new(Hello {
            versions: VERSIONS,
            cluster: ClusterId::parse("west").unwrap(),
            epoch: Epoch(7),
            mesh_trust_domain: Some(TrustDomain::parse("cluster.local").unwrap()),
            gateways: gateways(),
            held: Some(CatalogVersion {
                epoch: Epoch(3),
                number: 0,
            }),
        })),
        Message::BeginSync { full: true },
        Message::Upsert(Arc::new(offer())),
        Message::Upsert(Arc::new(bare)),
        Message::Delete(key()),
        Message::EndOfSync { number: u64::MAX },
        Message::Ack { number: 0 },
        Message::Nack {
            service: Some(key()),
            refusal: refusal.clone(),
        },
        Message::Nack {
            service: None,
            refusal: refusal.clone(),
        },
        Message::Verdict {
            service: key(),
            verdict: Verdict {
                accepted: true,
                reasons: vec![Reason::PortConflict, Reason::IPFamilyConflict],
                message: "ports differ".into(),
            },
        },
        Message::SyncRequest,
        Message::Heartbeat {
            staleness: Duration::from_millis(1_234),
        },
        Message::Bundle {
            envelope: Bytes::from_static(b"envelope"),
        },
        Message::BundleAck {
            sequence: 4,
            refused: None,
        },
        Message::BundleAck {
            sequence: 4,
            refused: Some(refusal),
        },
        Message::OpenTunnel,
        Message::AddressesChanged(gateways()),
    ]
}

/// Through bytes, as a peer would see it.
fn over_the_wire(envelope: &pb::Envelope) -> Inbound {
    decode(pb::Envelope::decode(envelope.encode_to_vec().as_slice()).unwrap())
}

#[test]
fn every_message_survives_the_wire() {
    for message in every_message() {
        assert_eq!(over_the_wire(&encode(&message)), Inbound::Message(message));
    }
}

#[test]
fn the_largest_object_the_rules_allow_fits_a_message() {
    let widest = Limits::widest();
    let label = |i: usize| format!("{i:0>63}").parse().unwrap();
    let mut largest = offer();
    largest.ports = (1..=widest.ports)
        .map(|i| ServicePort {
            name: Some(format!("{i:0>63}").parse().unwrap()),
            protocol: Protocol::Tcp,
            port: u16::try_from(65_535 - i).unwrap(),
            app_protocol: Some("a".repeat(super::super::QUALIFIED_MAX).into()),
        })
        .collect();
    largest.replayable_ports = largest.ports.iter().map(|p| p.port).collect();
    largest.members = (0..widest.members)
        .map(|i| Member {
            id: EndpointId(label(i)),
            hostname: Some(label(i)),
            ip: "fd00::1".parse().unwrap(),
            ready: true,
        })
        .collect();
    largest.labels.clear();
    // Many tiny entries are the worst case for what the wire adds.
    largest.annotations = (0..)
        .map(|i: u32| (format!("{i}"), String::new()))
        .take(3_800)
        .collect();
    assert_eq!(check_offer(&largest, &widest), Ok(()));
    let size = encode(&Message::Upsert(Arc::new(largest))).encoded_len();
    assert!(size < MESSAGE_MAX, "{size}");
}

#[test]
fn unknown_bodies_are_skipped_unless_critical() {
    // Field 99 of a newer version, length-delimited and empty.
    let newer = [0x9a, 0x06, 0x00];
    let inbound = decode(pb::Envelope::decode(newer.as_slice()).unwrap());
    assert_eq!(inbound, Inbound::Unknown { critical: false });
    let critical = pb::Envelope {
        body: None,
        critical: true,
    };
    assert_eq!(over_the_wire(&critical), Inbound::Unknown { critical: true });
}

/// A wire object with one thing changed.
fn changed(change: impl FnOnce(&mut pb::Service)) -> Inbound {
    let mut envelope = encode(&Message::Upsert(Arc::new(offer())));
    if let Some(pb::envelope::Body::Upsert(service)) = &mut envelope.body {
        change(service);
    }
    over_the_wire(&envelope)
}

#[test]
fn a_broken_object_is_refused_by_name() {
    let cases: Vec<Case<pb::Service>> = vec![
        (Reason::Malformed, |s| s.uid.clear()),
        (Reason::Malformed, |s| s.kind = 0),
        (Reason::Unsupported, |s| s.kind = 77),
        (Reason::Malformed, |s| s.ports[0].port = 0),
        (Reason::Malformed, |s| s.ports[0].port = 65_536),
        (Reason::Malformed, |s| {
            s.ports[0].name = Some("Not A Label".into())
        }),
        (Reason::Malformed, |s| s.ports[0].protocol = 0),
        (Reason::Unsupported, |s| s.ports[0].protocol = 9),
        (Reason::Unsupported, |s| s.session_affinity = 9),
        (Reason::Unsupported, |s| s.internal_traffic_policy = 9),
        (Reason::Unsupported, |s| s.ip_families = vec![9]),
        (Reason::Malformed, |s| {
            s.members[0].ip = Bytes::from_static(b"12345")
        }),
        (Reason::Malformed, |s| s.members[0].id = "..".into()),
        (Reason::Malformed, |s| s.replayable_ports = vec![70_000]),
    ];
    for (i, (reason, change)) in cases.into_iter().enumerate() {
        match changed(change) {
            Inbound::Malformed { service, refusal } => {
                assert_eq!((service, refusal.reason), (Some(key()), reason), "case {i}");
            }
            other => panic!("case {i}: {other:?}"),
        }
    }
    let nameless = changed(|s| s.service = None);
    assert!(matches!(nameless, Inbound::Malformed { service: None, .. }));
}

#[test]
fn words_of_a_peer_are_cut_and_cleaned() {
    let refusal = Refusal::new(Reason::Failed, format!("\u{1b}[31m{}", "ä".repeat(TEXT_MAX)));
    let mut envelope = encode(&Message::Nack {
        service: None,
        refusal: Refusal::new(Reason::Failed, ""),
    });
    if let Some(pb::envelope::Body::Nack(nack)) = &mut envelope.body {
        nack.message = refusal.message.to_string();
    }
    let Inbound::Message(Message::Nack { refusal, .. }) = over_the_wire(&envelope) else {
        panic!("not a nack");
    };
    assert!(refusal.message.len() <= TEXT_MAX && !refusal.message.contains('\u{1b}'));
}

#[test]
fn a_reason_of_a_newer_version_keeps_its_number() {
    let mut envelope = encode(&Message::Nack {
        service: None,
        refusal: Refusal::new(Reason::Failed, ""),
    });
    if let Some(pb::envelope::Body::Nack(nack)) = &mut envelope.body {
        nack.reason = 64_000;
    }
    let Inbound::Message(Message::Nack { refusal, .. }) = over_the_wire(&envelope) else {
        panic!("not a nack");
    };
    assert_eq!(refusal.reason, Reason::Failed);
    assert!(refusal.message.contains("64000"));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(envelope) = pb::Envelope::decode(bytes.as_slice()) {
            let _ = decode(envelope);
        }
    }

    /// Damage to real messages gets deeper than noise.
    #[test]
    fn damaged_messages_never_panic(which in 0..17_usize, at in any::<prop::sample::Index>(), flip in 1..=255_u8, cut in any::<prop::sample::Index>()) {
        let mut bytes = encode(&every_message()[which]).encode_to_vec();
        if !bytes.is_empty() {
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            bytes.truncate(1 + cut.index(bytes.len()));
        }
        if let Ok(envelope) = pb::Envelope::decode(bytes.as_slice())
            && let Inbound::Message(Message::Upsert(offer)) = decode(envelope)
        {
            let _ = check_offer(&offer, &Limits::default());
        }
    }
}
