//! Tests of the header codec: round trips, bounds, hostile bytes.

use proptest::prelude::*;

use super::{wire::EXTENSIONS_MAX, *};
use crate::fuzz;

fn request() -> impl Strategy<Value = Request> {
    let label = "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?";
    let trace = (any::<[u8; 16]>(), any::<[u8; 8]>(), any::<u8>()).prop_map(|(trace_id, span_id, flags)| {
        TraceContext {
            trace_id,
            span_id,
            flags,
        }
    });
    (
        (
            prop::sample::select(vec![Protocol::Tcp, Protocol::Udp, Protocol::Sctp]),
            1u16..,
            1u8..,
        ),
        0u64..=60_000,
        (label, label, label),
        prop::option::of(
            label.prop_map(|s| SpiffeId::parse(&format!("spiffe://cluster.local/ns/{s}")).unwrap()),
        ),
        prop::option::of(label.prop_map(|s| EndpointId(Hostname::parse(&s).unwrap()))),
        any::<Option<u64>>(),
        prop::option::of(trace),
    )
        .prop_map(
            |((protocol, port, hops), ms, (ns, name, origin), source, endpoint, affinity, trace)| Request {
                protocol,
                port,
                hops,
                deadline: Duration::from_millis(ms),
                service: ServiceKey::parse(&ns, &name).unwrap(),
                origin: ClusterId::parse(&origin).unwrap(),
                source,
                endpoint,
                affinity,
                trace,
            },
        )
}

fn body(frame: &Bytes) -> &[u8] {
    let prefix: [u8; PREFIX_LEN] = frame[..PREFIX_LEN].try_into().unwrap();
    assert_eq!(body_len(prefix), Ok(frame.len() - PREFIX_LEN));
    &frame[PREFIX_LEN..]
}

fn sample() -> Request {
    Request {
        protocol: Protocol::Tcp,
        port: 8080,
        hops: 1,
        deadline: Duration::from_secs(10),
        service: ServiceKey::parse("demo", "greeter").unwrap(),
        origin: ClusterId::parse("east").unwrap(),
        source: None,
        endpoint: None,
        affinity: None,
        trace: None,
    }
}

#[test]
fn the_wire_form_is_pinned() {
    let hex: String = sample().encode().iter().map(|b| format!("{b:02x}")).collect();
    let want = [
        "01001f", // version, length
        "06",
        "1f90",
        "01",
        "00002710", // TCP, 8080, one hop, 10 s
        "0464656d6f",
        "0767726565746572",
        "0465617374", // demo, greeter, east
        "0000",
        "00",
        "00",
        "00", // no source, endpoint, affinity, trace
    ];
    assert_eq!(hex, want.concat());
}

#[test]
fn unknown_extensions_are_skipped_and_critical_ones_refused() {
    let frame = sample().encode();
    let with = |kind: u16, count: usize| {
        let mut bytes = body(&frame).to_vec();
        for _ in 0..count {
            bytes.put_u16(kind);
            bytes.put_u16(3);
            bytes.put_slice(b"abc");
        }
        Request::decode(&bytes)
    };
    assert_eq!(with(7, 1), Ok(sample()));
    assert_eq!(with(7, EXTENSIONS_MAX), Ok(sample()));
    assert_eq!(
        with(7, EXTENSIONS_MAX + 1),
        Err(HeaderError::Invalid("number of extensions"))
    );
    assert_eq!(with(0x8007, 1), Err(HeaderError::CriticalExtension(0x8007)));
    assert_eq!(HeaderError::CriticalExtension(1).reason(), Reason::Unsupported);
}

#[test]
fn prefixes_are_judged_before_anything_is_read() {
    assert_eq!(body_len([2, 0, 9]), Err(HeaderError::Version(2)));
    assert_eq!(body_len([1, 0xff, 0xff]), Err(HeaderError::TooLong(0xffff)));
    assert_eq!(body_len([1, 0x10, 0]), Ok(4096));
}

#[test]
fn impossible_values_are_refused() {
    let frame = sample().encode();
    for (at, value, field) in [(0, 99, "protocol"), (3, 0, "hop count"), (9, b'A', "service")] {
        let mut bytes = body(&frame).to_vec();
        bytes[at] = value;
        assert_eq!(Request::decode(&bytes), Err(HeaderError::Invalid(field)));
    }
    let mut bytes = body(&frame).to_vec();
    bytes[1..3].fill(0);
    assert_eq!(Request::decode(&bytes), Err(HeaderError::Invalid("port")));
}

#[test]
fn a_peers_message_cannot_forge_log_lines() {
    let answer = Answer::Refused(Refusal::new(
        Reason::NoEndpoint,
        "a\nb\u{1b}[31m".to_owned() + &"x".repeat(500),
    ));
    let Ok(Answer::Refused(refusal)) = Answer::decode(body(&answer.encode())) else {
        panic!()
    };
    assert!(refusal.message.starts_with("a?b?[31mxxx") && refusal.message.len() == MESSAGE_MAX);
}

#[test]
fn codes_of_a_newer_version_keep_their_class() {
    for class in [CLASS_RETRYABLE, CLASS_FINAL] {
        let Ok(Answer::Refused(refusal)) = Answer::decode(&[class, 0xff, 0xff, 0]) else {
            panic!()
        };
        assert_eq!(
            (refusal.reason, refusal.retryable),
            (Reason::Unsupported, class == CLASS_RETRYABLE)
        );
    }
    assert_eq!(Answer::decode(&[9, 0, 0, 0]), Err(HeaderError::Invalid("class")));
}

proptest! {
    #[test]
    fn requests_round_trip(request in request()) {
        prop_assert_eq!(Request::decode(body(&request.encode())), Ok(request));
    }

    #[test]
    fn every_cut_is_refused(request in request(), cut in any::<prop::sample::Index>()) {
        let frame = request.encode();
        let whole = body(&frame);
        prop_assert!(Request::decode(&whole[..cut.index(whole.len())]).is_err());
    }

    #[test]
    fn answers_round_trip(reason in prop::sample::select(Reason::ALL), message in "[ -~]{0,200}") {
        for answer in [Answer::Ok, Answer::Refused(Refusal::new(reason, message))] {
            prop_assert_eq!(Answer::decode(body(&answer.encode())), Ok(answer));
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..5000)) {
        fuzz::header(&bytes);
    }

    /// Near-misses reach deeper than noise.
    #[test]
    fn damaged_frames_never_panic(request in request(), at in any::<prop::sample::Index>(), value: u8) {
        let mut frame = request.encode().to_vec();
        let at = at.index(frame.len());
        frame[at] = value;
        fuzz::header(&frame);
        fuzz::header(&frame[PREFIX_LEN..]);
    }
}
