//! Tests of the choice of cluster: priorities, weights, failover and return.

use std::collections::BTreeMap;

use proptest::prelude::*;
use strait_federation_api::{
    ServiceKey,
    catalog::{ServiceKind, ServicePort, SessionAffinity},
};

use super::*;

fn backend(cluster: &str, priority: u16, weight: u16) -> Backend {
    Backend {
        cluster: if cluster == "local" {
            BackendCluster::Local
        } else {
            BackendCluster::Peer(ClusterId::parse(cluster).unwrap())
        },
        remote: ServiceKey::parse("demo", "greeter").unwrap(),
        priority,
        weight,
        ports: vec![(Protocol::Tcp, 80)],
        ready: 1,
        locality: None,
        members: vec![],
        vips: vec![],
        replayable_ports: vec![],
        stale: false,
    }
}

fn import(backends: Vec<Backend>) -> Import {
    Import {
        service: ServiceKey::parse("demo", "greeter").unwrap(),
        kind: ServiceKind::ClusterSetIp,
        ports: vec![ServicePort {
            name: None,
            protocol: Protocol::Tcp,
            port: 80,
            app_protocol: None,
        }],
        vips: vec![],
        session_affinity: SessionAffinity::Unset,
        backends,
    }
}

const fn ask(import: &Import) -> Ask<'_> {
    Ask {
        import,
        protocol: Protocol::Tcp,
        port: 80,
        only: None,
        member: None,
        affinity: None,
    }
}

fn names(choice: &Choice<'_>) -> Vec<String> {
    choice
        .candidates
        .iter()
        .map(|b| cluster_text(&b.cluster).trim_matches(['(', ')']).to_owned())
        .collect()
}

const fn all_up(_: &Backend, _: bool) -> u8 {
    FULL_SHARE
}

const fn usable(_: &ClusterId) -> PeerPath {
    PeerPath::Usable
}

fn first_counts(import: &Import, mut share: impl FnMut(&Backend, bool) -> u8) -> BTreeMap<String, u32> {
    let mut rng = fastrand::Rng::with_seed(3);
    let mut counts = BTreeMap::new();
    for _ in 0..10_000 {
        let choice = choose(ask(import), usable, &mut share, &mut rng);
        *counts.entry(names(&choice)[0].clone()).or_default() += 1;
    }
    counts
}

#[test]
fn local_first_then_priority_groups() {
    let import = import(vec![
        backend("local", 0, 100),
        backend("a", 2, 100),
        backend("b", 1, 100),
    ]);
    let choice = choose(ask(&import), usable, all_up, &mut fastrand::Rng::with_seed(0));
    assert_eq!(names(&choice), ["local", "b", "a"]);
}

#[test]
fn weights_split_one_priority() {
    let import = import(vec![backend("a", 1, 300), backend("b", 1, 100)]);
    let a = first_counts(&import, all_up)["a"];
    assert!((7_200..7_800).contains(&a), "three quarters, found {a}");
}

#[test]
fn a_returning_backend_gets_its_share_and_stays_a_reserve() {
    let import = import(vec![backend("a", 1, 100), backend("b", 2, 100)]);
    let quarter = |b: &Backend, _| if b.priority == 1 { 25 } else { FULL_SHARE };
    let a = first_counts(&import, quarter)["a"];
    assert!((2_200..2_800).contains(&a), "a quarter, found {a}");
    let alone = self::import(vec![backend("a", 1, 100)]);
    assert_eq!(
        first_counts(&alone, |_, _| 0)["a"],
        10_000,
        "the last one standing"
    );
}

#[test]
fn affinity_pins_a_client_to_a_cluster_and_still_follows_weights() {
    let import = import(vec![backend("a", 1, 300), backend("b", 1, 100)]);
    let mut a = 0;
    for key in 0..4_000 {
        let ask = Ask {
            affinity: Some(key),
            ..ask(&import)
        };
        let mut rng = fastrand::Rng::with_seed(key);
        let first = names(&choose(ask, usable, all_up, &mut rng))[0].clone();
        assert_eq!(names(&choose(ask, usable, all_up, &mut rng))[0], first);
        a += u32::from(first == "a");
    }
    assert!((2_800..3_200).contains(&a), "three quarters, found {a}");
}

#[test]
fn a_port_goes_only_to_clusters_that_export_it() {
    let mut other = backend("b", 1, 100);
    other.ports = vec![(Protocol::Tcp, 81), (Protocol::Udp, 80)];
    let import = import(vec![backend("a", 1, 100), other]);
    let mut rng = fastrand::Rng::with_seed(0);
    assert_eq!(names(&choose(ask(&import), usable, all_up, &mut rng)), ["a"]);
    let udp = Ask {
        protocol: Protocol::Udp,
        port: 81,
        ..ask(&import)
    };
    let none = choose(udp, usable, all_up, &mut rng);
    assert_eq!((none.candidates.len(), none.obstacle), (0, Reason::NoBackend));
}

#[test]
fn the_obstacle_is_the_one_nearest_to_working() {
    let import = import(vec![backend("a", 1, 1), backend("b", 1, 1)]);
    let mut rng = fastrand::Rng::with_seed(0);
    let path = |p: &ClusterId| match p.as_str() {
        "a" => PeerPath::Suspended,
        _ => PeerPath::Draining,
    };
    let choice = choose(ask(&import), path, all_up, &mut rng);
    assert_eq!(
        (choice.candidates.len(), choice.obstacle),
        (0, Reason::PeerDraining)
    );
    let choice = choose(ask(&import), |_| PeerPath::NoTunnel, all_up, &mut rng);
    assert_eq!(choice.obstacle, Reason::NoTunnel);
}

fn backends() -> impl Strategy<Value = Vec<Backend>> {
    let one = (0u16..3, 0u16..3, 0u32..2, any::<bool>(), any::<bool>());
    prop::collection::vec(one, 0..6).prop_map(|list| {
        list.into_iter()
            .enumerate()
            .map(|(i, (priority, weight, ready, stale, port))| Backend {
                ready,
                stale,
                ports: vec![(Protocol::Tcp, if port { 80 } else { 81 })],
                ..backend(&format!("c{i}"), priority, weight)
            })
            .collect()
    })
}

proptest! {
    #[test]
    fn candidates_are_allowed_unique_and_in_order(
        backends in backends(),
        paths in prop::collection::vec(0u8..4, 6),
        shares in prop::collection::vec(prop::sample::select(vec![0u8, 50, FULL_SHARE]), 6),
        affinity: Option<u64>,
        seed: u64,
    ) {
        let import = import(backends);
        let index = |id: &ClusterId| id.as_str()[1..].parse::<usize>().unwrap();
        let path = |id: &ClusterId| match paths[index(id)] {
            0 => PeerPath::NoTunnel,
            1 => PeerPath::Draining,
            2 => PeerPath::Suspended,
            _ => PeerPath::Usable,
        };
        let share_of = |b: &Backend| match &b.cluster {
            BackendCluster::Peer(id) => shares[index(id)],
            BackendCluster::Local => FULL_SHARE,
        };
        let ask = Ask { affinity, ..ask(&import) };
        let mut rng = fastrand::Rng::with_seed(seed);
        let choice = choose(ask, path, |b, _| share_of(b), &mut rng);
        let possible = import.backends.iter().filter(|b| {
            let BackendCluster::Peer(id) = &b.cluster else { return false };
            b.weight > 0 && b.ports.contains(&(Protocol::Tcp, 80)) && path(id) == PeerPath::Usable
        }).count();
        prop_assert_eq!(choice.candidates.len(), possible);
        let full = |b: &&Backend| share_of(b) == FULL_SHARE && !b.stale && b.ready > 0;
        for pair in choice.candidates.windows(2) {
            prop_assert_ne!(&pair[0].cluster, &pair[1].cluster);
            // Never a ready and current backend behind a stale or empty one.
            prop_assert!(!(full(&pair[1]) && !full(&pair[0]) && (pair[0].stale || pair[0].ready == 0)));
            if full(&pair[0]) && full(&pair[1]) {
                prop_assert!(pair[0].priority <= pair[1].priority);
            }
        }
    }
}
