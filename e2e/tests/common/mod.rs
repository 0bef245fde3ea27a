//! A cluster of the harness as the security and joining tests drive it: edits, conditions, figures before and after, all its logs.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed"
)]

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use serde_json::Value;
use strait_e2e::{
    client::{self, Dial},
    cluster::Cluster,
    hostile::Hostile,
};
use tokio::time::{Instant, sleep};

/// Longest wait for anything; a slow machine takes longer, never another answer.
pub const PATIENCE: Duration = Duration::from_secs(45);
const POLL: Duration = Duration::from_millis(25);

/// One cluster of the harness, and the log of all its lives.
pub struct Node {
    pub name: String,
    pub cluster: Cluster,
    /// Lines of processes that are gone.
    old_log: Vec<String>,
}

/// What `/metrics` says: series with labels, and its value.
#[derive(Debug, Clone, Default)]
pub struct Figures(pub BTreeMap<String, f64>);

impl Node {
    /// Manifests for a cluster called `name` that can be dialled; not started.
    pub fn new(name: &str) -> Self {
        let node = Self {
            name: name.to_owned(),
            cluster: Cluster::new(name).unwrap(),
            old_log: Vec::new(),
        };
        node.write_cluster("");
        node
    }

    /// A started node.
    pub async fn up(name: &str) -> Self {
        let mut node = Self::new(name);
        node.start().await;
        node
    }

    /// (Re)writes the Cluster; `more` is further lines of its spec.
    pub fn write_cluster(&self, more: &str) {
        let gateway = self.gateway();
        self.write_cluster_at(&format!("[\"{gateway}\"]"), more);
    }

    /// As [`Self::write_cluster`], advertising this list.
    pub fn write_cluster_at(&self, advertise: &str, more: &str) {
        let spec = format!("  advertise: {advertise}\n  workers: 1\n{more}");
        self.cluster.settings(&spec).unwrap();
    }

    pub fn gateway(&self) -> SocketAddr {
        self.cluster.addresses().gateway
    }
    pub fn socks(&self) -> SocketAddr {
        self.cluster.addresses().socks
    }
    pub fn admin(&self) -> SocketAddr {
        self.cluster.addresses().admin
    }
    pub fn dns(&self) -> SocketAddr {
        self.cluster.addresses().dns
    }
    pub fn manifests(&self) -> PathBuf {
        self.cluster.manifests()
    }
    pub fn state(&self) -> PathBuf {
        self.cluster.state()
    }
    pub fn dir(&self) -> &Path {
        self.cluster.dir()
    }

    /// Replaces a manifest in one step.
    pub fn write(&self, file: &str, text: &str) {
        self.cluster.write(file, text).unwrap();
    }
    pub fn read(&self, file: &str) -> String {
        fs::read_to_string(self.manifests().join(file)).unwrap()
    }
    /// Replaces `from`, which must be there, by `to` in a manifest.
    pub fn edit(&self, file: &str, from: &str, to: &str) {
        let text = self.read(file);
        assert!(text.contains(from), "{from:?} is not in {file}:\n{text}");
        self.write(file, &text.replacen(from, to, 1));
    }
    pub fn remove(&self, file: &str) {
        fs::remove_file(self.manifests().join(file)).unwrap();
    }

    /// Writes a Federation with static trust in `peer`, `rules` being its exports and imports.
    pub fn trust_statically(&self, peer: &Hostile, name: &str, addresses: &str, rules: &str) {
        self.trust_bundle(name, peer.domain().as_str(), &peer.bundle(), addresses, rules);
    }
    pub fn trust_bundle(&self, name: &str, domain: &str, bundle: &str, addresses: &str, rules: &str) {
        let file = self.dir().join(format!("{name}.json"));
        let next = file.with_extension("next");
        fs::write(&next, bundle).unwrap();
        fs::rename(next, &file).unwrap();
        let text = format!(
            "apiVersion: strait.dev/v1alpha1\nkind: Federation\nmetadata: {{name: {name}}}\nspec:\n  \
             peer: {{cluster: {name}, addresses: [{addresses}]}}\n  trust: {{static: {{trustDomain: {domain}, bundleFile: {}, \
             updates: Follow}}}}\n{rules}",
            file.display()
        );
        self.write(&format!("federation-{name}.yaml"), &text);
    }

    /// Writes a Service with one endpoint, and a ServiceExport if wanted.
    pub fn serve(&self, name: &str, port: u16, endpoint: SocketAddr, export: bool) {
        let mut text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{namespace: demo, name: {name}}}\nspec:\n  ports:\n  \
             - {{name: tcp, port: {port}, targetPort: {}}}\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata:\n  namespace: demo\n  name: {name}-1\n  labels: {{kubernetes.io/service-name: {name}}}\n\
             addressType: IPv4\nports:\n- {{name: tcp, port: {}}}\nendpoints:\n- {{addresses: [{}], conditions: {{ready: true}}}}\n",
            endpoint.port(),
            endpoint.port(),
            endpoint.ip()
        );
        if export {
            text += "---\n";
            text += &export_of(name);
        }
        self.write(&format!("service-{name}.yaml"), &text);
    }

    /// Starts the process; ready when this returns.
    pub async fn start(&mut self) {
        self.launch();
        self.ready().await;
    }

    /// Starts the process and does not wait.
    pub fn launch(&mut self) {
        self.cluster.spawn(&[]).unwrap();
    }

    pub async fn ready(&mut self) {
        self.cluster.ready().await.unwrap();
    }

    /// `kill -9`.
    pub async fn kill(&mut self) {
        self.cluster.process().unwrap().kill9().await;
        self.old_log.extend(self.cluster.log());
        // Gone already: only forgotten.
        self.cluster.kill9().await.unwrap();
    }

    pub async fn restart(&mut self) {
        self.kill().await;
        self.start().await;
    }

    /// Every line written so far, also by processes that are gone.
    pub fn log(&self) -> Vec<String> {
        let mut lines = self.old_log.clone();
        lines.extend(self.cluster.log());
        lines
    }
    /// Lines that hold every one of `words`.
    pub fn lines_with(&self, words: &[&str]) -> Vec<String> {
        let all = self.log();
        let holds = |line: &String| words.iter().all(|word| line.contains(word));
        all.into_iter().filter(holds).collect()
    }

    /// A command against this node.
    pub async fn strait(&self, args: &[&str]) -> Output {
        self.cluster.strait(args).await.unwrap()
    }
    /// As [`Self::strait`], which must succeed; gives what it printed.
    pub async fn ok(&self, args: &[&str]) -> String {
        let output = self.strait(args).await;
        assert!(
            output.status.success(),
            "{args:?}: {}\n{}",
            told(&output),
            self.tail()
        );
        text(&output.stdout)
    }
    /// A command's JSON.
    pub async fn json(&self, args: &[&str]) -> Value {
        let printed = self.ok(&[args, &["-o", "json"]].concat()).await;
        serde_json::from_str(&printed).unwrap_or_else(|e| panic!("{args:?}: {e}\n{printed}"))
    }
    /// A token for `peer`.
    pub async fn invite(&self, peer: &str) -> String {
        self.ok(&["invite", peer]).await.trim().to_owned()
    }
    /// Its trust domain and bundle.
    pub async fn bundle(&self) -> (String, String) {
        let trust = self.cluster.bundle().await.unwrap();
        (trust.domain, trust.bundle)
    }

    pub async fn http(&self, path: &str) -> (u16, String) {
        let answer = client::get(&Dial::Direct(self.admin()), "localhost", path, None, PATIENCE).await;
        let answer = answer.unwrap_or_else(|e| panic!("{path}: {e:?}\n{}", self.tail()));
        (answer.status, answer.body)
    }
    pub async fn dump(&self) -> Value {
        serde_json::from_str(&self.http("/dump").await.1).unwrap()
    }
    pub async fn figures(&self) -> Figures {
        Figures::parse(&self.http("/metrics").await.1)
    }

    /// The Federation `name` as `get` shows it; null if there is none.
    pub async fn federation(&self, name: &str) -> Value {
        let all = self.json(&["get", "federations"]).await;
        let found = all
            .as_array()
            .and_then(|all| all.iter().find(|f| f["name"] == name));
        found.cloned().unwrap_or(Value::Null)
    }
    /// Reason of one condition of a Federation, `""` if there is none.
    pub async fn condition(&self, federation: &str, kind: &str) -> String {
        condition(&self.federation(federation).await, kind)
    }
    /// Waits until a condition of a Federation has this reason.
    pub async fn until_condition(&self, federation: &str, kind: &str, reason: &str) {
        let mut last = String::new();
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            last = self.condition(federation, kind).await;
            if last == reason {
                return;
            }
            sleep(POLL).await;
        }
        panic!(
            "{kind} of {federation} is {last}, never {reason}\n{}",
            self.tail()
        );
    }

    pub fn tail(&self) -> String {
        let lines = self.log();
        format!(
            "--- {}\n{}",
            self.name,
            lines[lines.len().saturating_sub(40)..].join("\n")
        )
    }

    /// Waits until a figure of this family with this label has risen by one, and nothing else of the family has.
    pub async fn exactly(&self, before: &Figures, family: &str, label: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let rises = self.figures().await.rises(before, family);
            let one = rises.len() == 1
                && rises
                    .iter()
                    .all(|(series, by)| series.contains(label) && *by == 1.0);
            if one {
                return;
            }
            assert!(
                rises.keys().all(|series| series.contains(label)),
                "{family} rose for {rises:?}, expected {label}\n{}",
                self.tail()
            );
            assert!(
                Instant::now() < deadline,
                "{family} with {label}: {rises:?}\n{}",
                self.tail()
            );
            sleep(POLL).await;
        }
    }
}

impl Figures {
    fn parse(text: &str) -> Self {
        let series = text.lines().filter(|line| !line.starts_with('#'));
        let pairs = series.filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        Self(pairs.collect())
    }
    /// One series, 0 if it is not there.
    pub fn get(&self, series: &str) -> f64 {
        self.0.get(series).copied().unwrap_or_default()
    }
    /// What rose of a family since `before`.
    pub fn rises(&self, before: &Self, family: &str) -> BTreeMap<String, f64> {
        let of_family = self
            .0
            .iter()
            .filter(|(series, _)| series.split('{').next() == Some(family));
        let rises = of_family.map(|(series, now)| (series.clone(), now - before.get(series)));
        rises.filter(|(_, by)| *by != 0.0).collect()
    }
}

pub fn condition(federation: &Value, kind: &str) -> String {
    let conditions = federation["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.iter().find(|c| c["type"] == kind);
    found
        .and_then(|c| c["reason"].as_str())
        .unwrap_or_default()
        .to_owned()
}

/// A ServiceExport whose endpoints are not probed: what reaches them came through the gateway.
pub fn export_of(name: &str) -> String {
    format!(
        "apiVersion: multicluster.x-k8s.io/v1beta1\nkind: ServiceExport\nmetadata:\n  namespace: demo\n  name: {name}\n  \
         annotations: {{strait.dev/health-check: \"off\"}}\n"
    )
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub fn told(output: &Output) -> String {
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}

/// Waits until something holds.
pub async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "never: {what}");
        sleep(POLL).await;
    }
}
