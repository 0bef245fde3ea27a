//! Joining sends into bigger batches.
//!
//! Owns the rule of what may go out in one system call with segmentation offload, as a pure value. Quinn hands over at most 10
//! segments at a time; the kernel takes 64, and most of the cost is per call. Filled by the socket while a driver runs.

use std::net::{IpAddr, SocketAddr};

use quinn::udp::{EcnCodepoint, Transmit};

/// Bytes one call may carry: a UDP length field less headers, rounded down.
pub(crate) const MAX_BYTES: usize = 65_000;
/// A shorter last segment may only follow so many full ones: alone before a shorter one stands a path MTU probe, which the kernel
/// refuses together with whatever shares its call.
const FULL_BEFORE_SHORT: usize = 2;

/// Sends of equal segment size to one destination, ready to go out together.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    segments: usize,
    segment_size: usize,
    /// The last segment is shorter: nothing may follow.
    ended: bool,
    to: Option<Route>,
}

/// What all packets of a batch share besides the segment size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Route {
    destination: SocketAddr,
    ecn: Option<EcnCodepoint>,
    source: Option<IpAddr>,
}

impl Route {
    const fn of(transmit: &Transmit<'_>) -> Self {
        Self {
            destination: transmit.destination,
            ecn: transmit.ecn,
            source: transmit.src_ip,
        }
    }
}

impl Batch {
    pub(crate) const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Appends `transmit` if it may go out with what is here; `false` leaves the batch as it was: send that first.
    pub(crate) fn append(&mut self, transmit: &Transmit<'_>, max_segments: usize) -> bool {
        let length = transmit.contents.len();
        let size = transmit.segment_size.unwrap_or(length);
        if size == 0 {
            return false;
        }
        if !self.is_empty() && !self.fits(transmit, size, max_segments) {
            return false;
        }
        if self.is_empty() {
            self.to = Some(Route::of(transmit));
            self.segment_size = size;
        }
        self.bytes.extend_from_slice(transmit.contents);
        self.segments += length.div_ceil(size);
        self.ended = !length.is_multiple_of(self.segment_size);
        true
    }

    fn fits(&self, transmit: &Transmit<'_>, size: usize, max_segments: usize) -> bool {
        let length = transmit.contents.len();
        let same = size == self.segment_size;
        let short_tail = length < self.segment_size
            && transmit.segment_size.is_none()
            && self.segments >= FULL_BEFORE_SHORT;
        !self.ended
            && self.to == Some(Route::of(transmit))
            && (same || short_tail)
            && self.segments + length.div_ceil(size) <= max_segments
            && self.bytes.len() + length <= MAX_BYTES
    }

    /// What is here as one send; `None` when empty.
    pub(crate) fn transmit(&self) -> Option<Transmit<'_>> {
        let to = self.to.filter(|_| !self.is_empty())?;
        Some(Transmit {
            destination: to.destination,
            ecn: to.ecn,
            contents: &self.bytes,
            segment_size: (self.segments > 1).then_some(self.segment_size),
            src_ip: to.source,
        })
    }

    /// Empties it, keeping its memory.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.segments = 0;
        self.ended = false;
        self.to = None;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn to(port: u16, contents: &[u8], segment_size: Option<usize>) -> Transmit<'_> {
        Transmit {
            destination: SocketAddr::from(([127, 0, 0, 1], port)),
            ecn: None,
            contents,
            segment_size,
            src_ip: None,
        }
    }

    #[test]
    fn equal_segments_join_and_a_short_one_ends_the_batch() {
        let mut batch = Batch::default();
        let bytes = [7; 100];
        assert!(batch.append(&to(1, &bytes, Some(50)), 64));
        assert!(batch.append(&to(1, &bytes[..50], None), 64));
        assert!(batch.append(&to(1, &bytes[..20], None), 64));
        assert!(!batch.append(&to(1, &bytes[..50], None), 64));
        let sent = batch.transmit().unwrap();
        assert_eq!((sent.contents.len(), sent.segment_size), (170, Some(50)));
    }

    #[test]
    fn another_route_size_or_too_many_segments_break_it() {
        let bytes = [7; 100];
        let full = || {
            let mut batch = Batch::default();
            assert!(batch.append(&to(1, &bytes, Some(50)), 64));
            batch
        };
        assert!(!full().append(&to(2, &bytes[..50], None), 64));
        assert!(!full().append(&to(1, &bytes[..60], None), 64));
        assert!(!full().append(&to(1, &bytes[..50], None), 2));
        let mut marked = to(1, &bytes[..50], None);
        marked.ecn = Some(EcnCodepoint::Ect0);
        assert!(!full().append(&marked, 64));
        let mut sourced = to(1, &bytes[..50], None);
        sourced.src_ip = Some([127, 0, 0, 1].into());
        assert!(!full().append(&sourced, 64));
    }

    #[test]
    fn a_probe_travels_alone() {
        let mut batch = Batch::default();
        let bytes = [7; 100];
        assert!(batch.append(&to(1, &bytes, None), 64));
        assert!(!batch.append(&to(1, &bytes[..50], None), 64));
    }

    proptest! {
        /// Whatever is appended comes out once, in order, cut at the same places.
        #[test]
        fn segments_come_out_as_they_went_in(
            sends in proptest::collection::vec((1u16..3, 1usize..1500, 1usize..11, 0usize..1500), 1..60),
            max_segments in 2usize..65,
        ) {
            let (mut input, mut output) = (Vec::new(), Vec::new());
            let mut batch = Batch::default();
            let cut = |port: u16, sent: &[u8], size: usize, into: &mut Vec<(u16, Vec<u8>)>| {
                into.extend(sent.chunks(size).map(|segment| (port, segment.to_vec())));
            };
            for (port, size, count, tail) in sends {
                let length = size * count - tail % size;
                let contents: Vec<u8> = (0..length).map(|i| i as u8).collect();
                let segment_size = (length > size).then_some(size);
                let transmit = to(port, &contents, segment_size);
                cut(port, &contents, segment_size.unwrap_or(length), &mut input);
                if !batch.append(&transmit, max_segments) {
                    let sent = batch.transmit().unwrap();
                    prop_assert!(sent.contents.len() <= MAX_BYTES);
                    cut(sent.destination.port(), sent.contents, sent.segment_size.unwrap_or(usize::MAX), &mut output);
                    batch.clear();
                    prop_assert!(batch.append(&transmit, max_segments));
                }
            }
            if let Some(sent) = batch.transmit() {
                cut(sent.destination.port(), sent.contents, sent.segment_size.unwrap_or(usize::MAX), &mut output);
            }
            prop_assert_eq!(input, output);
        }
    }
}
