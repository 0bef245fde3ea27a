//! Which step fails, whose side it points to, and what is skipped because of it.

use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;

use super::*;
use crate::{
    catalog::{Protocol, ServiceKind, ServicePort},
    ids::ClusterId,
    observation::{LinkState, ListenError, ListenerStatus},
    snapshot::{Backend, BackendCluster, PeerMode},
    view::{ConditionStatus, ConditionView, ExportView, FederationView, ImportView, OfferView, VerdictView},
};

fn condition(kind: &str, status: ConditionStatus, reason: Reason) -> ConditionView {
    ConditionView {
        kind: kind.into(),
        status,
        reason,
        message: String::new(),
        since: 0,
    }
}

fn west() -> ClusterId {
    ClusterId::parse("west").unwrap()
}

/// A peer with which all is well.
fn peer() -> PeerInput {
    PeerInput {
        federation: FederationView {
            name: "west".into(),
            cluster: Some(west()),
            trust_domain: None,
            trust: "join".into(),
            mode: PeerMode::Active,
            addresses: vec!["gw.west.example:7443".into()],
            link: LinkState {
                usable_tunnels: 2,
                tunnels: 2,
                control: true,
                ..LinkState::default()
            },
            offered: 2,
            imported: 1,
            exported: 1,
            synced: Some(1),
            bundle_sequence: Some(1),
            conditions: vec![
                condition("Trusted", ConditionStatus::True, Reason::Trusted),
                condition("Synced", ConditionStatus::True, Reason::Synced),
            ],
        },
        export_rules: 1,
        import_rules: 1,
        exports: vec![],
        probe: Some(Ok(Duration::from_millis(3))),
    }
}

fn down(reason: Reason) -> PeerInput {
    let mut p = peer();
    p.federation.link = LinkState {
        last_error: Some((reason, "10.0.0.1:7443: told so".into())),
        ..LinkState::default()
    };
    p
}

#[test]
fn a_peer_that_fell_silent_is_not_reached_though_its_control_connection_lingers() {
    let mut p = peer();
    p.federation.link.usable_tunnels = 0;
    let steps = told(&diagnose(&DiagnoseInput::Peer(p)));
    assert_eq!(steps[1], "reach Fail PeerSilent Path", "{steps:?}");
}

/// `name status reason side` of each step.
fn told(steps: &[Step]) -> Vec<String> {
    steps
        .iter()
        .map(|s| match (s.status, s.reason, s.whose_side) {
            (StepStatus::Fail, Some(reason), Some(side)) => format!("{} Fail {reason} {side:?}", s.name),
            (StepStatus::Skipped, ..) => format!("{} Skipped {}", s.name, s.detail),
            (status, ..) => format!("{} {status:?}", s.name),
        })
        .collect()
}

fn peer_steps(p: PeerInput) -> Vec<String> {
    told(&diagnose(&DiagnoseInput::Peer(p)))
}

fn failed(p: PeerInput) -> String {
    let steps = peer_steps(p);
    let fails: Vec<&String> = steps.iter().filter(|s| s.contains(" Fail ")).collect();
    assert_eq!(fails.len(), 1, "{steps:#?}");
    fails[0].clone()
}

#[test]
fn a_healthy_peer_passes_every_step() {
    let steps = diagnose(&DiagnoseInput::Peer(peer()));
    assert!(is_healthy(&steps), "{steps:#?}");
    assert_eq!(steps.iter().filter(|s| s.status == StepStatus::Ok).count(), 7);
}

#[test]
fn a_step_that_needs_a_failed_one_is_skipped_and_says_which() {
    let steps = peer_steps(down(Reason::HandshakeTimeout));
    assert_eq!(
        steps,
        [
            "address Ok",
            "reach Fail HandshakeTimeout Path",
            "handshake Skipped needs reach, which failed",
            "trust Skipped needs reach, which failed",
            "catalog Skipped needs reach, which failed",
            "policy Skipped needs reach, which failed",
            "probe Skipped needs reach, which failed",
        ]
    );
}

#[test]
fn each_fault_of_a_peer_is_told_with_its_side() {
    assert_eq!(
        failed(down(Reason::NameNotResolved)),
        "address Fail NameNotResolved Ours"
    );
    assert_eq!(failed(down(Reason::Unreachable)), "reach Fail Unreachable Path");
    assert_eq!(
        failed(down(Reason::AlpnRefused)),
        "handshake Fail AlpnRefused Theirs"
    );
    assert_eq!(
        failed(down(Reason::VersionSkew)),
        "handshake Fail VersionSkew Ours"
    );
    assert_eq!(
        failed(down(Reason::WrongTrustDomain)),
        "trust Fail WrongTrustDomain Ours"
    );
    assert_eq!(
        failed(down(Reason::UnknownTrustDomain)),
        "trust Fail UnknownTrustDomain Theirs"
    );
    assert_eq!(failed(down(Reason::LeafExpired)), "trust Fail LeafExpired Theirs");
    let with = |change: fn(&mut PeerInput)| {
        let mut p = peer();
        change(&mut p);
        failed(p)
    };
    assert_eq!(
        with(|p| p.federation.mode = PeerMode::Suspended),
        "address Fail PeerSuspended Ours"
    );
    assert_eq!(
        with(|p| {
            p.federation.addresses.clear();
            p.federation.link = LinkState::default();
        }),
        "address Fail NoAddress Theirs"
    );
    assert_eq!(
        with(|p| p.federation.link.control = false),
        "catalog Fail Stale Path"
    );
    assert_eq!(
        with(|p| p.federation.mode = PeerMode::Drain),
        "policy Fail PeerDraining Ours"
    );
    assert_eq!(with(|p| p.federation.imported = 0), "policy Fail NotAllowed Ours");
    assert_eq!(
        with(|p| (p.federation.offered, p.federation.imported) = (0, 0)),
        "policy Fail NotCovered Theirs"
    );
    assert_eq!(with(|p| p.federation.exported = 0), "policy Fail NotCovered Ours");
    assert_eq!(
        with(|p| (p.export_rules, p.import_rules) = (0, 0)),
        "policy Fail NotCovered Ours"
    );
    assert_eq!(
        with(|p| p.probe = Some(Err((Reason::TunnelLost, String::new())))),
        "probe Fail TunnelLost Path"
    );
}

#[test]
fn a_peer_that_dials_in_needs_no_address() {
    let mut p = peer();
    p.federation.addresses.clear();
    assert!(is_healthy(&diagnose(&DiagnoseInput::Peer(p))));
}

#[test]
fn an_unfinished_join_is_the_only_thing_said() {
    for (reason, side) in [
        (Reason::InviteOpen, "Theirs"),
        (Reason::InviteExpired, "Theirs"),
        (Reason::TokenInvalid, "Ours"),
    ] {
        let mut p = down(Reason::NoAddress);
        p.federation.conditions = vec![condition("Trusted", ConditionStatus::False, reason)];
        let steps = peer_steps(p);
        assert_eq!(steps[3], format!("trust Fail {reason} {side}"));
        assert_eq!(
            steps.iter().filter(|s| s.contains("needs trust")).count(),
            6,
            "{steps:#?}"
        );
    }
}

#[test]
fn an_importer_that_refuses_everything_is_told() {
    let mut p = peer();
    p.exports = vec![ExportView {
        service: "demo/greeter".parse().unwrap(),
        kind: None,
        ports: vec![],
        ready: 1,
        peers: vec![VerdictView {
            cluster: west(),
            reason: Reason::NotAllowed,
            message: String::new(),
        }],
        conditions: vec![],
    }];
    assert_eq!(failed(p), "policy Fail NotAllowed Theirs");
}

fn backend(ready: u32) -> Backend {
    Backend {
        cluster: BackendCluster::Peer(west()),
        remote: "demo/greeter".parse().unwrap(),
        priority: 1,
        weight: 100,
        ports: vec![(Protocol::Tcp, 80)],
        ready,
        locality: None,
        members: vec![],
        replayable_ports: vec![],
        vips: vec![],
        stale: false,
    }
}

/// A service with which all is well.
fn service() -> ServiceInput {
    let vip = "127.77.0.1".parse().unwrap();
    ServiceInput {
        service: "demo/greeter".parse().unwrap(),
        import: Some(ImportView {
            service: "demo/greeter".parse().unwrap(),
            kind: ServiceKind::ClusterSetIp,
            ports: vec![ServicePort {
                name: None,
                protocol: Protocol::Tcp,
                port: 80,
                app_protocol: None,
            }],
            vips: vec![vip],
            backends: vec![backend(2)],
            conditions: vec![],
        }),
        offers: vec![],
        peers: BTreeMap::from([(
            west(),
            PeerLink {
                usable_tunnels: 1,
                mode: PeerMode::Active,
            },
        )]),
        local_service: false,
        name: Some(Ok(vec![vip])),
        listeners: vec![ListenerStatus {
            service: "demo/greeter".parse().unwrap(),
            vip,
            protocol: Protocol::Tcp,
            port: 80,
            bound: Ok("127.77.0.1:80".parse().unwrap()),
        }],
        socks: true,
        probe: Some(Ok(Duration::from_millis(4))),
    }
}

fn service_steps(change: impl Fn(&mut ServiceInput)) -> Vec<Step> {
    let mut s = service();
    change(&mut s);
    diagnose(&DiagnoseInput::Service(s))
}

#[test]
fn each_fault_of_a_service_is_told_with_its_side() {
    let healthy = service_steps(|_| {});
    assert!(
        is_healthy(&healthy) && healthy.iter().all(|s| s.status == StepStatus::Ok),
        "{healthy:#?}"
    );
    let first = |change: fn(&mut ServiceInput)| {
        let steps = told(&service_steps(change));
        steps
            .into_iter()
            .find(|s| s.contains(" Fail "))
            .unwrap_or_default()
    };
    let link = |s: &mut ServiceInput, n, mode| {
        let link = PeerLink {
            usable_tunnels: n,
            mode,
        };
        s.peers.insert(west(), link);
    };
    assert_eq!(first(|s| s.import = None), "offered Fail UnknownName Theirs");
    assert_eq!(
        first(|s| {
            s.import = None;
            s.local_service = true;
        }),
        "offered Fail NotCovered Ours"
    );
    assert_eq!(
        first(|s| {
            s.import = None;
            s.peers.values_mut().for_each(|p| p.usable_tunnels = 0);
        }),
        "offered Fail UnknownName Path"
    );
    let tunnels = told(&service_steps(|s| link(s, 0, PeerMode::Active)));
    assert!(
        tunnels.contains(&"backends Fail NoTunnel Path".into()),
        "{tunnels:#?}"
    );
    assert!(
        tunnels.contains(&"probe Skipped needs backends, which failed".into()),
        "{tunnels:#?}"
    );
    let suspended = told(&service_steps(|s| link(s, 1, PeerMode::Suspended)));
    assert!(
        suspended.contains(&"backends Fail PeerSuspended Ours".into()),
        "{suspended:#?}"
    );
    let no_endpoint = |s: &mut ServiceInput| s.import.as_mut().unwrap().backends[0].ready = 0;
    assert!(told(&service_steps(no_endpoint)).contains(&"ready Fail NoEndpoint Theirs".into()));
    assert_eq!(first(|s| s.name = Some(Ok(vec![]))), "name Fail UnknownName Ours");
    assert_eq!(
        first(|s| {
            s.listeners[0].bound = Err(ListenError {
                reason: Reason::PortNotBindable,
                detail: "permission denied".into(),
            });
        }),
        "listener Fail PortNotBindable Ours"
    );
}

#[test]
fn an_offer_without_a_rule_shows_the_rule() {
    let steps = service_steps(|s| {
        s.import = None;
        s.offers = vec![OfferView {
            cluster: west(),
            service: "demo/greeter".parse().unwrap(),
            reason: Reason::NotAllowed,
            rule: crate::resources::rules::import_rule_for(&s.service),
        }];
    });
    assert_eq!(told(&steps)[..2], ["offered Ok", "rule Fail NotAllowed Ours"]);
    assert!(
        steps[1].fix.contains("- {namespace: demo, name: greeter}"),
        "{}",
        steps[1].fix
    );
    assert!(steps[2..].iter().all(|s| s.status == StepStatus::Skipped));
}

proptest! {
    /// Whatever a peer's state: seven steps, every failure with reason, side and fix, and nothing runs after what it needs failed.
    #[test]
    fn every_failure_is_complete(
        error in proptest::option::of(0..Reason::ALL.len()),
        (up, control, mode, addresses) in (0u32..2, any::<bool>(), 0u8..3, any::<bool>()),
        (trusted, synced) in (0..Reason::ALL.len(), 0..Reason::ALL.len()),
        (offered, imported, exported, rules) in (0u32..2, 0u32..2, 0u32..2, 0usize..3),
    ) {
        let mut p = peer();
        let f = &mut p.federation;
        f.link.last_error = error.map(|i| (Reason::ALL[i], String::new()));
        (f.link.usable_tunnels, f.link.control) = (up, control);
        f.mode = [PeerMode::Active, PeerMode::Drain, PeerMode::Suspended][usize::from(mode)];
        if !addresses {
            f.addresses.clear();
        }
        let status = |r: Reason| if r.class() == crate::reason::Class::Ok { ConditionStatus::True } else { ConditionStatus::False };
        f.conditions = [("Trusted", Reason::ALL[trusted]), ("Synced", Reason::ALL[synced])]
            .map(|(k, r)| condition(k, status(r), r)).to_vec();
        (f.offered, f.imported, f.exported) = (offered, imported, exported);
        (p.export_rules, p.import_rules) = (rules, rules);
        let steps = diagnose(&DiagnoseInput::Peer(p));
        prop_assert_eq!(steps.len(), 7);
        for s in &steps {
            prop_assert!(!s.detail.is_empty(), "{:?}", s);
            if s.status == StepStatus::Fail {
                prop_assert!(s.reason.is_some() && s.whose_side.is_some() && !s.fix.is_empty(), "{:?}", s);
            }
        }
    }
}
