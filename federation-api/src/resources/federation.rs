//! `Federation` (strait.dev/v1alpha1, cluster-scoped): one peer, how it is trusted, what it may see and what may come in.
//!
//! Owns the fields and their single-field rules; trust and status have modules of their own. With the feature `crd` the same types generate the custom resource definition.
//! Called by manifest, controller and cli.

#![cfg_attr(
    feature = "crd",
    expect(
        clippy::duplicated_attributes,
        reason = "printer columns of one type share an attribute"
    )
)]

use serde::{Deserialize, Serialize};

#[cfg(feature = "crd")]
use super::status::FederationStatus;
use super::{
    rules::{ExportRules, ImportRules},
    trust::Trust,
    values::{AddressText, FederationName},
};
use crate::{
    ids::{ClusterId, TrustDomain},
    snapshot::{GatewayAddress, PeerMode},
};

/// A Federation as loaded: its local name and its spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Federation {
    /// Local name, never on the wire.
    pub name: FederationName,
    /// The spec.
    pub spec: FederationSpec,
}

impl Federation {
    /// The peer's ClusterId where the spec says it; a joined peer's is in the trust record instead.
    #[must_use]
    pub fn peer_cluster(&self) -> Option<&ClusterId> {
        self.spec.peer.as_ref().map(|p| &p.cluster)
    }

    /// Addresses the spec lists for the peer; a joined peer's come from the trust record and the exchange instead.
    #[must_use]
    pub fn addresses(&self) -> Vec<GatewayAddress> {
        let peer = self.spec.peer.as_ref();
        peer.map_or_else(Vec::new, |p| p.addresses.iter().map(|a| a.0.clone()).collect())
    }

    /// The trust domain a static trust lists.
    #[must_use]
    pub const fn static_trust_domain(&self) -> Option<&TrustDomain> {
        match &self.spec.trust {
            Trust::Static(s) => Some(&s.trust_domain),
            Trust::Invite(_) | Trust::Join(_) => None,
        }
    }
}

/// `spec` of a Federation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "crd", derive(kube::CustomResource, schemars::JsonSchema))]
#[cfg_attr(
    feature = "crd",
    kube(
        group = "strait.dev",
        version = "v1alpha1",
        kind = "Federation",
        root = "FederationResource",
        plural = "federations",
        singular = "federation",
        shortname = "fed",
        category = "strait",
        status = "FederationStatus",
        doc = "One peer cluster: how it is trusted, what it may see and what may come in from it.",
        printcolumn(name = "Peer", type_ = "string", json_path = ".status.peer.cluster"),
        printcolumn(
            name = "Connected",
            type_ = "string",
            json_path = ".status.conditions[?(@.type==\"Connected\")].status"
        ),
        printcolumn(
            name = "Trust",
            type_ = "string",
            json_path = ".status.conditions[?(@.type==\"Trusted\")].reason"
        ),
        printcolumn(name = "Exports", type_ = "integer", json_path = ".status.exports"),
        printcolumn(name = "Imports", type_ = "integer", json_path = ".status.imports"),
        printcolumn(name = "RTT", type_ = "string", json_path = ".status.rtt"),
        printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
    )
)]
#[cfg_attr(
    feature = "crd",
    schemars(extend("x-kubernetes-validations" = [
        {
            "rule": "!has(self.trust.static) || has(self.peer)",
            "message": "static trust needs spec.peer with the peer's ClusterId",
        },
        {
            "rule": "!has(oldSelf.peer) || (has(self.peer) && self.peer.cluster == oldSelf.peer.cluster)",
            "message": "spec.peer.cluster cannot change: create another Federation for another cluster",
        },
    ]))
)]
pub struct FederationSpec {
    /// The peer. Required with static trust; a join learns it from the other side, and it is checked against this when given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<PeerSpec>,
    /// How the peer is trusted: exactly one of invite, join and static.
    pub trust: Trust,
    /// What the peer may see, of what has a ServiceExport. Absent means nothing.
    #[serde(default)]
    #[cfg_attr(feature = "crd", schemars(length(max = 4096)))]
    pub exports: ExportRules,
    /// What may come in from the peer. Absent means nothing.
    #[serde(default)]
    #[cfg_attr(feature = "crd", schemars(length(max = 4096)))]
    pub imports: ImportRules,
    /// Who wins when this cluster and the peer disagree on one name.
    #[serde(default)]
    pub conflicts: Conflicts,
    /// Active; Drain: no new streams, names stay; Suspended: links closed, imports withdrawn, trust and addresses kept.
    #[serde(default)]
    #[cfg_attr(feature = "crd", schemars(with = "PeerModeSchema"))]
    pub mode: PeerMode,
}

/// Schema of [`PeerMode`], whose own module knows no schemas.
#[cfg(feature = "crd")]
#[derive(schemars::JsonSchema)]
#[schemars(inline)]
#[expect(dead_code, reason = "only its schema is used")]
enum PeerModeSchema {
    Active,
    Drain,
    Suspended,
}

/// `spec.peer`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
pub struct PeerSpec {
    /// The peer's ClusterId: one DNS label, as it calls itself.
    #[cfg_attr(
        feature = "crd",
        schemars(
            with = "String",
            length(min = 1, max = 63),
            regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
        )
    )]
    pub cluster: ClusterId,
    /// `host:port` of its gateways, at most 16. Empty: it dials us.
    #[serde(default)]
    #[cfg_attr(feature = "crd", schemars(length(max = 16)))]
    pub addresses: Vec<AddressText>,
}

/// `spec.conflicts`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
pub enum Conflicts {
    /// The oldest export wins, as the standard says.
    #[default]
    Oldest,
    /// A local export wins.
    PreferLocal,
}
