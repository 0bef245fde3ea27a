//! What the machine asks of its carrier, and the figures it shows.

use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::message::{CatalogVersion, Gateways, Refusal};
use crate::{
    Reason,
    ids::{Epoch, ServiceKey, TrustDomain, Uid},
};

/// Number the carrier gives each control stream, rising: words from an earlier stream are recognised and dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// Something to do or to know. Drained after every input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The peer said who it is.
    Hello(PeerHello),
    /// The peer's gateways as they may be dialled.
    Gateways(Gateways),
    /// The held catalog has a new state of this object: merge again.
    Upserted(ServiceKey),
    /// The held catalog lost this object: merge again.
    Withdrawn {
        /// The object.
        service: ServiceKey,
        /// [`Reason::Withdrawn`] or [`Reason::PeerExpired`].
        reason: Reason,
    },
    /// A sync ended.
    SyncFinished {
        /// What is held now.
        version: CatalogVersion,
        /// It was a whole statement.
        full: bool,
        /// Objects of it that were refused and remembered by name.
        refused: usize,
    },
    /// The held entries became stale, or current again: merge again.
    Stale(bool),
    /// Record: creation time fixed for this UID of this peer.
    FirstSight {
        /// UID.
        uid: Uid,
        /// Unix seconds.
        created: i64,
    },
    /// Record: these UIDs of this peer need not be remembered any more.
    SightsForgotten(Vec<Uid>),
    /// The peer's word on this object of ours changed; see [`Exchange::feedback`](super::Exchange::feedback).
    Feedback(ServiceKey),
    /// The peer has taken in our catalog up to this number.
    Acked {
        /// Number within our epoch.
        number: u64,
    },
    /// The peer refused something that is no object of ours.
    Refused(Refusal),
    /// A bundle update to verify; answer with [`Exchange::answer_bundle`](super::Exchange::answer_bundle).
    Bundle {
        /// The signed envelope.
        envelope: Bytes,
    },
    /// The peer's answer to our bundle update.
    BundleAcked {
        /// Sequence.
        sequence: u64,
        /// `None`: in force there.
        refused: Option<Refusal>,
    },
    /// The peer cannot dial and asks for a data tunnel.
    OpenTunnel,
    /// The peer is there; its sources are this stale.
    Heartbeat {
        /// Zero is current.
        staleness: Duration,
    },
    /// The peer broke a rule. Log and count it; nothing held was dropped.
    Violation(Refusal),
    /// Close this control stream; the machine already treats it as down.
    CloseLink {
        /// Which.
        link: LinkId,
        /// Why.
        refusal: Refusal,
    },
}

/// What the peer said of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerHello {
    /// Version of the protocol in use.
    pub version: u32,
    /// Epoch of its catalog.
    pub epoch: Epoch,
    /// What its mesh calls itself: a claim.
    pub mesh_trust_domain: Option<TrustDomain>,
}

/// When to call [`Exchange::on_timer`](super::Exchange::on_timer), at the latest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timer {
    /// When.
    pub at: Instant,
    /// What for, for logs and tests.
    pub why: &'static str,
}

/// The exchange with one peer as people see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExchangeStatus {
    /// A control stream is up and the peer has said Hello.
    pub connected: bool,
    /// The peer's catalog is complete and current.
    pub synced: bool,
    /// The held entries are the last word of a peer that is away.
    pub stale: bool,
    /// What the peer said of itself, last time.
    pub peer: Option<PeerHello>,
    /// Objects held of the peer.
    pub held: usize,
    /// Objects of the peer that were refused, by name.
    pub refused: Vec<(ServiceKey, Refusal)>,
    /// Own objects no peer could take, by name.
    pub withheld: Vec<(ServiceKey, Refusal)>,
    /// Our catalog for the peer.
    pub offered: CatalogVersion,
    /// The last number of it the peer acknowledged.
    pub acked: Option<u64>,
    /// The peer's own staleness figure plus the silence since.
    pub peer_staleness: Option<Duration>,
    /// Until the held entries expire, while the peer is out of reach.
    pub expires_in: Option<Duration>,
    /// Why the peer's catalog is not taken at all, if it is not.
    pub outdated: Option<Refusal>,
}
