//! What a gateway is told at start, and the channels it meets other rooms by.

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, atomic::AtomicBool},
};

use strait_federation_api::{
    InstanceId,
    control::{GatewayEvent, GatewayRequest},
    snapshot::Snapshot,
};
use strait_proxy::Limits;
use strait_trust_bridge::TrustStore;
use strait_tunnel::TunnelConfig;
use tokio::sync::{mpsc, watch};

/// Which streams get a line in the access log (tracing target `access`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AccessLog {
    /// Those that failed.
    #[default]
    Failed,
    /// All.
    All,
}

/// Settings of one gateway process.
#[derive(Clone)]
pub struct GatewayConfig {
    /// UDP address that peers dial; port 0 takes a free one (see [`crate::Gateway::listen`]).
    pub listen: SocketAddr,
    /// Data workers, 1 to 256; one a core that the gateway may use.
    pub workers: u32,
    /// This instance, as in its certificate.
    pub instance: InstanceId,
    /// Key of QUIC connection ids: per instance, kept over restarts, never in two live processes.
    pub cid_key: [u8; 32],
    /// Key of QUIC stateless resets: as `cid_key`.
    pub reset_key: [u8; 32],
    /// Dial loopback and link-local addresses: the demo and tests only.
    pub allow_loopback: bool,
    /// TCP address of the SOCKS5 listener, if it is wanted; port 0 takes a free one (see the status).
    pub socks: Option<SocketAddr>,
    /// Idle limits and byte budgets.
    pub limits: Limits,
    /// Access log.
    pub access_log: AccessLog,
}

impl fmt::Debug for GatewayConfig {
    /// The keys are secrets and stay out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GatewayConfig")
            .field("listen", &self.listen)
            .field("workers", &self.workers)
            .field("instance", &self.instance)
            .field("socks", &self.socks)
            .finish_non_exhaustive()
    }
}

impl GatewayConfig {
    pub(crate) fn tunnels(&self) -> TunnelConfig {
        TunnelConfig {
            listen: self.listen,
            workers: self.workers,
            instance: self.instance.clone(),
            cid_key: self.cid_key,
            reset_key: self.reset_key,
            allow_loopback: self.allow_loopback,
            coalesce: true,
        }
    }
}

/// The channels to other rooms.
#[derive(Debug)]
pub struct GatewayLinks {
    /// Identity and trust, written by the controller.
    pub trust: Arc<TrustStore>,
    /// The store's generation, sent after each change: live connections are verified again within a second.
    pub trust_changes: watch::Receiver<u64>,
    /// What to serve. An older epoch than one seen is refused.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Control and join streams, observations. Never waited for on the data path.
    pub events: mpsc::Sender<GatewayEvent>,
    /// What the controller asks for.
    pub requests: mpsc::Receiver<GatewayRequest>,
    /// An invite is open: join connections are let in.
    pub invite_open: Arc<AtomicBool>,
}
