//! Changing a Federation's manifest on an operator's order.
//!
//! Owns which file it is and writing it whole. How the text changes, `federation_api::manifest::edit` decides: only the field,
//! every other byte stays. Called by the engine's commands.

use std::{
    fs,
    path::{Path, PathBuf},
};

use strait_federation_api::{
    Reason,
    manifest::{
        ObjectId,
        edit::{self, EditError},
    },
    resources::{FederationName, Trust},
    snapshot::PeerMode,
};

use super::{Engine, ask::unknown_federation};
use crate::{
    ControllerError,
    records::{Disk, FileDisk},
};

impl Engine {
    /// Sets `spec.trust` of a Federation, or makes one that has nothing else; gives its file.
    pub(super) fn write_trust(
        &self,
        name: &FederationName,
        trust: &Trust,
    ) -> Result<PathBuf, ControllerError> {
        match self.file_of(name) {
            Some(file) => change(&file, |text| edit::set_trust(text, name, trust)).map(|()| file),
            None => self.make(name, trust),
        }
    }

    /// Sets `spec.mode` of a Federation; gives its file.
    pub(super) fn write_mode(
        &self,
        name: &FederationName,
        mode: PeerMode,
    ) -> Result<PathBuf, ControllerError> {
        let file = self.file_of(name).ok_or_else(|| unknown_federation(name))?;
        change(&file, |text| edit::set_mode(text, name, mode))?;
        Ok(file)
    }

    fn make(&self, name: &FederationName, trust: &Trust) -> Result<PathBuf, ControllerError> {
        let folder = self.folder.as_ref().ok_or_else(|| {
            ControllerError::refused(
                Reason::ConfigInvalid,
                "this source cannot be written; create the Federation by hand",
            )
        })?;
        let file = folder.join(format!("{name}.yaml"));
        // The source may not have looked yet since the file was made.
        if file.exists() {
            return change(&file, |text| edit::set_trust(text, name, trust)).map(|()| file);
        }
        write(&file, &edit::new_federation(name, trust))?;
        Ok(file)
    }

    fn file_of(&self, name: &FederationName) -> Option<PathBuf> {
        let origin = self.source.origins.get(&ObjectId::new("Federation", name))?;
        Some(PathBuf::from(&*origin.file))
    }
}

fn change(
    file: &Path,
    change: impl FnOnce(&str) -> Result<String, EditError>,
) -> Result<(), ControllerError> {
    let text = fs::read_to_string(file).map_err(ControllerError::io(format!("read {}", file.display())))?;
    let changed = change(&text).map_err(|error| {
        ControllerError::refused(Reason::ConfigInvalid, format!("{}: {error}", file.display()))
    })?;
    if changed == text {
        Ok(())
    } else {
        write(file, &changed)
    }
}

/// Replaces the file whole, with the permissions it had: a reader sees the old text or the new one.
fn write(file: &Path, text: &str) -> Result<(), ControllerError> {
    let what = || format!("write {}", file.display());
    let io = |error| ControllerError::io(what())(error);
    let folder = file.parent().unwrap_or(file);
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let temp = folder.join(format!(".{name}.strait-tmp"));
    fs::write(&temp, text).map_err(io)?;
    if let Ok(before) = fs::metadata(file) {
        fs::set_permissions(&temp, before.permissions()).map_err(io)?;
    }
    let disk = FileDisk;
    disk.sync_file(&temp).map_err(io)?;
    disk.rename(&temp, file).map_err(io)?;
    disk.sync_dir(folder).map_err(io)
}
