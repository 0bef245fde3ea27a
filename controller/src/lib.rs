//! Control plane of one cluster: sources, exchange with peers, merge, snapshot, status.
//!
//! Owns every decision about what this cluster offers, imports and trusts, and the records behind them. Never touches a socket of
//! the data path nor knows that control streams are QUIC: it reads [`strait_federation_api::control`] values and writes snapshots.
//! Called by cli only.

pub mod cache;
pub mod clock;
mod error;
mod join;
pub mod merge;
pub mod records;
pub mod source;
mod trust;
pub mod vip;

pub use error::ControllerError;
