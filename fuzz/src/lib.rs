//! Every parser of foreign bytes behind one function each: arbitrary bytes in, a panic is a finding.
//!
//! Owns the table of targets. `fuzz/libfuzzer` runs them under coverage guidance, `fuzz/tests/replay.rs` replays the committed
//! corpus and mutations of it in every test run. Never asserts what a parser returns: that is the parsers' own tests.

use prost::Message as _;
use rustls_pki_types::UnixTime;
use strait_federation_api::{
    exchange::wire::{self, exchange_v1},
    manifest,
};
use strait_trust_bridge::{JoinToken, PeerTrust, TrustDomain, envelope, join::JoinMessage, spiffe_json};

/// A parser under test.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name: the folder of its corpus and the name of its libFuzzer binary.
    pub name: &'static str,
    /// Feeds it.
    pub run: fn(&[u8]),
}

/// All of them, with who sends such bytes.
pub const TARGETS: &[Target] = &[
    // a peer's gateway
    Target {
        name: "stream_header",
        run: strait_proxy::fuzz::header,
    },
    Target {
        name: "hello",
        run: strait_tunnel::fuzz::hello,
    },
    // a peer's control plane
    Target {
        name: "exchange",
        run: exchange,
    },
    Target {
        name: "bundle_update",
        run: bundle_update,
    },
    Target {
        name: "bundle_json",
        run: bundle_json,
    },
    // anybody, while an invite is open
    Target {
        name: "join",
        run: join,
    },
    // a local client
    Target {
        name: "socks",
        run: strait_proxy::fuzz::socks,
    },
    Target {
        name: "dns",
        run: strait_dns::fuzz::message,
    },
    // a person
    Target {
        name: "token",
        run: token,
    },
    Target {
        name: "manifest",
        run: manifests,
    },
];

/// The target of that name.
#[must_use]
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

fn exchange(data: &[u8]) {
    if let Ok(envelope) = exchange_v1::Envelope::decode(data) {
        let _ = wire::decode(envelope);
    }
}

fn join(data: &[u8]) {
    let _ = JoinMessage::decode(data);
}

/// A domain in Strait's own form, for parsers that are told whose bytes they read.
fn domain() -> Option<TrustDomain> {
    TrustDomain::parse("west.aaaaaaaaaaaaaaaaaaaaaaaaaa").ok()
}

fn bundle_json(data: &[u8]) {
    if let Some(domain) = domain() {
        let _ = spiffe_json::from_json(domain, data);
    }
}

fn bundle_update(data: &[u8]) {
    let _ = envelope::decode_payload(data);
    let empty = br#"{"keys":[]}"#;
    let held = domain()
        .and_then(|d| spiffe_json::from_json(d, empty).ok())
        .and_then(|b| PeerTrust::new(b).ok());
    if let Some(held) = held {
        let _ = envelope::open(
            data,
            &held,
            UnixTime::since_unix_epoch(std::time::Duration::from_secs(1)),
        );
    }
}

fn token(data: &[u8]) {
    let _ = JoinToken::decode(&String::from_utf8_lossy(data));
}

fn manifests(data: &[u8]) {
    let _ = manifest::load(&[("fuzz.yaml", String::from_utf8_lossy(data))]);
}
