//! Examples of single rules, and a model of the far side that dies at every step.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

use super::*;

const RTT: Duration = Duration::from_millis(10);

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn open(a: &mut Attempts, now: Instant, fresh: bool) -> TryId {
    let Step::Open(id) = a.poll(now, |_| fresh) else {
        panic!("must open")
    };
    a.opened(id, RTT + patience(RTT), now);
    id
}

#[test]
fn payload_goes_along_only_on_a_fresh_tunnel() {
    let now = Instant::now();
    for fresh in [true, false] {
        let mut a = Attempts::new(now, false);
        let id = open(&mut a, now, fresh);
        a.kept(5);
        let step = a.poll(now, |_| fresh);
        assert_eq!(
            step == Step::Send {
                to: id,
                from: 0,
                until: 5
            },
            fresh,
            "{step:?}"
        );
        a.accepted(id);
        let sent = if fresh { 5 } else { 0 };
        assert_eq!(a.poll(now, |_| fresh), Step::Commit { to: id, sent });
    }
}

#[test]
fn a_refusal_passes_the_kept_payload_on() {
    let now = Instant::now();
    let mut a = Attempts::new(now, false);
    let first = open(&mut a, now, true);
    a.kept(5);
    assert_eq!(
        a.poll(now, |_| true),
        Step::Send {
            to: first,
            from: 0,
            until: 5
        }
    );
    a.refused(first, Reason::NoEndpoint, true);
    let second = open(&mut a, now, true);
    assert_eq!(
        a.poll(now, |_| true),
        Step::Send {
            to: second,
            from: 0,
            until: 5
        }
    );
}

#[test]
fn a_final_refusal_ends_it() {
    let now = Instant::now();
    let mut a = Attempts::new(now, false);
    let id = open(&mut a, now, true);
    a.refused(id, Reason::Denied, false);
    assert_eq!(a.poll(now, |_| true), Step::Fail(Reason::Denied));
}

#[test]
fn loss_after_payload_is_never_retried_unless_replayable() {
    let now = Instant::now();
    for replayable in [false, true] {
        let mut a = Attempts::new(now, replayable);
        let id = open(&mut a, now, true);
        a.kept(1);
        a.poll(now, |_| true);
        a.lost(id, Reason::TunnelLost);
        let step = a.poll(now, |_| true);
        if replayable {
            assert!(matches!(step, Step::Open(_)));
        } else {
            assert_eq!(step, Step::Fail(Reason::OutcomeUnknown));
        }
    }
}

#[test]
fn a_late_answer_hedges_the_header_and_holds_payload_back() {
    let now = Instant::now();
    let mut a = Attempts::new(now, false);
    let first = open(&mut a, now, false);
    let Step::Wait { until, read: true } = a.poll(now, |_| false) else {
        panic!()
    };
    assert_eq!(until, now + RTT + patience(RTT));
    a.kept(9);
    let second = open(&mut a, until, false);
    assert!(
        matches!(a.poll(until, |_| true), Step::Wait { .. }),
        "two are out: no payload to either"
    );
    a.accepted(first);
    assert_eq!(a.poll(until, |_| true), Step::Abandon(second));
    assert_eq!(a.poll(until, |_| true), Step::Commit { to: first, sent: 0 });
}

#[test]
fn a_gateway_that_is_heard_from_is_busy_not_dead() {
    let now = Instant::now();
    let mut a = Attempts::new(now, false);
    open(&mut a, now, true);
    let mut at = now;
    while let Step::Wait { until, .. } = a.poll(at, |_| true) {
        assert!(until > at);
        at = until;
    }
    assert_eq!(at, now + SLOW, "hedged after all when it is slow");
    // But at once when it falls silent.
    let mut a = Attempts::new(now, false);
    open(&mut a, now, true);
    let late = now + RTT + patience(RTT);
    assert!(matches!(a.poll(late, |_| true), Step::Wait { .. }));
    assert!(matches!(a.poll(late, |_| false), Step::Open(_)));
}

#[test]
fn suspicion_hedges_a_header_and_gives_up_on_payload() {
    let now = Instant::now();
    let mut a = Attempts::new(now, false);
    let first = open(&mut a, now, true);
    a.suspected(first, now);
    let second = open(&mut a, now, true);
    a.accepted(first);
    assert_eq!(
        a.poll(now, |_| true),
        Step::Abandon(second),
        "the suspect came back first"
    );
    let mut a = Attempts::new(now, false);
    let first = open(&mut a, now, true);
    a.kept(1);
    a.poll(now, |_| true);
    a.suspected(first, now);
    assert_eq!(a.poll(now, |_| true), Step::Abandon(first));
    assert_eq!(a.poll(now, |_| true), Step::Fail(Reason::OutcomeUnknown));
}

#[test]
fn a_late_answer_after_payload_waits_for_the_deadline() {
    let now = Instant::now();
    let mut a = Attempts::new(now, false);
    let id = open(&mut a, now, true);
    a.kept(9);
    a.poll(now, |_| true);
    let late = now + ms(5_000);
    assert_eq!(
        a.poll(late, |_| true),
        Step::Wait {
            until: now + TOTAL,
            read: true
        }
    );
    assert_eq!(a.poll(now + TOTAL, |_| true), Step::Abandon(id));
    assert_eq!(a.poll(now + TOTAL, |_| true), Step::Fail(Reason::OutcomeUnknown));
}

#[test]
fn a_full_keep_stops_reading() {
    let now = Instant::now();
    let mut a = Attempts::new(now, false);
    open(&mut a, now, false);
    a.kept(KEPT_MAX);
    assert!(matches!(a.poll(now, |_| false), Step::Wait { read: false, .. }));
}

#[test]
fn the_words_of_the_last_candidate_are_what_the_client_side_reports() {
    let now = Instant::now();
    let mut a = Attempts::new(now, false);
    let id = open(&mut a, now, true);
    a.refused(id, Reason::NoEndpoint, true);
    let Step::Open(next) = a.poll(now, |_| true) else {
        panic!()
    };
    a.exhausted(next, Reason::NoTunnel);
    assert_eq!(a.poll(now, |_| true), Step::Fail(Reason::NoEndpoint));

    let mut a = Attempts::new(now, false);
    let Step::Open(id) = a.poll(now, |_| true) else {
        panic!()
    };
    a.exhausted(id, Reason::NoTunnel);
    assert_eq!(a.poll(now, |_| true), Step::Fail(Reason::NoTunnel));
}

/// Where a far gateway dies, or that it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Lives,
    Refuses {
        retryable: bool,
    },
    BeforeHeader,
    BeforeConnect,
    /// Its endpoint is connected and gets payload; the answer is never sent.
    BeforeAnswer,
    AfterAnswer,
    /// As `Lives`, but every packet to us is delayed by seconds.
    Slow,
}

#[derive(Debug, Clone, Copy)]
struct Far {
    fate: Fate,
    one_way: Duration,
    /// When we learn of its death, counted from the death.
    notice: Duration,
    /// When we begin to doubt it, if we do.
    doubt: Option<Duration>,
    /// Our tunnel to it looks fresh.
    fresh: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    ClientSends(usize),
    HeaderArrives(TryId),
    PayloadArrives(TryId, usize, usize),
    AbandonArrives(TryId),
    Accepted(TryId),
    Refused(TryId, bool),
    Lost(TryId),
    Suspected(TryId),
    Poll,
}

/// What one far gateway did with the payload it got.
#[derive(Debug, Default)]
struct Side {
    connected: bool,
    dead: bool,
    reset: bool,
    /// Payload that came before the connection to the endpoint.
    queued: Vec<(usize, usize)>,
    /// Payload handed to the endpoint.
    delivered: Vec<(usize, usize)>,
}

struct World {
    now: Instant,
    queue: BinaryHeap<Reverse<(Instant, u64, Event)>>,
    order: u64,
    fars: Vec<Far>,
    sides: BTreeMap<TryId, Side>,
    attempts: Attempts,
    opens: usize,
    kept: usize,
    committed: Option<TryId>,
    failed: Option<Reason>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let now = Instant::now();
        let fate = |rng: &mut fastrand::Rng| match rng.u8(..8) {
            0 => Fate::Refuses { retryable: true },
            1 => Fate::Refuses {
                retryable: rng.bool(),
            },
            2 => Fate::BeforeHeader,
            3 => Fate::BeforeConnect,
            4 => Fate::BeforeAnswer,
            5 => Fate::AfterAnswer,
            6 => Fate::Slow,
            _ => Fate::Lives,
        };
        let fars = (0..rng.usize(..5))
            .map(|_| Far {
                fate: fate(&mut rng),
                one_way: ms(rng.u64(0..40)),
                notice: ms(rng.u64(0..1500)),
                doubt: rng.bool().then(|| ms(rng.u64(0..500))),
                fresh: rng.bool(),
            })
            .collect();
        let replayable = rng.u8(..4) == 0;
        let mut world = Self {
            now,
            queue: BinaryHeap::new(),
            order: 0,
            fars,
            sides: BTreeMap::new(),
            attempts: Attempts::new(now, replayable),
            opens: 0,
            kept: 0,
            committed: None,
            failed: None,
        };
        for _ in 0..rng.usize(..4) {
            let len = rng.usize(1..40_000);
            world.after(ms(rng.u64(0..300)), Event::ClientSends(len));
        }
        world.after(ms(0), Event::Poll);
        world
    }

    fn after(&mut self, delay: Duration, event: Event) {
        self.order += 1;
        self.queue.push(Reverse((self.now + delay, self.order, event)));
    }

    fn far(&self, id: TryId) -> Far {
        self.fars[id.index()]
    }

    fn run(&mut self) {
        while let Some(Reverse((at, _, event))) = self.queue.pop() {
            self.now = self.now.max(at);
            self.handle(event);
            if self.committed.is_none() && self.failed.is_none() {
                self.steps();
            }
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Poll => {}
            Event::ClientSends(len) => {
                let room = KEPT_MAX - self.kept.min(KEPT_MAX);
                let len = len.min(room);
                if self.committed.is_none() && self.failed.is_none() && len > 0 {
                    self.kept += len;
                    self.attempts.kept(len);
                }
            }
            Event::HeaderArrives(id) => self.header(id),
            Event::PayloadArrives(id, from, until) => {
                let side = self.sides.entry(id).or_default();
                if !side.dead && !side.reset {
                    if side.connected {
                        side.delivered.push((from, until));
                    } else {
                        side.queued.push((from, until));
                    }
                }
            }
            Event::AbandonArrives(id) => {
                let side = self.sides.entry(id).or_default();
                side.reset = true;
                side.queued.clear();
            }
            Event::Accepted(id) => self.attempts.accepted(id),
            Event::Refused(id, retryable) => {
                self.attempts.refused(
                    id,
                    if retryable {
                        Reason::NoEndpoint
                    } else {
                        Reason::Denied
                    },
                    retryable,
                );
            }
            Event::Lost(id) => self.attempts.lost(id, Reason::TunnelLost),
            Event::Suspected(id) => self.attempts.suspected(id, self.now),
        }
    }

    /// The far gateway reads the header and meets its fate.
    fn header(&mut self, id: TryId) {
        let far = self.far(id);
        let (back, notice) = (far.one_way, far.notice);
        let side = self.sides.entry(id).or_default();
        if side.reset {
            return;
        }
        match far.fate {
            Fate::BeforeHeader | Fate::BeforeConnect => side.dead = true,
            Fate::Refuses { .. } => side.reset = true,
            Fate::Lives | Fate::Slow | Fate::BeforeAnswer | Fate::AfterAnswer => {
                side.connected = true;
                let queued = std::mem::take(&mut side.queued);
                side.delivered.extend(queued);
            }
        }
        match far.fate {
            Fate::BeforeHeader | Fate::BeforeConnect | Fate::BeforeAnswer => {
                self.after(notice, Event::Lost(id))
            }
            Fate::Refuses { retryable } => self.after(back, Event::Refused(id, retryable)),
            Fate::Lives => self.after(back, Event::Accepted(id)),
            Fate::Slow => self.after(back + ms(3_000), Event::Accepted(id)),
            Fate::AfterAnswer => {
                self.after(back, Event::Accepted(id));
                self.after(back + notice, Event::Lost(id));
            }
        }
    }

    fn steps(&mut self) {
        loop {
            let fars = self.fars.clone();
            match self.attempts.poll(self.now, |id| fars[id.index()].fresh) {
                Step::Open(id) if id.index() >= self.fars.len() => {
                    self.attempts.exhausted(id, Reason::NoBackend);
                }
                Step::Open(id) => {
                    self.opens += 1;
                    let far = self.far(id);
                    let rtt = far.one_way * 2;
                    self.attempts.opened(id, rtt + patience(rtt), self.now);
                    self.after(far.one_way, Event::HeaderArrives(id));
                    if let Some(doubt) = far.doubt {
                        self.after(doubt, Event::Suspected(id));
                    }
                }
                Step::Send { to, from, until } => {
                    let delay = self.far(to).one_way;
                    self.after(delay, Event::PayloadArrives(to, from, until));
                }
                Step::Abandon(id) => {
                    let delay = self.far(id).one_way;
                    self.after(delay, Event::AbandonArrives(id));
                }
                Step::Commit { to, sent } => {
                    self.committed = Some(to);
                    let (delay, kept) = (self.far(to).one_way, self.kept);
                    if sent < kept {
                        self.after(delay, Event::PayloadArrives(to, sent, kept));
                    }
                    return;
                }
                Step::Fail(reason) => {
                    self.failed = Some(reason);
                    return;
                }
                Step::Wait { until, .. } => {
                    let delay = until - self.now;
                    assert!(delay > Duration::ZERO, "a wait must wait");
                    self.after(delay, Event::Poll);
                    return;
                }
            }
        }
    }
}

/// Bytes as one contiguous range from 0, or a panic: an endpoint sees each byte once and in order.
fn contiguous(delivered: &[(usize, usize)]) -> usize {
    delivered.iter().fold(0, |at, &(from, until)| {
        assert_eq!(at, from, "gap or repeat at one endpoint: {delivered:?}");
        until
    })
}

#[test]
fn nothing_is_ever_sent_twice() {
    let (mut wins, mut unknown, mut retried) = (0, 0, 0);
    for seed in 0..20_000 {
        let mut world = World::new(seed);
        let start = world.now;
        let replayable = world.attempts.replayable;
        world.run();

        let reached: Vec<_> = world.sides.values().map(|s| contiguous(&s.delivered)).collect();
        let endpoints = reached.iter().filter(|n| **n > 0).count();
        assert!(
            replayable || endpoints <= 1,
            "seed {seed}: payload reached {endpoints} endpoints"
        );
        assert!(
            world.opens <= MAX_ATTEMPTS,
            "seed {seed}: {} attempts",
            world.opens
        );
        assert!(
            world.committed.is_some() != world.failed.is_some(),
            "seed {seed}: no verdict"
        );
        assert!(world.now <= start + TOTAL + ms(2_000), "seed {seed}: too long");
        if let Some(id) = world.committed {
            wins += 1;
            retried += u32::from(id.index() > 0);
            assert_eq!(
                contiguous(&world.sides[&id].delivered),
                world.kept,
                "seed {seed}: payload lost"
            );
        }
        let nothing_out = endpoints == 0 && world.sides.values().all(|s| s.queued.is_empty());
        if let Some(reason) = world.failed {
            unknown += u32::from(reason == Reason::OutcomeUnknown);
            assert!(
                reason != Reason::OutcomeUnknown || !nothing_out || world.kept > 0,
                "seed {seed}"
            );
        }
        // Header-only candidates can always be passed over: a living one among the first three wins.
        let stale = world.fars.iter().take(MAX_ATTEMPTS).all(|f| !f.fresh);
        let lives = world
            .fars
            .iter()
            .take(MAX_ATTEMPTS)
            .position(|f| f.fate == Fate::Lives);
        let refused_for_good = |n: usize| {
            world.fars[..n]
                .iter()
                .any(|f| f.fate == Fate::Refuses { retryable: false })
        };
        if stale && lives.is_some_and(|n| !refused_for_good(n)) {
            assert!(
                world.committed.is_some(),
                "seed {seed}: {:?} {:?}",
                world.failed,
                world.fars
            );
        }
    }
    // The model must reach the interesting places.
    assert!(
        wins > 4_000 && unknown > 500 && retried > 1_000,
        "{wins} {unknown} {retried}"
    );
}
