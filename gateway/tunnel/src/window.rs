//! How much a connection may have under way.
//!
//! Owns the size of the send window, as a pure function of what was delivered. A big window is queue and memory (64 MB leaves 85 MB of
//! RSS and milliseconds of delay); a small one caps a long path. So it follows delivery rate x round trip. The congestion window
//! is no guide: it grows without bound on a clean path. Called by the connection task.

use std::time::{Duration, Instant};

use crate::transport::SEND_WINDOW_FLOOR as FLOOR;

/// Never more than this, bytes: 2.5 Gbit/s at 100 ms; also the memory one fast peer with slow acknowledgements may hold.
const CEILING: u64 = 32 << 20;
/// Room over the product: at the limit the measured rate is window / RTT, so the window can double each time.
const HEADROOM: u64 = 2;
/// A window shrinks by this share of the gap each time, so that a pause between two bursts does not throw it away.
const SHRINK_SHARE: u64 = 16;
/// Least time between two looks: shorter ones measure bursts, not a rate.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The window of one connection.
#[derive(Debug)]
pub(crate) struct SendWindow {
    window: u64,
    sent: u64,
    looked: Instant,
}

impl SendWindow {
    pub(crate) const fn new(now: Instant) -> Self {
        Self {
            window: FLOOR,
            sent: 0,
            looked: now,
        }
    }

    /// Takes in bytes sent so far without losses; gives the new window if it changed.
    pub(crate) fn look(&mut self, now: Instant, sent: u64, rtt: Duration) -> Option<u64> {
        let elapsed = now.saturating_duration_since(self.looked);
        if elapsed < LOOK_EVERY {
            return None;
        }
        let delta = sent.saturating_sub(self.sent);
        (self.sent, self.looked) = (sent, now);
        let product = u128::from(delta) * rtt.as_micros() / elapsed.as_micros().max(1);
        let wanted = u64::try_from(product)
            .unwrap_or(CEILING)
            .saturating_mul(HEADROOM)
            .clamp(FLOOR, CEILING);
        let next = if wanted >= self.window {
            wanted
        } else {
            self.window - (self.window - wanted).div_ceil(SHRINK_SHARE)
        };
        let changed = next != self.window;
        self.window = next;
        changed.then_some(next)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_long_fast_path_opens_the_window_and_a_pause_closes_it_slowly() {
        let (mut now, rtt) = (Instant::now(), Duration::from_millis(80));
        let mut window = SendWindow::new(now);
        let mut sent = 0;
        for _ in 0..10 {
            now += LOOK_EVERY;
            // Limited by the window: one window each round trip.
            sent += window.window * 100 / 80;
            window.look(now, sent, rtt);
        }
        assert_eq!(window.window, CEILING);
        now += LOOK_EVERY;
        window.look(now, sent, rtt);
        assert!(window.window > CEILING / 2);
        for _ in 0..400 {
            now += LOOK_EVERY;
            window.look(now, sent, rtt);
        }
        assert_eq!(window.window, FLOOR);
    }

    #[test]
    fn a_short_path_stays_at_the_floor() {
        let now = Instant::now();
        let mut window = SendWindow::new(now);
        assert_eq!(
            window.look(now + LOOK_EVERY, 50 << 20, Duration::from_micros(200)),
            None
        );
    }

    proptest! {
        #[test]
        fn the_window_stays_in_its_bounds(
            looks in proptest::collection::vec((0u64..5_000, 0u64..u64::MAX / 2, 0u64..10_000), 1..100),
        ) {
            let mut now = Instant::now();
            let mut window = SendWindow::new(now);
            for (gap, sent, rtt) in looks {
                now += Duration::from_millis(gap);
                window.look(now, sent, Duration::from_millis(rtt));
                prop_assert!((FLOOR..=CEILING).contains(&window.window));
            }
        }
    }
}
