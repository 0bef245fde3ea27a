//! The join token's text form.
#![allow(missing_docs, clippy::unwrap_used, clippy::unwrap_in_result)]

mod common;

use std::time::Duration;

use common::noon;
use proptest::prelude::*;
use strait_trust_bridge::testing::TestCluster;
use strait_trust_bridge::{Address, JoinToken, RootFingerprint, RootPin, TrustDomain};

const HOUR: Duration = Duration::from_secs(3600);

fn token_of(cluster: &TestCluster) -> JoinToken {
    let addresses = vec![
        Address::parse("gw.east.example:7443").unwrap(),
        Address::parse("[::1]:7443").unwrap(),
    ];
    JoinToken::create(addresses, cluster.ca.pin().unwrap(), HOUR, noon()).unwrap()
}

#[test]
fn tokens_survive_pasting_and_nothing_else() {
    let token = token_of(&TestCluster::new("east", noon()));
    let text = token.encode();
    assert_eq!(JoinToken::decode(&text).unwrap(), token);
    let (a, b) = text.split_at(40);
    assert_eq!(JoinToken::decode(&format!("  {a}\n  {b}\r\n")).unwrap(), token);
    for bad in [
        "",
        "straitjoin1_",
        "straitjoin2_AAAA",
        &text[1..],
        &text[..text.len() - 1],
        &format!("{}A", *text),
    ] {
        assert_eq!(JoinToken::decode(bad).unwrap_err().code(), "MalformedToken");
    }
    assert_eq!(
        JoinToken::decode(&"a".repeat(10_000)).unwrap_err().code(),
        "MalformedToken"
    );
}

#[test]
fn a_token_altered_at_any_byte_is_refused() {
    let token = token_of(&TestCluster::new("east", noon()));
    let text = token.encode();
    for at in 0..text.len() {
        for other in [b'A', b'B', b'_', b'~', b'9'] {
            let mut bytes = text.as_bytes().to_vec();
            if bytes[at] == other {
                continue;
            }
            bytes[at] = other;
            let altered = String::from_utf8(bytes).unwrap();
            assert_eq!(
                JoinToken::decode(&altered).unwrap_err().code(),
                "MalformedToken",
                "byte {at}"
            );
        }
    }
}

#[test]
fn a_token_has_at_most_sixteen_addresses() {
    let pin = RootPin {
        trust_domain: TrustDomain::parse("td").unwrap(),
        root: RootFingerprint::of_der(b""),
    };
    let address = Address::parse("10.0.0.1:7443").unwrap();
    let make = |count| JoinToken::create(vec![address.clone(); count], pin.clone(), HOUR, noon());
    assert_eq!(
        JoinToken::decode(&make(16).unwrap().encode())
            .unwrap()
            .addresses()
            .len(),
        16
    );
    assert_eq!(make(17).unwrap_err().code(), "MalformedToken");
}

#[test]
fn addresses_are_strict() {
    for ok in [
        "gw.east.example:7443",
        "localhost:1",
        "10.0.0.1:65535",
        "[2001:db8::1]:7443",
        "a_b.c:7443",
    ] {
        assert_eq!(Address::parse(ok).unwrap().as_str(), ok);
    }
    let long = format!("{}:7443", "a.".repeat(130));
    for bad in [
        "",
        "host",
        "host:",
        ":7443",
        "host:0",
        "host:65536",
        "host:+7",
        "host:7443 ",
        "ho st:7443",
        "2001:db8::1:7443",
        "[::1]",
        "[::1:7443",
        "[host]:7443",
        "a..b:7443",
        "-a:7443",
        "http://a:7443",
        "a/b:7443",
        &long,
    ] {
        assert_eq!(Address::parse(bad).unwrap_err().code(), "InvalidAddress", "{bad}");
    }
}

proptest! {
    #[test]
    fn hostile_text_never_panics(text in "(straitjoin1_)?[A-Za-z0-9_ -]{0,300}", any in ".{0,100}") {
        prop_assert!(JoinToken::decode(&text).is_err());
        prop_assert!(JoinToken::decode(&any).is_err());
        if let Ok(address) = Address::parse(&any) { prop_assert_eq!(address.as_str(), any); }
    }
}
