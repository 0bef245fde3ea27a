//! [`Disk`]: the few file system steps that records are made of.
//!
//! Owns the boundary at which a crash may happen: one method is one step, so a test can stop before each of them. Never decides
//! an order; `store.rs` does.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

/// Mode of a record: it may hold keys.
const FILE_MODE: u32 = 0o600;
/// Mode of the directories.
const DIR_MODE: u32 = 0o700;

/// One step each. Nothing is durable before its sync: a write before [`Disk::sync_file`], a create, rename or remove before
/// [`Disk::sync_dir`].
pub trait Disk: Send + Sync {
    /// Makes a directory and its parents if they are missing.
    ///
    /// # Errors
    /// The system's.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// The whole file, `None` if there is none.
    ///
    /// # Errors
    /// The system's.
    fn read(&self, path: &Path) -> io::Result<Option<Vec<u8>>>;
    /// Names in a directory, sorted.
    ///
    /// # Errors
    /// The system's.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Writes a private file, new or truncated.
    ///
    /// # Errors
    /// The system's.
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;
    /// Makes the content of a file durable.
    ///
    /// # Errors
    /// The system's.
    fn sync_file(&self, path: &Path) -> io::Result<()>;
    /// Replaces `to` by `from`.
    ///
    /// # Errors
    /// The system's.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file; one that is not there is no error.
    ///
    /// # Errors
    /// The system's.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes names in a directory durable.
    ///
    /// # Errors
    /// The system's.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// A crash point before a step: nothing, unless built to be killed there.
fn step() {
    #[cfg(feature = "crash-points")]
    super::crash::step();
}

/// The real one.
#[derive(Debug, Clone, Copy, Default)]
pub struct FileDisk;

impl Disk for FileDisk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(DIR_MODE).create(dir)
    }

    fn read(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        match fs::read(path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names: Vec<String> = fs::read_dir(dir)?
            .map(|entry| entry.map(|e| e.file_name().to_string_lossy().into_owned()))
            .collect::<io::Result<_>>()?;
        names.sort();
        Ok(names)
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut open = OpenOptions::new();
        open.write(true).create(true).truncate(true).mode(FILE_MODE);
        step();
        let mut file = open.open(path)?;
        // A kill may also come between two pages.
        let torn = if cfg!(feature = "crash-points") {
            bytes.len() / 2
        } else {
            0
        };
        file.write_all(&bytes[..torn])?;
        step();
        file.write_all(&bytes[torn..])
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        step();
        OpenOptions::new().write(true).open(path)?.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        step();
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        step();
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        step();
        File::open(dir)?.sync_all()
    }
}
