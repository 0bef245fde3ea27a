//! The data plane of one gateway: data workers with their tunnels, listeners and streams.
//!
//! Owns the threads of the data path, the way from a snapshot to tables and listeners, health checks, metrics and the access log. Never
//! decides what is imported or exported (the controller's), where a stream goes (balance's) or how it is carried (proxy's and tunnel's).
//! Started by cli, which wires its channels to the controller.

mod config;
mod error;
mod gateway;
mod health;
mod house;
mod listeners;
mod metrics;
mod outbox;
mod system;
mod workers;

pub use config::{AccessLog, GatewayConfig, GatewayLinks};
pub use error::GatewayError;
pub use gateway::Gateway;
pub use strait_proxy::Limits;
