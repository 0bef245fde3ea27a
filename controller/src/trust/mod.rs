//! The trust shell: carries the decisions of trust-bridge to records, to the store that TLS reads, and to the gateway.
//!
//! Owns the order (persist, then swap, then tell) and the renewal times. Never decides whom to trust: trust-bridge and the
//! Federations do. Called by the engine.

mod authority;
mod peers;
mod rotation;

pub(crate) use authority::{Authority, AuthorityConfig};
pub(crate) use peers::{Origin, Peers, TrustRecord};
pub(crate) use rotation::RotationFacts;
