//! What the live port of a running gateway refuses: every bad certificate, missing ones, wrong protocols, bad servers.
//!
//! Each refusal comes before any stream, is logged with its reason, and is counted for exactly that reason.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed"
)]

mod common;

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use common::{Node, PATIENCE, until};
use rustls::{SignatureScheme, client::ResolvesClientCert, sign::CertifiedKey};
use rustls_pki_types::UnixTime;
use strait_e2e::hostile::{Hostile, Line, catalog_end, hello, reason_of};
use strait_federation_api::{
    Reason,
    exchange::wire::exchange_v1::{self as wire, envelope::Body},
};
use strait_trust_bridge::{InstanceId, SpiffeId, TrustDomain, envelope, testing::BadLeaf, tls::Alpn};
use tokio::time::{Instant, timeout};

const REFUSED: &str = "strait_tunnel_refused_total";
const NO_RULES: &str = "  exports: []\n  imports: []\n";

/// A running cluster that trusts `peers` statically, and its trust domain, which they trust.
async fn victim(peers: &[&Hostile]) -> (Node, TrustDomain) {
    let mut node = Node::new("east");
    for peer in peers {
        node.trust_statically(peer, peer.domain().cluster_id().unwrap().as_str(), "", NO_RULES);
    }
    node.start().await;
    let (domain, bundle) = node.bundle().await;
    let mut parsed = None;
    for peer in peers {
        parsed = Some(peer.learn(&domain, &bundle));
    }
    (node, parsed.unwrap())
}

/// The reason that a bad leaf must be refused, logged and counted with.
fn expected(kind: BadLeaf) -> Reason {
    match kind {
        BadLeaf::TwoUriSans => Reason::MultipleUriSans,
        BadLeaf::NoUriSan => Reason::NoUriSan,
        BadLeaf::UpperCaseDomain | BadLeaf::IssuingIdHasPath => Reason::BadSpiffeId,
        BadLeaf::RootPath => Reason::RootPath,
        BadLeaf::NotGateway => Reason::NotAGateway,
        BadLeaf::IsCa => Reason::LeafIsCa,
        BadLeaf::NoKeyUsage
        | BadLeaf::KeyUsageNotCritical
        | BadLeaf::NoDigitalSignature
        | BadLeaf::KeyCertSign
        | BadLeaf::CrlSign
        | BadLeaf::IssuingNotCa
        | BadLeaf::IssuingNoKeyCertSign => Reason::KeyUsageWrong,
        BadLeaf::ServerAuthOnly | BadLeaf::ClientAuthOnly => Reason::ExtendedKeyUsageWrong,
        BadLeaf::Expired => Reason::LeafExpired,
        BadLeaf::NotYetValid => Reason::LeafNotYetValid,
        BadLeaf::SelfSigned => Reason::UntrustedRoot,
        BadLeaf::IssuingExpired => Reason::ChainMalformed,
        BadLeaf::PathTooLong => Reason::PathTooLong,
    }
}

/// Dials, and expects to be turned away, logged and counted with `reason`; gives what the close said.
async fn refused(
    node: &Node,
    peer: &Hostile,
    domain: &TrustDomain,
    alpn: Alpn,
    reason: Reason,
    change: impl FnOnce(&mut rustls::ClientConfig),
) -> Option<Reason> {
    let before = node.figures().await;
    let logged = node
        .lines_with(&["refused", &format!("reason=\"{reason}\"")])
        .len();
    let error = match peer.dial(node.gateway(), domain, alpn, change).await {
        Err(error) => error,
        Ok(line) => line.turned_away().await,
    };
    node.exactly(&before, REFUSED, &format!("reason=\"{reason}\""))
        .await;
    until("logged", async || {
        node.lines_with(&["refused", &format!("reason=\"{reason}\"")])
            .len()
            > logged
    })
    .await;
    reason_of(&error)
}

#[tokio::test]
async fn every_bad_client_certificate_is_refused_logged_and_counted() {
    let mallory = Hostile::new("mallory");
    let (node, domain) = victim(&[&mallory]).await;
    for alpn in [Alpn::Data, Alpn::Control] {
        for kind in BadLeaf::ALL {
            mallory.cluster.present_bad(kind, UnixTime::now());
            refused(&node, &mallory, &domain, alpn, expected(kind), |_| ()).await;
        }
    }
    // The same peer with a good leaf is let in, or all of the above would prove nothing.
    mallory
        .cluster
        .renew("gw-0", Duration::from_secs(3600), UnixTime::now());
    mallory.data(node.gateway(), &domain).await;
}

/// Presents this, whatever is asked for.
#[derive(Debug)]
struct Fixed(Arc<CertifiedKey>);

impl ResolvesClientCert for Fixed {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
    fn has_certs(&self) -> bool {
        true
    }
}

#[derive(Debug)]
struct NoCertificate;

impl ResolvesClientCert for NoCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }
    fn has_certs(&self) -> bool {
        false
    }
}

#[tokio::test]
async fn without_a_certificate_or_our_protocol_nobody_gets_a_stream() {
    let mallory = Hostile::new("mallory");
    let (node, domain) = victim(&[&mallory]).await;
    for alpn in [Alpn::Data, Alpn::Control] {
        let bare = |tls: &mut rustls::ClientConfig| tls.client_auth_cert_resolver = Arc::new(NoCertificate);
        let said = refused(&node, &mallory, &domain, alpn, Reason::NoClientCertificate, bare).await;
        assert_eq!(said, Some(Reason::NoClientCertificate), "{alpn:?}");
    }
    for name in [&b"h3"[..], b"strait/2", b"strait-join/2"] {
        let other = |tls: &mut rustls::ClientConfig| tls.alpn_protocols = vec![name.to_vec()];
        refused(&node, &mallory, &domain, Alpn::Data, Reason::AlpnRefused, other).await;
    }
    // No protocol at all.
    let none = |tls: &mut rustls::ClientConfig| tls.alpn_protocols.clear();
    refused(&node, &mallory, &domain, Alpn::Data, Reason::AlpnRefused, none).await;
    // No invite is open: joining is not offered, with a certificate or without.
    for bare in [false, true] {
        let join = |tls: &mut rustls::ClientConfig| {
            tls.alpn_protocols = vec![Alpn::Join.as_bytes().to_vec()];
            if bare {
                tls.client_auth_cert_resolver = Arc::new(NoCertificate);
            }
        };
        refused(&node, &mallory, &domain, Alpn::Data, Reason::AlpnRefused, join).await;
    }
}

#[tokio::test]
async fn a_chain_counts_only_with_the_bundle_of_the_domain_its_leaf_names() {
    let (mallory, oscar) = (Hostile::new("mallory"), Hostile::new("oscar"));
    let (node, domain) = victim(&[&mallory, &oscar]).await;
    let gateway = |domain: &TrustDomain| SpiffeId::gateway(domain, &InstanceId::parse("gw-0").unwrap());
    let now = UnixTime::now();
    // A peer speaks for another peer: both roots are trusted here, but never for each other.
    mallory.cluster.present_as(&gateway(oscar.domain()), now);
    refused(
        &node,
        &mallory,
        &domain,
        Alpn::Data,
        Reason::UntrustedRoot,
        |_| (),
    )
    .await;
    // A peer speaks for us.
    mallory.cluster.present_as(&gateway(&domain), now);
    refused(
        &node,
        &mallory,
        &domain,
        Alpn::Data,
        Reason::OwnTrustDomain,
        |_| (),
    )
    .await;
    // Somebody who is no peer at all.
    let stranger = Hostile::new("stranger");
    stranger.learn(domain.as_str(), &node.bundle().await.1);
    refused(
        &node,
        &stranger,
        &domain,
        Alpn::Data,
        Reason::UnknownTrustDomain,
        |_| (),
    )
    .await;
    refused(
        &node,
        &stranger,
        &domain,
        Alpn::Control,
        Reason::UnknownTrustDomain,
        |_| (),
    )
    .await;
}

/// Sends the present bundle of `peer` as an update, and waits until it is in force; gives when that was said.
async fn announce(peer: &Hostile, conversation: &mut strait_e2e::hostile::Exchange) -> u32 {
    let sealed = envelope::seal(&peer.cluster.ca).unwrap();
    assert!(
        conversation
            .say(Body::Bundle(wire::Bundle {
                envelope: sealed.into()
            }))
            .await
    );
    let ack = conversation.hear(|body| match body {
        Body::BundleAck(ack) => Some(ack),
        _ => None,
    });
    ack.await.map_or(0, |ack| ack.refused)
}

/// A conversation that is through its hello and an empty catalog.
async fn conversing(peer: &Hostile, node: &Node, domain: &TrustDomain) -> strait_e2e::hostile::Exchange {
    let mut conversation = peer.control(node.gateway(), domain).await;
    let name = peer.domain().cluster_id().unwrap();
    conversation.say(hello(name.as_str(), 1)).await;
    conversation
        .say(Body::BeginSync(wire::BeginSync { full: true }))
        .await;
    conversation.say(catalog_end(1)).await;
    conversation
        .hear(|body| matches!(body, Body::Ack(_)).then_some(()))
        .await
        .expect("an empty catalog is taken");
    conversation
}

#[tokio::test]
async fn a_removed_root_ends_its_tunnels_within_a_second_and_is_refused_from_then_on() {
    let mut mallory = Hostile::new("mallory");
    let (node, domain) = victim(&[&mallory]).await;
    let mut conversation = conversing(&mallory, &node, &domain).await;
    let now = UnixTime::now();
    let old = mallory.cluster.ca.rotation().current();
    let old_root = mallory.cluster.ca.bundle().unwrap().roots()[0].der().clone();
    mallory.cluster.ca.begin_rotation(now).unwrap();
    assert_eq!(
        announce(&mallory, &mut conversation).await,
        0,
        "the next root is published"
    );
    let data = mallory.data(node.gateway(), &domain).await;
    let peers: BTreeSet<_> = [domain.clone()].into();
    mallory.cluster.ca.remove_root(old, &peers, now).unwrap();
    let removed = Instant::now();
    announce(&mallory, &mut conversation).await;
    let close = timeout(PATIENCE, data.line.quic.closed())
        .await
        .expect("the tunnel is cut");
    let took = removed.elapsed();
    assert_eq!(reason_of(&close), Some(Reason::UntrustedRoot), "{close}");
    assert!(took < Duration::from_secs(2), "it took {took:?}");
    // The leaf of the old root is what `mallory` still presents; with the root beside it, the removed key itself is named.
    for alpn in [Alpn::Data, Alpn::Control] {
        refused(&node, &mallory, &domain, alpn, Reason::UntrustedRoot, |_| ()).await;
        let with_root = |tls: &mut rustls::ClientConfig| {
            let presented = tls
                .client_auth_cert_resolver
                .resolve(&[], &[SignatureScheme::ECDSA_NISTP256_SHA256])
                .unwrap();
            let mut chain = presented.cert.clone();
            chain.push(old_root.clone());
            let presented = CertifiedKey::new(chain, Arc::clone(&presented.key));
            tls.client_auth_cert_resolver = Arc::new(Fixed(Arc::new(presented)));
        };
        refused(&node, &mallory, &domain, alpn, Reason::KeyRemoved, with_root).await;
    }
    mallory.cluster.renew("gw-0", Duration::from_secs(3600), now);
    mallory.data(node.gateway(), &domain).await;
}

#[tokio::test]
async fn a_federation_that_is_removed_or_suspended_ends_its_tunnels_within_a_second() {
    let mallory = Hostile::new("mallory");
    let (node, domain) = victim(&[&mallory]).await;
    let cut = async |what: &str, line: &Line, expected: Reason| {
        let done = Instant::now();
        let close = timeout(PATIENCE, line.quic.closed()).await.expect("it is cut");
        assert_eq!(reason_of(&close), Some(expected), "{what}: {close}");
        let took = done.elapsed();
        assert!(took < Duration::from_secs(3), "{what} took {took:?}");
    };
    let data = mallory.data(node.gateway(), &domain).await;
    node.edit("federation-mallory.yaml", "spec:\n", "spec:\n  mode: Suspended\n");
    cut("suspended", &data.line, Reason::PeerSuspended).await;
    refused(
        &node,
        &mallory,
        &domain,
        Alpn::Data,
        Reason::PeerSuspended,
        |_| (),
    )
    .await;
    node.edit("federation-mallory.yaml", "  mode: Suspended\n", "");
    until("let in again", async || {
        mallory
            .dial(node.gateway(), &domain, Alpn::Data, |_| ())
            .await
            .is_ok_and(|line| line.quic.close_reason().is_none())
            && node.condition("mallory", "Connected").await != "PeerSuspended"
    })
    .await;
    let data = mallory.data(node.gateway(), &domain).await;
    node.remove("federation-mallory.yaml");
    cut("removed", &data.line, Reason::FederationRemoved).await;
    refused(
        &node,
        &mallory,
        &domain,
        Alpn::Data,
        Reason::UnknownTrustDomain,
        |_| (),
    )
    .await;
}

/// A cluster that dials `server` as its peer `mallory`, whose bundle is `mallory`'s.
async fn dialling(mallory: &Hostile, server: SocketAddr) -> Node {
    let mut node = Node::new("east");
    node.trust_statically(mallory, "mallory", &format!("\"{server}\""), NO_RULES);
    node.start().await;
    mallory.learn(&node.bundle().await.0, &node.bundle().await.1);
    node
}

/// The dialled server must have been refused with this reason: counted, logged, told as the Federation's state, without a stream.
async fn server_refused(node: &Node, server: &strait_e2e::hostile::BadServer, reason: Reason) {
    node.until_condition("mallory", "Connected", reason.name()).await;
    let series = format!("{REFUSED}{{reason=\"{reason}\"}}");
    let rises = node.figures().await.rises(&common::Figures::default(), REFUSED);
    assert!(
        rises.contains_key(&series) && rises.len() == 1,
        "{reason}: {rises:?}"
    );
    assert!(
        !node
            .lines_with(&["refused", &format!("reason=\"{reason}\"")])
            .is_empty(),
        "{reason} is not logged\n{}",
        node.tail()
    );
    assert!(server.dials() > 0);
    assert_eq!(server.streams(), 0, "{reason}: something was said to it");
}

#[tokio::test]
async fn a_bad_server_is_refused_by_the_gateway_that_dials_it() {
    let kinds = [
        BadLeaf::Expired,
        BadLeaf::TwoUriSans,
        BadLeaf::IsCa,
        BadLeaf::NotGateway,
        BadLeaf::PathTooLong,
    ];
    for kind in kinds {
        let mallory = Hostile::new("mallory");
        mallory.cluster.present_bad(kind, UnixTime::now());
        let server = mallory.serve(SocketAddr::from(([127, 0, 0, 1], 0)));
        let node = dialling(&mallory, server.address).await;
        server_refused(&node, &server, expected(kind)).await;
    }
}

#[tokio::test]
async fn a_server_of_another_domain_is_refused_by_the_gateway_that_dials_it() {
    let (mallory, oscar) = (Hostile::new("mallory"), Hostile::new("oscar"));
    let server = oscar.serve(SocketAddr::from(([127, 0, 0, 1], 0)));
    let node = dialling(&mallory, server.address).await;
    server_refused(&node, &server, Reason::WrongTrustDomain).await;
    // It may be a peer of ours, and still not this one.
    drop(node);
    let mut node = Node::new("east");
    node.trust_statically(&mallory, "mallory", &format!("\"{}\"", server.address), NO_RULES);
    node.trust_statically(&oscar, "oscar", "", NO_RULES);
    node.start().await;
    server_refused(&node, &server, Reason::WrongTrustDomain).await;
}

#[tokio::test]
async fn a_server_under_a_removed_root_is_refused_by_the_gateway_that_dials_it() {
    let mut mallory = Hostile::new("mallory");
    let server = mallory.serve(SocketAddr::from(([127, 0, 0, 1], 0)));
    let old = mallory.cluster.ca.rotation().current();
    // The server still presents its leaf of the old root; the bundle knows the new one only.
    mallory
        .cluster
        .ca
        .remove_root(old, &BTreeSet::new(), UnixTime::now())
        .unwrap();
    let node = dialling(&mallory, server.address).await;
    server_refused(&node, &server, Reason::UntrustedRoot).await;
}
