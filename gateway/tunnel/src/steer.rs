//! Packets that landed on the wrong worker.
//!
//! Owns the inboxes between workers. The kernel spreads packets of one port by address; after a NAT rebinding the same connection
//! comes from another address, maybe to another worker, whose endpoint would answer with a stateless reset and kill it. So a
//! packet whose connection id names another worker goes to that worker's inbox before quinn sees it. Used by sockets.

use std::{
    collections::VecDeque,
    io::IoSliceMut,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::Context,
};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use quinn::udp::RecvMeta;

use crate::cid::{CidKey, destination};

/// Packets an inbox holds: a full receive batch of a fast flow. More is dropped, as a full socket buffer would.
const INBOX_PACKETS: usize = 2048;

/// One packet with where it came from.
#[derive(Debug)]
struct Foreign {
    meta: RecvMeta,
    data: Box<[u8]>,
}

/// What other workers received for this one.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    queue: Mutex<VecDeque<Foreign>>,
    waker: AtomicWaker,
}

/// The inboxes of all accepting workers.
#[derive(Debug)]
pub(crate) struct Steering {
    key: CidKey,
    inboxes: Vec<Inbox>,
    /// Packets passed on.
    pub(crate) forwarded: AtomicU64,
    /// Packets dropped because an inbox was full.
    pub(crate) dropped: AtomicU64,
}

impl Steering {
    pub(crate) fn new(key: CidKey, workers: usize) -> Arc<Self> {
        Arc::new(Self {
            key,
            inboxes: (0..workers).map(|_| Inbox::default()).collect(),
            forwarded: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        })
    }

    /// The other worker that owns this packet; `None` when it is ours, nobody's, or starts a connection.
    fn owner(&self, me: usize, packet: &[u8]) -> Option<&Inbox> {
        let owner = usize::from(self.key.worker_of(destination(packet)?)?);
        (owner != me).then(|| self.inboxes.get(owner)).flatten()
    }

    /// Passes on what is not ours and leaves the rest at the front of `buffer`, with `meta` adjusted.
    pub(crate) fn sort(&self, me: usize, buffer: &mut [u8], meta: &mut RecvMeta) {
        if meta.stride == 0 {
            return;
        }
        let mut kept = 0;
        let mut at = 0;
        while at < meta.len {
            let end = (at + meta.stride).min(meta.len);
            match self.owner(me, &buffer[at..end]) {
                Some(inbox) => self.pass(inbox, *meta, &buffer[at..end]),
                None => {
                    if kept != at {
                        buffer.copy_within(at..end, kept);
                    }
                    kept += end - at;
                }
            }
            at = end;
        }
        meta.len = kept;
    }

    fn pass(&self, inbox: &Inbox, meta: RecvMeta, packet: &[u8]) {
        let mut queue = inbox.queue.lock();
        if queue.len() >= INBOX_PACKETS {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let meta = RecvMeta {
            len: packet.len(),
            stride: packet.len(),
            ..meta
        };
        queue.push_back(Foreign {
            meta,
            data: packet.into(),
        });
        drop(queue);
        self.forwarded.fetch_add(1, Ordering::Relaxed);
        inbox.waker.wake();
    }

    /// Moves what others passed to us into receive buffers; registers the waker first, so that nothing is missed.
    pub(crate) fn collect(
        &self,
        me: usize,
        cx: &Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> usize {
        let Some(inbox) = self.inboxes.get(me) else {
            return 0;
        };
        inbox.waker.register(cx.waker());
        let mut queue = inbox.queue.lock();
        let mut count = 0;
        for (buffer, meta) in buffers.iter_mut().zip(metas) {
            let Some(packet) = queue.pop_front() else { break };
            // Both workers' buffers are made by the same endpoint configuration, so it fits.
            let Some(target) = buffer.get_mut(..packet.data.len()) else {
                continue;
            };
            target.copy_from_slice(&packet.data);
            *meta = packet.meta;
            count += 1;
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use quinn::ConnectionIdGenerator;

    use super::*;
    use crate::cid::WorkerCids;

    const KEY: [u8; 32] = [7; 32];

    fn packet(worker: u8, fill: u8, length: usize) -> Vec<u8> {
        let cid = WorkerCids::new(CidKey::new(&KEY), worker).generate_cid();
        let mut packet = vec![fill; length];
        packet[0] = 0x40;
        packet[1..9].copy_from_slice(&cid);
        packet
    }

    fn meta(length: usize, stride: usize) -> RecvMeta {
        let mut meta = RecvMeta::default();
        (meta.len, meta.stride) = (length, stride);
        meta
    }

    #[test]
    fn a_mixed_batch_is_split_and_foreign_packets_reach_their_owner() {
        let steering = Steering::new(CidKey::new(&KEY), 2);
        let packets = [
            packet(0, 1, 50),
            packet(1, 2, 50),
            packet(0, 3, 50),
            packet(1, 4, 30),
        ];
        let mut buffer = packets.concat();
        let mut meta = meta(buffer.len(), 50);
        steering.sort(0, &mut buffer, &mut meta);
        assert_eq!(&buffer[..meta.len], &[&packets[0][..], &packets[2]].concat());

        let mut space = [[0; 64]; 4];
        let mut slices = space.each_mut().map(|space| IoSliceMut::new(space));
        let mut metas = [RecvMeta::default(); 4];
        let context = Context::from_waker(Waker::noop());
        assert_eq!(steering.collect(1, &context, &mut slices, &mut metas), 2);
        assert_eq!(&slices[0][..metas[0].len], &packets[1]);
        assert_eq!(&slices[1][..metas[1].len], &packets[3]);
        assert_eq!(steering.collect(1, &context, &mut slices, &mut metas), 0);
    }

    #[test]
    fn unknown_ids_stay_where_they_landed_and_a_full_inbox_drops() {
        let steering = Steering::new(CidKey::new(&KEY), 2);
        let mut alien = vec![0x40; 50];
        let mut one = meta(50, 50);
        steering.sort(0, &mut alien, &mut one);
        assert_eq!(one.len, 50);
        for _ in 0..=INBOX_PACKETS {
            let mut foreign = packet(1, 0, 50);
            steering.sort(0, &mut foreign, &mut meta(50, 50));
        }
        assert_eq!(steering.dropped.load(Ordering::Relaxed), 1);
        // A worker that a restart took away: the packet stays, and is answered with a reset.
        let mut gone = packet(9, 0, 50);
        let mut one = meta(50, 50);
        steering.sort(0, &mut gone, &mut one);
        assert_eq!(one.len, 50);
    }
}
