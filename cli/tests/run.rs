//! One real `strait run`: its start, its socket, its admin endpoint, its end.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

/// Longest wait for anything; a slow machine takes longer, never a different answer.
const PATIENCE: Duration = Duration::from_secs(30);

struct Cluster {
    dir: tempfile::TempDir,
}

impl Cluster {
    fn new() -> Self {
        Self::named("east", "listen: 127.0.0.1:0")
    }

    /// `more`: what else the Cluster's spec says, at least where it listens.
    fn named(id: &str, more: &str) -> Self {
        let cluster = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        fs::create_dir(cluster.manifests()).unwrap();
        let manifest = format!(
            "apiVersion: strait.dev/v1alpha1\nkind: Cluster\nmetadata: {{name: {id}}}\nspec:\n  socks: 127.0.0.1:0\n  \
             admin: 127.0.0.1:0\n  dns: {{listen: \"127.0.0.1:0\"}}\n  workers: 1\n  {more}\n"
        );
        fs::write(cluster.manifests().join("cluster.yaml"), manifest).unwrap();
        cluster
    }

    fn manifests(&self) -> PathBuf {
        self.dir.path().join("manifests")
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_strait"));
        command
            .arg("run")
            .arg("--config")
            .arg(self.manifests())
            .arg("--state")
            .arg(self.state());
        command
    }

    fn start(&self) -> Running {
        self.start_with(&["--grace", "1"])
    }

    fn start_with(&self, args: &[&str]) -> Running {
        let mut child = self
            .command()
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut banner = String::new();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        while !banner.contains("manifests ") {
            assert_ne!(
                lines.read_line(&mut banner).unwrap(),
                0,
                "it ended early:\n{banner}"
            );
        }
        let running = Running { child, banner };
        until("ready", || self.strait(&["status"]).status.success());
        running
    }

    fn strait(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_strait"))
            .args(args)
            .arg("--state")
            .arg(self.state())
            .output()
            .unwrap()
    }

    fn socket(&self) -> PathBuf {
        self.state().join("control.sock")
    }
}

struct Running {
    child: Child,
    banner: String,
}

impl Running {
    fn address(&self, label: &str) -> String {
        let line = self.banner.lines().find(|l| l.starts_with(label)).unwrap();
        line.split_ascii_whitespace().next_back().unwrap().to_owned()
    }

    fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address("admin")).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        )
        .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    fn signal(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    fn terminate(mut self) -> i32 {
        self.signal();
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap();
            }
            assert!(start.elapsed() < PATIENCE, "it does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "never {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn text(output: &[u8]) -> String {
    String::from_utf8(output.to_vec()).unwrap()
}

#[test]
fn it_starts_serves_and_ends_on_sigterm() {
    let cluster = Cluster::new();
    let running = cluster.start();

    assert_eq!(mode(&cluster.socket()), 0o600);
    assert_eq!(mode(&cluster.state().join("snapshot.json")), 0o600);
    assert_eq!(running.get("/livez").0, 200);
    assert_eq!(running.get("/readyz"), (200, "ok\n".to_owned()));
    let metrics = running.get("/metrics").1;
    for name in [
        "strait_build_info",
        "strait_process_resident_memory_bytes",
        "strait_dns_udp_total",
        "strait_config_valid 1",
    ] {
        assert!(metrics.contains(name), "{name} is missing:\n{metrics}");
    }
    let dump: serde_json::Value = serde_json::from_str(&running.get("/dump").1).unwrap();
    assert_eq!(dump["snapshot"]["cluster"], "east");

    let gateways = text(&cluster.strait(&["get", "gateways"]).stdout);
    assert!(gateways.contains(&running.address("gateway")), "{gateways}");
    let bundle = text(&cluster.strait(&["bundle", "--raw"]).stdout);
    assert!(serde_json::from_str::<serde_json::Value>(&bundle).unwrap()["keys"].is_array());

    assert_eq!(running.terminate(), 0);
    assert!(!cluster.socket().exists(), "the socket is taken away");
}

#[test]
fn the_log_level_changes_while_it_runs_and_a_wrong_one_does_not() {
    let cluster = Cluster::new();
    let _running = cluster.start();
    assert_eq!(text(&cluster.strait(&["log-level"]).stdout), "info\n");
    assert_eq!(text(&cluster.strait(&["log-level", "debug"]).stdout), "debug\n");
    let wrong = cluster.strait(&["log-level", "info,x=loud"]);
    assert_eq!(wrong.status.code(), Some(1));
    assert!(text(&wrong.stderr).contains("help:"));
    assert_eq!(text(&cluster.strait(&["log-level"]).stdout), "debug\n");
}

#[test]
fn an_invite_is_made_listed_decoded_and_revoked() {
    let cluster = Cluster::named(
        "east",
        "listen: 127.0.0.1:0\n  advertise: [\"gw.east.example:7443\"]",
    );
    let _running = cluster.start();
    let invited = cluster.strait(&["invite", "west"]);
    let token = text(&invited.stdout).trim().to_owned();
    assert!(
        invited.status.success() && token.starts_with("straitjoin1_"),
        "{}",
        text(&invited.stderr)
    );

    let mut decode = Command::new(env!("CARGO_BIN_EXE_strait"))
        .args(["token", "decode", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    decode.stdin.take().unwrap().write_all(token.as_bytes()).unwrap();
    let decoded = text(&decode.wait_with_output().unwrap().stdout);
    assert!(
        decoded.contains("gw.east.example:7443") && decoded.contains("(not shown)"),
        "{decoded}"
    );

    let list = |state: &str| text(&cluster.strait(&["invite", "--list"]).stdout).contains(state);
    until("listed", || list("InviteOpen"));
    assert!(cluster.strait(&["invite", "west", "--revoke"]).status.success());
    until("revoked", || list("InviteRevoked"));
}

#[test]
fn a_second_process_on_the_same_state_is_refused_and_the_first_goes_on() {
    let cluster = Cluster::new();
    let _running = cluster.start();
    let second = cluster.command().output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(
        text(&second.stderr).contains("StateLocked"),
        "{}",
        text(&second.stderr)
    );
    assert!(
        cluster.strait(&["status"]).status.success(),
        "its socket is still there"
    );
}

#[test]
fn invalid_manifests_end_the_start_with_64_and_every_mistake() {
    let cluster = Cluster::new();
    fs::write(
        cluster.manifests().join("west.yaml"),
        "apiVersion: strait.dev/v1alpha1\nkind: Federatoin\n",
    )
    .unwrap();
    let output = cluster.command().output().unwrap();
    assert_eq!(output.status.code(), Some(64), "{}", text(&output.stderr));
    assert!(
        text(&output.stderr).contains("west.yaml:"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn a_broken_edit_keeps_the_last_good_state_and_says_so() {
    let cluster = Cluster::new();
    let running = cluster.start();
    fs::write(cluster.manifests().join("west.yaml"), "kind: [\n").unwrap();
    until("told", || !cluster.strait(&["status"]).status.success());
    assert!(text(&cluster.strait(&["status"]).stdout).contains("ConfigInvalid"));
    assert!(running.get("/metrics").1.contains("strait_config_valid 0"));
    assert_eq!(running.get("/readyz").0, 200, "what was good goes on");
    fs::remove_file(cluster.manifests().join("west.yaml")).unwrap();
    until("well again", || cluster.strait(&["status"]).status.success());
}

#[test]
fn killed_and_started_again_it_takes_its_place() {
    let cluster = Cluster::new();
    let trust_domain = {
        let running = cluster.start();
        running.address("trust domain")
    };
    assert!(cluster.socket().exists(), "a killed process cannot tidy up");
    let running = cluster.start();
    assert_eq!(running.address("trust domain"), trust_domain);
}

#[test]
fn checking_what_does_not_exist_is_inconclusive() {
    let cluster = Cluster::new();
    let _running = cluster.start();
    assert_eq!(cluster.strait(&["check"]).status.code(), Some(2));
    assert_eq!(cluster.strait(&["check", "nobody"]).status.code(), Some(2));
    let service = cluster.strait(&["check", "demo/greeter"]);
    assert_eq!(
        service.status.code(),
        Some(1),
        "a service that nobody offers is told"
    );
    assert!(text(&service.stdout).contains("FAIL"));
}

#[test]
fn validate_diff_tells_what_a_change_would_take_away() {
    let cluster = Cluster::new();
    let exported = "apiVersion: v1\nkind: Service\nmetadata: {namespace: demo, name: greeter}\nspec: {ports: [{port: 80}]}\n---\n\
                    apiVersion: multicluster.x-k8s.io/v1beta1\nkind: ServiceExport\nmetadata: {namespace: demo, name: greeter}\n";
    fs::write(cluster.manifests().join("greeter.yaml"), exported).unwrap();
    let next = cluster.dir.path().join("next");
    fs::create_dir(&next).unwrap();
    let federation = "apiVersion: strait.dev/v1alpha1\nkind: Federation\nmetadata: {name: west}\nspec:\n  \
                      trust: {invite: {}}\n  exports: [{namespace: demo, name: greeter}]\n";
    fs::write(cluster.manifests().join("west.yaml"), federation).unwrap();
    fs::write(
        next.join("west.yaml"),
        federation.replace("name: greeter", "name: other"),
    )
    .unwrap();
    fs::copy(
        cluster.manifests().join("cluster.yaml"),
        next.join("cluster.yaml"),
    )
    .unwrap();
    let diff = |dir: &Path| cluster.strait(&["validate", dir.to_str().unwrap(), "--diff"]);
    assert_eq!(diff(&next).status.code(), Some(1), "nothing is in force yet");

    let running = cluster.start();
    assert!(text(&diff(&cluster.manifests()).stdout).contains("withdraws and cuts nothing"));
    let changed = diff(&next);
    assert_eq!(changed.status.code(), Some(0));
    assert!(
        text(&changed.stdout).contains("change: ") && text(&changed.stdout).contains("demo/greeter"),
        "{}",
        text(&changed.stdout)
    );
    drop(running);
    assert!(text(&diff(&next).stdout).contains("no strait runs there"));
}

#[test]
fn two_clusters_join_by_commands() {
    // Free when asked for; nothing else on this machine takes it within the test.
    let free = std::net::UdpSocket::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let east = Cluster::named(
        "east",
        &format!("listen: {free}\n  advertise: [\"{free}\"]\n  allowLoopback: true"),
    );
    let west = Cluster::named("west", "listen: 127.0.0.1:0\n  allowLoopback: true");
    let (_east_running, _west_running) = (east.start(), west.start());
    let token = text(&east.strait(&["invite", "west"]).stdout);

    let mut join = Command::new(env!("CARGO_BIN_EXE_strait"));
    join.args(["join", "-", "--name", "the-east", "--state"])
        .arg(west.state());
    let mut join = join
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    join.stdin.take().unwrap().write_all(token.as_bytes()).unwrap();
    let joined = join.wait_with_output().unwrap();
    assert!(joined.status.success(), "{}", text(&joined.stderr));
    assert_eq!(text(&joined.stdout), "joined east as federation \"the-east\"\n");

    until("joined on the other side", || {
        text(&east.strait(&["invite", "--list"]).stdout).contains("Trusted")
    });
    let federations = east.strait(&["get", "federations", "west", "-o", "json"]);
    let federations: serde_json::Value = serde_json::from_slice(&federations.stdout).unwrap();
    assert_eq!(federations[0]["cluster"], "west");
    assert_eq!(
        federations[0]["addresses"],
        serde_json::json!([]),
        "west dials out"
    );

    let manifest = west.manifests().join("the-east.yaml");
    for (args, mode) in [
        (&["drain", "the-east"][..], "mode: Drain"),
        (&["drain", "the-east", "--undo"], "mode: Active"),
    ] {
        assert!(west.strait(args).status.success());
        assert!(fs::read_to_string(&manifest).unwrap().contains(mode), "{mode}");
    }
    let again = west.strait(&["join", token.trim(), "--name", "another"]);
    assert_eq!(again.status.code(), Some(1), "that cluster has its Federation");
    assert!(
        !text(&again.stderr).contains(token.trim()),
        "a token is never repeated"
    );
    assert!(text(&east.strait(&["rotate-root", "--status"]).stdout).contains("Stable"));
}

/// A service of this cluster that echoes, as manifests and as a listener on a thread.
fn echo_service(cluster: &Cluster) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut from, mut to) = (stream.as_ref().unwrap().try_clone().unwrap(), stream.unwrap());
            std::thread::spawn(move || std::io::copy(&mut from, &mut to));
        }
    });
    let manifests = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{namespace: demo, name: echo}}\nspec:\n  ports: [{{port: 7, targetPort: {port}}}]\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  namespace: demo\n  name: echo-1\n  \
         labels: {{kubernetes.io/service-name: echo}}\naddressType: IPv4\nports: [{{port: {port}}}]\n\
         endpoints: [{{addresses: [127.0.0.1]}}]\n---\n\
         apiVersion: multicluster.x-k8s.io/v1beta1\nkind: ServiceExport\nmetadata: {{namespace: demo, name: echo}}\n"
    );
    fs::write(cluster.manifests().join("echo.yaml"), manifests).unwrap();
}

/// A connection by name through the SOCKS5 listener; `None` if the proxy refuses.
fn through_socks(socks: &str, name: &str, port: u16) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(socks).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
        .write_all(&[5, 1, 0, 5, 1, 0, 3, u8::try_from(name.len()).unwrap()])
        .unwrap();
    stream.write_all(name.as_bytes()).unwrap();
    stream.write_all(&port.to_be_bytes()).unwrap();
    let mut reply = [0; 12];
    stream.read_exact(&mut reply).unwrap();
    (reply[3] == 0).then_some(stream)
}

#[test]
fn a_running_stream_outlives_the_first_signal_and_not_the_second() {
    let cluster = Cluster::new();
    echo_service(&cluster);
    let running = cluster.start_with(&["--grace", "600"]);
    let socks = running.address("SOCKS5");
    let connect = || through_socks(&socks, "echo.demo.svc.clusterset.local", 7);
    until("served", || connect().is_some());
    let mut stream = connect().unwrap();
    let mut echo = |text: &[u8; 4]| {
        stream.write_all(text).unwrap();
        let mut back = [0; 4];
        stream.read_exact(&mut back).map(|()| back)
    };
    assert_eq!(&echo(b"once").unwrap(), b"once");
    running.signal();
    until("not ready", || running.get("/readyz").0 == 503);
    assert_eq!(&echo(b"more").unwrap(), b"more", "it drains: what runs goes on");
    until("closed to new clients", || TcpStream::connect(&socks).is_err());
    assert_eq!(running.terminate(), 0, "the second signal ends it at once");
    let mut rest = [0; 1];
    assert!(
        !matches!(stream.read(&mut rest), Ok(n) if n > 0),
        "the stream has ended"
    );
}
