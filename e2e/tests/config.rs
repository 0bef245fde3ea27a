//! Live changes of manifests, and what a running cluster tells of itself without telling a secret.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed"
)]

mod common;

use std::{
    fs,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use common::{Node, text, told, until};
use strait_e2e::{
    apps,
    client::{Dial, get},
};

const GREETER: &str = "greeter.demo.svc.clusterset.local";

/// East imports what west serves, joined by token; also the token.
async fn federated() -> (Node, Node, apps::App<apps::http::Greeter>, String) {
    let (mut east, mut west) = (Node::new("east"), Node::new("west"));
    let app = apps::http::greeter(apps::loopback(), "west").await.unwrap();
    west.serve("greeter", 8080, app.address(), true);
    east.start().await;
    west.start().await;
    let token = east.invite("west").await;
    west.ok(&["join", &token, "--name", "east"]).await;
    west.edit(
        "east.yaml",
        "exports: []",
        "exports: [{namespace: demo, name: greeter}]",
    );
    east.edit(
        "west.yaml",
        "imports: []",
        "imports: [{namespace: demo, name: greeter}]",
    );
    until("greeted", async || greeted(&east).await.is_ok()).await;
    (east, west, app, token)
}

/// One request by name through SOCKS.
async fn greeted(node: &Node) -> Result<(), String> {
    let dial = Dial::Socks {
        proxy: node.socks(),
        host: GREETER.into(),
        port: 8080,
    };
    match get(&dial, GREETER, "/", None, Duration::from_secs(5)).await {
        Ok(answer) if answer.status == 200 => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

#[tokio::test]
async fn a_broken_file_keeps_the_last_good_state_and_says_so_until_it_is_mended() {
    let (mut east, _west, _app, _token) = federated().await;
    assert_eq!(east.figures().await.get("strait_config_valid"), 1.0);
    let good = east.read("west.yaml");
    east.write(
        "west.yaml",
        "apiVersion: strait.dev/v1alpha1\nkind: Federation\nmetadata: {name: west}\nspec:\n  imprts: []\n",
    );
    until("the metric says so", async || {
        east.figures().await.get("strait_config_valid") == 0.0
    })
    .await;
    until("status says so", async || {
        let status = east.strait(&["status"]).await;
        !status.status.success() && told(&status).contains("ConfigInvalid")
    })
    .await;
    let logged = east.lines_with(&["west.yaml"]);
    assert!(
        logged.iter().any(|line| line.contains("imprts")),
        "the log names file and field: {logged:?}"
    );
    assert!(east.figures().await.get("strait_config_errors_total") >= 1.0);
    greeted(&east).await.unwrap();
    assert_eq!(east.http("/readyz").await.0, 200);
    // Also a restart serves the last good state, and still says what is wrong.
    east.restart().await;
    until("greeted after a restart on a broken file", async || {
        greeted(&east).await.is_ok()
    })
    .await;
    assert_eq!(east.figures().await.get("strait_config_valid"), 0.0);
    // Mended, it applies live.
    east.write(
        "west.yaml",
        &good.replace("imports: [{namespace: demo, name: greeter}]", "imports: []"),
    );
    until("valid", async || {
        east.figures().await.get("strait_config_valid") == 1.0
    })
    .await;
    until("the mended rule applies", async || greeted(&east).await.is_err()).await;
    until("status is well again", async || {
        east.strait(&["status"]).await.status.success()
    })
    .await;
}

#[tokio::test]
async fn a_withdrawn_service_leaves_the_peer_and_comes_back() {
    let (east, west, app, _token) = federated().await;
    west.edit(
        "east.yaml",
        "exports: [{namespace: demo, name: greeter}]",
        "exports: []",
    );
    until("it left the peer", async || {
        let imports = east.json(&["get", "imports"]).await;
        !imports["imports"].to_string().contains("greeter")
    })
    .await;
    let served = app.state().served();
    assert!(greeted(&east).await.is_err());
    assert_eq!(
        app.state().served(),
        served,
        "a refused request reached the endpoint"
    );
    assert!(
        !east.lines_with(&["withdrew", "greeter"]).is_empty(),
        "{}",
        east.tail()
    );
    west.edit(
        "east.yaml",
        "exports: []",
        "exports: [{namespace: demo, name: greeter}]",
    );
    until("it is back", async || greeted(&east).await.is_ok()).await;
    // The ServiceExport gone is the same, whatever the rules say.
    let service = west.read("service-greeter.yaml");
    west.write("service-greeter.yaml", service.rsplit_once("---\n").unwrap().0);
    until("it left the peer again", async || greeted(&east).await.is_err()).await;
}

#[tokio::test]
async fn validate_diff_tells_what_a_change_would_withdraw_and_cut_before_it_is_made() {
    let (_east, west, _app, _token) = federated().await;
    let next = west.dir().join("next");
    fs::create_dir(&next).unwrap();
    let copy = || {
        for entry in fs::read_dir(west.manifests()).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, next.join(path.file_name().unwrap())).unwrap();
        }
    };
    let diff = async || {
        let output = west.strait(&["validate", next.to_str().unwrap(), "--diff"]).await;
        (output.status.code(), text(&output.stdout))
    };
    copy();
    let (code, same) = diff().await;
    assert!(
        code == Some(0) && same.contains("withdraws and cuts nothing"),
        "{same}"
    );
    let rules = fs::read_to_string(next.join("east.yaml")).unwrap();
    let none = rules.replace("exports: [{namespace: demo, name: greeter}]", "exports: []");
    fs::write(next.join("east.yaml"), none).unwrap();
    let (code, withdraws) = diff().await;
    assert!(
        code == Some(0) && withdraws.contains("demo/greeter") && withdraws.contains("east"),
        "{withdraws}"
    );
    copy();
    fs::remove_file(next.join("east.yaml")).unwrap();
    let (_, cuts) = diff().await;
    assert!(cuts.contains("east") && !cuts.contains("cuts nothing"), "{cuts}");
    fs::write(next.join("east.yaml"), "kind: Federatoin\n").unwrap();
    let (code, _) = diff().await;
    assert!(code != Some(0), "an invalid folder is no success");
    // Nothing was applied by asking.
    assert!(west.read("east.yaml").contains("name: greeter"));
}

#[tokio::test]
async fn an_offer_that_no_rule_allows_is_shown_with_the_rule_that_would() {
    let (east, _west, _app, _token) = federated().await;
    east.edit(
        "west.yaml",
        "imports: [{namespace: demo, name: greeter}]",
        "imports: []",
    );
    until("it is offered, not imported", async || {
        let view = east.json(&["get", "imports"]).await;
        view["offers"].as_array().map(Vec::len) == Some(1)
    })
    .await;
    let view = east.json(&["get", "imports"]).await;
    let offer = &view["offers"][0];
    assert_eq!(
        (&offer["cluster"], &offer["service"], &offer["reason"]),
        (&"west".into(), &"demo/greeter".into(), &"NotAllowed".into())
    );
    let rule = offer["rule"].as_str().unwrap();
    assert!(
        rule.contains("namespace: demo") && rule.contains("name: greeter"),
        "{rule}"
    );
    let table = east.ok(&["get", "imports"]).await;
    assert!(
        table.contains("demo/greeter") && table.contains("NotAllowed") && table.contains("namespace: demo"),
        "{table}"
    );
}

#[tokio::test]
async fn commands_go_over_a_private_socket_and_never_over_tcp() {
    let (east, _west, _app, _token) = federated().await;
    let socket = east.state().join("control.sock");
    let meta = fs::metadata(&socket).unwrap();
    assert!(meta.file_type().is_socket());
    assert_eq!(meta.permissions().mode() & 0o777, 0o600);
    assert_eq!(
        fs::metadata(east.state()).unwrap().permissions().mode() & 0o077,
        0,
        "the state directory is private"
    );
    for path in ["/invite", "/join", "/drain", "/rotate-root", "/log-level", "/"] {
        assert_eq!(east.http(path).await.0, 404, "{path}");
    }
    for path in ["/livez", "/readyz", "/metrics", "/dump"] {
        assert_eq!(east.http(path).await.0, 200, "{path}");
    }
    // Every TCP port it listens on is one of the four it was told to listen on.
    let told = [east.socks().port(), east.dns().port(), east.admin().port(), 8080];
    let listening = listening_tcp(east.cluster.pid().unwrap());
    assert!(
        !listening.is_empty() && listening.iter().all(|port| told.contains(port)),
        "{listening:?} of {told:?}"
    );
}

/// TCP ports that a process listens on.
fn listening_tcp(pid: i32) -> Vec<u16> {
    let inodes: Vec<String> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .filter_map(|link| {
            let link = link.to_string_lossy().into_owned();
            Some(link.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
        })
        .collect();
    let table =
        ["tcp", "tcp6"].map(|name| fs::read_to_string(format!("/proc/{pid}/net/{name}")).unwrap_or_default());
    let rows = table.iter().flat_map(|text| text.lines().skip(1));
    let mut ports: Vec<u16> = rows
        .filter_map(|row| {
            let fields: Vec<&str> = row.split_whitespace().collect();
            // 0A is LISTEN.
            let ours =
                fields.get(3) == Some(&"0A") && inodes.iter().any(|i| Some(&i.as_str()) == fields.get(9));
            let port = fields.get(1)?.rsplit(':').next()?;
            ours.then(|| u16::from_str_radix(port, 16).ok()).flatten()
        })
        .collect();
    ports.sort_unstable();
    ports
}

/// Every file below a directory.
fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            files(&entry.path(), found);
        } else if entry.file_type().unwrap().is_file() {
            found.push(entry.path());
        }
    }
}

#[tokio::test]
async fn no_secret_is_told_in_logs_dumps_metrics_or_answers() {
    let (mut east, mut west) = (Node::new("east"), Node::new("west"));
    for node in [&mut east, &mut west] {
        // The most talkative it can be.
        node.cluster
            .spawn(&["--log", "trace", "--access-log", "all"])
            .unwrap();
        node.ready().await;
    }
    let token = east.invite("west").await;
    let open = everything(&east).await;
    west.ok(&["join", &token, "--name", "east"]).await;
    west.until_condition("east", "Trusted", "Trusted").await;
    until("the secret is erased", async || {
        east.json(&["invite", "--list"]).await[0]["state"] == "Trusted"
    })
    .await;
    let failed = told(
        &west
            .strait(&["join", &format!("{token}x"), "--name", "again"])
            .await,
    );
    let shown = [open, everything(&east).await, everything(&west).await, failed];
    // The token as text, and the last 48 characters of it, in which the secret is.
    let secret = &token[token.len() - 48..];
    for text in &shown {
        for forbidden in [token.as_str(), secret, "PRIVATE KEY", "-----BEGIN"] {
            let line = text.lines().find(|line| line.contains(forbidden));
            assert!(line.is_none(), "{forbidden:.12}... is told: {line:?}");
        }
    }
    // And on disk: keys and tokens are in private files only, and the used token in none.
    for node in [&east, &west] {
        let mut found = Vec::new();
        files(&node.state(), &mut found);
        assert!(!found.is_empty());
        for file in found {
            let bytes = fs::read(&file).unwrap();
            let content = String::from_utf8_lossy(&bytes);
            assert!(
                !content.contains(&token) && !content.contains(secret),
                "{} holds a used token",
                file.display()
            );
            if content.contains("PRIVATE KEY") {
                let mode = fs::metadata(&file).unwrap().permissions().mode();
                assert_eq!(mode & 0o077, 0, "{} holds a key", file.display());
            }
        }
    }
}

/// Everything a cluster tells anybody.
async fn everything(node: &Node) -> String {
    let mut all = node.log().join("\n");
    for path in ["/metrics", "/dump", "/readyz"] {
        all += &node.http(path).await.1;
    }
    for args in [
        &["status", "-o", "json"][..],
        &["invite", "--list", "-o", "json"],
        &["get", "federations", "-o", "json"],
        &["get", "gateways", "-o", "json"],
        &["get", "tunnels", "-o", "json"],
        &["bundle"],
        &["check"],
        &["rotate-root", "--status"],
    ] {
        all += &told(&node.strait(args).await);
    }
    all
}
