//! Binding UDP sockets and their buffers.
//!
//! Owns socket options. The kernel's default buffers hold under 100 packets and lose bursts, and quinn never asks for more, so it is
//! done here, read back and reported. Called once for every socket.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::Once,
};

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use strait_federation_api::observation::SocketStatus;

/// Receive buffer asked for, bytes: 20 ms of 2.5 Gbit/s, the longest a worker should be away.
const RECEIVE_BUFFER: usize = 8 << 20;
/// Send buffer asked for, bytes: a send window's floor.
const SEND_BUFFER: usize = 2 << 20;

/// The wildcard server socket of one worker. `shared` lets the other workers bind the same port.
pub(crate) fn bind_server(address: SocketAddr, shared: bool) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        // Fails only where the system has no dual stack; IPv6 alone still works there.
        let _ = socket.set_only_v6(false);
    }
    if shared {
        share_port(&socket)?;
    }
    socket.bind(&address.into())?;
    grow(&SockRef::from(&socket));
    Ok(socket.into())
}

#[cfg(target_os = "linux")]
fn share_port(socket: &Socket) -> io::Result<()> {
    socket.set_reuse_port(true)
}

/// Elsewhere the kernel does not spread packets over sockets of one port: one worker accepts.
#[cfg(not(target_os = "linux"))]
fn share_port(_: &Socket) -> io::Result<()> {
    Ok(())
}

/// Workers that accept, of `workers`.
pub(crate) const fn accepting(workers: u32) -> u32 {
    if cfg!(target_os = "linux") { workers } else { 1 }
}

/// A dialling socket on a fresh port: dual-stack, or IPv4 where there is no IPv6.
pub(crate) fn bind_client() -> io::Result<UdpSocket> {
    bind_server(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)), false)
        .or_else(|_| bind_server(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)), false))
}

/// Asks for bigger buffers. A refusal is not an error: what was granted is read back by [`status`].
fn grow(socket: &SockRef<'_>) {
    let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
    let _ = socket.set_send_buffer_size(SEND_BUFFER);
}

/// What the system granted, as a status value; `gso_segments` is filled in by whoever sends.
pub(crate) fn status(socket: &SockRef<'_>, worker: u32) -> io::Result<SocketStatus> {
    // Linux reports twice what was set, to account for its own overhead (socket(7)).
    let divisor = if cfg!(target_os = "linux") { 2 } else { 1 };
    let bytes = |size: usize| u64::try_from(size / divisor).unwrap_or(u64::MAX);
    let local = socket
        .local_addr()?
        .as_socket()
        .ok_or_else(|| io::Error::other("not an IP socket"))?;
    let status = SocketStatus {
        worker,
        local,
        receive_asked: RECEIVE_BUFFER as u64,
        receive_granted: bytes(socket.recv_buffer_size()?),
        send_asked: SEND_BUFFER as u64,
        send_granted: bytes(socket.send_buffer_size()?),
        gso_segments: 1,
    };
    warn_once(&status);
    Ok(status)
}

fn warn_once(status: &SocketStatus) {
    static WARNED: Once = Once::new();
    if status.receive_granted < status.receive_asked || status.send_granted < status.send_asked {
        WARNED.call_once(|| {
            tracing::warn!(
                reason = "SocketBufferSmall",
                receive_asked = status.receive_asked,
                receive_granted = status.receive_granted,
                send_asked = status.send_asked,
                send_granted = status.send_granted,
                "small UDP buffers lose packets under bursts; raise net.core.rmem_max and net.core.wmem_max"
            );
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn granted_buffers_are_reported_without_the_kernels_doubling() {
        let socket = bind_client().unwrap();
        let status = status(&SockRef::from(&socket), 3).unwrap();
        assert_eq!(status.worker, 3);
        assert!(status.receive_granted > 0 && status.receive_granted <= status.receive_asked);
        assert!(status.send_granted > 0 && status.send_granted <= status.send_asked);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn workers_share_one_port() {
        let first = bind_server(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), true).unwrap();
        let address = first.local_addr().unwrap();
        assert_eq!(bind_server(address, true).unwrap().local_addr().unwrap(), address);
        assert!(bind_server(address, false).is_err());
    }
}
