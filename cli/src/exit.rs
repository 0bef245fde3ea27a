//! How a command ends: the exit codes and the error every command returns.
//!
//! Owns the numbers (documented in `strait --help`) and the shape of an error message: what failed, why, what to do. Never prints
//! a secret: callers pass text that is already fit for a terminal. Used by every command.

use std::{fmt, process::ExitCode};

use strait_federation_api::Reason;

/// Exit codes. Stable: scripts depend on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All is well.
    Ok = 0,
    /// The thing asked for failed, or a check found something broken.
    Failed = 1,
    /// The command line is wrong, or a check could not be concluded.
    Usage = 2,
    /// A manifest or flag value is invalid (EX_CONFIG's neighbour EX_USAGE, as sysexits.h numbers it).
    Config = 64,
}

impl Exit {
    /// What `--help` says about them.
    pub(crate) const HELP: &str = "Exit codes: 0 all is well · 1 it failed, or a check found something broken · \
        2 wrong usage, or a check could not be concluded · 64 invalid configuration";
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command failed, in words for an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CliError {
    /// How the process ends.
    pub(crate) exit: Exit,
    /// The reason, where one of the table applies.
    pub(crate) reason: Option<Reason>,
    /// What failed, on what object, why.
    pub(crate) message: String,
    /// What to do about it.
    pub(crate) help: Option<String>,
}

impl CliError {
    /// The thing asked for failed.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }

    /// The command was used wrongly.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// The configuration is invalid.
    pub(crate) fn config(message: impl Into<String>) -> Self {
        Self::new(Exit::Config, message)
    }

    fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            reason: None,
            message: message.into(),
            help: None,
        }
    }

    /// Adds what to do.
    #[must_use]
    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Adds the reason; its remedy becomes the help unless there is a better one.
    #[must_use]
    pub(crate) fn because(mut self, reason: Reason) -> Self {
        self.reason = Some(reason);
        self.help.get_or_insert_with(|| reason.remedy().to_owned());
        self
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        if let Some(reason) = self.reason {
            write!(f, " [{reason}]")?;
        }
        match &self.help {
            Some(help) => write!(f, "\nhelp:  {help}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for CliError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reasons_remedy_is_the_help_unless_there_is_a_better_one() {
        let plain = CliError::failed("invite west: refused").because(Reason::InviteRevoked);
        assert_eq!(
            plain.to_string(),
            "error: invite west: refused [InviteRevoked]\nhelp:  Make a new invite."
        );
        let better = CliError::failed("x").help("do y").because(Reason::InviteRevoked);
        assert!(better.to_string().ends_with("help:  do y"));
    }
}
