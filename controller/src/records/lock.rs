//! The lock on a state directory: two processes never write one set of records.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use rustix::fs::{FlockOperation, flock};

use crate::ControllerError;

/// Held until dropped; the kernel drops it when the process dies.
#[derive(Debug)]
pub(crate) struct DirLock(#[expect(dead_code, reason = "the open file is the lock")] File);

impl DirLock {
    pub(crate) fn take(state: &Path) -> Result<Self, ControllerError> {
        let path = state.join("lock");
        let mut open = OpenOptions::new();
        open.write(true).create(true).truncate(false).mode(0o600);
        let file = open
            .open(&path)
            .map_err(ControllerError::io(format!("open {}", path.display())))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(ControllerError::Locked(state.into())),
            Err(errno) => Err(ControllerError::Io {
                what: format!("lock {}", path.display()),
                source: errno.into(),
            }),
        }
    }
}
