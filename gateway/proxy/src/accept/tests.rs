//! Tests of accepting streams: authorisation, refusals, endpoints.

use std::{collections::BTreeSet, sync::Arc};

use strait_federation_api::{
    ServiceKey, TrustDomain,
    snapshot::{Export, ExportPort, HealthCheck, Peer, Snapshot},
};

use super::*;

fn id(text: &str) -> ClusterId {
    ClusterId::parse(text).unwrap()
}

fn peer(name: &str, mode: PeerMode) -> (ClusterId, Arc<Peer>) {
    let peer = Peer {
        cluster: id(name),
        trust_domain: TrustDomain::parse(&format!("{name}.aaaaaaaaaaaaaaaaaaaaaaaaaa")).unwrap(),
        mode,
        addresses: vec![],
        instances: BTreeSet::new(),
        importing: false,
    };
    (id(name), Arc::new(peer))
}

fn view() -> View {
    let mut snapshot = Snapshot::empty(id("east"));
    snapshot.peers.extend([
        peer("west", PeerMode::Active),
        peer("north", PeerMode::Active),
        peer("south", PeerMode::Drain),
        peer("gone", PeerMode::Suspended),
    ]);
    let service = ServiceKey::parse("demo", "greeter").unwrap();
    let export = Export {
        service: service.clone(),
        ports: vec![ExportPort {
            name: None,
            protocol: Protocol::Tcp,
            port: 80,
            endpoints: vec![],
        }],
        allowed: ["west", "south", "gone", "stranger"].map(id).into(),
        session_affinity: SessionAffinity::Unset,
        health: HealthCheck::Off,
    };
    snapshot.exports.insert(service, Arc::new(export));
    View::new(Arc::new(snapshot), None)
}

fn request(origin: &str) -> Request {
    Request {
        protocol: Protocol::Tcp,
        port: 80,
        hops: 1,
        deadline: Duration::from_secs(1),
        service: ServiceKey::parse("demo", "greeter").unwrap(),
        origin: id(origin),
        source: None,
        endpoint: None,
        affinity: None,
        trace: None,
    }
}

fn verdict(peer: &str, request: &Request) -> Result<(), Reason> {
    authorise(&view(), &id(peer), request)
        .map(drop)
        .map_err(|refusal| refusal.reason)
}

#[test]
fn an_allowed_peer_gets_what_is_exported() {
    assert_eq!(verdict("west", &request("west")), Ok(()));
}

#[test]
fn a_peer_without_an_export_rule_is_denied() {
    assert_eq!(verdict("north", &request("north")), Err(Reason::Denied));
}

#[test]
fn origin_and_hops_cannot_be_forged() {
    assert_eq!(
        verdict("north", &request("west")),
        Err(Reason::TransitRefused),
        "west's name does not help"
    );
    for hops in [0, 2, 255] {
        let far = Request {
            hops,
            ..request("west")
        };
        assert_eq!(verdict("west", &far), Err(Reason::TransitRefused));
    }
}

#[test]
fn the_mode_of_the_federation_counts_even_for_a_listed_peer() {
    assert_eq!(verdict("south", &request("south")), Err(Reason::PeerDraining));
    assert_eq!(verdict("gone", &request("gone")), Err(Reason::PeerSuspended));
    assert_eq!(
        verdict("stranger", &request("stranger")),
        Err(Reason::PeerSuspended)
    );
}

#[test]
fn only_exported_services_ports_and_protocols() {
    let other = Request {
        service: ServiceKey::parse("demo", "secret").unwrap(),
        ..request("west")
    };
    assert_eq!(verdict("west", &other), Err(Reason::UnknownService));
    let port = Request {
        port: 81,
        ..request("west")
    };
    assert_eq!(verdict("west", &port), Err(Reason::UnknownService));
    let udp = Request {
        protocol: Protocol::Udp,
        ..request("west")
    };
    assert_eq!(verdict("west", &udp), Err(Reason::ProtocolNotServed));
}
