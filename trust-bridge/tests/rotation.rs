//! The rotation of roots against a model, and with real certificates.
#![allow(missing_docs, clippy::unwrap_used, clippy::unwrap_in_result)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use common::noon;
use proptest::prelude::*;
use rustls_pki_types::UnixTime;
use strait_trust_bridge::envelope::{BundleUpdate, open, seal};
use strait_trust_bridge::rotation::{Facts, Phase, Rotation, Step};
use strait_trust_bridge::testing::{TestCluster, later};
use strait_trust_bridge::{
    CaRecord, DEFAULT_LEAF_TTL, KeyHash, PeerTrust, TrustDomain, reverify_roots, verify_chain,
};

const GRACE: Duration = Duration::from_secs(60);

fn key(n: u8) -> KeyHash {
    KeyHash::of_spki(&[n])
}

fn peer(n: usize) -> TrustDomain {
    TrustDomain::parse(&format!("peer-{n}")).unwrap()
}

fn peers(n: usize) -> BTreeSet<TrustDomain> {
    (0..n).map(peer).collect()
}

fn facts(peers: &BTreeSet<TrustDomain>, old: usize) -> Facts<'_> {
    Facts {
        peers,
        old_leaves: old,
        old_tunnels: old,
        ack_grace: GRACE,
    }
}

#[test]
fn the_planned_way() {
    let all = peers(2);
    let mut rotation = Rotation::new(key(0));
    assert_eq!(rotation.due(&facts(&all, 0), noon()), None);
    rotation.begin(key(1), noon()).unwrap();
    assert_eq!(
        rotation.phase(),
        Phase::Published {
            since: noon().as_secs()
        }
    );
    assert_eq!(rotation.published().collect::<Vec<_>>(), [key(0), key(1)]);
    assert_eq!((rotation.sequence(), rotation.current()), (2, key(0)));
    assert_eq!(
        rotation.due(&facts(&all, 9), noon()),
        None,
        "nobody has acknowledged"
    );
    rotation.ack(&peer(0), 2).unwrap();
    assert_eq!(rotation.lagging(&all), [peer(1)]);
    assert_eq!(rotation.due(&facts(&all, 9), noon()), None);
    rotation.ack(&peer(1), 2).unwrap();
    let step = rotation.due(&facts(&all, 9), noon()).unwrap();
    assert_eq!(step, Step::IssueFrom(key(1)));
    rotation.take(step, noon()).unwrap();
    assert_eq!(
        (rotation.sequence(), rotation.current(), rotation.previous()),
        (2, key(1), Some(key(0)))
    );
    for (leaves, tunnels) in [(1, 0), (0, 1)] {
        let busy = Facts {
            old_leaves: leaves,
            old_tunnels: tunnels,
            ..facts(&all, 0)
        };
        assert_eq!(
            rotation.due(&busy, later(noon(), 1 << 20)),
            None,
            "{leaves} {tunnels}"
        );
    }
    let step = rotation.due(&facts(&all, 0), noon()).unwrap();
    assert_eq!(step, Step::Retire(key(0)));
    rotation.take(step, noon()).unwrap();
    assert_eq!((rotation.phase(), rotation.sequence()), (Phase::Stable, 3));
    assert_eq!(*rotation.removed(), [key(0)].into());
    assert_eq!(rotation.lagging(&all), [peer(0), peer(1)], "of the removal");
}

#[test]
fn a_lagging_peer_delays_issuing_for_the_grace_and_retiring_for_ever() {
    let all = peers(1);
    let mut rotation = Rotation::new(key(0));
    rotation.begin(key(1), noon()).unwrap();
    assert_eq!(rotation.due(&facts(&all, 0), later(noon(), 59)), None);
    let step = rotation.due(&facts(&all, 0), later(noon(), 60)).unwrap();
    rotation.take(step, noon()).unwrap();
    assert_eq!(rotation.due(&facts(&all, 0), later(noon(), 1 << 30)), None);
    assert_eq!(rotation.lagging(&all), [peer(0)]);
    // Ending the Federation, or an operator's word, ends the wait.
    assert_eq!(
        rotation.due(&facts(&peers(0), 0), noon()),
        Some(Step::Retire(key(0)))
    );
    assert_eq!(rotation.next_step(), Some(Step::Retire(key(0))));
}

#[test]
fn steps_out_of_order_are_refused() {
    let mut rotation = Rotation::new(key(0));
    assert_eq!(
        rotation.take(Step::Retire(key(0)), noon()).unwrap_err().code(),
        "WrongPhase"
    );
    rotation.begin(key(1), noon()).unwrap();
    assert_eq!(rotation.begin(key(2), noon()).unwrap_err().code(), "WrongPhase");
    assert_eq!(
        rotation.take(Step::IssueFrom(key(2)), noon()).unwrap_err().code(),
        "WrongPhase"
    );
    assert_eq!(rotation.ack(&peer(0), 3).unwrap_err().code(), "SequenceRollback");
    assert_eq!(
        rotation.remove(key(9), None, &peers(1)).unwrap_err().code(),
        "NoSuchRoot"
    );
}

#[test]
fn an_old_acknowledgement_does_not_undo_a_newer_one() {
    let mut rotation = Rotation::new(key(0));
    rotation.begin(key(1), noon()).unwrap();
    rotation.ack(&peer(0), 2).unwrap();
    rotation.ack(&peer(0), 1).unwrap();
    assert_eq!(rotation.lagging(&peers(1)), []);
    rotation.forget(&peer(0));
    assert_eq!(rotation.lagging(&peers(1)), [peer(0)]);
}

#[test]
fn an_emergency_says_who_must_join_again() {
    let all = peers(2);
    // Stable: nobody holds another root.
    let mut rotation = Rotation::new(key(0));
    assert!(rotation.needs_replacement(key(0)));
    assert_eq!(
        rotation.remove(key(0), None, &all).unwrap_err().code(),
        "WrongPhase"
    );
    assert_eq!(
        rotation.remove(key(0), Some(key(1)), &all).unwrap(),
        [peer(0), peer(1)]
    );
    assert_eq!((rotation.current(), rotation.sequence()), (key(1), 2));
    // Published: those who acknowledged hold the next one.
    let mut rotation = Rotation::new(key(0));
    rotation.begin(key(1), noon()).unwrap();
    rotation.ack(&peer(0), 2).unwrap();
    assert!(!rotation.needs_replacement(key(0)));
    let mut next_lost = rotation.clone();
    assert_eq!(next_lost.remove(key(1), None, &all).unwrap(), []);
    assert_eq!(
        (next_lost.current(), next_lost.next(), next_lost.phase()),
        (key(0), None, Phase::Stable)
    );
    assert_eq!(rotation.remove(key(0), None, &all).unwrap(), [peer(1)]);
    assert_eq!((rotation.current(), rotation.next()), (key(1), None));
    // Issuing: everybody holds the previous one, laggards do not hold the current one.
    let mut rotation = Rotation::new(key(0));
    rotation.begin(key(1), noon()).unwrap();
    rotation.ack(&peer(0), 2).unwrap();
    rotation.take(rotation.next_step().unwrap(), noon()).unwrap();
    let mut old_lost = rotation.clone();
    assert_eq!(old_lost.remove(key(0), None, &all).unwrap(), [peer(1)]);
    assert_eq!(old_lost.current(), key(1));
    assert_eq!(rotation.remove(key(1), None, &all).unwrap(), []);
    assert_eq!((rotation.current(), rotation.previous()), (key(0), None));
}

/// What may happen to a rotation.
#[derive(Debug, Clone)]
enum Event {
    Begin,
    /// The peer fetches the present bundle and acknowledges it.
    Sync(usize),
    /// The acknowledgement of an earlier fetch arrives late.
    LateAck(usize),
    Wait(u64),
    Advance,
    Force,
    Remove(u8),
    OldInUse(bool),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        2 => Just(Event::Begin),
        4 => (0..3_usize).prop_map(Event::Sync),
        1 => (0..3_usize).prop_map(Event::LateAck),
        2 => (0..90_u64).prop_map(Event::Wait),
        5 => Just(Event::Advance),
        1 => Just(Event::Force),
        1 => (0..3_u8).prop_map(Event::Remove),
        2 => any::<bool>().prop_map(Event::OldInUse),
    ];
    prop::collection::vec(event, 1..60)
}

/// What a peer holds: the roots and removals of the bundle it fetched last.
#[derive(Debug, Clone)]
struct Held {
    sequence: u64,
    roots: Vec<KeyHash>,
    removed: BTreeSet<KeyHash>,
}

impl Held {
    fn of(rotation: &Rotation) -> Self {
        Self {
            sequence: rotation.sequence(),
            roots: rotation.published().collect(),
            removed: rotation.removed().clone(),
        }
    }

    /// Whether this peer verifies a leaf issued now: under the current root, or through the cross-certificate of the previous.
    fn verifies(&self, rotation: &Rotation) -> bool {
        let current = rotation.current();
        let via = |root: &KeyHash| self.roots.contains(root);
        !self.removed.contains(&current) && (via(&current) || rotation.previous().as_ref().is_some_and(via))
    }
}

proptest! {
    /// Whatever happens, in whatever order: the sequence changes exactly when the bundle does, removals stay, and a peer loses
    /// us only when an operator forced or removed something and we named that peer.
    #[test]
    fn rotations_follow_the_model(events in events()) {
        let all = peers(3);
        let mut rotation = Rotation::new(key(0));
        let mut held: BTreeMap<usize, Held> = (0..3).map(|n| (n, Held::of(&rotation))).collect();
        let (mut fresh, mut now, mut old_in_use) = (1_u8, noon(), false);
        let mut excused: BTreeSet<TrustDomain> = BTreeSet::new();
        for event in events {
            let before = rotation.clone();
            match event {
                Event::Begin => if rotation.begin(key(fresh), now).is_ok() { fresh += 1 },
                Event::Sync(n) => {
                    rotation.ack(&peer(n), rotation.sequence()).unwrap();
                    held.insert(n, Held::of(&rotation));
                    excused.remove(&peer(n));
                }
                Event::LateAck(n) => rotation.ack(&peer(n), held[&n].sequence).unwrap(),
                Event::Wait(seconds) => now = later(now, i64::try_from(seconds).unwrap()),
                Event::OldInUse(used) => old_in_use = used,
                Event::Advance => advance(&mut rotation, &all, old_in_use, now)?,
                Event::Force => if let Some(step) = rotation.next_step() {
                    if matches!(step, Step::Retire(_)) { excused.extend(rotation.lagging(&all)); }
                    rotation.take(step, now).unwrap();
                },
                Event::Remove(place) => if let Some(lost) = rotation.published().nth(place.into()) {
                    let replacement = rotation.needs_replacement(lost).then(|| key(fresh));
                    fresh += u8::from(replacement.is_some());
                    excused.extend(rotation.remove(lost, replacement, &all).unwrap());
                    prop_assert!(rotation.removed().contains(&lost));
                },
            }
            check(&before, &rotation)?;
            for (n, held) in &held {
                prop_assert!(held.verifies(&rotation) || excused.contains(&peer(*n)), "peer {n} lost us: {rotation:?} {held:?}");
            }
        }
    }
}

fn advance(
    rotation: &mut Rotation,
    all: &BTreeSet<TrustDomain>,
    old_in_use: bool,
    now: UnixTime,
) -> Result<(), TestCaseError> {
    let Some(step) = rotation.due(&facts(all, old_in_use.into()), now) else {
        return Ok(());
    };
    if let Step::Retire(_) = step {
        prop_assert!(rotation.lagging(all).is_empty() && !old_in_use);
    }
    rotation.take(step, now).unwrap();
    Ok(())
}

fn check(before: &Rotation, after: &Rotation) -> Result<(), TestCaseError> {
    let bundle = |r: &Rotation| (r.published().collect::<BTreeSet<_>>(), r.removed().clone());
    prop_assert_eq!(
        bundle(before) != bundle(after),
        after.sequence() == before.sequence() + 1
    );
    prop_assert!(after.sequence() - before.sequence() <= 1);
    prop_assert!(after.removed().is_superset(before.removed()));
    prop_assert!(after.published().all(|root| !after.removed().contains(&root)));
    prop_assert!(after.published().count() <= 2);
    let stored: Rotation = serde_json::from_str(&serde_json::to_string(after).unwrap()).unwrap();
    prop_assert_eq!(&stored, after);
    Ok(())
}

// ---- with certificates

/// Takes the present bundle of `of` as an update, and acknowledges it.
fn sync(of: &mut CaRecord, held: &mut PeerTrust) {
    if let BundleUpdate::Replace(new) = open(&seal(of).unwrap(), held, noon()).unwrap() {
        *held = new;
    }
    of.ack(&peer(0), held.bundle().sequence()).unwrap();
}

#[test]
fn every_leaf_verifies_at_every_moment_of_a_planned_rotation() {
    let mut east = TestCluster::new("east", noon());
    let mut held = PeerTrust::new(east.ca.bundle().unwrap()).unwrap();
    let lagging = held.clone();
    let all = peers(1);
    let leaf = |east: &TestCluster| east.issue("gw-0", DEFAULT_LEAF_TTL, noon()).chain;
    let old = leaf(&east);
    east.ca.begin_rotation(noon()).unwrap();
    assert_eq!(east.ca.advance(&facts(&all, 1), noon()).unwrap(), None);
    sync(&mut east.ca, &mut held);
    let next = east.ca.rotation().next().unwrap();
    assert_eq!(
        east.ca.advance(&facts(&all, 1), noon()).unwrap(),
        Some(Step::IssueFrom(next))
    );
    let new = leaf(&east);
    assert_eq!(verify_chain(&new, noon(), held.bundle()).unwrap().root_key, next);
    // A peer that missed all this verifies the new leaf through the cross-certificate, and the old one anyway.
    assert_ne!(
        verify_chain(&new, noon(), lagging.bundle()).unwrap().root_key,
        next
    );
    for bundle in [held.bundle(), lagging.bundle()] {
        verify_chain(&old, noon(), bundle).unwrap();
    }
    let restarted: CaRecord = serde_json::from_str(&serde_json::to_string(&east.ca).unwrap()).unwrap();
    restarted.check().unwrap();
    east.ca = restarted;
    assert_eq!(leaf(&east).len(), 3);
    let Some(Step::Retire(_)) = east.ca.advance(&facts(&all, 0), noon()).unwrap() else {
        panic!("not retired")
    };
    sync(&mut east.ca, &mut held);
    let last = leaf(&east);
    assert_eq!(last.len(), 2, "no cross-certificate any more");
    verify_chain(&last, noon(), held.bundle()).unwrap();
    reverify_roots(&new, noon(), held.bundle()).unwrap();
    assert_eq!(
        reverify_roots(&old, noon(), held.bundle()).unwrap_err().code(),
        "UnknownIssuer"
    );
    // Who missed the publication and comes back after the retirement holds nothing that speaks for us: it joins again.
    assert_eq!(
        open(&seal(&east.ca).unwrap(), &lagging, noon())
            .unwrap_err()
            .code(),
        "UnknownIssuer"
    );
}

#[test]
fn an_emergency_cuts_at_once_and_the_heir_is_trusted() {
    let mut east = TestCluster::new("east", noon());
    let mut held = PeerTrust::new(east.ca.bundle().unwrap()).unwrap();
    east.ca.begin_rotation(noon()).unwrap();
    sync(&mut east.ca, &mut held);
    let stolen = east.ca.clone();
    let lost = east.ca.rotation().current();
    let chain = east.issue("gw-0", DEFAULT_LEAF_TTL, noon()).chain;
    assert_eq!(east.ca.remove_root(lost, &peers(1), noon()).unwrap(), []);
    sync(&mut east.ca, &mut held);
    assert_eq!(
        reverify_roots(&chain, noon(), held.bundle()).unwrap_err().code(),
        "UnknownIssuer"
    );
    verify_chain(
        &east.issue("gw-0", DEFAULT_LEAF_TTL, noon()).chain,
        noon(),
        held.bundle(),
    )
    .unwrap();
    // With the stolen root the thief can still sign what it wants, but nothing of it leads anywhere.
    let thief = TestCluster {
        ca: stolen,
        ..TestCluster::new("thief", noon())
    };
    let forged = thief.issue("gw-0", DEFAULT_LEAF_TTL, noon()).chain;
    assert_eq!(
        verify_chain(&forged, noon(), held.bundle()).unwrap_err().code(),
        "UnknownIssuer"
    );
}
