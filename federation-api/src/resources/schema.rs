//! Generated schemas: the Federation's custom resource definition and the Cluster's JSON Schema, from the types of this folder.
//!
//! Owns their text form only. The checked-in copies are under `federation-api/generated/`; a test keeps them current.

use kube::CustomResourceExt;

use super::{ClusterSpec, federation::FederationResource};

const HEADER: &str = "# Generated from federation-api/src/resources; do not edit.\n";

/// The CustomResourceDefinition of `Federation`, as YAML.
///
/// # Errors
/// When the schema cannot be written as YAML: a bug in the types.
pub fn federation_crd_yaml() -> Result<String, serde_json::Error> {
    let crd = serde_json::to_value(FederationResource::crd())?;
    let yaml = serde_saphyr::to_string(&crd).map_err(serde::ser::Error::custom)?;
    Ok(format!("{HEADER}{yaml}"))
}

/// The JSON Schema (draft 2020-12) of a `Cluster` manifest.
///
/// # Errors
/// When the schema cannot be written as JSON: a bug in the types.
pub fn cluster_schema_json() -> Result<String, serde_json::Error> {
    let schema = schemars::schema_for!(ClusterManifest);
    serde_json::to_string_pretty(&schema).map(|s| s + "\n")
}

// For its schema only: files are read by `manifest`.
/// The settings of one cluster, in files.
#[derive(schemars::JsonSchema)]
#[schemars(rename = "Cluster", deny_unknown_fields, rename_all = "camelCase")]
#[expect(dead_code, reason = "only its schema is used")]
struct ClusterManifest {
    /// strait.dev/v1alpha1
    #[schemars(extend("const" = super::STRAIT_API_VERSION))]
    api_version: String,
    /// Cluster
    #[schemars(extend("const" = "Cluster"))]
    kind: String,
    /// The name is the ClusterId.
    metadata: ClusterMetadata,
    /// Settings; every one has a default.
    #[serde(default)]
    spec: ClusterSpec,
}

/// Metadata of a Cluster.
#[derive(schemars::JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
struct ClusterMetadata {
    /// The ClusterId: one DNS label, immutable once peers know it.
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    )]
    name: String,
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Set this variable to write the files instead of comparing them.
    const WRITE: &str = "STRAIT_WRITE_GENERATED";

    fn is_current(name: &str, text: &str) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("generated").join(name);
        if std::env::var_os(WRITE).is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
        }
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            found == text,
            "{} is not current: run {WRITE}=1 cargo test -p strait-federation-api --features crd schema",
            path.display()
        );
    }

    #[test]
    fn the_checked_in_files_are_current() {
        is_current("federation.crd.yaml", &federation_crd_yaml().unwrap());
        is_current("cluster.schema.json", &cluster_schema_json().unwrap());
    }

    #[test]
    fn the_crd_holds_the_rules_defaults_and_columns_of_the_types() {
        let crd = serde_json::to_value(FederationResource::crd()).unwrap();
        let version = &crd["spec"]["versions"][0];
        let columns: Vec<&str> = version["additionalPrinterColumns"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c["name"].as_str().unwrap())
            .collect();
        assert_eq!(
            columns,
            ["Peer", "Connected", "Trust", "Exports", "Imports", "RTT", "Age"]
        );
        assert_eq!(crd["spec"]["scope"], "Cluster");
        let spec = &version["schema"]["openAPIV3Schema"]["properties"]["spec"];
        let rule = |node: &serde_json::Value| node["x-kubernetes-validations"][0]["rule"].to_string();
        assert!(
            rule(&spec["properties"]["trust"]).contains("has(self.invite)"),
            "{spec:#}"
        );
        assert!(rule(spec).contains("has(self.trust.static)"));
        assert_eq!(spec["properties"]["mode"]["default"], "Active");
        let import = &spec["properties"]["imports"]["items"]["properties"];
        let figures =
            |field: &str| ["minimum", "maximum", "default"].map(|f| import[field][f].as_f64().unwrap());
        assert_eq!(figures("weight"), [0.0, 1000.0, 100.0]);
        assert_eq!(figures("priority"), [0.0, 1000.0, 1.0]);
        assert_eq!(spec["required"], serde_json::json!(["trust"]));
        let trust = &spec["properties"]["trust"]["properties"];
        assert!(trust["invite"].is_object() && trust["join"].is_object() && trust["static"].is_object());
        assert_eq!(trust["invite"]["properties"]["ttl"]["default"], "1h");
    }
}
