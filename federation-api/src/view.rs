//! Views: what people see of the control plane.
//!
//! Owns the values behind `get`, `status` and dumps. Built by the controller, printed by cli, never read back to decide anything.
//! Holds no secret. Times are Unix seconds.

use std::{fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

use crate::{
    Reason,
    catalog::{ServiceKind, ServicePort},
    ids::{ClusterId, Epoch, ServiceKey, TrustDomain},
    observation::LinkState,
    snapshot::{Backend, PeerMode},
};

/// Status of a condition, as Kubernetes spells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not.
    False,
    /// Nobody can tell.
    Unknown,
}

impl fmt::Display for ConditionStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        })
    }
}

/// One condition of an object, as in `status.conditions`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConditionView {
    /// `Trusted`, `Connected`, `Synced`, `Valid`, `Ready`, `Conflict`, ...
    #[serde(rename = "type")]
    pub kind: String,
    /// Holds?
    pub status: ConditionStatus,
    /// Why; where several apply, the gravest.
    pub reason: Reason,
    /// One sentence with names and figures.
    pub message: String,
    /// When `status` last changed.
    pub since: i64,
}

/// A Federation and how things stand with its peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FederationView {
    /// Local name.
    pub name: String,
    /// The peer, once known.
    pub cluster: Option<ClusterId>,
    /// Its trust domain, once known.
    pub trust_domain: Option<TrustDomain>,
    /// How trust comes about: `invite`, `join` or `static`.
    pub trust: String,
    /// `spec.mode`.
    pub mode: PeerMode,
    /// Addresses we dial, `host:port`; empty means it dials us.
    pub addresses: Vec<String>,
    /// Links now.
    pub link: LinkState,
    /// Services it offers us, allowed or not.
    pub offered: u32,
    /// Of those, the ones an import rule accepts.
    pub imported: u32,
    /// Services we offer it.
    pub exported: u32,
    /// Last complete or resumed sync.
    pub synced: Option<i64>,
    /// Sequence of its bundle that we hold.
    pub bundle_sequence: Option<u64>,
    /// Conditions, `Trusted`, `Connected`, `Synced` first.
    pub conditions: Vec<ConditionView>,
}

/// What one peer makes of one export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VerdictView {
    /// The peer.
    pub cluster: ClusterId,
    /// Its verdict; `Pending` until it spoke.
    pub reason: Reason,
    /// Its words, bounded and stripped of control characters.
    pub message: String,
}

/// A local service with a ServiceExport.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExportView {
    /// Namespace and name.
    pub service: ServiceKey,
    /// Type, if the Service exists.
    pub kind: Option<ServiceKind>,
    /// Ports.
    pub ports: Vec<ServicePort>,
    /// Endpoints able to serve now.
    pub ready: u32,
    /// Peers it is offered to, with their verdicts.
    pub peers: Vec<VerdictView>,
    /// `Valid`, `Ready`, `Conflict`.
    pub conditions: Vec<ConditionView>,
}

/// A service reachable here by its clusterset name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImportView {
    /// Local namespace and name.
    pub service: ServiceKey,
    /// Type.
    pub kind: ServiceKind,
    /// Union of the ports.
    pub ports: Vec<ServicePort>,
    /// Virtual addresses; empty when headless.
    pub vips: Vec<IpAddr>,
    /// Clusters that serve it.
    pub backends: Vec<Backend>,
    /// `Ready` and conflicts.
    pub conditions: Vec<ConditionView>,
}

/// What a peer offers and no rule lets in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OfferView {
    /// The peer.
    pub cluster: ClusterId,
    /// Namespace and name there.
    pub service: ServiceKey,
    /// Why it is not imported.
    pub reason: Reason,
    /// The manifest line that would let it in, and where to put it.
    pub rule: String,
}

/// Everything `get imports` shows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImportsView {
    /// Served here.
    pub imports: Vec<ImportView>,
    /// Offered, not let in.
    pub offers: Vec<OfferView>,
}

/// An invite, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InviteView {
    /// Federation it is for.
    pub federation: String,
    /// `spec.trust.invite.serial` it was made for.
    pub serial: u32,
    /// `InviteOpen`, `JoinPending`, `Trusted`, `InviteExpired`, `InviteRevoked` or `InviteSpent`.
    pub state: Reason,
    /// End of its life, by our clock.
    pub expires: i64,
    /// Who used it first.
    pub bound_to: Option<TrustDomain>,
}

/// How far a rotation of our root is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RotationView {
    /// `Stable`, `Published` or `Issuing`.
    pub phase: String,
    /// Sequence of our bundle.
    pub sequence: u64,
    /// Root that issues, key hash.
    pub current: String,
    /// Published root that will issue.
    pub next: Option<String>,
    /// Published root that issued before.
    pub previous: Option<String>,
    /// Peers that have not acknowledged our bundle.
    pub lagging: Vec<TrustDomain>,
}

/// The control plane in one value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ControllerView {
    /// Our cluster.
    pub cluster: ClusterId,
    /// Our trust domain.
    pub trust_domain: TrustDomain,
    /// Exchange epoch.
    pub epoch: Epoch,
    /// Version of the snapshot in force.
    pub version: u64,
    /// Conditions of the cluster itself: `ConfigValid`, `RecordsValid`, ...
    pub conditions: Vec<ConditionView>,
    /// Federations, by name.
    pub federations: Vec<FederationView>,
    /// Exports, by key.
    pub exports: Vec<ExportView>,
    /// Imports and offers, by key.
    pub imports: ImportsView,
    /// Invites, by federation.
    pub invites: Vec<InviteView>,
    /// Root rotation.
    pub rotation: RotationView,
}
