//! Two `strait run` with static trust, the far one exporting the server, the near one importing it.
//!
//! Owns their manifests. The order is that of a user: start both, read each one's bundle, write it into the other's Federation; the
//! running processes take it up.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
    time::Duration,
};

use serde_json::Value;

use super::{
    BenchError, Pair, System,
    rig::{FAR, Rig, SERVER_PORT, Side, run},
};
use crate::process::{Process, strait_binary};

const GATEWAY_PORT: u16 = 1743;
const ADMIN_PORT: u16 = 1748;
const SERVICE_PORT: u16 = 1780;
/// Start of the near side's virtual addresses.
const VIPS: &str = "127.77.0.";
/// A process is up, a peer is reached, an import is there: each within this.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) async fn start(rig: &Rig, workers: u16) -> Result<Pair, BenchError> {
    let binary = strait_binary().map_err(BenchError::Needs)?;
    let dir = tempfile::tempdir()?;
    let (near_dir, far_dir) = (dir.path().join("near"), dir.path().join("far"));
    write_cluster(&near_dir, "near", &format!("{VIPS}0/24"), workers)?;
    write_cluster(&far_dir, "far", "127.78.0.0/24", workers)?;
    fs::write(manifests(&far_dir).join("service.yaml"), service())?;
    let mut near = spawn(rig, Side::Near, &binary, &near_dir, "strait-near").await?;
    let mut far = spawn(rig, Side::Far, &binary, &far_dir, "strait-far").await?;
    let (near_trust, far_trust) = (bundle(&binary, &near_dir)?, bundle(&binary, &far_dir)?);
    let rule = "[{namespace: bench, name: server}]";
    let far_address = format!("\"{FAR}:{GATEWAY_PORT}\"");
    write_federation(
        &near_dir,
        "far",
        &far_address,
        &far_trust,
        &format!("imports: {rule}"),
    )?;
    write_federation(&far_dir, "near", "", &near_trust, &format!("exports: {rule}"))?;
    let vip = wait_for_vip(&binary, &near_dir, &mut near, &mut far).await?;
    let entry = SocketAddr::new(vip, SERVICE_PORT);
    Ok(Pair {
        system: System::Strait,
        near,
        far,
        entry,
        _dir: dir,
    })
}

fn manifests(dir: &Path) -> std::path::PathBuf {
    dir.join("manifests")
}

fn write_cluster(dir: &Path, id: &str, vips: &str, workers: u16) -> Result<(), BenchError> {
    fs::create_dir_all(manifests(dir))?;
    fs::create_dir_all(dir.join("state"))?;
    let text = format!(
        "apiVersion: strait.dev/v1alpha1\nkind: Cluster\nmetadata: {{name: {id}}}\nspec:\n  listen: 0.0.0.0:{GATEWAY_PORT}\n  \
         vipRange: [{vips}]\n  workers: {workers}\n  socks: off\n  admin: 127.0.0.1:{ADMIN_PORT}\n  dns: {{listen: off}}\n"
    );
    Ok(fs::write(manifests(dir).join("cluster.yaml"), text)?)
}

fn service() -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{namespace: bench, name: server}}\nspec:\n  ports:\n  \
         - {{name: bench, port: {SERVICE_PORT}, targetPort: {SERVER_PORT}}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  namespace: bench\n  name: server-1\n  \
         labels: {{kubernetes.io/service-name: server}}\naddressType: IPv4\n\
         ports:\n- {{name: bench, port: {SERVER_PORT}}}\n\
         endpoints:\n- {{addresses: [127.0.0.1], conditions: {{ready: true}}}}\n---\n\
         apiVersion: multicluster.x-k8s.io/v1beta1\nkind: ServiceExport\nmetadata: {{namespace: bench, name: server}}\n"
    )
}

fn write_federation(
    dir: &Path,
    peer: &str,
    address: &str,
    (trust_domain, bundle): &(String, String),
    rules: &str,
) -> Result<(), BenchError> {
    let bundle_file = dir.join(format!("{peer}.json"));
    fs::write(&bundle_file, bundle)?;
    let text = format!(
        "apiVersion: strait.dev/v1alpha1\nkind: Federation\nmetadata: {{name: {peer}}}\nspec:\n  \
         peer: {{cluster: {peer}, addresses: [{address}]}}\n  trust:\n    static:\n      \
         trustDomain: {trust_domain}\n      bundleFile: {}\n  {rules}\n",
        bundle_file.display()
    );
    Ok(fs::write(
        manifests(dir).join(format!("federation-{peer}.yaml")),
        text,
    )?)
}

async fn spawn(rig: &Rig, side: Side, binary: &Path, dir: &Path, name: &str) -> Result<Process, BenchError> {
    let mut command = rig.command(side, binary);
    command
        .arg("run")
        .arg("--config")
        .arg(manifests(dir))
        .arg("--state")
        .arg(dir.join("state"));
    command.args(["--access-log", "off", "--log", "warn"]);
    let mut process = Process::spawn(name, command)?;
    // The command socket is reachable from every namespace and answers once the process is up.
    let socket = dir.join("state");
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while bundle(binary, dir).is_err() {
        if tokio::time::Instant::now() >= deadline {
            let what = format!("an answer on the command socket in {}", socket.display());
            return Err(process
                .wait_for_line(&what, Duration::ZERO)
                .await
                .map_or_else(Into::into, BenchError::Load));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(process)
}

/// Trust domain and SPIFFE bundle of a running process.
fn bundle(binary: &Path, dir: &Path) -> Result<(String, String), BenchError> {
    let ask = |arguments: &[&str]| {
        run(std::process::Command::new(binary)
            .args(arguments)
            .arg("--state")
            .arg(dir.join("state")))
    };
    let raw = ask(&["bundle", "--raw"])?;
    let status: Value = parse(&ask(&["status", "-o", "json"])?)?;
    let domain = find(&status, &|key, text| {
        key.to_ascii_lowercase().replace('_', "") == "trustdomain" && !text.is_empty()
    });
    let domain =
        domain.ok_or_else(|| BenchError::Load("`strait status` names no trust domain".to_owned()))?;
    Ok((domain, raw))
}

async fn wait_for_vip(
    binary: &Path,
    dir: &Path,
    near: &mut Process,
    far: &mut Process,
) -> Result<IpAddr, BenchError> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let mut command = std::process::Command::new(binary);
        command
            .args(["get", "imports", "-o", "json", "--state"])
            .arg(dir.join("state"));
        let imports = run(&mut command)
            .and_then(|text| parse(&text))
            .unwrap_or_default();
        let vip = find(&imports, &|_, text| text.starts_with(VIPS));
        if let Some(vip) = vip.and_then(|text| text.parse().ok()) {
            return Ok(vip);
        }
        if tokio::time::Instant::now() >= deadline {
            let detail = format!(
                "the import did not come within {PATIENCE:?}\nnear:\n{}\nfar:\n{}",
                near.tail(),
                far.tail()
            );
            return Err(BenchError::Load(detail));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn parse(text: &str) -> Result<Value, BenchError> {
    serde_json::from_str(text).map_err(|e| BenchError::Load(format!("no JSON from strait: {e}")))
}

/// The first text for which `wanted(key, text)` holds, anywhere.
fn find(value: &Value, wanted: &dyn Fn(&str, &str) -> bool) -> Option<String> {
    fn walk(key: &str, value: &Value, wanted: &dyn Fn(&str, &str) -> bool) -> Option<String> {
        match value {
            Value::String(text) => wanted(key, text).then(|| text.clone()),
            Value::Array(items) => items.iter().find_map(|item| walk(key, item, wanted)),
            Value::Object(fields) => fields.iter().find_map(|(key, value)| walk(key, value, wanted)),
            _ => None,
        }
    }
    walk("", value, wanted)
}
