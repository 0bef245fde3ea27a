//! The negative table of SPIFFE X.509-SVID and of Strait's own rules: one named test a rule.
#![allow(missing_docs, clippy::unwrap_used, clippy::unwrap_in_result)]

mod common;
mod pki;

use std::collections::BTreeSet;

use common::noon;
use pki::{Pki, leaf_under};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};
use rustls_pki_types::CertificateDer;
use strait_trust_bridge::testing::{BadLeaf, TestCluster, gateway_id, later, trusting_pair};
use strait_trust_bridge::{
    Bundle, DEFAULT_LEAF_TTL, KeyHash, MAX_CERTIFICATE, MAX_CHAIN, PeerTrust, Root, RootPin, TrustDomain,
    TrustView, claimed_id, reverify_roots, verify_chain, verify_with_pin,
};

type Chain = Vec<CertificateDer<'static>>;

fn leaf(cluster: &TestCluster) -> Chain {
    cluster.issue("gw-0", DEFAULT_LEAF_TTL, noon()).chain
}

fn bundle(cluster: &TestCluster) -> Bundle {
    cluster.ca.bundle().unwrap()
}

/// The code with which a kind of bad leaf is refused.
fn refused(kind: BadLeaf) -> &'static str {
    let east = TestCluster::new("east", noon());
    let chain = kind.chain(&east.ca, &east.key, noon());
    verify_chain(&chain, noon(), &bundle(&east)).unwrap_err().code()
}

macro_rules! refused {
    ($($name:ident: $kind:ident => $code:literal;)*) => {
        $(#[test]
        fn $name() {
            assert_eq!(refused(BadLeaf::$kind), $code);
            assert_eq!(BadLeaf::$kind.code(), $code);
        })*
    };
}

refused! {
    two_uri_sans: TwoUriSans => "MultipleUriSans";
    no_uri_san: NoUriSan => "NoUriSan";
    upper_case_domain: UpperCaseDomain => "InvalidSpiffeId";
    root_path: RootPath => "RootPath";
    not_a_gateways_path: NotGateway => "NotGateway";
    ca_leaf: IsCa => "LeafIsCa";
    no_key_usage: NoKeyUsage => "KeyUsageMissing";
    key_usage_not_critical: KeyUsageNotCritical => "KeyUsageNotCritical";
    no_digital_signature: NoDigitalSignature => "DigitalSignatureMissing";
    key_cert_sign_on_a_leaf: KeyCertSign => "LeafKeyCertSign";
    crl_sign_on_a_leaf: CrlSign => "LeafCrlSign";
    server_auth_only: ServerAuthOnly => "ExtendedKeyUsage";
    client_auth_only: ClientAuthOnly => "ExtendedKeyUsage";
    expired_leaf: Expired => "LeafExpired";
    leaf_of_the_future: NotYetValid => "LeafNotYetValid";
    self_signed_leaf: SelfSigned => "UnknownIssuer";
    issuing_certificate_without_ca: IssuingNotCa => "SignerNotCa";
    issuing_certificate_without_key_cert_sign: IssuingNoKeyCertSign => "SignerKeyCertSignMissing";
    issuing_certificate_with_a_path: IssuingIdHasPath => "SignerIdHasPath";
    expired_issuing_certificate: IssuingExpired => "SignerExpired";
    path_longer_than_the_issuing_certificate_allows: PathTooLong => "PathTooLong";
}

#[test]
fn a_good_chain_gives_its_facts() {
    let east = TestCluster::new("east", noon());
    let verified = verify_chain(&leaf(&east), noon(), &bundle(&east)).unwrap();
    assert_eq!(verified.id, gateway_id(east.domain()));
    assert_eq!(verified.root, bundle(&east).roots()[0].fingerprint());
    assert_eq!(verified.root_key, east.ca.rotation().current());
    assert_eq!(
        verified.not_after,
        i64::try_from(later(noon(), 24 * 3600).as_secs()).unwrap()
    );
}

#[test]
fn other_san_types_and_no_extended_key_usage_are_fine() {
    let pki = Pki::new(&td("td"), |_| {}, |_| {});
    let chain = leaf_under(&pki, |leaf| {
        leaf.subject_alt_names
            .push(rcgen::SanType::DnsName("a.example".try_into().unwrap()));
        leaf.extended_key_usages.clear();
    });
    verify_chain(&chain, noon(), &pki.bundle()).unwrap();
}

#[test]
fn expiry_has_no_tolerance() {
    let east = TestCluster::new("east", noon());
    let chain = leaf(&east);
    let at = |seconds| verify_chain(&chain, later(noon(), seconds), &bundle(&east)).map(drop);
    at(24 * 3600).unwrap();
    assert_eq!(at(24 * 3600 + 1).unwrap_err().code(), "LeafExpired");
    // Issued 300 s into the past for clocks that lag, and no more.
    at(-300).unwrap();
    assert_eq!(at(-301).unwrap_err().code(), "LeafNotYetValid");
}

#[test]
fn no_certificate() {
    let east = TestCluster::new("east", noon());
    assert_eq!(
        verify_chain(&[], noon(), &bundle(&east)).unwrap_err().code(),
        "NoCertificate"
    );
}

#[test]
fn a_chain_has_at_most_six_certificates() {
    let east = TestCluster::new("east", noon());
    let mut chain = leaf(&east);
    let issuing = chain[1].clone();
    chain.resize(MAX_CHAIN, issuing.clone());
    verify_chain(&chain, noon(), &bundle(&east)).unwrap();
    chain.push(issuing);
    assert_eq!(
        verify_chain(&chain, noon(), &bundle(&east)).unwrap_err().code(),
        "ChainTooLong"
    );
}

#[test]
fn a_certificate_that_may_not_sign_has_no_place_after_the_leaf() {
    let east = TestCluster::new("east", noon());
    let mut chain = leaf(&east);
    chain.push(leaf(&east)[0].clone());
    assert_eq!(
        verify_chain(&chain, noon(), &bundle(&east)).unwrap_err().code(),
        "SignerNotCa"
    );
}

#[test]
fn a_huge_certificate_is_not_parsed() {
    let east = TestCluster::new("east", noon());
    let mut chain = leaf(&east);
    chain.push(CertificateDer::from(vec![0x30; MAX_CERTIFICATE + 1]));
    assert_eq!(
        verify_chain(&chain, noon(), &bundle(&east)).unwrap_err().code(),
        "CertificateTooLarge"
    );
}

#[test]
fn malformed_certificates() {
    let east = TestCluster::new("east", noon());
    let good = leaf(&east);
    let mut trailing = good[0].to_vec();
    trailing.push(0);
    for bad in [
        vec![],
        vec![0x30, 0x00],
        good[0][..good[0].len() - 1].to_vec(),
        trailing,
    ] {
        for place in [0, 1] {
            let mut chain = good.clone();
            chain[place] = CertificateDer::from(bad.clone());
            let code = verify_chain(&chain, noon(), &bundle(&east)).unwrap_err().code();
            assert_eq!(code, "MalformedCertificate");
        }
    }
}

#[test]
fn an_altered_certificate_is_refused_whichever_bit_is_flipped() {
    let east = TestCluster::new("east", noon());
    let good = leaf(&east);
    for at in 0..good[0].len() {
        let mut bytes = good[0].to_vec();
        bytes[at] ^= 1;
        let chain = [CertificateDer::from(bytes), good[1].clone()];
        assert!(verify_chain(&chain, noon(), &bundle(&east)).is_err(), "byte {at}");
    }
}

fn td(text: &str) -> TrustDomain {
    TrustDomain::parse(text).unwrap()
}

#[test]
fn the_roots_own_path_length_counts() {
    let domain = td("td");
    let allow = |len: u8| {
        move |root: &mut CertificateParams| root.is_ca = IsCa::Ca(BasicConstraints::Constrained(len))
    };
    let one = Pki::new(&domain, allow(1), |_| {});
    verify_chain(&one.chain(), noon(), &one.bundle()).unwrap();
    let none = Pki::new(&domain, allow(0), |_| {});
    assert_eq!(
        verify_chain(&none.chain(), noon(), &none.bundle())
            .unwrap_err()
            .code(),
        "PathTooLong"
    );
}

#[test]
fn the_roots_own_validity_counts() {
    let domain = td("td");
    let pki = Pki::new(&domain, |root| root.not_after = root.not_before, |_| {});
    assert_eq!(
        verify_chain(&pki.chain(), noon(), &pki.bundle())
            .unwrap_err()
            .code(),
        "RootExpired"
    );
    assert_eq!(
        reverify_roots(&pki.chain(), noon(), &pki.bundle())
            .unwrap_err()
            .code(),
        "RootExpired"
    );
}

#[test]
fn a_root_must_be_a_signing_certificate() {
    let domain = td("td");
    let no_ca = Pki::new(&domain, |root| root.is_ca = IsCa::ExplicitNoCa, |_| {});
    assert_eq!(Root::from_der(&no_ca.root).unwrap_err().code(), "RootNotSigner");
    let no_sign = Pki::new(
        &domain,
        |root| root.key_usages = vec![KeyUsagePurpose::CrlSign],
        |_| {},
    );
    assert_eq!(Root::from_der(&no_sign.root).unwrap_err().code(), "RootNotSigner");
    let no_usage = Pki::new(&domain, |root| root.key_usages.clear(), |_| {});
    assert_eq!(
        Root::from_der(&no_usage.root).unwrap_err().code(),
        "RootNotSigner"
    );
}

#[test]
fn an_issuing_certificate_for_servers_only_is_refused() {
    let pki = Pki::new(
        &td("td"),
        |_| {},
        |issuing| {
            issuing.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        },
    );
    assert_eq!(
        verify_chain(&pki.chain(), noon(), &pki.bundle())
            .unwrap_err()
            .code(),
        "ExtendedKeyUsage"
    );
}

#[test]
fn any_extended_key_usage_allows_both_roles() {
    let pki = Pki::new(
        &td("td"),
        |_| {},
        |issuing| {
            issuing.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any];
        },
    );
    let chain = leaf_under(&pki, |leaf| {
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any]
    });
    verify_chain(&chain, noon(), &pki.bundle()).unwrap();
}

#[test]
fn another_domains_root_is_never_used() {
    let (east, west) = trusting_pair(noon());
    // West's CA issues a leaf that names east's domain.
    let forged = Pki::new(east.domain(), |_| {}, |_| {});
    assert_eq!(
        verify_chain(&forged.chain(), noon(), &bundle(&east))
            .unwrap_err()
            .code(),
        "UnknownIssuer"
    );
    // A view that trusts both: the bundle is chosen by the leaf's domain alone, roots are not pooled.
    let mut view = TrustView::new(td("own"));
    view.insert(PeerTrust::new(bundle(&east)).unwrap()).unwrap();
    let forger = Bundle::new(
        west.domain().clone(),
        1,
        None,
        vec![Root::from_der(&forged.root).unwrap()],
        BTreeSet::new(),
    );
    view.insert(PeerTrust::new(forger.unwrap()).unwrap()).unwrap();
    assert_eq!(
        view.verify(&forged.chain(), noon()).unwrap_err().code(),
        "UnknownIssuer"
    );
    assert_eq!(
        view.verify(&leaf(&west), noon()).unwrap_err().code(),
        "UnknownIssuer"
    );
    assert_eq!(
        view.verify(&leaf(&east), noon()).unwrap().cluster.as_str(),
        "east"
    );
}

#[test]
fn a_bundle_verifies_its_own_domain_only() {
    let (east, west) = trusting_pair(noon());
    let relabelled = Bundle::new(
        west.domain().clone(),
        1,
        None,
        bundle(&east).roots().to_vec(),
        BTreeSet::new(),
    );
    let code = verify_chain(&leaf(&east), noon(), &relabelled.unwrap())
        .unwrap_err()
        .code();
    assert_eq!(code, "WrongTrustDomain");
}

#[test]
fn our_own_domain_from_a_peer_is_refused() {
    let east = TestCluster::new("east", noon());
    let mut view = TrustView::new(east.domain().clone());
    // Even if it is really signed by us, and even if somebody tries to list us as a peer.
    assert_eq!(
        view.verify(&leaf(&east), noon()).unwrap_err().code(),
        "OwnTrustDomain"
    );
    assert_eq!(
        view.reverify(&leaf(&east), noon()).unwrap_err().code(),
        "OwnTrustDomain"
    );
    let own = PeerTrust::new(bundle(&east)).unwrap();
    assert_eq!(view.insert(own).unwrap_err().code(), "OwnTrustDomain");
}

#[test]
fn a_cluster_id_belongs_to_one_trust_domain() {
    let (east, west) = trusting_pair(noon());
    let trust = |cluster: &TestCluster| PeerTrust::new(bundle(cluster)).unwrap();
    let (second_east, second_west) = (TestCluster::new("east", noon()), TestCluster::new("west", noon()));
    let mut view = TrustView::new(east.domain().clone());
    view.insert(trust(&west)).unwrap();
    view.insert(trust(&west)).unwrap();
    assert_eq!(
        view.insert(trust(&second_west)).unwrap_err().code(),
        "ClusterIdTaken"
    );
    assert_eq!(
        view.insert(trust(&second_east)).unwrap_err().code(),
        "ClusterIdTaken"
    );
    view.remove(west.domain());
    view.insert(trust(&second_west)).unwrap();
}

#[test]
fn a_domain_that_no_federation_lists_is_refused() {
    let (east, west) = trusting_pair(noon());
    assert_eq!(
        TrustView::new(east.domain().clone())
            .verify(&leaf(&west), noon())
            .unwrap_err()
            .code(),
        "UnknownTrustDomain"
    );
}

#[test]
fn the_pin_is_one_federation() {
    let (east, west) = trusting_pair(noon());
    let north = TestCluster::new("north", noon());
    east.trust(&north);
    let view = east.store.view();
    view.verify_pinned(&leaf(&west), noon(), west.domain()).unwrap();
    let code = view
        .verify_pinned(&leaf(&north), noon(), west.domain())
        .unwrap_err()
        .code();
    assert_eq!(code, "WrongTrustDomain");
}

#[test]
fn a_removed_key_is_refused_anywhere_in_a_chain() {
    let mut east = TestCluster::new("east", noon());
    east.ca.begin_rotation(noon()).unwrap();
    east.ca.force_step(noon()).unwrap();
    let (chain, held) = (leaf(&east), bundle(&east));
    assert_eq!(chain.len(), 3, "leaf, issuing, cross-certificate");
    verify_chain(&chain, noon(), &held).unwrap();
    let signer = |der: &CertificateDer<'_>| KeyHash::of_spki(&spki(der));
    for place in 0..3 {
        let key = signer(&chain[place]);
        let roots = held
            .roots()
            .iter()
            .filter(|root| root.key() != key)
            .cloned()
            .collect();
        let without = Bundle::new(held.trust_domain().clone(), 9, None, roots, [key].into()).unwrap();
        assert_eq!(
            verify_chain(&chain, noon(), &without).unwrap_err().code(),
            "KeyRemoved",
            "place {place}"
        );
        assert_eq!(
            reverify_roots(&chain, noon(), &without).unwrap_err().code(),
            "KeyRemoved",
            "place {place}"
        );
    }
}

/// The cross-certificate would keep a removed new root alive through the old one.
#[test]
fn a_cross_certificate_does_not_save_a_removed_root() {
    let mut east = TestCluster::new("east", noon());
    let old = bundle(&east);
    east.ca.begin_rotation(noon()).unwrap();
    east.ca.force_step(noon()).unwrap();
    let chain = leaf(&east);
    verify_chain(&chain, noon(), &old).unwrap();
    let removed = [east.ca.rotation().current()].into();
    let old_only = Bundle::new(east.domain().clone(), 9, None, old.roots().to_vec(), removed).unwrap();
    assert_eq!(
        verify_chain(&chain, noon(), &old_only).unwrap_err().code(),
        "KeyRemoved"
    );
}

fn spki(der: &CertificateDer<'_>) -> Vec<u8> {
    use x509_parser::prelude::FromDer;
    x509_parser::certificate::X509Certificate::from_der(der)
        .unwrap()
        .1
        .tbs_certificate
        .subject_pki
        .raw
        .to_vec()
}

#[test]
fn no_roots_means_everything_is_revoked() {
    let east = TestCluster::new("east", noon());
    let none = Bundle::new(east.domain().clone(), 2, None, vec![], BTreeSet::new()).unwrap();
    assert_eq!(
        verify_chain(&leaf(&east), noon(), &none).unwrap_err().code(),
        "BundleEmpty"
    );
    assert_eq!(
        reverify_roots(&leaf(&east), noon(), &none).unwrap_err().code(),
        "BundleEmpty"
    );
}

#[test]
fn a_live_tunnel_outlives_its_leaf_but_not_its_root() {
    let mut east = TestCluster::new("east", noon());
    let chain = leaf(&east);
    let tomorrow = later(noon(), 30 * 3600);
    assert_eq!(
        verify_chain(&chain, tomorrow, &bundle(&east)).unwrap_err().code(),
        "LeafExpired"
    );
    reverify_roots(&chain, tomorrow, &bundle(&east)).unwrap();
    // Also after a year and a half, when the issuing certificate has ended as well.
    reverify_roots(&chain, later(noon(), 550 * 24 * 3600), &bundle(&east)).unwrap();
    let old = east.ca.rotation().current();
    east.ca.remove_root(old, &BTreeSet::new(), noon()).unwrap();
    assert_eq!(
        reverify_roots(&chain, noon(), &bundle(&east)).unwrap_err().code(),
        "UnknownIssuer"
    );
}

#[test]
fn a_live_tunnel_keeps_every_rule_but_expiry() {
    let east = TestCluster::new("east", noon());
    for kind in BadLeaf::ALL {
        let chain = kind.chain(&east.ca, &east.key, noon());
        let result = reverify_roots(&chain, noon(), &bundle(&east))
            .map(drop)
            .map_err(|e| e.code());
        match kind {
            BadLeaf::Expired | BadLeaf::NotYetValid | BadLeaf::IssuingExpired => {
                assert_eq!(result, Ok(()), "{kind:?}")
            }
            _ => assert_eq!(result, Err(kind.code()), "{kind:?}"),
        }
    }
}

#[test]
fn a_pinned_root_is_the_only_one() {
    let (east, west) = trusting_pair(noon());
    let pin = RootPin {
        trust_domain: east.domain().clone(),
        root: bundle(&east).roots()[0].fingerprint(),
    };
    let mut chain = leaf(&east);
    assert_eq!(
        verify_with_pin(&chain, noon(), &pin).unwrap_err().code(),
        "WrongRoot"
    );
    chain.push(bundle(&east).roots()[0].der().clone());
    assert_eq!(
        verify_with_pin(&chain, noon(), &pin).unwrap().id,
        gateway_id(east.domain())
    );
    // The right root is there, but another one signed.
    let forged = Pki::new(east.domain(), |_| {}, |_| {});
    let mut chain = forged.chain();
    chain.push(bundle(&east).roots()[0].der().clone());
    chain.push(forged.root.clone());
    assert_eq!(
        verify_with_pin(&chain, noon(), &pin).unwrap_err().code(),
        "UnknownIssuer"
    );
    let mut chain = leaf(&west);
    chain.push(bundle(&west).roots()[0].der().clone());
    assert_eq!(
        verify_with_pin(&chain, noon(), &pin).unwrap_err().code(),
        "WrongRoot"
    );
}

#[test]
fn a_claimed_id_is_read_but_not_verified() {
    let forged = Pki::new(&td("td"), |_| {}, |_| {});
    assert_eq!(claimed_id(&forged.chain()).unwrap(), gateway_id(&td("td")));
    assert_eq!(claimed_id(&[]).unwrap_err().code(), "NoCertificate");
}
