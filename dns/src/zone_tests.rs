//! Questions and answers of Multicluster DNS 1.0.0, restated over one snapshot, and of the per-cluster zone.

use std::{collections::BTreeSet, str::FromStr};

use hickory_proto::rr::rdata::SOA;
use strait_federation_api::{
    catalog::EndpointId,
    ids::Hostname,
    observation::{LinkState, Observation},
    snapshot::BackendCluster,
};

use super::*;
use crate::testdata::{cluster, ip, key, world};

const NX: &str = "NXDOMAIN";
const NODATA: &str = "NODATA";

fn ask_with(name: &str, kind: &str, snapshot: &Snapshot, health: &HealthView) -> Vec<String> {
    let query = Query::query(Name::from_str(name).unwrap(), RecordType::from_str(kind).unwrap());
    let Some(answer) = answer(&query, snapshot, health, 0) else {
        return vec!["NOTOURS".to_owned()];
    };
    match answer.code {
        ResponseCode::NXDomain | ResponseCode::NoError if answer.answers.is_empty() => {
            let [
                Record {
                    data: RData::SOA(SOA { minimum, .. }),
                    ttl,
                    ..
                },
            ] = answer.authorities.as_slice()
            else {
                panic!("negative answer without SOA: {answer:?}");
            };
            assert_eq!((*minimum, *ttl), (NEGATIVE_TTL, NEGATIVE_TTL));
            vec![
                if answer.code == ResponseCode::NoError {
                    NODATA
                } else {
                    NX
                }
                .to_owned(),
            ]
        }
        ResponseCode::NoError => {
            assert!(answer.answers.iter().all(|r| r.name == *query.name()));
            let text: BTreeSet<_> = answer.answers.iter().map(|r| r.data.to_string()).collect();
            assert_eq!(text.len(), answer.answers.len(), "no record comes twice");
            text.into_iter().collect()
        }
        other => vec![other.to_string()],
    }
}

fn ask(name: &str, kind: &str) -> Vec<String> {
    ask_with(name, kind, &world(), &HealthView::default())
}

fn link(peer: &str, usable_tunnels: u32) -> Observation {
    Observation::Link {
        peer: cluster(peer),
        state: LinkState {
            usable_tunnels,
            ..LinkState::default()
        },
    }
}

#[test]
fn the_table_of_the_standard() {
    let table: &[(&str, &str, &[&str])] = &[
        // Schema version.
        ("dns-version.clusterset.local.", "TXT", &["1.0.0"]),
        ("dns-version.clusterset.local.", "A", &[NODATA]),
        // A service with a VIP.
        ("greeter.demo.svc.clusterset.local.", "A", &["127.1.0.1"]),
        ("greeter.demo.svc.clusterset.local.", "AAAA", &["fd00::1"]),
        ("GREETER.Demo.SVC.clusterset.local.", "A", &["127.1.0.1"]),
        ("hello.demo.svc.clusterset.local.", "AAAA", &[NODATA]),
        ("greeter.demo.svc.clusterset.local.", "TXT", &[NODATA]),
        ("greeter.demo.svc.clusterset.local.", "MX", &[NODATA]),
        (
            "_http._tcp.greeter.demo.svc.clusterset.local.",
            "SRV",
            &["0 100 8080 greeter.demo.svc.clusterset.local."],
        ),
        (
            "greeter.demo.svc.clusterset.local.",
            "SRV",
            &[
                "0 100 8080 greeter.demo.svc.clusterset.local.",
                "0 100 9090 greeter.demo.svc.clusterset.local.",
            ],
        ),
        ("_http._udp.greeter.demo.svc.clusterset.local.", "SRV", &[NX]),
        ("_nope._tcp.greeter.demo.svc.clusterset.local.", "SRV", &[NX]),
        ("_http._tcp.greeter.demo.svc.clusterset.local.", "A", &[NODATA]),
        // One number over two protocols falls together on the bare name, not on the named ones.
        (
            "hello.demo.svc.clusterset.local.",
            "SRV",
            &["0 100 42 hello.demo.svc.clusterset.local."],
        ),
        (
            "_udp._udp.hello.demo.svc.clusterset.local.",
            "SRV",
            &["0 100 42 hello.demo.svc.clusterset.local."],
        ),
        // An unnamed port has no SRV record.
        ("plain.demo.svc.clusterset.local.", "SRV", &[NODATA]),
        ("plain.demo.svc.clusterset.local.", "A", &["127.1.0.3"]),
        // No record singles out a cluster, and there is nothing below a VIP service either.
        ("west.greeter.demo.svc.clusterset.local.", "A", &[NX]),
        ("a.west.greeter.demo.svc.clusterset.local.", "A", &[NX]),
        // Headless: ready members of every cluster.
        (
            "db.data.svc.clusterset.local.",
            "A",
            &["10.0.0.1", "127.1.2.1", "127.1.3.1"],
        ),
        ("db.data.svc.clusterset.local.", "AAAA", &["fd00::9"]),
        ("db-0.west.db.data.svc.clusterset.local.", "A", &["127.1.3.1"]),
        ("db-0.east.db.data.svc.clusterset.local.", "A", &["10.0.0.1"]),
        ("db-0.west.db.data.svc.clusterset.local.", "AAAA", &[NODATA]),
        ("db-1.west.db.data.svc.clusterset.local.", "A", &[NX]),
        ("db-0.north.db.data.svc.clusterset.local.", "A", &[NX]),
        (
            "10-0-0-9.north.db.data.svc.clusterset.local.",
            "A",
            &["127.1.2.1"],
        ),
        (
            "2001-db8--9.north.db.data.svc.clusterset.local.",
            "AAAA",
            &["fd00::9"],
        ),
        (
            "_sql._tcp.db.data.svc.clusterset.local.",
            "SRV",
            &[
                "0 100 5432 10-0-0-9.north.db.data.svc.clusterset.local.",
                "0 100 5432 2001-db8--9.north.db.data.svc.clusterset.local.",
                "0 100 5432 db-0.east.db.data.svc.clusterset.local.",
                "0 100 5432 db-0.west.db.data.svc.clusterset.local.",
            ],
        ),
        // The cluster's own name under a headless service holds nothing, but members lie below it: not denied.
        ("west.db.data.svc.clusterset.local.", "A", &[NODATA]),
        ("south.db.data.svc.clusterset.local.", "A", &[NX]),
        // None ready.
        ("idle.data.svc.clusterset.local.", "A", &[NX]),
        ("idle.data.svc.clusterset.local.", "AAAA", &[NX]),
        ("idle.data.svc.clusterset.local.", "SRV", &[NX]),
        ("west.idle.data.svc.clusterset.local.", "A", &[NX]),
        // Names that are not there, and inner nodes that are.
        ("nope.demo.svc.clusterset.local.", "A", &[NX]),
        ("greeter.nope.svc.clusterset.local.", "A", &[NX]),
        ("nope.clusterset.local.", "A", &[NX]),
        ("greeter.demo.pod.clusterset.local.", "A", &[NX]),
        ("clusterset.local.", "A", &[NODATA]),
        ("svc.clusterset.local.", "A", &[NODATA]),
        ("demo.svc.clusterset.local.", "A", &[NODATA]),
        ("nope.svc.clusterset.local.", "A", &[NX]),
        ("_tcp.greeter.demo.svc.clusterset.local.", "A", &[NODATA]),
        ("_sctp.greeter.demo.svc.clusterset.local.", "A", &[NX]),
        // The local zone stays untouched.
        ("greeter.demo.svc.cluster.local.", "A", &["NOTOURS"]),
        ("example.com.", "A", &["NOTOURS"]),
    ];
    for (name, kind, expected) in table {
        assert_eq!(ask(name, kind), *expected, "{name} {kind}");
    }
}

#[test]
fn the_table_of_the_second_zone() {
    let table: &[(&str, &str, &[&str])] = &[
        (
            "greeter.demo.svc.west.clusters.strait.internal.",
            "A",
            &["127.1.1.1"],
        ),
        (
            "greeter.demo.svc.north.clusters.strait.internal.",
            "A",
            &["127.1.1.2"],
        ),
        (
            "greeter.demo.svc.west.clusters.strait.internal.",
            "AAAA",
            &[NODATA],
        ),
        ("greeter.demo.svc.south.clusters.strait.internal.", "A", &[NX]),
        ("greeter.demo.svc.east.clusters.strait.internal.", "A", &[NX]),
        // A port the cluster does not export has no SRV record there.
        (
            "_metrics._tcp.greeter.demo.svc.north.clusters.strait.internal.",
            "SRV",
            &[NX],
        ),
        (
            "_metrics._tcp.greeter.demo.svc.west.clusters.strait.internal.",
            "SRV",
            &["0 100 9090 greeter.demo.svc.west.clusters.strait.internal."],
        ),
        ("db.data.svc.west.clusters.strait.internal.", "A", &["127.1.3.1"]),
        ("db.data.svc.east.clusters.strait.internal.", "A", &["10.0.0.1"]),
        (
            "db-0.db.data.svc.west.clusters.strait.internal.",
            "A",
            &["127.1.3.1"],
        ),
        ("db-1.db.data.svc.west.clusters.strait.internal.", "A", &[NX]),
        // No VIP allotted: the name exists, for SOCKS serves it.
        ("hello.demo.svc.west.clusters.strait.internal.", "A", &[NODATA]),
        ("clusters.strait.internal.", "A", &[NODATA]),
        ("west.clusters.strait.internal.", "A", &[NODATA]),
        ("svc.west.clusters.strait.internal.", "A", &[NODATA]),
        ("data.svc.west.clusters.strait.internal.", "A", &[NODATA]),
        ("demo.svc.east.clusters.strait.internal.", "A", &[NX]),
        ("south.clusters.strait.internal.", "A", &[NX]),
    ];
    for (name, kind, expected) in table {
        assert_eq!(ask(name, kind), *expected, "{name} {kind}");
    }
}

#[test]
fn a_vip_name_answers_its_vip_whatever_is_down() {
    let mut health = HealthView::default();
    health.observe(&link("west", 0));
    health.observe(&link("north", 0));
    let now = |name| ask_with(name, "A", &world(), &health);
    assert_eq!(now("greeter.demo.svc.clusterset.local."), ["127.1.0.1"]);
    assert_eq!(now("greeter.demo.svc.west.clusters.strait.internal."), [NX]);
}

#[test]
fn an_unreachable_clusters_members_are_not_answered() {
    let mut health = HealthView::default();
    health.observe(&link("west", 0));
    let now = |name| ask_with(name, "A", &world(), &health);
    assert_eq!(now("db.data.svc.clusterset.local."), ["10.0.0.1", "127.1.2.1"]);
    assert_eq!(now("db-0.west.db.data.svc.clusterset.local."), [NX]);
    assert_eq!(now("db.data.svc.west.clusters.strait.internal."), [NX]);
    assert_eq!(now("db-0.east.db.data.svc.clusterset.local."), ["10.0.0.1"]);
    health.observe(&link("west", 1));
    assert_eq!(
        ask_with("db-0.west.db.data.svc.clusterset.local.", "A", &world(), &health),
        ["127.1.3.1"]
    );
}

#[test]
fn a_failing_local_endpoint_is_not_answered() {
    let mut health = HealthView::default();
    health.observe(&Observation::EndpointHealth {
        service: key("data/db"),
        endpoint: EndpointId(Hostname::parse("db-0").unwrap()),
        healthy: false,
        reason: None,
    });
    let now = |name| ask_with(name, "A", &world(), &health);
    assert_eq!(now("db.data.svc.clusterset.local."), ["127.1.2.1", "127.1.3.1"]);
    assert_eq!(now("db-0.east.db.data.svc.clusterset.local."), [NX]);
    assert_eq!(
        now("db-0.west.db.data.svc.clusterset.local."),
        ["127.1.3.1"],
        "another cluster's db-0 is another endpoint"
    );
}

#[test]
fn stale_members_are_a_last_choice_unless_their_link_is_up() {
    let stale = |which: &[&str]| {
        let mut world = world();
        let mut import = (*world.imports[&key("data/db")]).clone();
        for b in &mut import.backends {
            b.stale = which
                .iter()
                .any(|w| b.cluster == BackendCluster::Peer(cluster(w)));
        }
        import.backends.retain(|b| b.cluster != BackendCluster::Local);
        world.imports.insert(key("data/db"), import.into());
        world
    };
    let name = "db.data.svc.clusterset.local.";
    let unknown = HealthView::default();
    assert_eq!(ask_with(name, "A", &stale(&["west"]), &unknown), ["127.1.2.1"]);
    assert_eq!(
        ask_with(name, "A", &stale(&["west", "north"]), &unknown),
        ["127.1.2.1", "127.1.3.1"]
    );
    let mut up = HealthView::default();
    up.observe(&link("west", 1));
    assert_eq!(
        ask_with(name, "A", &stale(&["west"]), &up),
        ["127.1.2.1", "127.1.3.1"]
    );
}

#[test]
fn before_the_first_snapshot_nothing_is_denied() {
    let blank = Snapshot::empty(cluster("east"));
    let now = |name, kind| ask_with(name, kind, &blank, &HealthView::default());
    assert_eq!(now("greeter.demo.svc.clusterset.local.", "A"), ["Server Failure"]);
    assert_eq!(now("dns-version.clusterset.local.", "TXT"), ["1.0.0"]);
}

#[test]
fn any_is_answered_with_one_small_record() {
    assert_eq!(ask("greeter.demo.svc.clusterset.local.", "ANY"), ["RFC8482 "]);
    assert_eq!(ask("nope.demo.svc.clusterset.local.", "ANY"), [NX]);
}

#[test]
fn the_apex_holds_the_soa_whose_serial_rises() {
    let serial = |epoch, version| {
        let mut world = world();
        (world.epoch.0, world.version) = (epoch, version);
        let query = Query::query(Name::from_str("clusterset.local.").unwrap(), RecordType::SOA);
        let answer = answer(&query, &world, &HealthView::default(), 0).unwrap();
        let RData::SOA(soa) = &answer.answers[0].data else {
            panic!()
        };
        soa.serial
    };
    assert!(serial(1, 7) < serial(1, 8));
    assert!(serial(1, 8) < serial(2, 1));
}

#[test]
fn srv_answers_carry_the_addresses_of_their_targets() {
    let query = Query::query(
        Name::from_str("_sql._tcp.db.data.svc.clusterset.local.").unwrap(),
        RecordType::SRV,
    );
    let answer = answer(&query, &world(), &HealthView::default(), 0).unwrap();
    let found: BTreeSet<_> = answer
        .additionals
        .iter()
        .filter_map(|r| r.data.ip_addr())
        .collect();
    assert_eq!(
        found,
        ["10.0.0.1", "127.1.2.1", "127.1.3.1", "fd00::9"].map(ip).into()
    );
}

#[test]
fn rotation_turns_the_order_and_loses_nothing() {
    let query = Query::query(
        Name::from_str("db.data.svc.clusterset.local.").unwrap(),
        RecordType::A,
    );
    let first = |turn| {
        answer(&query, &world(), &HealthView::default(), turn)
            .unwrap()
            .answers[0]
            .data
            .to_string()
    };
    let firsts: BTreeSet<_> = (0..3).map(first).collect();
    assert_eq!(firsts.len(), 3);
}
