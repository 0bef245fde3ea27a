//! How errors of trust-bridge read as reasons.
use strait_federation_api::Reason;
