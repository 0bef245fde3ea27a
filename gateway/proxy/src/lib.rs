//! Streams: what brings a connection in, what takes it out, and the bytes between.
//!
//! Owns the stream header, the retry contract, the copy loop, VIP and SOCKS listeners, and the receiving side's authorisation and
//! endpoint dialling. Never touches QUIC (that is tunnel's) and never chooses by itself (that is balance's). Composed by strait-gateway.

mod accept;
pub mod attempt;
mod connect;
mod copy;
mod endpoint;
mod flow;
pub mod fuzz;
pub mod header;
mod ingress;
pub mod listen;
mod plan;
mod pool;
mod route;
pub mod socks;
mod sweep;
mod tries;
mod worker;

pub use accept::Acceptor;
pub use flow::{Direction, Ended, FlowInfo, Recorder, now_ms};
pub use ingress::{Entry, accept_loop};
pub use route::{EndpointState, ExportRoute, PortRoute, Target, View};
pub use sweep::Limits;
pub use worker::{Shared, Worker};
