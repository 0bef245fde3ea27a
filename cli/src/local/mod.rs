//! The local command socket: how a command reaches the running process of its state directory.
//!
//! Owns the socket's place, its framing and its bounds. One connection carries one request line and one reply line of JSON. Never
//! TCP, never another user: the socket is 0600 and the peer's uid is checked as well. Served by `run`, called by every command
//! that changes or shows something.

mod client;
mod protocol;
mod server;
mod wire;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

pub(crate) use client::{Client, LocalError};
pub(crate) use protocol::{BundleReply, Diagnosis, Failure, Reply, Request, RotateAction, StatusReply};
pub(crate) use server::{Handler, Server};

/// File name of the socket inside the state directory.
pub(crate) const SOCKET_NAME: &str = "control.sock";
/// Version of requests and replies; both ends are usually one binary, but an upgraded command may meet an older process.
pub(crate) const PROTOCOL_VERSION: u32 = 1;
/// Longest request line, bytes: a token has under 2 KiB, a manifest folder for `validate --diff` is named, not sent.
pub(crate) const REQUEST_MAX: usize = 64 << 10;
/// Longest reply line, bytes: a dump of 10,000 services at about 1 KiB each, with room.
pub(crate) const REPLY_MAX: usize = 32 << 20;
/// A client writes its request at once; a longer silence is a stuck or hostile one.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// The slowest request is a check that probes every peer; the server bounds those at 20 s.
pub(crate) const REPLY_TIMEOUT: Duration = Duration::from_secs(30);
/// Connections served at a time: people and scripts, not load.
pub(crate) const CONNECTIONS_MAX: usize = 32;

/// Where the socket of a state directory is.
#[must_use]
pub(crate) fn socket_path(state: &Path) -> PathBuf {
    state.join(SOCKET_NAME)
}
