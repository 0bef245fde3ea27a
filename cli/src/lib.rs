//! The command line of Strait: parses, composes, prints, keeps the last snapshot on disk.
//!
//! Owns the binary's commands, the local command socket, the admin endpoint, log set-up and the demo. Never decides what belongs
//! to a room below: it wires them with channels and prints what they say. Called by `main.rs` only.

mod admin;
mod args;
mod client;
mod commands;
mod demo;
mod exit;
mod local;
mod logging;
mod metrics;
mod output;
mod readiness;
mod run;

pub use commands::main;
