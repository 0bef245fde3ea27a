//! The DNS shim: answers names of both zones from a snapshot and forwards the rest.
//!
//! Owns Multicluster DNS 1.0.0, the per-cluster zone, the message rules (EDNS, truncation, refusals) and the relay to upstreams.
//! Never talks to the controller or the gateway: it reads a snapshot and a health view from channels. Started by cli.
//!
//! Layers, each a pure function over the one below except the last two: `shape` (what a name can mean), `view` (what exists),
//! `zone` (the answer), `message` (bytes in, verdict out), `forward` (the relay) and `server` with `tcp` (sockets).

mod counters;
mod forward;
pub mod fuzz;
mod health;
mod message;
mod server;
mod shape;
mod tcp;
#[cfg(test)]
mod testdata;
mod view;
mod zone;

pub use counters::DnsTotals;
pub use health::HealthView;
pub use message::Transport;
pub use server::{DnsConfig, DnsError, DnsServer, UPSTREAMS_MAX};
pub use shape::Zone;
pub use zone::{Answer, NEGATIVE_TTL, RECORD_TTL, SCHEMA_VERSION, answer};
