//! Passive ejection: an endpoint that fails several connections in a row rests for a while.
//!
//! Owns one small value per endpoint that fits an atomic, so that workers share it without a lock. Time is milliseconds since a
//! start of the caller's choosing.

/// Failures in a row before a rest. Kept above one retry burst of a single client.
const CONSECUTIVE: u8 = 5;
/// First rest, milliseconds: about the time a crashed container needs to restart.
const REST_MS: u64 = 5_000;
/// Each rest doubles the last, 2^6 x 5 s = 320 s at most: then the slice or the active check should have spoken.
const MAX_DOUBLINGS: u8 = 6;
/// Without a rest for this long, milliseconds, the next one is a first one again.
const FORGET_MS: u64 = 120_000;
/// At most this percentage of a service's endpoints rests at a time.
const MAX_EJECTED_PERCENT: usize = 50;
/// Bits of [`Ejection::until_ms`] in the packed form: 8,900 years.
const UNTIL_BITS: u32 = 48;

/// See the module.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ejection {
    consecutive: u8,
    rests: u8,
    until_ms: u64,
}

/// One more endpoint of a service may rest: `usable` counts those that could serve, `resting` those of them that rest already.
/// Never true for the last one.
#[must_use]
pub const fn may_eject(usable: usize, resting: usize) -> bool {
    (resting + 1) * 100 <= usable * MAX_EJECTED_PERCENT && resting + 1 < usable
}

impl Ejection {
    /// The packed form.
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        (self.consecutive as u64) << 56 | (self.rests as u64) << UNTIL_BITS | self.until_ms
    }

    /// Back from the packed form.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self {
            consecutive: (bits >> 56) as u8,
            rests: (bits >> UNTIL_BITS) as u8,
            until_ms: bits & ((1 << UNTIL_BITS) - 1),
        }
    }

    /// It rests now.
    #[must_use]
    pub const fn is_out(self, now_ms: u64) -> bool {
        now_ms < self.until_ms
    }

    /// A connection to it failed. `may_eject` is [`may_eject`] of its service.
    #[must_use]
    pub fn failed(self, now_ms: u64, may_eject: bool) -> Self {
        if self.is_out(now_ms) {
            return self; // a connection begun before the rest
        }
        let consecutive = self.consecutive.saturating_add(1);
        if consecutive < CONSECUTIVE || !may_eject {
            return Self { consecutive, ..self };
        }
        let forgotten = now_ms.saturating_sub(self.until_ms) > FORGET_MS;
        let rests = if forgotten { 0 } else { self.rests };
        let until_ms = (now_ms + (REST_MS << rests)).min((1 << UNTIL_BITS) - 1);
        Self {
            // After the rest one failure is enough to go again.
            consecutive: CONSECUTIVE - 1,
            rests: (rests + 1).min(MAX_DOUBLINGS),
            until_ms,
        }
    }

    /// A connection to it was made.
    #[must_use]
    pub const fn succeeded(self) -> Self {
        Self {
            consecutive: 0,
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fail(mut e: Ejection, times: u8, now: u64) -> Ejection {
        for _ in 0..times {
            e = e.failed(now, true);
        }
        e
    }

    #[test]
    fn rests_after_enough_failures_and_longer_each_time() {
        let mut now = 1;
        let mut e = fail(Ejection::default(), CONSECUTIVE - 1, now);
        assert!(!e.is_out(now));
        let mut rests = vec![];
        for _ in 0..10 {
            e = e.failed(now, true);
            assert!(e.is_out(now));
            rests.push(e.until_ms - now);
            now = e.until_ms;
            assert!(!e.is_out(now));
        }
        assert!(rests.is_sorted() && rests[0] == REST_MS, "{rests:?}");
        assert_eq!(rests.last(), Some(&(REST_MS << MAX_DOUBLINGS)));
    }

    #[test]
    fn a_success_starts_the_count_anew() {
        let e = fail(Ejection::default(), CONSECUTIVE - 1, 1).succeeded();
        assert!(!fail(e, CONSECUTIVE - 1, 1).is_out(1));
    }

    #[test]
    fn old_rests_are_forgotten() {
        let e = fail(Ejection::default(), CONSECUTIVE, 1);
        let later = e.until_ms + FORGET_MS + 1;
        assert_eq!(e.failed(later, true).until_ms, later + REST_MS);
    }

    #[test]
    fn the_last_one_never_rests() {
        assert!(!may_eject(0, 0) && !may_eject(1, 0) && may_eject(2, 0) && !may_eject(2, 1));
        assert!(may_eject(4, 1) && !may_eject(4, 2));
        assert!(!fail(Ejection::default(), 0, 1).failed(1, false).is_out(1));
    }

    proptest! {
        #[test]
        fn packs_and_unpacks(consecutive: u8, rests: u8, until_ms in 0u64..(1 << UNTIL_BITS)) {
            let e = Ejection { consecutive, rests, until_ms };
            prop_assert_eq!(Ejection::from_bits(e.to_bits()), e);
        }

        /// However failures fall, at least one endpoint of a service is awake.
        #[test]
        fn never_all(size in 1usize..8, events in prop::collection::vec((any::<usize>(), 0u64..2000), 0..500)) {
            let mut all = vec![Ejection::default(); size];
            let mut now = 0;
            for (which, pause) in events {
                now += pause;
                let out = all.iter().filter(|e| e.is_out(now)).count();
                let may = may_eject(size, out);
                let e = &mut all[which % size];
                *e = e.failed(now, may);
                prop_assert!(all.iter().any(|e| !e.is_out(now)));
            }
        }
    }
}
