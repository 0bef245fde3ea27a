//! Connection ids that say which worker owns the connection.
//!
//! Owns the format: 8 bytes = 4 random, 1 worker index hidden by a keyed PRF of those, 3 tag bytes. Whoever lacks the key sees random
//! bytes and cannot link two ids of one connection (RFC 9000 section 5.1). The key is kept over restarts, so that a packet for a
//! connection of the previous process still validates and is answered with a stateless reset instead of silence.

use std::hash::Hasher;

use quinn::{ConnectionId, ConnectionIdGenerator};
use quinn_proto::{InvalidCid, RandomConnectionIdGenerator};
use siphasher::sip::SipHasher24;

/// Bytes of every id: what a short header carries, so it is paid with every packet.
pub(crate) const CID_LEN: usize = 8;
/// Random bytes; ids are unique within an endpoint because quinn draws again on a collision.
const NONCE_LEN: usize = 4;

/// Reads and writes worker indices in connection ids.
#[derive(Clone, Copy)]
pub(crate) struct CidKey(SipHasher24);

impl std::fmt::Debug for CidKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CidKey")
    }
}

impl CidKey {
    /// Uses the first 16 bytes of `key`: SipHash takes no more, and 3 tag bytes give no more.
    pub(crate) fn new(key: &[u8; 32]) -> Self {
        let mut short = [0; 16];
        short.copy_from_slice(&key[..16]);
        Self(SipHasher24::new_with_key(&short))
    }

    fn prf(&self, nonce: [u8; NONCE_LEN], domain: u8) -> [u8; 8] {
        let mut hasher = self.0;
        hasher.write(&nonce);
        hasher.write_u8(domain);
        hasher.finish().to_le_bytes()
    }

    fn encode(&self, nonce: [u8; NONCE_LEN], worker: u8) -> [u8; CID_LEN] {
        let hidden = worker ^ self.prf(nonce, MASK)[0];
        let tag = self.tag(nonce, worker);
        let [a, b, c, d] = nonce;
        [a, b, c, d, hidden, tag[0], tag[1], tag[2]]
    }

    fn tag(&self, nonce: [u8; NONCE_LEN], worker: u8) -> [u8; 3] {
        let mut hasher = self.0;
        hasher.write(&nonce);
        hasher.write(&[TAG, worker]);
        let [a, b, c, ..] = hasher.finish().to_le_bytes();
        [a, b, c]
    }

    /// The worker in an id of ours; `None` for any other bytes (one in 16 million passes by chance).
    pub(crate) fn worker_of(&self, cid: &[u8]) -> Option<u8> {
        let &[a, b, c, d, hidden, t0, t1, t2] = cid else {
            return None;
        };
        let nonce = [a, b, c, d];
        let worker = hidden ^ self.prf(nonce, MASK)[0];
        (self.tag(nonce, worker) == [t0, t1, t2]).then_some(worker)
    }
}

/// Domain byte of the PRF that hides the worker.
const MASK: u8 = 1;
/// Domain byte of the tag.
const TAG: u8 = 2;

/// Where a datagram's first packet carries its destination id, in this version's packets (RFC 9000 section 17).
pub(crate) fn destination(datagram: &[u8]) -> Option<&[u8]> {
    const LONG: u8 = 0x80;
    let first = *datagram.first()?;
    if first & LONG == 0 {
        return datagram.get(1..=CID_LEN);
    }
    // Long header: flags, 4 bytes of version, length, id.
    let length = usize::from(*datagram.get(5)?);
    (length == CID_LEN)
        .then(|| datagram.get(6..6 + CID_LEN))
        .flatten()
}

/// Quinn's generator for one worker.
pub(crate) struct WorkerCids {
    key: CidKey,
    worker: u8,
    random: RandomConnectionIdGenerator,
}

impl WorkerCids {
    pub(crate) fn new(key: CidKey, worker: u8) -> Self {
        Self {
            key,
            worker,
            random: RandomConnectionIdGenerator::new(NONCE_LEN),
        }
    }
}

impl ConnectionIdGenerator for WorkerCids {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut nonce = [0; NONCE_LEN];
        nonce.copy_from_slice(&self.random.generate_cid());
        ConnectionId::new(&self.key.encode(nonce, self.worker))
    }

    fn validate(&self, cid: &ConnectionId) -> Result<(), InvalidCid> {
        self.key.worker_of(cid).map(|_| ()).ok_or(InvalidCid)
    }

    fn cid_len(&self) -> usize {
        CID_LEN
    }

    fn cid_lifetime(&self) -> Option<std::time::Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(byte: u8) -> CidKey {
        CidKey::new(&[byte; 32])
    }

    proptest! {
        #[test]
        fn an_id_tells_its_worker_to_the_key_holder_only(nonce: [u8; 4], worker: u8) {
            let cid = key(1).encode(nonce, worker);
            prop_assert_eq!(key(1).worker_of(&cid), Some(worker));
            prop_assert_ne!(key(2).encode(nonce, worker), cid);
        }

        #[test]
        fn an_altered_id_is_not_ours(nonce: [u8; 4], worker: u8, at in 0usize..8, flip in 1u8..) {
            let mut cid = key(1).encode(nonce, worker);
            cid[at] ^= flip;
            // Three tag bytes: a forged id may pass once in 2^24, never with the same worker and nonce.
            if let Some(found) = key(1).worker_of(&cid) {
                prop_assert!(at < 5, "tag altered, yet worker {found}");
            }
        }

        #[test]
        fn any_datagram_may_be_looked_at(datagram in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Some(cid) = destination(&datagram) {
                prop_assert_eq!(cid.len(), CID_LEN);
            }
        }
    }

    #[test]
    fn the_destination_is_found_in_both_header_forms() {
        let cid = key(1).encode([1, 2, 3, 4], 7);
        let short = [&[0x40][..], &cid, &[0; 20]].concat();
        let long = [&[0xe0, 0, 0, 0, 1, 8][..], &cid, &[0; 20]].concat();
        let other_length = [&[0xe0, 0, 0, 0, 1, 9][..], &cid, &[0; 20]].concat();
        assert_eq!(destination(&short), Some(&cid[..]));
        assert_eq!(destination(&long), Some(&cid[..]));
        assert_eq!(destination(&other_length), None);
    }

    #[test]
    fn the_generator_makes_what_it_validates() {
        let mut cids = WorkerCids::new(key(3), 5);
        let cid = cids.generate_cid();
        assert!(cids.validate(&cid).is_ok());
        assert_eq!(key(3).worker_of(&cid), Some(5));
        assert!(WorkerCids::new(key(4), 5).validate(&cid).is_err());
    }
}
