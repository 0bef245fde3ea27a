//! What two clusters say to each other, as plain values.
//!
//! Owns the messages of the exchange. Never a protobuf (see `wire`) and never a rule (see `limits` and the machine).

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    Reason,
    catalog::OfferedService,
    ids::{ClusterId, Epoch, InstanceId, ServiceKey, TrustDomain},
    snapshot::GatewayAddress,
};

/// The oldest and newest protocol version this build speaks.
pub const VERSIONS: VersionRange = VersionRange { min: 1, max: 1 };

/// Protocol versions, inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VersionRange {
    /// Oldest.
    pub min: u32,
    /// Newest.
    pub max: u32,
}

impl VersionRange {
    /// The highest version both ranges hold.
    #[must_use]
    pub fn common(self, other: Self) -> Option<u32> {
        let top = self.max.min(other.max);
        (top >= self.min.max(other.min)).then_some(top)
    }
}

/// Which statement of a catalog: numbers rise within an epoch, epochs rise with each start of the owner's control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CatalogVersion {
    /// Epoch of the owner.
    pub epoch: Epoch,
    /// Number within it.
    pub number: u64,
}

/// How a cluster's gateways can be reached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gateways {
    /// At most [`ADDRESSES_MAX`](super::ADDRESSES_MAX); none means the cluster dials.
    pub addresses: Vec<GatewayAddress>,
    /// At most [`INSTANCES_MAX`](super::INSTANCES_MAX).
    pub instances: Vec<InstanceId>,
}

/// First message of each side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Versions the speaker knows.
    pub versions: VersionRange,
    /// The speaker.
    pub cluster: ClusterId,
    /// Epoch of the speaker's catalog.
    pub epoch: Epoch,
    /// What the speaker's mesh calls itself: a claim.
    pub mesh_trust_domain: Option<TrustDomain>,
    /// The speaker's gateways.
    pub gateways: Gateways,
    /// What the speaker completely holds of the listener's catalog; `None` asks for a full sync.
    pub held: Option<CatalogVersion>,
}

/// Why something was not taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct Refusal {
    /// Reason.
    pub reason: Reason,
    /// One line for an operator, at most [`TEXT_MAX`](super::TEXT_MAX) bytes on the wire.
    pub message: Arc<str>,
}

impl Refusal {
    /// A refusal in words.
    #[must_use]
    pub fn new(reason: Reason, message: impl Into<Arc<str>>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }
}

/// What became of one object at the importing side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// It is imported there.
    pub accepted: bool,
    /// Conflicts of an accepted object, else why it was not accepted. At most [`REASONS_MAX`](super::REASONS_MAX).
    pub reasons: Vec<Reason>,
    /// Words; never names a third cluster.
    pub message: Arc<str>,
}

impl Verdict {
    /// Imported without conflict.
    #[must_use]
    pub fn accepted() -> Self {
        Self {
            accepted: true,
            reasons: Vec::new(),
            message: "".into(),
        }
    }

    /// Not imported.
    #[must_use]
    pub fn refused(reason: Reason, message: impl Into<Arc<str>>) -> Self {
        Self {
            accepted: false,
            reasons: vec![reason],
            message: message.into(),
        }
    }
}

impl From<Refusal> for Verdict {
    fn from(refusal: Refusal) -> Self {
        Self::refused(refusal.reason, refusal.message)
    }
}

/// Everything one side can say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// First message.
    Hello(Box<Hello>),
    /// A sync starts; `full` makes its end withdraw what it did not state.
    BeginSync {
        /// A whole statement, not changes since [`Hello::held`].
        full: bool,
    },
    /// The whole object as it is now.
    Upsert(Arc<OfferedService>),
    /// The object is no longer offered.
    Delete(ServiceKey),
    /// All up to this number has been said.
    EndOfSync {
        /// Number within the speaker's epoch.
        number: u64,
    },
    /// A finished sync was taken in.
    Ack {
        /// Its number.
        number: u64,
    },
    /// Something was not taken; what was held before stays.
    Nack {
        /// The object, where it is about one that has a readable name.
        service: Option<ServiceKey>,
        /// Why.
        refusal: Refusal,
    },
    /// What became of one object.
    Verdict {
        /// The object, by its owner's name.
        service: ServiceKey,
        /// What.
        verdict: Verdict,
    },
    /// Please state everything again: what did not fit before may fit now.
    SyncRequest,
    /// Still here.
    Heartbeat {
        /// How long the speaker's sources have been unable to vouch for its catalog; zero is current.
        staleness: Duration,
    },
    /// A trust bundle update: opaque here, verified by its own signature.
    Bundle {
        /// The signed envelope.
        envelope: Bytes,
    },
    /// Answer to a bundle update.
    BundleAck {
        /// Sequence it is about.
        sequence: u64,
        /// `None`: in force.
        refused: Option<Refusal>,
    },
    /// The speaker cannot dial: please open a data tunnel.
    OpenTunnel,
    /// The speaker's gateways changed.
    AddressesChanged(Gateways),
}

/// What the decoder made of one envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inbound {
    /// A message.
    Message(Message),
    /// A body that breaks a rule. It is never a reason to drop what is held.
    Malformed {
        /// The object, when it is about one whose name could be read.
        service: Option<ServiceKey>,
        /// Which rule.
        refusal: Refusal,
    },
    /// A body of a newer version.
    Unknown {
        /// The speaker insists on being understood.
        critical: bool,
    },
}
