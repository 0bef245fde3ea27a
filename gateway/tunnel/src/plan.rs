//! Whom one worker should dial, and which connections it should let go.
//!
//! Owns the decision, as a pure function of peers, connections and `now`, and the memory of attempts that spaces them. Called by
//! the worker whenever something changed; the worker dials and reports back.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use strait_federation_api::{ClusterId, InstanceId, Reason, observation::TunnelKind};

/// Pause after a first failed attempt; a restarting gateway is back in about a second.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// Longest pause: a peer that comes back is found within so long, and a dead one costs one handshake in so long.
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// Longest pause between attempts to reach an instance that the load balancer does not lead to.
const COVER_BACKOFF_MAX: Duration = Duration::from_secs(60);
/// A connection that lived shorter was a failure in another dress: the peer took it and threw it out (an exchange that cannot agree on a
/// version, a control plane that refuses). Without this it would be dialled ten times a second for ever.
const STABLE_AFTER: Duration = Duration::from_secs(1);
/// Streams on each tunnel of a worker that call for another one: half of what a peer allows.
pub(crate) const LOAD_STREAMS: u32 = 512;
/// Tunnels one worker dials to one peer for load: a single worker, too, can use all the streams that one peer may have open by
/// default (10,000).
const MAX_PER_WORKER: usize = 10;
/// A spare tunnel without streams is let go at this age.
const SPARE_AGE: Duration = Duration::from_secs(600);

/// What one worker should know of one peer.
#[derive(Debug, Clone)]
pub(crate) struct PeerWant {
    pub(crate) cluster: ClusterId,
    /// There is something to dial.
    pub(crate) dialable: bool,
    pub(crate) suspended: bool,
    /// A warm tunnel is wanted on this worker.
    pub(crate) warm: bool,
    /// This worker dials the control connection.
    pub(crate) control: bool,
    /// Instances that this worker should reach.
    pub(crate) cover: BTreeSet<InstanceId>,
}

/// State of a connection, as far as planning goes. Closed ones are not listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConnState {
    /// Not ready, or ready.
    Good,
    /// Silent for too long.
    Suspect,
    /// Takes no new streams.
    Leaving,
}

/// One connection of the process.
#[derive(Debug, Clone)]
pub(crate) struct ConnSeen {
    pub(crate) id: u64,
    pub(crate) peer: ClusterId,
    pub(crate) instance: InstanceId,
    pub(crate) kind: TunnelKind,
    /// On this worker.
    pub(crate) here: bool,
    pub(crate) dialled: bool,
    pub(crate) state: ConnState,
    pub(crate) in_flight: u32,
    /// Made with a leaf that was renewed since.
    pub(crate) stale: bool,
    pub(crate) age: Duration,
}

impl ConnSeen {
    fn serves(&self) -> bool {
        self.state == ConnState::Good && !self.stale
    }
}

/// Why a dial is made; attempts for one purpose are spaced independently of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Purpose {
    Control,
    /// The one tunnel that is always there.
    Warm,
    /// More tunnels under load.
    Load,
    /// Another instance behind the same address, from a fresh port.
    Cover,
}

impl Purpose {
    const fn backoff_max(self) -> Duration {
        match self {
            Self::Cover => COVER_BACKOFF_MAX,
            Self::Control | Self::Warm | Self::Load => BACKOFF_MAX,
        }
    }

    /// One connection is enough: wanting it again means that the last one is gone.
    const fn is_met_by_one(self) -> bool {
        matches!(self, Self::Control | Self::Warm)
    }
}

/// What the worker should do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    Dial {
        peer: ClusterId,
        purpose: Purpose,
    },
    /// At once.
    Close {
        id: u64,
        reason: Reason,
    },
    /// No new streams; close with the last one.
    Retire {
        id: u64,
    },
}

/// Actions, and when to plan again if nothing changes before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) actions: Vec<Action>,
    pub(crate) next: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Attempt {
    running: bool,
    failures: u32,
    not_before: Instant,
    /// When the last one came up, with that dial's jitter, until it is wanted again.
    up: Option<(Instant, f64)>,
}

impl Attempt {
    /// Spaces the next attempt after a failed one.
    fn failed(&mut self, now: Instant, purpose: Purpose, jitter: f64) {
        let pause = BACKOFF_FIRST * 2u32.saturating_pow(self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        self.not_before = now
            + pause
                .min(purpose.backoff_max())
                .mul_f64(0.75 + jitter.clamp(0.0, 1.0) / 2.0);
    }

    /// It is wanted though its last dial came up: judges how long that one lived.
    fn wanted_again(&mut self, now: Instant, purpose: Purpose) {
        let Some((up, jitter)) = self.up.take() else {
            return;
        };
        let short = now.saturating_duration_since(up) < STABLE_AFTER;
        if short && purpose.is_met_by_one() {
            self.failed(now, purpose, jitter);
        } else {
            self.failures = 0;
        }
    }
}

/// The memory of attempts.
#[derive(Debug, Default)]
pub(crate) struct Planner {
    attempts: BTreeMap<(ClusterId, Purpose), Attempt>,
}

impl Planner {
    /// Decides. A dial in the answer counts as running until [`Planner::dialled`].
    pub(crate) fn plan(&mut self, now: Instant, peers: &[PeerWant], conns: &[ConnSeen]) -> Plan {
        self.attempts.retain(|(cluster, _), attempt| {
            attempt.running || peers.iter().any(|peer| peer.cluster == *cluster)
        });
        let mut plan = Plan::default();
        for peer in peers {
            let conns: Vec<_> = conns.iter().filter(|conn| conn.peer == peer.cluster).collect();
            if peer.suspended {
                plan.actions
                    .extend(conns.iter().filter(|conn| conn.here).map(|conn| Action::Close {
                        id: conn.id,
                        reason: Reason::PeerSuspended,
                    }));
                continue;
            }
            if peer.dialable {
                for purpose in wanted(peer, &conns) {
                    self.attempt(now, peer, purpose, &mut plan);
                }
            }
            plan.actions
                .extend(retiring(peer, &conns).map(|id| Action::Retire { id }));
        }
        plan
    }

    fn attempt(&mut self, now: Instant, peer: &PeerWant, purpose: Purpose, plan: &mut Plan) {
        let attempt = self
            .attempts
            .entry((peer.cluster.clone(), purpose))
            .or_insert(Attempt {
                running: false,
                failures: 0,
                not_before: now,
                up: None,
            });
        if attempt.running {
            return;
        }
        attempt.wanted_again(now, purpose);
        if attempt.not_before > now {
            plan.next = Some(
                plan.next
                    .map_or(attempt.not_before, |next| next.min(attempt.not_before)),
            );
            return;
        }
        attempt.running = true;
        plan.actions.push(Action::Dial {
            peer: peer.cluster.clone(),
            purpose,
        });
    }

    /// A dial ended. `jitter` in 0..1 spreads the diallers of one failed gateway.
    pub(crate) fn dialled(
        &mut self,
        now: Instant,
        peer: &ClusterId,
        purpose: Purpose,
        up: bool,
        jitter: f64,
    ) {
        let Some(attempt) = self.attempts.get_mut(&(peer.clone(), purpose)) else {
            return;
        };
        attempt.running = false;
        if up {
            attempt.up = Some((now, jitter));
            // A connection that dies at once must not be redialled in a tight loop.
            attempt.not_before = now + BACKOFF_FIRST;
        } else {
            attempt.failed(now, purpose, jitter);
        }
    }

    /// The peer's addresses changed, or it was heard from: earlier failures say nothing any more.
    pub(crate) fn forgive(&mut self, now: Instant, peer: &ClusterId) {
        for ((cluster, _), attempt) in &mut self.attempts {
            if cluster == peer {
                (attempt.failures, attempt.not_before, attempt.up) = (0, now, None);
            }
        }
    }
}

fn wanted(peer: &PeerWant, conns: &[&ConnSeen]) -> Vec<Purpose> {
    let mut wanted = Vec::new();
    let control_up = conns
        .iter()
        .any(|conn| conn.kind == TunnelKind::Control && conn.serves());
    if peer.control && !control_up {
        wanted.push(Purpose::Control);
    }
    if !peer.warm {
        return wanted;
    }
    let data = |conn: &&&ConnSeen| conn.kind == TunnelKind::Data && conn.serves();
    let here: Vec<_> = conns.iter().filter(data).filter(|conn| conn.here).collect();
    if here.is_empty() {
        wanted.push(Purpose::Warm);
    } else if here.len() < MAX_PER_WORKER && here.iter().all(|conn| conn.in_flight >= LOAD_STREAMS) {
        wanted.push(Purpose::Load);
    }
    let reached: BTreeSet<_> = conns.iter().filter(data).map(|conn| &conn.instance).collect();
    // The warm tunnel comes first: it may cover by itself.
    if !here.is_empty() && peer.cover.iter().any(|instance| !reached.contains(instance)) {
        wanted.push(Purpose::Cover);
    }
    wanted
}

/// Data connections that we dialled and that newer ones replace, and spare ones that nobody needs.
fn retiring(peer: &PeerWant, conns: &[&ConnSeen]) -> impl Iterator<Item = u64> {
    let data: Vec<_> = conns
        .iter()
        .filter(|conn| conn.kind == TunnelKind::Data && conn.here && conn.state == ConnState::Good)
        .collect();
    let fresh = data.iter().filter(|conn| conn.serves()).count();
    let mut spare = fresh.saturating_sub(usize::from(peer.warm));
    let mut retiring = Vec::new();
    for conn in data.iter().filter(|conn| conn.dialled) {
        let replaced = conn.stale && (fresh > 0 || !peer.warm);
        let covers = peer.cover.contains(&conn.instance)
            && !conns.iter().any(|other| {
                other.id != conn.id
                    && other.kind == TunnelKind::Data
                    && other.serves()
                    && other.instance == conn.instance
            });
        let unneeded = conn.serves() && spare > 0 && conn.in_flight == 0 && conn.age >= SPARE_AGE && !covers;
        if unneeded {
            spare -= 1;
        }
        if replaced || unneeded {
            retiring.push(conn.id);
        }
    }
    retiring.into_iter()
}

#[cfg(test)]
mod tests;
