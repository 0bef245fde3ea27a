//! What a workload does, done by ourselves: resolve a name, connect through SOCKS5.
//!
//! Owns two small clients. Never a part of what is served. Used by `check` inside the running process and by the demo.

pub(crate) mod dns;
pub(crate) mod socks;
