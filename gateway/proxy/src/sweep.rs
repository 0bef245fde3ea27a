//! Which flows must end although their sockets are fine.
//!
//! Owns the idle limit and the byte budget per peer, as functions over what the copy loops counted, and the list of a worker's flows
//! they are applied to. A timer per flow would cost more than a look at all of them once a second.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use strait_federation_api::{ClusterId, Reason};

use crate::flow::{Flow, LaneView, now_ms};

/// Time between two sweeps: the promise on stalled readers is in seconds.
pub(crate) const EVERY: Duration = Duration::from_secs(1);
/// A stream that stalls shorter than this is never sacrificed: garbage collectors and slow disks pause for seconds.
const STALLED: Duration = Duration::from_secs(5);

/// Limits of a worker's flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// A flow on which no byte moves for this long is reset.
    pub idle: Duration,
    /// As `idle` once one direction has ended: what is left is a reader of a response or nobody.
    pub idle_half_closed: Duration,
    /// Bytes that may wait for slow readers, per peer and worker.
    pub peer_bytes: u64,
    /// Receive window of one stream, bytes: what a stalled one may hold in the tunnel beyond what is counted here.
    pub stream_window: u64,
}

impl Default for Limits {
    /// An hour of silence is longer than the keepalive of every database driver; five minutes suffice for a half-closed one. 48 MiB are
    /// three quarters of the connection window of 64 MiB: the last quarter is what flows that are read can use meanwhile.
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(3600),
            idle_half_closed: Duration::from_secs(300),
            peer_bytes: 48 << 20,
            stream_window: 4 << 20,
        }
    }
}

/// No byte has moved for too long, `now` in milliseconds.
///
/// Directions are judged apart: bytes that wait for a reader keep no flow alive, however busy the other direction is. A direction
/// with nothing to say counts only when the other is silent too.
fn is_idle(up: LaneView, down: LaneView, limits: &Limits, now: u64) -> bool {
    let half_closed = up.done || down.done;
    let limit = if half_closed {
        limits.idle_half_closed
    } else {
        limits.idle
    };
    let limit = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
    let over = |since: u64| now.saturating_sub(since) >= limit;
    let stuck = |lane: LaneView| lane.blocked != 0 && over(lane.blocked);
    stuck(up) || stuck(down) || (over(up.moved) && over(down.moved))
}

/// What a flow costs its peer's budget, bytes, and since when its worst direction is stalled.
fn charge(up: LaneView, down: LaneView, limits: &Limits) -> (u64, u64) {
    let one = |lane: LaneView| {
        let hidden = if lane.deep { limits.stream_window } else { 0 };
        u64::from(lane.pending) + hidden
    };
    let since = [up.blocked, down.blocked].into_iter().filter(|b| *b != 0).min();
    (one(up) + one(down), since.unwrap_or(0))
}

/// Positions of the stalls to end, longest first, until the rest fits `budget`. `stalls` are (bytes, since); those younger than
/// [`STALLED`] are spared even if the rest does not fit.
fn shed(stalls: &[(u64, u64)], budget: u64, now: u64) -> Vec<usize> {
    let mut held: u64 = stalls.iter().map(|s| s.0).sum();
    let old = |since: u64| since != 0 && u128::from(now.saturating_sub(since)) >= STALLED.as_millis();
    let mut victims: Vec<usize> = (0..stalls.len()).filter(|&i| old(stalls[i].1)).collect();
    victims.sort_by_key(|&i| stalls[i].1);
    victims.retain(|&i| {
        let needed = held > budget;
        if needed {
            held -= stalls[i].0;
        }
        needed
    });
    victims
}

/// A flow with its charge.
type Stalled = (Arc<Flow>, (u64, u64));

/// The flows of one worker. Only that worker's thread uses it, so its lock is never waited for.
#[derive(Default)]
pub(crate) struct Registry(Mutex<Vec<Weak<Flow>>>);

impl Registry {
    pub(crate) fn add(&self, flow: &Arc<Flow>) {
        self.0.lock().push(Arc::downgrade(flow));
    }

    fn alive(&self) -> Vec<Arc<Flow>> {
        let mut alive = Vec::new();
        self.0.lock().retain(|weak| {
            let flow = weak.upgrade();
            let keep = flow.is_some();
            alive.extend(flow);
            keep
        });
        alive
    }

    /// Ends what must end.
    pub(crate) fn sweep(&self, limits: &Limits) {
        let now = now_ms();
        let mut stalled: BTreeMap<ClusterId, Vec<Stalled>> = BTreeMap::new();
        for flow in self.alive() {
            flow.report();
            let (up, down) = (flow.up.view(), flow.down.view());
            if is_idle(up, down, limits, now) {
                flow.end(Reason::IdleTimeout);
                continue;
            }
            let charge = charge(up, down, limits);
            if let (Some(peer), true) = (&flow.info().peer, charge.0 > 0) {
                stalled.entry(peer.clone()).or_default().push((flow, charge));
            }
        }
        for flows in stalled.values() {
            let charges: Vec<_> = flows.iter().map(|(_, charge)| *charge).collect();
            for victim in shed(&charges, limits.peer_bytes, now) {
                flows[victim].0.end(Reason::StalledReader);
            }
        }
    }

    /// Ends every flow with `reason`.
    pub(crate) fn end_all(&self, reason: Reason) {
        self.alive().iter().for_each(|flow| flow.end(reason));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits {
        idle: Duration::from_millis(1000),
        idle_half_closed: Duration::from_millis(100),
        peer_bytes: 100,
        stream_window: 40,
    };

    fn lane(moved: u64, blocked: u64) -> LaneView {
        LaneView {
            moved,
            blocked,
            ..LaneView::default()
        }
    }

    #[test]
    fn one_busy_direction_keeps_a_quiet_one_alive() {
        assert!(!is_idle(lane(1, 0), lane(5_000, 0), &LIMITS, 5_500));
        assert!(is_idle(lane(1, 0), lane(5_000, 0), &LIMITS, 6_000));
    }

    #[test]
    fn a_stuck_direction_is_not_excused_by_a_busy_one() {
        assert!(is_idle(lane(5_000, 4_000), lane(5_000, 0), &LIMITS, 5_001));
        assert!(!is_idle(lane(5_000, 4_900), lane(5_000, 0), &LIMITS, 5_001));
    }

    #[test]
    fn a_half_closed_flow_has_less_patience() {
        let done = LaneView {
            done: true,
            ..lane(1, 0)
        };
        assert!(!is_idle(done, lane(1, 0), &LIMITS, 100));
        assert!(is_idle(done, lane(1, 0), &LIMITS, 101));
    }

    #[test]
    fn a_deep_stall_is_charged_its_window() {
        let deep = LaneView {
            pending: 7,
            deep: true,
            ..lane(1, 3)
        };
        assert_eq!(charge(deep, lane(1, 2), &LIMITS), (47, 2));
        assert_eq!(charge(lane(1, 0), lane(1, 0), &LIMITS), (0, 0));
    }

    #[test]
    fn the_longest_stall_goes_first_and_no_more_than_needed() {
        let now = 20_000;
        let stalls = [(60, 12_000), (60, 10_000), (60, 14_000), (60, 19_000)];
        assert_eq!(shed(&stalls, 100, now), [1, 0, 2]);
        assert_eq!(shed(&stalls, 200, now), [1]);
        assert_eq!(shed(&stalls, 240, now), [0usize; 0]);
    }

    proptest! {
        #[test]
        fn only_old_stalls_go_oldest_first_and_only_under_pressure(
            stalls in prop::collection::vec((0u64..100, 0u64..20_000), 0..20),
            budget in 0u64..500,
        ) {
            let now = 20_000;
            let gone = shed(&stalls, budget, now);
            let left: u64 = stalls.iter().enumerate().filter(|(i, _)| !gone.contains(i)).map(|(_, s)| s.0).sum();
            for &i in &gone {
                prop_assert!(stalls[i].1 != 0 && now - stalls[i].1 >= 5_000);
                // Without the last one it would not fit.
            }
            if let Some(&last) = gone.last() {
                prop_assert!(left + stalls[last].0 > budget);
            }
            let spared_old = stalls.iter().enumerate()
                .any(|(i, s)| !gone.contains(&i) && s.1 != 0 && now - s.1 >= 5_000);
            prop_assert!(left <= budget || !spared_old);
            prop_assert!(gone.windows(2).all(|w| stalls[w[0]].1 <= stalls[w[1]].1));
        }
    }
}
