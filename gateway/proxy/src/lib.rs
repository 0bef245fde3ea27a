//! Streams: what brings a connection in, what takes it out, and the bytes between.
//!
//! Owns the stream header, the retry contract, the copy loop, VIP and SOCKS listeners, and the receiving side's authorisation and
//! endpoint dialling. Never touches QUIC (that is tunnel's) and never chooses by itself (that is balance's). Composed by strait-gateway.

pub mod attempt;
pub mod fuzz;
pub mod header;
pub mod socks;
