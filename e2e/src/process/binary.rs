//! Finds the binary under test, building it if need be.

use std::{
    io,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// Variable that names a ready binary, to test what was built elsewhere.
const VARIABLE: &str = "STRAIT_BIN";

/// The `strait` binary: `STRAIT_BIN` if set, else built by cargo in the profile of this very program, so that a test never runs a
/// stale one. Built once a process.
///
/// # Errors
/// In words: what failed.
pub fn strait_binary() -> Result<PathBuf, String> {
    static FOUND: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    FOUND.get_or_init(find).clone()
}

/// `strait` with crash points: it kills itself at a durable step that its environment names. Always built; a name of its own
/// keeps it apart from the real one.
///
/// # Errors
/// In words: what failed.
pub fn crash_binary() -> Result<PathBuf, String> {
    static FOUND: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let find = || built("strait-crash", &["--features", "crash-points"]);
    FOUND.get_or_init(find).clone()
}

fn find() -> Result<PathBuf, String> {
    if let Some(path) = std::env::var_os(VARIABLE) {
        let path = PathBuf::from(path);
        return if path.is_file() {
            Ok(path)
        } else {
            Err(format!("{VARIABLE} names {}, which is no file", path.display()))
        };
    }
    built("strait", &[])
}

fn built(name: &str, features: &[&str]) -> Result<PathBuf, String> {
    let profile = profile_dir().map_err(|e| format!("this program's own path is unknown: {e}"))?;
    build(&profile, name, features)?;
    let binary = profile.join(name);
    if binary.is_file() {
        Ok(binary)
    } else {
        Err(format!("cargo built no {}", binary.display()))
    }
}

/// `target/debug` or `target/release`, of which this program (or `deps` below it) is a part.
fn profile_dir() -> io::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let dir = own.parent().unwrap_or_else(|| Path::new("."));
    let dir = if dir.ends_with("deps") {
        dir.parent().unwrap_or(dir)
    } else {
        dir
    };
    Ok(dir.to_owned())
}

fn build(profile_dir: &Path, name: &str, features: &[&str]) -> Result<(), String> {
    let profile = match profile_dir.file_name().and_then(|n| n.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let target = profile_dir.parent().unwrap_or(profile_dir);
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args([
        "build",
        "--quiet",
        "--package",
        "strait-cli",
        "--bin",
        name,
        "--profile",
        profile,
    ]);
    command
        .args(features)
        .arg("--manifest-path")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"));
    command.arg("--target-dir").arg(target);
    let status = command
        .status()
        .map_err(|e| format!("cargo cannot be run: {e}; set {VARIABLE}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("cargo build of {name} failed, see above"))
    }
}
