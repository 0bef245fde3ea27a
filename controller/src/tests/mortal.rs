//! A disk on which a process dies.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use crate::records::{Disk, FileDisk};

/// A disk that stops the process before a given step. The panic unwinds the engine's thread: what it held is gone, as after a
/// kill, and nothing more is written.
#[derive(Debug)]
pub(super) struct Mortal {
    left: AtomicI64,
}

impl Mortal {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            left: AtomicI64::new(i64::MAX),
        })
    }

    /// Stops before step `n` from now on.
    pub(super) fn arm(&self, n: usize) {
        self.left.store(n.try_into().unwrap(), Ordering::SeqCst);
    }

    /// Whether it has stopped.
    pub(super) fn stopped(&self) -> bool {
        self.left.load(Ordering::SeqCst) < 0
    }

    fn step(&self) {
        assert!(
            self.left.fetch_sub(1, Ordering::SeqCst) > 0,
            "killed before a step of the disk"
        );
    }
}

impl Disk for Mortal {
    fn create_dir(&self, dir: &std::path::Path) -> std::io::Result<()> {
        FileDisk.create_dir(dir)
    }
    fn read(&self, path: &std::path::Path) -> std::io::Result<Option<Vec<u8>>> {
        FileDisk.read(path)
    }
    fn list(&self, dir: &std::path::Path) -> std::io::Result<Vec<String>> {
        FileDisk.list(dir)
    }
    fn write(&self, path: &std::path::Path, bytes: &[u8]) -> std::io::Result<()> {
        self.step();
        FileDisk.write(path, &bytes[..bytes.len() / 2])?;
        self.step();
        FileDisk.write(path, bytes)
    }
    fn sync_file(&self, _: &std::path::Path) -> std::io::Result<()> {
        self.step();
        Ok(())
    }
    fn rename(&self, from: &std::path::Path, to: &std::path::Path) -> std::io::Result<()> {
        self.step();
        FileDisk.rename(from, to)
    }
    fn remove(&self, path: &std::path::Path) -> std::io::Result<()> {
        self.step();
        FileDisk.remove(path)
    }
    fn sync_dir(&self, _: &std::path::Path) -> std::io::Result<()> {
        self.step();
        Ok(())
    }
}
