//! Why a gateway could not start.

use std::io;

use strait_federation_api::{Reason, observation::ListenError};
use strait_tunnel::TunnelError;

/// Starting a gateway failed. Nothing of it keeps running.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GatewayError {
    /// The tunnels could not be bound or set up.
    #[error(transparent)]
    Tunnel(#[from] TunnelError),
    /// The SOCKS5 listener could not be bound.
    #[error("SOCKS5 listener: {}; free the port or choose another address", .0.detail)]
    Socks(ListenError),
    /// A data worker's thread or runtime could not be made.
    #[error("data worker {worker}: {source}; check the limits on threads and file descriptors")]
    Worker {
        /// Its number.
        worker: u32,
        /// The system's words.
        source: io::Error,
    },
}

impl GatewayError {
    /// For conditions and metrics.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Tunnel(error) => error.reason(),
            Self::Socks(error) => error.reason,
            Self::Worker { .. } => Reason::Internal,
        }
    }
}
