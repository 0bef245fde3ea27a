//! `status` of a Federation, as Kubernetes shows it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{meta::Condition, values::AddressText};
use crate::ids::{ClusterId, TrustDomain};

/// `status` of a Federation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
pub struct FederationStatus {
    /// Generation of the spec this speaks about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Who the peer has proven to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<PeerStatus>,
    /// The invite, while it can be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invite: Option<InviteStatus>,
    /// Services offered to the peer.
    #[serde(default)]
    #[cfg_attr(feature = "crd", schemars(extend("format" = "int64")))]
    pub exports: u32,
    /// Services taken from the peer.
    #[serde(default)]
    #[cfg_attr(feature = "crd", schemars(extend("format" = "int64")))]
    pub imports: u32,
    /// Services it offers that no rule allows.
    #[serde(default)]
    #[cfg_attr(feature = "crd", schemars(extend("format" = "int64")))]
    pub not_allowed: u32,
    /// Smallest round trip of its tunnels, such as `12ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt: Option<String>,
    /// Connected, Trusted, Synced, Accepted.
    #[serde(default)]
    #[cfg_attr(
        feature = "crd",
        schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))
    )]
    pub conditions: Vec<Condition>,
}

/// `status.peer`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
pub struct PeerStatus {
    /// Its ClusterId.
    #[cfg_attr(feature = "crd", schemars(with = "String"))]
    pub cluster: ClusterId,
    /// Its Strait trust domain.
    #[cfg_attr(feature = "crd", schemars(with = "String"))]
    pub trust_domain: TrustDomain,
    /// Sequence number of its bundle as held here.
    #[cfg_attr(feature = "crd", schemars(extend("format" = "int64")))]
    pub bundle_sequence: u64,
    /// Addresses in use.
    #[serde(default)]
    pub addresses: Vec<AddressText>,
}

/// `status.invite`. Never the token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
pub struct InviteStatus {
    /// `spec.trust.invite.serial` it was made for.
    #[cfg_attr(feature = "crd", schemars(extend("format" = "int64")))]
    pub serial: u32,
    /// When it ends.
    #[cfg_attr(feature = "crd", schemars(with = "String", extend("format" = "date-time")))]
    pub expires: jiff::Timestamp,
    /// Where the token was put: a Secret, in a cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Arc<str>>,
}
