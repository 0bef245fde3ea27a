//! The importing half: what we hold of the peer's catalog and what we still have to answer.
//!
//! Owns the held catalog, its version, first sights, refusals and verdicts on their way back. Rules it keeps: an unfinished sync
//! withdraws nothing; a finished one, even empty, and a delete are obeyed at once; an object that cannot be taken leaves what
//! was held before; no older epoch is ever accepted.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{
    event::Event,
    limits::{Limits, OBJECTS, check_offer, offer_bytes, over},
    message::{CatalogVersion, Message, Refusal, Verdict},
};
use crate::{
    Reason,
    catalog::{Catalog, OfferedService},
    ids::{Epoch, ServiceKey, Uid},
};

/// Refused objects remembered by name: more are counted, not named, so that refusing costs bounded memory.
const REFUSED_MAX: usize = 1_000;
/// Answers that name no object and wait to be sent; more say nothing new.
const KEYLESS_NACKS_MAX: usize = 8;
/// Between two requests for a full sync: one may be 10,000 objects long.
const RESYNC_SPACING: Duration = Duration::from_secs(5);

/// What is held of a peer's catalog: the value a cache keeps over restarts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldCatalog {
    /// The highest epoch ever accepted; a lower one is refused.
    pub epoch: Epoch,
    /// The statement that `catalog` completely reflects; `None` when a sync was cut short or something was refused.
    pub version: Option<CatalogVersion>,
    /// The entries, with creation times as fixed at first sight.
    pub catalog: Catalog,
}

#[derive(Debug)]
pub(super) struct Receiver {
    epoch: Epoch,
    /// The last finished statement.
    last: Option<CatalogVersion>,
    /// `catalog` reflects `last` (newer changes may be in already: they will be said again).
    complete: bool,
    catalog: Catalog,
    bytes: usize,
    sights: imbl::OrdMap<Uid, i64>,
    stage: Stage,
    refused: BTreeMap<ServiceKey, Refusal>,
    /// More was refused than is remembered.
    refused_more: bool,
    /// Something shrank since objects were refused for want of room.
    room: bool,
    resync_at: Option<Instant>,
    verdicts: imbl::OrdMap<ServiceKey, Verdict>,
    /// Objects whose nack or verdict the peer has to hear.
    unanswered: BTreeSet<ServiceKey>,
    nacks: VecDeque<Refusal>,
    ack: Option<u64>,
}

#[derive(Debug)]
enum Stage {
    /// No Hello on a link.
    Down,
    /// The peer's epoch is older than one seen: nothing it says about its catalog counts.
    Outdated,
    /// Hello done, no sync begun. Holds what our Hello claimed.
    Ready(Epoch),
    /// A full sync is under way; what it has stated of the objects held.
    Full(Epoch, BTreeSet<ServiceKey>),
    /// Changes follow, or a resumed sync is under way.
    Following(Epoch),
}

impl Receiver {
    pub(super) fn new(held: HeldCatalog, sights: imbl::OrdMap<Uid, i64>) -> Self {
        let bytes = held.catalog.values().map(|o| offer_bytes(o)).sum();
        Self {
            epoch: held.epoch,
            last: held.version,
            complete: held.version.is_some(),
            catalog: held.catalog,
            bytes,
            sights,
            stage: Stage::Down,
            refused: BTreeMap::new(),
            refused_more: false,
            room: false,
            resync_at: None,
            verdicts: imbl::OrdMap::new(),
            unanswered: BTreeSet::new(),
            nacks: VecDeque::new(),
            ack: None,
        }
    }

    pub(super) fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// The value to cache.
    pub(super) fn held(&self) -> HeldCatalog {
        HeldCatalog {
            epoch: self.epoch,
            version: self.resume_point(),
            catalog: self.catalog.clone(),
        }
    }

    /// What our Hello may claim: a statement with anything refused in it is not held.
    pub(super) fn resume_point(&self) -> Option<CatalogVersion> {
        let whole = self.complete && self.refused.is_empty() && !self.refused_more;
        self.last.filter(|_| whole)
    }

    pub(super) fn refused(&self) -> &BTreeMap<ServiceKey, Refusal> {
        &self.refused
    }

    pub(super) fn is_synced(&self) -> bool {
        matches!(self.stage, Stage::Following(_)) && self.complete
    }

    /// The peer said Hello in this epoch.
    pub(super) fn start(&mut self, epoch: Epoch) -> Result<(), Refusal> {
        self.unanswered = self.verdicts.keys().cloned().collect();
        if epoch < self.epoch {
            self.stage = Stage::Outdated;
            let refusal = Refusal::new(
                Reason::EpochTooOld,
                format!(
                    "epoch {epoch} is older than {}, which was accepted before",
                    self.epoch
                ),
            );
            self.nack(refusal.clone());
            return Err(refusal);
        }
        self.epoch = epoch;
        self.stage = Stage::Ready(epoch);
        Ok(())
    }

    pub(super) fn stop(&mut self) {
        self.stage = Stage::Down;
        self.unanswered.clear();
        self.nacks.clear();
        self.ack = None;
    }

    pub(super) fn begin_sync(&mut self, full: bool) -> Result<(), Refusal> {
        let resumable = self.resume_point();
        self.stage = match &self.stage {
            Stage::Down | Stage::Outdated => return Ok(()),
            Stage::Ready(epoch) | Stage::Full(epoch, _) | Stage::Following(epoch) if full => {
                // Until it ends, a resumed conversation could miss what was refused before.
                self.complete = false;
                self.refused.clear();
                self.refused_more = false;
                // Room made before is used by this very sync.
                self.room = false;
                Stage::Full(*epoch, BTreeSet::new())
            }
            Stage::Ready(epoch) if resumable.is_some_and(|v| v.epoch == *epoch) => Stage::Following(*epoch),
            _ => return violation("resumes a sync we did not ask to resume"),
        };
        Ok(())
    }

    pub(super) fn upsert(
        &mut self,
        offer: Arc<OfferedService>,
        limits: &Limits,
        events: &mut VecDeque<Event>,
    ) -> Result<(), Refusal> {
        if !self.listening()? {
            return Ok(());
        }
        let key = offer.service.clone();
        match self.admit(&offer, limits) {
            Ok(bytes) => {
                self.bytes = bytes;
                let offer = self.fix_created(offer, limits, events);
                self.refused.remove(&key);
                if let Stage::Full(_, stated) = &mut self.stage {
                    stated.insert(key.clone());
                }
                self.unanswered.insert(key.clone());
                if self.catalog.get(&key) != Some(&offer) {
                    self.catalog.insert(key.clone(), offer);
                    events.push_back(Event::Upserted(key));
                }
            }
            Err(refusal) => self.refuse(key, refusal),
        }
        Ok(())
    }

    /// An object that could not be decoded: it is refused, what was held of it stays.
    pub(super) fn malformed(
        &mut self,
        service: Option<ServiceKey>,
        refusal: &Refusal,
    ) -> Result<(), Refusal> {
        match service {
            Some(key) if self.listening()? => self.refuse(key, refusal.clone()),
            Some(_) => {}
            None => self.nack(refusal.clone()),
        }
        Ok(())
    }

    pub(super) fn delete(&mut self, key: &ServiceKey, events: &mut VecDeque<Event>) -> Result<(), Refusal> {
        if self.listening()? {
            self.refused.remove(key);
            if let Stage::Full(_, stated) = &mut self.stage {
                stated.remove(key);
            }
            self.withdraw(key, Reason::Withdrawn, events);
        }
        Ok(())
    }

    pub(super) fn end_of_sync(&mut self, number: u64, events: &mut VecDeque<Event>) -> Result<(), Refusal> {
        let (epoch, stated) = match &mut self.stage {
            Stage::Down | Stage::Outdated => return Ok(()),
            Stage::Ready(_) => return violation("ends a sync that did not begin"),
            Stage::Full(epoch, stated) => (*epoch, Some(std::mem::take(stated))),
            Stage::Following(epoch) => (*epoch, None),
        };
        let version = CatalogVersion { epoch, number };
        if self.last.is_some_and(|last| version < last) {
            return violation("catalog numbers went back");
        }
        let full = stated.is_some();
        if let Some(stated) = stated {
            let gone: Vec<_> = self
                .catalog
                .keys()
                .filter(|k| !stated.contains(*k))
                .cloned()
                .collect();
            for key in gone {
                self.withdraw(&key, Reason::Withdrawn, events);
            }
            self.complete = true;
        }
        self.stage = Stage::Following(epoch);
        self.last = Some(version);
        self.ack = Some(number);
        let refused = self.refused.len();
        events.push_back(Event::SyncFinished {
            version,
            full,
            refused,
        });
        Ok(())
    }

    /// Drops everything: the peer was out of reach for longer than its entries live.
    pub(super) fn expire(&mut self, events: &mut VecDeque<Event>) {
        let keys: Vec<_> = self.catalog.keys().cloned().collect();
        for key in keys {
            self.withdraw(&key, Reason::PeerExpired, events);
        }
        self.last = None;
        self.complete = false;
        self.refused.clear();
        self.refused_more = false;
    }

    /// The merge's verdicts on every held object.
    pub(super) fn set_verdicts(&mut self, verdicts: imbl::OrdMap<ServiceKey, Verdict>) {
        if !matches!(self.stage, Stage::Down) {
            let changed = self.verdicts.diff(&verdicts).filter_map(|item| match item {
                imbl::ordmap::DiffItem::Add(key, _)
                | imbl::ordmap::DiffItem::Update { new: (key, _), .. } => Some(key.clone()),
                imbl::ordmap::DiffItem::Remove(..) => None,
            });
            self.unanswered.extend(changed);
        }
        self.verdicts = verdicts;
    }

    pub(super) fn room_made(&mut self) {
        self.room = true;
    }

    /// The next answer, if there is one.
    pub(super) fn poll(&mut self, now: Instant) -> Option<Message> {
        if matches!(self.stage, Stage::Down) {
            return None;
        }
        if let Some(number) = self.ack.take() {
            return Some(Message::Ack { number });
        }
        if let Some(refusal) = self.nacks.pop_front() {
            return Some(Message::Nack {
                service: None,
                refusal,
            });
        }
        while let Some(service) = self.unanswered.pop_first() {
            if let Some(refusal) = self.refused.get(&service) {
                let refusal = refusal.clone();
                return Some(Message::Nack {
                    service: Some(service),
                    refusal,
                });
            }
            if let Some(verdict) = self
                .verdicts
                .get(&service)
                .filter(|_| self.catalog.contains_key(&service))
            {
                let verdict = verdict.clone();
                return Some(Message::Verdict { service, verdict });
            }
        }
        if self.wants_resync() && self.resync_at.is_none_or(|at| at <= now) {
            self.room = false;
            self.resync_at = Some(now + RESYNC_SPACING);
            return Some(Message::SyncRequest);
        }
        None
    }

    /// When a full sync may be asked for, if one is wanted.
    pub(super) fn resync_at(&self) -> Option<Instant> {
        self.resync_at.filter(|_| self.wants_resync())
    }

    fn wants_resync(&self) -> bool {
        let starved = self.refused_more || self.refused.values().any(|r| r.reason == Reason::OverLimit);
        self.room && starved && matches!(self.stage, Stage::Following(_))
    }

    /// Whether catalog messages count now.
    fn listening(&self) -> Result<bool, Refusal> {
        match &self.stage {
            Stage::Down | Stage::Outdated => Ok(false),
            Stage::Ready(_) => violation("speaks of objects before its sync began").map(|()| false),
            Stage::Full(..) | Stage::Following(_) => Ok(true),
        }
    }

    /// Checks one object against every bound; returns the catalog's weight with it.
    fn admit(&self, offer: &OfferedService, limits: &Limits) -> Result<usize, Refusal> {
        check_offer(offer, limits)?;
        let old = self.catalog.get(&offer.service);
        if old.is_none() {
            over(OBJECTS, self.catalog.len() + 1, limits.objects)?;
        }
        let before = old.map_or(0, |o| offer_bytes(o));
        let bytes = self.bytes - before + offer_bytes(offer);
        if bytes > self.bytes {
            over("catalogBytes", bytes, limits.catalog_bytes)?;
        }
        Ok(bytes)
    }

    /// The creation time of a UID is what was claimed when it was first seen: a later claim cannot win a conflict.
    fn fix_created(
        &mut self,
        offer: Arc<OfferedService>,
        limits: &Limits,
        events: &mut VecDeque<Event>,
    ) -> Arc<OfferedService> {
        match self.sights.get(&offer.uid) {
            Some(&created) if created == offer.created => offer,
            Some(&created) => Arc::new(OfferedService {
                created,
                ..Arc::unwrap_or_clone(offer)
            }),
            None => {
                self.forget_sights(limits, events);
                let (uid, created) = (offer.uid.clone(), offer.created);
                self.sights.insert(uid.clone(), created);
                events.push_back(Event::FirstSight { uid, created });
                offer
            }
        }
    }

    /// Keeps the record bounded: at twice the objects a peer may have, UIDs that are not held are forgotten.
    fn forget_sights(&mut self, limits: &Limits, events: &mut VecDeque<Event>) {
        if self.sights.len() < limits.objects.saturating_mul(2) {
            return;
        }
        let held: BTreeSet<_> = self.catalog.values().map(|o| &o.uid).collect();
        let old: Vec<_> = self
            .sights
            .keys()
            .filter(|u| !held.contains(u))
            .cloned()
            .collect();
        for uid in &old {
            self.sights.remove(uid);
        }
        events.push_back(Event::SightsForgotten(old));
    }

    fn refuse(&mut self, key: ServiceKey, refusal: Refusal) {
        // A full sync has spoken of this object: what is held of it stays.
        if let Stage::Full(_, stated) = &mut self.stage
            && self.catalog.contains_key(&key)
        {
            stated.insert(key.clone());
        }
        if self.refused.len() < REFUSED_MAX || self.refused.contains_key(&key) {
            self.unanswered.insert(key.clone());
            self.refused.insert(key, refusal);
        } else if !self.refused_more {
            self.refused_more = true;
            self.nack(Refusal::new(
                refusal.reason,
                format!(
                    "more than {REFUSED_MAX} objects were refused; the last: {}",
                    refusal.message
                ),
            ));
        }
    }

    fn nack(&mut self, refusal: Refusal) {
        if self.nacks.len() < KEYLESS_NACKS_MAX {
            self.nacks.push_back(refusal);
        }
    }

    fn withdraw(&mut self, key: &ServiceKey, reason: Reason, events: &mut VecDeque<Event>) {
        if let Some(old) = self.catalog.remove(key) {
            self.bytes -= offer_bytes(&old);
            self.room = true;
            events.push_back(Event::Withdrawn {
                service: key.clone(),
                reason,
            });
        }
    }
}

fn violation(what: &str) -> Result<(), Refusal> {
    Err(Refusal::new(Reason::ProtocolViolation, what))
}
