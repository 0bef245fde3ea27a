//! How control and join streams pass from the gateway to the controller, and requests the other way.
//!
//! Owns the values only: the gateway never learns what is said on a stream, the controller never learns that it is QUIC. In one
//! process they travel by channel; between pods over local mTLS.

use std::{fmt, net::SocketAddr, time::Duration};

use strait_trust_bridge::RootFingerprint;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::oneshot,
};

use crate::{
    Reason,
    ids::{ClusterId, InstanceId, TrustDomain},
    observation::Observation,
    snapshot::GatewayAddress,
};

/// Length in bytes of exported keying material (RFC 8446 section 7.5) used to bind proofs to one TLS session.
pub const EXPORTER_LEN: usize = 32;
/// Exporter label of a join session; the context is empty.
pub const JOIN_EXPORTER_LABEL: &[u8] = b"EXPORTER-strait-join/1";

/// A two-way byte stream whose transport is nobody's business.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// Who is at the other end, proven by mTLS against the bundle of exactly one Federation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VerifiedPeer {
    /// Cluster of the Federation that lists the trust domain.
    pub cluster: ClusterId,
    /// Trust domain of the leaf.
    pub trust_domain: TrustDomain,
    /// Gateway instance of the leaf.
    pub instance: InstanceId,
}

/// Which side dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// We dialled: we are the gRPC client.
    Dialler,
    /// The peer dialled: we are the gRPC server.
    Acceptor,
}

/// The one control stream of a peer pair. A later one for the same peer replaces it: the gateway has already chosen.
pub struct ControlStream {
    /// The peer.
    pub peer: VerifiedPeer,
    /// Our side.
    pub role: Role,
    /// Its remote address, for status and logs.
    pub remote: SocketAddr,
    /// The bytes. Dropping it closes the connection.
    pub io: Box<dyn ByteStream>,
}

/// A join session: TLS is up, the server's root was pinned by the dialler, nobody has proven anything yet.
pub struct JoinStream {
    /// Our side.
    pub role: Role,
    /// Its remote address: attempts are bounded per source.
    pub remote: SocketAddr,
    /// Keying material exported from this TLS session with [`JOIN_EXPORTER_LABEL`].
    pub exporter: [u8; EXPORTER_LEN],
    /// The bytes.
    pub io: Box<dyn ByteStream>,
}

impl fmt::Debug for ControlStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControlStream")
            .field("peer", &self.peer)
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for JoinStream {
    /// The exporter is a secret of the session and stays out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinStream")
            .field("role", &self.role)
            .field("remote", &self.remote)
            .finish_non_exhaustive()
    }
}

/// What the gateway tells the controller.
#[derive(Debug)]
pub enum GatewayEvent {
    /// A control stream is up.
    Control(ControlStream),
    /// A join session was accepted.
    Join(JoinStream),
    /// The data plane saw something.
    Observed(Observation),
}

/// What the controller asks of the gateway. All else it says through the snapshot.
#[derive(Debug)]
pub enum GatewayRequest {
    /// Dial the addresses of a token in order until one presents the pinned root.
    JoinDial {
        /// Addresses of the token, at most 16.
        addresses: Vec<GatewayAddress>,
        /// The trust domain of the token: the server's leaf must be in it.
        trust_domain: TrustDomain,
        /// The only root to accept.
        root: RootFingerprint,
        /// Bound on the whole attempt.
        timeout: Duration,
        /// The session, or why none came up.
        reply: oneshot::Sender<Result<JoinStream, DialError>>,
    },
    /// The peer cannot dial and asks for a data tunnel.
    OpenTunnel {
        /// The peer.
        peer: ClusterId,
    },
    /// Send one probe stream's worth of ping over a data tunnel and report its round trip.
    Probe {
        /// The peer.
        peer: ClusterId,
        /// Round trip, or why not.
        reply: oneshot::Sender<Result<Duration, DialError>>,
    },
}

/// A dial that led nowhere: the reason of the last attempt and what each address said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct DialError {
    /// Reason of the most telling attempt.
    pub reason: Reason,
    /// One line for an operator, with every address tried.
    pub detail: String,
}
