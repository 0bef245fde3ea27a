//! Identities of Strait. Replaced by the room's full module tree; the names here are the ones other rooms rely on.
mod ids;
pub use ids::{ClusterId, InstanceId, RootFingerprint, SpiffeId, TrustDomain};
