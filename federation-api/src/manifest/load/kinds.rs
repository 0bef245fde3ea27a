//! How a document of each kind becomes an object of the set. `None` means that it could not be read, and that was reported.

use std::sync::Arc;

use serde::{Deserialize, de::IgnoredAny};

use super::{Loader, Source};
use crate::{
    ids::{ClusterId, ServiceName},
    manifest::{
        ErrorCode, SliceKey, check_core,
        node::{FieldPath, Node},
    },
    resources::{
        Cluster, EndpointSlice, Federation, FederationName, FederationSpec, Meta, Service, ServiceExport,
        cluster::ClusterSpec,
        core::{SERVICE_NAME_LABEL, ServiceSpec, SliceSpec},
        mcs::ServiceExportSpec,
        values::shown,
    },
};

impl Loader {
    pub(super) fn cluster(&mut self, source: &Source, node: &Node) -> Option<()> {
        let doc: Document<ClusterSpec> = self.read(source, node, true)?;
        let id = self.name(source, &doc.metadata, ClusterId::parse)?;
        self.not_namespaced(source, &doc.metadata);
        let cluster = Cluster {
            id,
            spec: doc.spec.unwrap_or_default(),
        };
        if let Some(first) = &self.set.cluster {
            let problem = format!("this folder already describes the cluster {}", first.id);
            let fix = "keep one Cluster: a process is one cluster";
            self.error_at(source, "metadata.name", ErrorCode::SecondCluster, problem, fix);
            return Some(());
        }
        self.set.cluster = Some(cluster);
        Some(())
    }

    pub(super) fn federation(&mut self, source: &Source, node: &Node) -> Option<()> {
        let doc: Required<FederationSpec> = self.read(source, node, true)?;
        let name = self.name(source, &doc.metadata, FederationName::parse)?;
        self.not_namespaced(source, &doc.metadata);
        let federation = Federation {
            name: name.clone(),
            spec: doc.spec,
        };
        self.set.federations.insert(name, federation);
        Some(())
    }

    pub(super) fn export(&mut self, source: &Source, node: &Node) -> Option<()> {
        let doc: Document<ServiceExportSpec> = self.read(source, node, true)?;
        let key = self.key(source, &doc.metadata)?;
        let (health, replayable_ports) = check_core::annotations(self, source, &doc.metadata.annotations)?;
        let export = ServiceExport {
            key: key.clone(),
            spec: doc.spec.unwrap_or_default(),
            health,
            replayable_ports,
        };
        self.set.service_exports.insert(key, export);
        Some(())
    }

    pub(super) fn service(&mut self, source: &Source, node: &Node) -> Option<()> {
        let doc: Required<ServiceSpec> = self.read(source, node, false)?;
        let key = self.key(source, &doc.metadata)?;
        let service = Service {
            key: key.clone(),
            spec: doc.spec,
        };
        self.set.services.insert(key, service);
        Some(())
    }

    pub(super) fn slice(&mut self, source: &Source, node: &Node) -> Option<()> {
        let spec: Option<SliceSpec> = self.read(source, node, false);
        let doc: Document<IgnoredAny> = self.read(source, node, false)?;
        let name = self.name(source, &doc.metadata, FederationName::parse)?;
        let namespace = self.namespace(source, &doc.metadata)?;
        let service = self.service_label(source, &doc.metadata)?;
        let slice = EndpointSlice {
            namespace: namespace.clone(),
            name: name.as_str().into(),
            service,
            spec: spec?,
        };
        let key = SliceKey {
            namespace,
            name: Arc::clone(&slice.name),
        };
        self.set.slices.insert(key, slice);
        Some(())
    }

    /// The Service a slice belongs to.
    fn service_label(&mut self, source: &Source, meta: &Meta) -> Option<ServiceName> {
        let Some(label) = meta.labels.get(SERVICE_NAME_LABEL) else {
            let problem = format!("the label {SERVICE_NAME_LABEL} is missing");
            let fix = format!("add {SERVICE_NAME_LABEL}: NAME-OF-THE-SERVICE to metadata.labels");
            self.error_at(
                source,
                "metadata.labels",
                ErrorCode::SliceLabelMissing,
                problem,
                fix,
            );
            return None;
        };
        match ServiceName::parse(label) {
            Ok(name) => Some(name),
            Err(e) => {
                let path = FieldPath::of("metadata.labels").key(SERVICE_NAME_LABEL);
                let problem = format!("{} {e}", shown(label));
                self.error(source, &path, ErrorCode::BadName, problem, "name the Service");
                None
            }
        }
    }
}

/// A document whose spec may be left out.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document<S> {
    #[serde(rename = "apiVersion")]
    _api_version: IgnoredAny,
    #[serde(rename = "kind")]
    _kind: IgnoredAny,
    #[serde(default)]
    metadata: Meta,
    #[serde(default = "Option::default")]
    spec: Option<S>,
    #[serde(default, rename = "status")]
    _status: Option<IgnoredAny>,
}

/// A document that must have a spec.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Required<S> {
    #[serde(rename = "apiVersion")]
    _api_version: IgnoredAny,
    #[serde(rename = "kind")]
    _kind: IgnoredAny,
    #[serde(default)]
    metadata: Meta,
    spec: S,
    #[serde(default, rename = "status")]
    _status: Option<IgnoredAny>,
}
