//! QUIC tunnels between gateways: the only crate that touches quinn.
//!
//! Owns the UDP sockets, the endpoints, every connection on the one port (join, control, data), their hello, drain and liveness,
//! and the dialling of peers. Never decides what a stream is for: proxy opens and accepts streams, the controller reads control
//! and join streams. Run by strait-gateway, one [`TunnelWorker`] a data worker.
//!
//! Layers, from the wire up: `socket`, `batch`, `steer`, `udp` (one socket) - `runtime`, `endpoint` (one endpoint) - `accept`,
//! `resolve`, `dial` (handshakes) - `conn`, `budget`, `data`, `control`, `join` (connections) - `plan`, `call`, `worker` (one worker) -
//! `shared`, `hub` (all of them).

mod accept;
mod batch;
mod budget;
mod call;
mod cid;
mod codes;
mod config;
mod conn;
mod control;
mod counters;
mod data;
mod dial;
mod endpoint;
mod error;
mod failure;
pub mod fuzz;
mod heard;
mod hello;
mod hub;
mod isolate;
mod join;
mod limit;
mod liveness;
mod phase;
mod pipe;
mod plan;
mod registry;
mod resolve;
mod runtime;
mod shared;
mod slot;
mod socket;
mod steer;
mod stream;
mod transport;
mod tunnel;
mod udp;
mod window;
mod worker;

pub use codes::{code_of, reason_of};
pub use config::{Links, TunnelConfig};
pub use counters::{Counter, Counters};
pub use error::{OpenError, StreamError, TunnelError};
pub use hub::TunnelHub;
pub use phase::Phase;
pub use registry::Tunnels;
pub use stream::{RecvHalf, SendHalf};
pub use tunnel::{StreamAcceptor, Tunnel};
pub use worker::TunnelWorker;
