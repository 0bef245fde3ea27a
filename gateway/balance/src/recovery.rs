//! How much traffic a backend cluster may get after it was away.
//!
//! Owns the hysteresis: going away counts at once, coming back counts in steps, and a backend that relapses waits longer each time. Never
//! decides alone: [`crate::choose`] keeps a backend without share as a reserve, so the last one standing is always used.
//! One value per (import, backend cluster) and worker.

use std::time::{Duration, Instant};

/// All of the traffic it would get by priority and weight, in percent.
pub const FULL_SHARE: u8 = 100;

/// Shares on the way back, percent, one step each: a cold backend (empty caches, a reconnecting mesh) meets a tenth of its load
/// first, and doubling from there reaches all of it in four steps.
const STEPS: [u8; 4] = [10, 25, 50, 75];
/// Length of one step. Four make the way back 4 s: long enough for one bad second to show before the next step, short enough for
/// people who watch.
const STEP: Duration = Duration::from_secs(1);
/// Quiet time before the first step: a backend that comes and goes within a second never gets a stream it would lose.
const SETTLE: Duration = Duration::from_secs(1);
/// Relapses double the quiet time up to 2^4 = 16 s; beyond that an operator is needed more than patience.
const MAX_DOUBLINGS: u8 = 4;
/// After this long at full share relapses are forgotten.
const CALM: Duration = Duration::from_secs(60);
/// Failures in a row that count as being away. One may be an endpoint, two may be a coincidence.
const FAILURES: u8 = 3;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Phase {
    /// Never seen available. The first sight is no return: there is nothing to be careful about.
    #[default]
    Unseen,
    Full {
        since: Instant,
    },
    /// Away. Judged by its failures when `until` is set: nobody tells us when that ends, so time does.
    Away {
        until: Option<Instant>,
    },
    Returning {
        since: Instant,
    },
}

/// See the module.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recovery {
    phase: Phase,
    failures: u8,
    relapses: u8,
}

impl Recovery {
    /// Takes in whether the backend can be reached now (tunnel usable, endpoints ready) and returns its share in percent.
    pub fn observe(&mut self, available: bool, now: Instant) -> u8 {
        self.phase = match (self.phase, available) {
            (Phase::Unseen, false) => Phase::Unseen,
            (Phase::Unseen, true) => Phase::Full { since: now },
            (Phase::Full { .. } | Phase::Returning { .. }, false) => self.leave(None, now),
            (Phase::Away { until }, false) => Phase::Away { until },
            (Phase::Away { until: Some(t) }, true) if now < t => Phase::Away { until: Some(t) },
            (Phase::Away { .. }, true) => Phase::Returning { since: now },
            (Phase::Returning { since }, true) if now >= since + self.settle() + way_back() => {
                Phase::Full { since: now }
            }
            (phase @ (Phase::Full { .. } | Phase::Returning { .. }), true) => phase,
        };
        self.share(now)
    }

    /// A stream to it was answered.
    pub const fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// A stream to it was refused for want of service, went unanswered or lost its tunnel before the answer.
    pub fn failed(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        let in_use = matches!(self.phase, Phase::Full { .. } | Phase::Returning { .. });
        if self.failures >= FAILURES && in_use {
            let until = now + self.settle();
            self.phase = self.leave(Some(until), now);
        }
    }

    /// Percent of the traffic it would get by priority and weight.
    #[must_use]
    pub fn share(&self, now: Instant) -> u8 {
        match self.phase {
            Phase::Unseen | Phase::Away { .. } => 0,
            Phase::Full { .. } => FULL_SHARE,
            Phase::Returning { since } => {
                let Some(back) = now.saturating_duration_since(since).checked_sub(self.settle()) else {
                    return 0;
                };
                let step = usize::try_from(back.as_millis() / STEP.as_millis()).unwrap_or(usize::MAX);
                STEPS.get(step).copied().unwrap_or(FULL_SHARE)
            }
        }
    }

    fn leave(&mut self, until: Option<Instant>, now: Instant) -> Phase {
        self.failures = 0;
        match self.phase {
            Phase::Full { since } if now.saturating_duration_since(since) >= CALM => self.relapses = 0,
            _ => self.relapses = (self.relapses + 1).min(MAX_DOUBLINGS),
        }
        Phase::Away { until }
    }

    const fn settle(&self) -> Duration {
        SETTLE.saturating_mul(1 << self.relapses)
    }
}

const fn way_back() -> Duration {
    STEP.saturating_mul(STEPS.len() as u32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn the_first_sight_gets_everything() {
        let now = Instant::now();
        let mut r = Recovery::default();
        assert_eq!(r.observe(false, now), 0);
        assert_eq!(r.observe(true, now), FULL_SHARE);
    }

    #[test]
    fn a_return_climbs_in_steps() {
        let t = Instant::now();
        let mut r = Recovery::default();
        r.observe(true, t);
        let calm = t + CALM;
        assert_eq!(r.observe(false, calm), 0, "going away counts at once");
        let back = calm + ms(500);
        let shares: Vec<u8> = (0..6).map(|s| r.observe(true, back + ms(s * 1000))).collect();
        assert_eq!(shares, [0, 10, 25, 50, 75, FULL_SHARE]);
    }

    #[test]
    fn relapses_wait_longer_each_time_but_not_for_ever() {
        let mut t = Instant::now();
        let mut r = Recovery::default();
        r.observe(true, t);
        let mut waits = vec![];
        for _ in 0..8 {
            r.observe(false, t);
            let back = t;
            while r.observe(true, t) == 0 {
                t += ms(100);
            }
            waits.push(t - back);
        }
        assert!(waits.is_sorted(), "{waits:?}");
        assert_eq!(waits.last(), Some(&SETTLE.saturating_mul(1 << MAX_DOUBLINGS)));
    }

    #[test]
    fn failures_in_a_row_send_it_away_and_time_brings_it_back() {
        let t = Instant::now();
        let mut r = Recovery::default();
        r.observe(true, t);
        r.failed(t);
        r.failed(t);
        r.succeeded();
        r.failed(t);
        r.failed(t);
        assert_eq!(
            r.share(t),
            FULL_SHARE,
            "a success in between starts the count anew"
        );
        r.failed(t);
        assert_eq!(r.observe(true, t), 0);
        let mut now = t;
        while r.observe(true, now) < FULL_SHARE {
            now += ms(100);
            assert!(now < t + Duration::from_secs(30));
        }
    }

    proptest! {
        /// No flapping: however availability jumps, a backend that was away gets no share within the quiet time.
        #[test]
        fn no_share_within_the_quiet_time(steps in prop::collection::vec((any::<bool>(), 0u64..3000), 1..200)) {
            let mut now = Instant::now();
            let mut r = Recovery::default();
            let mut last_away = None;
            let mut seen = false;
            for (available, pause) in steps {
                now += ms(pause);
                let share = r.observe(available, now);
                prop_assert!(share <= FULL_SHARE);
                if !available {
                    prop_assert_eq!(share, 0);
                    last_away = seen.then_some(now);
                } else if last_away.is_some_and(|away| now < away + SETTLE) {
                    prop_assert_eq!(share, 0);
                }
                seen |= available;
            }
        }

        /// A backend that stays available ends with everything.
        #[test]
        fn patience_is_rewarded(steps in prop::collection::vec((any::<bool>(), any::<bool>(), 0u64..3000), 1..100)) {
            let mut now = Instant::now();
            let mut r = Recovery::default();
            for (available, fails, pause) in steps {
                now += ms(pause);
                r.observe(available, now);
                if fails { r.failed(now) } else { r.succeeded() }
            }
            for _ in 0..400 {
                now += ms(100);
                r.observe(true, now);
            }
            prop_assert_eq!(r.share(now), FULL_SHARE);
        }
    }
}
