//! The offering half: what of our catalog the peer still has to hear.
//!
//! Owns our catalog for one peer, its number, the history that lets a peer resume, and what the peer said about each object.
//! A message is made when the link can take it, so changes of a slow link collapse into the last state.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use imbl::ordmap::DiffItem;

use super::{
    limits::{Limits, check_offer},
    message::{CatalogVersion, Message, Refusal, Verdict},
};
use crate::{catalog::Catalog, ids::Epoch, ids::ServiceKey};

/// Changes remembered for resuming peers: twice the default catalog, so even a change of everything can be resumed once.
const HISTORY_MAX: usize = 20_000;

#[derive(Debug)]
pub(super) struct Sender {
    epoch: Epoch,
    number: u64,
    catalog: Catalog,
    /// `None`: the sources vouch for the catalog. Else since when they do not.
    unlisted_since: Option<Instant>,
    /// The sources vouched for it at least once in this epoch: before that the catalog is not a statement.
    ever_listed: bool,
    /// (number, key) of each change, oldest first.
    log: VecDeque<(u64, ServiceKey)>,
    /// The log is complete for changes after this number.
    floor: u64,
    /// Own objects that no peer could take; what was offered before stays offered.
    withheld: BTreeMap<ServiceKey, Refusal>,
    /// What the peer last said about each offered object.
    feedback: imbl::OrdMap<ServiceKey, Verdict>,
    acked: Option<u64>,
    session: Option<Session>,
}

/// What one link has to hear.
#[derive(Debug)]
struct Session {
    held: Option<CatalogVersion>,
    full_wanted: bool,
    started: bool,
    round: Option<Round>,
    /// Changes since the round began.
    next: BTreeSet<ServiceKey>,
}

/// One batch, closed by EndOfSync.
#[derive(Debug)]
struct Round {
    number: u64,
    full: bool,
    begin: bool,
    /// Said first: they make room at the peer.
    deletes: BTreeSet<ServiceKey>,
    upserts: BTreeSet<ServiceKey>,
}

impl Sender {
    pub(super) fn new(epoch: Epoch, first_number: u64, now: Instant) -> Self {
        Self {
            epoch,
            number: first_number,
            catalog: Catalog::new(),
            unlisted_since: Some(now),
            ever_listed: false,
            log: VecDeque::new(),
            floor: first_number,
            withheld: BTreeMap::new(),
            feedback: imbl::OrdMap::new(),
            acked: None,
            session: None,
        }
    }

    pub(super) fn feedback(&self) -> &imbl::OrdMap<ServiceKey, Verdict> {
        &self.feedback
    }

    pub(super) fn withheld(&self) -> &BTreeMap<ServiceKey, Refusal> {
        &self.withheld
    }

    pub(super) fn version(&self) -> CatalogVersion {
        CatalogVersion {
            epoch: self.epoch,
            number: self.number,
        }
    }

    pub(super) fn acked(&self) -> Option<u64> {
        self.acked
    }

    pub(super) fn staleness(&self, now: Instant) -> Duration {
        self.unlisted_since
            .map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// Takes the catalog as it is now. While the sources are not listed, what is missing is unknown, not gone.
    pub(super) fn set_catalog(&mut self, new: Catalog, listed: bool, now: Instant) {
        self.unlisted_since = if listed {
            None
        } else {
            self.unlisted_since.or(Some(now))
        };
        let target = if listed || !self.ever_listed {
            new
        } else {
            new.union(self.catalog.clone())
        };
        self.ever_listed |= listed;
        let changes = self.admissible_changes(&target);
        if self.withheld.is_empty() {
            self.catalog = target;
        }
        if !changes.is_empty() {
            self.number += 1;
        }
        for (key, added) in changes {
            self.record(key, added);
        }
        self.trim_log();
    }

    /// Applies what may be said of the difference to `target`; returns (key, newly added) of each change.
    fn admissible_changes(&mut self, target: &Catalog) -> Vec<(ServiceKey, bool)> {
        let widest = Limits::widest();
        let before = self.catalog.clone();
        let mut changes = Vec::new();
        for item in before.diff(target) {
            let (key, offer, added) = match item {
                DiffItem::Add(key, offer) => (key, Some(offer), true),
                DiffItem::Update {
                    new: (key, offer), ..
                } => (key, Some(offer), false),
                DiffItem::Remove(key, _) => (key, None, false),
            };
            if let Some(Err(refusal)) = offer.map(|o| check_offer(o, &widest)) {
                self.withheld.insert(key.clone(), refusal);
                continue;
            }
            self.withheld.remove(key);
            match offer {
                Some(offer) => self.catalog.insert(key.clone(), offer.clone()),
                None => self.catalog.remove(key),
            };
            changes.push((key.clone(), added));
        }
        self.withheld.retain(|key, _| target.contains_key(key));
        changes
    }

    fn record(&mut self, key: ServiceKey, added: bool) {
        if !self.catalog.contains_key(&key) {
            self.feedback.remove(&key);
        }
        if let Some(session) = &mut self.session {
            match &mut session.round {
                // A full statement that left out what exists by now would withdraw it for a moment.
                Some(round) if round.full && added => round.upserts.insert(key.clone()),
                _ => session.next.insert(key.clone()),
            };
        }
        self.log.push_back((self.number, key));
    }

    fn trim_log(&mut self) {
        while self.log.len() > HISTORY_MAX {
            // A number is forgotten whole: the floor says changes up to it may be missing.
            if let Some((number, _)) = self.log.pop_front() {
                self.floor = number;
            }
        }
    }

    /// The peer said Hello and claims to hold this much.
    pub(super) fn start(&mut self, held: Option<CatalogVersion>) {
        self.session = Some(Session {
            held,
            full_wanted: false,
            started: false,
            round: None,
            next: BTreeSet::new(),
        });
    }

    pub(super) fn stop(&mut self) {
        self.session = None;
    }

    /// The peer wants everything again.
    pub(super) fn sync_requested(&mut self) {
        if let Some(session) = &mut self.session {
            session.full_wanted = true;
        }
    }

    pub(super) fn on_ack(&mut self, number: u64) {
        if number <= self.number {
            self.acked = self.acked.max(Some(number));
        }
    }

    /// Notes what the peer thinks of an object; `false` if we do not offer it (any more).
    pub(super) fn on_verdict(&mut self, service: &ServiceKey, verdict: Verdict) -> bool {
        let known = self.catalog.contains_key(service);
        if known {
            self.feedback.insert(service.clone(), verdict);
        }
        known
    }

    /// The next message of a sync, if there is one to say.
    pub(super) fn poll(&mut self) -> Option<Message> {
        if !self.ever_listed {
            return None;
        }
        if self.session.as_ref()?.round.is_none() {
            let round = self.next_round()?;
            self.session.as_mut()?.round = Some(round);
        }
        let session = self.session.as_mut()?;
        let round = session.round.as_mut()?;
        if std::mem::take(&mut round.begin) {
            return Some(Message::BeginSync { full: round.full });
        }
        while let Some(key) = round.deletes.pop_first().or_else(|| round.upserts.pop_first()) {
            match self.catalog.get(&key) {
                Some(offer) => return Some(Message::Upsert(offer.clone())),
                // Gone since a full round began: leaving it out says so, and the next round deletes it.
                None if round.full => {}
                None => return Some(Message::Delete(key)),
            }
        }
        let number = round.number;
        session.round = None;
        Some(Message::EndOfSync { number })
    }

    fn next_round(&mut self) -> Option<Round> {
        let session = self.session.as_mut()?;
        let opening = !session.started;
        let wanted = std::mem::take(&mut session.full_wanted);
        let keys: BTreeSet<ServiceKey>;
        let mut full = false;
        if opening || wanted {
            session.started = true;
            session.next.clear();
            let resume = session.held.filter(|held| {
                !wanted && held.epoch == self.epoch && (self.floor..=self.number).contains(&held.number)
            });
            full = resume.is_none();
            keys = match resume {
                Some(held) => {
                    let from = self.log.partition_point(|(number, _)| *number <= held.number);
                    self.log.range(from..).map(|(_, key)| key.clone()).collect()
                }
                None => self.catalog.keys().cloned().collect(),
            };
        } else if session.next.is_empty() {
            return None;
        } else {
            keys = std::mem::take(&mut session.next);
        }
        let (upserts, deletes) = keys.into_iter().partition(|key| self.catalog.contains_key(key));
        Some(Round {
            number: self.number,
            full,
            begin: opening || wanted,
            deletes,
            upserts,
        })
    }
}
