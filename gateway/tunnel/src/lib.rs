//! QUIC tunnels between gateways: the only crate that touches quinn.
//!
//! Owns the UDP sockets, the endpoints, every connection on the one port (join, control, data), their hello, drain and liveness,
//! and the dialling of peers. Never decides what a stream is for: proxy opens and accepts streams, the controller reads control
//! and join streams. Run by strait-gateway, one [`TunnelWorker`] a data worker.

mod batch;
mod cid;
mod codes;
mod config;
mod counters;
mod endpoint;
mod error;
mod heard;
mod hello;
mod liveness;
mod registry;
mod runtime;
mod socket;
mod steer;
mod stream;
mod transport;
mod tunnel;
mod udp;
mod window;

pub use codes::{code_of, reason_of};
pub use config::{Links, TunnelConfig};
pub use counters::{Counter, Counters};
pub use error::{OpenError, StreamError, TunnelError};
pub use registry::Tunnels;
pub use stream::{RecvHalf, SendHalf};
pub use tunnel::{Phase, StreamAcceptor, Tunnel};
