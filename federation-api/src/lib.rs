//! The contract between Strait's rooms: names, resources, catalog and snapshot values, reasons, and the exchange as a pure
//! protocol machine.
//!
//! Owns every value that crosses from one room to another. Never does I/O and never reads a clock: time is passed in.
//! Called by controller, gateway, dns and cli, which meet only in these values.

pub mod catalog;
pub mod control;
pub mod diagnose;
pub mod diff;
pub mod docs;
pub mod exchange;
pub mod ids;
pub mod manifest;
pub mod names;
pub mod observation;
pub mod reason;
pub mod resources;
pub mod snapshot;
mod trust_reason;
pub mod view;

pub use ids::{
    ClusterId, Epoch, Hostname, InstanceId, Namespace, PortName, ServiceKey, ServiceName, TrustDomain, Uid,
};
pub use reason::Reason;
