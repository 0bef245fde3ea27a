//! The harness: what end-to-end tests and benches are made of.
//!
//! Owns the link emulator, real processes with their logs and their sure end, small servers with a known behaviour, and clients
//! that record what became of every request. Never part of a shipped binary. Called by the tests of this crate and by `bench`.

pub mod apps;
pub mod bench;
pub mod client;
pub mod cluster;
pub mod hostile;
pub mod link;
pub mod process;
