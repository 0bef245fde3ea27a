//! The CA: what it issues, what it keeps, what it refuses.
#![allow(missing_docs, clippy::unwrap_used, clippy::unwrap_in_result)]

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use common::noon;
use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::CertificateDer;
use strait_trust_bridge::testing::{TestCluster, later, trusting_pair};
use strait_trust_bridge::{
    BACKDATE, CaRecord, ClusterId, DEFAULT_LEAF_TTL, GatewayKey, InstanceId, LeafRequest, MAX_LEAF_TTL,
    OwnIdentity, SecretPem, SpiffeId, TrustStore, renew_at, verify_chain,
};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

fn east() -> CaRecord {
    CaRecord::create(&ClusterId::parse("east").unwrap(), noon()).unwrap()
}

fn instance() -> InstanceId {
    InstanceId::parse("gw-0").unwrap()
}

fn parsed<'a>(der: &'a CertificateDer<'_>) -> X509Certificate<'a> {
    X509Certificate::from_der(der).unwrap().1
}

fn path_len(der: &CertificateDer<'_>) -> Option<u32> {
    parsed(der)
        .basic_constraints()
        .unwrap()
        .unwrap()
        .value
        .path_len_constraint
}

#[test]
fn the_profiles_are_as_promised() {
    let mut east = TestCluster::new("east", noon());
    east.ca.begin_rotation(noon()).unwrap();
    east.ca.force_step(noon()).unwrap();
    let leaf = east.issue("gw-0", DEFAULT_LEAF_TTL, noon());
    assert_eq!(
        leaf.roots.iter().map(path_len).collect::<Vec<_>>(),
        [Some(2), Some(2)]
    );
    assert_eq!(
        (path_len(&leaf.chain[1]), path_len(&leaf.chain[2])),
        (Some(0), Some(1))
    );
    let cert = parsed(&leaf.chain[0]);
    let san = cert.subject_alternative_name().unwrap().unwrap();
    assert_eq!(san.value.general_names.len(), 1);
    let usage = cert.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.flags == 1, "digitalSignature alone");
    let eku = cert.extended_key_usage().unwrap().unwrap();
    assert!(eku.value.server_auth && eku.value.client_auth && !eku.value.any);
    let constraints = cert.basic_constraints().unwrap().unwrap();
    assert!(constraints.critical && !constraints.value.ca, "said outright");
    let validity = cert.validity();
    assert_eq!(
        validity.not_before.timestamp(),
        i64::try_from(noon().as_secs() - BACKDATE.as_secs()).unwrap()
    );
    assert_eq!(
        validity.not_after.timestamp(),
        i64::try_from(noon().as_secs() + 24 * 3600).unwrap()
    );
    // The names chain for every verifier, ours or not.
    assert_eq!(
        parsed(&leaf.chain[2]).subject().as_raw(),
        parsed(&leaf.roots[0]).subject().as_raw()
    );
    assert_ne!(
        parsed(&leaf.roots[0]).subject().as_raw(),
        parsed(&leaf.roots[1]).subject().as_raw()
    );
}

#[test]
fn the_trust_domain_follows_from_the_first_root_and_stays() {
    let mut ca = east();
    let spki = parsed(ca.bundle().unwrap().roots()[0].der())
        .tbs_certificate
        .subject_pki
        .raw
        .to_vec();
    let domain = strait_trust_bridge::TrustDomain::for_root(&ClusterId::parse("east").unwrap(), &spki);
    assert_eq!(*ca.trust_domain(), domain);
    ca.begin_rotation(noon()).unwrap();
    ca.force_step(noon()).unwrap();
    ca.force_step(noon()).unwrap();
    assert_eq!(*ca.trust_domain(), domain);
    assert_ne!(
        *east().trust_domain(),
        domain,
        "another cluster of the same name is another domain"
    );
}

#[test]
fn serial_numbers_are_random_and_positive() {
    let east = TestCluster::new("east", noon());
    let serials: BTreeSet<Vec<u8>> = (0..50)
        .map(|_| {
            parsed(&east.issue("gw-0", DEFAULT_LEAF_TTL, noon()).chain[0])
                .raw_serial()
                .to_vec()
        })
        .collect();
    assert_eq!(serials.len(), 50);
    assert!(
        serials
            .iter()
            .all(|serial| serial.len() == 16 && serial[0] < 0x80)
    );
}

#[test]
fn a_request_gives_its_key_and_nothing_else() {
    let ca = east();
    let pair = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let mut wishes = CertificateParams::new(vec!["evil.example".to_owned()]).unwrap();
    wishes.subject_alt_names.push(rcgen::SanType::URI(
        "spiffe://evil/strait/gateway/x".try_into().unwrap(),
    ));
    wishes.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    wishes.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    let request = LeafRequest::from_csr(wishes.serialize_request(&pair).unwrap().der()).unwrap();
    let leaf = ca.issue(&instance(), &request, DEFAULT_LEAF_TTL, noon()).unwrap();
    let verified = verify_chain(&leaf.chain, noon(), &ca.bundle().unwrap()).unwrap();
    assert_eq!(verified.id, SpiffeId::gateway(ca.trust_domain(), &instance()));
}

#[test]
fn bad_requests_are_refused() {
    let key = GatewayKey::generate().unwrap();
    LeafRequest::from_csr(&key.csr().unwrap()).unwrap();
    let mut altered = key.csr().unwrap().to_vec();
    let last = altered.len() - 1;
    altered[last] ^= 1;
    assert_eq!(
        LeafRequest::from_csr(&altered.into()).unwrap_err().code(),
        "BadRequest"
    );
    assert_eq!(
        LeafRequest::from_csr(&vec![0x30].into()).unwrap_err().code(),
        "BadRequest"
    );
    assert_eq!(LeafRequest::from_spki(b"x").unwrap_err().code(), "BadRequest");
    let other = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let spki = rcgen::PublicKeyData::subject_public_key_info(&other);
    assert_eq!(LeafRequest::from_spki(&spki).unwrap_err().code(), "BadRequest");
}

#[test]
fn a_leaf_survives_storage() {
    let east = TestCluster::new("east", noon());
    let leaf = east.issue("gw-0", DEFAULT_LEAF_TTL, noon());
    let text = serde_json::to_string(&leaf).unwrap();
    let read: strait_trust_bridge::IssuedLeaf = serde_json::from_str(&text).unwrap();
    assert_eq!(read, leaf);
    let key = GatewayKey::from_pem(&east.key.to_pem()).unwrap();
    OwnIdentity::new(&read, &key).unwrap();
    let empty = strait_trust_bridge::IssuedLeaf {
        chain: vec![],
        ..leaf
    };
    assert_eq!(
        OwnIdentity::new(&empty, &key).unwrap_err().code(),
        "NoCertificate"
    );
    assert!(serde_json::from_str::<strait_trust_bridge::IssuedLeaf>(&text.replacen("MI", "M!", 1)).is_err());
}

#[test]
fn lifetimes_are_bounded() {
    let ca = east();
    let request = LeafRequest::from_spki(&GatewayKey::generate().unwrap().spki()).unwrap();
    let issue = |ttl, now| ca.issue(&instance(), &request, ttl, now);
    for bad in [
        Duration::ZERO,
        Duration::from_secs(1),
        MAX_LEAF_TTL + Duration::from_secs(1),
    ] {
        assert_eq!(issue(bad, noon()).unwrap_err().code(), "InvalidTtl");
    }
    // Never beyond the issuing certificate, which lasts a year.
    let end = 365 * 24 * 3600;
    let leaf = issue(DEFAULT_LEAF_TTL, later(noon(), end - 60)).unwrap();
    assert_eq!(
        parsed(&leaf.chain[0]).validity().not_after.timestamp(),
        i64::try_from(later(noon(), end).as_secs()).unwrap()
    );
    assert_eq!(
        issue(DEFAULT_LEAF_TTL, later(noon(), end + 1))
            .unwrap_err()
            .code(),
        "SignerExpired"
    );
}

#[test]
fn renewal_is_due_at_half_of_the_life_also_for_seconds() {
    let east = TestCluster::new("east", noon());
    for ttl in [2, 10, 24 * 3600] {
        let leaf = east.issue("gw-0", Duration::from_secs(ttl), noon());
        let due = renew_at(&leaf.chain[0]).unwrap();
        assert_eq!(due, later(noon(), i64::try_from(ttl / 2).unwrap()), "{ttl}");
    }
}

#[test]
fn the_issuing_certificate_is_renewed_under_the_same_root() {
    let mut east = TestCluster::new("east", noon());
    let before = east.issue("gw-0", DEFAULT_LEAF_TTL, noon()).chain;
    let half = 365 * 12 * 3600;
    assert!(!east.ca.renew_issuing(later(noon(), half - 1)).unwrap());
    assert!(east.ca.renew_issuing(later(noon(), half)).unwrap());
    let now = later(noon(), half);
    let after = east.issue("gw-0", DEFAULT_LEAF_TTL, now).chain;
    assert_ne!(before[1], after[1]);
    verify_chain(&after, now, &east.ca.bundle().unwrap()).unwrap();
    assert_eq!(east.ca.bundle().unwrap().sequence(), 1, "roots are unchanged");
}

#[test]
fn a_record_survives_storage_and_damage_is_noticed() {
    let ca = east();
    let text = serde_json::to_string(&ca).unwrap();
    let read: CaRecord = serde_json::from_str(&text).unwrap();
    read.check().unwrap();
    assert_eq!(read.bundle().unwrap(), ca.bundle().unwrap());
    let newer: CaRecord = serde_json::from_str(&text.replacen("\"version\":1", "\"version\":2", 1)).unwrap();
    assert_eq!(newer.check().unwrap_err().code(), "UnsupportedVersion");
    let key = ca.rotation().current().to_string();
    let other = "00".repeat(32);
    let lost: CaRecord = serde_json::from_str(&text.replace(&key, &other)).unwrap();
    assert_eq!(lost.check().unwrap_err().code(), "DamagedRecord");
    let broken: CaRecord = serde_json::from_str(&text.replace("BEGIN PRIVATE", "BEGIN SOME")).unwrap();
    assert_eq!(broken.check().unwrap_err().code(), "DamagedRecord");
    assert!(serde_json::from_str::<CaRecord>(&text.replacen("{", "{\"extra\":1,", 1)).is_err());
}

#[test]
fn keys_of_retired_roots_are_gone_from_the_record() {
    let mut ca = east();
    let count = |ca: &CaRecord| {
        serde_json::to_string(ca)
            .unwrap()
            .matches("BEGIN PRIVATE KEY")
            .count()
    };
    assert_eq!(count(&ca), 2);
    ca.begin_rotation(noon()).unwrap();
    ca.force_step(noon()).unwrap();
    assert_eq!(count(&ca), 4);
    ca.force_step(noon()).unwrap();
    assert_eq!(count(&ca), 2);
    assert_eq!(ca.force_step(noon()).unwrap_err().code(), "WrongPhase");
}

#[test]
fn gateway_keys_are_stored_and_hidden() {
    let key = GatewayKey::generate().unwrap();
    let pem = key.to_pem();
    assert_eq!(GatewayKey::from_pem(&pem).unwrap().spki(), key.spki());
    assert_eq!(
        GatewayKey::from_pem(&SecretPem::new("x".into()))
            .unwrap_err()
            .code(),
        "DamagedRecord"
    );
    let shown = format!("{key:?} {pem:?}");
    assert!(shown.contains("redacted") && !shown.contains("BEGIN"));
}

#[test]
fn a_leaf_and_a_key_that_do_not_match_are_no_identity() {
    let (east, west) = trusting_pair(noon());
    let leaf = east.issue("gw-0", DEFAULT_LEAF_TTL, noon());
    assert_eq!(
        OwnIdentity::new(&leaf, &west.key).unwrap_err().code(),
        "BadRequest"
    );
    let identity = OwnIdentity::new(&leaf, &east.key).unwrap();
    assert_eq!(identity.id(), &SpiffeId::gateway(east.domain(), &instance()));
    assert_eq!(identity.root_key(), east.ca.rotation().current());
    assert_eq!(identity.renew_at(), later(noon(), 12 * 3600));
    assert_eq!(
        west.store.set_identity(identity).unwrap_err().code(),
        "WrongTrustDomain"
    );
}

#[test]
fn the_store_counts_changes_and_keeps_the_old_view_on_an_error() {
    let (east, west) = trusting_pair(noon());
    let store = TrustStore::new(east.domain().clone());
    assert!(store.identity().is_none());
    assert_eq!(store.generation(), 0);
    let peer = strait_trust_bridge::PeerTrust::new(west.ca.bundle().unwrap()).unwrap();
    store.update(|view| view.insert(peer.clone())).unwrap();
    assert_eq!(store.generation(), 1);
    let own = strait_trust_bridge::PeerTrust::new(east.ca.bundle().unwrap()).unwrap();
    let failed = store.update(|view| {
        view.remove(west.domain());
        view.insert(own.clone())
    });
    assert_eq!(failed.unwrap_err().code(), "OwnTrustDomain");
    assert_eq!(store.generation(), 1);
    assert_eq!(store.view().peers().count(), 1);
    assert_eq!(store.view().peer(west.domain()), Some(&peer));
}
