//! Tests of routing: which candidates a connection has.

use std::collections::BTreeSet;

use strait_federation_api::{
    ClusterId, Hostname,
    catalog::{Member, ServiceKind, ServicePort, SessionAffinity},
    snapshot::{Backend, BackendMember, ExportPort, HealthCheck},
};

use super::*;

fn key() -> ServiceKey {
    ServiceKey::parse("demo", "db").unwrap()
}

fn endpoint(name: &str, port: u16) -> Endpoint {
    Endpoint {
        id: EndpointId(Hostname::parse(name).unwrap()),
        address: SocketAddr::from(([127, 0, 0, 1], port)),
        ready: true,
        hostname: None,
        zone: None,
    }
}

fn export(endpoints: Vec<Endpoint>) -> Arc<Export> {
    Arc::new(Export {
        service: key(),
        ports: vec![ExportPort {
            name: None,
            protocol: Protocol::Tcp,
            port: 80,
            endpoints,
        }],
        allowed: BTreeSet::new(),
        session_affinity: SessionAffinity::Unset,
        health: HealthCheck::Off,
    })
}

fn snapshot(export: Arc<Export>) -> Snapshot {
    let mut snapshot = Snapshot::empty(ClusterId::parse("east").unwrap());
    snapshot.exports.insert(key(), export);
    snapshot
}

fn states(view: &View) -> Vec<Arc<EndpointState>> {
    let route = view.export(&key()).unwrap().port(Protocol::Tcp, 80).unwrap();
    route.endpoints().cloned().collect()
}

#[test]
fn live_state_outlives_a_snapshot_and_new_addresses_start_anew() {
    let old = View::new(
        Arc::new(snapshot(export(vec![endpoint("a", 1), endpoint("b", 2)]))),
        None,
    );
    let new = View::new(
        Arc::new(snapshot(export(vec![endpoint("b", 2), endpoint("a", 9)]))),
        Some(&old),
    );
    let (before, after) = (states(&old), states(&new));
    assert!(Arc::ptr_eq(&before[1], &after[0]), "b is where it was");
    assert!(
        !Arc::ptr_eq(&before[0], &after[1]),
        "a has moved: what was learnt of the old address is void"
    );
}

#[test]
fn failures_eject_but_never_the_last() {
    let view = View::new(
        Arc::new(snapshot(export(vec![endpoint("a", 1), endpoint("b", 2)]))),
        None,
    );
    let route = Arc::clone(view.export(&key()).unwrap().port(Protocol::Tcp, 80).unwrap());
    let mut rng = fastrand::Rng::with_seed(1);
    let all = states(&view);
    for _ in 0..20 {
        route.failed(&all[0]);
        route.failed(&all[1]);
    }
    assert_eq!(all.iter().filter(|s| s.is_ejected()).count(), 1);
    let awake = all.iter().find(|s| !s.is_ejected()).unwrap();
    for _ in 0..20 {
        assert!(Arc::ptr_eq(
            &route.pick(None, None, &[], &mut rng).unwrap(),
            awake
        ));
    }
    let tried = [Arc::clone(awake)];
    assert!(
        route.pick(None, None, &tried, &mut rng).is_some(),
        "a resting one is better than none"
    );
}

#[test]
fn a_member_is_met_exactly_or_not_at_all() {
    let view = View::new(
        Arc::new(snapshot(export(vec![endpoint("a", 1), endpoint("b", 2)]))),
        None,
    );
    let route = view.export(&key()).unwrap().port(Protocol::Tcp, 80).unwrap();
    let mut rng = fastrand::Rng::with_seed(1);
    let b = endpoint("b", 2).id;
    for _ in 0..20 {
        assert_eq!(route.pick(Some(&b), Some(7), &[], &mut rng).unwrap().id(), &b);
    }
    states(&view)[1].set_healthy(false);
    assert!(route.pick(Some(&b), None, &[], &mut rng).is_none());
}

fn backend(cluster: BackendCluster, ports: Vec<(Protocol, u16)>, vip: &str, member: &str) -> Backend {
    Backend {
        cluster,
        remote: key(),
        priority: 1,
        weight: 1,
        ports,
        ready: 1,
        locality: None,
        members: vec![BackendMember {
            member: Member {
                id: EndpointId(Hostname::parse("db-0").unwrap()),
                hostname: Some(Hostname::parse("db-0").unwrap()),
                ip: "10.0.0.1".parse().unwrap(),
                ready: true,
            },
            address: member.parse().unwrap(),
        }],
        vips: vec![vip.parse().unwrap()],
        replayable_ports: vec![],
        stale: false,
    }
}

fn imported() -> View {
    let west = BackendCluster::Peer(ClusterId::parse("west").unwrap());
    let port = |protocol, port| ServicePort {
        name: None,
        protocol,
        port,
        app_protocol: None,
    };
    let import = Import {
        service: key(),
        kind: ServiceKind::ClusterSetIp,
        ports: vec![
            port(Protocol::Tcp, 80),
            port(Protocol::Tcp, 81),
            port(Protocol::Udp, 53),
        ],
        vips: vec!["127.83.0.1".parse().unwrap()],
        session_affinity: SessionAffinity::Unset,
        backends: vec![
            backend(
                BackendCluster::Local,
                vec![(Protocol::Tcp, 81)],
                "127.83.0.2",
                "10.0.0.9",
            ),
            backend(west, vec![(Protocol::Tcp, 80)], "127.83.0.3", "127.83.0.4"),
        ],
    };
    let mut snapshot = Snapshot::empty(ClusterId::parse("east").unwrap());
    snapshot.imports.insert(key(), Arc::new(import));
    View::new(Arc::new(snapshot), None)
}

#[test]
fn listeners_cover_every_virtual_address_and_no_other() {
    let view = imported();
    let all: Vec<String> = view
        .targets()
        .keys()
        .map(|(ip, port)| format!("{ip}:{port}"))
        .collect();
    assert_eq!(
        all,
        [
            "127.83.0.1:80",
            "127.83.0.1:81",
            "127.83.0.2:81",
            "127.83.0.3:80",
            "127.83.0.4:80"
        ],
        "TCP only; a local member is reached at its own address"
    );
    let pinned = view.at("127.83.0.4".parse().unwrap(), 80).unwrap();
    assert_eq!(pinned.member.as_ref().map(|m| m.0.as_str()), Some("db-0"));
    assert!(pinned.only.is_some());
}

#[test]
fn names_lead_only_to_what_exists() {
    let view = imported();
    let named = |text: &str| view.named(&strait_federation_api::names::parse(text).unwrap(), 80);
    assert_eq!(named("db.demo.svc.clusterset.local").map(|t| t.only), Some(None));
    let member = named("db-0.west.db.demo.svc.clusterset.local").unwrap();
    assert_eq!(member.member.as_ref().map(|m| m.0.as_str()), Some("db-0"));
    assert_eq!(
        named("db.demo.svc.east.clusters.strait.internal").map(|t| t.only),
        Some(Some(BackendCluster::Local))
    );
    for missing in [
        "other.demo.svc.clusterset.local",
        "db-1.west.db.demo.svc.clusterset.local",
        "db-0.north.db.demo.svc.clusterset.local",
        "db.demo.svc.north.clusters.strait.internal",
    ] {
        assert_eq!(named(missing), None, "{missing}");
    }
}
