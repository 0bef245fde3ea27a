//! The commands: each parses nothing and decides nothing, it asks the running process (or a file) and prints.
//!
//! Owns dispatch, the runtime of short commands, and how a result becomes output and exit code. Called by `main`.

mod change;
mod check;
mod completions;
mod repair;
mod show;
mod token;
mod validate;

use std::{
    io::{self, Read as _, Write as _},
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

use clap::Parser as _;

use crate::{
    args::{Cli, Command, StateArg},
    demo,
    exit::{CliError, Exit},
    local::{Client, LocalError, Reply, Request},
    run,
};

/// Longest text read from standard input, bytes: far above any token.
const STDIN_MAX: u64 = 64 << 10;

/// Parses the command line, carries it out, and says how it ended.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            let _ = e.print(); // nowhere left to report to
            return if e.use_stderr() {
                Exit::Usage.into()
            } else {
                Exit::Ok.into()
            };
        }
    };
    match dispatch(cli.command) {
        Ok(exit) => exit.into(),
        Err(e) => {
            let _ = writeln!(io::stderr(), "{e}");
            e.exit.into()
        }
    }
}

fn dispatch(command: Command) -> Result<Exit, CliError> {
    match command {
        Command::DemoGreeter(args) => demo::greeter(args),
        Command::DemoJanitor { dir } => demo::janitor(&dir),
        Command::Invite(args) => short(change::invite(args)),
        Command::Join(args) => short(change::join(args)),
        Command::Drain(args) => short(change::drain(args)),
        Command::RotateRoot(args) => short(change::rotate_root(args)),
        Command::LogLevel(args) => short(change::log_level(args)),
        Command::Get(args) => short(show::get(args)),
        Command::Status(args) => short(show::status(args)),
        Command::Bundle(args) => short(show::bundle(args)),
        Command::Run(args) => run::run(args),
        Command::Check(args) => short(check::check(args)),
        Command::Demo(args) => demo::demo(&args),
        Command::Validate(args) => short(validate::validate(args)),
        Command::Repair(args) => repair::repair(&args),
        Command::Token(command) => token::token(command),
        Command::Completions { shell } => completions::completions(shell),
        Command::Version => completions::version(),
    }
}

/// Runs a command that only waits for one conversation.
fn short(command: impl Future<Output = Result<Exit, CliError>>) -> Result<Exit, CliError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| CliError::failed(format!("cannot start: {e}")))?
        .block_on(command)
}

/// Asks the running process.
async fn ask(state: &StateArg, request: Request) -> Result<Reply, CliError> {
    Client::new(&state.state).call(request).await.map_err(Into::into)
}

impl From<LocalError> for CliError {
    fn from(e: LocalError) -> Self {
        let error = Self::failed(e.to_string());
        let error = match e.help() {
            Some(help) => error.help(help),
            None => error,
        };
        match e {
            LocalError::Refused(failure) => match failure.reason {
                Some(reason) => error.because(reason),
                None => error,
            },
            _ => error,
        }
    }
}

/// The process answered something else than was asked: it is of another version.
fn unexpected(reply: &Reply) -> CliError {
    CliError::failed(format!(
        "the running strait gave an answer of another kind ({reply:?})"
    ))
    .help("use the binary the process runs, or restart it")
}

/// Writes to standard output; a reader that went away (`| head`) is no error.
fn emit(text: &str) -> Result<Exit, CliError> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            Err(CliError::failed(format!("standard output: {e}")))
        }
        _ => Ok(Exit::Ok),
    }
}

/// The argument, or standard input for `-`. Surrounding blanks are no part of it.
fn text_or_stdin(argument: &str) -> Result<String, CliError> {
    if argument != "-" {
        return Ok(argument.trim().to_owned());
    }
    let mut text = String::new();
    let read = io::stdin().lock().take(STDIN_MAX).read_to_string(&mut text);
    read.map_err(|e| CliError::failed(format!("standard input: {e}")))?;
    Ok(text.trim().to_owned())
}

/// Now, Unix seconds.
pub(crate) fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
