//! Chains of signing certificates: what may sign a bundle update or a join.
#![allow(missing_docs, clippy::unwrap_used, clippy::unwrap_in_result)]

mod common;
mod pki;

use std::collections::BTreeSet;

use common::noon;
use pki::Pki;
use rcgen::{BasicConstraints, CertificateParams, IsCa};
use strait_trust_bridge::testing::{TestCluster, later};
use strait_trust_bridge::{Bundle, TrustDomain, TrustError, verify_signer_chain};

fn td() -> TrustDomain {
    TrustDomain::parse("td").unwrap()
}

fn verify(pki: &Pki) -> Result<(), TrustError> {
    verify_signer_chain(std::slice::from_ref(&pki.issuing), noon(), &pki.bundle()).map(drop)
}

#[test]
fn the_roots_own_path_length_counts() {
    let allow = |len: u8| {
        move |root: &mut CertificateParams| root.is_ca = IsCa::Ca(BasicConstraints::Constrained(len))
    };
    verify(&Pki::new(&td(), allow(1), |_| {})).unwrap();
    assert_eq!(
        verify(&Pki::new(&td(), allow(0), |_| {})).unwrap_err().code(),
        "PathTooLong"
    );
}

#[test]
fn the_roots_own_validity_counts() {
    let expired = Pki::new(&td(), |root| root.not_after = root.not_before, |_| {});
    assert_eq!(verify(&expired).unwrap_err().code(), "RootExpired");
}

/// What a thief of the next root's key could use, was it not for the list of removed keys.
#[test]
fn a_cross_certificate_does_not_save_a_removed_key() {
    let mut east = TestCluster::new("east", noon());
    let old = east.ca.bundle().unwrap();
    east.ca.begin_rotation(noon()).unwrap();
    east.ca.force_step(noon()).unwrap();
    let chain = east.ca.signing_chain().unwrap();
    verify_signer_chain(&chain, noon(), &old).unwrap();
    let removed = BTreeSet::from([east.ca.rotation().current()]);
    let held = Bundle::new(old.trust_domain().clone(), 9, None, old.roots().to_vec(), removed).unwrap();
    assert_eq!(
        verify_signer_chain(&chain, noon(), &held).unwrap_err().code(),
        "KeyRemoved"
    );
}

#[test]
fn every_signer_must_be_valid_now() {
    let east = TestCluster::new("east", noon());
    let (chain, held) = (east.ca.signing_chain().unwrap(), east.ca.bundle().unwrap());
    let at = |seconds| verify_signer_chain(&chain, later(noon(), seconds), &held).map(drop);
    at(-300).unwrap();
    assert_eq!(at(-301).unwrap_err().code(), "SignerExpired");
    at(365 * 24 * 3600).unwrap();
    assert_eq!(at(365 * 24 * 3600 + 1).unwrap_err().code(), "SignerExpired");
}

#[test]
fn a_signature_is_of_the_first_key_of_the_chain() {
    let pki = Pki::new(&td(), |_| {}, |_| {});
    let signer = verify_signer_chain(std::slice::from_ref(&pki.issuing), noon(), &pki.bundle()).unwrap();
    let signature = rcgen::SigningKey::sign(pki.issuing_signer.key(), b"message").unwrap();
    signer.verify(b"message", &signature).unwrap();
    assert_eq!(
        signer.verify(b"massage", &signature).unwrap_err().code(),
        "BadSignature"
    );
    assert_eq!(signer.verify(b"message", b"").unwrap_err().code(), "BadSignature");
}
