//! Log set-up: one subscriber, human or JSON lines on standard error, its filter changeable while running.
//!
//! Owns the subscriber and the filter's handle. Never formats a secret: types that hold one have no `Debug` that shows it. Called
//! by `run` at start and by the command socket for `log-level`.

use std::io::IsTerminal as _;

use parking_lot::Mutex;
use tracing_subscriber::{
    EnvFilter, Registry, fmt, layer::SubscriberExt as _, reload, util::SubscriberInitExt as _,
};

use crate::args::{AccessLog, LogArgs, LogFormat};
use crate::exit::CliError;

/// Target of access-log lines. Which streams get one is the gateway's setting; here they only pass or not.
const ACCESS_TARGET: &str = "access";
/// Longest directives accepted from the command socket, bytes: a few dozen targets.
const DIRECTIVES_MAX: usize = 4_096;

/// Changes the filter of the running process.
#[derive(Debug)]
pub(crate) struct LogLevel {
    handle: reload::Handle<EnvFilter, Registry>,
    access: AccessLog,
    current: Mutex<String>,
}

/// Installs the subscriber of this process.
///
/// # Errors
/// [`CliError`] if the directives do not parse.
pub(crate) fn init(args: &LogArgs, access: AccessLog) -> Result<LogLevel, CliError> {
    let (filter, handle) = reload::Layer::new(filter(&args.log, access)?);
    let registry = tracing_subscriber::registry().with(filter);
    let lines = fmt::layer().with_writer(std::io::stderr);
    let installed = match args.log_format {
        LogFormat::Human => registry
            .with(lines.with_ansi(std::io::stderr().is_terminal()))
            .try_init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
    };
    installed.map_err(|e| CliError::failed(format!("log: {e}")))?;
    Ok(LogLevel {
        handle,
        access,
        current: Mutex::new(args.log.clone()),
    })
}

impl LogLevel {
    /// The directives in force.
    pub(crate) fn get(&self) -> String {
        self.current.lock().clone()
    }

    /// Replaces them; on an error the old ones stay.
    pub(crate) fn set(&self, directives: &str) -> Result<(), CliError> {
        let new = filter(directives, self.access)?;
        let mut current = self.current.lock();
        self.handle
            .reload(new)
            .map_err(|e| CliError::failed(format!("log-level: {e}")))?;
        directives.clone_into(&mut current);
        Ok(())
    }
}

/// The filter for these directives; the access log has its own switch and is not touched by a bare level.
fn filter(directives: &str, access: AccessLog) -> Result<EnvFilter, CliError> {
    let help = "a level (error, warn, info, debug, trace) or directives such as info,strait_tunnel=debug";
    if directives.len() > DIRECTIVES_MAX {
        return Err(
            CliError::config(format!("log directives are longer than {DIRECTIVES_MAX} bytes")).help(help),
        );
    }
    let access = if access == AccessLog::Off { "off" } else { "info" };
    EnvFilter::builder()
        .parse(format!("{directives},{ACCESS_TARGET}={access}"))
        .map_err(|e| CliError::config(format!("log directives {directives:?}: {e}")).help(help))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_access_log_has_its_own_switch() {
        let text = |access| filter("warn", access).unwrap().to_string();
        assert!(text(AccessLog::Failed).contains("access=info"));
        assert!(text(AccessLog::All).contains("access=info"));
        assert!(text(AccessLog::Off).contains("access=off"));
    }

    #[test]
    fn bad_directives_are_refused_with_help() {
        let error = filter("info,strait=loud", AccessLog::Failed).unwrap_err();
        assert!(error.help.is_some());
        assert!(filter(&"x".repeat(DIRECTIVES_MAX + 1), AccessLog::Failed).is_err());
    }
}
