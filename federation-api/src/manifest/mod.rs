//! Manifests: YAML text in, a checked set of resources out, every mistake with its place and its fix.
//!
//! Owns parsing, all rules that cross fields or objects, what a set exports, and safe edits of text. Pure: it is given text and
//! returns values; reading and watching files is the caller's. Called by controller, cli and tests.

mod check;
mod check_cluster;
mod check_core;
mod de;
pub mod edit;
mod error;
mod exported;
mod load;
mod node;
mod set;
#[cfg(test)]
mod tests;

pub use error::{ErrorCode, Finding};
pub use exported::{ExportProblem, ExportedService, exported_services};
pub use load::{Loaded, load};
pub use set::{ObjectId, Origin, ResourceSet, SliceKey};

/// Largest file read, bytes. A thousand services with their slices are under 1 MiB.
pub const MAX_FILE_BYTES: usize = 4 << 20;
/// Most YAML nodes of one file, aliases counted as often as they are used.
pub const MAX_NODES: usize = 400_000;
/// Deepest nesting. Our kinds need 8.
pub const MAX_DEPTH: usize = 48;
/// Most findings listed for one document: the rest follows from fixing these.
pub const MAX_FINDINGS_PER_DOCUMENT: usize = 32;
