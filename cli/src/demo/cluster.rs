//! One cluster of the demo: its folder, its ports and its two processes.
//!
//! Owns starting, killing and asking them. Never judges. Used by the story.

use std::{
    fs::{self, File, OpenOptions},
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use super::ports::Ports;
use crate::local::{Client, LocalError, Reply, Request, StatusReply};

/// Name, port and namespace of the demo's service.
pub(crate) const SERVICE: &str = "demo/greeter";
/// Port of the service in every cluster.
pub(crate) const SERVICE_PORT: u16 = 8080;
/// Its clusterset name.
pub(crate) const SERVICE_NAME: &str = "greeter.demo.svc.clusterset.local";
/// Lines of its log shown when a step fails.
const LOG_TAIL: usize = 8;

/// Addresses of one cluster.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Addresses {
    /// UDP, tunnels.
    pub(crate) gateway: SocketAddr,
    /// SOCKS5.
    pub(crate) socks: SocketAddr,
    /// DNS.
    pub(crate) dns: SocketAddr,
    /// Health and metrics.
    pub(crate) admin: SocketAddr,
    /// The greeter.
    pub(crate) greeter: SocketAddr,
}

impl Addresses {
    fn choose(ports: &mut Ports) -> io::Result<Self> {
        let mut next = || {
            ports
                .free()
                .map(|port| SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)))
        };
        Ok(Self {
            gateway: next()?,
            socks: next()?,
            dns: next()?,
            admin: next()?,
            greeter: next()?,
        })
    }
}

/// One cluster. Dropping it kills its processes.
#[derive(Debug)]
pub(crate) struct Cluster {
    /// Its id.
    pub(crate) name: &'static str,
    /// Its addresses.
    pub(crate) addresses: Addresses,
    dir: PathBuf,
    strait: Option<Child>,
    greeter: Option<Child>,
}

impl Cluster {
    /// Makes the folder of cluster `name` under `demo`.
    ///
    /// # Errors
    /// As the system gives.
    pub(crate) fn new(demo: &Path, name: &'static str, ports: &mut Ports) -> io::Result<Self> {
        let dir = demo.join(name);
        let cluster = Self {
            name,
            addresses: Addresses::choose(ports)?,
            dir,
            strait: None,
            greeter: None,
        };
        fs::create_dir_all(cluster.manifests())?;
        fs::create_dir_all(cluster.state())?;
        fs::write(cluster.greeting(), "Hello\n")?;
        fs::write(cluster.seen(), "")?;
        Ok(cluster)
    }

    /// Folder of its manifests.
    pub(crate) fn manifests(&self) -> PathBuf {
        self.dir.join("manifests")
    }

    /// Its state directory.
    pub(crate) fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// Its folder.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// File the greeter appends request ids to.
    pub(crate) fn seen(&self) -> PathBuf {
        self.dir.join("seen")
    }

    fn greeting(&self) -> PathBuf {
        self.dir.join("greeting")
    }

    fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// Starts `strait run`, and the greeter if this cluster has one.
    ///
    /// # Errors
    /// As the system gives.
    pub(crate) fn start(&mut self, with_greeter: bool) -> io::Result<()> {
        if with_greeter {
            let greeter = self.addresses.greeter.to_string();
            let mut command = self.command("demo-greeter")?;
            command.args(["--cluster", self.name, "--listen", &greeter]);
            command
                .arg("--seen")
                .arg(self.seen())
                .arg("--greeting")
                .arg(self.greeting());
            self.greeter = Some(command.spawn()?);
        }
        let mut command = self.command("run")?;
        command
            .arg("--config")
            .arg(self.manifests())
            .arg("--state")
            .arg(self.state());
        self.strait = Some(command.spawn()?);
        Ok(())
    }

    /// A command of this very binary, tied to us, away from our terminal and environment.
    fn command(&self, name: &str) -> io::Result<Command> {
        use std::os::unix::process::CommandExt as _;
        let log: File = OpenOptions::new().create(true).append(true).open(self.log())?;
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg(name)
            .arg("--die-with")
            .arg(std::process::id().to_string());
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // Ctrl-C in a terminal goes to the whole group; the demo alone decides when its clusters end.
        command.process_group(0);
        let settings = std::env::vars_os()
            .map(|(name, _)| name)
            .filter(|n| n.to_string_lossy().starts_with("STRAIT_"));
        settings.for_each(|name| {
            command.env_remove(name);
        });
        Ok(command)
    }

    /// Kills both processes as `kill -9` does, and waits until they are gone.
    pub(crate) fn kill(&mut self) {
        let children: Vec<Child> = self
            .strait
            .take()
            .into_iter()
            .chain(self.greeter.take())
            .collect();
        reap(children);
    }

    /// Process ids that run now: strait, greeter.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.strait.iter().chain(&self.greeter).map(Child::id).collect()
    }

    /// Says so if a process that should run has ended.
    ///
    /// # Errors
    /// Words for the step that found out.
    pub(crate) fn alive(&mut self) -> Result<(), String> {
        let name = self.name;
        for (what, child) in [("strait", &mut self.strait), ("greeter", &mut self.greeter)] {
            if let Some(running) = child
                && let Ok(Some(status)) = running.try_wait()
            {
                return Err(format!(
                    "{name}'s {what} process (pid {}) has ended: {status}",
                    running.id()
                ));
            }
        }
        Ok(())
    }

    /// Asks the running process.
    ///
    /// # Errors
    /// Its refusal, or why it could not be asked.
    pub(crate) async fn ask(&self, request: Request) -> Result<Reply, String> {
        let told = |e: LocalError| {
            format!(
                "{}: {e}{}",
                self.name,
                e.help().map(|h| format!(" ({h})")).unwrap_or_default()
            )
        };
        Client::new(&self.state()).call(request).await.map_err(told)
    }

    /// How it is.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub(crate) async fn status(&self) -> Result<StatusReply, String> {
        match self.ask(Request::Status).await? {
            Reply::Status(status) => Ok(*status),
            other => Err(format!("{}: unexpected reply {other:?}", self.name)),
        }
    }

    /// The last lines of its log that tell of trouble.
    pub(crate) fn troubles(&self) -> Vec<String> {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let trouble = |line: &&str| {
            ["ERROR", "WARN", "error:", "panicked"]
                .iter()
                .any(|word| line.contains(word))
        };
        let lines: Vec<&str> = log.lines().filter(trouble).collect();
        lines[lines.len().saturating_sub(LOG_TAIL)..]
            .iter()
            .map(|line| format!("{}: {line}", self.name))
            .collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Kills all first, then waits, so that they go together.
pub(crate) fn reap(mut children: Vec<Child>) {
    for child in &mut children {
        let _ = child.kill(); // already gone is what we want
    }
    for mut child in children {
        let _ = child.wait();
    }
}
