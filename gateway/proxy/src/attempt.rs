//! The retry contract of a stream, up to the moment one candidate says yes.
//!
//! Owns the rule that nothing is ever sent twice, as a state machine without sockets or clock: the shell (`connect`) reports what
//! happened, [`Attempts::poll`] says what to do next. Payload is counted here, kept there.
//!
//! - A refusal proves that no payload reached an endpoint: what was kept goes to the next candidate.
//! - Silence and loss prove nothing: once payload was sent, nobody else gets it, unless the port is replayable.
//! - Payload goes along with the header only on a tunnel that was heard from just now; else the header goes alone, may be hedged, and
//!   payload waits for the answer.
//! - A hedge is for a gateway that may be dead. One that is heard from while its answer is late is busy: hedging at once would double
//!   the load that made it late, so it gets a second first.

use std::time::{Duration, Instant};

use strait_federation_api::Reason;

/// Candidates tried for one stream. Three cover a dead gateway and a dead cluster; more would only spread an outage.
pub const MAX_ATTEMPTS: usize = 3;
/// Time from the client's connect to an answer. Clients give up at about this time themselves.
pub const TOTAL: Duration = Duration::from_secs(10);
/// Payload kept until an answer, bytes: the first flight of a request. Full means that the client is not read further.
pub const KEPT_MAX: usize = 64 * 1024;
/// Least patience with a silent tunnel or a late answer: below it scheduling noise on a busy machine looks like death.
const PATIENCE_MIN: Duration = Duration::from_millis(50);

/// A gateway that is alive and has not answered for so long has lost its endpoint's first SYN, or worse.
const SLOW: Duration = Duration::from_secs(1);

/// How long silence on a tunnel, or the lateness of an answer, is normal: max(3 RTT, 50 ms).
#[must_use]
pub fn patience(rtt: Duration) -> Duration {
    rtt.saturating_mul(3).max(PATIENCE_MIN)
}

/// One candidate being tried, 0 to 2 in the order of opening.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TryId(u8);

impl TryId {
    /// The try at `index`.
    pub(crate) const fn at(index: usize) -> Self {
        Self(index as u8)
    }

    /// Position, below [`MAX_ATTEMPTS`].
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// What the shell does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Take the next candidate and send it the header alone; report [`Attempts::opened`], [`Attempts::lost`] or, when no
    /// candidate is left, [`Attempts::exhausted`].
    Open(TryId),
    /// Send kept payload `from..to` there.
    Send {
        /// Where.
        to: TryId,
        /// Offset of the first byte.
        from: usize,
        /// Offset after the last byte.
        until: usize,
    },
    /// Reset that stream: another one won, or all is over.
    Abandon(TryId),
    /// That candidate has the client for good; kept payload from `sent` on goes to it.
    Commit {
        /// The winner.
        to: TryId,
        /// Payload sent there already, bytes.
        sent: usize,
    },
    /// Reset the client.
    Fail(Reason),
    /// Nothing to do before `until` or the next report.
    Wait {
        /// Poll again then.
        until: Instant,
        /// There is room for more payload.
        read: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Unused,
    /// The stream is being opened: nothing was sent.
    Opening {
        overdue_at: Instant,
    },
    /// The header is out.
    Waiting {
        overdue_at: Instant,
    },
    /// To be reset by the shell.
    Doomed,
    Gone,
}

#[derive(Debug, Clone, Copy)]
struct Try {
    state: State,
    /// From here on it is late even if its gateway is heard from.
    slow_at: Instant,
    /// Payload bytes sent whose fate is not known to be "discarded".
    sent: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Open,
    Won(TryId),
    Failed(Reason),
}

/// See the module.
#[derive(Debug)]
pub struct Attempts {
    deadline: Instant,
    replayable: bool,
    tries: [Try; MAX_ATTEMPTS],
    opened: usize,
    /// No further candidate: the list is at its end, or somebody gave a final answer.
    no_more: bool,
    kept: usize,
    outcome: Outcome,
    /// What to tell when nothing is left to try.
    last: Reason,
}

impl Attempts {
    /// Starts at the client's connect. `replayable`: the port's owner declared that repeating a request is harmless.
    #[must_use]
    pub fn new(now: Instant, replayable: bool) -> Self {
        Self {
            deadline: now + TOTAL,
            replayable,
            tries: [Try {
                state: State::Unused,
                slow_at: now,
                sent: 0,
            }; MAX_ATTEMPTS],
            opened: 0,
            no_more: false,
            kept: 0,
            outcome: Outcome::Open,
            last: Reason::NoBackend,
        }
    }

    /// When it ends at the latest.
    #[must_use]
    pub const fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The client sent `len` more bytes, which the shell keeps.
    pub const fn kept(&mut self, len: usize) {
        self.kept += len;
    }

    /// The header is on its way; an answer later than `expected` from now is overdue.
    pub fn opened(&mut self, id: TryId, expected: Duration, now: Instant) {
        let held = &mut self.tries[id.index()];
        if matches!(held.state, State::Opening { .. }) {
            let overdue_at = now + expected;
            held.state = State::Waiting { overdue_at };
            held.slow_at = overdue_at.max(now + SLOW);
        }
    }

    /// There is no further candidate: `reason` says why.
    pub fn exhausted(&mut self, id: TryId, reason: Reason) {
        self.no_more = true;
        self.tries[id.index()].state = State::Gone;
        // A candidate's own words tell more than "there is no other".
        if self.opened == 1 {
            self.last = reason;
        }
    }

    /// The candidate connected to an endpoint.
    pub fn accepted(&mut self, id: TryId) {
        if self.outcome != Outcome::Open || !self.is_active(id) {
            return;
        }
        self.outcome = Outcome::Won(id);
        self.doom_all_but(Some(id));
    }

    /// The candidate refused: no payload reached an endpoint there.
    pub fn refused(&mut self, id: TryId, reason: Reason, retryable: bool) {
        if !self.is_active(id) {
            return;
        }
        let held = &mut self.tries[id.index()];
        held.state = State::Gone;
        held.sent = 0;
        self.last = reason;
        self.no_more |= !retryable;
    }

    /// The candidate could not be reached, or its stream or tunnel ended before an answer.
    pub fn lost(&mut self, id: TryId, reason: Reason) {
        if !self.is_active(id) {
            return;
        }
        let held = &mut self.tries[id.index()];
        held.state = State::Gone;
        self.last = reason;
        if held.sent > 0 && !self.replayable {
            self.fail(Reason::OutcomeUnknown);
        }
    }

    /// The candidate's tunnel has fallen silent for so long that it may be dead. It may also come back: a header that is out stays
    /// out and is hedged. Payload that is out is not waited for.
    pub fn suspected(&mut self, id: TryId, now: Instant) {
        let held = &mut self.tries[id.index()];
        if let State::Opening { overdue_at } | State::Waiting { overdue_at } = &mut held.state {
            *overdue_at = now.min(*overdue_at);
            held.slow_at = now.min(held.slow_at);
            if held.sent > 0 && !self.replayable {
                self.fail(Reason::OutcomeUnknown);
            }
        }
    }

    /// What to do now. `fresh` tells whether a candidate's tunnel was heard from within its [`patience`]. Call again until it says
    /// [`Step::Wait`], [`Step::Commit`] or [`Step::Fail`].
    pub fn poll(&mut self, now: Instant, fresh: impl Fn(TryId) -> bool) -> Step {
        if self.outcome == Outcome::Open && now >= self.deadline {
            let unknown = self.outcome_unknown();
            self.fail(if unknown {
                Reason::OutcomeUnknown
            } else {
                Reason::DeadlineExceeded
            });
        }
        if let Some(id) = self.ids().find(|id| self.state(*id) == State::Doomed) {
            self.tries[id.index()].state = State::Gone;
            return Step::Abandon(id);
        }
        match self.outcome {
            Outcome::Won(to) => Step::Commit {
                to,
                sent: self.tries[to.index()].sent,
            },
            Outcome::Failed(reason) => Step::Fail(reason),
            Outcome::Open => self.advance(now, fresh),
        }
    }

    fn advance(&mut self, now: Instant, fresh: impl Fn(TryId) -> bool) -> Step {
        let active = || self.ids().filter(|id| self.is_active(*id));
        let all_overdue = active().all(|id| self.hedge_at(id, now, &fresh).is_some_and(|at| now >= at));
        let may_open = !self.no_more && self.opened < MAX_ATTEMPTS;
        // With nothing active this is a first try or a retry; with all overdue it is a hedge of the header.
        if may_open && all_overdue && !self.outcome_unknown() {
            return self.open(now);
        }
        if active().next().is_none() {
            self.fail(self.last);
            return Step::Fail(self.last);
        }
        let mut those = active();
        if let (Some(only), None) = (those.next(), those.next())
            && let Some(step) = self.payload_for(only, now, &fresh)
        {
            return step;
        }
        let look = self.ids().filter_map(|id| self.hedge_at(id, now, &fresh));
        let next = look.filter(|at| may_open && *at > now).min();
        Step::Wait {
            until: next.unwrap_or(self.deadline).min(self.deadline),
            read: self.kept < KEPT_MAX,
        }
    }

    fn open(&mut self, now: Instant) -> Step {
        let id = TryId(self.opened as u8);
        let held = &mut self.tries[id.index()];
        held.state = State::Opening {
            overdue_at: now + PATIENCE_MIN,
        };
        held.slow_at = now + SLOW;
        self.opened += 1;
        Step::Open(id)
    }

    /// Payload goes ahead of the answer only to a single candidate whose answer is not late and whose tunnel is alive.
    fn payload_for(&mut self, id: TryId, now: Instant, fresh: impl Fn(TryId) -> bool) -> Option<Step> {
        let State::Waiting { overdue_at } = self.state(id) else {
            return None;
        };
        let from = self.tries[id.index()].sent;
        if from == self.kept || now >= overdue_at || !fresh(id) {
            return None;
        }
        self.tries[id.index()].sent = self.kept;
        Some(Step::Send {
            to: id,
            from,
            until: self.kept,
        })
    }

    /// Payload is out there and nobody says what became of it.
    fn outcome_unknown(&self) -> bool {
        !self.replayable && self.tries.iter().any(|t| t.sent > 0)
    }

    fn fail(&mut self, reason: Reason) {
        self.outcome = Outcome::Failed(reason);
        self.doom_all_but(None);
    }

    fn doom_all_but(&mut self, keep: Option<TryId>) {
        for id in self.ids() {
            if Some(id) != keep && self.is_active(id) {
                self.tries[id.index()].state = State::Doomed;
            }
        }
    }

    fn ids(&self) -> impl Iterator<Item = TryId> + use<> {
        (0..self.opened as u8).map(TryId)
    }

    const fn state(&self, id: TryId) -> State {
        self.tries[id.index()].state
    }

    fn is_active(&self, id: TryId) -> bool {
        self.overdue_at(id).is_some()
    }

    /// When the next look at a hedge beside this try is due; in the past when one may start.
    fn hedge_at(&self, id: TryId, now: Instant, fresh: impl Fn(TryId) -> bool) -> Option<Instant> {
        let overdue_at = self.overdue_at(id)?;
        let slow_at = self.tries[id.index()].slow_at;
        Some(if now >= overdue_at && now < slow_at && fresh(id) {
            (now + PATIENCE_MIN).min(slow_at)
        } else {
            overdue_at
        })
    }

    const fn overdue_at(&self, id: TryId) -> Option<Instant> {
        match self.state(id) {
            State::Opening { overdue_at } | State::Waiting { overdue_at } => Some(overdue_at),
            State::Unused | State::Doomed | State::Gone => None,
        }
    }
}

#[cfg(test)]
mod tests;
