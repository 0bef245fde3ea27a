//! Ends what a killed test leaves behind.
//!
//! One shell a test process, fed with the groups that are alive; when its pipe closes, for whatever reason, it kills what is still on
//! the list and runs the clean-up lines it was given. It is in a group of its own, so that Ctrl-C does not end it first.

use std::{
    io::{self, Write},
    os::unix::process::CommandExt,
    process::{ChildStdin, Command, Stdio},
    sync::{Mutex, PoisonError},
};

use rustix::process::Pid;

/// Lines are `+PID`, `-PID` or `!COMMAND`.
const SCRIPT: &str = r#"
trap '' INT TERM HUP
pids=' '
todo=
while IFS= read -r line; do
  case $line in
    +*) pids="$pids${line#+} ";;
    -*) p=${line#-}; case $pids in *" $p "*) pids="${pids%% $p *} ${pids#* $p }";; esac;;
    !*) todo="$todo
${line#!}";;
  esac
done
for p in $pids; do kill -9 "-$p" 2>/dev/null; done
eval "$todo" >/dev/null 2>&1
"#;

static REAPER: Mutex<Option<ChildStdin>> = Mutex::new(None);

/// A group on the reaper's list until dropped.
pub(super) struct Registration(Pid);

pub(super) fn register(pid: Pid) -> io::Result<Registration> {
    tell(&format!("+{}", pid.as_raw_nonzero()))?;
    Ok(Registration(pid))
}

impl Drop for Registration {
    fn drop(&mut self) {
        let _ = tell(&format!("-{}", self.0.as_raw_nonzero()));
    }
}

/// A shell line to run when this process is gone, however it went. It should do no harm if there is nothing to clean up.
///
/// # Errors
/// If the reaper cannot be started.
pub(crate) fn at_end(command: &str) -> io::Result<()> {
    tell(&format!("!{command}"))
}

fn tell(line: &str) -> io::Result<()> {
    let mut reaper = REAPER.lock().unwrap_or_else(PoisonError::into_inner);
    if reaper.is_none() {
        *reaper = Some(start()?);
    }
    match reaper.as_mut() {
        Some(pipe) => writeln!(pipe, "{line}"),
        None => Ok(()),
    }
}

fn start() -> io::Result<ChildStdin> {
    let mut command = Command::new("sh");
    command.args(["-c", SCRIPT]).process_group(0);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = command.spawn()?;
    child
        .stdin
        .take()
        .ok_or_else(|| io::Error::other("the reaper has no pipe"))
}
