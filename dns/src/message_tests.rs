//! Rules of the message format, and that no bytes do harm.

use std::str::FromStr;

use hickory_proto::rr::Name;
use proptest::prelude::*;
use strait_federation_api::{
    catalog::{Protocol, ServiceKind},
    snapshot::Backend,
};

use super::*;
use crate::testdata;

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn with_payload(mut message: Message, payload: u16) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(payload);
    message.set_edns(edns);
    message
}

fn judge(bytes: &[u8], transport: Transport, snapshot: &Snapshot) -> Verdict {
    let context = Context {
        snapshot,
        health: &HealthView::default(),
        forwarding: true,
    };
    handle(bytes, transport, context)
}

fn reply(message: &Message, transport: Transport, snapshot: &Snapshot) -> Message {
    match judge(&message.to_vec().unwrap(), transport, snapshot) {
        Verdict::Reply(reply) => {
            let parsed = Message::from_vec(&reply.bytes).unwrap();
            assert_eq!(parsed.metadata.id, message.metadata.id);
            assert_eq!(parsed.metadata.message_type, MessageType::Response);
            // BADVERS and BADSIG share a number; the parser knows the second.
            assert_eq!(u16::from(parsed.metadata.response_code), u16::from(reply.code));
            parsed
        }
        other => panic!("{other:?}"),
    }
}

fn code(message: &Message) -> ResponseCode {
    reply(message, Transport::Udp, &testdata::world())
        .metadata
        .response_code
}

const GREETER: &str = "greeter.demo.svc.clusterset.local.";

#[test]
fn an_answer_is_authoritative_and_keeps_the_question() {
    let asked = query("GREETER.demo.svc.clusterset.local.", RecordType::A);
    let answer = reply(&asked, Transport::Udp, &testdata::world());
    assert!(answer.metadata.authoritative && answer.metadata.recursion_available);
    assert!(answer.metadata.recursion_desired && !answer.metadata.truncation);
    assert_eq!(
        answer.queries[0].name().to_ascii(),
        "GREETER.demo.svc.clusterset.local."
    );
    assert_eq!(answer.answers.len(), 1);
    assert!(answer.edns.is_none(), "no OPT unless asked");
}

#[test]
fn what_is_not_a_query_is_not_answered() {
    let world = testdata::world();
    let mut response = query(GREETER, RecordType::A);
    response.metadata.message_type = MessageType::Response;
    assert_eq!(
        judge(&response.to_vec().unwrap(), Transport::Udp, &world),
        Verdict::Drop
    );
    assert_eq!(judge(b"", Transport::Udp, &world), Verdict::Drop);
    assert_eq!(judge(&[0; 11], Transport::Udp, &world), Verdict::Drop);
}

#[test]
fn refusals_have_their_codes() {
    for opcode in [OpCode::Status, OpCode::Notify, OpCode::Update] {
        let mut message = query(GREETER, RecordType::A);
        message.metadata.op_code = opcode;
        assert_eq!(code(&message), ResponseCode::NotImp, "{opcode}");
    }
    let mut two = query(GREETER, RecordType::A);
    two.add_query(Query::query(Name::from_str(GREETER).unwrap(), RecordType::AAAA));
    assert_eq!(code(&two), ResponseCode::FormErr);
    let none = Message::new(1, MessageType::Query, OpCode::Query);
    assert_eq!(code(&none), ResponseCode::FormErr);

    let mut chaos = query(GREETER, RecordType::TXT);
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(code(&chaos), ResponseCode::Refused);
    assert_eq!(
        code(&query("clusterset.local.", RecordType::AXFR)),
        ResponseCode::Refused
    );
    let mut iterative = query("example.com.", RecordType::A);
    iterative.metadata.recursion_desired = false;
    assert_eq!(code(&iterative), ResponseCode::Refused);

    let mut newer = with_payload(query(GREETER, RecordType::A), 1232);
    newer.edns.as_mut().unwrap().set_version(1);
    assert_eq!(u16::from(code(&newer)), u16::from(ResponseCode::BADVERS));
}

#[test]
fn hostile_counts_are_refused_before_they_cost_memory() {
    let mut bytes = query(GREETER, RecordType::A).to_vec().unwrap();
    for at in [4, 6, 8, 10] {
        let mut hostile = bytes.clone();
        hostile[at..at + 2].fill(0xff);
        let Verdict::Reply(reply) = judge(&hostile, Transport::Udp, &testdata::world()) else {
            panic!()
        };
        assert_eq!((reply.code, reply.bytes.len()), (ResponseCode::FormErr, HEADER));
    }
    // A compression pointer in the question.
    bytes.truncate(HEADER);
    bytes.extend([0xc0, 0x00, 0, 1, 0, 1]);
    let Verdict::Reply(reply) = judge(&bytes, Transport::Udp, &testdata::world()) else {
        panic!()
    };
    assert_eq!(reply.code, ResponseCode::FormErr);
}

/// A headless service with `count` members.
fn crowd(count: u16) -> Snapshot {
    let member = |n: u16| {
        let [a, b] = n.to_be_bytes();
        let address = format!("127.2.{a}.{b}");
        testdata::member(Some(&format!("member-{n}")), &address, &address, true)
    };
    let backend = Backend {
        members: (0..count).map(member).collect(),
        ..testdata::backend("west", "data/crowd", &[(Protocol::Tcp, 1), (Protocol::Tcp, 2)])
    };
    let ports = vec![
        testdata::port(Some("a"), Protocol::Tcp, 1),
        testdata::port(Some("b"), Protocol::Tcp, 2),
    ];
    testdata::snapshot([testdata::import(
        "data/crowd",
        ServiceKind::Headless,
        ports,
        vec![backend],
    )])
}

#[test]
fn a_long_answer_is_truncated_to_what_the_client_can_take() {
    let crowd = crowd(60);
    let asked = query("crowd.data.svc.clusterset.local.", RecordType::A);
    for (message, limit) in [
        (asked.clone(), 512),
        (with_payload(asked.clone(), 100), 512),
        (with_payload(asked.clone(), 700), 700),
        (with_payload(asked.clone(), 65_000), 1232),
    ] {
        let answer = reply(&message, Transport::Udp, &crowd);
        assert!(answer.to_vec().unwrap().len() <= limit);
        assert_eq!(answer.metadata.truncation, answer.answers.len() < 60, "{limit}");
        assert_eq!(answer.metadata.truncation, limit < 1000, "{limit}");
        assert_eq!(answer.edns.is_some(), message.edns.is_some());
    }
    let answer = reply(&asked, Transport::Tcp, &crowd);
    assert_eq!((answer.answers.len(), answer.metadata.truncation), (60, false));
}

#[test]
fn the_largest_set_fits_a_message_over_tcp() {
    let asked = query("crowd.data.svc.clusterset.local.", RecordType::SRV);
    let answer = reply(&asked, Transport::Tcp, &crowd(3000));
    assert!(!answer.metadata.truncation);
    assert_eq!(answer.answers.len(), 400);
    let asked = query("crowd.data.svc.clusterset.local.", RecordType::A);
    assert_eq!(
        reply(&asked, Transport::Tcp, &crowd(3000)).answers.len(),
        crate::view::MEMBERS_MAX
    );
}

#[test]
fn additional_records_go_before_the_answer_is_cut() {
    // Sixteen targets fit a datagram of 1232 bytes, their addresses beside them do not.
    let asked = with_payload(
        query("_a._tcp.crowd.data.svc.clusterset.local.", RecordType::SRV),
        1232,
    );
    let answer = reply(&asked, Transport::Udp, &crowd(16));
    assert_eq!((answer.answers.len(), answer.additionals.len()), (16, 0));
    assert!(!answer.metadata.truncation);
}

fn forward(message: &Message, transport: Transport) -> Forward {
    match judge(&message.to_vec().unwrap(), transport, &testdata::world()) {
        Verdict::Forward(forward) => forward,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_relayed_query_is_rebuilt_and_equal_questions_are_equal() {
    let mut asked = with_payload(query("example.com.", RecordType::A), 4096);
    asked.edns.as_mut().unwrap().set_dnssec_ok(true);
    let first = forward(&asked, Transport::Udp);
    asked.metadata.id = 9;
    assert_eq!(first.query, forward(&asked, Transport::Udp).query);
    let sent = Message::from_vec(&first.with_id(77)).unwrap();
    assert_eq!((sent.metadata.id, sent.metadata.recursion_desired), (77, true));
    assert_eq!(sent.queries, asked.queries);
    let edns = sent.edns.unwrap();
    assert_eq!((edns.max_payload(), edns.flags().dnssec_ok), (UDP_MAX, true));
    assert!(
        Message::from_vec(&forward(&query("example.com.", RecordType::A), Transport::Udp).query)
            .unwrap()
            .edns
            .is_none()
    );
}

#[test]
fn our_zones_and_any_over_udp_are_never_relayed() {
    let world = testdata::world();
    for name in [
        "x.clusterset.local.",
        "clusterset.local.",
        "a.b.c.d.e.f.clusterset.local.",
        "x.clusters.strait.internal.",
    ] {
        for kind in [
            RecordType::A,
            RecordType::PTR,
            RecordType::ANY,
            RecordType::Unknown(65),
        ] {
            let bytes = query(name, kind).to_vec().unwrap();
            assert!(
                matches!(judge(&bytes, Transport::Tcp, &world), Verdict::Reply(_)),
                "{name} {kind}"
            );
        }
    }
    let any = reply(&query("example.com.", RecordType::ANY), Transport::Udp, &world);
    assert!(any.metadata.truncation && any.answers.is_empty());
    forward(&query("example.com.", RecordType::ANY), Transport::Tcp);
}

#[test]
fn only_the_right_answer_is_taken_from_an_upstream() {
    let sent = forward(&query("Example.com.", RecordType::A), Transport::Udp);
    let mut answer = Message::from_vec(&sent.with_id(7)).unwrap();
    answer.metadata.message_type = MessageType::Response;
    let good = answer.to_vec().unwrap();
    assert!(sent.is_answer(7, &good));
    assert!(sent.is_answer(7, &good.to_ascii_lowercase()));
    assert!(!sent.is_answer(8, &good), "another id");
    assert!(!sent.is_answer(7, &sent.with_id(7)), "a query");
    assert!(!sent.is_answer(7, &good[..20]), "cut short");
    let mut other = good;
    other[HEADER + 1] = b'f';
    assert!(!sent.is_answer(7, &other), "another question");
}

#[test]
fn a_relayed_answer_fits_the_client_and_carries_its_id() {
    let asked = with_payload(query("Example.com.", RecordType::TXT), 600);
    let sent = forward(&asked, Transport::Udp);
    let mut answer = Message::from_vec(&sent.with_id(7)).unwrap();
    answer.metadata.message_type = MessageType::Response;
    let text = hickory_proto::rr::rdata::TXT::new(vec!["x".repeat(200); 5]);
    answer.add_answer(hickory_proto::rr::Record::from_rdata(
        Name::from_str("example.com.").unwrap(),
        60,
        hickory_proto::rr::RData::TXT(text),
    ));
    let relayed = sent.relay(&answer.to_vec().unwrap());
    let parsed = Message::from_vec(&relayed.bytes).unwrap();
    assert!(relayed.truncated && parsed.metadata.truncation && parsed.answers.is_empty());
    assert_eq!((parsed.metadata.id, &parsed.queries), (0x1234, &asked.queries));
    assert!(parsed.edns.is_some());

    let whole = forward(&asked, Transport::Tcp).relay(&answer.to_vec().unwrap());
    assert_eq!(Message::from_vec(&whole.bytes).unwrap().answers.len(), 1);

    let failed = Message::from_vec(&sent.failure().bytes).unwrap();
    assert_eq!(failed.metadata.response_code, ResponseCode::ServFail);
    assert_eq!((failed.metadata.id, failed.queries), (0x1234, asked.queries));
}

/// No verdict is larger than its client can take, and every reply is a response to the id that asked.
fn holds(bytes: &[u8]) -> Result<(), TestCaseError> {
    for (transport, limit) in [(Transport::Udp, usize::from(UDP_MAX)), (Transport::Tcp, 65_535)] {
        match judge(bytes, transport, &testdata::world()) {
            Verdict::Drop => {}
            Verdict::Reply(reply) => {
                prop_assert!(reply.bytes.len() <= limit && reply.bytes.len() >= HEADER);
                prop_assert_eq!(&reply.bytes[..2], &bytes[..2]);
                prop_assert!(reply.bytes[2] & 0x80 != 0 && bytes[2] & 0x80 == 0);
                prop_assert!(Message::from_vec(&reply.bytes).is_ok());
            }
            Verdict::Forward(forward) => {
                prop_assert!(Message::from_vec(&forward.query).is_ok());
                prop_assert!(Message::from_vec(&forward.failure().bytes).is_ok());
                prop_assert!(!forward.is_answer(0, bytes));
            }
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn arbitrary_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        holds(&bytes)?;
    }

    #[test]
    fn mutated_queries_do_no_harm(
        name in prop::sample::select(vec![GREETER, "db.data.svc.clusterset.local.", "example.com.", "."]),
        kind in any::<u16>(),
        payload in prop::option::of(any::<u16>()),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let message = query(name, RecordType::from(kind));
        let message = match payload {
            Some(payload) => with_payload(message, payload),
            None => message,
        };
        let Ok(mut bytes) = message.to_vec() else { return Ok(()) };
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        holds(&bytes)?;
    }

    #[test]
    fn no_upstream_bytes_do_harm(answer in prop::collection::vec(any::<u8>(), 0..2000), id in any::<u16>()) {
        let sent = forward(&query("example.com.", RecordType::A), Transport::Udp);
        // The check stands before the relay: behind it any length is safe.
        let mut answer = answer;
        if answer.len() >= HEADER {
            let head = sent.with_id(id);
            answer[..2].copy_from_slice(&head[..2]);
        }
        if sent.is_answer(id, &answer) {
            prop_assert!(sent.relay(&answer).bytes.len() <= 512);
        }
    }
}
