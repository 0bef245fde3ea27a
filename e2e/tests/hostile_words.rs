//! A peer that has proven who it is, and keeps no other rule: what it asks for on streams and says in the exchange.
//!
//! Nothing it says may reach what it was not given, or put anything where no rule lets it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed"
)]

mod common;

use std::time::Duration;

use common::{Node, PATIENCE, until};
use serde_json::Value;
use strait_e2e::{
    apps,
    hostile::{DataLine, Exchange, Header, Hostile, catalog_end, hello, key, offer},
};
use strait_federation_api::{
    Reason,
    exchange::wire::exchange_v1::{self as wire, Envelope, envelope::Body},
};
use strait_trust_bridge::{TrustDomain, envelope};
use tokio::{io::AsyncWriteExt, net::UdpSocket, time::timeout};

const REFUSED: &str = "strait_streams_refused_total";
const ENDED: &str = "strait_streams_total";

/// `east` with the peers `mallory` and `oscar`: `greeter` is for mallory, `secret` for oscar, `inner` for nobody; `far` comes in
/// from oscar.
struct World {
    east: Node,
    domain: TrustDomain,
    mallory: Hostile,
    oscar: Hostile,
    greeter: apps::App<()>,
    secret: apps::App<()>,
}

async fn world(more: &str) -> World {
    let (mallory, oscar) = (Hostile::new("mallory"), Hostile::new("oscar"));
    let (greeter, secret) = (apps::echo().await.unwrap(), apps::echo().await.unwrap());
    let mut east = Node::new("east");
    east.write_cluster(more);
    east.serve("greeter", 80, greeter.address(), true);
    east.serve("secret", 80, secret.address(), true);
    east.serve("inner", 80, secret.address(), false);
    let to_mallory = "  exports: [{namespace: demo, name: greeter}]\n  imports: []\n";
    let to_oscar =
        "  exports: [{namespace: demo, name: secret}]\n  imports: [{namespace: demo, name: far}]\n";
    east.trust_statically(&mallory, "mallory", "", to_mallory);
    east.trust_statically(&oscar, "oscar", "", to_oscar);
    east.start().await;
    let (domain, bundle) = east.bundle().await;
    let domain = (mallory.learn(&domain, &bundle), oscar.learn(&domain, &bundle)).0;
    World {
        east,
        domain,
        mallory,
        oscar,
        greeter,
        secret,
    }
}

impl World {
    async fn data(&self) -> DataLine {
        self.mallory.data(self.east.gateway(), &self.domain).await
    }

    /// Sends `first` on a stream of its own; it must be refused, logged and counted with `reason`.
    async fn refused(&self, line: &DataLine, what: &str, first: &[u8], reason: Reason) {
        let before = self.east.figures().await;
        let logged = self.lines(reason);
        let answer = line.ask(first).await;
        assert_eq!(answer.refused, Some(reason), "{what}: {answer:?}");
        assert_eq!(answer.retryable, reason.is_retryable(), "{what}");
        let label = format!("reason=\"{reason}\"");
        self.east.exactly(&before, ENDED, &label).await;
        if reason != Reason::ProtocolNotServed {
            self.east.exactly(&before, REFUSED, &label).await;
        }
        // Ten lines a second of one peer and reason are written; more of them say nothing new.
        until("logged", async || logged >= 10 || self.lines(reason) > logged).await;
    }

    fn lines(&self, reason: Reason) -> usize {
        self.east
            .lines_with(&["access", &format!("reason=\"{reason}\"")])
            .len()
    }
}

/// A correct request for what mallory may have.
fn good() -> Header {
    Header::new("mallory", "demo", "greeter", 80)
}

/// An extension with this type and no value.
fn extension(kind: u16) -> Vec<u8> {
    [kind.to_be_bytes(), [0, 0]].concat()
}

/// The good request is served, byte for byte.
async fn served(line: &DataLine, header: &Header) {
    let (mut send, mut recv) = line.open(&header.encode()).await;
    let mut answer = [0; 7];
    timeout(PATIENCE, recv.read_exact(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(answer[3], 0, "served: {answer:?}");
    send.write_all(b"hello").await.unwrap();
    let mut echoed = [0; 5];
    timeout(PATIENCE, recv.read_exact(&mut echoed))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&echoed, b"hello");
    send.shutdown().await.unwrap();
    let rest = timeout(PATIENCE, recv.read_to_end(1)).await.unwrap().unwrap();
    assert!(rest.is_empty());
}

#[tokio::test]
async fn streams_that_break_a_rule_are_refused_with_their_reason_and_reach_no_endpoint() {
    let world = world("").await;
    let line = world.data().await;
    let with = |change: fn(&mut Header)| {
        let mut header = good();
        change(&mut header);
        header.encode()
    };
    let service = |name: &'static str| Header::new("mallory", "demo", name, 80).encode();
    let cut = good().encode()[..20].to_vec();
    let cases: Vec<(&str, Vec<u8>, Reason)> = vec![
        ("not exported to it", service("secret"), Reason::Denied),
        ("not exported at all", service("inner"), Reason::UnknownService),
        ("not there", service("nothing"), Reason::UnknownService),
        ("imported from a peer", service("far"), Reason::UnknownService),
        ("another port", with(|h| h.port = 81), Reason::UnknownService),
        ("port 0", with(|h| h.port = 0), Reason::Malformed),
        (
            "forged origin",
            with(|h| h.origin = "oscar".into()),
            Reason::TransitRefused,
        ),
        (
            "our own name as origin",
            with(|h| h.origin = "east".into()),
            Reason::TransitRefused,
        ),
        ("two hops", with(|h| h.hops = 2), Reason::TransitRefused),
        ("255 hops", with(|h| h.hops = 255), Reason::TransitRefused),
        ("no hop", with(|h| h.hops = 0), Reason::Malformed),
        (
            "origin that is no name",
            with(|h| h.origin = "O/..".into()),
            Reason::Malformed,
        ),
        (
            "service that is no name",
            with(|h| h.service.1 = "../greeter".into()),
            Reason::Malformed,
        ),
        (
            "empty namespace",
            with(|h| h.service.0.clear()),
            Reason::Malformed,
        ),
        ("UDP", with(|h| h.protocol = 17), Reason::ProtocolNotServed),
        ("no protocol", with(|h| h.protocol = 99), Reason::Malformed),
        (
            "critical extension",
            with(|h| h.extensions = extension(0x8001)),
            Reason::Unsupported,
        ),
        (
            "torn extension",
            with(|h| h.extensions = vec![0, 1, 0, 9]),
            Reason::Malformed,
        ),
        (
            "too many extensions",
            with(|h| h.extensions = extension(1).repeat(40)),
            Reason::Malformed,
        ),
        ("next version", with(|h| h.version = 2), Reason::Unsupported),
        ("too long", vec![1, 0xff, 0xff], Reason::Malformed),
        ("cut short", cut, Reason::Malformed),
        ("nothing", Vec::new(), Reason::Malformed),
    ];
    for (what, first, reason) in &cases {
        world.refused(&line, what, first, *reason).await;
    }
    assert_eq!(world.secret.stats().accepted(), 0);
    assert_eq!(world.greeter.stats().accepted(), 0);
    served(&line, &good()).await;
    let later = Header {
        extensions: extension(1),
        ..good()
    };
    served(&line, &later).await;
}

#[tokio::test]
async fn a_header_that_never_comes_whole_is_refused_and_holds_nothing() {
    let world = world("").await;
    let line = world.data().await;
    let before = world.east.figures().await;
    let (_send, mut recv) = line.open(&good().encode()[..10]).await;
    let mut answer = [0; 3];
    timeout(PATIENCE, recv.read_exact(&mut answer))
        .await
        .unwrap()
        .unwrap();
    world.east.exactly(&before, REFUSED, "reason=\"Malformed\"").await;
}

#[tokio::test]
async fn what_was_exported_is_refused_once_it_is_taken_back() {
    let world = world("").await;
    let line = world.data().await;
    served(&line, &good()).await;
    world.east.edit(
        "federation-mallory.yaml",
        "exports: [{namespace: demo, name: greeter}]",
        "exports: []",
    );
    until("taken back", async || {
        line.ask(&good().encode()).await.refused.is_some()
    })
    .await;
    let accepted = world.greeter.stats().accepted();
    let answer = line.ask(&good().encode()).await;
    assert!(
        matches!(answer.refused, Some(Reason::Denied | Reason::UnknownService)),
        "{answer:?}"
    );
    assert_eq!(world.greeter.stats().accepted(), accepted);
}

// ---- the exchange

/// A conversation with a hello and an empty, complete catalog.
async fn conversation(peer: &Hostile, east: &Node, domain: &TrustDomain) -> Exchange {
    let mut exchange = peer.control(east.gateway(), domain).await;
    let name = peer.domain().cluster_id().unwrap();
    exchange.say(hello(name.as_str(), 1)).await;
    exchange
        .say(Body::BeginSync(wire::BeginSync { full: true }))
        .await;
    exchange.say(catalog_end(1)).await;
    acked(&mut exchange, 1).await;
    exchange
}

async fn acked(exchange: &mut Exchange, number: u64) {
    let ack = exchange.hear(|body| matches!(body, Body::Ack(ack) if ack.number == number).then_some(()));
    ack.await.expect("the catalog is acknowledged");
}

/// Everything that serves: the snapshot of gateway and DNS, and what is imported.
async fn in_force(east: &Node) -> (Value, Value) {
    let dump = east.dump().await;
    let imports = east.json(&["get", "imports"]).await["imports"].clone();
    (dump["snapshot"].clone(), imports)
}

/// Response code and answers of a query for the A records of `name`.
async fn resolve(east: &Node, name: &str) -> (u8, u16) {
    let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).unwrap());
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(east.dns()).await.unwrap();
    let mut answer = [0; 512];
    for _ in 0..5 {
        socket.send(&query).await.unwrap();
        if let Ok(Ok(length)) = timeout(Duration::from_secs(5), socket.recv(&mut answer)).await {
            assert!(length >= 12);
            return (answer[3] & 0xf, u16::from_be_bytes([answer[6], answer[7]]));
        }
    }
    panic!("no answer for {name}");
}

/// What DNS says of these services.
async fn answers(east: &Node, services: &[(&str, &str)]) -> Vec<(u8, u16)> {
    let mut answers = Vec::new();
    for (namespace, name) in services {
        answers.push(resolve(east, &format!("{name}.{namespace}.svc.clusterset.local")).await);
    }
    answers
}

#[tokio::test]
async fn offers_that_no_rule_allows_change_nothing_at_all() {
    let world = world("").await;
    let mut from_oscar = conversation(&world.oscar, &world.east, &world.domain).await;
    from_oscar.say(offer("demo", "far", 80)).await;
    from_oscar.say(catalog_end(2)).await;
    acked(&mut from_oscar, 2).await;
    let far = "far.demo.svc.clusterset.local";
    until("far is imported", async || {
        resolve(&world.east, far).await == (0, 1)
    })
    .await;
    let mut exchange = conversation(&world.mallory, &world.east, &world.domain).await;
    until("mallory's empty catalog counts", async || {
        world.east.condition("mallory", "Synced").await == "Synced"
    })
    .await;
    let offered = [
        ("demo", "far"),
        ("demo", "greeter"),
        ("demo", "secret"),
        ("kube-system", "kube-dns"),
        ("demo", "wanted"),
    ];
    let before = (in_force(&world.east).await, answers(&world.east, &offered).await);
    assert_eq!(before.1, [(0, 1), (0, 1), (0, 1), (3, 0), (3, 0)]);
    for (namespace, name) in offered {
        exchange.say(offer(namespace, name, 80)).await;
    }
    exchange.say(catalog_end(2)).await;
    let mut verdicts = 0;
    let all = exchange.hear(|body| {
        if let Body::Verdict(verdict) = body {
            assert!(!verdict.accepted, "{verdict:?}");
            assert_eq!(
                verdict.reasons,
                [u32::from(Reason::NotAllowed.code())],
                "{verdict:?}"
            );
            assert!(
                !verdict.message.contains("oscar"),
                "a third cluster is named: {verdict:?}"
            );
            verdicts += 1;
        }
        (verdicts == offered.len()).then_some(())
    });
    all.await.expect("a verdict on each");
    let listed = world.east.json(&["get", "imports"]).await["offers"].clone();
    assert_eq!(listed.as_array().map(Vec::len), Some(offered.len()), "{listed}");
    assert!(
        listed.as_array().unwrap().iter().all(|o| {
            o["cluster"] == "mallory"
                && o["reason"] == "NotAllowed"
                && o["rule"].as_str().unwrap().contains("imports")
        }),
        "{listed}"
    );
    let after = (in_force(&world.east).await, answers(&world.east, &offered).await);
    assert_eq!(after, before, "something changed");
    // The rule that was shown lets in the one it is for, and nothing else.
    world.east.edit(
        "federation-mallory.yaml",
        "imports: []",
        "imports: [{namespace: demo, name: wanted}]",
    );
    until("wanted is imported", async || {
        resolve(&world.east, "wanted.demo.svc.clusterset.local").await == (0, 1)
    })
    .await;
    assert_eq!(
        resolve(&world.east, "kube-dns.kube-system.svc.clusterset.local").await,
        (3, 0)
    );
}

#[tokio::test]
async fn a_catalog_over_the_limit_is_cut_there_and_what_was_accepted_stays() {
    let world = world("  limits: {servicesPerPeer: 10}\n").await;
    world.east.edit(
        "federation-mallory.yaml",
        "imports: []",
        "imports: [{namespace: demo, name: \"*\"}]",
    );
    let mut exchange = conversation(&world.mallory, &world.east, &world.domain).await;
    for n in 0..30 {
        exchange.say(offer("demo", &format!("s{n:02}"), 80)).await;
    }
    let nack = exchange.hear(|body| match body {
        Body::Nack(nack) => Some(nack),
        _ => None,
    });
    let nack = nack.await.expect("a nack");
    assert_eq!(nack.reason, u32::from(Reason::OverLimit.code()), "{nack:?}");
    exchange.say(catalog_end(2)).await;
    until("ten are imported", async || {
        let imports = world.east.json(&["get", "imports"]).await["imports"].clone();
        let held = imports.as_array().unwrap().iter();
        let held: Vec<_> = held.filter_map(|import| import["service"].as_str()).collect();
        let of = |start: &str| held.iter().filter(|name| name.starts_with(start)).count();
        (of("demo/s0"), of("demo/s1"), of("demo/s2")) == (10, 0, 0)
    })
    .await;
    assert_eq!(
        resolve(&world.east, "s00.demo.svc.clusterset.local").await,
        (0, 1)
    );
    assert_eq!(
        resolve(&world.east, "s29.demo.svc.clusterset.local").await,
        (3, 0)
    );
}

#[tokio::test]
async fn words_that_break_the_protocol_end_the_conversation_and_nothing_else() {
    let world = world("").await;
    let mut from_oscar = conversation(&world.oscar, &world.east, &world.domain).await;
    from_oscar.say(offer("demo", "far", 80)).await;
    from_oscar.say(catalog_end(2)).await;
    acked(&mut from_oscar, 2).await;
    until("far is imported", async || {
        resolve(&world.east, "far.demo.svc.clusterset.local").await == (0, 1)
    })
    .await;
    let plain = |body| Envelope {
        body: Some(body),
        critical: false,
    };
    let begin = || plain(Body::BeginSync(wire::BeginSync { full: true }));
    let mallory = || plain(hello("mallory", 1));
    let huge = Body::Upsert(wire::Service {
        annotations: [("a".to_owned(), "x".repeat(2 << 20))].into(),
        ..match offer("demo", "huge", 80) {
            Body::Upsert(service) => service,
            _ => unreachable!(),
        }
    });
    let openings: Vec<(&str, Vec<Envelope>)> = vec![
        ("another's name", vec![plain(hello("oscar", 1))]),
        ("our name", vec![plain(hello("east", 1))]),
        ("epoch 0", vec![plain(hello("mallory", 0))]),
        ("no hello", vec![begin()]),
        ("two hellos", vec![mallory(), mallory()]),
        (
            "ends without a beginning, again and again",
            [vec![mallory()], vec![plain(catalog_end(1)); 200]].concat(),
        ),
        (
            "a critical body nobody knows",
            vec![
                mallory(),
                Envelope {
                    body: None,
                    critical: true,
                },
            ],
        ),
        (
            "a version of tomorrow",
            vec![plain(match hello("mallory", 1) {
                Body::Hello(h) => Body::Hello(wire::Hello {
                    version_min: 7,
                    version_max: 9,
                    ..h
                }),
                _ => unreachable!(),
            })],
        ),
        ("a message over the bound", vec![mallory(), begin(), plain(huge)]),
    ];
    for (what, envelopes) in openings {
        let violations = "strait_peer_violations_total{peer=\"mallory\"}";
        let before = world.east.figures().await.get(violations);
        let mut exchange = world.mallory.control(world.east.gateway(), &world.domain).await;
        for envelope in envelopes {
            if !exchange.say_envelope(envelope).await {
                break;
            }
        }
        println!("{what}");
        exchange.ended().await;
        // What the transport refuses never comes to be counted as words.
        if what != "a message over the bound" {
            until("counted", async || {
                world.east.figures().await.get(violations) > before
            })
            .await;
        }
    }
    assert_eq!(
        resolve(&world.east, "far.demo.svc.clusterset.local").await,
        (0, 1),
        "the other peer was harmed"
    );
    let mut exchange = conversation(&world.mallory, &world.east, &world.domain).await;
    exchange.say(offer("demo", "x", 80)).await;
    exchange.say(catalog_end(2)).await;
    acked(&mut exchange, 2).await;
}

#[tokio::test]
async fn objects_that_break_a_rule_are_nacked_one_by_one() {
    let world = world("").await;
    world.east.edit(
        "federation-mallory.yaml",
        "imports: []",
        "imports: [{namespace: \"*\", name: \"*\"}]",
    );
    let mut exchange = conversation(&world.mallory, &world.east, &world.domain).await;
    let spoilt = |change: fn(&mut wire::Service)| {
        let Body::Upsert(mut service) = offer("demo", "bad", 80) else {
            unreachable!()
        };
        change(&mut service);
        Body::Upsert(service)
    };
    let cases: Vec<(&str, Body)> = vec![
        ("a port over 65535", spoilt(|s| s.ports[0].port = 70_000)),
        ("port 0", spoilt(|s| s.ports[0].port = 0)),
        ("no kind", spoilt(|s| s.kind = 0)),
        ("two ports alike", spoilt(|s| s.ports.push(s.ports[0].clone()))),
        (
            "an address of three bytes",
            spoilt(|s| {
                s.kind = wire::Kind::Headless.into();
                s.members = vec![wire::Member {
                    id: "m".into(),
                    hostname: None,
                    ip: vec![1, 2, 3].into(),
                    ready: true,
                }];
            }),
        ),
        (
            "a name that is none",
            spoilt(|s| s.service = Some(key("demo", "Bad/.."))),
        ),
        (
            "a label that is none",
            spoilt(|s| {
                s.labels.insert("a b".into(), "\n".into());
            }),
        ),
        (
            "metadata over the bound",
            spoilt(|s| {
                s.annotations.insert("a".into(), "x".repeat(100 << 10));
            }),
        ),
        ("a year 10000", spoilt(|s| s.created = i64::MAX)),
    ];
    for (what, body) in cases {
        exchange.say(body).await;
        let nack = exchange.hear(|body| match body {
            Body::Nack(nack) => Some(nack),
            _ => None,
        });
        let nack = nack
            .await
            .unwrap_or_else(|| panic!("{what} ended the conversation"));
        let reason = u16::try_from(nack.reason).ok().and_then(Reason::from_code);
        assert!(
            matches!(reason, Some(Reason::Malformed | Reason::OverLimit)),
            "{what}: {nack:?}"
        );
    }
    exchange.say(offer("demo", "fine", 80)).await;
    exchange.say(catalog_end(2)).await;
    until("the good one is imported, the bad one never", async || {
        resolve(&world.east, "fine.demo.svc.clusterset.local").await == (0, 1)
    })
    .await;
    assert_eq!(
        resolve(&world.east, "bad.demo.svc.clusterset.local").await,
        (3, 0)
    );
}

#[tokio::test]
async fn a_bundle_update_needs_the_ca_that_is_held_and_never_goes_back() {
    let mut world = world("").await;
    let mut exchange = conversation(&world.mallory, &world.east, &world.domain).await;
    let say = async |exchange: &mut Exchange, bytes: Vec<u8>| {
        exchange
            .say(Body::Bundle(wire::Bundle {
                envelope: bytes.into(),
            }))
            .await;
        let ack = exchange.hear(|body| match body {
            Body::BundleAck(ack) => Some(ack),
            _ => None,
        });
        let ack = ack.await.expect("an answer to a bundle");
        u16::try_from(ack.refused).ok().and_then(Reason::from_code)
    };
    let first = envelope::seal(&world.mallory.cluster.ca).unwrap();
    assert_eq!(say(&mut exchange, first.clone()).await, None);
    assert_eq!(
        say(&mut exchange, b"\x01garbage".to_vec()).await,
        Some(Reason::Malformed)
    );
    let mut torn = first.clone();
    *torn.last_mut().unwrap() ^= 1;
    assert!(say(&mut exchange, torn).await.is_some(), "a broken signature");
    // Another peer's bundle, and one for its own domain that another CA signed.
    let others = envelope::seal(&world.oscar.cluster.ca).unwrap();
    assert_eq!(say(&mut exchange, others).await, Some(Reason::UntrustedRoot));
    let payload = envelope::encode_payload(&world.mallory.cluster.ca.bundle().unwrap());
    let chain = world.oscar.cluster.ca.signing_chain().unwrap();
    let forged = strait_trust_bridge::testing::seal_with(&world.oscar.cluster.ca, &payload, &chain);
    assert!(say(&mut exchange, forged).await.is_some(), "signed by another CA");
    let now = rustls_pki_types::UnixTime::now();
    world.mallory.cluster.ca.begin_rotation(now).unwrap();
    let second = envelope::seal(&world.mallory.cluster.ca).unwrap();
    assert_eq!(say(&mut exchange, second).await, None);
    assert_eq!(say(&mut exchange, first).await, Some(Reason::SequenceRollback));
    until("the newer bundle is the one that is shown", async || {
        world.east.federation("mallory").await["bundleSequence"] == 2
    })
    .await;
}

#[tokio::test]
async fn two_peers_whose_meshes_are_both_cluster_local_are_told_apart() {
    let world = world("").await;
    // Each hello claims the mesh `cluster.local`: see `hello`.
    for peer in [&world.mallory, &world.oscar] {
        let _conversation = conversation(peer, &world.east, &world.domain).await;
    }
    let line = world.data().await;
    served(&line, &good()).await;
    let secret = Header::new("mallory", "demo", "secret", 80);
    world
        .refused(&line, "oscar's", &secret.encode(), Reason::Denied)
        .await;
    let line = world.oscar.data(world.east.gateway(), &world.domain).await;
    served(&line, &Header::new("oscar", "demo", "secret", 80)).await;
}
