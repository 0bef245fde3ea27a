//! Sources: where resources come from. Files now; Kubernetes is a second one of the same shape.
//!
//! Owns the value a source hands to the engine. Never decides what resources mean. Called by the engine.

mod files;
mod last_good;
mod reading;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

pub use files::{FileSource, FileSourceConfig};
pub use last_good::read as read_last_good;
pub use reading::{ManifestFile, read_manifests};
use strait_federation_api::{
    manifest::{Finding, ObjectId, Origin, ResourceSet},
    resources::FederationName,
};
use tokio::sync::watch;
use zeroize::Zeroizing;

/// What a source knows now.
#[derive(Debug, Clone, Default)]
pub struct SourceState {
    /// The last good set; `None` until there was one. Whole: a set with an error in it is never put here.
    pub set: Option<Arc<ResourceSet>>,
    /// What the latest look found wrong or doubtful. Errors mean that `set` is older than what is in the source.
    pub findings: Arc<Vec<Finding>>,
    /// The latest look failed: `set` is the last good one.
    pub broken: bool,
    /// Where each object of `set` stands.
    pub origins: Arc<BTreeMap<ObjectId, Origin>>,
    /// What the Federations of `set` refer to.
    pub references: Arc<References>,
}

/// Contents of what Federations refer to, by the Federation's name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct References {
    /// Join tokens as text: secrets.
    pub tokens: BTreeMap<FederationName, Token>,
    /// SPIFFE bundle documents of static trust, or why one could not be read.
    pub bundles: BTreeMap<FederationName, Result<String, String>>,
}

/// A join token as text, or why it could not be read.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(pub Result<Zeroizing<String>, String>);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Ok(_) => f.write_str("Token(redacted)"),
            Err(why) => write!(f, "Token({why})"),
        }
    }
}

/// Where resources come from.
pub trait Source: Send {
    /// What it knew when it was opened: it has looked once.
    fn state(&self) -> &SourceState;
    /// Watches in a task of its own until the receiver is dropped. The first value is there at once.
    fn watch(self: Box<Self>) -> watch::Receiver<SourceState>;
    /// Where Federations are changed on an operator's order, if this source can be written.
    fn folder(&self) -> Option<PathBuf>;
}
