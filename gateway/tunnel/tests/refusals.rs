//! What the live port refuses, with its reason: every kind of bad certificate, missing ones, wrong protocols, broken hellos.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed"
)]

mod common;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use common::{Gateway, Options, PATIENCE, eventually, trusting};
use quinn::{ClientConfig, ConnectionError, Endpoint, crypto::rustls::QuicClientConfig};
use rustls::{SignatureScheme, client::ResolvesClientCert, sign::CertifiedKey};
use rustls_pki_types::UnixTime;
use strait_federation_api::{Reason, control::GatewayEvent, observation::Observation};
use strait_trust_bridge::{
    TrustDomain,
    testing::{BadLeaf, TestCluster},
    tls::{Alpn, RefusalSink, client_config},
};
use strait_tunnel::reason_of;
use tokio::time::timeout;

fn pair() -> (TestCluster, Gateway) {
    let mut clusters = trusting(&["east", "west"]).into_iter();
    let east = clusters.next().unwrap();
    (east, Gateway::start(clusters.next().unwrap(), Options::default()))
}

fn config(
    east: &TestCluster,
    peer: &TrustDomain,
    change: impl FnOnce(&mut rustls::ClientConfig),
) -> ClientConfig {
    let mut tls = client_config(&east.store, peer.clone(), Alpn::Data, RefusalSink::new(|_| ())).unwrap();
    change(&mut tls);
    ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()))
}

/// Any QUIC client, bound by no rule of ours.
fn stranger() -> Endpoint {
    Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap()
}

async fn refused(west: &mut Gateway) -> Reason {
    timeout(PATIENCE, async {
        loop {
            if let GatewayEvent::Observed(Observation::Refused { reason, .. }) =
                west.events.recv().await.unwrap()
            {
                return reason;
            }
        }
    })
    .await
    .expect("a refusal in time")
}

/// Connects as configured; gives why it ended and what the gateway said of it.
async fn turned_away(west: &mut Gateway, config: ClientConfig) -> (ConnectionError, Reason) {
    let endpoint = stranger();
    let connecting = endpoint.connect_with(config, west.hub.listen(), "x").unwrap();
    let error = match timeout(PATIENCE, connecting).await.unwrap() {
        Err(error) => error,
        Ok(quic) => {
            assert!(
                timeout(PATIENCE, quic.accept_uni()).await.unwrap().is_err(),
                "no stream may come"
            );
            quic.closed().await
        }
    };
    let reason = refused(west).await;
    assert!(
        west.hub
            .counters()
            .refused()
            .iter()
            .any(|(counted, _)| *counted == reason)
    );
    assert!(west.hub.status().1.is_empty());
    (error, reason)
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
async fn a_connection_without_a_client_certificate_is_closed_before_any_stream() {
    let (east, mut west) = pair();
    for alpn in [Alpn::Data, Alpn::Control] {
        let config = config(&east, west.cluster.domain(), |tls| {
            tls.client_auth_cert_resolver = Arc::new(NoCertificate);
            tls.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        });
        let (error, reason) = turned_away(&mut west, config).await;
        assert_eq!(reason, Reason::NoClientCertificate, "{alpn:?}");
        let ConnectionError::ApplicationClosed(close) = error else {
            panic!("{error:?}");
        };
        assert_eq!(
            reason_of(close.error_code.into_inner()),
            Some(Reason::NoClientCertificate)
        );
    }
}

#[tokio::test]
async fn another_protocol_is_refused() {
    let (east, mut west) = pair();
    let config = config(&east, west.cluster.domain(), |tls| {
        tls.alpn_protocols = vec![b"h3".to_vec()]
    });
    let (_, reason) = turned_away(&mut west, config).await;
    assert_eq!(reason, Reason::AlpnRefused);
}

/// The reason that a refused leaf must be logged and counted with.
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

#[tokio::test]
async fn every_bad_client_certificate_is_refused_with_its_reason() {
    let (east, mut west) = pair();
    for kind in BadLeaf::ALL {
        east.present_bad(kind, UnixTime::now());
        let config = config(&east, west.cluster.domain(), |_| ());
        let (_, reason) = turned_away(&mut west, config).await;
        assert_eq!(reason, expected(kind), "{kind:?}");
    }
}

#[tokio::test]
async fn every_bad_server_certificate_is_refused_with_its_reason() {
    for kind in BadLeaf::ALL {
        let mut clusters = trusting(&["east", "west"]).into_iter();
        let mut east = Gateway::start(clusters.next().unwrap(), Options::default());
        let west = Gateway::start(clusters.next().unwrap(), Options::default());
        west.cluster.present_bad(kind, UnixTime::now());
        east.set_peer(west.as_peer(vec![west.address()]));
        let error = timeout(PATIENCE, async {
            loop {
                if let GatewayEvent::Observed(Observation::Link { state, .. }) =
                    east.events.recv().await.unwrap()
                    && let Some(error) = state.last_error
                {
                    return error;
                }
            }
        })
        .await
        .unwrap();
        assert_eq!(error.0, expected(kind), "{kind:?}: {}", error.1);
        assert!(east.usable(&west.id()).is_empty());
    }
}

#[tokio::test]
async fn strangers_impostors_and_our_own_domain_are_refused() {
    let (east, mut west) = pair();
    let now = UnixTime::now();
    let stranger = TestCluster::new("north", now);
    stranger.trust(&west.cluster);
    let unknown = config(&stranger, west.cluster.domain(), |_| ());
    let (_, reason) = turned_away(&mut west, unknown).await;
    assert_eq!(reason, Reason::UnknownTrustDomain);
    // Somebody who holds our CA's key speaks for our own domain.
    let key = strait_trust_bridge::GatewayKey::generate().unwrap();
    let store = strait_trust_bridge::TrustStore::new(west.cluster.domain().clone());
    let ours = TestCluster {
        ca: west.cluster.ca.clone(),
        store,
        key,
    };
    ours.renew("gw-9", strait_trust_bridge::DEFAULT_LEAF_TTL, now);
    // Only a client with no rules would talk to a server of its own domain, so it takes another's verifier.
    let mut mixed = client_config(
        &east.store,
        west.cluster.domain().clone(),
        Alpn::Data,
        RefusalSink::new(|_| ()),
    )
    .unwrap();
    let own = client_config(
        &ours.store,
        east.domain().clone(),
        Alpn::Data,
        RefusalSink::new(|_| ()),
    )
    .unwrap();
    mixed.client_auth_cert_resolver = own.client_auth_cert_resolver;
    let config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(mixed).unwrap()));
    let (_, reason) = turned_away(&mut west, config).await;
    assert_eq!(reason, Reason::OwnTrustDomain);
}

fn hello(kind: u8, versions: (u16, u16), instance: &str, extension: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend(versions.0.to_be_bytes());
    body.extend(versions.1.to_be_bytes());
    body.extend(100u32.to_be_bytes());
    body.push(u8::try_from(instance.len()).unwrap());
    body.extend(instance.as_bytes());
    body.extend(extension);
    let mut frame = vec![kind];
    frame.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
    frame.extend(body);
    frame
}

/// Says `bytes` in the place of a hello and gives what the gateway closed with; `None` if it took them.
async fn greeted(bytes: &[u8]) -> Option<Reason> {
    let (east, mut west) = pair();
    let endpoint = stranger();
    let config = config(&east, west.cluster.domain(), |_| ());
    let quic = endpoint
        .connect_with(config, west.hub.listen(), "x")
        .unwrap()
        .await
        .unwrap();
    let mut send = quic.open_uni().await.unwrap();
    send.write_all(bytes).await.unwrap();
    let id = east.domain().cluster_id().unwrap();
    tokio::select! {
        error = quic.closed() => {
            let ConnectionError::ApplicationClosed(close) = error else {
                panic!("{error:?}");
            };
            let reason = reason_of(close.error_code.into_inner()).unwrap();
            assert_eq!(refused(&mut west).await, reason);
            Some(reason)
        }
        _ = west.tunnel(&id) => None,
    }
}

#[tokio::test]
async fn a_hello_must_be_one_and_share_a_version_and_name_the_certificates_instance() {
    assert_eq!(greeted(&hello(0x81, (1, 1), "gw-0", &[])).await, None);
    assert_eq!(greeted(&hello(0x81, (0, 7), "gw-0", &[])).await, None);
    // An extension of a later version that may be skipped, and one that may not.
    assert_eq!(
        greeted(&hello(0x81, (1, 1), "gw-0", &[0x05, 0, 1, 9])).await,
        None
    );
    assert_eq!(
        greeted(&hello(0x81, (1, 1), "gw-0", &[0x85, 0, 1, 9])).await,
        Some(Reason::Unsupported)
    );
    assert_eq!(
        greeted(&hello(0x81, (2, 9), "gw-0", &[])).await,
        Some(Reason::VersionSkew)
    );
    assert_eq!(
        greeted(&hello(0x81, (1, 1), "gw-7", &[])).await,
        Some(Reason::ProtocolViolation)
    );
    assert_eq!(
        greeted(&hello(0x81, (1, 1), "", &[])).await,
        Some(Reason::Malformed)
    );
    assert_eq!(
        greeted(&hello(0x02, (1, 1), "gw-0", &[])).await,
        Some(Reason::Malformed)
    );
    assert_eq!(greeted(&[0x81, 0xff, 0xff]).await, Some(Reason::Malformed));
}

/// A client that would send without end.
fn sender(east: &TestCluster, west: &Gateway) -> ClientConfig {
    let mut config = config(east, west.cluster.domain(), |_| ());
    let mut transport = quinn::TransportConfig::default();
    transport.send_window(1 << 30);
    config.transport_config(Arc::new(transport));
    config
}

/// Sends on all streams what nobody reads; counts what the other end granted.
fn flood(quic: &quinn::Connection) -> Arc<AtomicU64> {
    let granted = Arc::new(AtomicU64::new(0));
    for _ in 0..32 {
        let (quic, granted) = (quic.clone(), Arc::clone(&granted));
        tokio::spawn(async move {
            let (mut send, _recv) = quic.open_bi().await.unwrap();
            let junk = vec![0; 64 << 10];
            while let Ok(taken) = send.write(&junk).await {
                granted.fetch_add(taken as u64, Ordering::Relaxed);
            }
        });
    }
    granted
}

#[tokio::test]
async fn what_a_peer_may_have_unread_follows_from_its_connections() {
    let (east, west) = pair();
    let endpoint = stranger();
    let mut held = Vec::new();
    // No hello is said, so that no stream is read.
    for window in [40 << 20, 32 << 20] {
        let quic = endpoint
            .connect_with(sender(&east, &west), west.hub.listen(), "x")
            .unwrap()
            .await
            .unwrap();
        let granted = flood(&quic);
        eventually("the window is full", || {
            (granted.load(Ordering::Relaxed) >= window).then_some(())
        })
        .await;
        // Several round trips on loopback: credit that is still to come would be here.
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(granted.load(Ordering::Relaxed), window);
        held.push(quic);
    }
}

#[tokio::test]
async fn one_peer_cannot_open_connections_without_end() {
    let (east, mut west) = pair();
    let endpoint = stranger();
    let mut held = Vec::new();
    for nth in 1..=33 {
        let connecting = endpoint
            .connect_with(
                config(&east, west.cluster.domain(), |_| ()),
                west.hub.listen(),
                "x",
            )
            .unwrap();
        held.push(connecting.await.unwrap());
        if nth <= 32 {
            let listed = || (west.hub.status().1.len() == nth).then_some(());
            eventually("it is admitted", listed).await;
        }
    }
    assert_eq!(refused(&mut west).await, Reason::TooManyConnections);
    let ConnectionError::ApplicationClosed(close) = held[32].closed().await else {
        panic!("the last one stayed");
    };
    assert_eq!(
        reason_of(close.error_code.into_inner()),
        Some(Reason::TooManyConnections)
    );
}
