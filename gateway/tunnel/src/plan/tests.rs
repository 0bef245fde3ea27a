//! Tests of the dial planner against snapshots and connections.

use proptest::prelude::*;

use super::*;

fn cluster(name: &str) -> ClusterId {
    ClusterId::parse(name).unwrap()
}

fn instance(name: &str) -> InstanceId {
    InstanceId::parse(name).unwrap()
}

fn want() -> PeerWant {
    PeerWant {
        cluster: cluster("west"),
        dialable: true,
        suspended: false,
        warm: true,
        control: true,
        cover: BTreeSet::new(),
    }
}

fn conn(id: u64, kind: TunnelKind) -> ConnSeen {
    ConnSeen {
        id,
        peer: cluster("west"),
        instance: instance("gw-0"),
        kind,
        here: true,
        dialled: true,
        state: ConnState::Good,
        in_flight: 0,
        stale: false,
        age: Duration::ZERO,
    }
}

fn dials(plan: &Plan) -> Vec<Purpose> {
    plan.actions
        .iter()
        .filter_map(|action| match action {
            Action::Dial { purpose, .. } => Some(*purpose),
            _ => None,
        })
        .collect()
}

fn plan(peers: &[PeerWant], conns: &[ConnSeen]) -> Plan {
    Planner::default().plan(Instant::now(), peers, conns)
}

#[test]
fn a_new_peer_gets_control_and_one_warm_tunnel_and_no_more() {
    let (now, peers) = (Instant::now(), [want()]);
    let mut planner = Planner::default();
    assert_eq!(
        dials(&planner.plan(now, &peers, &[])),
        [Purpose::Control, Purpose::Warm]
    );
    assert_eq!(planner.plan(now, &peers, &[]), Plan::default());
    let up = [conn(1, TunnelKind::Control), conn(2, TunnelKind::Data)];
    assert_eq!(plan(&peers, &up), Plan::default());
}

#[test]
fn nothing_is_dialled_without_an_address_and_a_peer_that_dialled_in_serves_both_ways() {
    let mute = PeerWant {
        dialable: false,
        ..want()
    };
    assert_eq!(plan(&[mute], &[]), Plan::default());
    let mut dialled_in = [conn(1, TunnelKind::Control), conn(2, TunnelKind::Data)];
    dialled_in.iter_mut().for_each(|conn| conn.dialled = false);
    assert_eq!(plan(&[want()], &dialled_in), Plan::default());
}

#[test]
fn a_suspect_or_draining_tunnel_is_replaced_and_one_of_another_worker_does_not_count() {
    for change in [
        (|conn: &mut ConnSeen| conn.state = ConnState::Suspect) as fn(&mut ConnSeen),
        |conn| conn.state = ConnState::Leaving,
        |conn| conn.here = false,
    ] {
        let mut conns = [conn(1, TunnelKind::Control), conn(2, TunnelKind::Data)];
        change(&mut conns[1]);
        assert_eq!(dials(&plan(&[want()], &conns)), [Purpose::Warm]);
    }
}

#[test]
fn a_suspended_peer_loses_its_connections_and_is_not_dialled() {
    let peers = [PeerWant {
        suspended: true,
        ..want()
    }];
    let close = |id| Action::Close {
        id,
        reason: Reason::PeerSuspended,
    };
    let conns = [conn(1, TunnelKind::Control), conn(2, TunnelKind::Data)];
    assert_eq!(plan(&peers, &conns).actions, [close(1), close(2)]);
}

#[test]
fn a_renewed_leaf_opens_new_connections_and_then_retires_the_old() {
    let mut old = [conn(1, TunnelKind::Control), conn(2, TunnelKind::Data)];
    old.iter_mut().for_each(|conn| conn.stale = true);
    let first = plan(&[want()], &old);
    assert_eq!(dials(&first), [Purpose::Control, Purpose::Warm]);
    assert_eq!(first.actions.len(), 2);
    let both = [
        old[0].clone(),
        old[1].clone(),
        conn(3, TunnelKind::Control),
        conn(4, TunnelKind::Data),
    ];
    assert_eq!(plan(&[want()], &both).actions, [Action::Retire { id: 2 }]);
}

#[test]
fn load_opens_more_up_to_the_bound_and_spare_ones_go_later() {
    let control = conn(1, TunnelKind::Control);
    let busy = |id| ConnSeen {
        in_flight: LOAD_STREAMS,
        ..conn(id, TunnelKind::Data)
    };
    assert_eq!(
        dials(&plan(&[want()], &[control.clone(), busy(2)])),
        [Purpose::Load]
    );
    let full: Vec<_> = (2..2 + MAX_PER_WORKER as u64)
        .map(busy)
        .chain([control.clone()])
        .collect();
    assert_eq!(plan(&[want()], &full), Plan::default());
    let old = |id| ConnSeen {
        age: SPARE_AGE,
        ..conn(id, TunnelKind::Data)
    };
    assert_eq!(
        plan(&[want()], &[control, old(2), old(3)]).actions,
        [Action::Retire { id: 2 }]
    );
}

#[test]
fn instances_are_covered_after_the_warm_tunnel_with_growing_pauses() {
    let peers = [PeerWant {
        cover: [instance("gw-0"), instance("gw-1")].into(),
        ..want()
    }];
    let conns = [conn(1, TunnelKind::Control), conn(2, TunnelKind::Data)];
    assert_eq!(dials(&plan(&peers, &[conns[0].clone()])), [Purpose::Warm]);
    let mut planner = Planner::default();
    let (mut now, start, mut count) = (Instant::now(), Instant::now(), 0);
    while now < start + Duration::from_secs(600) {
        let plan = planner.plan(now, &peers, &conns);
        if dials(&plan) == [Purpose::Cover] {
            count += 1;
            planner.dialled(now, &peers[0].cluster, Purpose::Cover, false, 0.5);
        }
        now += Duration::from_millis(50);
    }
    assert!((10..30).contains(&count), "{count} attempts in ten minutes");
}

proptest! {
    /// Whatever fails: attempts of one purpose never overlap, pauses stay within bounds, and a success resets them.
    #[test]
    fn attempts_are_spaced(ends in proptest::collection::vec((any::<bool>(), 0.0f64..1.0, 0u64..9_000), 1..60)) {
        let peers = [PeerWant { control: false, ..want() }];
        let mut planner = Planner::default();
        let mut now = Instant::now();
        for (up, jitter, wait) in ends {
            let first = planner.plan(now, &peers, &[]);
            if dials(&first).is_empty() {
                let next = first.next.unwrap();
                prop_assert!(next > now && next <= now + BACKOFF_MAX.mul_f64(1.25));
                now = next;
                prop_assert_eq!(dials(&planner.plan(now, &peers, &[])), [Purpose::Warm]);
            }
            prop_assert_eq!(planner.plan(now, &peers, &[]), Plan::default());
            planner.dialled(now, &peers[0].cluster, Purpose::Warm, up, jitter);
            now += Duration::from_millis(wait);
        }
    }
}

/// Dials of `purpose` within `span`, when each comes up and is gone after `life`.
fn dials_when_lives_are(life: Duration, span: Duration) -> usize {
    let (start, peers) = (Instant::now(), [want()]);
    let warm = [conn(1, TunnelKind::Data)];
    let both = [conn(1, TunnelKind::Data), conn(2, TunnelKind::Control)];
    let mut planner = Planner::default();
    let (mut now, mut count) = (start, 0);
    while now < start + span {
        let planned = planner.plan(now, &peers, &warm);
        if dials(&planned) == [Purpose::Control] {
            count += 1;
            planner.dialled(now, &peers[0].cluster, Purpose::Control, true, 0.5);
            assert_eq!(dials(&planner.plan(now, &peers, &both)), []);
            now += life;
        } else {
            now = planned.next.unwrap();
        }
    }
    count
}

#[test]
fn a_connection_that_is_thrown_out_at_once_is_dialled_ever_more_slowly_and_one_that_lived_is_not() {
    let ms = Duration::from_millis;
    assert!(dials_when_lives_are(ms(5), ms(60_000)) < 20);
    assert!(dials_when_lives_are(ms(2_000), ms(60_000)) >= 29);
}
