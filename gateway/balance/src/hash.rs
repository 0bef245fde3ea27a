//! Hashes that must agree between processes and versions.
//!
//! Owns FNV-1a with a finaliser. `std`'s hashers promise neither stability over versions nor over processes, and two gateways of one
//! cluster must send a client to the same endpoint. Not for tables that a peer can fill: it is not keyed.

use std::net::IpAddr;

/// FNV-1a 64-bit parameters (IETF draft-eastlake-fnv).
const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

/// Hash of `bytes` under `seed`; every bit of the result depends on every bit of the input.
#[must_use]
pub fn stable_hash(seed: u64, bytes: &[u8]) -> u64 {
    let fnv = bytes
        .iter()
        .fold(OFFSET ^ mix(seed), |h, &b| (h ^ u64::from(b)).wrapping_mul(PRIME));
    mix(fnv)
}

/// The affinity key of a client address (`sessionAffinity: ClientIP`).
#[must_use]
pub fn affinity_key(client: IpAddr) -> u64 {
    match client.to_canonical() {
        IpAddr::V4(ip) => stable_hash(4, &ip.octets()),
        IpAddr::V6(ip) => stable_hash(6, &ip.octets()),
    }
}

/// A number in (0, 1) from a hash, for weighted rendezvous.
pub(crate) fn unit(hash: u64) -> f64 {
    // 52 bits and a half are exact in an f64; one more bit would round up to 1.
    ((hash >> 12) as f64 + 0.5) / (1u64 << 52) as f64
}

/// The finaliser of SplitMix64.
const fn mix(mut x: u64) -> u64 {
    x ^= x >> 30;
    x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^= x >> 27;
    x = x.wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_pinned_because_other_processes_compute_them_too() {
        assert_eq!(
            affinity_key("10.0.0.1".parse().unwrap()),
            affinity_key("::ffff:10.0.0.1".parse().unwrap())
        );
        assert_eq!(stable_hash(0, b""), 0xf52a_15e9_a9b5_e89b);
    }

    #[test]
    fn units_stay_inside_the_open_interval() {
        for h in [0, 1, u64::MAX / 2, u64::MAX] {
            let u = unit(h);
            assert!(u > 0.0 && u < 1.0, "{u}");
        }
    }
}
