//! Bundles: the SPIFFE document, payloads, and signed updates.
#![allow(missing_docs, clippy::unwrap_used, clippy::unwrap_in_result)]

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::noon;
use proptest::prelude::*;
use serde_json::{Value, json};
use strait_trust_bridge::envelope::{BundleUpdate, MAX_ENVELOPE, decode_payload, encode_payload, open, seal};
use strait_trust_bridge::spiffe_json::{MAX_DOCUMENT, from_json, to_json};
use strait_trust_bridge::testing::TestCluster;
use strait_trust_bridge::{
    Bundle, KeyHash, MAX_REMOVED, MAX_ROOTS, PeerTrust, RootFingerprint, TrustDomain, TrustError,
    verify_signer_chain,
};

fn td() -> TrustDomain {
    TrustDomain::parse("td").unwrap()
}

fn read(document: &Value) -> Result<Bundle, TrustError> {
    from_json(td(), document.to_string().as_bytes())
}

fn root_b64(cluster: &TestCluster) -> String {
    STANDARD.encode(cluster.ca.bundle().unwrap().roots()[0].der())
}

fn jwk(x5c: &[&str]) -> Value {
    json!({"kty": "EC", "use": "x509-svid", "crv": "P-256", "x5c": x5c})
}

// ---- the document

#[test]
fn a_document_is_written_and_read_alike() {
    let mut east = TestCluster::new("east", noon());
    east.ca.begin_rotation(noon()).unwrap();
    let bundle = east.ca.bundle().unwrap();
    let text = to_json(&bundle);
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["spiffe_sequence"], 2);
    assert_eq!(value["spiffe_refresh_hint"], 300);
    assert_eq!(value["keys"].as_array().unwrap().len(), 2);
    for key in value["keys"].as_array().unwrap() {
        assert_eq!(
            (&key["kty"], &key["use"], &key["crv"]),
            (&json!("EC"), &json!("x509-svid"), &json!("P-256"))
        );
        // 32 bytes each, base64url without padding: what JOSE libraries ask for.
        assert_eq!(
            (key["x"].as_str().unwrap().len(), key["y"].as_str().unwrap().len()),
            (43, 43)
        );
        assert!(key.get("kid").is_none());
    }
    assert_eq!(
        from_json(bundle.trust_domain().clone(), text.as_bytes()).unwrap(),
        bundle
    );
}

#[test]
fn unknown_uses_and_types_are_ignored() {
    let east = TestCluster::new("east", noon());
    let good = root_b64(&east);
    let document = json!({"keys": [
        {"kty": "EC", "use": "jwt-svid", "kid": "a", "crv": "P-256", "x": "a", "y": "b"},
        {"kty": "EC", "use": "wit-svid", "kid": "b"},
        {"kty": "quantum", "use": "x509-svid", "x5c": ["junk"]},
        {"kty": "EC", "use": "x509-svid"},
        {"kty": "EC", "x5c": ["junk"]},
        {"use": "x509-svid", "x5c": ["junk"]},
        jwk(&[&good]),
    ], "spiffe_sequence": 7, "something_new": {"a": 1}});
    let bundle = read(&document).unwrap();
    assert_eq!(
        (bundle.roots().len(), bundle.sequence(), bundle.refresh_hint()),
        (1, 7, None)
    );
}

#[test]
fn only_the_first_of_x5c_counts() {
    let (east, west) = (TestCluster::new("east", noon()), TestCluster::new("west", noon()));
    let bundle = read(&json!({"keys": [jwk(&[&root_b64(&east), &root_b64(&west), "junk"])]})).unwrap();
    assert_eq!(bundle.roots().len(), 1);
    assert_eq!(bundle.roots()[0], east.ca.bundle().unwrap().roots()[0]);
}

#[test]
fn empty_keys_are_everything_revoked_and_missing_keys_an_error() {
    assert_eq!(read(&json!({"keys": []})).unwrap().roots().len(), 0);
    for bad in [
        json!({}),
        json!({"keys": null}),
        json!({"keys": {}}),
        json!([]),
        json!("x"),
    ] {
        assert_eq!(read(&bad).unwrap_err().code(), "MalformedBundle", "{bad}");
    }
}

#[test]
fn malformed_documents() {
    let east = TestCluster::new("east", noon());
    let leaf = STANDARD.encode(&east.issue("gw-0", Duration::from_secs(60), noon()).chain[0]);
    for (bad, code) in [
        (json!({"keys": [jwk(&["not base64!"])]}), "MalformedBundle"),
        (json!({"keys": [jwk(&[""])]}), "MalformedCertificate"),
        (json!({"keys": [jwk(&[&leaf])]}), "RootNotSigner"),
        (json!({"keys": [], "spiffe_sequence": -1}), "MalformedBundle"),
        (json!({"keys": [], "spiffe_sequence": "1"}), "MalformedBundle"),
        (json!({"keys": [], "spiffe_refresh_hint": 1.5}), "MalformedBundle"),
    ] {
        assert_eq!(read(&bad).unwrap_err().code(), code, "{bad}");
    }
    let twice = br#"{"keys": [], "spiffe_sequence": 1, "spiffe_sequence": 2}"#;
    assert_eq!(from_json(td(), twice).unwrap_err().code(), "MalformedBundle");
    assert_eq!(
        from_json(td(), b"{\"keys\": []} x").unwrap_err().code(),
        "MalformedBundle"
    );
    assert_eq!(from_json(td(), b"\xff").unwrap_err().code(), "MalformedBundle");
}

#[test]
fn documents_are_bounded() {
    let large = vec![b' '; MAX_DOCUMENT + 1];
    assert_eq!(from_json(td(), &large).unwrap_err().code(), "BundleTooLarge");
    let many = vec![json!({"kty": "EC", "use": "jwt-svid"}); 65];
    assert_eq!(read(&json!({"keys": many})).unwrap_err().code(), "BundleTooLarge");
    let east = TestCluster::new("east", noon());
    let root = root_b64(&east);
    let roots = |count: usize| json!({"keys": vec![jwk(&[&root]); count]});
    assert_eq!(
        read(&roots(MAX_ROOTS)).unwrap().roots().len(),
        1,
        "the same root is kept once"
    );
    assert_eq!(read(&roots(MAX_ROOTS + 1)).unwrap_err().code(), "BundleTooLarge");
}

#[test]
fn a_record_keeps_everything() {
    let mut east = TestCluster::new("east", noon());
    let old = east.ca.rotation().current();
    east.ca.remove_root(old, &BTreeSet::new(), noon()).unwrap();
    let bundle = east.ca.bundle().unwrap();
    assert_eq!(*bundle.removed(), [old].into());
    let peer = PeerTrust::new(bundle).unwrap();
    let stored = serde_json::to_string(&peer).unwrap();
    assert_eq!(serde_json::from_str::<PeerTrust>(&stored).unwrap(), peer);
    assert!(serde_json::from_str::<PeerTrust>(&stored.replace("east.", "EAST.")).is_err());
}

#[test]
fn a_root_with_a_removed_key_cannot_be_listed() {
    let east = TestCluster::new("east", noon());
    let bundle = east.ca.bundle().unwrap();
    let removed: BTreeSet<_> = [bundle.roots()[0].key()].into();
    assert_eq!(
        bundle.with_removed(&removed).unwrap_err().code(),
        "RemovedRootListed"
    );
    let many = (0..=MAX_REMOVED)
        .map(|n| KeyHash::of_spki(&n.to_be_bytes()))
        .collect();
    let too_many = Bundle::new(td(), 1, None, vec![], many);
    assert_eq!(too_many.unwrap_err().code(), "BundleTooLarge");
}

// ---- updates

/// East with a rotation under way, and what a peer holds of it from before.
fn updated() -> (TestCluster, PeerTrust) {
    let mut east = TestCluster::new("east", noon());
    let held = PeerTrust::new(east.ca.bundle().unwrap()).unwrap();
    east.ca.begin_rotation(noon()).unwrap();
    (east, held)
}

fn code(envelope: &[u8], held: &PeerTrust) -> &'static str {
    open(envelope, held, noon()).unwrap_err().code()
}

fn replaced(envelope: &[u8], held: &PeerTrust) -> PeerTrust {
    match open(envelope, held, noon()).unwrap() {
        BundleUpdate::Replace(peer) => peer,
        BundleUpdate::Unchanged { .. } => panic!("unchanged"),
    }
}

#[test]
fn a_whole_rotation_arrives_by_updates() {
    let (mut east, mut held) = updated();
    held = replaced(&seal(&east.ca).unwrap(), &held);
    assert_eq!(held.bundle().roots().len(), 2);
    east.ca.force_step(noon()).unwrap();
    // Issuing from the new root, with the cross-certificate: the bundle is the same.
    assert_eq!(
        open(&seal(&east.ca).unwrap(), &held, noon()).unwrap(),
        BundleUpdate::Unchanged { sequence: 2 }
    );
    east.ca.force_step(noon()).unwrap();
    held = replaced(&seal(&east.ca).unwrap(), &held);
    assert_eq!(*held.bundle(), east.ca.bundle().unwrap());
    assert_eq!(
        (held.bundle().roots().len(), held.bundle().removed().len()),
        (1, 1)
    );
}

#[test]
fn a_peer_that_lags_is_reached_through_the_cross_certificate() {
    let (mut east, held) = updated();
    east.ca.force_step(noon()).unwrap();
    // It never saw the publication, so only the old root is held: the new CA's signature stands under it by the cross-certificate.
    assert_eq!(
        *replaced(&seal(&east.ca).unwrap(), &held).bundle(),
        east.ca.bundle().unwrap()
    );
}

#[test]
fn rollback_is_refused() {
    let (mut east, held) = updated();
    let second = seal(&east.ca).unwrap();
    let held = replaced(&second, &held);
    let first_root = east.ca.rotation().current();
    let next = east.ca.rotation().next().unwrap();
    east.ca.remove_root(next, &BTreeSet::new(), noon()).unwrap();
    let third = seal(&east.ca).unwrap();
    let held = replaced(&third, &held);
    assert_eq!(code(&second, &held), "SequenceRollback");
    assert_eq!(
        open(&third, &held, noon()).unwrap(),
        BundleUpdate::Unchanged { sequence: 3 }
    );
    assert_eq!(east.ca.rotation().current(), first_root);
}

#[test]
fn the_same_sequence_with_another_content_is_refused() {
    let (east, held) = updated();
    let envelope = seal(&east.ca).unwrap();
    let held = replaced(&envelope, &held);
    let other = Bundle::new(
        held.trust_domain().clone(),
        held.bundle().sequence(),
        Some(1),
        held.bundle().roots().to_vec(),
        BTreeSet::new(),
    );
    assert_eq!(
        code(&seal_as(&east.ca, &encode_payload(&other.unwrap())), &held),
        "SequenceReused"
    );
}

/// What `strait bundle` prints after a rotation does not name the retired key; the peer that trusts it must still take our update.
#[test]
fn a_bundle_from_a_file_takes_the_update_of_its_own_sequence() {
    let (mut east, _) = updated();
    let next = east.ca.rotation().next().unwrap();
    east.ca.remove_root(next, &BTreeSet::new(), noon()).unwrap();
    let own = east.ca.bundle().unwrap();
    let file = from_json(own.trust_domain().clone(), to_json(&own).as_bytes()).unwrap();
    assert!(file.removed().is_empty() && !own.removed().is_empty());
    let held = replaced(&seal(&east.ca).unwrap(), &PeerTrust::new(file).unwrap());
    assert_eq!(*held.bundle(), own);
}

#[test]
fn a_leaf_cannot_sign_an_update() {
    let (east, held) = updated();
    let forged = reseal_as(
        &east.ca,
        &east.issue("gw-0", Duration::from_secs(60), noon()).chain,
    );
    assert_eq!(code(&forged, &held), "SignerNotCa");
}

#[test]
fn a_stranger_cannot_sign_an_update() {
    let (east, held) = updated();
    let stranger = TestCluster::new("stranger", noon());
    let other = seal(&stranger.ca).unwrap();
    assert_eq!(code(&other, &held), "UnknownIssuer");
    // Nor with somebody's public chain: the signature is not that key's.
    let borrowed = reseal_as(&stranger.ca, &east.ca.signing_chain().unwrap());
    assert_eq!(code(&borrowed, &held), "BadSignature");
}

/// Another cluster's CA that we trust for its own domain must not speak for this one.
#[test]
fn an_update_of_another_domain_is_refused() {
    let (east, _) = updated();
    // A peer record of west that holds east's root, as a pooled store would.
    let pooled = Bundle::new(
        TrustDomain::for_root(&"west".parse().unwrap(), b"x"),
        1,
        None,
        east.ca.bundle().unwrap().roots().to_vec(),
        BTreeSet::new(),
    );
    let pooled = PeerTrust::new(pooled.unwrap()).unwrap();
    assert_eq!(code(&seal(&east.ca).unwrap(), &pooled), "WrongTrustDomain");
}

#[test]
fn a_root_cannot_authorise_its_own_replacement() {
    let mut east = TestCluster::new("east", noon());
    let held = PeerTrust::new(east.ca.bundle().unwrap()).unwrap();
    let thief = east.ca.clone();
    // The operator removes the only root; the thief of its key announces a root of its own in its place.
    let old = east.ca.rotation().current();
    east.ca.remove_root(old, &BTreeSet::new(), noon()).unwrap();
    let payload = encode_payload(&east.ca.bundle().unwrap());
    let signed = seal_as(&thief, &payload);
    assert_eq!(code(&signed, &held), "SignerRemoved");
    // Not even by everything being revoked: that is for the operator, out of band.
    let none = Bundle::new(held.trust_domain().clone(), 9, None, vec![], BTreeSet::new()).unwrap();
    assert_eq!(
        code(&seal_as(&thief, &encode_payload(&none)), &held),
        "SignerRemoved"
    );
    // Without listing it as removed, just leaving it out.
    let east_only = east.ca.bundle().unwrap();
    let silent = Bundle::new(
        held.trust_domain().clone(),
        9,
        None,
        east_only.roots().to_vec(),
        BTreeSet::new(),
    );
    assert_eq!(
        code(&seal_as(&thief, &encode_payload(&silent.unwrap())), &held),
        "SignerRemoved"
    );
}

#[test]
fn a_removed_root_authorises_nothing_any_more() {
    let (mut east, held) = updated();
    let thief = east.ca.clone();
    let held = replaced(&seal(&east.ca).unwrap(), &held);
    let stolen = east.ca.rotation().current();
    assert_eq!(east.ca.remove_root(stolen, &BTreeSet::new(), noon()).unwrap(), []);
    let held = replaced(&seal(&east.ca).unwrap(), &held);
    let comeback = Bundle::new(
        held.trust_domain().clone(),
        99,
        None,
        thief.bundle().unwrap().roots().to_vec(),
        BTreeSet::new(),
    );
    assert_eq!(
        code(&seal_as(&thief, &encode_payload(&comeback.unwrap())), &held),
        "UnknownIssuer"
    );
}

#[test]
fn a_removed_root_never_returns_even_by_its_owner() {
    let (mut east, held) = updated();
    let before = east.ca.clone();
    let held = replaced(&seal(&east.ca).unwrap(), &held);
    let next = east.ca.rotation().next().unwrap();
    east.ca.remove_root(next, &BTreeSet::new(), noon()).unwrap();
    let held = replaced(&seal(&east.ca).unwrap(), &held);
    let both = before.bundle().unwrap();
    let again = Bundle::new(
        both.trust_domain().clone(),
        99,
        None,
        both.roots().to_vec(),
        BTreeSet::new(),
    );
    assert_eq!(
        code(&seal_as(&east.ca, &encode_payload(&again.unwrap())), &held),
        "RemovedRootListed"
    );
    // An update that forgets the removal does not undo it.
    let one = east.ca.bundle().unwrap();
    let forgets = Bundle::new(
        one.trust_domain().clone(),
        99,
        None,
        one.roots().to_vec(),
        BTreeSet::new(),
    );
    let kept = replaced(&seal_as(&east.ca, &encode_payload(&forgets.unwrap())), &held);
    assert_eq!(*kept.bundle().removed(), [next].into());
}

#[test]
fn the_order_of_a_signer_chain_is_part_of_its_form() {
    let (mut east, held) = updated();
    east.ca.force_step(noon()).unwrap();
    let mut chain = east.ca.signing_chain().unwrap();
    verify_signer_chain(&chain, noon(), held.bundle()).unwrap();
    chain.swap(0, 1);
    // The cross-certificate alone is a signer too, but not the one that signed.
    let envelope = reseal_as(&east.ca, &chain);
    assert_eq!(code(&envelope, &held), "BadSignature");
    assert_eq!(
        verify_signer_chain(&[], noon(), held.bundle())
            .unwrap_err()
            .code(),
        "NoCertificate"
    );
    assert_eq!(
        verify_signer_chain(&chain[1..], noon(), held.bundle())
            .unwrap_err()
            .code(),
        "UnknownIssuer"
    );
}

#[test]
fn a_signer_below_an_issuing_certificate_is_refused() {
    let (east, held) = updated();
    let (sub, chain) = strait_trust_bridge::testing::signer_below_issuing(&east.ca, noon());
    let refused = verify_signer_chain(&[vec![sub], chain].concat(), noon(), held.bundle()).unwrap_err();
    assert_eq!(refused.code(), "PathTooLong");
}

#[test]
fn updates_are_bounded_and_exact() {
    let (east, held) = updated();
    let envelope = seal(&east.ca).unwrap();
    for cut in 0..envelope.len() {
        assert!(open(&envelope[..cut], &held, noon()).is_err());
    }
    assert_eq!(
        code(&[envelope.as_slice(), b"x"].concat(), &held),
        "MalformedEnvelope"
    );
    assert_eq!(code(&vec![1; MAX_ENVELOPE + 1], &held), "BundleTooLarge");
    let mut newer = envelope.clone();
    newer[0] = 2;
    assert_eq!(code(&newer, &held), "UnsupportedVersion");
    for at in 0..envelope.len() {
        let mut altered = envelope.clone();
        altered[at] ^= 1;
        assert!(open(&altered, &held, noon()).is_err(), "byte {at}");
    }
}

#[test]
fn payload_and_document_must_agree_on_the_sequence() {
    let (east, _) = updated();
    let mut payload = encode_payload(&east.ca.bundle().unwrap());
    let at = 2 + east.domain().as_str().len() + 7;
    assert_eq!(payload[at], 2);
    payload[at] = 3;
    assert_eq!(decode_payload(&payload).unwrap_err().code(), "MalformedEnvelope");
}

proptest! {
    #[test]
    fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let held = PeerTrust::new(Bundle::new(
            TrustDomain::for_root(&"east".parse().unwrap(), b"x"), 1, None, vec![], BTreeSet::new()).unwrap()).unwrap();
        prop_assert!(open(&bytes, &held, noon()).is_err());
        let _ = decode_payload(&bytes);
        let _ = from_json(td(), &bytes);
        let _ = strait_trust_bridge::join::JoinMessage::decode(&bytes);
        let _ = strait_trust_bridge::Root::from_der(&bytes);
        let _ = RootFingerprint::of_der(&bytes);
    }
}

/// The present bundle of a CA, signed by it, with another chain beside it.
fn reseal_as(ca: &strait_trust_bridge::CaRecord, chain: &[rustls_pki_types::CertificateDer<'_>]) -> Vec<u8> {
    strait_trust_bridge::testing::seal_with(ca, &encode_payload(&ca.bundle().unwrap()), chain)
}

/// Any payload, signed by a CA.
fn seal_as(ca: &strait_trust_bridge::CaRecord, payload: &[u8]) -> Vec<u8> {
    strait_trust_bridge::testing::seal_with(ca, payload, &ca.signing_chain().unwrap())
}
