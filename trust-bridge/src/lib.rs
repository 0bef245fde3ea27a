//! Identities, bundles, verification, issuing and rotation for Strait gateways.
//!
//! This room decides who is who between clusters. It is pure: no I/O, no clock (`now` is passed in, or comes from rustls), no
//! runtime. Keys and certificates are made here; where they are kept, and when a step is taken, is the controller's.
//!
//! The way in: [`CaRecord`] issues, [`TrustStore`] holds what is trusted and presented, [`tls`] makes the configurations,
//! [`TrustView`] verifies.

mod bundle;
mod ca;
mod ca_keys;
mod cluster_id;
mod error;
mod fingerprint;
mod leaf;
mod macros;
mod secret;
mod signer_chain;
mod spiffe_id;
mod store;
mod tls_verifiers;
mod token;
mod verify;
mod view;
mod wire;
mod x509;

pub mod envelope;
pub mod invite;
pub mod join;
pub mod rotation;
pub mod spiffe_json;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod tls;

pub use bundle::{Bundle, DEFAULT_REFRESH_HINT, MAX_REMOVED, MAX_ROOTS, Root};
pub use ca::CaRecord;
pub use cluster_id::ClusterId;
pub use error::{MAX_QUOTED, TrustError};
pub use fingerprint::{KeyHash, RootFingerprint, SHA256_LEN};
pub use leaf::{
    BACKDATE, DEFAULT_LEAF_TTL, GatewayKey, IssuedLeaf, LeafRequest, MAX_LEAF_TTL, MIN_LEAF_TTL, renew_at,
};
pub use secret::SecretPem;
pub use signer_chain::{VerifiedSigner, verify_signer_chain};
pub use spiffe_id::{InstanceId, MAX_INSTANCE_ID, MAX_SPIFFE_ID, MAX_TRUST_DOMAIN, SpiffeId, TrustDomain};
pub use store::{OwnIdentity, TrustStore};
pub use token::{Address, InviteId, JoinToken, MAX_ADDRESSES, SECRET_LEN};
pub use verify::{RootPin, VerifiedChain, claimed_id, reverify_roots, verify_chain, verify_with_pin};
pub use view::{PeerTrust, TrustView, VerifiedPeer};
pub use x509::{MAX_CERTIFICATE, MAX_CHAIN};
