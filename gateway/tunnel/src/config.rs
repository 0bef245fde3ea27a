//! What the tunnels are told at start.
//!
//! Owns the configuration value and its checks. Filled in by strait-gateway from flags and records.

use std::{fmt, net::SocketAddr, sync::Arc, sync::atomic::AtomicBool};

use strait_federation_api::{InstanceId, control::GatewayEvent, snapshot::Snapshot};
use strait_trust_bridge::TrustStore;
use tokio::sync::{mpsc, watch};

use crate::error::TunnelError;

/// The worker index in a connection id has one byte, and no machine needs more workers.
const MAX_WORKERS: u32 = 256;

/// Settings of one process.
#[derive(Clone)]
pub struct TunnelConfig {
    /// UDP address to listen on; port 0 takes a free one (see [`crate::TunnelHub::listen`]).
    pub listen: SocketAddr,
    /// Data workers, 1 to 256.
    pub workers: u32,
    /// This instance, as in its certificate.
    pub instance: InstanceId,
    /// Key of connection ids: per instance, kept over restarts, never in two live processes.
    pub cid_key: [u8; 32],
    /// Key of stateless resets (RFC 9000 section 10.3): as `cid_key`. With it a restarted gateway is noticed in one round trip.
    pub reset_key: [u8; 32],
    /// Dial loopback and link-local addresses: the demo and tests only.
    pub allow_loopback: bool,
    /// Join sends of one burst into bigger segmentation-offload batches.
    pub coalesce: bool,
}

impl fmt::Debug for TunnelConfig {
    /// The keys are secrets and stay out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TunnelConfig")
            .field("listen", &self.listen)
            .field("workers", &self.workers)
            .field("instance", &self.instance)
            .finish_non_exhaustive()
    }
}

impl TunnelConfig {
    pub(crate) fn check(&self) -> Result<(), TunnelError> {
        if self.workers == 0 || self.workers > MAX_WORKERS {
            return Err(TunnelError::Config("the number of workers must be 1 to 256"));
        }
        if self.cid_key == [0; 32] || self.reset_key == [0; 32] {
            return Err(TunnelError::Config("connection-id and reset keys must be random"));
        }
        Ok(())
    }
}

/// What the tunnels read from and write to other rooms.
#[derive(Debug, Clone)]
pub struct Links {
    /// Identity and trust.
    pub trust: Arc<TrustStore>,
    /// Changes when `trust` did: live connections are verified again.
    pub trust_changes: watch::Receiver<u64>,
    /// Whom to dial.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Control and join streams, observations.
    pub events: mpsc::Sender<GatewayEvent>,
    /// An invite is open: join connections are let in.
    pub invite_open: Arc<AtomicBool>,
}
