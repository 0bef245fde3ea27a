//! A copy of the last manifests that were valid: what a restart uses when a file is broken just then.
//!
//! Owns that one file. It is a convenience, not a record: without it a broken folder cannot start, and nothing else is lost. It
//! holds what the manifests hold, never a token.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::ManifestFile;
use crate::records::{Disk, FileDisk};

fn path(state: &Path) -> PathBuf {
    state.join("last-good.json")
}

/// Keeps a copy.
pub(super) fn write(state: &Path, files: &[ManifestFile]) -> io::Result<()> {
    let disk = FileDisk;
    let temp = state.join(".last-good.tmp");
    disk.create_dir(state)?;
    disk.write(&temp, &serde_json::to_vec(files)?)?;
    disk.sync_file(&temp)?;
    disk.rename(&temp, &path(state))
}

/// The copy in a state directory, if there is one that reads: what a process that runs there has in force.
#[must_use]
pub fn read(state: &Path) -> Option<Vec<ManifestFile>> {
    let bytes = FileDisk.read(&path(state)).ok()??;
    serde_json::from_slice(&bytes).ok()
}
