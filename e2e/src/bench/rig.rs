//! Two network namespaces joined by a virtual cable.
//!
//! Owns their names, addresses and end: also after a kill -9 they go, and leftovers of a run whose process is gone are swept first.

use std::{net::SocketAddr, process::Command};

use tokio::process::Command as AsyncCommand;

use super::BenchError;
use crate::process::{Process, is_alive, reaper};

/// Start of every namespace name; the process id follows.
const PREFIX: &str = "strait-bench-";
/// Address of the far end. The namespaces see nothing else, so no real network can collide.
pub(super) const FAR: &str = "10.77.0.2";
const NEAR: &str = "10.77.0.1";
/// Loopback port of the server in the far namespace. Fixed ports lie below the range of dialled ones, see [`TUNING`].
pub(super) const SERVER_PORT: u16 = 1800;
/// Enough dialled ports, and no minute of waiting for each: new connections are measured, not port exhaustion.
const TUNING: &str = "echo '2000 65535' > /proc/sys/net/ipv4/ip_local_port_range; \
    echo 1 > /proc/sys/net/ipv4/tcp_tw_reuse; echo 8192 > /proc/sys/net/core/somaxconn";

/// The namespaces of this process.
pub(super) struct Rig {
    near: String,
    far: String,
}

/// Which side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// The load and the importing gateway.
    Near,
    /// The server and the exporting gateway.
    Far,
}

impl Rig {
    pub(super) fn build() -> Result<Self, BenchError> {
        if !cfg!(target_os = "linux") || !rustix::process::geteuid().is_root() {
            return Err(BenchError::Needs(
                "root on Linux, for network namespaces".to_owned(),
            ));
        }
        sweep()?;
        let id = std::process::id();
        let rig = Self {
            near: format!("{PREFIX}{id}-near"),
            far: format!("{PREFIX}{id}-far"),
        };
        reaper::at_end(&format!("ip netns del {}; ip netns del {}", rig.near, rig.far))?;
        for namespace in [&rig.near, &rig.far] {
            ip(&format!("netns add {namespace}"))?;
            ip(&format!("-n {namespace} link set lo up"))?;
        }
        let (near, far) = (&rig.near, &rig.far);
        ip(&format!(
            "-n {near} link add cable type veth peer name cable netns {far}"
        ))?;
        for (namespace, address) in [(near, NEAR), (far, FAR)] {
            ip(&format!("-n {namespace} address add {address}/24 dev cable"))?;
            ip(&format!("-n {namespace} link set cable up"))?;
            run(Command::new("ip").args(["netns", "exec", namespace, "sh", "-c", TUNING]))?;
        }
        Ok(rig)
    }

    /// A command inside. `ip netns exec` becomes the command, so the process id is the command's own.
    pub(super) fn command(&self, side: Side, program: impl AsRef<std::ffi::OsStr>) -> AsyncCommand {
        let mut command = AsyncCommand::new("ip");
        let namespace = match side {
            Side::Near => &self.near,
            Side::Far => &self.far,
        };
        command.args(["netns", "exec", namespace]).arg(program);
        command
    }

    /// Another role of this very program, inside.
    pub(super) fn own(&self, side: Side, arguments: &[String]) -> Result<AsyncCommand, BenchError> {
        let mut command = self.command(side, std::env::current_exe()?);
        command.args(arguments);
        Ok(command)
    }

    /// The server both systems lead to.
    pub(super) async fn server(&self) -> Result<Process, BenchError> {
        let listen = server_address().to_string();
        let arguments = ["bench-server".to_owned(), "--listen".to_owned(), listen];
        let mut server = Process::spawn("server", self.own(Side::Far, &arguments)?)?;
        server
            .wait_for_line("serving", std::time::Duration::from_secs(10))
            .await?;
        Ok(server)
    }
}

pub(super) fn server_address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], SERVER_PORT))
}

impl Drop for Rig {
    fn drop(&mut self) {
        for namespace in [&self.near, &self.far] {
            let _ = ip(&format!("netns del {namespace}"));
        }
    }
}

/// Removes namespaces of benches that are no longer running.
fn sweep() -> Result<(), BenchError> {
    let listed = ip("netns list")?;
    for name in listed.lines().filter_map(|line| line.split_whitespace().next()) {
        let pid = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next()?.parse().ok());
        if pid.is_some_and(|pid| !is_alive(pid)) {
            ip(&format!("netns del {name}"))?;
        }
    }
    Ok(())
}

fn ip(arguments: &str) -> Result<String, BenchError> {
    run(Command::new("ip").args(arguments.split_whitespace()))
}

/// Runs to the end; its output.
pub(super) fn run(command: &mut Command) -> Result<String, BenchError> {
    let shown = format!("{command:?}");
    let failed = |detail: String| BenchError::Command {
        command: shown,
        detail,
    };
    let output = match command.output() {
        Ok(output) => output,
        Err(error) => return Err(failed(error.to_string())),
    };
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }
}
