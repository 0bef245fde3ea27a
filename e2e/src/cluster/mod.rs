//! One cluster of a test: a folder of manifests, a state directory and the real `strait run` on them.
//!
//! Owns the folder, the ports, the process and questions to it. Never judges and never retries what a user would not. The folder and
//! the process are gone when the value is, however the test ends. Used by the tests of this crate.

mod manifests;
mod places;
mod star;

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::{ExitStatus, Output},
    time::Duration,
};

use serde_json::Value;
use tokio::{
    io::AsyncWriteExt,
    process::Command,
    time::{Instant, sleep},
};

pub use manifests::{Service, greeter_service};
pub use star::{Peer, PeerSpec, Star};

use crate::{
    client::Dial,
    process::{Process, ProcessError, reaper, strait_binary},
};

/// A process is up, a peer is reached, a change has arrived: each within this, many times what it takes on a busy machine of two cores.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two looks.
const POLL: Duration = Duration::from_millis(50);
/// Grace of a SIGTERM in tests, seconds: streams that never end must not hold a test for the default.
const GRACE: &str = "3";

/// Why a cluster is not what a test needs.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The system refused.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Its process.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// No binary.
    #[error("no strait to test: {0}")]
    Binary(String),
    /// A command failed.
    #[error("{cluster}: strait {arguments} failed ({status}): {stderr}")]
    Command {
        /// On which cluster.
        cluster: String,
        /// What was asked; never a token.
        arguments: String,
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        stderr: String,
    },
    /// What was waited for did not come.
    #[error(
        "{cluster}: {what} did not happen within {PATIENCE:?}; last seen: {seen}\nits last lines:\n{log}"
    )]
    TimedOut {
        /// On which cluster.
        cluster: String,
        /// What was waited for.
        what: String,
        /// The last answer.
        seen: String,
        /// Its last lines.
        log: String,
    },
    /// An answer that is none.
    #[error("{cluster}: {what}")]
    Answer {
        /// From which cluster.
        cluster: String,
        /// What is wrong.
        what: String,
    },
}

/// Short form.
pub type Result<T> = std::result::Result<T, ClusterError>;

/// Where a cluster listens; the same over all its restarts.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    /// UDP, tunnels.
    pub gateway: SocketAddr,
    /// SOCKS5.
    pub socks: SocketAddr,
    /// DNS, UDP and TCP.
    pub dns: SocketAddr,
    /// Health, metrics, dump.
    pub admin: SocketAddr,
}

/// What `strait bundle` says of a cluster, for static trust on the other side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustText {
    /// Its Strait trust domain.
    pub domain: String,
    /// Its SPIFFE bundle, JSON.
    pub bundle: String,
}

/// What a Federation of a test says beside its trust.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// `exports`, YAML in flow style; empty is none.
    pub exports: String,
    /// `imports`, YAML in flow style; empty is none.
    pub imports: String,
}

impl Rules {
    /// Exports these.
    #[must_use]
    pub fn exports(rules: &str) -> Self {
        Self {
            exports: rules.to_owned(),
            imports: String::new(),
        }
    }

    /// Imports these.
    #[must_use]
    pub fn imports(rules: &str) -> Self {
        Self {
            exports: String::new(),
            imports: rules.to_owned(),
        }
    }

    fn list(text: &str) -> &str {
        if text.is_empty() { "[]" } else { text }
    }
}

/// One cluster.
#[derive(Debug)]
pub struct Cluster {
    id: String,
    dir: tempfile::TempDir,
    binary: PathBuf,
    addresses: Addresses,
    vips: String,
    process: Option<Process>,
    /// Another program to run, with more environment.
    instead: Option<(PathBuf, Vec<(String, String)>)>,
}

impl Cluster {
    /// A cluster that nobody can dial: it advertises no address. Nothing runs yet.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub fn new(id: &str) -> Result<Self> {
        Self::with(id, "")
    }

    /// The same with further lines of the Cluster's `spec` (two blanks deep each, such as `"  advertise: [\"127.0.0.1:1\"]\n"`).
    ///
    /// # Errors
    /// [`ClusterError`].
    pub fn with(id: &str, spec: &str) -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix(&format!("strait-{id}-"))
            .tempdir()?;
        // Should the test be killed; single quotes: a temporary path has none.
        reaper::at_end(&format!("rm -rf '{}'", dir.path().display()))?;
        let port = places::port;
        let addresses = Addresses {
            gateway: port()?,
            socks: port()?,
            dns: port()?,
            admin: port()?,
        };
        let cluster = Self {
            id: id.to_owned(),
            dir,
            binary: strait_binary().map_err(ClusterError::Binary)?,
            addresses,
            vips: places::vips(),
            process: None,
            instead: None,
        };
        fs::create_dir_all(cluster.manifests())?;
        cluster.settings(spec)?;
        Ok(cluster)
    }

    /// Writes the Cluster manifest with these further lines of its `spec` instead of the earlier ones.
    ///
    /// # Errors
    /// As the system gives.
    pub fn settings(&self, spec: &str) -> io::Result<()> {
        self.write(
            "cluster.yaml",
            &manifests::cluster(&self.id, &self.addresses, &self.vips, spec),
        )
    }

    /// Its ClusterId.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where it listens.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Its folder of manifests.
    #[must_use]
    pub fn manifests(&self) -> PathBuf {
        self.dir.path().join("manifests")
    }

    /// Its state directory.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// A folder for whatever a test keeps beside the manifests.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Writes a manifest in one step: the watcher never sees half of it.
    ///
    /// # Errors
    /// As the system gives.
    pub fn write(&self, file: &str, text: &str) -> io::Result<()> {
        let next = self.manifests().join(format!(".{file}.next"));
        fs::write(&next, text)?;
        fs::rename(next, self.manifests().join(file))
    }

    /// Takes a manifest away.
    ///
    /// # Errors
    /// As the system gives.
    pub fn remove(&self, file: &str) -> io::Result<()> {
        fs::remove_file(self.manifests().join(file))
    }

    /// Writes a Service with its EndpointSlice and ServiceExport as `service-NAMESPACE-NAME.yaml`.
    ///
    /// # Errors
    /// As the system gives.
    pub fn export(&self, service: &Service) -> io::Result<()> {
        self.write(&service.file(), &service.manifests(true))
    }

    /// The same without ServiceExport: local only, or taken back.
    ///
    /// # Errors
    /// As the system gives.
    pub fn keep_local(&self, service: &Service) -> io::Result<()> {
        self.write(&service.file(), &service.manifests(false))
    }

    /// Writes the Federation `peer` with static trust as `federation-PEER.yaml`. Without `dial` the peer dials us.
    ///
    /// # Errors
    /// As the system gives.
    pub fn trust(
        &self,
        peer: &str,
        trust: &TrustText,
        dial: Option<SocketAddr>,
        rules: &Rules,
    ) -> io::Result<()> {
        let bundle = self.dir.path().join(format!("bundle-{peer}.json"));
        fs::write(&bundle, &trust.bundle)?;
        self.write(
            &format!("federation-{peer}.yaml"),
            &manifests::federation(peer, &trust.domain, &bundle, dial, rules),
        )
    }

    /// Sets `exports` and `imports` of the Federation `name`, whoever wrote its file.
    ///
    /// # Errors
    /// `NotFound` if there is none; else as the system gives.
    pub fn set_rules(&self, name: &str, rules: &Rules) -> io::Result<()> {
        let (path, text) = manifests::find_federation(&self.manifests(), name)?;
        let text = manifests::set(&text, "exports", Rules::list(&rules.exports));
        let text = manifests::set(&text, "imports", Rules::list(&rules.imports));
        let file = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        self.write(&file, &text)
    }

    /// Starts `strait run` and waits until it is ready. Also after a kill: folder, state and ports are the same.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn start(&mut self) -> Result<()> {
        self.start_with(&[]).await
    }

    /// The same with further arguments.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn start_with(&mut self, arguments: &[&str]) -> Result<()> {
        self.spawn(arguments)?;
        self.ready().await
    }

    /// Runs `binary` with these further variables from the next start on; `None` is the usual program again.
    pub fn run_instead(&mut self, instead: Option<(PathBuf, Vec<(String, String)>)>) {
        self.instead = instead;
    }

    /// Starts `strait run` and does not wait.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub fn spawn(&mut self, arguments: &[&str]) -> Result<()> {
        let mut command = match &self.instead {
            None => self.command(),
            Some((binary, variables)) => {
                let mut command = Command::new(binary);
                command.envs(variables.iter().map(|(name, value)| (name, value)));
                command
            }
        };
        command.arg("run").arg("--config").arg(self.manifests());
        command.arg("--state").arg(self.state());
        command.args(["--grace", GRACE]).args(arguments);
        self.process = Some(Process::spawn(&self.id, command)?);
        Ok(())
    }

    /// Waits until it says that it is ready.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn ready(&mut self) -> Result<()> {
        let admin = self.addresses.admin;
        Ok(self.process()?.wait_for_http(admin, "/readyz", PATIENCE).await?)
    }

    /// The running process.
    ///
    /// # Errors
    /// If none was started.
    pub fn process(&mut self) -> Result<&mut Process> {
        let missing = answer(&self.id, "it does not run");
        self.process.as_mut().ok_or(missing)
    }

    /// Process id of what was started last, dead or alive.
    #[must_use]
    pub fn pid(&self) -> Option<i32> {
        self.process.as_ref().map(Process::pid)
    }

    /// `kill -9`, and waits until it is gone.
    ///
    /// # Errors
    /// If it does not run.
    pub async fn kill9(&mut self) -> Result<()> {
        self.process()?.kill9().await;
        self.process = None;
        Ok(())
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Errors
    /// If it does not end.
    pub async fn stop(&mut self) -> Result<ExitStatus> {
        let process = self.process()?;
        process.terminate();
        let status = process.wait(PATIENCE).await?;
        self.process = None;
        Ok(status)
    }

    /// What it wrote so far.
    #[must_use]
    pub fn log(&self) -> Vec<String> {
        self.process.as_ref().map(Process::log).unwrap_or_default()
    }

    /// The binary, without the settings of whoever runs the test.
    fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("STRAIT_") {
                command.env_remove(name);
            }
        }
        command
    }

    /// Runs a command of the CLI on this cluster, whatever comes of it.
    ///
    /// # Errors
    /// As the system gives.
    pub async fn strait(&self, arguments: &[&str]) -> io::Result<Output> {
        let mut command = self.command();
        command.args(arguments).arg("--state").arg(self.state());
        command.kill_on_drop(true).output().await
    }

    /// Runs a command that must succeed; gives back what it printed.
    ///
    /// # Errors
    /// [`ClusterError::Command`].
    pub async fn ask(&self, arguments: &[&str]) -> Result<String> {
        let output = self.strait(arguments).await?;
        self.printed(&arguments.join(" "), &output)
    }

    fn printed(&self, arguments: &str, output: &Output) -> Result<String> {
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(ClusterError::Command {
            cluster: self.id.clone(),
            arguments: arguments.to_owned(),
            status: output.status,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// `strait get WHAT -o json`.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn get(&self, what: &str) -> Result<Value> {
        let text = self.ask(&["get", what, "-o", "json"]).await?;
        serde_json::from_str(&text).map_err(|e| answer(&self.id, &format!("`get {what}` gives no JSON: {e}")))
    }

    /// Trust domain and bundle, for the other side's static trust.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn bundle(&self) -> Result<TrustText> {
        let dump: Value = serde_json::from_str(&self.admin("/dump").await?)
            .map_err(|e| answer(&self.id, &format!("the dump is no JSON: {e}")))?;
        let domain = dump["status"]["controller"]["trustDomain"]
            .as_str()
            .unwrap_or_default();
        if domain.is_empty() {
            return Err(answer(&self.id, "the dump names no trust domain"));
        }
        Ok(TrustText {
            domain: domain.to_owned(),
            bundle: self.ask(&["bundle", "--raw"]).await?,
        })
    }

    /// A token for `federation`.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn invite(&self, federation: &str) -> Result<String> {
        Ok(self.ask(&["invite", federation]).await?.trim().to_owned())
    }

    /// Joins with a token given on standard input. Gives back what came of it: a refusal may be what a test wants.
    ///
    /// # Errors
    /// As the system gives.
    pub async fn try_join(&self, token: &str, federation: &str) -> io::Result<Output> {
        let mut command = self.command();
        command
            .args(["join", "-", "--name", federation, "--state"])
            .arg(self.state());
        let mut child = command
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(token.as_bytes()).await?;
        }
        child.wait_with_output().await
    }

    /// The same when it must succeed.
    ///
    /// # Errors
    /// [`ClusterError::Command`].
    pub async fn join(&self, token: &str, federation: &str) -> Result<()> {
        let output = self.try_join(token, federation).await?;
        self.printed(&format!("join - --name {federation}"), &output)
            .map(drop)
    }

    /// Body of `GET path` on the admin endpoint.
    ///
    /// # Errors
    /// If it does not answer 200.
    pub async fn admin(&self, path: &str) -> Result<String> {
        let dial = Dial::Direct(self.addresses.admin);
        match crate::client::get(&dial, "localhost", path, None, PATIENCE).await {
            Ok(page) if page.status == 200 => Ok(page.body),
            other => Err(answer(&self.id, &format!("GET {path}: {other:?}"))),
        }
    }

    /// Sum over all series of metric `name` whose labels contain each of `labels` (such as `peer="west"`); zero if there is none.
    ///
    /// # Errors
    /// If the endpoint does not answer.
    pub async fn metric(&self, name: &str, labels: &[&str]) -> Result<f64> {
        Ok(sum(&self.admin("/metrics").await?, name, labels))
    }

    /// Polls until `holds` of `get WHAT -o json`.
    ///
    /// # Errors
    /// [`ClusterError::TimedOut`] after [`PATIENCE`].
    pub async fn until(&self, what: &str, goal: &str, holds: impl Fn(&Value) -> bool) -> Result<Value> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let seen = self.get(what).await;
            if let Ok(value) = &seen
                && holds(value)
            {
                return seen;
            }
            if Instant::now() >= deadline {
                return Err(ClusterError::TimedOut {
                    cluster: self.id.clone(),
                    what: goal.to_owned(),
                    seen: format!("{seen:?}"),
                    log: self.process.as_ref().map(Process::tail).unwrap_or_default(),
                });
            }
            sleep(POLL).await;
        }
    }

    /// Waits until `service` (`namespace/name`) is imported from each of `clusters` with a live way there; gives back its first VIP.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn until_imported(&self, service: &str, clusters: &[&str]) -> Result<IpAddr> {
        let goal = format!("import of {service} from {clusters:?}");
        let tunnelled = |tunnels: &Value| clusters.iter().all(|c| manifests::has_usable_tunnel(tunnels, c));
        self.until("tunnels", &format!("tunnels to {clusters:?}"), tunnelled)
            .await?;
        let complete = |imports: &Value| {
            clusters
                .iter()
                .all(|c| manifests::is_imported_from(imports, service, c))
        };
        let imports = self.until("imports", &goal, complete).await?;
        // Without clusters to wait for, the import may still be missing.
        manifests::vip(&imports, service).ok_or_else(|| answer(&self.id, &format!("{service} has no VIP")))
    }

    /// Through SOCKS to a clusterset name.
    #[must_use]
    pub fn socks(&self, namespace: &str, name: &str, port: u16) -> Dial {
        self.socks_to(&format!("{name}.{namespace}.svc.clusterset.local"), port)
    }

    /// Through SOCKS to any host.
    #[must_use]
    pub fn socks_to(&self, host: &str, port: u16) -> Dial {
        Dial::Socks {
            proxy: self.addresses.socks,
            host: host.to_owned(),
            port,
        }
    }
}

/// A failed test shows what its clusters said last.
impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(process) = self.process.as_ref().filter(|_| std::thread::panicking()) {
            eprintln!("--- {} ended the test with:\n{}", self.id, process.tail());
        }
    }
}

fn answer(cluster: &str, what: &str) -> ClusterError {
    ClusterError::Answer {
        cluster: cluster.to_owned(),
        what: what.to_owned(),
    }
}

/// Sum over the series of `name` in the text format of Prometheus.
fn sum(page: &str, name: &str, labels: &[&str]) -> f64 {
    let of_name = |line: &&str| {
        line.strip_prefix(name)
            .is_some_and(|rest| rest.starts_with(['{', ' ']))
    };
    page.lines()
        .filter(of_name)
        .filter(|line| labels.iter().all(|label| line.contains(label)))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

/// Both trust each other by bundles. `importer` dials `exporter` at `dial` (its gateway, or a link before it) and imports by the rules
/// `import` what the other exports by the rules `rule`. Both must run.
///
/// # Errors
/// [`ClusterError`].
pub async fn federate(
    importer: &Cluster,
    exporter: &Cluster,
    dial: SocketAddr,
    rule: &str,
    import: &str,
) -> Result<()> {
    let (importers, exporters) = (importer.bundle().await?, exporter.bundle().await?);
    exporter.trust(importer.id(), &importers, None, &Rules::exports(rule))?;
    importer.trust(exporter.id(), &exporters, Some(dial), &Rules::imports(import))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_summed_by_name_and_label() {
        let page = "# HELP a x\na_total{peer=\"west\",x=\"1\"} 2\na_total{peer=\"west\",x=\"2\"} 3.5\na_total{peer=\"north\"} 10\na_total_more 7\nb 4\n";
        assert_eq!(sum(page, "a_total", &["peer=\"west\""]), 5.5);
        assert_eq!(sum(page, "a_total", &[]), 15.5);
        assert_eq!(sum(page, "b", &[]), 4.0);
        assert_eq!(sum(page, "c", &[]), 0.0);
    }
}
