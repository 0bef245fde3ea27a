//! Free ports and a free corner of the loopback network, chosen at start.
//!
//! Owns the choice. Ports come from below the range systems hand to clients, so that the demo's own connections cannot take the
//! port of a cluster that is down for a while.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher as _, Hasher as _},
    io,
    net::{Ipv4Addr, TcpListener, UdpSocket},
};

/// Below the usual ephemeral ranges (from 32768 on Linux, 49152 on macOS), above well-known services.
const RANGE: std::ops::Range<u16> = 18_000..32_000;
/// Second octets of 127/8 for virtual addresses: away from 127.0/16, 127.53 and Strait's default 127.77.
const OCTETS: std::ops::Range<u8> = 100..240;

/// Chooses ports that are free for TCP and UDP now, each once.
#[derive(Debug)]
pub(crate) struct Ports {
    next: u16,
    left: u16,
}

impl Ports {
    /// Starts at a random place, so that two demos on one machine seldom meet.
    pub(crate) fn new() -> Self {
        let size = RANGE.end - RANGE.start;
        Self {
            next: RANGE.start + u16::try_from(random() % u64::from(size)).unwrap_or_default(),
            left: size,
        }
    }

    /// The next free port.
    ///
    /// # Errors
    /// `AddrInUse` when none is left.
    pub(crate) fn free(&mut self) -> io::Result<u16> {
        while self.left > 0 {
            let port = self.next;
            self.left -= 1;
            self.next = if port + 1 == RANGE.end {
                RANGE.start
            } else {
                port + 1
            };
            if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
                && UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
            {
                return Ok(port);
            }
        }
        Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            format!("no free port in {RANGE:?}"),
        ))
    }
}

/// A random second octet for the virtual addresses of one demo.
pub(crate) fn octet() -> u8 {
    let size = u64::from(OCTETS.end - OCTETS.start);
    OCTETS.start + u8::try_from(random() % size).unwrap_or_default()
}

/// Good enough to keep out of each other's way; nothing secret depends on it.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_port_is_given_once_and_is_free() {
        let mut ports = Ports::new();
        let chosen: Vec<u16> = (0..16).map(|_| ports.free().unwrap()).collect();
        let distinct: std::collections::BTreeSet<_> = chosen.iter().collect();
        assert_eq!(distinct.len(), chosen.len());
        assert!(chosen.iter().all(|p| RANGE.contains(p)));
    }

    #[test]
    fn taken_ports_are_passed_over() {
        let mut ports = Ports::new();
        let taken = ports.free().unwrap();
        let _held = UdpSocket::bind((Ipv4Addr::LOCALHOST, taken)).unwrap();
        ports.next = taken;
        assert_ne!(ports.free().unwrap(), taken);
    }
}
