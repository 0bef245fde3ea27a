//! Protobuf to and from the exchange's plain values: the edge where a peer's bytes are parsed.
//!
//! Owns the generated types and the conversions. Decoding is total: any envelope yields an [`Inbound`](super::Inbound), never a
//! panic, and a broken object is named if its name can be read. Never decides what follows from it. Called by the controller's
//! gRPC shell, which must bound messages to [`MESSAGE_MAX`](super::MESSAGE_MAX).

mod decode;
mod encode;

pub use decode::decode;
pub use encode::encode;

/// Generated from `proto/strait/exchange/v1/exchange.proto`.
#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::pedantic,
    clippy::use_self,
    clippy::or_fun_call,
    clippy::large_enum_variant,
    reason = "generated code"
)]
pub mod exchange_v1 {
    tonic::include_proto!("strait.exchange.v1");
}

#[cfg(test)]
mod tests;
