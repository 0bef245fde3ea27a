//! How many lines failed streams may leave in the log.
//!
//! Owns the bound, as a pure function of `now`: a peer opens streams that fail as fast as it likes, and a disk full of them would cost
//! more than the streams. Nothing is lost from the figures, which count each one. Called by the access log.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use strait_federation_api::{ClusterId, Reason};

/// Lines in each [`PERIOD`] of one peer and reason: enough to see what fails, and about 3 kB a second.
const LINES: u32 = 10;
/// See [`LINES`].
const PERIOD: Duration = Duration::from_secs(1);
/// Pairs remembered, above which the quiet ones are forgotten. Peers are Federations and reasons a fixed list, so only a large mesh
/// in a bad state comes near.
const PAIRS: usize = 4096;

#[derive(Debug)]
struct Spent {
    since: Instant,
    lines: u32,
    left_out: u64,
}

/// What each peer and reason has used up; `None` stands for flows without a peer.
#[derive(Debug, Default)]
pub(super) struct Lines(HashMap<(Option<ClusterId>, Reason), Spent>);

impl Lines {
    /// `None` leaves the line out; else the number left out since the last one that was written.
    pub(super) fn next(&mut self, peer: Option<&ClusterId>, reason: Reason, now: Instant) -> Option<u64> {
        let key = (peer.cloned(), reason);
        if self.0.len() >= PAIRS && !self.0.contains_key(&key) {
            self.0.retain(|_, spent| !spent.is_over(now));
        }
        let fresh = || Spent {
            since: now,
            lines: 0,
            left_out: 0,
        };
        let spent = self.0.entry(key).or_insert_with(fresh);
        if spent.is_over(now) {
            (spent.since, spent.lines) = (now, 0);
        }
        if spent.lines >= LINES {
            spent.left_out += 1;
            return None;
        }
        spent.lines += 1;
        Some(std::mem::take(&mut spent.left_out))
    }
}

impl Spent {
    fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= PERIOD
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn peer(name: &str) -> ClusterId {
        ClusterId::parse(name).unwrap()
    }

    #[test]
    fn a_flood_leaves_a_few_lines_a_second_and_the_next_one_tells_the_rest() {
        let (mut lines, now, west) = (Lines::default(), Instant::now(), peer("west"));
        let mut next = |at| lines.next(Some(&west), Reason::Denied, at);
        let written = (0..1000).filter_map(|_| next(now)).collect::<Vec<_>>();
        assert_eq!(written, [0; LINES as usize]);
        assert_eq!(next(now + PERIOD - Duration::from_nanos(1)), None);
        assert_eq!(next(now + PERIOD), Some(1001 - u64::from(LINES)));
        assert_eq!(next(now + PERIOD), Some(0));
    }

    #[test]
    fn one_pair_does_not_silence_another() {
        let (mut lines, now, west) = (Lines::default(), Instant::now(), peer("west"));
        for _ in 0..1000 {
            lines.next(Some(&west), Reason::Denied, now);
        }
        assert_eq!(lines.next(Some(&west), Reason::Denied, now), None);
        assert_eq!(lines.next(Some(&west), Reason::UnknownService, now), Some(0));
        assert_eq!(lines.next(Some(&peer("east")), Reason::Denied, now), Some(0));
        assert_eq!(lines.next(None, Reason::Denied, now), Some(0));
    }

    #[test]
    fn quiet_pairs_are_forgotten() {
        let (mut lines, now) = (Lines::default(), Instant::now());
        for i in 0..PAIRS {
            lines.next(Some(&peer(&format!("c{i}"))), Reason::Denied, now);
        }
        lines.next(Some(&peer("west")), Reason::Denied, now + PERIOD);
        assert_eq!(lines.0.len(), 1);
    }

    proptest! {
        #[test]
        fn each_stream_is_a_line_or_told_of_by_a_later_one(gaps in proptest::collection::vec(0u64..300, 1..300)) {
            let (mut lines, mut now) = (Lines::default(), Instant::now());
            let mut told = 0;
            let total = gaps.len() as u64 + 1;
            for gap in gaps {
                now += Duration::from_millis(gap);
                told += lines.next(None, Reason::Denied, now).map_or(0, |left_out| left_out + 1);
            }
            told += lines.next(None, Reason::Denied, now + PERIOD).map_or(0, |left_out| left_out + 1);
            prop_assert_eq!(told, total);
        }
    }
}
