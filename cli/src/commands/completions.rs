//! `completions` and `version`: what needs neither files nor a process.
//!
//! Owns both texts. Never reads anything. Called by dispatch.

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::emit;
use crate::{
    args::Cli,
    exit::{CliError, Exit},
};

/// Prints completions for `shell`.
pub(super) fn completions(shell: Shell) -> Result<Exit, CliError> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "strait", &mut script);
    emit(&String::from_utf8_lossy(&script))
}

/// Prints version and build.
pub(super) fn version() -> Result<Exit, CliError> {
    let build = if cfg!(debug_assertions) {
        "debug"
    } else {
        "release"
    };
    let (arch, os) = (std::env::consts::ARCH, std::env::consts::OS);
    emit(&format!(
        "strait {} ({build}, {arch}-{os})\n",
        env!("CARGO_PKG_VERSION")
    ))
}
