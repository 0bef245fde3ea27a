//! The checked set of resources, and where each came from.

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    ids::{Namespace, ServiceKey},
    resources::{Cluster, EndpointSlice, Federation, FederationName, Service, ServiceExport},
};

/// Everything a source says, parsed and checked. Equal sets mean nothing changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResourceSet {
    /// This cluster. Always there after a load without errors.
    pub cluster: Option<Cluster>,
    /// Peers.
    pub federations: BTreeMap<FederationName, Federation>,
    /// What is marked for export.
    pub service_exports: BTreeMap<ServiceKey, ServiceExport>,
    /// Services that run here.
    pub services: BTreeMap<ServiceKey, Service>,
    /// Their endpoints.
    pub slices: BTreeMap<SliceKey, EndpointSlice>,
}

impl ResourceSet {
    /// Slices of one Service, in the order of their names.
    pub fn slices_of<'a>(&'a self, service: &'a ServiceKey) -> impl Iterator<Item = &'a EndpointSlice> {
        self.slices
            .values()
            .filter(|s| s.namespace == service.namespace && s.service == service.name)
    }
}

/// Namespace and name of a slice.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SliceKey {
    /// Namespace.
    pub namespace: Namespace,
    /// Name.
    pub name: Arc<str>,
}

/// Kind and name of an object, shown as `Federation west`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectId {
    /// Kind.
    pub kind: String,
    /// Name, or `namespace/name`.
    pub name: String,
}

impl ObjectId {
    /// An id.
    #[must_use]
    pub fn new(kind: &str, name: impl fmt::Display) -> Self {
        Self {
            kind: kind.to_owned(),
            name: name.to_string(),
        }
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// Where an object stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The file, as the caller named it.
    pub file: Arc<str>,
    /// Line of the document, from 1.
    pub line: u32,
}
