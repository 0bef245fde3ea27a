//! QUIC transport parameters.
//!
//! Owns every number that quinn is configured with, with unit and reason. Used when endpoints and connections are made.

use std::{sync::Arc, time::Duration};

use quinn::{EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};

use crate::cid::{CidKey, WorkerCids};

/// Flow-control window of one stream, bytes: 400 Mbit/s at 80 ms, above one connection's share of most links.
pub(crate) const STREAM_RECEIVE_WINDOW: u32 = 4 << 20;
/// Window of a connection until it is admitted, bytes, and for good of control and join connections: 100 Mbit/s at 80 ms, far above
/// what they carry. Data connections are given theirs at admission, see [`crate::budget`]: credit cannot be taken back, so what
/// the handshake promises to anybody must be little.
const RECEIVE_WINDOW: u32 = 1 << 20;
/// Bidirectional streams a peer may open before its hello: quinn allocates all of them at once.
pub(crate) const STREAMS_BEFORE_HELLO: u32 = 64;
/// Bidirectional streams a peer may open after its hello. Memory grows with it whether used or not (about 100 bytes each until
/// first use); more load opens more tunnels.
pub(crate) const STREAMS_AFTER_HELLO: u32 = 1024;
/// Unidirectional streams: one hello, the rest is room for later versions.
const UNI_STREAMS: u32 = 8;
/// Silence that ends a connection for quinn. Data tunnels are ended by liveness before; control relies on it.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);
/// Keep-alive of control and join connections: a third of a common 15 s NAT time-out for UDP.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// First packet size, bytes: overlays (VXLAN, WireGuard) carry less than 1280.
const INITIAL_MTU: u16 = 1200;
/// Upper bound of path MTU discovery, bytes: Ethernet less IPv6 and UDP headers.
const MAX_MTU: u16 = 1452;
/// Datagram buffers, bytes: pings have under 16 bytes; a full buffer drops the oldest, which is what pings want.
const DATAGRAM_BUFFER: usize = 16 << 10;
/// Least interval between stateless resets: they answer unknown packets, so they must not amplify.
const RESET_INTERVAL: Duration = Duration::from_millis(20);
/// Sent and unacknowledged bytes of a new connection; [`crate::window`] moves it.
pub(crate) const SEND_WINDOW_FLOOR: u64 = 2 << 20;

fn base() -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .stream_receive_window(VarInt::from_u32(STREAM_RECEIVE_WINDOW))
        .receive_window(VarInt::from_u32(RECEIVE_WINDOW))
        .send_window(SEND_WINDOW_FLOOR)
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_BEFORE_HELLO))
        .max_concurrent_uni_streams(VarInt::from_u32(UNI_STREAMS))
        .max_idle_timeout(IdleTimeout::try_from(IDLE_TIMEOUT).ok())
        .initial_mtu(INITIAL_MTU)
        .mtu_discovery_config(Some(mtu_discovery()))
        .datagram_receive_buffer_size(Some(DATAGRAM_BUFFER))
        .datagram_send_buffer_size(DATAGRAM_BUFFER);
    transport
}

fn mtu_discovery() -> MtuDiscoveryConfig {
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(MAX_MTU);
    discovery
}

/// For accepted connections: what they are for is not known yet. The dialler keeps control alive, liveness keeps data.
pub(crate) fn server() -> Arc<TransportConfig> {
    Arc::new(base())
}

/// For a data connection that we dial.
pub(crate) fn data_client() -> Arc<TransportConfig> {
    Arc::new(base())
}

/// For a control or join connection that we dial.
pub(crate) fn control_client() -> Arc<TransportConfig> {
    let mut transport = base();
    transport.keep_alive_interval(Some(KEEP_ALIVE));
    Arc::new(transport)
}

/// For an endpoint of `worker`.
pub(crate) fn endpoint(cids: CidKey, worker: u8, reset_key: &[u8; 32]) -> EndpointConfig {
    let reset = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, reset_key);
    let mut config = EndpointConfig::new(Arc::new(reset));
    config
        .cid_generator(move || Box::new(WorkerCids::new(cids, worker)))
        .min_reset_interval(RESET_INTERVAL);
    config
}
