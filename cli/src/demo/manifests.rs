//! The demo's manifests: written once, then edited as a user would.
//!
//! Owns their text and the edits. Used by the story.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::cluster::{Cluster, SERVICE_PORT};

/// Prefix length of a cluster's range of virtual addresses.
const VIP_PREFIX: u8 = 24;

/// Writes the `Cluster` of `cluster`. Its virtual addresses are `127.<octet>.<subnet>.0/24`.
///
/// # Errors
/// As the system gives.
pub(crate) fn write_cluster(cluster: &Cluster, octet: u8, subnet: u8, advertise: bool) -> io::Result<()> {
    let addresses = cluster.addresses;
    let advertised = if advertise {
        format!("[\"{}\"]", addresses.gateway)
    } else {
        "[]".to_owned()
    };
    let text = format!(
        "# This cluster's own settings.\n\
         apiVersion: strait.dev/v1alpha1\n\
         kind: Cluster\n\
         metadata:\n  name: {}\n\
         spec:\n  listen: {}\n  advertise: {advertised}   # empty: nobody can dial us, we dial out\n  allowLoopback: true\n  \
         vipRange: [127.{octet}.{subnet}.0/{VIP_PREFIX}]\n  socks: {}\n  admin: {}\n  dns:\n    listen: {}\n",
        cluster.name, addresses.gateway, addresses.socks, addresses.admin, addresses.dns
    );
    write(&cluster.manifests().join("cluster.yaml"), &text)
}

/// Writes the greeter's Service and EndpointSlice.
///
/// # Errors
/// As the system gives.
pub(crate) fn write_service(cluster: &Cluster) -> io::Result<()> {
    let (ip, port) = (cluster.addresses.greeter.ip(), cluster.addresses.greeter.port());
    let text = format!(
        "# A plain Service, and where it runs.\n\
         apiVersion: v1\nkind: Service\nmetadata: {{namespace: demo, name: greeter}}\n\
         spec:\n  ports:\n  - {{name: http, port: {SERVICE_PORT}, targetPort: {port}}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata:\n  namespace: demo\n  name: greeter-1\n  labels: {{kubernetes.io/service-name: greeter}}\n\
         addressType: IPv4\nports:\n- {{name: http, port: {port}}}\n\
         endpoints:\n- {{addresses: [{ip}], conditions: {{ready: true}}}}\n"
    );
    write(&cluster.manifests().join("greeter.yaml"), &text)
}

/// File of the ServiceExport: removing it takes the service back.
pub(crate) fn export_file(cluster: &Cluster) -> PathBuf {
    cluster.manifests().join("greeter-export.yaml")
}

/// Writes the ServiceExport.
///
/// # Errors
/// As the system gives.
pub(crate) fn write_export(cluster: &Cluster) -> io::Result<()> {
    let text = "# Offers the service to the peers whose Federation has an export rule for it.\n\
         apiVersion: multicluster.x-k8s.io/v1beta1\nkind: ServiceExport\nmetadata: {namespace: demo, name: greeter}\n";
    write(&export_file(cluster), text)
}

/// Takes the ServiceExport away.
///
/// # Errors
/// As the system gives.
pub(crate) fn remove_export(cluster: &Cluster) -> io::Result<()> {
    fs::remove_file(export_file(cluster))
}

/// Writes a Federation with static trust.
///
/// # Errors
/// As the system gives.
pub(crate) fn write_static(
    cluster: &Cluster,
    peer: &Cluster,
    trust_domain: &str,
    bundle: &str,
    dial: bool,
) -> io::Result<()> {
    let bundle_file = cluster.dir().join(format!("{}-bundle.json", peer.name));
    write(&bundle_file, bundle)?;
    let addresses: Vec<String> = dial
        .then(|| peer.addresses.gateway.to_string())
        .into_iter()
        .collect();
    let federation = json!({
        "apiVersion": "strait.dev/v1alpha1", "kind": "Federation", "metadata": {"name": peer.name},
        "spec": {
            "peer": {"cluster": peer.name, "addresses": addresses},
            "trust": {"static": {"trustDomain": trust_domain, "bundleFile": bundle_file, "updates": "Follow"}},
        },
    });
    write_value(
        &cluster.manifests().join(format!("federation-{}.yaml", peer.name)),
        &federation,
    )
}

/// The rule for the greeter.
pub(crate) fn rule() -> Value {
    json!({"namespace": "demo", "name": "greeter"})
}

/// The import rule for the greeter at `priority`.
pub(crate) fn import_rule(priority: u16) -> Value {
    json!({"namespace": "demo", "name": "greeter", "priority": priority})
}

/// Sets `spec.<field>` of the Federation `name`, whichever file it is in. `Null` removes the field.
///
/// # Errors
/// `NotFound` if no file has it; else as the system gives.
pub(crate) fn set(cluster: &Cluster, name: &str, field: &str, to: Value) -> io::Result<PathBuf> {
    let (path, mut federation) = federation(&cluster.manifests(), name)?;
    let spec = federation.get_mut("spec").and_then(Value::as_object_mut);
    let spec = spec.ok_or_else(|| invalid(&path, "it has no spec"))?;
    match to {
        Value::Null => spec.remove(field),
        value => spec.insert(field.to_owned(), value),
    };
    write_value(&path, &federation)?;
    Ok(path)
}

/// The file and value of the Federation `name`.
pub(crate) fn federation(dir: &Path, name: &str) -> io::Result<(PathBuf, Value)> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_none_or(|e| e != "yaml") {
            continue;
        }
        let text = fs::read_to_string(&path)?;
        let Ok(value) = serde_saphyr::from_str::<Value>(&text) else {
            continue;
        }; // several documents: not one of ours
        if value["kind"] == "Federation" && value["metadata"]["name"] == name {
            return Ok((path, value));
        }
    }
    Err(io::Error::new(
        io::ErrorKind::NotFound,
        format!("no Federation {name:?} in {}", dir.display()),
    ))
}

fn write_value(path: &Path, value: &Value) -> io::Result<()> {
    let text = serde_saphyr::to_string(value).map_err(|e| invalid(path, &e.to_string()))?;
    write(path, &text)
}

/// Replaces the file in one step: the watcher never sees half of it.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let name = path
        .file_name()
        .map(|n| n.to_string_lossy().into_owned())
        .unwrap_or_default();
    let next = path.with_file_name(format!(".{name}.next"));
    fs::write(&next, text)?;
    fs::rename(&next, path)
}

fn invalid(path: &Path, why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{}: {why}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::ports::Ports;

    fn cluster(dir: &Path, name: &'static str, ports: &mut Ports) -> Cluster {
        Cluster::new(dir, name, ports).unwrap()
    }

    #[test]
    fn a_federation_is_edited_in_place_and_the_rest_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut ports = Ports::new();
        let (east, west) = (
            cluster(dir.path(), "east", &mut ports),
            cluster(dir.path(), "west", &mut ports),
        );
        write_static(&east, &west, "west.example", "{}", true).unwrap();
        write_service(&east).unwrap(); // a file with two documents beside it
        let path = set(&east, "west", "imports", json!([import_rule(2)])).unwrap();
        let (found, value) = federation(&east.manifests(), "west").unwrap();
        assert_eq!(found, path);
        assert_eq!(value["spec"]["imports"][0]["priority"], 2);
        assert_eq!(value["spec"]["trust"]["static"]["trustDomain"], "west.example");
        set(&east, "west", "imports", Value::Null).unwrap();
        assert!(
            federation(&east.manifests(), "west").unwrap().1["spec"]
                .get("imports")
                .is_none()
        );
        assert_eq!(
            set(&east, "north", "imports", Value::Null).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }

    #[test]
    fn what_the_demo_writes_is_valid_without_a_warning() {
        let dir = tempfile::tempdir().unwrap();
        let mut ports = Ports::new();
        let (east, west) = (
            cluster(dir.path(), "east", &mut ports),
            cluster(dir.path(), "west", &mut ports),
        );
        let (east_domain, west_domain) = (domain("east"), domain("west"));
        write_cluster(&east, 101, 1, true).unwrap();
        write_static(&east, &west, &west_domain, "{}", true).unwrap();
        set(&east, "west", "imports", json!([import_rule(2)])).unwrap();
        write_cluster(&west, 101, 2, false).unwrap();
        write_service(&west).unwrap();
        write_export(&west).unwrap();
        write_static(&west, &east, &east_domain, "{}", true).unwrap();
        set(&west, "east", "exports", json!([rule()])).unwrap();
        for cluster in [&east, &west] {
            let files = strait_controller::source::read_manifests(&cluster.manifests()).unwrap();
            let texts: Vec<_> = files
                .iter()
                .map(|f| (f.path.display().to_string(), &f.text))
                .collect();
            let loaded = strait_federation_api::manifest::load(&texts);
            assert!(
                loaded.errors.is_empty() && loaded.warnings.is_empty(),
                "{loaded:#?}"
            );
        }
    }

    fn domain(cluster: &str) -> String {
        format!("{cluster}.{}", "a".repeat(26))
    }
}
