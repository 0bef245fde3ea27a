//! What ties the demo's processes together, so that nothing is left behind however the demo ends.
//!
//! Owns two ties: children that die with their parent, and a janitor that removes the folder when the demo is gone. Used by the
//! demo and by `run` when the demo starts it.

use std::{
    fs,
    io::{self, Read as _},
    path::Path,
    thread,
    time::Duration,
};

use crate::exit::{CliError, Exit};

/// A folder is only ever removed when this file is in it.
pub(crate) const MARKER: &str = ".strait-demo";
/// Removing a folder races with processes that still write there while they die: this often, this far apart.
const REMOVE_TRIES: u32 = 50;
/// See [`REMOVE_TRIES`].
const REMOVE_PAUSE: Duration = Duration::from_millis(100);

/// Makes this process end when `parent` does; does nothing for `None`.
///
/// # Errors
/// [`CliError`] if the parent is already gone.
pub(crate) fn die_with(parent: Option<u32>) -> Result<(), CliError> {
    let Some(parent) = parent else { return Ok(()) };
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .map_err(|e| CliError::failed(format!("cannot tie this process to its parent: {e}")))?;
    if !has_parent(parent) {
        // It died between fork and the tie.
        return Err(CliError::failed("the starting process is gone"));
    }
    // Systems without the signal, and the signal's one hole (it follows the thread that forked), are covered by looking.
    thread::spawn(move || {
        while has_parent(parent) {
            thread::sleep(Duration::from_millis(500));
        }
        std::process::exit(1);
    });
    Ok(())
}

fn has_parent(parent: u32) -> bool {
    rustix::process::getppid().is_some_and(|p| u32::try_from(p.as_raw_nonzero().get()) == Ok(parent))
}

/// Waits for the end of standard input, which the demo holds open for as long as it lives, and then removes `dir`.
pub(crate) fn janitor(dir: &Path) -> Result<Exit, CliError> {
    let mut sink = [0; 64];
    while matches!(io::stdin().read(&mut sink), Ok(n) if n > 0) {}
    remove(dir)
        .map(|()| Exit::Ok)
        .map_err(|e| CliError::failed(format!("cannot remove {}: {e}", dir.display())))
}

/// Removes a demo folder, trying again while dying processes still write into it.
///
/// # Errors
/// `InvalidInput` for a folder without the marker; else the last error of the system.
pub(crate) fn remove(dir: &Path) -> io::Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    if !dir.join(MARKER).exists() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is not a demo's folder",
        ));
    }
    for _ in 0..REMOVE_TRIES {
        match empty(dir).and_then(|()| fs::remove_dir_all(dir)) {
            Err(_) if dir.exists() => thread::sleep(REMOVE_PAUSE),
            _ => return Ok(()),
        }
    }
    fs::remove_dir_all(dir)
}

/// Removes all but the marker, so that a half-removed folder can still be recognised.
fn empty(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name() == MARKER {
            continue;
        }
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_demo_folder_is_removed() {
        let outer = tempfile::tempdir().unwrap();
        let dir = outer.path().join("d");
        fs::create_dir_all(dir.join("east/state")).unwrap();
        fs::write(dir.join("east/state/x"), "x").unwrap();
        assert_eq!(remove(&dir).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert!(dir.join("east/state/x").exists());
        fs::write(dir.join(MARKER), "").unwrap();
        remove(&dir).unwrap();
        assert!(!dir.exists());
        remove(&dir).unwrap();
    }
}
