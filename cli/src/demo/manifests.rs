//! The demo's manifests: written once, then edited as a user would.
//!
//! Owns their text and the edits. Used by the story.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde_json::Value;

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
    let address = if dial {
        format!("\"{}\"", peer.addresses.gateway)
    } else {
        String::new()
    };
    let text = format!(
        "apiVersion: strait.dev/v1alpha1\nkind: Federation\nmetadata: {{name: {}}}\nspec:\n  \
         peer: {{cluster: {}, addresses: [{address}]}}   # no address: it dials us\n  \
         trust:\n    static:\n      trustDomain: {trust_domain}\n      bundleFile: {}\n      updates: Follow\n  \
         exports: []\n  imports: []\n",
        peer.name,
        peer.name,
        bundle_file.display()
    );
    write(
        &cluster.manifests().join(format!("federation-{}.yaml", peer.name)),
        &text,
    )
}

/// The rule list that covers the greeter, as a Federation's `exports`.
pub(crate) const EXPORTS: &str = "[{namespace: demo, name: greeter}]";
/// No rule.
pub(crate) const NOTHING: &str = "[]";

/// The rule list that lets the greeter in at `priority`, as a Federation's `imports`.
pub(crate) fn imports(priority: u16) -> String {
    format!("[{{namespace: demo, name: greeter, priority: {priority}}}]")
}

/// Sets `spec.<field>` of the Federation `name` to `value` (YAML in flow style), as a person with an editor would: every other
/// line stays as it is.
///
/// # Errors
/// `NotFound` if no file has it; `InvalidData` if the edited text does not say what was meant; else as the system gives.
pub(crate) fn set(cluster: &Cluster, name: &str, field: &str, value: &str) -> io::Result<()> {
    let path = federation(&cluster.manifests(), name)?;
    let edited = edit(&fs::read_to_string(&path)?, field, value);
    let read = |text: &str| serde_saphyr::from_str::<Value>(text).map_err(|e| invalid(&path, &e.to_string()));
    if read(&edited)?["spec"][field] != read(value)? {
        return Err(invalid(
            &path,
            &format!("spec.{field} is not where a generated file has it"),
        ));
    }
    write(&path, &edited)
}

/// Replaces the line of `field` (two blanks deep, as generated files have it) and what is nested below it; adds it at the end if
/// there is none.
fn edit(text: &str, field: &str, value: &str) -> String {
    let head = format!("  {field}:");
    let nested = |line: &&str| line.starts_with("   ") || line.starts_with("  -");
    let mut lines = text.lines().peekable();
    let (mut out, mut done) = (String::new(), false);
    while let Some(line) = lines.next() {
        if line.starts_with(&head) {
            while lines.next_if(nested).is_some() {}
            out += &format!("{head} {value}\n");
            done = true;
        } else {
            out += &format!("{line}\n");
        }
    }
    if done {
        out
    } else {
        format!("{out}{head} {value}\n")
    }
}

/// The file of the Federation `name`.
///
/// # Errors
/// `NotFound` if there is none; else as the system gives.
pub(crate) fn federation(dir: &Path, name: &str) -> io::Result<PathBuf> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_none_or(|e| e != "yaml") {
            continue;
        }
        // A file with several documents is not one of ours.
        let Ok(value) = serde_saphyr::from_str::<Value>(&fs::read_to_string(&path)?) else {
            continue;
        };
        if value["kind"] == "Federation" && value["metadata"]["name"] == name {
            return Ok(path);
        }
    }
    Err(io::Error::new(
        io::ErrorKind::NotFound,
        format!("no Federation {name:?} in {}", dir.display()),
    ))
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
    fn an_edit_changes_one_field_and_keeps_every_other_line() {
        let text = "# top\nspec:\n  # why\n  imports:\n  - {name: a}\n    # nested\n  mode: Active\n";
        assert_eq!(
            edit(text, "imports", "[]"),
            "# top\nspec:\n  # why\n  imports: []\n  mode: Active\n"
        );
        assert_eq!(
            edit("spec:\n  mode: Active\n", "imports", "[]"),
            "spec:\n  mode: Active\n  imports: []\n"
        );
    }

    #[test]
    fn a_federation_is_found_by_its_name_and_edited_in_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let mut ports = Ports::new();
        let (east, west) = (
            cluster(dir.path(), "east", &mut ports),
            cluster(dir.path(), "west", &mut ports),
        );
        write_static(&east, &west, "west.example", "{}", true).unwrap();
        write_service(&east).unwrap(); // a file with two documents beside it
        set(&east, "west", "imports", &imports(2)).unwrap();
        let path = federation(&east.manifests(), "west").unwrap();
        let value: Value = serde_saphyr::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        assert_eq!(value["spec"]["imports"][0]["priority"], 2);
        assert_eq!(value["spec"]["trust"]["static"]["trustDomain"], "west.example");
        assert_eq!(
            set(&east, "north", "imports", NOTHING).unwrap_err().kind(),
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
        set(&east, "west", "imports", &imports(2)).unwrap();
        write_cluster(&west, 101, 2, false).unwrap();
        write_service(&west).unwrap();
        write_export(&west).unwrap();
        write_static(&west, &east, &east_domain, "{}", true).unwrap();
        set(&west, "east", "exports", EXPORTS).unwrap();
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
