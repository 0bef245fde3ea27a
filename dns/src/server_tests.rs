//! The shim over real sockets, with resolvers of its own making behind it.

use std::{
    str::FromStr,
    sync::atomic::{AtomicU32, Ordering::SeqCst},
};

use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata::A},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::*;
use crate::testdata;

/// Longer than any answer may take; only a failing test waits for it.
const PATIENCE: Duration = Duration::from_secs(20);
const GREETER: &str = "greeter.demo.svc.clusterset.local.";

struct Rig {
    server: DnsServer,
    snapshot: watch::Sender<Arc<Snapshot>>,
    _health: watch::Sender<Arc<HealthView>>,
}

impl Rig {
    async fn start(upstreams: &[SocketAddr]) -> Self {
        let (snapshot, names) = watch::channel(Arc::new(testdata::world()));
        let (_health, reach) = watch::channel(Arc::new(HealthView::default()));
        let config = DnsConfig {
            listen: vec![loopback()],
            upstreams: upstreams.to_vec(),
        };
        let server = DnsServer::start(&config, names, reach).await.unwrap();
        Self {
            server,
            snapshot,
            _health,
        }
    }

    fn address(&self) -> SocketAddr {
        self.server.local_addrs()[0]
    }

    async fn udp(&self, name: &str, kind: RecordType) -> Message {
        ask_udp(self.address(), &query(name, kind)).await
    }
}

fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(rand::random(), MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

async fn ask_udp(server: SocketAddr, query: &Message) -> Message {
    let socket = UdpSocket::bind(loopback()).await.unwrap();
    socket.send_to(&query.to_vec().unwrap(), server).await.unwrap();
    let mut buffer = [0; 4096];
    let (length, from) = timeout(PATIENCE, socket.recv_from(&mut buffer))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(from, server);
    let answer = Message::from_vec(&buffer[..length]).unwrap();
    assert_eq!(
        (answer.metadata.id, &answer.queries),
        (query.metadata.id, &query.queries)
    );
    answer
}

fn framed(message: &Message) -> Vec<u8> {
    let bytes = message.to_vec().unwrap();
    let mut framed = u16::try_from(bytes.len()).unwrap().to_be_bytes().to_vec();
    framed.extend(bytes);
    framed
}

async fn read_tcp(stream: &mut TcpStream) -> Option<Message> {
    let length = timeout(PATIENCE, stream.read_u16()).await.unwrap().ok()?;
    let mut bytes = vec![0; usize::from(length)];
    stream.read_exact(&mut bytes).await.unwrap();
    Some(Message::from_vec(&bytes).unwrap())
}

/// What a made-up resolver says to a query; several messages go out in order.
type Script = fn(Message) -> Vec<Message>;

/// A resolver on UDP and TCP that counts what it is asked.
async fn resolver(script: Script) -> (SocketAddr, Arc<AtomicU32>) {
    let (udp, tcp) = bind(loopback()).await.unwrap();
    let address = udp.local_addr().unwrap();
    let count = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&count);
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            let (length, from) = udp.recv_from(&mut buffer).await.unwrap();
            seen.fetch_add(1, SeqCst);
            for answer in script(Message::from_vec(&buffer[..length]).unwrap()) {
                udp.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
            }
        }
    });
    let seen = Arc::clone(&count);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = tcp.accept().await.unwrap();
            let Some(query) = read_tcp(&mut stream).await else {
                continue;
            };
            seen.fetch_add(1, SeqCst);
            for answer in script(query) {
                stream.write_all(&framed(&answer)).await.unwrap();
            }
        }
    });
    (address, count)
}

fn respond(query: Message, code: ResponseCode) -> Message {
    let mut answer = query.into_response();
    answer.metadata.response_code = code;
    answer.metadata.recursion_available = true;
    answer
}

fn found(query: Message) -> Vec<Message> {
    let name = query.queries[0].name().clone();
    let mut answer = respond(query, ResponseCode::NoError);
    answer.add_answer(Record::from_rdata(
        name,
        60,
        RData::A(A("192.0.2.1".parse().unwrap())),
    ));
    vec![answer]
}

fn failing(query: Message) -> Vec<Message> {
    vec![respond(query, ResponseCode::ServFail)]
}

fn silent(_: Message) -> Vec<Message> {
    Vec::new()
}

/// Forgeries first: another id, another question, a query; then the truth.
fn forged(query: Message) -> Vec<Message> {
    let mut truth = found(query.clone());
    let mut lie = respond(query.clone(), ResponseCode::NXDomain);
    lie.metadata.id ^= 1;
    let mut other = respond(query.clone(), ResponseCode::NXDomain);
    other.queries[0].set_name(Name::from_str("forged.example.").unwrap());
    truth.splice(0..0, [lie, other, query]);
    truth
}

fn addresses(message: &Message) -> Vec<IpAddr> {
    message.answers.iter().filter_map(|r| r.data.ip_addr()).collect()
}

#[tokio::test]
async fn names_are_answered_over_udp_and_tcp_and_follow_the_snapshot() {
    let rig = Rig::start(&[]).await;
    assert_eq!(
        addresses(&rig.udp(GREETER, RecordType::A).await),
        [testdata::ip("127.1.0.1")]
    );
    let mut stream = TcpStream::connect(rig.address()).await.unwrap();
    stream
        .write_all(&framed(&query(GREETER, RecordType::AAAA)))
        .await
        .unwrap();
    assert_eq!(
        addresses(&read_tcp(&mut stream).await.unwrap()),
        [testdata::ip("fd00::1")]
    );

    rig.snapshot.send(Arc::new(testdata::snapshot([]))).unwrap();
    assert_eq!(
        rig.udp(GREETER, RecordType::A).await.metadata.response_code,
        ResponseCode::NXDomain
    );
    assert_eq!(
        rig.udp("example.com.", RecordType::A)
            .await
            .metadata
            .response_code,
        ResponseCode::Refused
    );
    let totals = rig.server.totals();
    assert_eq!(
        (
            totals.udp,
            totals.tcp,
            totals.noerror,
            totals.nxdomain,
            totals.refused
        ),
        (3, 1, 2, 1, 1)
    );
}

#[tokio::test]
async fn a_connection_is_pipelined_and_half_close_loses_no_answer() {
    let (upstream, _) = resolver(found).await;
    let rig = Rig::start(&[upstream]).await;
    let mut stream = TcpStream::connect(rig.address()).await.unwrap();
    let mut asked: Vec<Message> = (0..40)
        .map(|n| query(&format!("n{n}.example."), RecordType::A))
        .collect();
    asked.push(query(GREETER, RecordType::A));
    let bytes: Vec<u8> = asked.iter().flat_map(framed).collect();
    // In odd pieces: a prefix may be split anywhere.
    for piece in bytes.chunks(37) {
        stream.write_all(piece).await.unwrap();
    }
    stream.shutdown().await.unwrap();
    let mut ids = Vec::new();
    while let Some(answer) = read_tcp(&mut stream).await {
        assert_eq!(addresses(&answer).len(), 1);
        ids.push(answer.metadata.id);
    }
    let mut expected: Vec<_> = asked.iter().map(|m| m.metadata.id).collect();
    ids.sort_unstable();
    expected.sort_unstable();
    assert_eq!(ids, expected);
}

#[tokio::test]
async fn other_names_go_upstream_and_ours_never_do() {
    let (upstream, count) = resolver(found).await;
    let rig = Rig::start(&[upstream]).await;
    assert_eq!(
        addresses(&rig.udp("example.com.", RecordType::A).await),
        [testdata::ip("192.0.2.1")]
    );
    assert_eq!(count.load(SeqCst), 1);
    for name in ["nope.clusterset.local.", "x.y.clusters.strait.internal.", GREETER] {
        rig.udp(name, RecordType::MX).await;
    }
    assert_eq!(count.load(SeqCst), 1);
}

#[tokio::test]
async fn the_next_upstream_is_asked_when_one_cannot_help() {
    let dead = std::net::UdpSocket::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let (refusing, _) = resolver(|q| vec![respond(q, ResponseCode::Refused)]).await;
    let (good, _) = resolver(found).await;
    let rig = Rig::start(&[dead, refusing, good]).await;
    assert_eq!(addresses(&rig.udp("example.com.", RecordType::A).await).len(), 1);
    assert!(rig.server.totals().upstream_failed >= 2);
}

#[tokio::test]
async fn a_silent_upstream_costs_one_wait_and_then_rests() {
    let (quiet, asked_quiet) = resolver(silent).await;
    let (good, _) = resolver(found).await;
    let rig = Rig::start(&[quiet, good]).await;
    assert_eq!(addresses(&rig.udp("a.example.", RecordType::A).await).len(), 1);
    assert_eq!(addresses(&rig.udp("b.example.", RecordType::A).await).len(), 1);
    assert_eq!(asked_quiet.load(SeqCst), 1, "the second question went past it");
}

#[tokio::test]
async fn without_any_answer_the_client_gets_servfail() {
    let (bad, _) = resolver(failing).await;
    let rig = Rig::start(&[bad]).await;
    assert_eq!(
        rig.udp("example.com.", RecordType::A)
            .await
            .metadata
            .response_code,
        ResponseCode::ServFail
    );
    let nobody = std::net::UdpSocket::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let rig = Rig::start(&[nobody]).await;
    assert_eq!(
        rig.udp("example.com.", RecordType::A)
            .await
            .metadata
            .response_code,
        ResponseCode::ServFail
    );
}

#[tokio::test]
async fn forged_answers_are_passed_over() {
    let (upstream, _) = resolver(forged).await;
    let rig = Rig::start(&[upstream]).await;
    let answer = rig.udp("example.com.", RecordType::A).await;
    assert_eq!(addresses(&answer), [testdata::ip("192.0.2.1")]);
    assert_eq!(rig.server.totals().upstream_mismatch, 3);
}

#[tokio::test]
async fn an_equal_question_is_asked_once() {
    // Silence keeps the first one under way until its second try, long after all have come.
    static TRIES: AtomicU32 = AtomicU32::new(0);
    let slow: Script = |q| {
        if TRIES.fetch_add(1, SeqCst) == 0 {
            Vec::new()
        } else {
            found(q)
        }
    };
    let (upstream, count) = resolver(slow).await;
    let rig = Rig::start(&[upstream]).await;
    let asking = (0..30).map(|_| {
        let address = rig.address();
        tokio::spawn(async move { ask_udp(address, &query("example.com.", RecordType::A)).await })
    });
    for answer in asking.collect::<Vec<_>>() {
        assert_eq!(addresses(&answer.await.unwrap()).len(), 1);
    }
    assert_eq!(count.load(SeqCst), 2);
    assert_eq!(
        (rig.server.totals().forwarded, rig.server.totals().joined),
        (1, 29)
    );
}

#[tokio::test]
async fn a_loop_of_forwarders_ends_in_servfail() {
    let hold = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let second_address = hold.local_addr().unwrap();
    let first = Rig::start(&[second_address]).await;
    drop(hold);
    let (_s, names) = watch::channel(Arc::new(testdata::world()));
    let (_h, reach) = watch::channel(Arc::new(HealthView::default()));
    let config = DnsConfig {
        listen: vec![second_address],
        upstreams: vec![first.address()],
    };
    let second = DnsServer::start(&config, names, reach).await.unwrap();
    let answer = first.udp("example.com.", RecordType::A).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    let (a, b) = (first.server.totals(), second.totals());
    assert_eq!((a.forwarded, b.forwarded), (1, 1), "it went round once");
    assert!(a.udp + b.udp < 20);
}

/// Starts a server that forwards to its own address: at the address itself, or at all addresses.
async fn start_pointing_at_itself(all: bool) -> Result<DnsServer, DnsError> {
    let hold = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let upstream = hold.local_addr().unwrap();
    drop(hold);
    let listen = if all {
        SocketAddr::new("0.0.0.0".parse().unwrap(), upstream.port())
    } else {
        upstream
    };
    let config = DnsConfig {
        listen: vec![listen],
        upstreams: vec![upstream],
    };
    let (_s, names) = watch::channel(Arc::new(testdata::world()));
    let (_h, reach) = watch::channel(Arc::new(HealthView::default()));
    DnsServer::start(&config, names, reach).await
}

#[tokio::test]
async fn an_upstream_that_is_ourselves_is_refused() {
    for all in [false, true] {
        // A free port is free only until somebody else takes it: another test may, so look for another.
        let mut started = start_pointing_at_itself(all).await;
        for _ in 0..20 {
            if !matches!(started, Err(DnsError::Bind { .. })) {
                break;
            }
            started = start_pointing_at_itself(all).await;
        }
        assert!(matches!(started, Err(DnsError::UpstreamIsSelf(_))), "{all}");
    }
    assert!(!leads_back(
        SocketAddr::new("192.0.2.7".parse().unwrap(), 53),
        &["0.0.0.0:53".parse().unwrap()]
    ));
}

#[tokio::test]
async fn shutdown_frees_the_address() {
    let rig = Rig::start(&[]).await;
    let address = rig.address();
    let mut open = TcpStream::connect(address).await.unwrap();
    open.write_all(&framed(&query(GREETER, RecordType::A)))
        .await
        .unwrap();
    read_tcp(&mut open).await.unwrap();
    rig.server.shutdown().await;
    assert!(read_tcp(&mut open).await.is_none());
    UdpSocket::bind(address).await.unwrap();
}

#[tokio::test]
async fn garbage_over_tcp_ends_in_a_formerr_not_in_a_crash() {
    let rig = Rig::start(&[]).await;
    let mut stream = TcpStream::connect(rig.address()).await.unwrap();
    let mut bytes = vec![0, 20];
    bytes.extend([
        0x12, 0x34, 1, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 9, 9, 9, 9, 9, 9, 9, 9,
    ]);
    bytes.extend(framed(&query(GREETER, RecordType::A)));
    stream.write_all(&bytes).await.unwrap();
    assert_eq!(
        read_tcp(&mut stream).await.unwrap().metadata.response_code,
        ResponseCode::FormErr
    );
    assert_eq!(
        read_tcp(&mut stream).await.unwrap().answers.len(),
        1,
        "the connection goes on"
    );
}

/// An independent client reads our messages without a complaint.
#[tokio::test]
#[ignore = "needs dig (package bind9-dnsutils)"]
async fn dig_agrees() {
    let rig = Rig::start(&[]).await;
    let port = rig.address().port();
    let dig = |arguments: &'static str| async move {
        let mut command = std::process::Command::new("dig");
        command.args(["@127.0.0.1", "-p", &port.to_string()]);
        command.args(arguments.split_whitespace());
        let output = tokio::task::spawn_blocking(move || command.output()).await;
        let text = String::from_utf8(output.unwrap().unwrap().stdout).unwrap();
        assert!(
            !text.contains(";; Warning") && !text.contains("malformed"),
            "{text}"
        );
        text
    };
    for (arguments, expected) in [
        ("+short greeter.demo.svc.clusterset.local", "127.1.0.1\n"),
        ("+short +tcp greeter.demo.svc.clusterset.local AAAA", "fd00::1\n"),
        ("+short dns-version.clusterset.local TXT", "\"1.0.0\"\n"),
        (
            "+short hello.demo.svc.clusterset.local SRV",
            "0 100 42 hello.demo.svc.clusterset.local.\n",
        ),
    ] {
        assert_eq!(dig(arguments).await, expected, "{arguments}");
    }
    let denied = dig("nope.demo.svc.clusterset.local").await;
    assert!(
        denied.contains("status: NXDOMAIN") && denied.contains("SOA"),
        "{denied}"
    );
    assert!(dig("example.com").await.contains("status: REFUSED"));
    assert!(
        dig("+edns=1 +noednsneg dns-version.clusterset.local TXT")
            .await
            .contains("BADVERS")
    );
}
