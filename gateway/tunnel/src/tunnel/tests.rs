//! A panic inside one connection, made by a congestion controller, costs that connection and nothing else.

use std::{any::Any, net::UdpSocket};

use bytes::Bytes;
use quinn::{
    ClientConfig, Endpoint, ServerConfig, TransportConfig,
    congestion::{Controller, ControllerFactory},
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use rustls_pki_types::UnixTime;
use strait_federation_api::InstanceId;
use strait_trust_bridge::{
    testing::trusting_pair,
    tls::{Alpn, JoinGate, RefusalSink, client_config, server_config},
};

use super::*;
use crate::{StreamError, cid::CidKey, endpoint::PortConfig, runtime::with_health, transport};

/// Lets everything through until it is told to panic, which it does while the connection sends.
#[derive(Clone)]
struct Fragile(Arc<AtomicBool>);

impl Controller for Fragile {
    fn on_sent(&mut self, _: Instant, _: u64, _: u64) {
        assert!(!self.0.load(Ordering::Acquire), "made by a test");
    }

    fn on_congestion_event(&mut self, _: Instant, _: Instant, _: bool, _: u64) {}

    fn on_mtu_update(&mut self, _: u16) {}

    fn window(&self) -> u64 {
        1 << 20
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        1 << 20
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

impl ControllerFactory for Fragile {
    fn build(self: Arc<Self>, _: Instant, _: u16) -> Box<dyn Controller> {
        Box::new(Self::clone(&self))
    }
}

fn transport(controller: &Fragile) -> Arc<TransportConfig> {
    let mut transport = TransportConfig::default();
    transport.congestion_controller_factory(Arc::new(controller.clone()));
    Arc::new(transport)
}

#[tokio::test]
async fn a_panic_in_one_connection_leaves_its_streams_lost_and_its_neighbours_alone() {
    let (east, west) = trusting_pair(UnixTime::now());
    let sink = || RefusalSink::new(|_| ());
    let tls = server_config(&west.store, JoinGate::new(|| false), sink()).unwrap();
    let server = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).unwrap()));
    let server = Endpoint::server(server, ([127, 0, 0, 1], 0).into()).unwrap();
    let address = server.local_addr().unwrap();
    let ports = PortConfig {
        endpoint: transport::endpoint(CidKey::new(&[1; 32]), 0, &[2; 32]),
        coalesce: true,
        counters: Arc::default(),
    };
    let client = ports
        .open(UdpSocket::bind("127.0.0.1:0").unwrap(), None, None)
        .unwrap();
    let connect = async |controller: &Fragile| {
        let tls = client_config(&east.store, west.domain().clone(), Alpn::Data, sink()).unwrap();
        let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
        config.transport_config(transport(controller));
        let (connecting, health) =
            with_health(|| client.endpoint.connect_with(config, address, "x").unwrap());
        let accepting = async { server.accept().await.unwrap().await.unwrap() };
        let (near, far) = tokio::join!(connecting, accepting);
        let peer = VerifiedPeer {
            cluster: west.domain().cluster_id().unwrap(),
            trust_domain: west.domain().clone(),
            instance: InstanceId::parse("gw-0").unwrap(),
        };
        let tunnel = Tunnel::new(Guarded::new(near.unwrap(), health), 1, 0, peer, true, address);
        tunnel.hello_done(10);
        (tunnel, far)
    };
    let (calm, panics) = (Fragile(Arc::default()), Fragile(Arc::default()));
    let (broken, _far) = connect(&panics).await;
    let (neighbour, neighbour_far) = connect(&calm).await;
    let (mut send, mut recv) = broken.open().await.unwrap();
    send.write_chunk(Bytes::from_static(b"before")).await.unwrap();

    panics.0.store(true, Ordering::Release);
    let _ = send.write_chunk(Bytes::from_static(b"sets it off")).await;
    tokio::time::timeout(Duration::from_secs(20), broken.health().broken())
        .await
        .unwrap();
    assert_eq!(ports.counters.driver_panics.get(), 1);
    let mut chunks = [Bytes::new()];
    assert_eq!(recv.read_chunks(&mut chunks).await, Err(StreamError::TunnelLost));
    assert_eq!(
        send.write_chunk(Bytes::from_static(b"after")).await,
        Err(StreamError::TunnelLost)
    );
    assert_eq!(send.stopped().await, Some(Reason::TunnelLost));
    broken.close(Reason::Internal);
    assert!(matches!(broken.open().await, Err(OpenError::Lost)));
    assert_eq!(broken.remote(), address);
    drop((send, recv, broken));

    let (mut send, _recv) = neighbour.open().await.unwrap();
    send.write_chunk(Bytes::from_static(b"alive")).await.unwrap();
    let (_, mut far) = neighbour_far.accept_bi().await.unwrap();
    let mut read = [0; 5];
    far.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"alive");
}
