//! Resources: the YAML people write, as Rust types. One model serves files, the custom resource definitions and their schemas.
//!
//! Owns field names, defaults and the rules a single field must keep; rules across fields or objects live in
//! [`crate::manifest`]. Never reads a file and never talks to Kubernetes. Called by manifest, controller and cli.

pub mod address;
pub mod cluster;
pub mod core;
pub mod federation;
pub mod mcs;
pub mod meta;
pub mod rules;
#[cfg(feature = "crd")]
pub mod schema;
pub mod status;
pub mod trust;
pub mod values;

pub use cluster::{Cluster, ClusterSpec, DnsSpec, Limits, Listener, VipRange};
pub use core::{EndpointSlice, Service, SliceEndpoint, SlicePort};
pub use federation::{Conflicts, Federation, FederationSpec, PeerSpec};
pub use mcs::{ServiceExport, ServiceExportSpec, ServiceImportSpec};
pub use meta::{Condition, Meta};
pub use rules::{
    ExportRule, ExportRules, ImportDecision, ImportRule, ImportRules, Pattern, RuleTarget, export_rule_for,
    import_rule_for,
};
pub use status::FederationStatus;
pub use trust::{BundleSource, InviteTrust, StaticTrust, TokenSource, Trust, Updates};
pub use values::{ByteSize, FederationName, HumanDuration, Priority, ValueError, Weight};

/// API group of our own kinds.
pub const STRAIT_GROUP: &str = "strait.dev";
/// `apiVersion` of our own kinds.
pub const STRAIT_API_VERSION: &str = "strait.dev/v1alpha1";
/// API group of the Multi-Cluster Services API.
pub const MCS_GROUP: &str = "multicluster.x-k8s.io";
/// `apiVersion` of ServiceExport and ServiceImport that we write; v1alpha1 has the same schema and is read too.
pub const MCS_API_VERSION: &str = "multicluster.x-k8s.io/v1beta1";
/// Most addresses one peer or cluster may list; the bound both sides of the wire keep.
pub const MAX_ADDRESSES: usize = 16;
