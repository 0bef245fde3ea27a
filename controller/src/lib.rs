//! Control plane of one cluster: sources, exchange with peers, merge, snapshot, status.
//!
//! Owns every decision about what this cluster offers, imports and trusts, and the records behind them. Never touches a socket of
//! the data path nor knows that control streams are QUIC: it reads [`strait_federation_api::control`] values and writes snapshots.
//! Called by cli only.

pub mod cache;
pub mod clock;
mod engine;
mod error;
mod exchange;
mod handle;
mod join;
pub mod merge;
mod metrics;
pub mod records;
pub mod source;
#[cfg(test)]
mod tests;
mod trust;
pub mod vip;

pub use engine::RotateAction;
pub use error::ControllerError;
pub use handle::{
    ControllerConfig, ControllerHandle, GatewayLink, Invited, OwnBundle, Prepared, Running, Timing,
};
pub use metrics::{Metrics, PeerLabel, ReasonLabel};
