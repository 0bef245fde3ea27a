//! A table of the standard's conflicts, Strait's own rules, and the laws every merge keeps.

use proptest::prelude::*;
use strait_federation_api::{Uid, catalog::EndpointId, view::ConditionStatus};

use super::*;

/// A cluster of the test world: its name is also its trust domain.
#[derive(Debug)]
struct Cluster {
    id: ClusterId,
    domain: TrustDomain,
    exports: BTreeMap<ServiceKey, OwnExport>,
}

fn cluster(id: &str, offers: &[OfferedService], to: &[&str]) -> Cluster {
    let offered_to: BTreeSet<_> = to.iter().map(|c| ClusterId::parse(c).unwrap()).collect();
    let export = |o: &OfferedService| OwnExport {
        state: Ok(Arc::new(o.clone())),
        offered_to: offered_to.clone(),
    };
    Cluster {
        id: ClusterId::parse(id).unwrap(),
        domain: TrustDomain::parse(&format!("{id}.test")).unwrap(),
        exports: offers.iter().map(|o| (o.service.clone(), export(o))).collect(),
    }
}

impl Cluster {
    fn catalog(&self) -> Catalog {
        let valid = |(k, e): (&ServiceKey, &OwnExport)| Some((k.clone(), e.state.clone().ok()?));
        self.exports.iter().filter_map(valid).collect()
    }
}

/// What one peer looks like in these tests.
struct Peer<'a> {
    of: &'a Cluster,
    catalog: Catalog,
    rules: ImportRules,
    conflicts: Conflicts,
    feedback: imbl::OrdMap<ServiceKey, Verdict>,
    suspended: bool,
}

fn peer<'a>(of: &'a Cluster, rules: &str) -> Peer<'a> {
    Peer {
        of,
        catalog: of.catalog(),
        rules: serde_json::from_str(rules).unwrap(),
        conflicts: Conflicts::Oldest,
        feedback: imbl::OrdMap::new(),
        suspended: false,
    }
}

fn run(me: &Cluster, peers: &[Peer<'_>]) -> MergeOutput {
    run_in(me, peers, None)
}

fn run_in(me: &Cluster, peers: &[Peer<'_>], namespaces: Option<&BTreeSet<Namespace>>) -> MergeOutput {
    let peers: Vec<_> = peers
        .iter()
        .map(|p| PeerInput {
            cluster: &p.of.id,
            trust_domain: &p.of.domain,
            catalog: &p.catalog,
            stale: false,
            suspended: p.suspended,
            conflicts: p.conflicts,
            rules: &p.rules,
            feedback: &p.feedback,
        })
        .collect();
    merge(&MergeInput {
        trust_domain: &me.domain,
        exports: &me.exports,
        peers: &peers,
        namespaces,
    })
}

fn key(s: &str) -> ServiceKey {
    s.parse().unwrap()
}

fn port(name: &str, number: u16) -> ServicePort {
    let name = (!name.is_empty()).then(|| name.parse().unwrap());
    ServicePort {
        name,
        protocol: Protocol::Tcp,
        port: number,
        app_protocol: None,
    }
}

fn offer(created: i64) -> OfferedService {
    OfferedService {
        service: key("demo/greeter"),
        uid: Uid::parse(&format!("uid-{created}")).unwrap(),
        created,
        kind: ServiceKind::ClusterSetIp,
        ports: vec![port("http", 80)],
        session_affinity: SessionAffinity::Unset,
        internal_traffic_policy: None,
        traffic_distribution: None,
        ip_families: vec![IpFamily::V4],
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        ready: 2,
        locality: None,
        members: vec![],
        replayable_ports: vec![],
    }
}

fn with(created: i64, change: impl FnOnce(&mut OfferedService)) -> OfferedService {
    let mut offer = offer(created);
    change(&mut offer);
    offer
}

/// East exports `old` (created 1), west exports `new` (created 2), both import everything of the other.
fn pair(old: OfferedService, new: OfferedService) -> (MergeOutput, MergeOutput) {
    let east = cluster("east", &[old], &["west"]);
    let west = cluster("west", &[new], &["east"]);
    (
        run(&east, &[peer(&west, "[{}]")]),
        run(&west, &[peer(&east, "[{}]")]),
    )
}

fn greeter(output: &MergeOutput) -> &MergedImport {
    &output.imports[&key("demo/greeter")]
}

fn text(map: &[(&str, &str)]) -> BTreeMap<String, String> {
    map.iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect()
}

type Change = fn(&mut OfferedService);

/// For each conflict of the standard: how the newer export differs.
fn conflict_table() -> Vec<(Reason, Change)> {
    vec![
        (Reason::PortConflict, |o| o.ports = vec![port("http", 8080)]),
        (Reason::PortConflict, |o| o.ports = vec![port("web", 80)]),
        (Reason::PortConflict, |o| o.ports.push(port("metrics", 9090))),
        (Reason::PortConflict, |o| o.ports[0].protocol = Protocol::Udp),
        (Reason::PortConflict, |o| {
            o.ports[0].app_protocol = Some("h2c".into())
        }),
        (Reason::TypeConflict, |o| o.kind = ServiceKind::Headless),
        (Reason::SessionAffinityConflict, |o| {
            o.session_affinity = SessionAffinity::ClientIp {
                timeout_seconds: Some(10),
            };
        }),
        (Reason::LabelsConflict, |o| o.labels = text(&[("team", "b")])),
        (Reason::AnnotationsConflict, |o| {
            o.annotations = text(&[("note", "b")])
        }),
        (Reason::InternalTrafficPolicyConflict, |o| {
            o.internal_traffic_policy = Some(InternalTrafficPolicy::Local);
        }),
        (Reason::TrafficDistributionConflict, |o| {
            o.traffic_distribution = Some("PreferClose".into())
        }),
        (Reason::IPFamilyConflict, |o| {
            o.ip_families = vec![IpFamily::V4, IpFamily::V6]
        }),
    ]
}

#[test]
fn each_conflict_is_found_alone_on_both_sides_and_told_to_both() {
    for (reason, change) in conflict_table() {
        let (east, west) = pair(offer(1), with(2, change));
        for (output, other) in [(&east, "west"), (&west, "east")] {
            assert_eq!(greeter(output).conflicts, BTreeSet::from([reason]));
            let findings = &output.exports[&key("demo/greeter")];
            assert_eq!(findings.conflict.status, ConditionStatus::True, "{reason}");
            assert_eq!(findings.conflict.reason_text(), reason.name());
            let verdict = &output.verdicts[&ClusterId::parse(other).unwrap()][&key("demo/greeter")];
            assert!(verdict.accepted);
            assert_eq!(verdict.reasons, [reason]);
            assert!(!verdict.message.is_empty());
        }
    }
}

#[test]
fn affinity_timeouts_conflict_by_what_they_mean() {
    let with_timeout = |created, timeout_seconds| {
        with(created, |o| {
            o.session_affinity = SessionAffinity::ClientIp { timeout_seconds }
        })
    };
    let (east, _) = pair(with_timeout(1, Some(10)), with_timeout(2, Some(20)));
    assert_eq!(
        greeter(&east).conflicts,
        BTreeSet::from([Reason::SessionAffinityConfigConflict])
    );
    // The API's default is 10800 seconds, so stating it is no conflict; neither is stating None.
    let (east, _) = pair(with_timeout(1, None), with_timeout(2, Some(10_800)));
    assert!(greeter(&east).conflicts.is_empty());
    let (east, _) = pair(offer(1), with(2, |o| o.session_affinity = SessionAffinity::None));
    assert!(greeter(&east).conflicts.is_empty());
}

#[test]
fn several_conflicts_are_joined_by_commas() {
    let (east, _) = pair(
        offer(1),
        with(2, |o| {
            o.labels = text(&[("a", "b")]);
            o.kind = ServiceKind::Headless;
        }),
    );
    let findings = &east.exports[&key("demo/greeter")];
    assert_eq!(findings.conflict.reason_text(), "TypeConflict,LabelsConflict");
}

#[test]
fn agreement_is_no_conflict() {
    let (east, west) = pair(offer(1), offer(2));
    for output in [&east, &west] {
        assert!(greeter(output).conflicts.is_empty());
        let conflict = &output.exports[&key("demo/greeter")].conflict;
        assert_eq!(
            (conflict.status, conflict.reasons.as_slice()),
            (ConditionStatus::False, &[Reason::NoConflicts][..])
        );
    }
}

#[test]
fn the_oldest_export_wins_everywhere() {
    let young = with(2, |o| {
        o.labels = text(&[("team", "b")]);
        o.traffic_distribution = Some("PreferClose".into());
        o.internal_traffic_policy = Some(InternalTrafficPolicy::Local);
    });
    let (east, west) = pair(offer(1), young);
    for output in [&east, &west] {
        let import = greeter(output);
        assert!(import.labels.is_empty());
        assert_eq!(
            (
                import.traffic_distribution.clone(),
                import.internal_traffic_policy
            ),
            (None, None)
        );
    }
}

#[test]
fn among_exports_of_one_age_the_trust_domain_decides() {
    let (east, west) = pair(offer(1), with(1, |o| o.labels = text(&[("team", "b")])));
    assert!(
        greeter(&east).labels.is_empty(),
        "east.test sorts before west.test"
    );
    assert!(greeter(&west).labels.is_empty());
}

#[test]
fn prefer_local_wins_over_age_but_only_for_that_peer() {
    let east = cluster("east", &[with(5, |o| o.labels = text(&[("by", "east")]))], &[]);
    let west = cluster("west", &[with(1, |o| o.labels = text(&[("by", "west")]))], &[]);
    let north = cluster("north", &[with(2, |o| o.labels = text(&[("by", "north")]))], &[]);
    let yields = |of| Peer {
        conflicts: Conflicts::PreferLocal,
        ..peer(of, "[{}]")
    };
    let by = |output: &MergeOutput| greeter(output).labels["by"].clone();
    assert_eq!(by(&run(&east, &[yields(&west), yields(&north)])), "east");
    assert_eq!(by(&run(&east, &[yields(&west), peer(&north, "[{}]")])), "north");
    assert_eq!(by(&run(&east, &[peer(&west, "[{}]"), yields(&north)])), "west");
}

#[test]
fn ports_are_a_union_and_traffic_goes_only_where_a_port_is_exported_exactly() {
    let old = with(1, |o| o.ports = vec![port("http", 80), port("admin", 81)]);
    let young = with(2, |o| {
        o.ports = vec![port("http", 8080), port("other", 81), port("extra", 90)]
    });
    let (east, west) = pair(old, young);
    for (output, old_first) in [(&east, true), (&west, false)] {
        let import = greeter(output);
        assert_eq!(
            import.ports,
            [port("http", 80), port("admin", 81), port("extra", 90)]
        );
        let ports: Vec<_> = import.backends.iter().map(|b| b.ports.clone()).collect();
        let mut want = [
            vec![(Protocol::Tcp, 80), (Protocol::Tcp, 81)],
            vec![(Protocol::Tcp, 90)],
        ];
        if !old_first {
            want.reverse();
        }
        assert_eq!(ports, want);
    }
    let told = &east.verdicts[&ClusterId::parse("west").unwrap()][&key("demo/greeter")].message;
    assert!(told.contains("http TCP/8080, other TCP/81"), "{told}");
}

#[test]
fn an_unnamed_port_is_the_named_one_of_its_number() {
    let (east, _) = pair(with(1, |o| o.ports = vec![port("", 80)]), offer(2));
    let import = greeter(&east);
    assert_eq!(import.ports, [port("http", 80)]);
    assert!(import.backends.iter().all(|b| b.ports == [(Protocol::Tcp, 80)]));
}

#[test]
fn nothing_comes_in_without_a_rule() {
    let east = cluster("east", &[], &[]);
    let west = cluster("west", &[offer(1)], &[]);
    let output = run(&east, &[peer(&west, "[]")]);
    assert!(output.imports.is_empty());
    let verdict = &output.verdicts[&west.id][&key("demo/greeter")];
    assert_eq!(
        (verdict.accepted, verdict.reasons.as_slice()),
        (false, &[Reason::NotAllowed][..])
    );
    assert!(
        verdict.message.contains("{namespace: demo, name: greeter}"),
        "{}",
        verdict.message
    );
}

#[test]
fn a_wildcard_never_merges_into_a_locally_exported_name() {
    let west = cluster("west", &[offer(1)], &[]);
    let wildcard = r#"[{"namespace": "*", "name": "*"}]"#;
    let east = cluster("east", &[offer(2)], &[]);
    let taken = |east: &Cluster, rules| {
        let output = run(east, &[peer(&west, rules)]);
        output.verdicts[&west.id][&key("demo/greeter")]
            .reasons
            .contains(&Reason::NameTaken)
    };
    assert!(taken(&east, wildcard));
    assert!(taken(&east, r#"[{"namespace": "demo", "name": "*"}]"#));
    assert!(
        !taken(&east, r#"[{"namespace": "demo", "name": "greeter"}]"#),
        "naming it merges"
    );
    assert!(!taken(&east, "[{}]"), "namespace sameness was accepted");
    assert!(!taken(
        &east,
        r#"[{"namespace": "*", "name": "*", "as": {"namespace": "from-west"}}]"#
    ));
    assert!(
        !taken(&cluster("east", &[], &[]), wildcard),
        "an unexported local Service is not in the way"
    );
    // A ServiceExport whose Service is missing for a moment still holds the name.
    let mut broken = cluster("east", &[offer(2)], &[]);
    broken.exports.get_mut(&key("demo/greeter")).unwrap().state =
        Err(Refusal::new(Reason::NoService, "gone"));
    assert!(taken(&broken, wildcard));
}

#[test]
fn a_mapped_name_leads_to_the_remote_one_with_the_rules_figures() {
    let east = cluster("east", &[], &[]);
    let west = cluster("west", &[offer(1)], &[]);
    let rules = r#"[{"namespace": "demo", "name": "greeter", "as": {"namespace": "x", "name": "y"}, "priority": 3, "weight": 7}]"#;
    let output = run(&east, &[peer(&west, rules)]);
    let import = &output.imports[&key("x/y")];
    let backend = &import.backends[0];
    assert_eq!(
        (&import.service, &backend.remote),
        (&key("x/y"), &key("demo/greeter"))
    );
    assert_eq!((backend.priority, backend.weight, backend.ready), (3, 7, 2));
    assert!(
        output.verdicts[&west.id][&key("demo/greeter")].accepted,
        "the verdict goes by the owner's name"
    );
}

#[test]
fn a_missing_namespace_is_said_so() {
    let east = cluster("east", &[], &[]);
    let west = cluster("west", &[offer(1)], &[]);
    let reason = |namespaces: &[&str]| {
        let all = namespaces.iter().map(|n| n.parse().unwrap()).collect();
        let output = run_in(&east, &[peer(&west, "[{}]")], Some(&all));
        output.verdicts[&west.id][&key("demo/greeter")]
            .reasons
            .first()
            .copied()
    };
    assert_eq!(reason(&["default"]), Some(Reason::NamespaceMissing));
    assert_eq!(reason(&["demo"]), None);
}

#[test]
fn a_suspended_peer_has_no_imports_and_no_verdicts() {
    let east = cluster("east", &[], &[]);
    let west = cluster("west", &[offer(1)], &[]);
    let output = run(
        &east,
        &[Peer {
            suspended: true,
            ..peer(&west, "[{}]")
        }],
    );
    assert!(output.imports.is_empty() && output.verdicts.is_empty());
}

#[test]
fn local_is_first_and_exporters_import_their_own_name() {
    let north = cluster("north", &[offer(9)], &[]);
    let east = cluster("east", &[offer(1)], &[]);
    let output = run(&north, &[peer(&east, "[{}]")]);
    let order: Vec<_> = greeter(&output)
        .backends
        .iter()
        .map(|b| (b.cluster.clone(), b.priority))
        .collect();
    assert_eq!(
        order,
        [(BackendCluster::Local, 0), (BackendCluster::Peer(east.id), 1)]
    );
    assert_eq!(greeter(&run(&north, &[])).backends.len(), 1);
}

#[test]
fn headless_members_are_kept_only_if_the_import_is_headless() {
    let member = |ip: &str, id: &str| Member {
        id: EndpointId(id.parse().unwrap()),
        hostname: None,
        ip: ip.parse().unwrap(),
        ready: true,
    };
    let headless = |created, ip: &str| {
        with(created, |o| {
            o.kind = ServiceKind::Headless;
            o.session_affinity = SessionAffinity::ClientIp {
                timeout_seconds: Some(5),
            };
            o.members = vec![member(ip, "a"), member(ip, "b")];
        })
    };
    let (east, _) = pair(headless(1, "10.0.0.1"), headless(2, "10.0.0.1"));
    let import = greeter(&east);
    assert_eq!(
        (import.kind, import.session_affinity),
        (ServiceKind::Headless, SessionAffinity::Unset)
    );
    let made = import.to_import(
        vec![],
        |_, _| vec![],
        |_, _, m| (m.id.0.as_str() == "a").then(|| "127.9.9.9".parse().unwrap()),
    );
    let addresses = |i: usize| {
        made.backends[i]
            .members
            .iter()
            .map(|m| m.address.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        addresses(0),
        ["10.0.0.1", "10.0.0.1"],
        "local members keep their own"
    );
    assert_eq!(
        addresses(1),
        ["127.9.9.9"],
        "a remote member without an address is left out"
    );
    let (east, _) = pair(offer(1), headless(2, "10.0.0.1"));
    assert!(greeter(&east).backends.iter().all(|b| b.members.is_empty()));
}

#[test]
fn ready_follows_the_peers_verdicts() {
    let mut east = cluster("east", &[offer(1)], &["west", "north"]);
    let (west, north) = (cluster("west", &[], &[]), cluster("north", &[], &[]));
    let said = |of, verdict: Option<Verdict>| Peer {
        feedback: verdict.into_iter().map(|v| (key("demo/greeter"), v)).collect(),
        ..peer(of, "[]")
    };
    let no = || Some(Verdict::refused(Reason::NotAllowed, ""));
    let ready = |east: &Cluster, w, n| {
        let findings = run(east, &[said(&west, w), said(&north, n)]).exports[&key("demo/greeter")].clone();
        (
            findings.ready.status,
            findings.ready.reasons[0],
            findings.ready.message,
        )
    };
    let (status, reason, _) = ready(&east, None, no());
    assert_eq!((status, reason), (ConditionStatus::False, Reason::Pending));
    let (status, reason, words) = ready(&east, Some(Verdict::accepted()), no());
    assert_eq!((status, reason), (ConditionStatus::True, Reason::Exported));
    assert!(
        words.contains("1 of 2") && words.contains("north: NotAllowed"),
        "{words}"
    );
    let (status, reason, _) = ready(&east, no(), no());
    assert_eq!((status, reason), (ConditionStatus::False, Reason::NotAllowed));
    east.exports
        .get_mut(&key("demo/greeter"))
        .unwrap()
        .offered_to
        .clear();
    let (status, reason, words) = ready(&east, None, None);
    assert_eq!((status, reason), (ConditionStatus::False, Reason::NotCovered));
    assert!(words.contains("{namespace: demo, name: greeter}"));
}

#[test]
fn an_invalid_export_is_offered_nowhere_and_says_why() {
    let mut east = cluster("east", &[offer(1)], &["west"]);
    let why = Refusal::new(Reason::InvalidServiceType, "type ExternalName cannot be exported");
    east.exports.get_mut(&key("demo/greeter")).unwrap().state = Err(why);
    let output = run(&east, &[]);
    assert!(output.imports.is_empty());
    let findings = &output.exports[&key("demo/greeter")];
    assert_eq!(findings.valid.reasons, [Reason::InvalidServiceType]);
    assert_eq!(findings.valid.status, ConditionStatus::False);
    assert_eq!(
        (findings.ready.status, findings.ready.reasons[0]),
        (ConditionStatus::False, Reason::Failed)
    );
}

#[test]
fn a_peers_word_adds_only_conflicts_of_the_standard() {
    let east = cluster("east", &[offer(1)], &["west"]);
    let west = cluster("west", &[], &[]);
    let verdict = Verdict {
        reasons: vec![Reason::RecordLost, Reason::TypeConflict],
        ..Verdict::accepted()
    };
    let said = Peer {
        feedback: imbl::OrdMap::unit(key("demo/greeter"), verdict),
        ..peer(&west, "[]")
    };
    let conflict = run(&east, &[said]).exports[&key("demo/greeter")].conflict.clone();
    assert_eq!(conflict.reasons, [Reason::TypeConflict]);
}

#[test]
fn no_verdict_names_a_third_cluster() {
    let all = |created| {
        with(created, |o| {
            o.labels = text(&[("n", &created.to_string())]);
            o.ports = vec![port("http", 80 + u16::try_from(created).unwrap())];
            o.kind = if created == 2 {
                ServiceKind::Headless
            } else {
                ServiceKind::ClusterSetIp
            };
        })
    };
    let east = cluster("east", &[all(1)], &[]);
    let (west, north) = (cluster("west", &[all(2)], &[]), cluster("north", &[all(3)], &[]));
    let output = run(&east, &[peer(&west, "[{}]"), peer(&north, "[{}]")]);
    for (to, verdicts) in &output.verdicts {
        for verdict in verdicts.values() {
            for name in ["east", "west", "north"] {
                assert!(!verdict.message.contains(name), "to {to}: {}", verdict.message);
            }
        }
    }
}

fn any_port() -> impl Strategy<Value = ServicePort> {
    let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)];
    (
        prop::sample::select(vec!["http", "grpc", "db"]),
        protocol,
        80..83_u16,
    )
        .prop_map(|(name, protocol, number)| ServicePort {
            protocol,
            ..port(name, number)
        })
}

fn any_offer() -> impl Strategy<Value = OfferedService> {
    let ports = prop::collection::vec(any_port(), 1..4).prop_map(|mut ports| {
        let mut names = BTreeSet::new();
        let mut numbers = BTreeSet::new();
        ports.retain(|p| names.insert(p.name.clone()) && numbers.insert((p.protocol, p.port)));
        ports
    });
    let families = prop::sample::subsequence(vec![IpFamily::V4, IpFamily::V6], 0..=2);
    let affinity = prop_oneof![
        Just(SessionAffinity::Unset),
        Just(SessionAffinity::None),
        (1..3_u32).prop_map(|t| SessionAffinity::ClientIp {
            timeout_seconds: Some(t)
        }),
    ];
    (
        0..3_i64,
        ports,
        families,
        affinity,
        any::<bool>(),
        0..2_u8,
        0..2_usize,
    )
        .prop_map(
            |(created, ports, ip_families, session_affinity, headless, label, name)| {
                with(created, |o| {
                    o.service = key(["demo/greeter", "demo/other"][name]);
                    o.ports = ports;
                    o.ip_families = ip_families;
                    o.session_affinity = session_affinity;
                    o.kind = if headless {
                        ServiceKind::Headless
                    } else {
                        ServiceKind::ClusterSetIp
                    };
                    o.labels = text(&[("l", &label.to_string())]);
                })
            },
        )
}

/// Two to five clusters; names sort both ways against each other's age.
fn any_world() -> impl Strategy<Value = Vec<Cluster>> {
    let exports = prop::collection::vec(any_offer(), 0..3);
    prop::collection::vec(exports, 2..6).prop_map(|all| {
        let names = ["mid", "east", "west", "north", "aaa"];
        all.iter()
            .zip(names)
            .map(|(offers, id)| cluster(id, offers, &names))
            .collect()
    })
}

/// The part of an import that must be the same in every cluster, and where each cluster's share of the traffic may go.
type Common = (MergedImport, BTreeMap<ClusterId, Vec<(Protocol, u16)>>);

fn common(import: &MergedImport, me: &Cluster) -> Common {
    let whose = |b: &MergedBackend| match &b.cluster {
        BackendCluster::Local => me.id.clone(),
        BackendCluster::Peer(id) => id.clone(),
    };
    let shares = import
        .backends
        .iter()
        .map(|b| (whose(b), b.ports.clone()))
        .collect();
    (
        MergedImport {
            backends: vec![],
            ..import.clone()
        },
        shares,
    )
}

fn view<'a>(world: &'a [Cluster], me: usize, reversed: bool) -> Vec<Peer<'a>> {
    let others = world.iter().enumerate().filter(|(i, _)| *i != me);
    let mut peers: Vec<_> = others.map(|(_, c)| peer(c, "[{}]")).collect();
    if reversed {
        peers.reverse();
    }
    peers
}

proptest! {
    #[test]
    fn every_cluster_reaches_the_same_verdict_in_any_order(world in any_world()) {
        let outputs: Vec<_> = (0..world.len()).map(|me| run(&world[me], &view(&world, me, false))).collect();
        for (me, output) in outputs.iter().enumerate() {
            prop_assert_eq!(output, &run(&world[me], &view(&world, me, true)), "the order of peers matters");
            prop_assert_eq!(output.imports.len(), outputs[0].imports.len());
            for (name, import) in &output.imports {
                prop_assert_eq!(common(import, &world[me]), common(&outputs[0].imports[name], &world[0]));
            }
        }
    }

    #[test]
    fn verdicts_sent_home_change_no_conflict(world in any_world()) {
        let outputs: Vec<_> = (0..world.len()).map(|me| run(&world[me], &view(&world, me, false))).collect();
        for me in 0..world.len() {
            let mut peers = view(&world, me, false);
            for peer in &mut peers {
                let at = world.iter().position(|c| c.id == peer.of.id).unwrap();
                peer.feedback = outputs[at].verdicts[&world[me].id].clone();
            }
            let after = run(&world[me], &peers);
            prop_assert_eq!(&after.imports, &outputs[me].imports);
            prop_assert_eq!(&after.verdicts, &outputs[me].verdicts);
            for (name, findings) in &after.exports {
                prop_assert_eq!(&findings.conflict.reasons, &outputs[me].exports[name].conflict.reasons);
                prop_assert_eq!(findings.ready.status, ConditionStatus::True);
            }
        }
    }

    #[test]
    fn an_import_is_well_formed(world in any_world()) {
        let output = run(&world[0], &view(&world, 0, false));
        for import in output.imports.values() {
            let names: Vec<_> = import.ports.iter().filter_map(|p| p.name.clone()).collect();
            let numbers: Vec<_> = import.ports.iter().map(|p| (p.protocol, p.port)).collect();
            prop_assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
            prop_assert_eq!(numbers.iter().collect::<BTreeSet<_>>().len(), numbers.len());
            // Every port leads somewhere, and no backend lists a port the import lacks.
            for number in &numbers {
                prop_assert!(import.backends.iter().any(|b| b.ports.contains(number)));
            }
            prop_assert!(import.backends.iter().flat_map(|b| &b.ports).all(|p| numbers.contains(p)));
            prop_assert_eq!(import.conflicts.is_empty() || import.backends.len() > 1, true);
        }
        // Each held object has exactly one verdict.
        for (peer, verdicts) in &output.verdicts {
            let owner = world.iter().find(|c| &c.id == peer).unwrap();
            prop_assert_eq!(verdicts.keys().collect::<Vec<_>>(), owner.exports.keys().collect::<Vec<_>>());
        }
    }
}
