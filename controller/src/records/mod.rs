//! Records: what can neither be fetched nor computed again, as fsynced private files under a directory lock.
//!
//! Owns their storage, the list of what must exist, and their repair. Never caches: that is `cache.rs`. Called by the engine and
//! the trust and join shells; `repair` by the cli.

#[cfg(feature = "crash-points")]
mod crash;
mod disk;
mod frame;
mod lock;
mod name;
mod repair;
mod store;
pub mod types;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod tests;

pub use disk::{Disk, FileDisk};
pub use frame::Record;
pub use name::RecordName;
pub use repair::repair;
pub use store::{Damage, Records, records_dir};
