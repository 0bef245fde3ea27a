//! Children are watched, and gone when they should be.

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

fn shell(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    command
}

async fn gone(pid: i32) {
    crate::apps::eventually(PATIENCE, || !is_alive(pid))
        .await
        .unwrap();
}

#[tokio::test]
async fn lines_are_found_and_an_early_end_is_told() {
    let mut process = Process::spawn("talker", shell("echo one; echo two >&2; sleep 60")).unwrap();
    assert_eq!(process.wait_for_line("two", PATIENCE).await.unwrap(), "two");
    assert_eq!(process.wait_for_line("one", PATIENCE).await.unwrap(), "one");
    assert!(process.resident().unwrap() > 0);
    let error = process
        .wait_for_line("three", Duration::from_millis(50))
        .await
        .unwrap_err();
    assert!(matches!(error, ProcessError::TimedOut { .. }) && error.to_string().contains("two"));

    let mut process = Process::spawn("short", shell("echo bye; exit 3")).unwrap();
    let error = process
        .wait_for_line("hello", PATIENCE)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("exit status: 3") && error.contains("bye"),
        "{error}"
    );
}

#[tokio::test]
async fn dropping_takes_grandchildren_too() {
    let mut process = Process::spawn("family", shell("sleep 60 & echo child $!; wait")).unwrap();
    let line = process.wait_for_line("child", PATIENCE).await.unwrap();
    let grandchild: i32 = line.trim_start_matches("child ").parse().unwrap();
    let pid = process.pid();
    assert!(is_alive(pid) && is_alive(grandchild));
    drop(process);
    gone(pid).await;
    gone(grandchild).await;
}

#[tokio::test]
async fn kill9_ends_it_and_readiness_fails_with_its_end() {
    let mut process = Process::spawn("victim", shell("exec sleep 60")).unwrap();
    let pid = process.pid();
    process.kill9().await;
    gone(pid).await;
    let address = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let error = process.wait_for_http(address, "/", PATIENCE).await.unwrap_err();
    assert!(matches!(error, ProcessError::Ended { .. }), "{error}");
}

#[tokio::test]
async fn readiness_is_seen() {
    let app = crate::apps::http::greeter(crate::apps::loopback(), "x")
        .await
        .unwrap();
    app.state().set_status(503);
    let mut process = Process::spawn("idle", shell("exec sleep 60")).unwrap();
    let wait = process.wait_for_http(app.address(), "/readyz", PATIENCE);
    let (ready, ()) = tokio::join!(wait, async {
        sleep(Duration::from_millis(200)).await;
        app.state().set_status(200);
    });
    ready.unwrap();
    assert!(app.state().served() > 1);
}

/// A child of a test that is killed must not survive it. This test runs itself again as the victim.
#[tokio::test]
async fn a_killed_test_leaves_no_child_behind() {
    const ROLE: &str = "STRAIT_E2E_VICTIM";
    if std::env::var_os(ROLE).is_some() {
        let process = Process::spawn("orphan", shell("exec sleep 300")).unwrap();
        reaper::at_end("true").unwrap();
        println!("orphan pid={}", process.pid());
        sleep(Duration::from_secs(300)).await;
        return;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([
        "--exact",
        "process::tests::a_killed_test_leaves_no_child_behind",
        "--nocapture",
    ]);
    command.env(ROLE, "1");
    let mut victim = Process::spawn("victim", command).unwrap();
    let line = victim.wait_for_line("orphan pid=", PATIENCE).await.unwrap();
    let digits = line.rsplit("pid=").next().unwrap();
    let orphan: i32 = digits.trim().parse().unwrap();
    assert!(is_alive(orphan));
    victim.kill9().await;
    gone(orphan).await;
}
