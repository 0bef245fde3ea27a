//! Real processes: started, watched, killed, and gone for sure when the test is.
//!
//! Owns children with everything they started, their logs, and the reaper that ends them even if the test itself is killed. Never
//! leaves one behind: a panic drops, a kill -9 of the test closes the reaper's pipe. Used by tests and benches.

mod binary;
pub(crate) mod reaper;

use std::{
    fmt, io,
    net::SocketAddr,
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::{Child, Command},
    sync::watch,
    time::{Instant, sleep, timeout},
};

pub use binary::{crash_binary, strait_binary};

/// Log lines kept of one process, at most; the oldest go first.
const LINES_MAX: usize = 20_000;
/// Log lines shown with an error.
const LINES_SHOWN: usize = 30;
/// Pause between two looks at something that has no signal.
const POLL: Duration = Duration::from_millis(20);

/// Why a process is not what a test needs.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// It cannot be started.
    #[error("{name} cannot be started: {source}")]
    Spawn {
        /// Its name.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// What was waited for did not come in time.
    #[error("{name}: {what} did not happen within {patience:?}; its last lines:\n{log}")]
    TimedOut {
        /// Its name.
        name: String,
        /// What was waited for.
        what: String,
        /// How long.
        patience: Duration,
        /// Its last lines.
        log: String,
    },
    /// It ended first.
    #[error("{name} ended ({status}) before {what}; its last lines:\n{log}")]
    Ended {
        /// Its name.
        name: String,
        /// How.
        status: String,
        /// What was waited for.
        what: String,
        /// Its last lines.
        log: String,
    },
}

/// A running process and its group.
pub struct Process {
    name: String,
    pid: Pid,
    child: Child,
    log: Log,
    _registered: reaper::Registration,
}

/// Lines of standard output and error, in order of arrival.
#[derive(Clone)]
struct Log {
    lines: Arc<Mutex<Vec<String>>>,
    grew: watch::Sender<u64>,
}

impl Log {
    fn new() -> Self {
        Self {
            lines: Arc::default(),
            grew: watch::Sender::new(0),
        }
    }

    fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn follow(&self, stream: impl AsyncRead + Unpin + Send + 'static) {
        let log = self.clone();
        tokio::spawn(async move {
            let mut lines = BufReader::new(stream).split(b'\n');
            while let Ok(Some(line)) = lines.next_segment().await {
                let mut kept = log.lines.lock().unwrap_or_else(PoisonError::into_inner);
                if kept.len() >= LINES_MAX {
                    kept.drain(..LINES_MAX / 10);
                }
                kept.push(String::from_utf8_lossy(&line).into_owned());
                drop(kept);
                log.grew.send_modify(|n| *n += 1);
            }
        });
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.name, self.pid.as_raw_nonzero())
    }
}

impl Process {
    /// Starts `command` in a group of its own, its output captured. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`ProcessError::Spawn`].
    pub fn spawn(name: &str, mut command: Command) -> Result<Self, ProcessError> {
        let failed = |source| ProcessError::Spawn {
            name: name.to_owned(),
            source,
        };
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let raw = child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw);
        let pid = raw.ok_or_else(|| failed(io::Error::other("it has no process id")))?;
        let registered = reaper::register(pid).map_err(failed)?;
        let log = Log::new();
        if let Some(stdout) = child.stdout.take() {
            log.follow(stdout);
        }
        if let Some(stderr) = child.stderr.take() {
            log.follow(stderr);
        }
        Ok(Self {
            name: name.to_owned(),
            pid,
            child,
            log,
            _registered: registered,
        })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Everything it wrote, line by line.
    #[must_use]
    pub fn log(&self) -> Vec<String> {
        self.log.lines()
    }

    /// Its last lines, for messages.
    #[must_use]
    pub fn tail(&self) -> String {
        let lines = self.log();
        lines[lines.len().saturating_sub(LINES_SHOWN)..].join("\n")
    }

    /// Waits for a line that contains `text`, also one already written; gives it back.
    ///
    /// # Errors
    /// If it does not come within `patience`, or the process ends first.
    pub async fn wait_for_line(&mut self, text: &str, patience: Duration) -> Result<String, ProcessError> {
        let mut grew = self.log.grew.subscribe();
        let log = self.log.clone();
        let find = move || log.lines().into_iter().find(|line| line.contains(text));
        let what = format!("a line with {text:?}");
        let deadline = Instant::now() + patience;
        loop {
            grew.mark_unchanged();
            if let Some(line) = find() {
                return Ok(line);
            }
            if Instant::now() >= deadline {
                return Err(self.timed_out(&what, patience));
            }
            let ended = self.try_ended();
            // Time for lines still in the pipe.
            let _ = timeout(POLL, grew.changed()).await;
            if let (Some(status), None) = (ended, find()) {
                return Err(self.ended(&status, &what));
            }
        }
    }

    /// Waits until `GET path` on `address` answers 200.
    ///
    /// # Errors
    /// If it does not within `patience`, or the process ends first.
    pub async fn wait_for_http(
        &mut self,
        address: SocketAddr,
        path: &str,
        patience: Duration,
    ) -> Result<(), ProcessError> {
        let dial = crate::client::Dial::Direct(address);
        let what = format!("200 from http://{address}{path}");
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            let request = crate::client::get(&dial, "localhost", path, None, Duration::from_secs(1));
            if matches!(request.await, Ok(answer) if answer.status == 200) {
                return Ok(());
            }
            if let Some(status) = self.try_ended() {
                return Err(self.ended(&status, &what));
            }
            sleep(POLL).await;
        }
        Err(self.timed_out(&what, patience))
    }

    /// `kill -9` of the process alone, and waits until it is gone: what it started is left to itself, as in an accident.
    pub async fn kill9(&mut self) {
        let _ = kill_process(self.pid, Signal::KILL);
        let _ = self.child.wait().await;
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        let _ = kill_process(self.pid, Signal::TERM);
    }

    /// SIGSTOP: alive and mute, unlike a death.
    pub fn pause(&self) {
        let _ = kill_process(self.pid, Signal::STOP);
    }

    /// SIGCONT.
    pub fn resume(&self) {
        let _ = kill_process(self.pid, Signal::CONT);
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// If it does not end within `patience`.
    pub async fn wait(&mut self, patience: Duration) -> Result<ExitStatus, ProcessError> {
        match timeout(patience, self.child.wait()).await {
            Ok(Ok(status)) => Ok(status),
            Ok(Err(source)) => Err(ProcessError::Spawn {
                name: self.name.clone(),
                source,
            }),
            Err(_) => Err(self.timed_out("its end", patience)),
        }
    }

    /// Resident memory, bytes.
    ///
    /// # Errors
    /// If it is gone, or the system has no /proc.
    pub fn resident(&self) -> io::Result<u64> {
        resident(self.pid())
    }

    fn try_ended(&mut self) -> Option<String> {
        self.child
            .try_wait()
            .ok()
            .flatten()
            .map(|status| status.to_string())
    }

    fn timed_out(&self, what: &str, patience: Duration) -> ProcessError {
        ProcessError::TimedOut {
            name: self.name.clone(),
            what: what.to_owned(),
            patience,
            log: self.tail(),
        }
    }

    fn ended(&self, status: &str, what: &str) -> ProcessError {
        ProcessError::Ended {
            name: self.name.clone(),
            status: status.to_owned(),
            what: what.to_owned(),
            log: self.tail(),
        }
    }
}

/// The whole group goes, also what the process left behind.
impl Drop for Process {
    fn drop(&mut self) {
        let _ = kill_process_group(self.pid, Signal::KILL);
    }
}

/// Resident memory of a process, bytes.
///
/// # Errors
/// If it is gone, or the system has no /proc.
pub fn resident(pid: i32) -> io::Result<u64> {
    status_bytes(pid, "VmRSS:")
}

/// Of that, what is no page of a file: without code, so that builds of every profile compare.
///
/// # Errors
/// If it is gone, or the system has no /proc.
pub fn resident_anonymous(pid: i32) -> io::Result<u64> {
    status_bytes(pid, "RssAnon:")
}

fn status_bytes(pid: i32, field: &str) -> io::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kib = line.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.map(|kib| kib * 1024)
        .ok_or_else(|| io::Error::other(format!("no {field} the process has ended")))
}

/// A process with this id exists and is no zombie.
#[must_use]
pub fn is_alive(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !stat
            .rsplit(')')
            .next()
            .is_some_and(|rest| rest.trim_start().starts_with('Z'))
    })
}

#[cfg(test)]
mod tests;
