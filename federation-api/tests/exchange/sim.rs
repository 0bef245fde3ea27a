//! Two machines, one simulated stream between them, and everything that can go wrong.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use strait_federation_api::{
    ClusterId, Epoch, Reason, ServiceKey, Uid,
    catalog::{Catalog, OfferedService, Protocol, ServiceKind, ServicePort, SessionAffinity},
    exchange::{
        Config, EXPIRE_AFTER, Event, Exchange, HeldCatalog, Inbound, Limits, LinkId, Message, Refusal,
        Verdict,
    },
};

/// What may happen in a run besides broken links and changing catalogs.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Plan {
    pub(crate) crashes: bool,
    pub(crate) source_errors: bool,
    pub(crate) damage: bool,
    pub(crate) rollbacks: bool,
    pub(crate) long_nights: bool,
    pub(crate) limit: Option<usize>,
}

/// splitmix64: small, and the same on every machine.
pub(crate) struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// A message on its way, with the step at which it was made.
struct Flying {
    made: u64,
    inbound: Inbound,
}

/// What survives a crash.
#[derive(Clone, Default)]
struct Disk {
    cache: HeldCatalog,
    /// When the held state of each object was made by its owner.
    made: BTreeMap<ServiceKey, u64>,
    /// Record of first sights.
    sights: imbl::OrdMap<Uid, i64>,
}

pub(crate) struct Side {
    pub(crate) machine: Exchange,
    config: Config,
    /// The highest epoch this side ever ran in.
    top_epoch: u64,
    /// What it truly exports.
    truth: Catalog,
    /// Its sources were listed since it started.
    pub(crate) listed: bool,
    /// Last step at which a key was not in `truth`.
    last_absent: BTreeMap<ServiceKey, u64>,
    disk: Disk,
    /// As `disk.made`, in memory.
    made: BTreeMap<ServiceKey, u64>,
    /// What events say is held.
    pub(crate) mirror: BTreeSet<ServiceKey>,
    /// In the current full sync, keys spoken of; `None` outside of one.
    pub(crate) stated: Option<BTreeSet<ServiceKey>>,
    /// Highest epoch of the peer that was accepted.
    pub(crate) heard_epoch: Epoch,
    /// Epoch of the peer on this link.
    pub(crate) link_epoch: Option<Epoch>,
    tunnels_up: bool,
    away_since: Option<Instant>,
    /// Objects were damaged on their way to this side.
    damaged: bool,
}

pub(crate) struct World {
    pub(crate) plan: Plan,
    rng: Rng,
    pub(crate) now: Instant,
    pub(crate) step: u64,
    pub(crate) sides: [Side; 2],
    link: Option<LinkId>,
    links: u64,
    /// `wire[i]` flies towards side `i`.
    wire: [VecDeque<Flying>; 2],
    /// A side that has not yet noticed that its link is gone.
    unnoticed: Vec<(usize, LinkId)>,
    /// Words of dead streams that still sit in the queue of a reader.
    belated: Vec<(usize, LinkId, Inbound)>,
}

fn keys() -> Vec<ServiceKey> {
    (0..8)
        .map(|i| ServiceKey::parse("demo", &format!("s{i}")).unwrap())
        .collect()
}

fn config(plan: Plan, me: &str, peer: &str) -> Config {
    Config {
        cluster: ClusterId::parse(me).unwrap(),
        epoch: Epoch(1),
        mesh_trust_domain: None,
        peer: ClusterId::parse(peer).unwrap(),
        limits: Limits {
            objects: plan.limit.unwrap_or(100),
            ..Limits::default()
        },
        allow_loopback: false,
        first_number: 0,
    }
}

/// A plain service in namespace `demo`.
pub(crate) fn offer(name: &str, uid: &str, created: i64) -> OfferedService {
    OfferedService {
        service: ServiceKey::parse("demo", name).unwrap(),
        uid: Uid::parse(uid).unwrap(),
        created,
        kind: ServiceKind::ClusterSetIp,
        ports: vec![ServicePort {
            name: None,
            protocol: Protocol::Tcp,
            port: 80,
            app_protocol: None,
        }],
        session_affinity: SessionAffinity::Unset,
        internal_traffic_policy: None,
        traffic_distribution: None,
        ip_families: vec![],
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        ready: 1,
        locality: None,
        members: vec![],
        replayable_ports: vec![],
    }
}

/// The importing side's policy, a function of the object: a stale verdict shows.
pub(crate) fn verdict(offer: &OfferedService) -> Verdict {
    if offer.service.name.as_str().ends_with(['0', '3', '6']) {
        Verdict::refused(Reason::NotAllowed, format!("{} {}", offer.uid, offer.ready))
    } else {
        Verdict {
            message: format!("{} {}", offer.uid, offer.ready).into(),
            ..Verdict::accepted()
        }
    }
}

impl World {
    pub(crate) fn new(seed: u64, plan: Plan) -> Self {
        let now = Instant::now();
        let side = |me, peer| {
            let config = config(plan, me, peer);
            Side {
                machine: Exchange::new(config.clone(), HeldCatalog::default(), imbl::OrdMap::new(), now),
                config,
                top_epoch: 1,
                truth: Catalog::new(),
                listed: false,
                last_absent: keys().into_iter().map(|k| (k, 0)).collect(),
                disk: Disk::default(),
                made: BTreeMap::new(),
                mirror: BTreeSet::new(),
                stated: None,
                heard_epoch: Epoch(0),
                link_epoch: None,
                tunnels_up: false,
                away_since: Some(now),
                damaged: false,
            }
        };
        Self {
            plan,
            rng: Rng(seed),
            now,
            step: 0,
            sides: [side("east", "west"), side("west", "east")],
            link: None,
            links: 0,
            wire: [VecDeque::new(), VecDeque::new()],
            unnoticed: Vec::new(),
            belated: Vec::new(),
        }
    }

    pub(crate) fn run(mut self) {
        let steps = 40 + self.rng.below(80);
        for _ in 0..steps {
            self.act();
        }
        self.settle();
        self.check_convergence();
        self.check_resume();
    }

    fn act(&mut self) {
        self.step += 1;
        let side = usize::try_from(self.rng.below(2)).unwrap();
        match self.rng.below(16) {
            0..=2 => self.change(side),
            3 => self.list(side),
            4..=8 => {
                let n = 1 + self.rng.below(6);
                (0..n).for_each(|_| self.deliver(side));
            }
            9 if self.link.is_some() => self.break_link(),
            9 | 10 => self.connect(),
            11 if self.plan.crashes => self.crash(side),
            12 if self.plan.source_errors => self.source_error(side),
            13 => self.toggle_tunnels(side),
            14 if self.plan.long_nights && self.rng.one_in(2) => self.pass(Duration::from_hours(13)),
            15 if self.plan.crashes && self.rng.one_in(3) => self.rebuild(side),
            _ => {
                let ms = self.rng.below(4_000);
                self.pass(Duration::from_millis(ms));
            }
        }
        self.notice();
        self.check_mirror();
    }

    /// The owner changes what it exports.
    fn change(&mut self, side: usize) {
        let keys = keys();
        let many = if self.rng.one_in(8) {
            8
        } else {
            1 + self.rng.below(2)
        };
        let step = self.step;
        let mut truth = self.sides[side].truth.clone();
        for _ in 0..many {
            let key = &keys[usize::try_from(self.rng.below(8)).unwrap()];
            match (truth.get(key).cloned(), self.rng.below(3)) {
                (Some(_), 0) => {
                    truth.remove(key);
                }
                (Some(old), 1) => {
                    let ready = u32::try_from(self.rng.below(5)).unwrap();
                    // The owner may even lie about its age.
                    let created = i64::try_from(self.rng.below(1_000)).unwrap();
                    let new = OfferedService {
                        ready,
                        created,
                        ..(*old).clone()
                    };
                    truth.insert(key.clone(), Arc::new(new));
                }
                _ => {
                    let offer = self.new_offer(key, step);
                    truth.insert(key.clone(), Arc::new(offer));
                }
            }
        }
        let side = &mut self.sides[side];
        let before = std::mem::replace(&mut side.truth, truth);
        for key in keys {
            // Absent from this step on, or until this step.
            if !side.truth.contains_key(&key) || !before.contains_key(&key) {
                side.last_absent.insert(key, step);
            }
        }
        if side.listed {
            side.machine.set_catalog(side.truth.clone(), true, self.now);
        }
    }

    fn new_offer(&mut self, key: &ServiceKey, step: u64) -> OfferedService {
        let uid = format!("u{step}-{}", self.rng.below(1_000_000));
        offer(
            key.name.as_str(),
            &uid,
            i64::try_from(self.rng.below(1_000)).unwrap(),
        )
    }

    /// The sources answer (again).
    fn list(&mut self, side: usize) {
        let side = &mut self.sides[side];
        side.listed = true;
        side.machine.set_catalog(side.truth.clone(), true, self.now);
    }

    /// The sources fail: only part of the truth is visible, perhaps nothing.
    fn source_error(&mut self, side: usize) {
        let keep = self.rng.below(4);
        let side = &mut self.sides[side];
        let part: Catalog = side
            .truth
            .iter()
            .enumerate()
            .filter(|(i, _)| keep > 0 && (*i as u64).is_multiple_of(keep + 1))
            .map(|(_, (k, v))| (k.clone(), v.clone()))
            .collect();
        side.machine.set_catalog(part, false, self.now);
        side.listed = false;
    }

    fn toggle_tunnels(&mut self, side: usize) {
        let now = self.now;
        let side = &mut self.sides[side];
        side.tunnels_up = !side.tunnels_up;
        side.machine.set_tunnels_up(side.tunnels_up, now);
        side.note_away(now);
    }

    fn connect(&mut self) {
        if self.link.is_some() {
            // A newer connection replaces the old one; what was in flight is lost.
            self.break_link();
        }
        self.links += 1;
        let link = LinkId(self.links);
        self.link = Some(link);
        for side in &mut self.sides {
            side.machine.link_up(link, self.now);
            side.link_epoch = None;
            side.stated = None;
            side.note_away(self.now);
        }
        self.hear_belated();
        self.pump();
    }

    /// The stream dies. Each side notices at once or later, perhaps after its successor is up.
    fn break_link(&mut self) {
        let Some(link) = self.link.take() else { return };
        for side in 0..2 {
            let belated = self.wire[side].drain(..).take(3).map(|f| (side, link, f.inbound));
            self.belated.extend(belated);
            if self.rng.one_in(3) {
                self.unnoticed.push((side, link));
            } else {
                self.drop_link(side, link);
            }
        }
    }

    /// A reader hands over what it had read of a stream that has been replaced: nothing may come of it.
    fn hear_belated(&mut self) {
        for (side, link, inbound) in std::mem::take(&mut self.belated) {
            let machine = &mut self.sides[side].machine;
            let before = machine.catalog().clone();
            machine.receive(link, inbound, self.now);
            assert_eq!(
                machine.poll_event(),
                None,
                "step {}: a dead stream was heard",
                self.step
            );
            assert_eq!(machine.catalog(), &before);
        }
    }

    fn drop_link(&mut self, side: usize, link: LinkId) {
        let now = self.now;
        let side = &mut self.sides[side];
        side.machine.link_down(link, now);
        side.note_away(now);
        if self.link.is_none() {
            side.link_epoch = None;
            side.stated = None;
        } else {
            assert!(
                side.machine.has_link(),
                "the end of an old stream ended its successor"
            );
        }
    }

    fn notice(&mut self) {
        let mut waiting = std::mem::take(&mut self.unnoticed);
        waiting.retain(|&(side, link)| {
            let noticed = self.rng.one_in(3);
            if noticed {
                self.drop_link(side, link);
            }
            !noticed
        });
        self.unnoticed = waiting;
    }

    fn settle_unnoticed(&mut self) {
        for (side, link) in std::mem::take(&mut self.unnoticed) {
            self.drop_link(side, link);
        }
    }

    /// A process dies and comes back with its records, and with its cache or without.
    fn crash(&mut self, side: usize) {
        self.break_link();
        self.unnoticed.retain(|(s, _)| *s != side);
        let rollback = self.plan.rollbacks && self.rng.one_in(2);
        let lost = self.rng.one_in(3);
        let back = self.rng.next();
        let first = self.first_number();
        let now = self.now;
        let s = &mut self.sides[side];
        // A restored backup may even bring the same epoch twice, with another history behind it.
        let epoch = if rollback {
            1 + back % s.top_epoch
        } else {
            s.top_epoch + 1
        };
        s.top_epoch = s.top_epoch.max(epoch);
        s.config.epoch = Epoch(epoch);
        s.config.first_number = first;
        let cache = if lost {
            HeldCatalog::default()
        } else {
            s.disk.cache.clone()
        };
        s.made = if lost {
            BTreeMap::new()
        } else {
            s.disk.made.clone()
        };
        s.mirror = cache.catalog.keys().cloned().collect();
        // Without its cache a side has no memory of epochs either: they are the owner's record.
        s.heard_epoch = cache.epoch;
        s.machine = Exchange::new(s.config.clone(), cache, s.disk.sights.clone(), now);
        s.machine.set_tunnels_up(s.tunnels_up, now);
        s.away_since = None;
        s.note_away(now);
        s.listed = false;
        self.verdicts(side);
    }

    /// The Federation is made anew within one process: same epoch, no history.
    fn rebuild(&mut self, side: usize) {
        self.break_link();
        self.unnoticed.retain(|(s, _)| *s != side);
        let first = self.first_number();
        let now = self.now;
        let s = &mut self.sides[side];
        s.config.first_number = first;
        let held = s.machine.held();
        s.machine = Exchange::new(s.config.clone(), held, s.disk.sights.clone(), now);
        s.machine.set_tunnels_up(s.tunnels_up, now);
        s.away_since = None;
        s.note_away(now);
        s.listed = false;
        self.verdicts(side);
    }

    /// Above every number used before, as a clock's microseconds are.
    const fn first_number(&self) -> u64 {
        self.step * 1_000
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let next = self.sides.iter().filter_map(|s| s.machine.next_timer()).min();
            match next.filter(|t| t.at <= end) {
                Some(timer) => self.now = self.now.max(timer.at),
                None => break,
            }
            for side in 0..2 {
                self.sides[side].machine.on_timer(self.now);
                self.events(side, None, 0);
            }
            self.pump();
            // Heartbeats and answers cross while time passes, unless this is a silent night.
            if self.link.is_some() {
                (0..4).for_each(|_| (0..2).for_each(|s| self.deliver(s)));
            }
        }
        self.now = end;
    }

    /// What the machines have to say enters the wire.
    fn pump(&mut self) {
        for side in 0..2 {
            // Words into a stream that is gone, by a side that has not noticed, are lost.
            while self.link.is_none() && self.sides[side].machine.poll_message(self.now).is_some() {}
        }
        if self.link.is_none() {
            return;
        }
        for side in 0..2 {
            // A slow link: not everything fits at once, so later changes collapse.
            while self.wire[1 - side].len() < 12 {
                let Some(message) = self.sides[side].machine.poll_message(self.now) else {
                    break;
                };
                let mut inbound = Inbound::Message(message);
                if self.plan.damage && self.rng.one_in(20) {
                    inbound = damaged(inbound);
                }
                self.wire[1 - side].push_back(Flying {
                    made: self.step,
                    inbound,
                });
            }
        }
    }

    fn deliver(&mut self, side: usize) {
        self.pump();
        let Some(link) = self.link else { return };
        let Some(Flying { made, inbound }) = self.wire[side].pop_front() else {
            return;
        };
        self.sides[side].damaged |= matches!(inbound, Inbound::Malformed { .. });
        self.sides[side].machine.receive(link, inbound.clone(), self.now);
        self.events(side, Some(&inbound), made);
        self.pump();
    }

    /// Drains a side's events as its controller would.
    fn events(&mut self, side: usize, cause: Option<&Inbound>, made: u64) {
        self.before_events(side, cause);
        let mut merge = false;
        while let Some(event) = self.sides[side].machine.poll_event() {
            self.check_event(side, &event, cause);
            match event {
                Event::Upserted(key) => {
                    self.sides[side].mirror.insert(key);
                    merge = true;
                }
                Event::Withdrawn { service, .. } => {
                    self.sides[side].mirror.remove(&service);
                    self.sides[side].made.remove(&service);
                    merge = true;
                }
                Event::FirstSight { uid, created } => {
                    self.sides[side].disk.sights.insert(uid, created);
                }
                Event::SightsForgotten(uids) => {
                    for uid in uids {
                        self.sides[side].disk.sights.remove(&uid);
                    }
                }
                Event::CloseLink { .. } => {
                    self.sides[side].note_away(self.now);
                    self.break_link();
                }
                _ => {}
            }
        }
        if let Some(Inbound::Message(Message::Upsert(offer))) = cause
            && self.sides[side].mirror.contains(&offer.service)
        {
            self.sides[side].made.insert(offer.service.clone(), made);
        }
        if merge {
            self.verdicts(side);
        }
        if self.rng.one_in(2) {
            let s = &mut self.sides[side];
            s.disk.cache = s.machine.held();
            s.disk.made = s.made.clone();
        }
    }

    fn verdicts(&mut self, side: usize) {
        let machine = &mut self.sides[side].machine;
        let verdicts = machine
            .catalog()
            .iter()
            .map(|(k, o)| (k.clone(), verdict(o)))
            .collect();
        machine.set_verdicts(verdicts);
    }

    /// Ends all trouble: true epochs, listed sources, one link, nothing damaged, nothing in flight.
    fn settle(&mut self) {
        self.plan.damage = false;
        self.settle_unnoticed();
        for side in 0..2 {
            if self.sides[side].config.epoch.0 < self.sides[side].top_epoch {
                self.plan.rollbacks = false;
                self.crash(side);
            }
        }
        (0..2).for_each(|side| self.list(side));
        self.connect();
        self.quiesce();
        self.check_mirror();
    }

    /// Runs until nobody has anything to say for a good while.
    pub(crate) fn quiesce(&mut self) {
        for _ in 0..30 {
            self.drain();
            self.pass(Duration::from_secs(1));
        }
        self.drain();
    }

    fn drain(&mut self) {
        self.pump();
        while self.wire.iter().any(|w| !w.is_empty()) {
            (0..2).for_each(|side| self.deliver(side));
        }
    }

    /// What `side` should hold of its peer: the truth, with ages as first seen.
    pub(crate) fn expected(&self, side: usize) -> Catalog {
        let fix = |offer: &Arc<OfferedService>| {
            let created = self.sides[side]
                .disk
                .sights
                .get(&offer.uid)
                .copied()
                .unwrap_or(offer.created);
            Arc::new(OfferedService {
                created,
                ..(**offer).clone()
            })
        };
        self.sides[1 - side]
            .truth
            .iter()
            .map(|(k, o)| (k.clone(), fix(o)))
            .collect()
    }

    pub(crate) fn truth(&self, side: usize) -> &Catalog {
        &self.sides[side].truth
    }

    /// The newest step at which `side`'s truth lacked `key`, and when the state its peer holds was made.
    pub(crate) fn absence(&self, holder: usize, key: &ServiceKey) -> (Option<u64>, u64) {
        let owner = &self.sides[1 - holder];
        let absent = if owner.truth.contains_key(key) {
            owner.last_absent.get(key).copied()
        } else {
            Some(self.step)
        };
        (absent, self.sides[holder].made.get(key).copied().unwrap_or(0))
    }

    pub(crate) fn away_for(&self, side: usize) -> Duration {
        self.sides[side]
            .away_since
            .map_or(Duration::ZERO, |since| self.now - since)
    }

    pub(crate) fn reconnect(&mut self) -> Vec<Message> {
        self.connect();
        let mut said = Vec::new();
        for _ in 0..200 {
            self.pump();
            for side in 0..2 {
                if let Some(Flying {
                    inbound: Inbound::Message(message),
                    ..
                }) = self.wire[side].front()
                {
                    said.push(message.clone());
                }
                self.deliver(side);
            }
        }
        said
    }

    pub(crate) fn is_damaged(&self, side: usize) -> bool {
        self.sides[side].damaged
    }

    pub(crate) fn rolled_back(&self) -> bool {
        self.plan.rollbacks || self.sides.iter().any(|s| s.config.epoch.0 < s.top_epoch)
    }
}

impl Side {
    fn note_away(&mut self, now: Instant) {
        let away = !self.machine.has_link() && !self.tunnels_up;
        self.away_since = away.then(|| self.away_since.unwrap_or(now));
    }
}

/// Damage that a decoder would find: an upsert that breaks a rule.
fn damaged(inbound: Inbound) -> Inbound {
    match inbound {
        Inbound::Message(Message::Upsert(offer)) => Inbound::Malformed {
            service: Some(offer.service.clone()),
            refusal: Refusal::new(Reason::Malformed, "damaged"),
        },
        other => other,
    }
}

/// Bound of the run's patience, so that a rule is checked against the same figure the machine uses.
pub(crate) const A_DAY: Duration = EXPIRE_AFTER;
