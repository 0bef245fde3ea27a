//! The arrows between rooms, held by a test: which crate may depend on which, and what must stay out of the data plane.
//!
//! Reads `cargo metadata` of this workspace (offline) and the sources; changes nothing.

#![expect(clippy::expect_used, reason = "in a test a panic is the failure")]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

/// Rooms and the rooms each may depend on (normal dependencies). Arrows point down only; rooms of one floor never meet.
const ARROWS: &[(&str, &[&str])] = &[
    ("strait-trust-bridge", &[]),
    ("strait-federation-api", &["strait-trust-bridge"]),
    ("strait-tunnel", &["strait-federation-api", "strait-trust-bridge"]),
    ("strait-balance", &["strait-federation-api"]),
    (
        "strait-proxy",
        &[
            "strait-balance",
            "strait-federation-api",
            "strait-trust-bridge",
            "strait-tunnel",
        ],
    ),
    (
        "strait-gateway",
        &[
            "strait-balance",
            "strait-federation-api",
            "strait-proxy",
            "strait-trust-bridge",
            "strait-tunnel",
        ],
    ),
    ("strait-dns", &["strait-federation-api", "strait-trust-bridge"]),
    (
        "strait-controller",
        &["strait-federation-api", "strait-trust-bridge"],
    ),
    (
        "strait-cli",
        &[
            "strait-controller",
            "strait-dns",
            "strait-federation-api",
            "strait-gateway",
            "strait-trust-bridge",
        ],
    ),
    (
        "strait-fuzz",
        &[
            "strait-dns",
            "strait-federation-api",
            "strait-proxy",
            "strait-trust-bridge",
            "strait-tunnel",
        ],
    ),
    ("strait-e2e", &["strait-federation-api", "strait-trust-bridge"]),
];

/// Crates that must not be in the dependency tree of the data plane: no Kubernetes client, no gRPC, no database there.
const NOT_IN_DATA_PLANE: &[&str] = &["kube", "kube-core", "k8s-openapi", "tonic", "prost", "sled"];

/// The only crates that may name quinn: the tunnel, and the harness, which plays the hostile peer.
const MAY_USE_QUINN: &[&str] = &["strait-tunnel", "strait-e2e"];

/// Sources that must not read a clock or do I/O: the pure floors.
const PURE: &[&str] = &[
    "trust-bridge/src",
    "federation-api/src",
    "gateway/balance/src",
    "controller/src/merge",
];

/// What reading a clock or doing I/O looks like.
const IMPURE: &[&str] = &[
    "SystemTime::now",
    "Instant::now",
    "UnixTime::now",
    "std::fs::",
    "std::net::Tcp",
    "std::net::Udp",
    "tokio::net",
    "tokio::time",
];

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("e2e lies in the workspace")
        .to_path_buf()
}

fn metadata() -> Value {
    let out = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--offline", "--locked"])
        .current_dir(workspace())
        .output()
        .expect("cargo metadata runs");
    assert!(
        out.status.success(),
        "cargo metadata: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    serde_json::from_slice(&out.stdout).expect("cargo metadata prints JSON")
}

/// Normal dependencies of every workspace crate, by name.
fn direct(metadata: &Value) -> BTreeMap<String, BTreeSet<String>> {
    let members: BTreeSet<&str> = metadata["workspace_members"]
        .as_array()
        .expect("members")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let packages = metadata["packages"].as_array().expect("packages");
    packages
        .iter()
        .filter(|p| p["id"].as_str().is_some_and(|id| members.contains(id)))
        .map(|p| {
            let normal = p["dependencies"]
                .as_array()
                .expect("dependencies")
                .iter()
                .filter(|d| d["kind"].is_null());
            let names = normal
                .filter_map(|d| d["name"].as_str())
                .map(String::from)
                .collect();
            (p["name"].as_str().expect("name").to_owned(), names)
        })
        .collect()
}

#[test]
fn arrows_point_down() {
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    for (room, dependencies) in direct(&metadata()) {
        let may = allowed
            .get(room.as_str())
            .unwrap_or_else(|| panic!("{room} is not on the plan: add it to ARROWS"));
        for dependency in dependencies.iter().filter(|d| d.starts_with("strait-")) {
            assert!(
                may.contains(&dependency.as_str()),
                "{room} must not depend on {dependency}"
            );
        }
    }
}

#[test]
fn only_the_tunnel_touches_quinn() {
    for (room, dependencies) in direct(&metadata()) {
        let uses = dependencies.iter().any(|d| d.starts_with("quinn"));
        assert!(
            !uses || MAY_USE_QUINN.contains(&room.as_str()),
            "{room} must not depend on quinn"
        );
    }
}

#[test]
fn data_plane_is_free_of_kubernetes_grpc_and_databases() {
    for room in ["strait-gateway", "strait-dns"] {
        let out = Command::new(env!("CARGO"))
            .args([
                "tree",
                "--offline",
                "--locked",
                "-p",
                room,
                "-e",
                "normal",
                "--prefix",
                "none",
                "--format",
                "{p}",
            ])
            .current_dir(workspace())
            .output()
            .expect("cargo tree runs");
        assert!(
            out.status.success(),
            "cargo tree: {}",
            String::from_utf8_lossy(&out.stderr)
        );
        let tree = String::from_utf8_lossy(&out.stdout);
        let names: BTreeSet<&str> = tree.lines().filter_map(|l| l.split(' ').next()).collect();
        for banned in NOT_IN_DATA_PLANE {
            assert!(!names.contains(banned), "{room} must not depend on {banned}");
        }
    }
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return;
    };
    for path in entries.filter_map(|e| Some(e.ok()?.path())) {
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// The part of a source that ships: everything above its test module.
fn shipped(text: &str) -> &str {
    text.split("#[cfg(test)]").next().unwrap_or(text)
}

#[test]
fn pure_rooms_read_no_clock_and_do_no_io() {
    for room in PURE {
        let mut files = Vec::new();
        sources(&workspace().join(room), &mut files);
        assert!(
            !files.is_empty(),
            "{room} has no sources: the list of pure rooms is stale"
        );
        for file in files.iter().filter(|f| {
            !f.components()
                .any(|c| c.as_os_str() == "tests" || c.as_os_str() == "testing")
        }) {
            let text = std::fs::read_to_string(file).expect("source is readable");
            for pattern in IMPURE {
                assert!(
                    !shipped(&text).contains(pattern),
                    "{} contains {pattern}",
                    file.display()
                );
            }
        }
    }
}

#[test]
fn every_module_says_what_it_owns() {
    for (dir, _) in rooms() {
        let mut files = Vec::new();
        sources(&workspace().join(dir).join("src"), &mut files);
        for file in files {
            let text = std::fs::read_to_string(&file).expect("source is readable");
            assert!(
                text.starts_with("//!"),
                "{} does not open with //!",
                file.display()
            );
        }
    }
}

fn rooms() -> Vec<(&'static str, &'static str)> {
    vec![
        ("trust-bridge", "strait-trust-bridge"),
        ("federation-api", "strait-federation-api"),
        ("gateway", "strait-gateway"),
        ("gateway/balance", "strait-balance"),
        ("gateway/proxy", "strait-proxy"),
        ("gateway/tunnel", "strait-tunnel"),
        ("dns", "strait-dns"),
        ("controller", "strait-controller"),
        ("cli", "strait-cli"),
        ("e2e", "strait-e2e"),
        ("fuzz", "strait-fuzz"),
    ]
}

/// ARCHITECTURE.md goes stale silently unless the paths it names must exist.
#[test]
fn paths_named_in_the_architecture_page_exist() {
    let page =
        std::fs::read_to_string(workspace().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md is there");
    let named: Vec<&str> = page
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|s| s.contains('/') && !s.contains([' ', ':', '<', '*']))
        .collect();
    assert!(named.len() > 5, "the page names hardly any path");
    for path in named.iter().filter(|p| {
        !p.starts_with('/') && !p.contains("strait.dev") && !p.contains("strait/1") && !p.ends_with("/1")
    }) {
        assert!(
            workspace().join(path.trim_end_matches('/')).exists(),
            "ARCHITECTURE.md names {path}, which is not there"
        );
    }
}
