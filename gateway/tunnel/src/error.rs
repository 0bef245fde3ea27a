//! Why a tunnel operation failed.
//!
//! Owns the error types of the public API. Never holds peer-chosen text beyond what quinn bounds.

use std::{io, net::SocketAddr};

use strait_federation_api::Reason;

use crate::codes::reason_of;

/// Starting or running the tunnels failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TunnelError {
    /// The UDP port could not be bound.
    #[error("cannot bind UDP {address}: {source}; free the port or choose another listen address")]
    Bind {
        /// What was asked for.
        address: SocketAddr,
        /// The system's words.
        source: io::Error,
    },
    /// A socket operation failed on a socket that was bound.
    #[error("UDP socket of worker {worker}: {source}")]
    Socket {
        /// The worker.
        worker: u32,
        /// The system's words.
        source: io::Error,
    },
    /// The configuration cannot work.
    #[error("tunnel configuration: {0}")]
    Config(&'static str),
    /// TLS could not be set up.
    #[error("TLS configuration: {0}")]
    Tls(String),
}

impl TunnelError {
    /// For conditions and metrics.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Bind { .. } => Reason::PortTaken,
            Self::Config(_) => Reason::ConfigInvalid,
            Self::Tls(_) => Reason::TlsFailed,
            Self::Socket { .. } => Reason::Internal,
        }
    }
}

/// A stream could not be opened. Nothing was sent, so another tunnel may be tried at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The tunnel takes no new streams.
    #[error("the tunnel is draining")]
    Draining,
    /// Its hello is not done, or nothing was heard from it.
    #[error("the tunnel is not usable now")]
    NotUsable,
    /// All streams that the peer allows stayed in use for the whole wait.
    #[error("no free stream within the time allowed; {waiting} others wait")]
    Exhausted {
        /// Others that waited on this tunnel at the same time.
        waiting: u32,
    },
    /// The connection is gone.
    #[error("the tunnel is lost")]
    Lost,
}

impl OpenError {
    /// For logs, metrics and the retry decision.
    #[must_use]
    pub const fn reason(self) -> Reason {
        match self {
            Self::Draining => Reason::Draining,
            Self::NotUsable => Reason::PeerSilent,
            Self::Exhausted { .. } => Reason::Overloaded,
            Self::Lost => Reason::TunnelLost,
        }
    }
}

/// A stream ended otherwise than by a clean end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The other end reset it, or stopped reading it.
    #[error("the stream was reset by the other end (code {code})")]
    Reset {
        /// The reason, where this version knows the code.
        reason: Option<Reason>,
        /// The code as sent.
        code: u64,
    },
    /// The connection under it is gone.
    #[error("the tunnel was lost under the stream")]
    TunnelLost,
    /// This end already finished, reset or stopped it: a bug of the caller.
    #[error("the stream was already closed at this end")]
    Closed,
}

impl StreamError {
    pub(crate) fn reset(code: quinn::VarInt) -> Self {
        let code = code.into_inner();
        Self::Reset {
            reason: reason_of(code),
            code,
        }
    }

    /// For logs, metrics and what is told the other side.
    #[must_use]
    pub fn reason(self) -> Reason {
        match self {
            Self::Reset { reason, .. } => reason.unwrap_or(Reason::PeerReset),
            Self::TunnelLost => Reason::TunnelLost,
            Self::Closed => Reason::Internal,
        }
    }
}

impl From<quinn::WriteError> for StreamError {
    fn from(error: quinn::WriteError) -> Self {
        match error {
            quinn::WriteError::Stopped(code) => Self::reset(code),
            quinn::WriteError::ConnectionLost(_) | quinn::WriteError::ZeroRttRejected => Self::TunnelLost,
            quinn::WriteError::ClosedStream => Self::Closed,
        }
    }
}

impl From<quinn::ReadError> for StreamError {
    fn from(error: quinn::ReadError) -> Self {
        match error {
            quinn::ReadError::Reset(code) => Self::reset(code),
            quinn::ReadError::ConnectionLost(_) | quinn::ReadError::ZeroRttRejected => Self::TunnelLost,
            quinn::ReadError::ClosedStream | quinn::ReadError::IllegalOrderedRead => Self::Closed,
        }
    }
}
