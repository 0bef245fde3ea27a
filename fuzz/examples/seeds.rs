//! Writes the first seeds of every corpus: well-formed inputs made by our own encoders. Run it after a format changed:
//! `cargo run -p strait-fuzz --example seeds`.

use std::{error::Error, fs, path::Path, time::Duration};

use prost::Message as _;
use rustls_pki_types::UnixTime;
use strait_federation_api::{
    ClusterId, Epoch, Hostname, Reason, ServiceKey, Uid,
    catalog::{EndpointId, Member, OfferedService, Protocol, ServiceKind, ServicePort, SessionAffinity},
    exchange::{self, Gateways, Hello, Message, VersionRange, wire},
    snapshot::GatewayAddress,
};
use strait_proxy::header::{Answer, PREFIX_LEN, Refusal, Request};
use strait_trust_bridge::{CaRecord, JoinToken, envelope, join::JoinMessage, spiffe_json};

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

fn write(target: &str, name: &str, bytes: &[u8]) -> Result {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    fs::create_dir_all(&dir)?;
    Ok(fs::write(dir.join(name), bytes)?)
}

fn main() -> Result {
    let now = UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000));
    let ca = CaRecord::create(&ClusterId::parse("west")?, now)?;
    trust(&ca, now)?;
    streams()?;
    exchanges()?;
    joins(&ca)?;
    local()?;
    manifests()
}

fn trust(ca: &CaRecord, now: UnixTime) -> Result {
    let bundle = ca.bundle()?;
    write(
        "bundle_json",
        "one-root",
        spiffe_json::to_json(&bundle).as_bytes(),
    )?;
    write(
        "bundle_json",
        "empty",
        br#"{"keys":[],"spiffe_sequence":3,"spiffe_refresh_hint":300}"#,
    )?;
    write("bundle_update", "payload", &envelope::encode_payload(&bundle))?;
    write("bundle_update", "envelope", &envelope::seal(ca)?)?;
    for (name, address) in [("name", "gw.west.example:7443"), ("ipv6", "[2001:db8::1]:7443")] {
        let token = JoinToken::create(vec![address.parse()?], ca.pin()?, Duration::from_secs(3600), now)?;
        write("token", name, token.encode().as_bytes())?;
    }
    Ok(())
}

fn streams() -> Result {
    let request = Request {
        protocol: Protocol::Tcp,
        port: 8080,
        hops: 1,
        deadline: Duration::from_secs(10),
        service: ServiceKey::parse("demo", "greeter")?,
        origin: ClusterId::parse("east")?,
        source: None,
        endpoint: Some(EndpointId(Hostname::parse("greeter-0")?)),
        affinity: Some(7),
        trace: None,
    };
    write("stream_header", "request", &request.encode()[PREFIX_LEN..])?;
    write("stream_header", "ok", &Answer::Ok.encode()[PREFIX_LEN..])?;
    let refused = Answer::Refused(Refusal::new(Reason::NoEndpoint, "none ready"));
    write("stream_header", "refused", &refused.encode()[PREFIX_LEN..])?;
    write("hello", "drain", &[2, 0, 2, 0, 103])?;
    write(
        "hello",
        "hello",
        b"\x01\x00\x10\x00\x01\x00\x01\x04gw-0\x00\x00\x04\x00\x00\x00",
    )
}

fn offered() -> Result<OfferedService> {
    Ok(OfferedService {
        service: ServiceKey::parse("demo", "greeter")?,
        uid: Uid::parse("5b0c")?,
        created: 1_800_000_000,
        kind: ServiceKind::Headless,
        ports: vec![ServicePort {
            name: Some("http".parse()?),
            protocol: Protocol::Tcp,
            port: 8080,
            app_protocol: None,
        }],
        session_affinity: SessionAffinity::ClientIp {
            timeout_seconds: Some(10),
        },
        internal_traffic_policy: None,
        traffic_distribution: Some("PreferClose".into()),
        ip_families: Vec::new(),
        labels: [("team".to_owned(), "a".to_owned())].into(),
        annotations: Default::default(),
        ready: 1,
        locality: Some("zone-1".into()),
        members: vec![Member {
            id: EndpointId(Hostname::parse("g-0")?),
            hostname: None,
            ip: "10.0.0.1".parse()?,
            ready: true,
        }],
        replayable_ports: vec![8080],
    })
}

fn exchanges() -> Result {
    let gateways = Gateways {
        addresses: vec![GatewayAddress {
            host: "gw.west.example".into(),
            port: 7443,
        }],
        instances: vec!["gw-0".parse()?],
    };
    let hello = Hello {
        versions: VersionRange { min: 1, max: 1 },
        cluster: ClusterId::parse("west")?,
        epoch: Epoch(3),
        mesh_trust_domain: None,
        gateways: gateways.clone(),
        held: None,
    };
    let service = ServiceKey::parse("demo", "greeter")?;
    let refusal = exchange::Refusal {
        reason: Reason::OverLimit,
        message: "too many".into(),
    };
    let messages = [
        ("hello", Message::Hello(Box::new(hello))),
        ("upsert", Message::Upsert(offered()?.into())),
        ("delete", Message::Delete(service.clone())),
        ("end", Message::EndOfSync { number: 9 }),
        (
            "nack",
            Message::Nack {
                service: Some(service),
                refusal,
            },
        ),
        (
            "heartbeat",
            Message::Heartbeat {
                staleness: Duration::from_secs(2),
            },
        ),
        (
            "bundle",
            Message::Bundle {
                envelope: vec![1, 2, 3].into(),
            },
        ),
        ("addresses", Message::AddressesChanged(gateways)),
    ];
    messages
        .iter()
        .try_for_each(|(name, message)| write("exchange", name, &wire::encode(message).encode_to_vec()))
}

fn joins(ca: &CaRecord) -> Result {
    let offer = JoinMessage::Offer(envelope::encode_payload(&ca.bundle()?));
    write("join", "offer", &offer.encode())?;
    write("join", "hello", &[&[1, 1][..], &[7; 16]].concat())
}

fn local() -> Result {
    write("socks", "greeting", &[5, 1, 0])?;
    let name = b"greeter.demo.svc.clusterset.local";
    let length = u8::try_from(name.len())?;
    write(
        "socks",
        "connect",
        &[&[5, 1, 0, 3, length][..], name, &[31, 144]].concat(),
    )?;
    let question: Vec<u8> = "greeter.demo.svc.clusterset.local"
        .split('.')
        .flat_map(|label| [&[u8::try_from(label.len()).unwrap_or(0)][..], label.as_bytes()].concat())
        .chain([0])
        .collect();
    let header = [0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    write("dns", "a", &[&header[..], &question, &[0, 1, 0, 1]].concat())?;
    let edns = [0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0];
    let header = [0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
    write(
        "dns",
        "srv-edns",
        &[&header[..], &question, &[0, 33, 0, 1], &edns].concat(),
    )
}

fn manifests() -> Result {
    write(
        "manifest",
        "cluster",
        b"apiVersion: strait.dev/v1alpha1\nkind: Cluster\nmetadata: {name: east}\nspec: {listen: \"127.0.0.1:7443\"}\n",
    )?;
    write(
        "manifest",
        "federation",
        b"apiVersion: strait.dev/v1alpha1\nkind: Federation\nmetadata:\n  name: west\nspec:\n  trust: {invite: {ttl: 1h, serial: 1}}\n  \
          imports:\n  - {namespace: \"*\", name: \"*\", as: {namespace: from-west}}\n---\napiVersion: v1\nkind: Service\n\
          metadata: {name: greeter, namespace: demo}\nspec:\n  ports:\n  - {name: http, port: 8080}\n",
    )
}
