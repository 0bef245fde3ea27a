//! The binary from outside: what a script sees without any cluster running.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::process::{Command, Output};

fn strait(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_strait"))
        .args(args)
        .env_remove("STRAIT_STATE")
        .env_remove("STRAIT_CONFIG")
        .output()
        .unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn help_lists_commands_and_exit_codes_and_hides_the_demos_own() {
    let help = strait(&["--help"]);
    assert_eq!(code(&help), 0);
    for command in [
        "invite",
        "join",
        "get",
        "status",
        "drain",
        "rotate-root",
        "bundle",
        "completions",
        "version",
    ] {
        assert!(
            out(&help).contains(&format!("\n  {command}")),
            "{command} is missing:\n{}",
            out(&help)
        );
    }
    assert!(out(&help).contains("Exit codes: 0"));
    assert!(!out(&help).contains("demo-greeter"));
}

#[test]
fn wrong_usage_is_exit_2_and_says_so_on_standard_error() {
    for args in [
        &["frobnicate"][..],
        &[],
        &["get"],
        &["get", "llamas"],
        &["invite"],
        &["invite", "a", "--ttl", "1w"],
    ] {
        let output = strait(args);
        assert_eq!(code(&output), 2, "{args:?}");
        assert!(out(&output).is_empty() && !err(&output).is_empty(), "{args:?}");
    }
}

#[test]
fn completions_exist_for_every_common_shell() {
    for shell in ["bash", "zsh", "fish"] {
        let output = strait(&["completions", shell]);
        assert_eq!(code(&output), 0);
        assert!(out(&output).contains("rotate-root"), "{shell}");
    }
}

#[test]
fn version_names_the_package_version() {
    let output = strait(&["version"]);
    assert_eq!(code(&output), 0);
    assert!(out(&output).starts_with(concat!("strait ", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn without_a_running_process_the_error_names_the_socket_and_the_way_out() {
    let state = tempfile::tempdir().unwrap();
    let dir = state.path().to_str().unwrap();
    for command in [
        &["status"][..],
        &["get", "imports"],
        &["invite", "west"],
        &["drain", "west"],
        &["bundle"],
    ] {
        let output = strait(&[command, &["--state", dir]].concat());
        assert_eq!(code(&output), 1, "{command:?}");
        assert!(
            err(&output).contains(dir) && err(&output).contains("STRAIT_STATE"),
            "{}",
            err(&output)
        );
    }
}

#[test]
fn the_state_directory_may_come_from_the_environment() {
    let state = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_strait"))
        .arg("status")
        .env("STRAIT_STATE", state.path())
        .output()
        .unwrap();
    assert_eq!(code(&output), 1);
    assert!(err(&output).contains(state.path().to_str().unwrap()));
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let status = Command::new("sh")
        .arg("-c")
        .arg(format!(
            "{} completions bash | head -n 1 >/dev/null; exit 0",
            env!("CARGO_BIN_EXE_strait")
        ))
        .output()
        .unwrap();
    assert!(
        status.status.success() && status.stderr.is_empty(),
        "{}",
        err(&status)
    );
}

#[test]
fn the_janitor_removes_a_demo_folder_when_its_demo_is_gone_and_nothing_else() {
    let outer = tempfile::tempdir().unwrap();
    let (demo, other) = (outer.path().join("demo"), outer.path().join("other"));
    for dir in [&demo, &other] {
        std::fs::create_dir(dir).unwrap();
        std::fs::write(dir.join("file"), "x").unwrap();
    }
    std::fs::write(demo.join(".strait-demo"), "").unwrap();
    assert_eq!(code(&strait(&["demo-janitor", demo.to_str().unwrap()])), 0);
    assert!(!demo.exists());
    assert_eq!(code(&strait(&["demo-janitor", other.to_str().unwrap()])), 1);
    assert!(other.join("file").exists());
}

/// A folder with one valid Cluster.
fn manifests() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let cluster = "apiVersion: strait.dev/v1alpha1\nkind: Cluster\nmetadata: {name: east}\nspec: {}\n";
    std::fs::write(dir.path().join("cluster.yaml"), cluster).unwrap();
    dir
}

#[test]
fn validate_accepts_a_valid_folder() {
    let dir = manifests();
    let output = strait(&["validate", dir.path().to_str().unwrap()]);
    assert_eq!(
        (code(&output), out(&output)),
        (0, "valid: 1 files, 0 errors, 0 warnings\n".to_owned())
    );
}

#[test]
fn validate_lists_every_mistake_with_its_place_and_exits_64() {
    let dir = manifests();
    let broken = "apiVersion: strait.dev/v1alpha1\nkind: Federation\nmetadata: {name: west}\nspec:\n  trust: {invite: {}}\n  mode: Actve\n  \
                  imports:\n  - {name: greeter, weight: 5000}\n";
    std::fs::write(dir.path().join("west.yaml"), broken).unwrap();
    let output = strait(&["validate", dir.path().to_str().unwrap()]);
    assert_eq!(code(&output), 64);
    for place in ["west.yaml:6:", "west.yaml:8:"] {
        assert!(
            out(&output).contains(place),
            "{place} is missing:\n{}",
            out(&output)
        );
    }
    let json = strait(&["validate", dir.path().to_str().unwrap(), "-o", "json"]);
    let report: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(
        (code(&json), &report["valid"]),
        (64, &serde_json::Value::Bool(false))
    );
    assert_eq!(report["errors"].as_array().unwrap().len(), 2);
}

#[test]
fn validate_without_a_folder_says_what_to_name() {
    let output = strait(&["validate", "/does/not/exist"]);
    assert_eq!(code(&output), 64);
    assert!(err(&output).contains("/does/not/exist") && err(&output).contains("help:"));
}

#[test]
fn a_broken_token_is_refused_without_being_repeated() {
    let output = strait(&["token", "decode", "straitjoin1_c2VjcmV0LXNlY3JldC1zZWNyZXQ"]);
    assert_eq!(code(&output), 1);
    assert!(err(&output).contains("TokenInvalid"), "{}", err(&output));
    assert!(!err(&output).contains("c2VjcmV0"), "{}", err(&output));
}
