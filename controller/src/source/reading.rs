//! Reading a folder of manifests and what they refer to.
//!
//! Owns which files count: `*.yaml` and `*.yml` directly in the folder, not hidden. Blocking.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use strait_federation_api::manifest::MAX_FILE_BYTES;

/// Most manifest files of one folder: each is opened at every look.
const MAX_FILES: usize = 10_000;
/// Longest referenced file, bytes: a SPIFFE bundle of many roots; a token has under 8 KiB.
const MAX_REFERENCE_BYTES: u64 = 1 << 20;

/// One manifest file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestFile {
    /// Its path.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
}

/// Reads every manifest of a folder, in the order of their names.
///
/// # Errors
/// The system's; a file larger than the loader takes is cut one byte above its bound, so that the loader says so.
pub fn read_manifests(folder: &Path) -> io::Result<Vec<ManifestFile>> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder)?
        .map(|entry| entry.map(|e| e.path()))
        .filter(|path| path.as_ref().map_or(true, |p| is_manifest(p)))
        .collect::<io::Result<_>>()?;
    if paths.len() > MAX_FILES {
        let text = format!(
            "{} has {} manifest files, at most {MAX_FILES} are read",
            folder.display(),
            paths.len()
        );
        return Err(io::Error::other(text));
    }
    paths.sort();
    let mut files = Vec::with_capacity(paths.len());
    for path in paths {
        match read_text(&path, MAX_FILE_BYTES as u64 + 1) {
            Ok(text) => files.push(ManifestFile { path, text }),
            // Replaced or removed between listing and reading: the next look sees what is there then.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(io::Error::new(
                    error.kind(),
                    format!("{}: {error}", path.display()),
                ));
            }
        }
    }
    Ok(files)
}

/// Reads a file that a manifest refers to.
pub(crate) fn read_reference(path: &Path) -> io::Result<String> {
    read_text(path, MAX_REFERENCE_BYTES)
}

fn is_manifest(path: &Path) -> bool {
    let hidden = path
        .file_name()
        .is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    let yaml = path.extension().is_some_and(|e| e == "yaml" || e == "yml");
    yaml && !hidden && !path.is_dir()
}

fn read_text(path: &Path, max: u64) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(max).read_to_end(&mut bytes)?;
    String::from_utf8(bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "is not UTF-8 text"))
}
