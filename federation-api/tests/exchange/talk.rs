//! One machine and a peer played by the test: Hello, liveness, announcements, and what a peer may not do.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use strait_federation_api::{
    ClusterId, Epoch, Reason, ServiceKey,
    catalog::Catalog,
    exchange::{
        BundleUpdate, CatalogVersion, Config, Event, Exchange, Gateways, HEARTBEAT_EVERY, HeldCatalog, Hello,
        Inbound, Limits, LinkId, Message, Refusal, SILENCE_MAX, STALE_GRACE, VERSIONS, VersionRange,
        check_address,
    },
    snapshot::GatewayAddress,
};

use super::sim::offer;

const LINK: LinkId = LinkId(1);

fn config() -> Config {
    Config {
        cluster: ClusterId::parse("east").unwrap(),
        epoch: Epoch(5),
        mesh_trust_domain: None,
        peer: ClusterId::parse("west").unwrap(),
        limits: Limits::default(),
        allow_loopback: false,
        first_number: 100,
    }
}

fn hello() -> Hello {
    Hello {
        versions: VERSIONS,
        cluster: ClusterId::parse("west").unwrap(),
        epoch: Epoch(3),
        mesh_trust_domain: None,
        gateways: Gateways::default(),
        held: None,
    }
}

/// A machine with a link up and its own Hello said.
fn linked(now: Instant) -> Exchange {
    let mut machine = Exchange::new(config(), HeldCatalog::default(), imbl::OrdMap::new(), now);
    machine.link_up(LINK, now);
    assert!(matches!(machine.poll_message(now), Some(Message::Hello(_))));
    assert_eq!(
        machine.poll_message(now),
        None,
        "nothing is said before the peer has said Hello"
    );
    machine
}

fn greeted(hello: Hello, now: Instant) -> (Exchange, Vec<Event>) {
    let mut machine = linked(now);
    say(&mut machine, Message::Hello(Box::new(hello)), now);
    let events = drain(&mut machine);
    (machine, events)
}

fn say(machine: &mut Exchange, message: Message, now: Instant) {
    machine.receive(LINK, Inbound::Message(message), now);
}

fn drain(machine: &mut Exchange) -> Vec<Event> {
    std::iter::from_fn(|| machine.poll_event()).collect()
}

fn said(machine: &mut Exchange, now: Instant) -> Vec<Message> {
    std::iter::from_fn(|| machine.poll_message(now)).collect()
}

fn closed_for(events: &[Event]) -> Option<Reason> {
    events.iter().find_map(|e| match e {
        Event::CloseLink { refusal, .. } => Some(refusal.reason),
        _ => None,
    })
}

fn violations(events: &[Event]) -> Vec<Reason> {
    let reason = |e: &Event| match e {
        Event::Violation(refusal) => Some(refusal.reason),
        _ => None,
    };
    events.iter().filter_map(reason).collect()
}

fn key(name: &str) -> ServiceKey {
    ServiceKey::parse("demo", name).unwrap()
}

#[test]
fn a_peer_that_is_not_who_its_federation_says_or_too_new_is_left() {
    let now = Instant::now();
    let other = Hello {
        cluster: ClusterId::parse("north").unwrap(),
        ..hello()
    };
    assert_eq!(
        closed_for(&greeted(other, now).1),
        Some(Reason::ProtocolViolation)
    );
    let newer = Hello {
        versions: VersionRange { min: 2, max: 9 },
        ..hello()
    };
    assert_eq!(closed_for(&greeted(newer, now).1), Some(Reason::VersionSkew));
    let wider = Hello {
        versions: VersionRange { min: 1, max: 9 },
        ..hello()
    };
    assert_eq!(closed_for(&greeted(wider, now).1), None);
}

#[test]
fn speech_before_hello_a_second_hello_and_critical_unknowns_end_the_stream() {
    let now = Instant::now();
    let mut early = linked(now);
    say(&mut early, Message::BeginSync { full: true }, now);
    assert_eq!(closed_for(&drain(&mut early)), Some(Reason::ProtocolViolation));
    let (mut twice, _) = greeted(hello(), now);
    say(&mut twice, Message::Hello(Box::new(hello())), now);
    assert_eq!(closed_for(&drain(&mut twice)), Some(Reason::ProtocolViolation));
    let (mut machine, _) = greeted(hello(), now);
    machine.receive(LINK, Inbound::Unknown { critical: false }, now);
    assert_eq!(drain(&mut machine), []);
    machine.receive(LINK, Inbound::Unknown { critical: true }, now);
    assert_eq!(closed_for(&drain(&mut machine)), Some(Reason::Unsupported));
    assert!(!machine.has_link());
}

#[test]
fn objects_outside_a_sync_change_nothing() {
    let now = Instant::now();
    let (mut machine, _) = greeted(hello(), now);
    for message in [
        Message::Upsert(Arc::new(offer("a", "u1", 1))),
        Message::Delete(key("a")),
        Message::EndOfSync { number: 1 },
        Message::BeginSync { full: false },
    ] {
        say(&mut machine, message, now);
        assert_eq!(violations(&drain(&mut machine)), [Reason::ProtocolViolation]);
    }
    assert!(machine.catalog().is_empty());
}

#[test]
fn numbers_of_one_epoch_never_go_back() {
    let now = Instant::now();
    let (mut machine, _) = greeted(hello(), now);
    say(&mut machine, Message::BeginSync { full: true }, now);
    say(&mut machine, Message::EndOfSync { number: 9 }, now);
    drain(&mut machine);
    say(&mut machine, Message::EndOfSync { number: 8 }, now);
    assert_eq!(violations(&drain(&mut machine)), [Reason::ProtocolViolation]);
    assert_eq!(
        machine.held().version,
        Some(CatalogVersion {
            epoch: Epoch(3),
            number: 9
        })
    );
}

#[test]
fn a_peer_that_breaks_rules_all_the_time_is_left() {
    let now = Instant::now();
    let (mut machine, _) = greeted(hello(), now);
    for _ in 0..200 {
        say(&mut machine, Message::Delete(key("a")), now);
    }
    assert_eq!(closed_for(&drain(&mut machine)), Some(Reason::ProtocolViolation));
}

#[test]
fn a_full_sync_follows_unless_epoch_and_number_are_ours() {
    let now = Instant::now();
    let begun = |held| {
        let (mut machine, _) = greeted(Hello { held, ..hello() }, now);
        machine.set_catalog(Catalog::unit(key("a"), Arc::new(offer("a", "u1", 1))), true, now);
        said(&mut machine, now).into_iter().find_map(|m| match m {
            Message::BeginSync { full } => Some(full),
            _ => None,
        })
    };
    let version = |epoch, number| {
        Some(CatalogVersion {
            epoch: Epoch(epoch),
            number,
        })
    };
    assert_eq!(begun(version(5, 100)), Some(false));
    assert_eq!(begun(version(5, 101)), Some(false));
    assert_eq!(begun(None), Some(true));
    assert_eq!(begun(version(4, 100)), Some(true), "another epoch");
    assert_eq!(begun(version(5, 99)), Some(true), "before our history");
    assert_eq!(begun(version(5, 102)), Some(true), "a number we never said");
}

#[test]
fn heartbeats_carry_how_long_sources_have_been_silent() {
    let start = Instant::now();
    let (mut machine, _) = greeted(hello(), start);
    machine.set_catalog(Catalog::new(), true, start);
    machine.set_catalog(Catalog::new(), false, start + Duration::from_secs(4));
    said(&mut machine, start);
    let due = start + HEARTBEAT_EVERY;
    assert!(machine.next_timer().is_some_and(|t| t.at <= due));
    let staleness = HEARTBEAT_EVERY - Duration::from_secs(4);
    assert_eq!(machine.poll_message(due), Some(Message::Heartbeat { staleness }));
}

#[test]
fn a_silent_peer_is_left_and_its_entries_become_stale_but_stay() {
    let start = Instant::now();
    let (mut machine, _) = greeted(hello(), start);
    say(&mut machine, Message::BeginSync { full: true }, start);
    say(
        &mut machine,
        Message::Upsert(Arc::new(offer("a", "u1", 1))),
        start,
    );
    say(&mut machine, Message::EndOfSync { number: 1 }, start);
    drain(&mut machine);
    machine.on_timer(start + SILENCE_MAX - Duration::from_millis(1));
    assert_eq!(drain(&mut machine), []);
    let gone = start + SILENCE_MAX;
    machine.on_timer(gone);
    assert_eq!(closed_for(&drain(&mut machine)), Some(Reason::PeerSilent));
    machine.on_timer(gone + STALE_GRACE);
    assert_eq!(drain(&mut machine), [Event::Stale(true)]);
    assert_eq!(machine.catalog().len(), 1);
}

#[test]
fn a_talkative_peer_is_read_at_the_rate_of_its_limit() {
    let now = Instant::now();
    let limits = Limits {
        messages_per_second: 10,
        message_burst: 5,
        ..Limits::default()
    };
    let config = Config { limits, ..config() };
    let mut machine = Exchange::new(config, HeldCatalog::default(), imbl::OrdMap::new(), now);
    machine.link_up(LINK, now);
    let heartbeat = Message::Heartbeat {
        staleness: Duration::ZERO,
    };
    say(&mut machine, Message::Hello(Box::new(hello())), now);
    (0..4).for_each(|_| say(&mut machine, heartbeat.clone(), now));
    assert_eq!(machine.read_after(), None, "the burst is free");
    say(&mut machine, heartbeat.clone(), now);
    assert_eq!(machine.read_after(), Some(now + Duration::from_millis(100)));
    say(&mut machine, heartbeat, now + Duration::from_secs(1));
    assert_eq!(machine.read_after(), None);
}

#[test]
fn the_bundle_is_said_on_every_link_and_its_answer_comes_back() {
    let now = Instant::now();
    let (mut machine, _) = greeted(hello(), now);
    let envelope = Bytes::from_static(b"signed");
    machine.set_bundle(BundleUpdate {
        sequence: 2,
        envelope: envelope.clone(),
    });
    assert_eq!(
        said(&mut machine, now),
        [Message::Bundle {
            envelope: envelope.clone()
        }]
    );
    assert_eq!(said(&mut machine, now), []);
    machine.link_up(LinkId(2), now);
    machine.receive(
        LinkId(2),
        Inbound::Message(Message::Hello(Box::new(hello()))),
        now,
    );
    assert_eq!(
        said(&mut machine, now)[1..],
        [Message::Bundle {
            envelope: envelope.clone()
        }]
    );
    machine.receive(LinkId(2), Inbound::Message(Message::Bundle { envelope }), now);
    assert!(
        drain(&mut machine)
            .iter()
            .any(|e| matches!(e, Event::Bundle { .. }))
    );
    let refused = Refusal::new(Reason::TrustPinned, "pinned");
    machine.answer_bundle(7, Err(refused.clone()));
    assert_eq!(
        said(&mut machine, now),
        [Message::BundleAck {
            sequence: 7,
            refused: Some(refused)
        }]
    );
}

#[test]
fn requests_for_tunnels_are_passed_on_at_most_once_a_second() {
    let now = Instant::now();
    let (mut machine, _) = greeted(hello(), now);
    (0..5).for_each(|_| say(&mut machine, Message::OpenTunnel, now));
    assert_eq!(drain(&mut machine), [Event::OpenTunnel]);
    say(&mut machine, Message::OpenTunnel, now + Duration::from_secs(1));
    assert_eq!(drain(&mut machine), [Event::OpenTunnel]);
    machine.ask_tunnel();
    assert_eq!(said(&mut machine, now), [Message::OpenTunnel]);
}

#[test]
fn advertised_gateways_are_taken_but_not_what_may_not_be_dialled() {
    let now = Instant::now();
    let address = |host: &str| GatewayAddress {
        host: host.into(),
        port: 7443,
    };
    let gateways = Gateways {
        addresses: vec![
            address("gw.west.example"),
            address("127.0.0.1"),
            address("169.254.1.1"),
        ],
        instances: vec![],
    };
    let (_, events) = greeted(Hello { gateways, ..hello() }, now);
    let taken = Gateways {
        addresses: vec![address("gw.west.example")],
        instances: vec![],
    };
    assert!(events.contains(&Event::Gateways(taken)));
    assert_eq!(violations(&events), [Reason::ProtocolViolation]);
    for host in ["localhost", "a.LOCALHOST.", "::1", "::ffff:127.0.0.1", "fe80::1"] {
        assert!(check_address(&address(host), false).is_err(), "{host}");
        assert!(check_address(&address(host), true).is_ok(), "{host}");
    }
    for host in [
        "",
        "a..b",
        "-a.b",
        "a b",
        "0.0.0.0",
        "::",
        "224.0.0.1",
        "ff02::1",
        &"a.".repeat(127),
    ] {
        assert!(check_address(&address(host), true).is_err(), "{host}");
    }
}

#[test]
fn own_objects_nobody_could_take_are_withheld_and_the_last_good_state_stays() {
    let now = Instant::now();
    let (mut machine, _) = greeted(hello(), now);
    let good = Arc::new(offer("a", "u1", 1));
    machine.set_catalog(Catalog::unit(key("a"), good.clone()), true, now);
    said(&mut machine, now);
    let mut bad = (*good).clone();
    bad.annotations = [("note".to_owned(), "x".repeat(100_000))].into();
    machine.set_catalog(Catalog::unit(key("a"), Arc::new(bad)), true, now);
    assert_eq!(said(&mut machine, now), []);
    let status = machine.status(now);
    assert_eq!(status.withheld.len(), 1);
    assert!(status.withheld[0].1.message.contains("metadataBytes"));
    machine.set_catalog(Catalog::new(), true, now);
    assert_eq!(said(&mut machine, now)[0], Message::Delete(key("a")));
    assert!(machine.status(now).withheld.is_empty());
}

#[test]
fn a_raised_limit_asks_again_once_and_the_refusal_said_which_to_raise() {
    let now = Instant::now();
    let (mut machine, _) = greeted(hello(), now);
    let tight = Limits {
        objects: 1,
        ..Limits::default()
    };
    machine.set_limits(tight);
    say(&mut machine, Message::BeginSync { full: true }, now);
    say(&mut machine, Message::Upsert(Arc::new(offer("a", "u1", 1))), now);
    say(&mut machine, Message::Upsert(Arc::new(offer("b", "u2", 1))), now);
    say(&mut machine, Message::EndOfSync { number: 1 }, now);
    let answers = said(&mut machine, now);
    let nack = answers.iter().find_map(|m| match m {
        Message::Nack { service, refusal } => Some((service.clone(), refusal.clone())),
        _ => None,
    });
    let (service, refusal) = nack.unwrap();
    assert_eq!((service, refusal.reason), (Some(key("b")), Reason::OverLimit));
    assert!(refusal.message.contains("servicesPerPeer"), "{refusal}");
    assert_eq!(machine.catalog().len(), 1, "what was accepted stays");
    assert_eq!(
        machine.held().version,
        None,
        "a catalog with refusals is not resumed"
    );
    machine.set_limits(tight);
    assert_eq!(said(&mut machine, now), [], "the same limit makes no room");
    machine.set_limits(Limits { objects: 2, ..tight });
    assert_eq!(said(&mut machine, now), [Message::SyncRequest]);
    assert_eq!(said(&mut machine, now), []);
}
