//! The exchange shell: one task per peer that carries the pure machine over the peer's control stream.
//!
//! Owns the streams, the timers and the task. What is said, held and answered, `strait_federation_api::exchange` decides; what
//! follows from it, the engine. Called by the engine.

mod peer;
mod pipe;

pub(crate) use peer::{PeerConfig, PeerHandle, PeerInputs, PeerReport};
