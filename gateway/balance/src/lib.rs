//! Where a stream goes: cluster, tunnel, endpoint.
//!
//! Owns the decisions of the data plane as functions over plain values: state in, `now` in, decision out. Never does I/O, never reads
//! a clock, holds no lock. Called by proxy at every new stream and by the health checker.

mod cluster;
mod ejection;
mod endpoint;
mod hash;
mod probe;
mod recovery;
mod tunnel;

pub use cluster::{Ask, Choice, PeerPath, choose};
pub use ejection::{Ejection, may_eject};
pub use endpoint::{EndpointView, pick_endpoint};
pub use hash::{affinity_key, stable_hash};
pub use probe::{Health, Thresholds};
pub use recovery::{FULL_SHARE, Recovery};
pub use tunnel::{TunnelView, pick_tunnel};
