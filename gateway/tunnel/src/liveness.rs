//! Whether the other end of a tunnel is alive: when to ping, when to doubt, when to give up.
//!
//! Owns the decision, as a pure state machine: counters and `now` in, a step out. Called by the connection task, which sends the pings.
//! Any received packet is life, also the acknowledgement of a ping, so no pong is needed.

use std::time::{Duration, Instant};

/// Ping interval while used: three of them fit into the suspicion time.
pub(crate) const ACTIVE_INTERVAL: Duration = Duration::from_millis(100);
/// Ping interval while quiet: half the shortest common NAT time-out is 15 s; 5 s also notices a dead peer before anyone needs it.
pub(crate) const QUIET_INTERVAL: Duration = Duration::from_secs(5);
/// A tunnel counts as used so long after its last use.
pub(crate) const USED_FOR: Duration = Duration::from_secs(10);
/// Shortest silence after an unanswered ping that makes a tunnel suspect: two more pings go out meanwhile, and a peer may hold back
/// an acknowledgement for 25 ms.
pub(crate) const SUSPECT_AFTER: Duration = Duration::from_millis(250);
/// On long paths: this many round trips.
const SUSPECT_RTTS: u32 = 3;
/// Silence that ends a tunnel: a route that flaps comes back in less, and a stream that waits longer has long been retried.
pub(crate) const DEAD_AFTER: Duration = Duration::from_secs(10);
/// A tick that is this late was held up by our own process: what it missed is not the peer's silence.
const LATE: Duration = Duration::from_millis(30);

/// What is known at a tick.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sight {
    /// Packets received so far.
    pub(crate) received: u64,
    /// A stream was opened, or stream bytes moved, since the last tick.
    pub(crate) used: bool,
    /// Smoothed round trip.
    pub(crate) rtt: Duration,
}

/// Judgement of a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Alive,
    Suspect,
    Dead,
}

/// What to do now and when to tick again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) ping: bool,
    pub(crate) verdict: Verdict,
    pub(crate) next: Instant,
}

/// The state machine of one tunnel.
#[derive(Debug, Clone)]
pub(crate) struct Liveness {
    received: u64,
    used_at: Instant,
    pinged_at: Option<Instant>,
    /// The first ping since the last sign of life, moved forward by our own delays.
    unanswered: Option<Instant>,
    due: Instant,
}

impl Liveness {
    /// A tunnel that has just finished its hello: heard from and about to be used.
    pub(crate) const fn new(now: Instant) -> Self {
        Self {
            received: 0,
            used_at: now,
            pinged_at: None,
            unanswered: None,
            due: now,
        }
    }

    /// Takes in what is known; may be called before the step's `next`, as when a quiet tunnel is used.
    pub(crate) fn tick(&mut self, now: Instant, sight: Sight) -> Step {
        self.forgive_delay(now);
        if sight.received != self.received {
            self.received = sight.received;
            self.unanswered = None;
        }
        if sight.used {
            self.used_at = now;
        }
        let interval = self.interval(now);
        let ping = self
            .pinged_at
            .is_none_or(|at| now.saturating_duration_since(at) >= interval);
        if ping {
            self.pinged_at = Some(now);
            self.unanswered.get_or_insert(now);
        }
        let next = self.pinged_at.unwrap_or(now) + self.interval(now);
        self.due = next;
        Step {
            ping,
            verdict: self.verdict(now, sight.rtt),
            next,
        }
    }

    fn forgive_delay(&mut self, now: Instant) {
        let late = now.saturating_duration_since(self.due);
        if late >= LATE
            && let Some(since) = &mut self.unanswered
        {
            *since = (*since + late).min(now);
        }
    }

    /// While an answer is awaited the pace is that of a used tunnel, so that silence is noticed soon.
    fn interval(&self, now: Instant) -> Duration {
        let used = now.saturating_duration_since(self.used_at) < USED_FOR;
        if used || self.unanswered.is_some() {
            ACTIVE_INTERVAL
        } else {
            QUIET_INTERVAL
        }
    }

    fn verdict(&self, now: Instant, rtt: Duration) -> Verdict {
        let silent = self
            .unanswered
            .map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        if silent >= DEAD_AFTER {
            Verdict::Dead
        } else if silent >= SUSPECT_AFTER.max(rtt * SUSPECT_RTTS).min(DEAD_AFTER) {
            Verdict::Suspect
        } else {
            Verdict::Alive
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Ticks punctually until `until`; `received` counts what the peer sent by then.
    fn run(
        live: &mut Liveness,
        mut now: Instant,
        until: Instant,
        used: bool,
        received: impl Fn(Instant) -> u64,
    ) -> Vec<(Instant, Step)> {
        let mut steps = Vec::new();
        while now <= until {
            let sight = Sight {
                received: received(now),
                used,
                rtt: 10 * MS,
            };
            let step = live.tick(now, sight);
            steps.push((now, step));
            now = step.next;
        }
        steps
    }

    #[test]
    fn a_black_hole_under_use_is_suspect_well_under_a_second_and_dead_later() {
        let start = Instant::now();
        let mut live = Liveness::new(start);
        let steps = run(&mut live, start, start + 20 * DEAD_AFTER, true, |_| 7);
        let first = |verdict| steps.iter().find(|(_, step)| step.verdict == verdict).unwrap().0 - start;
        assert!(
            first(Verdict::Suspect) <= 500 * MS,
            "{:?}",
            first(Verdict::Suspect)
        );
        assert!(first(Verdict::Dead) >= DEAD_AFTER);
    }

    #[test]
    fn a_quiet_tunnel_pings_slowly_and_is_noticed_soon_after_a_lost_ping() {
        let start = Instant::now();
        let mut live = Liveness::new(start);
        // Every ping is answered until 60 s, then nothing.
        let cut = start + Duration::from_secs(60);
        let answers = move |now: Instant| (now.min(cut) - start).as_millis() as u64 / 10 + 1;
        let steps = run(&mut live, start, cut + 2 * QUIET_INTERVAL, false, answers);
        let quiet: Vec<_> = steps
            .iter()
            .filter(|(at, _)| *at > start + 2 * USED_FOR && *at < cut)
            .collect();
        assert!(
            quiet.iter().filter(|(_, step)| step.ping).count() <= 9,
            "{}",
            quiet.len()
        );
        let suspect = steps
            .iter()
            .find(|(_, step)| step.verdict == Verdict::Suspect)
            .unwrap()
            .0;
        assert!(suspect - cut <= QUIET_INTERVAL + 500 * MS);
    }

    #[test]
    fn our_own_stall_is_not_the_peers_silence() {
        let start = Instant::now();
        let mut live = Liveness::new(start);
        let sight = Sight {
            received: 1,
            used: true,
            rtt: MS,
        };
        live.tick(start, sight);
        // The process was stopped for a minute; the answer lies unread in the socket.
        let step = live.tick(start + Duration::from_secs(60), sight);
        assert_eq!(step.verdict, Verdict::Alive);
    }

    #[test]
    fn life_clears_suspicion() {
        let start = Instant::now();
        let mut live = Liveness::new(start);
        let steps = run(&mut live, start, start + Duration::from_secs(2), true, |_| 1);
        let (at, last) = steps.last().unwrap();
        assert_eq!(last.verdict, Verdict::Suspect);
        let heard = Sight {
            received: 2,
            used: false,
            rtt: MS,
        };
        assert_eq!(live.tick(*at + ACTIVE_INTERVAL, heard).verdict, Verdict::Alive);
    }

    proptest! {
        /// Whatever the ticks: a peer that is heard at every tick is never doubted, `next` lies ahead and within the quiet interval,
        /// and a ping is never closer to the last than the active interval.
        #[test]
        fn ticks_keep_their_promises(
            gaps in proptest::collection::vec((0u64..7_000, any::<bool>(), 0u64..400), 1..200),
        ) {
            let mut now = Instant::now();
            let mut live = Liveness::new(now);
            let mut last_ping = None;
            for (received, (gap, used, rtt)) in (1..).zip(gaps) {
                now += Duration::from_millis(gap);
                let step = live.tick(now, Sight { received, used, rtt: Duration::from_millis(rtt) });
                prop_assert_eq!(step.verdict, Verdict::Alive);
                prop_assert!(step.next > now || step.ping);
                prop_assert!(step.next <= now + QUIET_INTERVAL);
                if step.ping {
                    prop_assert!(last_ping.is_none_or(|at| now - at >= ACTIVE_INTERVAL));
                    last_ping = Some(now);
                }
            }
        }

        /// Punctual ticks and total silence end in `Dead`, never before `DEAD_AFTER`, and verdicts only get worse.
        #[test]
        fn silence_only_gets_worse(rtt in 0u64..5_000, used: bool) {
            let start = Instant::now();
            let mut live = Liveness::new(start);
            let mut now = start;
            let mut rank = 0;
            for _ in 0..2_000 {
                let step = live.tick(now, Sight { received: 0, used, rtt: Duration::from_millis(rtt) });
                let new = match step.verdict { Verdict::Alive => 0, Verdict::Suspect => 1, Verdict::Dead => 2 };
                prop_assert!(new >= rank);
                prop_assert!(new < 2 || now - start >= DEAD_AFTER);
                rank = new;
                now = step.next;
            }
            prop_assert_eq!(rank, 2);
        }
    }
}
