//! Real rustls handshakes with the configurations of this room.
#![allow(missing_docs, clippy::unwrap_used, clippy::unwrap_in_result)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{Kept, clock, handshake};
use rustls::NamedGroup;
use rustls_pki_types::CertificateDer;
use strait_trust_bridge::testing::{BadLeaf, TestCluster, trusting_pair};
use strait_trust_bridge::tls::{
    Admission, Alpn, JoinGate, RefusedAt, admit, check_provider, client_config, join_client_config, provider,
    server_config,
};
use strait_trust_bridge::{Bundle, PeerTrust, RootFingerprint, RootPin, TrustStore};

fn closed() -> JoinGate {
    JoinGate::new(|| false)
}

fn open() -> JoinGate {
    JoinGate::new(|| true)
}

fn pin(cluster: &TestCluster) -> RootPin {
    cluster.ca.pin().unwrap()
}

/// Dials from `from` to `to`, pinned to `to`'s domain; the places and codes of the refusals.
fn dial(from: &TestCluster, to: &TestCluster, alpn: Alpn) -> Vec<(RefusedAt, &'static str)> {
    let kept = Kept::default();
    let client = client_config(&from.store, to.domain().clone(), alpn, kept.sink()).unwrap();
    let server = server_config(&to.store, closed(), kept.sink()).unwrap();
    let result = handshake(client, server);
    let refused = kept.take();
    assert_eq!(result.is_ok(), refused.is_empty(), "{refused:?}");
    refused
}

#[test]
fn peers_meet_on_data_and_control_and_are_admitted_with_their_id() {
    let (east, west) = trusting_pair(clock());
    for alpn in [Alpn::Data, Alpn::Control] {
        let kept = Kept::default();
        let client = client_config(&east.store, west.domain().clone(), alpn, kept.sink()).unwrap();
        let server = server_config(&west.store, closed(), kept.sink()).unwrap();
        let (client, server) = handshake(client, server).unwrap();
        assert_eq!(client.alpn_protocol(), Some(alpn.as_bytes()));
        assert_eq!(client.peer_certificates().unwrap().len(), 2);
        let admission = admit(
            server.alpn_protocol(),
            server.peer_certificates(),
            &west.store,
            clock(),
            &kept.sink(),
        )
        .unwrap();
        let (Admission::Data(peer) | Admission::Control(peer)) = admission else {
            panic!("not a join")
        };
        assert_eq!(peer.cluster.as_str(), "east");
        assert_eq!(peer.chain.id.gateway_instance().unwrap().as_str(), "gw-0");
        assert_eq!(kept.take(), []);
    }
}

#[test]
fn the_key_exchange_is_post_quantum_and_the_cipher_aes_128() {
    let (east, west) = trusting_pair(clock());
    let kept = Kept::default();
    let client = client_config(&east.store, west.domain().clone(), Alpn::Data, kept.sink()).unwrap();
    let server = server_config(&west.store, closed(), kept.sink()).unwrap();
    let (client, _) = handshake(client, server).unwrap();
    assert_eq!(
        client.negotiated_key_exchange_group().unwrap().name(),
        NamedGroup::X25519MLKEM768
    );
    assert_eq!(
        client.negotiated_cipher_suite().unwrap().suite(),
        rustls::CipherSuite::TLS13_AES_128_GCM_SHA256
    );
    assert_eq!(client.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
}

#[test]
fn a_provider_in_another_order_is_refused() {
    let mut wrong = (*provider().unwrap()).clone();
    wrong.kx_groups.rotate_left(1);
    assert_eq!(check_provider(&wrong).unwrap_err().code(), "Provider");
    let mut wrong = (*provider().unwrap()).clone();
    wrong.cipher_suites.rotate_left(1);
    assert_eq!(check_provider(&wrong).unwrap_err().code(), "Provider");
    let mut wrong = (*provider().unwrap()).clone();
    wrong.cipher_suites.extend(
        rustls::crypto::aws_lc_rs::ALL_CIPHER_SUITES
            .iter()
            .filter(|suite| suite.tls13().is_none())
            .take(1),
    );
    // Without the `tls12` feature there is no such suite to add, and nothing to refuse.
    assert_eq!(check_provider(&wrong).is_err(), wrong.cipher_suites.len() > 3);
}

#[test]
fn nothing_is_kept_for_resumption() {
    let (_, west) = trusting_pair(clock());
    let config = server_config(&west.store, closed(), Kept::default().sink()).unwrap();
    assert!(!config.session_storage.can_cache());
    assert_eq!((config.send_tls13_tickets, config.max_early_data_size), (0, 0));
    assert!(!config.ticketer.enabled());
}

#[test]
fn a_second_connection_does_a_full_handshake() {
    let (east, west) = trusting_pair(clock());
    let kept = Kept::default();
    let client = client_config(&east.store, west.domain().clone(), Alpn::Data, kept.sink()).unwrap();
    let server = server_config(&west.store, closed(), kept.sink()).unwrap();
    for _ in 0..2 {
        let (client, _) = handshake(client.clone(), server.clone()).unwrap();
        assert_ne!(client.handshake_kind(), Some(rustls::HandshakeKind::Resumed));
    }
}

#[test]
fn a_server_of_another_peer_is_refused_by_the_pin() {
    let (east, west) = trusting_pair(clock());
    let north = TestCluster::new("north", clock());
    east.trust(&north);
    north.trust(&east);
    let kept = Kept::default();
    let client = client_config(&east.store, west.domain().clone(), Alpn::Data, kept.sink()).unwrap();
    let server = server_config(&north.store, closed(), kept.sink()).unwrap();
    handshake(client, server).unwrap_err();
    assert_eq!(kept.take(), [(RefusedAt::ServerCertificate, "WrongTrustDomain")]);
}

#[test]
fn our_own_domain_is_refused_both_ways() {
    let (east, _) = trusting_pair(clock());
    assert_eq!(
        dial(&east, &east, Alpn::Data),
        [(RefusedAt::ServerCertificate, "OwnTrustDomain")]
    );
    // As the server: a dialler that trusts east but presents east's own identity.
    let spy = TestCluster::new("spy", clock());
    let kept = Kept::default();
    let borrowed = TrustStore::new(spy.domain().clone());
    let peer = PeerTrust::new(east.ca.bundle().unwrap()).unwrap();
    borrowed.update(|view| view.insert(peer.clone())).unwrap();
    let mut client = client_config(&borrowed, east.domain().clone(), Alpn::Data, kept.sink()).unwrap();
    client.client_auth_cert_resolver = resolver_of(&east);
    handshake(client, server_config(&east.store, closed(), kept.sink()).unwrap()).unwrap_err();
    assert_eq!(kept.take(), [(RefusedAt::ClientCertificate, "OwnTrustDomain")]);
}

/// What a cluster's own client configuration presents.
fn resolver_of(cluster: &TestCluster) -> Arc<dyn rustls::client::ResolvesClientCert> {
    client_config(
        &cluster.store,
        cluster.domain().clone(),
        Alpn::Data,
        Kept::default().sink(),
    )
    .unwrap()
    .client_auth_cert_resolver
}

#[test]
fn a_stranger_is_refused_both_ways() {
    let (east, west) = trusting_pair(clock());
    let stranger = TestCluster::new("stranger", clock());
    stranger.trust(&west);
    assert_eq!(
        dial(&stranger, &west, Alpn::Data),
        [(RefusedAt::ClientCertificate, "UnknownTrustDomain")]
    );
    assert_eq!(
        dial(&east, &stranger, Alpn::Data),
        [(RefusedAt::ServerCertificate, "UnknownTrustDomain")]
    );
}

#[test]
fn every_bad_leaf_is_refused_as_client_and_as_server() {
    let now = clock();
    for kind in BadLeaf::ALL {
        let (east, west) = trusting_pair(now);
        east.present_bad(kind, now);
        let refused = dial(&east, &west, Alpn::Data);
        assert_eq!(
            refused,
            [(RefusedAt::ClientCertificate, kind.code())],
            "{kind:?} as client"
        );
        let refused = dial(&west, &east, Alpn::Data);
        assert_eq!(
            refused,
            [(RefusedAt::ServerCertificate, kind.code())],
            "{kind:?} as server"
        );
    }
}

#[test]
fn without_a_certificate_tls_ends_but_nothing_is_admitted() {
    let (east, west) = trusting_pair(clock());
    for alpn in [Alpn::Data, Alpn::Control] {
        let kept = Kept::default();
        let mut client = client_config(&east.store, west.domain().clone(), alpn, kept.sink()).unwrap();
        client.client_auth_cert_resolver = Arc::new(Nothing);
        let (_, server) =
            handshake(client, server_config(&west.store, closed(), kept.sink()).unwrap()).unwrap();
        assert_eq!(server.peer_certificates(), None);
        let refused = admit(
            server.alpn_protocol(),
            server.peer_certificates(),
            &west.store,
            clock(),
            &kept.sink(),
        );
        assert_eq!(refused.unwrap_err().code(), "NoCertificate");
        assert_eq!(kept.take(), [(RefusedAt::Admission, "NoCertificate")]);
    }
}

#[derive(Debug)]
struct Nothing;

impl rustls::client::ResolvesClientCert for Nothing {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

#[test]
fn a_stolen_chain_without_its_key_is_refused() {
    let (east, west) = trusting_pair(clock());
    let thief = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(
        &rustls_pki_types::pem::PemObject::from_pem_slice(
            strait_trust_bridge::GatewayKey::generate()
                .unwrap()
                .to_pem()
                .expose()
                .as_bytes(),
        )
        .unwrap(),
    )
    .unwrap();
    let chain: Vec<CertificateDer<'static>> = east
        .issue("gw-0", strait_trust_bridge::DEFAULT_LEAF_TTL, clock())
        .chain;
    let kept = Kept::default();
    let mut client = client_config(&east.store, west.domain().clone(), Alpn::Data, kept.sink()).unwrap();
    let stolen = rustls::sign::CertifiedKey::new(chain, thief);
    client.client_auth_cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(stolen));
    handshake(client, server_config(&west.store, closed(), kept.sink()).unwrap()).unwrap_err();
}

#[test]
fn unknown_protocols_are_not_admitted() {
    let (_, west) = trusting_pair(clock());
    let kept = Kept::default();
    for alpn in [None, Some(&b"h3"[..]), Some(b"strait/2")] {
        let refused = admit(alpn, None, &west.store, clock(), &kept.sink());
        assert_eq!(refused.unwrap_err().code(), "UnknownProtocol");
    }
    assert_eq!(kept.take(), [(RefusedAt::Admission, "UnknownProtocol"); 3]);
}

#[test]
fn a_removed_federation_or_root_ends_handshakes_and_live_tunnels_at_once() {
    let now = clock();
    let (east, mut west) = trusting_pair(now);
    let chain = west
        .issue("gw-0", strait_trust_bridge::DEFAULT_LEAF_TTL, now)
        .chain;
    let generation = east.store.generation();
    east.store.view().reverify(&chain, now).unwrap();
    // Emergency: west removes its root; east learns the new bundle.
    let old = west.ca.rotation().current();
    west.ca
        .remove_root(old, &[east.domain().clone()].into(), now)
        .unwrap();
    east.trust(&west);
    assert!(east.store.generation() > generation);
    assert_eq!(
        east.store.view().reverify(&chain, now).unwrap_err().code(),
        "UnknownIssuer"
    );
    assert_eq!(
        dial(&east, &west, Alpn::Data),
        [(RefusedAt::ServerCertificate, "UnknownIssuer")]
    );
    west.renew("gw-0", strait_trust_bridge::DEFAULT_LEAF_TTL, now);
    assert_eq!(dial(&east, &west, Alpn::Data), []);
    // No roots: everything is revoked.
    let none = Bundle::new(west.domain().clone(), 9, None, vec![], Default::default()).unwrap();
    east.store
        .update(|view| view.insert(PeerTrust::new(none.clone()).unwrap()))
        .unwrap();
    assert_eq!(
        dial(&east, &west, Alpn::Data),
        [(RefusedAt::ServerCertificate, "BundleEmpty")]
    );
    // No Federation.
    east.store
        .update(|view| {
            view.remove(west.domain())
                .map(|_| ())
                .ok_or_else(|| panic!("was there"))
        })
        .unwrap();
    assert_eq!(
        east.store.view().reverify(&chain, now).unwrap_err().code(),
        "UnknownTrustDomain"
    );
    assert_eq!(
        dial(&east, &west, Alpn::Data),
        [(RefusedAt::ServerCertificate, "UnknownTrustDomain")]
    );
}

#[test]
fn join_works_by_the_pinned_root_while_an_invite_is_open() {
    let east = TestCluster::new("east", clock());
    let invited = Arc::new(AtomicBool::new(false));
    let gate = {
        let invited = Arc::clone(&invited);
        JoinGate::new(move || invited.load(Ordering::Relaxed))
    };
    let kept = Kept::default();
    let client = join_client_config(pin(&east), kept.sink()).unwrap();
    let server = server_config(&east.store, gate, kept.sink()).unwrap();
    handshake(client.clone(), server.clone()).unwrap_err();
    assert_eq!(kept.take(), [(RefusedAt::JoinHello, "JoinNotOffered")]);
    invited.store(true, Ordering::Relaxed);
    let (client, server) = handshake(client, server).unwrap();
    assert_eq!(
        client.peer_certificates().unwrap().len(),
        3,
        "leaf, issuing and root"
    );
    let admission = admit(
        server.alpn_protocol(),
        server.peer_certificates(),
        &east.store,
        clock(),
        &kept.sink(),
    );
    assert_eq!(admission.unwrap(), Admission::Join);
    // Both sides derive the same exporter from this session, which the proofs are bound to.
    let of_client = client
        .export_keying_material([0; 32], b"EXPORTER-x", None)
        .unwrap();
    assert_eq!(
        of_client,
        server
            .export_keying_material([0; 32], b"EXPORTER-x", None)
            .unwrap()
    );
}

#[test]
fn join_beside_another_protocol_is_refused() {
    let east = TestCluster::new("east", clock());
    let kept = Kept::default();
    let mut client = join_client_config(pin(&east), kept.sink()).unwrap();
    client.alpn_protocols.push(Alpn::Data.as_bytes().to_vec());
    handshake(client, server_config(&east.store, open(), kept.sink()).unwrap()).unwrap_err();
    assert_eq!(kept.take(), [(RefusedAt::JoinHello, "JoinNotOffered")]);
}

#[test]
fn join_refuses_another_root_and_another_domain() {
    let (east, spy) = (
        TestCluster::new("east", clock()),
        TestCluster::new("spy", clock()),
    );
    let other_root = RootPin {
        root: RootFingerprint::of_der(b"x"),
        ..pin(&east)
    };
    let other_domain = RootPin {
        trust_domain: spy.domain().clone(),
        ..pin(&east)
    };
    for (pinned, server, code) in [
        (other_root, &east, "WrongRoot"),
        (pin(&east), &spy, "WrongRoot"),
        (other_domain, &east, "WrongTrustDomain"),
    ] {
        let kept = Kept::default();
        let client = join_client_config(pinned, kept.sink()).unwrap();
        handshake(client, server_config(&server.store, open(), kept.sink()).unwrap()).unwrap_err();
        assert_eq!(kept.take(), [(RefusedAt::ServerCertificate, code)]);
    }
}

#[test]
fn join_applies_every_rule_for_leaves() {
    let now = clock();
    for kind in BadLeaf::ALL {
        let east = TestCluster::new("east", now);
        east.present_bad(kind, now);
        let kept = Kept::default();
        let client = join_client_config(pin(&east), kept.sink()).unwrap();
        handshake(client, server_config(&east.store, open(), kept.sink()).unwrap()).unwrap_err();
        assert_eq!(
            kept.take(),
            [(RefusedAt::ServerCertificate, kind.code())],
            "{kind:?}"
        );
    }
}

#[test]
fn join_still_works_with_a_token_of_the_old_root_during_a_rotation() {
    let now = clock();
    let mut east = TestCluster::new("east", now);
    let pinned = pin(&east);
    east.ca.begin_rotation(now).unwrap();
    east.renew("gw-0", strait_trust_bridge::DEFAULT_LEAF_TTL, now);
    let join = |east: &TestCluster, pinned: &RootPin| {
        let kept = Kept::default();
        let client = join_client_config(pinned.clone(), kept.sink()).unwrap();
        handshake(client, server_config(&east.store, open(), kept.sink()).unwrap()).is_ok()
    };
    assert!(join(&east, &pinned));
    east.ca.force_step(now).unwrap();
    east.renew("gw-0", strait_trust_bridge::DEFAULT_LEAF_TTL, now);
    assert!(join(&east, &pinned), "through the cross-certificate");
    east.ca.force_step(now).unwrap();
    east.renew("gw-0", strait_trust_bridge::DEFAULT_LEAF_TTL, now);
    assert!(!join(&east, &pinned));
}

#[test]
fn without_an_identity_nothing_is_presented() {
    let (east, west) = trusting_pair(clock());
    let bare = TrustStore::new(west.domain().clone());
    let kept = Kept::default();
    let client = client_config(&east.store, west.domain().clone(), Alpn::Data, kept.sink()).unwrap();
    handshake(client, server_config(&bare, open(), kept.sink()).unwrap()).unwrap_err();
}

#[test]
fn client_config_is_not_for_joining() {
    let (east, west) = trusting_pair(clock());
    let wrong = client_config(
        &east.store,
        west.domain().clone(),
        Alpn::Join,
        Kept::default().sink(),
    );
    assert_eq!(wrong.unwrap_err().code(), "UnknownProtocol");
}
