//! QUIC tunnels between gateways: the only crate that touches quinn.
//!
//! Owns the UDP sockets, the endpoints, every connection on the one port (join, control, data), their hello, drain and liveness,
//! and the dialling of peers. Never decides what a stream is for: proxy opens and accepts streams, the controller reads control
//! and join streams. Run by strait-gateway, one [`TunnelWorker`] a data worker.

mod cid;
mod codes;
mod error;
mod heard;
mod hello;
mod liveness;
mod registry;
mod stream;
mod tunnel;

pub use codes::{code_of, reason_of};
pub use error::{OpenError, StreamError, TunnelError};
pub use registry::Tunnels;
pub use stream::{RecvHalf, SendHalf};
pub use tunnel::{Phase, StreamAcceptor, Tunnel};
