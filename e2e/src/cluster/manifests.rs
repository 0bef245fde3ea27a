//! Text of a test's manifests, and what tests look for in answers about them.

use std::{
    fmt::Write as _,
    fs, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{Addresses, Rules};

/// A service and where it runs.
#[derive(Debug, Clone)]
pub struct Service {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Port peers connect to.
    pub port: u16,
    /// Its endpoints; all on one port.
    pub endpoints: Vec<SocketAddr>,
}

impl Service {
    /// A service with one endpoint.
    #[must_use]
    pub fn new(namespace: &str, name: &str, port: u16, endpoint: SocketAddr) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            port,
            endpoints: vec![endpoint],
        }
    }

    /// `namespace/name`.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// A rule that covers it alone, as an item of `exports` or `imports`.
    #[must_use]
    pub fn rule(&self) -> String {
        format!("{{namespace: {}, name: {}}}", self.namespace, self.name)
    }

    pub(super) fn file(&self) -> String {
        format!("service-{}-{}.yaml", self.namespace, self.name)
    }

    pub(super) fn manifests(&self, exported: bool) -> String {
        let (namespace, name, port) = (&self.namespace, &self.name, self.port);
        let target = self.endpoints.first().map_or(port, SocketAddr::port);
        let mut text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{namespace: {namespace}, name: {name}}}\n\
             spec:\n  ports:\n  - {{name: main, port: {port}, targetPort: {target}}}\n---\n\
             apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata:\n  namespace: {namespace}\n  name: {name}-1\n  labels: {{kubernetes.io/service-name: {name}}}\n\
             addressType: IPv4\nports:\n- {{name: main, port: {target}}}\nendpoints:\n"
        );
        for endpoint in &self.endpoints {
            let _ = writeln!(
                text,
                "- {{addresses: [{}], conditions: {{ready: true}}}}",
                endpoint.ip()
            );
        }
        if exported {
            let _ = write!(
                text,
                "---\napiVersion: multicluster.x-k8s.io/v1beta1\nkind: ServiceExport\n\
                 metadata: {{namespace: {namespace}, name: {name}}}\n"
            );
        }
        text
    }
}

/// `demo/greeter` on port 8080.
#[must_use]
pub fn greeter_service(endpoint: SocketAddr) -> Service {
    Service::new("demo", "greeter", 8080, endpoint)
}

pub(super) fn cluster(id: &str, addresses: &Addresses, vips: &str, spec: &str) -> String {
    let Addresses {
        gateway,
        socks,
        dns,
        admin,
    } = addresses;
    format!(
        "apiVersion: strait.dev/v1alpha1\nkind: Cluster\nmetadata: {{name: {id}}}\nspec:\n  listen: {gateway}\n  allowLoopback: true\n  \
         vipRange: [{vips}]\n  socks: {socks}\n  admin: {admin}\n  dns: {{listen: \"{dns}\"}}\n{spec}"
    )
}

pub(super) fn federation(
    peer: &str,
    domain: &str,
    bundle: &Path,
    dial: Option<SocketAddr>,
    rules: &Rules,
) -> String {
    let address = dial.map_or_else(String::new, |address| format!("\"{address}\""));
    format!(
        "apiVersion: strait.dev/v1alpha1\nkind: Federation\nmetadata: {{name: {peer}}}\nspec:\n  \
         peer: {{cluster: {peer}, addresses: [{address}]}}\n  trust:\n    static:\n      trustDomain: {domain}\n      \
         bundleFile: {}\n      updates: Follow\n  exports: {}\n  imports: {}\n",
        bundle.display(),
        Rules::list(&rules.exports),
        Rules::list(&rules.imports)
    )
}

/// The file of the Federation `name`, and its text.
pub(super) fn find_federation(dir: &Path, name: &str) -> io::Result<(PathBuf, String)> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_none_or(|e| e != "yaml") {
            continue;
        }
        let text = fs::read_to_string(&path)?;
        let is_named = |line: &str| {
            let line = line
                .trim()
                .trim_start_matches("metadata:")
                .trim()
                .trim_matches(['{', '}']);
            line.split(',')
                .any(|field| field.trim() == format!("name: {name}"))
        };
        if text.contains("kind: Federation") && text.lines().any(is_named) {
            return Ok((path, text));
        }
    }
    Err(io::Error::new(
        io::ErrorKind::NotFound,
        format!("no Federation {name}"),
    ))
}

/// `spec.FIELD` of a Federation's text replaced by `value`, in flow style, with what is nested below it; added at the end if absent.
pub(super) fn set(text: &str, field: &str, value: &str) -> String {
    let head = format!("  {field}:");
    let (mut out, mut inside) = (String::new(), false);
    for line in text.lines() {
        let nested = line.starts_with("   ") || line.starts_with("  -");
        inside = if line.starts_with(&head) {
            true
        } else {
            inside && nested
        };
        if !inside {
            out.push_str(line);
            out.push('\n');
        }
    }
    out + &format!("{head} {value}\n")
}

fn imported<'a>(imports: &'a Value, service: &str) -> Option<&'a Value> {
    let list = imports["imports"].as_array()?;
    list.iter().find(|import| import["service"] == service)
}

pub(super) fn is_imported_from(imports: &Value, service: &str, cluster: &str) -> bool {
    let backends = imported(imports, service).and_then(|import| import["backends"].as_array());
    backends.is_some_and(|b| b.iter().any(|b| b["cluster"]["Peer"] == cluster))
}

pub(super) fn vip(imports: &Value, service: &str) -> Option<IpAddr> {
    imported(imports, service)?["vips"][0].as_str()?.parse().ok()
}

pub(super) fn has_usable_tunnel(tunnels: &Value, cluster: &str) -> bool {
    let list = tunnels.as_array();
    list.is_some_and(|t| t.iter().any(|t| t["peer"] == cluster && t["kind"] == "data"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_replaced_with_what_is_nested_below_it() {
        let text = "spec:\n  imports:\n  - {name: a}\n    # nested\n  mode: Active\n";
        assert_eq!(
            set(text, "imports", "[]"),
            "spec:\n  mode: Active\n  imports: []\n"
        );
        assert_eq!(set("spec:\n", "imports", "[]"), "spec:\n  imports: []\n");
    }
}
