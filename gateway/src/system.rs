//! Limits of the operating system.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Asked for where the hard limit allows more: a million connections are beyond one gateway.
const WANTED: u64 = 1 << 20;
/// What macOS allows a process whatever its hard limit says (OPEN_MAX).
const MACOS: u64 = 10_240;
/// File descriptors kept for everything that is not a flow: listeners, UDP sockets, control, files.
const RESERVE: u64 = 512;
/// A flow between a client and a local endpoint holds two.
const PER_FLOW: u64 = 2;
/// Flows allowed whatever the limits say: below it nothing useful works.
const LEAST: u32 = 64;

/// Raises the soft limit on file descriptors as far as allowed, and returns how many flows fit.
pub(crate) fn raise_file_limit() -> u32 {
    let before = getrlimit(Resource::Nofile);
    let wanted = if cfg!(target_os = "macos") { MACOS } else { WANTED };
    let soft = before.maximum.unwrap_or(wanted).min(wanted);
    let raised = before.current.is_some_and(|current| current < soft)
        && setrlimit(
            Resource::Nofile,
            Rlimit {
                current: Some(soft),
                maximum: before.maximum,
            },
        )
        .is_ok();
    let current = if raised { Some(soft) } else { before.current };
    let flows = flows(current.unwrap_or(wanted));
    tracing::debug!(file_descriptors = ?current, flows, "limit on file descriptors");
    flows
}

fn flows(descriptors: u64) -> u32 {
    let flows = descriptors.saturating_sub(RESERVE) / PER_FLOW;
    u32::try_from(flows).unwrap_or(u32::MAX).max(LEAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_follow_descriptors() {
        assert_eq!(flows(0), LEAST);
        assert_eq!(flows(RESERVE + 20_000), 10_000);
        assert_eq!(flows(u64::MAX), u32::MAX);
    }

    #[test]
    fn the_limit_is_at_the_hard_one_afterwards() {
        let flows = raise_file_limit();
        let now = getrlimit(Resource::Nofile);
        let hard = now.maximum.unwrap_or(WANTED).min(WANTED);
        assert!(
            now.current
                .is_none_or(|soft| soft >= hard || cfg!(target_os = "macos"))
        );
        assert_eq!(raise_file_limit(), flows);
    }
}
