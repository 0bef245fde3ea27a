//! [`Records`]: every record of one state directory, under its lock.
//!
//! Owns the order of the steps (write, sync, rename, sync) and the list of what must exist, so that a lost file is noticed.
//! Never guesses: damage is reported, all of it at once, and nothing starts.

use std::{
    collections::BTreeSet,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{
    Disk, Record, RecordName,
    frame::{decode, encode, verify},
    lock::DirLock,
    repair::remedy,
};
use crate::ControllerError;

/// The list of records that must exist.
const MANIFEST: &str = "manifest";
/// Says that this directory was used before: without it, losing the whole list would look like a first start.
const MARKER: &str = "initialised";
const MARKER_TEXT: &[u8] =
    b"Strait keeps records here. Back up the directory `records`; never delete this file alone.\n";

/// A record that is missing or does not verify.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Which.
    pub name: RecordName,
    /// What is wrong with it.
    pub why: String,
    /// The command that repairs it and what that costs.
    pub repair: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "record '{}': {}; {}", self.name, self.why, self.repair)
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Manifest {
    names: BTreeSet<RecordName>,
}

impl Record for Manifest {
    const KIND: &'static str = MANIFEST;
    const SCHEMA: u32 = 1;
}

/// The records of one cluster. Blocking: every change waits for the disk.
pub struct Records {
    disk: Arc<dyn Disk>,
    state: PathBuf,
    dir: PathBuf,
    listed: Mutex<BTreeSet<RecordName>>,
    /// Held for the life of the process.
    _lock: Option<DirLock>,
}

impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Records")
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl Records {
    /// Opens a state directory, makes it on the first start, and checks every record in it.
    ///
    /// # Errors
    /// [`ControllerError::Locked`], [`ControllerError::RecordLost`] with all damage, [`ControllerError::Io`].
    pub fn open(state: &Path, disk: Arc<dyn Disk>) -> Result<Self, ControllerError> {
        disk.create_dir(&records_dir(state))
            .map_err(ControllerError::io(format!("make {}", state.display())))?;
        let lock = DirLock::take(state)?;
        Self::open_on(disk, state, Some(lock))
    }

    /// As [`Records::open`] under a lock that is held already, or that nobody needs (a model disk).
    pub(crate) fn open_on(
        disk: Arc<dyn Disk>,
        state: &Path,
        lock: Option<DirLock>,
    ) -> Result<Self, ControllerError> {
        let records = Self {
            disk,
            state: state.into(),
            dir: records_dir(state),
            listed: Mutex::new(BTreeSet::new()),
            _lock: lock,
        };
        records
            .disk
            .create_dir(&records.dir)
            .map_err(ControllerError::io(format!("make {}", records.dir.display())))?;
        let listed = records.checked_names()?;
        *records.listed.lock() = listed;
        Ok(records)
    }

    /// The state directory.
    #[must_use]
    pub fn state_dir(&self) -> &Path {
        &self.state
    }

    /// Names that exist, in order.
    #[must_use]
    pub fn names(&self) -> Vec<RecordName> {
        self.listed.lock().iter().cloned().collect()
    }

    /// Reads a record; `None` if it was never written or was removed.
    ///
    /// # Errors
    /// [`ControllerError::RecordLost`] if it is listed but gone, or does not verify.
    pub fn load<R: Record>(&self, name: &RecordName) -> Result<Option<R>, ControllerError> {
        if !self.listed.lock().contains(name) {
            return Ok(None);
        }
        let lost = |why: String| self.lost(vec![self.damage(name, why)]);
        let bytes = self
            .read(name)?
            .ok_or_else(|| lost("its file is missing".into()))?;
        decode(&bytes).map(Some).map_err(lost)
    }

    /// Writes a record. When this returns, it is durable; when it fails or the machine stops, the old one is.
    ///
    /// # Errors
    /// [`ControllerError::Io`].
    pub fn save<R: Record>(&self, name: &RecordName, record: &R) -> Result<(), ControllerError> {
        // Held throughout: two writers of one record must not share its temporary file.
        let mut listed = self.listed.lock();
        self.replace(name, record)?;
        if listed.contains(name) {
            return Ok(());
        }
        let mut names = listed.clone();
        names.insert(name.clone());
        self.write_manifest(&names)?;
        *listed = names;
        Ok(())
    }

    /// Removes a record; one that does not exist is no error.
    ///
    /// # Errors
    /// [`ControllerError::Io`].
    pub fn remove(&self, name: &RecordName) -> Result<(), ControllerError> {
        let mut listed = self.listed.lock();
        if !listed.contains(name) {
            return Ok(());
        }
        let mut names = listed.clone();
        names.remove(name);
        // The list first: a stop in between leaves a file that is taken up again, never a loss.
        self.write_manifest(&names)?;
        *listed = names;
        self.disk
            .remove(&self.path(name))
            .map_err(self.io("remove", name))?;
        self.sync_dir(&self.dir)
    }

    /// The records of a directory that may be damaged, for repair only: nothing is checked.
    pub(super) fn unchecked(state: &Path) -> Self {
        Self {
            disk: Arc::new(super::FileDisk),
            state: state.into(),
            dir: records_dir(state),
            listed: Mutex::new(BTreeSet::new()),
            _lock: None,
        }
    }

    /// Every name that the list holds, as far as it reads, or that has a file.
    pub(super) fn every_name(&self) -> Result<BTreeSet<RecordName>, ControllerError> {
        let stored = self.read(&RecordName::fixed(MANIFEST))?;
        let mut names = stored
            .and_then(|bytes| decode::<Manifest>(&bytes).ok())
            .map_or_else(BTreeSet::new, |manifest| manifest.names);
        names.extend(self.present()?);
        names.insert(RecordName::fixed(MANIFEST));
        Ok(names)
    }

    /// Writes the list without `name` unless its file is there, and with every record that is.
    pub(super) fn relist_without(&self, name: &RecordName) -> Result<(), ControllerError> {
        let mut names = self.every_name()?;
        names.remove(&RecordName::fixed(MANIFEST));
        names.remove(name);
        names.extend(self.present()?);
        self.write_manifest(&names)
    }

    fn checked_names(&self) -> Result<BTreeSet<RecordName>, ControllerError> {
        let present = self.present()?;
        let manifest = RecordName::fixed(MANIFEST);
        let used_before = self.read_at(&self.state.join(MARKER))?.is_some();
        let stored = self.read(&manifest)?;
        let mut damage = Vec::new();
        let mut listed = match stored {
            Some(bytes) => match decode::<Manifest>(&bytes) {
                Ok(read) => read.names,
                Err(why) => {
                    damage.push(self.damage(&manifest, why));
                    BTreeSet::new()
                }
            },
            None if used_before || !present.is_empty() => {
                damage.push(self.damage(&manifest, "the list of records is missing".into()));
                BTreeSet::new()
            }
            None => {
                self.write_manifest(&BTreeSet::new())?;
                BTreeSet::new()
            }
        };
        damage.extend(self.verify_all(listed.union(&present))?);
        if !damage.is_empty() {
            return Err(self.lost(damage));
        }
        if !used_before {
            self.mark()?;
        }
        // A verified file that is not listed was created just before a stop.
        if !present.is_subset(&listed) {
            listed.extend(present);
            self.write_manifest(&listed)?;
        }
        Ok(listed)
    }

    fn verify_all<'a>(
        &self,
        names: impl Iterator<Item = &'a RecordName>,
    ) -> Result<Vec<Damage>, ControllerError> {
        let mut damage = Vec::new();
        for name in names {
            let why = match self.read(name)? {
                None => Some("its file is missing".into()),
                Some(bytes) => verify(&bytes).err(),
            };
            damage.extend(why.map(|why| self.damage(name, why)));
        }
        Ok(damage)
    }

    /// Records found in the directory, the list apart. Left-over temporary files are removed.
    fn present(&self) -> Result<BTreeSet<RecordName>, ControllerError> {
        let what = || format!("list {}", self.dir.display());
        let mut present = BTreeSet::new();
        for file in self.disk.list(&self.dir).map_err(ControllerError::io(what()))? {
            if file.starts_with('.') && file.ends_with(".tmp") {
                self.disk
                    .remove(&self.dir.join(&file))
                    .map_err(ControllerError::io(what()))?;
            } else if let Some(name) = file
                .strip_suffix(".json")
                .and_then(|stem| RecordName::parse(stem).ok())
                && name.as_str() != MANIFEST
            {
                present.insert(name);
            }
        }
        Ok(present)
    }

    fn mark(&self) -> Result<(), ControllerError> {
        let path = self.state.join(MARKER);
        self.disk
            .write(&path, MARKER_TEXT)
            .and_then(|()| self.disk.sync_file(&path))
            .map_err(ControllerError::io(format!("write {}", path.display())))?;
        self.sync_dir(&self.state)
    }

    fn write_manifest(&self, names: &BTreeSet<RecordName>) -> Result<(), ControllerError> {
        let manifest = Manifest { names: names.clone() };
        self.replace(&RecordName::fixed(MANIFEST), &manifest)
    }

    /// The whole of durability: temporary file, its content, its name, the directory.
    fn replace<R: Record>(&self, name: &RecordName, record: &R) -> Result<(), ControllerError> {
        let bytes = encode(record).map_err(|error| ControllerError::Io {
            what: format!("encode record '{name}'"),
            source: std::io::Error::other(error),
        })?;
        let temp = self.dir.join(format!(".{name}.tmp"));
        self.disk.write(&temp, &bytes).map_err(self.io("write", name))?;
        self.disk.sync_file(&temp).map_err(self.io("sync", name))?;
        self.disk
            .rename(&temp, &self.path(name))
            .map_err(self.io("replace", name))?;
        self.sync_dir(&self.dir)
    }

    fn read(&self, name: &RecordName) -> Result<Option<Vec<u8>>, ControllerError> {
        self.read_at(&self.path(name))
    }

    fn read_at(&self, path: &Path) -> Result<Option<Vec<u8>>, ControllerError> {
        self.disk
            .read(path)
            .map_err(ControllerError::io(format!("read {}", path.display())))
    }

    fn sync_dir(&self, dir: &Path) -> Result<(), ControllerError> {
        self.disk
            .sync_dir(dir)
            .map_err(ControllerError::io(format!("sync {}", dir.display())))
    }

    fn path(&self, name: &RecordName) -> PathBuf {
        self.dir.join(format!("{name}.json"))
    }

    fn io(&self, verb: &str, name: &RecordName) -> impl FnOnce(std::io::Error) -> ControllerError + use<> {
        ControllerError::io(format!("{verb} record {}", self.path(name).display()))
    }

    fn damage(&self, name: &RecordName, why: String) -> Damage {
        Damage {
            name: name.clone(),
            why,
            repair: remedy(name, &self.state),
        }
    }

    fn lost(&self, damage: Vec<Damage>) -> ControllerError {
        ControllerError::RecordLost {
            state: self.state.clone(),
            damage,
        }
    }
}

/// Where the records of a state directory lie.
#[must_use]
pub fn records_dir(state: &Path) -> PathBuf {
    state.join("records")
}
