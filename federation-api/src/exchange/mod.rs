//! The exchange as a pure protocol machine: inputs and `now` in, messages and events out.
//!
//! Owns the protocol between two control planes (CONTRACTS, "Exchange"): who offers what, what is held, what becomes of it. Never
//! does I/O, never reads a clock, never judges whether an object may be imported (the merge does) or a bundle be trusted
//! (trust-bridge does). One [`Exchange`] per peer, called by the controller, which carries its messages over the one control
//! stream of the pair. `wire` (feature `grpc-server`) translates to and from protobuf.

mod event;
mod limits;
mod machine;
mod message;
mod receiver;
mod sender;
#[cfg(feature = "grpc-server")]
pub mod wire;

pub use event::{Event, ExchangeStatus, LinkId, PeerHello, Timer};
pub use limits::{
    ADDRESSES_MAX, AFFINITY_TIMEOUT_MAX, CREATED_MAX, ENVELOPE_MAX, EXPIRE_AFTER, HOST_MAX, INSTANCES_MAX,
    LABEL_VALUE_MAX, LOCALITY_MAX, Limits, MESSAGE_MAX, QUALIFIED_MAX, REASONS_MAX, TEXT_MAX, check_address,
    check_gateways, check_offer, clean_text, offer_bytes,
};
pub use machine::{BundleUpdate, Config, Exchange, HEARTBEAT_EVERY, SILENCE_MAX, STALE_GRACE};
pub use message::{
    CatalogVersion, Gateways, Hello, Inbound, Message, Refusal, VERSIONS, Verdict, VersionRange,
};
pub use receiver::HeldCatalog;
