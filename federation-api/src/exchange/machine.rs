//! One peer's exchange: both halves, the link they share, and the time that passes.
//!
//! Owns Hello, liveness, staleness, bundle and gateway announcements, and the order in which messages take the link.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    event::{Event, ExchangeStatus, LinkId, PeerHello, Timer},
    limits::{ENVELOPE_MAX, Limits, Rate, check_gateways},
    message::{Gateways, Hello, Inbound, Message, Refusal, VERSIONS, Verdict, VersionRange},
    receiver::{HeldCatalog, Receiver},
    sender::Sender,
};
use crate::{
    Reason,
    catalog::Catalog,
    ids::{ClusterId, Epoch, ServiceKey, TrustDomain, Uid},
};

/// Between two heartbeats. Liveness of the connection is QUIC's business; this one shows that a controller lives behind it.
pub const HEARTBEAT_EVERY: Duration = Duration::from_secs(10);
/// Silence after which the control stream is closed: three heartbeats and half of one for a slow moment.
pub const SILENCE_MAX: Duration = Duration::from_secs(35);
/// How long a lost control stream may take to come back before entries are marked stale: a redial takes less, and marking ten
/// thousand entries twice costs more than it tells.
pub const STALE_GRACE: Duration = Duration::from_secs(5);
/// Between two requests for a data tunnel that are passed on.
const OPEN_TUNNEL_SPACING: Duration = Duration::from_secs(1);
/// Broken rules on one stream before it is closed: enough to see a pattern in the log, too few to fill it.
const VIOLATIONS_MAX: u32 = 100;
/// Answers to bundle updates that wait for the link: the peer sends one update at a time.
const BUNDLE_ANSWERS_MAX: usize = 8;

/// What a machine is told once.
#[derive(Debug, Clone)]
pub struct Config {
    /// Our cluster.
    pub cluster: ClusterId,
    /// Our epoch: raised before each start or leadership, and kept as a record. At least 1.
    pub epoch: Epoch,
    /// What our mesh calls itself, if there is one.
    pub mesh_trust_domain: Option<TrustDomain>,
    /// The peer, as proven by mTLS.
    pub peer: ClusterId,
    /// Bounds on the peer.
    pub limits: Limits,
    /// Peers may advertise loopback and link-local addresses (clusters on one machine).
    pub allow_loopback: bool,
    /// Numbers of our catalog start here: above every number used for this peer before, also by an earlier machine of the same
    /// epoch and before a restored backup, else the peer would resume from a history that is not ours. Unix microseconds do.
    pub first_number: u64,
}

/// Our newest trust bundle update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleUpdate {
    /// Its sequence.
    pub sequence: u64,
    /// The signed envelope.
    pub envelope: Bytes,
}

/// The protocol machine for one peer.
///
/// After every input: drain [`Self::poll_event`], write [`Self::poll_message`] while the stream takes more, and call
/// [`Self::on_timer`] when [`Self::next_timer`] is due. Do not read the stream before [`Self::read_after`].
#[derive(Debug)]
pub struct Exchange {
    config: Config,
    sender: Sender,
    receiver: Receiver,
    link: Option<Link>,
    gateways: Gateways,
    bundle: Option<BundleUpdate>,
    bundle_answers: VecDeque<(u64, Option<Refusal>)>,
    open_tunnel: bool,
    peer: Option<PeerHello>,
    outdated: Option<Refusal>,
    peer_staleness: Option<(Duration, Instant)>,
    tunnels_up: bool,
    stale: bool,
    /// Since when the held entries are not confirmed by a finished sync on a live stream.
    unconfirmed_since: Option<Instant>,
    /// Since when control and all data tunnels are down.
    away_since: Option<Instant>,
    tunnel_asked: Option<Instant>,
    events: VecDeque<Event>,
}

/// The one control stream.
#[derive(Debug)]
struct Link {
    id: LinkId,
    greeted: bool,
    hello_received: bool,
    heard: Instant,
    heartbeat_at: Instant,
    rate: Rate,
    violations: u32,
    gateways_due: bool,
    bundle_due: bool,
    /// Whose turn it is when both halves have something to say: neither may starve the other.
    answers_next: bool,
}

impl Exchange {
    /// A machine that holds what a cache kept of the peer (or nothing) and knows the record of first sights.
    #[must_use]
    pub fn new(config: Config, held: HeldCatalog, sights: imbl::OrdMap<Uid, i64>, now: Instant) -> Self {
        Self {
            sender: Sender::new(config.epoch, config.first_number, now),
            receiver: Receiver::new(held, sights),
            config,
            link: None,
            gateways: Gateways::default(),
            bundle: None,
            bundle_answers: VecDeque::new(),
            open_tunnel: false,
            peer: None,
            outdated: None,
            peer_staleness: None,
            tunnels_up: false,
            stale: false,
            unconfirmed_since: Some(now),
            away_since: Some(now),
            tunnel_asked: None,
            events: VecDeque::new(),
        }
    }

    /// A control stream is up; an earlier one is gone.
    pub fn link_up(&mut self, link: LinkId, now: Instant) {
        self.drop_link(now);
        self.link = Some(Link {
            id: link,
            greeted: false,
            hello_received: false,
            heard: now,
            heartbeat_at: now + HEARTBEAT_EVERY,
            rate: Rate::new(&self.config.limits, now),
            violations: 0,
            gateways_due: false,
            bundle_due: true,
            answers_next: false,
        });
        self.update_away(now);
    }

    /// The control stream is gone. Ignored if another one has replaced it.
    pub fn link_down(&mut self, link: LinkId, now: Instant) {
        if self.link.as_ref().is_some_and(|l| l.id == link) {
            self.drop_link(now);
            self.update_away(now);
        }
    }

    /// Whether any data tunnel to the peer is up.
    pub fn set_tunnels_up(&mut self, up: bool, now: Instant) {
        self.tunnels_up = up;
        self.update_away(now);
    }

    /// Our catalog for this peer as it is now. `sources_listed`: the sources have been listed and answer; while they do not,
    /// nothing that is missing counts as withdrawn, and no sync is begun before they have been listed once.
    pub fn set_catalog(&mut self, catalog: Catalog, sources_listed: bool, now: Instant) {
        self.sender.set_catalog(catalog, sources_listed, now);
    }

    /// The merge's verdict on every object held of the peer.
    pub fn set_verdicts(&mut self, verdicts: imbl::OrdMap<ServiceKey, Verdict>) {
        self.receiver.set_verdicts(verdicts);
    }

    /// How our gateways can be reached.
    pub fn set_gateways(&mut self, gateways: Gateways) {
        if self.gateways == gateways {
            return;
        }
        self.gateways = gateways;
        if let Some(link) = &mut self.link {
            link.gateways_due |= link.greeted;
        }
    }

    /// Our newest bundle update: said on every link, and again when it changes.
    pub fn set_bundle(&mut self, update: BundleUpdate) {
        if self.bundle.as_ref() != Some(&update) {
            self.bundle = Some(update);
            if let Some(link) = &mut self.link {
                link.bundle_due = true;
            }
        }
    }

    /// What became of a bundle update of the peer.
    pub fn answer_bundle(&mut self, sequence: u64, result: Result<(), Refusal>) {
        if self.bundle_answers.len() == BUNDLE_ANSWERS_MAX {
            self.bundle_answers.pop_front();
        }
        self.bundle_answers.push_back((sequence, result.err()));
    }

    /// Ask the peer to open a data tunnel: we cannot dial.
    pub fn ask_tunnel(&mut self) {
        self.open_tunnel = true;
    }

    /// New bounds on the peer. What was refused for want of room is asked for again.
    pub fn set_limits(&mut self, limits: Limits) {
        if std::mem::replace(&mut self.config.limits, limits) != limits {
            self.receiver.room_made();
        }
    }

    /// Something arrived on a stream. Words from an earlier stream are dropped.
    pub fn receive(&mut self, link: LinkId, inbound: Inbound, now: Instant) {
        let Some(state) = self.link.as_mut().filter(|l| l.id == link) else {
            return;
        };
        state.heard = now;
        let heavy = matches!(
            inbound,
            Inbound::Message(Message::Bundle { .. } | Message::AddressesChanged(_) | Message::SyncRequest)
        );
        state.rate.take(&self.config.limits, heavy, now);
        let result = match inbound {
            Inbound::Message(Message::Hello(hello)) => return self.on_hello(*hello, now),
            Inbound::Unknown { critical: false } => return,
            Inbound::Unknown { critical: true } => {
                return self.close(
                    "a message this version must understand and does not",
                    Reason::Unsupported,
                    now,
                );
            }
            Inbound::Malformed { refusal, .. } if !state.hello_received => {
                return self.close(&refusal.message, refusal.reason, now);
            }
            _ if !state.hello_received => {
                return self.close("speaks before it said Hello", Reason::ProtocolViolation, now);
            }
            Inbound::Malformed { service, refusal } => {
                self.events.push_back(Event::Violation(refusal.clone()));
                self.receiver.malformed(service, &refusal)
            }
            Inbound::Message(message) => self.on_message(message, now),
        };
        if let Err(refusal) = result {
            self.events.push_back(Event::Violation(refusal));
            self.count_violation(now);
        }
    }

    /// Time has passed.
    pub fn on_timer(&mut self, now: Instant) {
        if self.link.as_ref().is_some_and(|l| l.heard + SILENCE_MAX <= now) {
            self.close(
                "nothing was heard from its control plane",
                Reason::PeerSilent,
                now,
            );
        }
        let due = |since: Option<Instant>, after| since.is_some_and(|s| s + after <= now);
        if !self.stale && due(self.unconfirmed_since, STALE_GRACE) {
            self.stale = true;
            self.events.push_back(Event::Stale(true));
        }
        if due(self.away_since, self.config.limits.expire_after) && !self.receiver.catalog().is_empty() {
            self.receiver.expire(&mut self.events);
        }
    }

    /// The next timer, if any.
    #[must_use]
    pub fn next_timer(&self) -> Option<Timer> {
        let link = self.link.as_ref();
        let timer = |at: Option<Instant>, why| at.map(|at| Timer { at, why });
        let ready = link.filter(|l| l.hello_received);
        [
            timer(ready.map(|l| l.heartbeat_at), "heartbeat"),
            timer(link.map(|l| l.heard + SILENCE_MAX), "peer silent"),
            timer(
                ready.and_then(|_| self.receiver.resync_at()),
                "ask for a full sync",
            ),
            timer(
                self.unconfirmed_since
                    .filter(|_| !self.stale)
                    .map(|s| s + STALE_GRACE),
                "mark stale",
            ),
            timer(
                self.away_since
                    .filter(|_| !self.receiver.catalog().is_empty())
                    .map(|s| s + self.config.limits.expire_after),
                "expire entries",
            ),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// The next message for the current link. Call while the stream takes more.
    pub fn poll_message(&mut self, now: Instant) -> Option<Message> {
        let link = self.link.as_mut()?;
        if !std::mem::replace(&mut link.greeted, true) {
            return Some(self.hello());
        }
        if !link.hello_received {
            return None;
        }
        if link.heartbeat_at <= now {
            link.heartbeat_at = now + HEARTBEAT_EVERY;
            let staleness = self.sender.staleness(now);
            return Some(Message::Heartbeat { staleness });
        }
        if let Some(message) = self.announcement() {
            return Some(message);
        }
        let link = self.link.as_mut()?;
        link.answers_next = !link.answers_next;
        if link.answers_next {
            self.receiver.poll(now).or_else(|| self.sender.poll())
        } else {
            self.sender.poll().or_else(|| self.receiver.poll(now))
        }
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Do not read the stream before this time: the peer speaks faster than its limit. Back-pressure does the rest.
    #[must_use]
    pub fn read_after(&self) -> Option<Instant> {
        self.link.as_ref()?.rate.ready_at(&self.config.limits)
    }

    /// What is held of the peer, for the cache. O(1).
    #[must_use]
    pub fn held(&self) -> HeldCatalog {
        self.receiver.held()
    }

    /// The peer's entries, for the merge.
    #[must_use]
    pub fn catalog(&self) -> &Catalog {
        self.receiver.catalog()
    }

    /// A control stream is up, greeted or not.
    #[must_use]
    pub const fn has_link(&self) -> bool {
        self.link.is_some()
    }

    /// The entries are the last word of a peer that is away.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.stale
    }

    /// What the peer last said about each object we offer it. Objects it has not answered for are missing.
    #[must_use]
    pub fn feedback(&self) -> &imbl::OrdMap<ServiceKey, Verdict> {
        self.sender.feedback()
    }

    /// Figures for people.
    #[must_use]
    pub fn status(&self, now: Instant) -> ExchangeStatus {
        let list = |map: &std::collections::BTreeMap<ServiceKey, Refusal>| {
            map.iter().map(|(k, r)| (k.clone(), r.clone())).collect()
        };
        ExchangeStatus {
            connected: self.link.as_ref().is_some_and(|l| l.hello_received),
            synced: self.receiver.is_synced(),
            stale: self.stale,
            peer: self.peer.clone(),
            held: self.receiver.catalog().len(),
            refused: list(self.receiver.refused()),
            withheld: list(self.sender.withheld()),
            offered: self.sender.version(),
            acked: self.sender.acked(),
            peer_staleness: self
                .peer_staleness
                .map(|(s, at)| s + now.saturating_duration_since(at)),
            expires_in: self.away_since.map(|since| {
                self.config
                    .limits
                    .expire_after
                    .saturating_sub(now.saturating_duration_since(since))
            }),
            outdated: self.outdated.clone(),
        }
    }

    fn hello(&self) -> Message {
        Message::Hello(Box::new(Hello {
            versions: VERSIONS,
            cluster: self.config.cluster.clone(),
            epoch: self.config.epoch,
            mesh_trust_domain: self.config.mesh_trust_domain.clone(),
            gateways: self.gateways.clone(),
            held: self.receiver.resume_point(),
        }))
    }

    fn announcement(&mut self) -> Option<Message> {
        let link = self.link.as_mut()?;
        if std::mem::take(&mut link.gateways_due) {
            return Some(Message::AddressesChanged(self.gateways.clone()));
        }
        if let Some((sequence, refused)) = self.bundle_answers.pop_front() {
            return Some(Message::BundleAck { sequence, refused });
        }
        if let Some(update) = self.bundle.as_ref().filter(|_| link.bundle_due) {
            link.bundle_due = false;
            let envelope = update.envelope.clone();
            return Some(Message::Bundle { envelope });
        }
        std::mem::take(&mut self.open_tunnel).then_some(Message::OpenTunnel)
    }

    fn on_hello(&mut self, hello: Hello, now: Instant) {
        let Some(link) = &mut self.link else { return };
        if std::mem::replace(&mut link.hello_received, true) {
            return self.close("said Hello twice", Reason::ProtocolViolation, now);
        }
        let Some(version) = VERSIONS.common(hello.versions) else {
            let VersionRange { min, max } = hello.versions;
            let words = format!(
                "speaks versions {min} to {max}, we speak {} to {}",
                VERSIONS.min, VERSIONS.max
            );
            return self.close(&words, Reason::VersionSkew, now);
        };
        if hello.cluster != self.config.peer {
            let words = format!(
                "calls itself {}, its Federation says {}",
                hello.cluster, self.config.peer
            );
            return self.close(&words, Reason::ProtocolViolation, now);
        }
        if let Some(held) = hello.held.filter(|h| h.epoch > self.config.epoch) {
            self.events.push_back(Event::Violation(Refusal::new(
                Reason::EpochTooOld,
                format!(
                    "the peer has seen our epoch {}, ours is {}",
                    held.epoch, self.config.epoch
                ),
            )));
        }
        let peer = PeerHello {
            version,
            epoch: hello.epoch,
            mesh_trust_domain: hello.mesh_trust_domain,
        };
        self.peer = Some(peer.clone());
        self.events.push_back(Event::Hello(peer));
        self.on_gateways(hello.gateways);
        self.outdated = self.receiver.start(hello.epoch).err();
        self.events.extend(self.outdated.clone().map(Event::Violation));
        self.sender.start(hello.held);
    }

    fn on_message(&mut self, message: Message, now: Instant) -> Result<(), Refusal> {
        match message {
            Message::Hello(hello) => self.on_hello(*hello, now),
            Message::BeginSync { full } => return self.receiver.begin_sync(full),
            Message::Upsert(offer) => {
                return self.receiver.upsert(offer, &self.config.limits, &mut self.events);
            }
            Message::Delete(key) => return self.receiver.delete(&key, &mut self.events),
            Message::EndOfSync { number } => {
                self.receiver.end_of_sync(number, &mut self.events)?;
                self.confirm();
            }
            Message::Ack { number } => {
                self.sender.on_ack(number);
                self.events.push_back(Event::Acked { number });
            }
            Message::Nack {
                service: None,
                refusal,
            } => self.events.push_back(Event::Refused(refusal)),
            Message::Nack {
                service: Some(service),
                refusal,
            } => self.on_verdict(service, refusal.into()),
            Message::Verdict { service, verdict } => self.on_verdict(service, verdict),
            Message::SyncRequest => self.sender.sync_requested(),
            Message::Heartbeat { staleness } => {
                self.peer_staleness = Some((staleness, now));
                self.events.push_back(Event::Heartbeat { staleness });
            }
            Message::Bundle { envelope } => {
                super::limits::over("envelopeBytes", envelope.len(), ENVELOPE_MAX)?;
                self.events.push_back(Event::Bundle { envelope });
            }
            Message::BundleAck { sequence, refused } => {
                self.events.push_back(Event::BundleAcked { sequence, refused });
            }
            Message::OpenTunnel => self.on_open_tunnel(now),
            Message::AddressesChanged(gateways) => self.on_gateways(gateways),
        }
        Ok(())
    }

    fn on_verdict(&mut self, service: ServiceKey, verdict: Verdict) {
        if self.sender.on_verdict(&service, verdict) {
            self.events.push_back(Event::Feedback(service));
        }
    }

    fn on_gateways(&mut self, gateways: Gateways) {
        let (gateways, refused) = check_gateways(gateways, self.config.allow_loopback);
        if !refused.is_empty() {
            let words = format!("advertises what may not be dialled: {}", refused.join(", "));
            self.events
                .push_back(Event::Violation(Refusal::new(Reason::ProtocolViolation, words)));
        }
        self.events.push_back(Event::Gateways(gateways));
    }

    fn on_open_tunnel(&mut self, now: Instant) {
        if self.tunnel_asked.is_none_or(|at| at + OPEN_TUNNEL_SPACING <= now) {
            self.tunnel_asked = Some(now);
            self.events.push_back(Event::OpenTunnel);
        }
    }

    /// A sync ended on a live stream: the entries are current.
    fn confirm(&mut self) {
        if !self.receiver.is_synced() {
            return;
        }
        self.unconfirmed_since = None;
        if std::mem::take(&mut self.stale) {
            self.events.push_back(Event::Stale(false));
        }
    }

    fn count_violation(&mut self, now: Instant) {
        let Some(link) = &mut self.link else { return };
        link.violations += 1;
        if link.violations > VIOLATIONS_MAX {
            self.close(
                "broke too many rules on one stream",
                Reason::ProtocolViolation,
                now,
            );
        }
    }

    fn close(&mut self, words: &str, reason: Reason, now: Instant) {
        let Some(link) = self.link.as_ref().map(|l| l.id) else {
            return;
        };
        self.drop_link(now);
        self.update_away(now);
        let refusal = Refusal::new(reason, words);
        self.events.push_back(Event::CloseLink { link, refusal });
    }

    fn drop_link(&mut self, now: Instant) {
        if self.link.take().is_some() {
            self.sender.stop();
            self.receiver.stop();
            self.unconfirmed_since = self.unconfirmed_since.or(Some(now));
        }
    }

    /// The clock of expiry runs only while nothing at all reaches the peer.
    fn update_away(&mut self, now: Instant) {
        let away = self.link.is_none() && !self.tunnels_up;
        self.away_since = away.then(|| self.away_since.unwrap_or(now));
    }
}
