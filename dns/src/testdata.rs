//! The snapshot the tests of this crate ask about.

use std::{net::IpAddr, sync::Arc};

use strait_federation_api::{
    catalog::{EndpointId, Member, Protocol, ServiceKind, ServicePort, SessionAffinity},
    ids::{ClusterId, Epoch, Hostname, PortName, ServiceKey},
    snapshot::{Backend, BackendCluster, BackendMember, Import, Snapshot},
};

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn cluster(id: &str) -> ClusterId {
    ClusterId::parse(id).unwrap()
}

pub(crate) fn port(name: Option<&str>, protocol: Protocol, port: u16) -> ServicePort {
    ServicePort {
        name: name.map(|n| PortName::parse(n).unwrap()),
        protocol,
        port,
        app_protocol: None,
    }
}

pub(crate) fn member(hostname: Option<&str>, own: &str, address: &str, ready: bool) -> BackendMember {
    let hostname = hostname.map(|h| Hostname::parse(h).unwrap());
    let label = hostname
        .as_ref()
        .map_or_else(|| own.replace(['.', ':'], "-"), ToString::to_string);
    BackendMember {
        member: Member {
            id: EndpointId(Hostname::parse(&label).unwrap()),
            hostname,
            ip: ip(own),
            ready,
        },
        address: ip(address),
    }
}

pub(crate) fn backend(at: &str, service: &str, ports: &[(Protocol, u16)]) -> Backend {
    Backend {
        cluster: if at == "east" {
            BackendCluster::Local
        } else {
            BackendCluster::Peer(cluster(at))
        },
        remote: service.parse().unwrap(),
        priority: u16::from(at != "east"),
        weight: 100,
        ports: ports.to_vec(),
        ready: 1,
        locality: None,
        members: Vec::new(),
        vips: Vec::new(),
        replayable_ports: Vec::new(),
        stale: false,
    }
}

pub(crate) fn import(
    service: &str,
    kind: ServiceKind,
    ports: Vec<ServicePort>,
    backends: Vec<Backend>,
) -> Import {
    Import {
        service: service.parse().unwrap(),
        kind,
        ports,
        vips: Vec::new(),
        session_affinity: SessionAffinity::Unset,
        backends,
    }
}

pub(crate) fn snapshot(imports: impl IntoIterator<Item = Import>) -> Snapshot {
    let mut snapshot = Snapshot::empty(cluster("east"));
    snapshot.epoch = Epoch(1);
    snapshot.version = 7;
    snapshot.imports = imports
        .into_iter()
        .map(|i| (i.service.clone(), Arc::new(i)))
        .collect();
    snapshot
}

pub(crate) fn key(text: &str) -> ServiceKey {
    text.parse().unwrap()
}

/// Cluster east: `demo/greeter` (VIP, both families, from west and north), `demo/hello` (one number over TCP and UDP), `data/db`
/// (headless, in east, west and north), `data/idle` (headless, nothing ready).
pub(crate) fn world() -> Snapshot {
    use Protocol::{Tcp, Udp};
    let mut west = backend("west", "demo/greeter", &[(Tcp, 8080), (Tcp, 9090)]);
    west.vips = vec![ip("127.1.1.1")];
    let mut north = backend("north", "demo/greeter", &[(Tcp, 8080)]);
    north.vips = vec![ip("127.1.1.2")];
    let ports = vec![port(Some("http"), Tcp, 8080), port(Some("metrics"), Tcp, 9090)];
    let mut greeter = import(
        "demo/greeter",
        ServiceKind::ClusterSetIp,
        ports,
        vec![north, west],
    );
    greeter.vips = vec![ip("127.1.0.1"), ip("fd00::1")];

    let ports = vec![port(Some("tcp"), Tcp, 42), port(Some("udp"), Udp, 42)];
    let both = [(Tcp, 42), (Udp, 42)];
    let mut hello = import(
        "demo/hello",
        ServiceKind::ClusterSetIp,
        ports,
        vec![backend("west", "demo/hello", &both)],
    );
    hello.vips = vec![ip("127.1.0.2")];

    let mut plain = import(
        "demo/plain",
        ServiceKind::ClusterSetIp,
        vec![port(None, Tcp, 80)],
        vec![backend("west", "demo/plain", &[(Tcp, 80)])],
    );
    plain.vips = vec![ip("127.1.0.3")];

    let db = |at, members| Backend {
        members,
        ..backend(at, "data/db", &[(Tcp, 5432)])
    };
    let members = vec![
        db("east", vec![member(Some("db-0"), "10.0.0.1", "10.0.0.1", true)]),
        db(
            "north",
            vec![
                member(None, "10.0.0.9", "127.1.2.1", true),
                member(None, "2001:db8::9", "fd00::9", true),
            ],
        ),
        db(
            "west",
            vec![
                member(Some("db-0"), "10.0.0.1", "127.1.3.1", true),
                member(Some("db-1"), "10.0.0.2", "127.1.3.2", false),
            ],
        ),
    ];
    let database = import(
        "data/db",
        ServiceKind::Headless,
        vec![port(Some("sql"), Tcp, 5432)],
        members,
    );
    let idle = Backend {
        ready: 0,
        members: vec![member(Some("i-0"), "10.0.0.3", "127.1.4.1", false)],
        ..backend("west", "data/idle", &[(Tcp, 1)])
    };
    let idle = import(
        "data/idle",
        ServiceKind::Headless,
        vec![port(Some("x"), Tcp, 1)],
        vec![idle],
    );
    snapshot([greeter, hello, plain, database, idle])
}
