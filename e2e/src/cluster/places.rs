//! Ports and corners of the loopback network that no other cluster of any test on this machine uses.

use std::{
    collections::{BTreeSet, hash_map::RandomState},
    hash::{BuildHasher as _, Hasher as _},
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    sync::{Mutex, PoisonError},
};

/// Below the range systems hand to clients, so that a restarting cluster finds its ports free, and below the demo's.
const RANGE: std::ops::Range<u16> = 10_000..18_000;
/// Second octets of 127/8 for VIPs: away from 127.0/16, from Strait's default and from the demo's.
const OCTETS: std::ops::Range<u64> = 1..53;

static TAKEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// A loopback port free for TCP and UDP now, given once in this process.
pub(super) fn port() -> io::Result<SocketAddr> {
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    let size = u64::from(RANGE.end - RANGE.start);
    for _ in 0..size {
        let offset = u16::try_from(random() % size).unwrap_or_default();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, RANGE.start + offset));
        let is_free = || TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok();
        if !taken.contains(&address.port()) && is_free() {
            taken.insert(address.port());
            return Ok(address);
        }
    }
    Err(io::Error::new(
        io::ErrorKind::AddrInUse,
        format!("no free port in {RANGE:?}"),
    ))
}

/// A range of virtual addresses, CIDR.
pub(super) fn vips() -> String {
    let second = OCTETS.start + random() % (OCTETS.end - OCTETS.start);
    format!("127.{second}.{}.0/24", random() % 256)
}
