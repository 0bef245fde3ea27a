//! ServiceExport and ServiceImport of the Multi-Cluster Services API (multicluster.x-k8s.io/v1beta1), every field of the standard.
//!
//! Owns their shape. A ServiceImport is output only: it is written, never read from files. Called by manifest and controller.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};

use super::meta::Condition;
use crate::{
    catalog::ServiceKind,
    ids::{ClusterId, ServiceKey},
    snapshot::HealthCheck,
};

/// Annotation on a ServiceExport: how endpoints are probed (`off`, `tcp`, `http:/path`).
pub const HEALTH_CHECK: &str = "strait.dev/health-check";
/// Annotation on a ServiceExport: ports whose requests may be sent twice, comma-separated.
pub const REPLAYABLE_PORTS: &str = "strait.dev/replayable-ports";
/// Prefix of all annotations of ours: an unknown one is a mistake.
pub const STRAIT_ANNOTATIONS: &str = "strait.dev/";

/// A ServiceExport as loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceExport {
    /// Namespace and name: those of the Service it exports.
    pub key: ServiceKey,
    /// The spec.
    pub spec: ServiceExportSpec,
    /// Annotation [`HEALTH_CHECK`]; absent means a TCP connect.
    pub health: HealthCheck,
    /// Annotation [`REPLAYABLE_PORTS`], sorted.
    pub replayable_ports: Vec<u16>,
}

/// `spec` of a ServiceExport.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[cfg_attr(feature = "crd", derive(kube::CustomResource, schemars::JsonSchema))]
#[cfg_attr(
    feature = "crd",
    kube(
        group = "multicluster.x-k8s.io",
        version = "v1beta1",
        kind = "ServiceExport",
        root = "ServiceExportResource",
        plural = "serviceexports",
        shortname = "svcex",
        shortname = "svcexport",
        namespaced,
        status = "ServiceExportStatus",
        derive = "Default"
    )
)]
pub struct ServiceExportSpec {
    /// Labels copied to the ServiceImport. Labels of the object itself never are.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub exported_labels: BTreeMap<String, String>,
    /// Annotations copied to the ServiceImport. Annotations of the object itself never are.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub exported_annotations: BTreeMap<String, String>,
}

/// `status` of a ServiceExport: conditions Valid, Ready, Conflict.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
pub struct ServiceExportStatus {
    /// Conditions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// `spec` of a ServiceImport. What an exporter left unset stays unset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "crd", derive(kube::CustomResource, schemars::JsonSchema))]
#[cfg_attr(
    feature = "crd",
    kube(
        group = "multicluster.x-k8s.io",
        version = "v1beta1",
        kind = "ServiceImport",
        root = "ServiceImportResource",
        plural = "serviceimports",
        shortname = "svcim",
        shortname = "svcimport",
        namespaced,
        status = "ServiceImportStatus"
    )
)]
pub struct ServiceImportSpec {
    /// ClusterSetIP or Headless.
    #[serde(rename = "type")]
    #[cfg_attr(feature = "crd", schemars(with = "String"))]
    pub kind: ServiceKind,
    /// Union of the exporters' ports.
    pub ports: Vec<ImportPort>,
    /// Virtual addresses, at most two; empty when headless.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "crd", schemars(with = "Vec<String>"))]
    pub ips: Vec<IpAddr>,
    /// Families, in the order of `ips`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ip_families: Vec<String>,
    /// `None` or `ClientIP`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_affinity: Option<String>,
    /// Configuration of the affinity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_affinity_config: Option<SessionAffinityConfig>,
    /// `Cluster` or `Local`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub internal_traffic_policy: Option<String>,
    /// Preference on where traffic goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic_distribution: Option<String>,
}

/// One port of a ServiceImport.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
pub struct ImportPort {
    /// Name; optional when there is one port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// TCP, UDP or SCTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// Application protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<String>,
    /// Port number.
    pub port: u16,
}

/// `sessionAffinityConfig`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
pub struct SessionAffinityConfig {
    /// Configuration of ClientIP affinity.
    #[serde(default, rename = "clientIP", skip_serializing_if = "Option::is_none")]
    pub client_ip: Option<ClientIpConfig>,
}

/// `sessionAffinityConfig.clientIP`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
pub struct ClientIpConfig {
    /// Seconds, 1..=86400.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u32>,
}

/// `status` of a ServiceImport.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
pub struct ServiceImportStatus {
    /// Clusters that export it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clusters: Vec<ImportCluster>,
    /// Conditions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// `Present` or `Absent`: whether EndpointSlices exist. Pruned by older definitions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint_slice_objects: Option<String>,
}

/// One exporting cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
pub struct ImportCluster {
    /// Its ClusterId.
    #[cfg_attr(feature = "crd", schemars(with = "String"))]
    pub cluster: ClusterId,
}
