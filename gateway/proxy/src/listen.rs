//! Binding TCP listeners.
//!
//! Owns the socket options and what a failed bind means. Never accepts: that is ingress'. Called by the listener reconciler of
//! strait-gateway.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use strait_federation_api::{Reason, observation::ListenError};

/// Connections the kernel holds before accept. A burst of new connections outruns a busy worker for a few milliseconds.
const BACKLOG: i32 = 1024;

/// One listener for each worker that accepts; all have the same address.
pub struct Bound {
    /// Where.
    pub address: SocketAddr,
    /// One a worker, from worker 0 on; only one where the system cannot spread connections over sockets.
    pub sockets: Vec<TcpListener>,
}

/// Binds `address` for `workers` workers.
///
/// A loopback address that this system does not have (macOS has only 127.0.0.1) is replaced by 127.0.0.1 with a port of the
/// system's choosing, if `allot` allows.
///
/// # Errors
/// [`ListenError`] with the reason and the system's words.
pub fn bind(address: SocketAddr, workers: usize, allot: bool) -> Result<Bound, ListenError> {
    match bind_all(address, workers) {
        Err(error)
            if allot && error.kind() == io::ErrorKind::AddrNotAvailable && address.ip().is_loopback() =>
        {
            bind_all(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0), workers)
        }
        other => other,
    }
    .map_err(|error| ListenError {
        reason: reason_of(&error),
        detail: format!("bind TCP {address}: {error}"),
    })
}

fn reason_of(error: &io::Error) -> Reason {
    match error.kind() {
        io::ErrorKind::AddrInUse => Reason::PortTaken,
        _ => Reason::PortNotBindable,
    }
}

fn bind_all(address: SocketAddr, workers: usize) -> io::Result<Bound> {
    // With SO_REUSEPORT a second program of the same user would share the port unnoticed, so one bind without it asks first.
    drop(bind_one(address, false)?);
    let first = bind_one(address, true)?;
    let address = first.local_addr()?;
    let mut sockets = vec![first];
    // Only Linux spreads connections over the sockets of one address.
    let count = if cfg!(target_os = "linux") { workers } else { 1 };
    for _ in 1..count {
        sockets.push(bind_one(address, true)?);
    }
    Ok(Bound { address, sockets })
}

fn bind_one(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of a process that just ended linger and must not keep its successor out.
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&SockAddr::from(address))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loopback(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 83, 0, 1], port))
    }

    #[test]
    fn one_socket_a_worker_on_one_address() {
        let bound = bind(loopback(0), 3, false).unwrap();
        assert_eq!(bound.sockets.len(), if cfg!(target_os = "linux") { 3 } else { 1 });
        for socket in &bound.sockets {
            assert_eq!(socket.local_addr().unwrap(), bound.address);
        }
    }

    #[test]
    fn a_port_of_somebody_else_is_taken_even_if_they_would_share_it() {
        let other = bind_one(loopback(0), true).unwrap();
        let taken = bind(other.local_addr().unwrap(), 1, true).err().unwrap();
        assert_eq!(taken.reason, Reason::PortTaken);
        assert!(taken.detail.contains("127.83.0.1"), "{}", taken.detail);
    }

    #[test]
    fn a_foreign_address_is_not_bindable() {
        let error = bind("192.0.2.1:80".parse().unwrap(), 1, true).err().unwrap();
        assert_eq!(error.reason, Reason::PortNotBindable);
    }
}
