//! Active checks of exported endpoints.
//!
//! Owns when which endpoint is checked and what is told of the results; the verdict itself is balance's. Runs on the control runtime: a
//! check is never on the path of a stream.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::SocketAddr,
    ops::RangeInclusive,
    sync::Arc,
    time::{Duration, Instant},
};

use strait_balance::{Health, Thresholds};
use strait_federation_api::{
    Reason, ServiceKey,
    catalog::{EndpointId, Protocol},
    observation::Observation,
    snapshot::HealthCheck,
};
use strait_proxy::{EndpointState, View};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};

use crate::outbox::Outbox;

/// Time between two checks of one endpoint. With two failures to fall, a dead endpoint is out in at most 4 s.
const INTERVAL: Duration = Duration::from_secs(2);
/// Time for a check to succeed. Endpoints are in our own cluster.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Checks at a time: a burst of SYNs to a thousand endpoints is nobody's friend.
const AT_ONCE: usize = 64;
/// Time between two looks at what is due.
const LOOK: Duration = Duration::from_millis(100);
/// Bytes read for a status line, `HTTP/1.1 200 `.
const STATUS_LEN: usize = 13;

/// One port of one endpoint.
type Key = (ServiceKey, EndpointId, u16);

struct Checked {
    state: Arc<EndpointState>,
    check: HealthCheck,
    health: Health,
    due: Instant,
    busy: bool,
}

struct Result {
    key: Key,
    state: Arc<EndpointState>,
    ok: bool,
}

/// See the module. Driven by [`crate::house`].
pub(crate) struct Checker {
    outbox: Outbox,
    checked: BTreeMap<Key, Checked>,
    /// The last word on each endpoint.
    told: HashMap<(ServiceKey, EndpointId), bool>,
    results: mpsc::UnboundedReceiver<Result>,
    done: mpsc::UnboundedSender<Result>,
    running: usize,
}

impl Checker {
    pub(crate) fn new(outbox: Outbox) -> Self {
        let (done, results) = mpsc::unbounded_channel();
        Self {
            outbox,
            checked: BTreeMap::new(),
            told: HashMap::new(),
            results,
            done,
            running: 0,
        }
    }

    /// Checks what `view` exports from now on. Verdicts on endpoints that stay are kept.
    pub(crate) fn take(&mut self, view: &View, now: Instant) {
        let mut wanted = BTreeMap::new();
        for route in view.exports() {
            let export = &route.export;
            for (protocol, port, route) in route.ports() {
                if protocol == Protocol::Tcp && export.health != HealthCheck::Off {
                    for state in route.endpoints() {
                        let key = (export.service.clone(), state.id().clone(), port);
                        wanted.insert(key, (Arc::clone(state), export.health.clone()));
                    }
                }
            }
        }
        let mut old = std::mem::take(&mut self.checked);
        for (key, (state, check)) in wanted {
            let held = old
                .remove(&key)
                .filter(|held| Arc::ptr_eq(&held.state, &state) && held.check == check);
            self.checked
                .insert(key, held.unwrap_or_else(|| Checked::new(state, check, now)));
        }
        for gone in old.into_values() {
            // Nobody checks it any more: the slice's word counts alone.
            gone.state.set_healthy(true);
        }
        let checked = &self.checked;
        self.told
            .retain(|(service, id), _| checked.range(ports_of(service, id)).next().is_some());
    }

    /// Starts what is due and takes in what has ended. Resolves when there is something to do again.
    pub(crate) async fn turn(&mut self) {
        self.start_due(Instant::now());
        tokio::select! {
            result = self.results.recv() => if let Some(result) = result { self.ended(result, Instant::now()) },
            () = tokio::time::sleep(LOOK) => {}
        }
    }

    fn start_due(&mut self, now: Instant) {
        for (key, checked) in &mut self.checked {
            if self.running >= AT_ONCE {
                return;
            }
            if checked.busy || now < checked.due {
                continue;
            }
            checked.busy = true;
            self.running += 1;
            let (check, state, key) = (checked.check.clone(), Arc::clone(&checked.state), key.clone());
            let done = self.done.clone();
            tokio::spawn(async move {
                let checking = probe(state.address(), &check);
                let result = tokio::time::timeout(TIMEOUT, checking).await;
                let ok = matches!(result, Ok(Ok(())));
                // Fails only when the gateway has ended.
                let _ = done.send(Result { key, state, ok });
            });
        }
    }

    fn ended(&mut self, result: Result, now: Instant) {
        self.running -= 1;
        let Some(checked) = self.checked.get_mut(&result.key) else {
            return;
        };
        if !Arc::ptr_eq(&checked.state, &result.state) {
            return; // it has moved meanwhile
        }
        checked.busy = false;
        checked.due = now + INTERVAL;
        checked.health = checked.health.probed(result.ok, Thresholds::default());
        checked.state.set_healthy(checked.health.usable());
        self.tell(&result.key.0, &result.key.1);
    }

    /// An endpoint is healthy when all its ports are.
    fn tell(&mut self, service: &ServiceKey, id: &EndpointId) {
        let mut ports = self.checked.range(ports_of(service, id));
        let healthy = ports.all(|(_, checked)| checked.health.usable());
        let before = self.told.insert((service.clone(), id.clone()), healthy);
        if before == Some(healthy) {
            return;
        }
        if !healthy || before.is_some() {
            let reason = if healthy {
                "Ready"
            } else {
                Reason::ProbeFailed.name()
            };
            tracing::info!(%service, endpoint = %id.0, healthy, reason, "endpoint health changed");
        }
        self.outbox.put(Observation::EndpointHealth {
            service: service.clone(),
            endpoint: id.clone(),
            healthy,
            reason: (!healthy).then_some(Reason::ProbeFailed),
        });
    }
}

/// The keys of every port of one endpoint.
fn ports_of(service: &ServiceKey, id: &EndpointId) -> RangeInclusive<Key> {
    (service.clone(), id.clone(), 0)..=(service.clone(), id.clone(), u16::MAX)
}

impl Checked {
    const fn new(state: Arc<EndpointState>, check: HealthCheck, now: Instant) -> Self {
        Self {
            state,
            check,
            health: Health::Unknown,
            due: now,
            busy: false,
        }
    }
}

async fn probe(address: SocketAddr, check: &HealthCheck) -> io::Result<()> {
    let mut tcp = TcpStream::connect(address).await?;
    // A dial to a free loopback port may meet itself.
    if tcp.local_addr()? == tcp.peer_addr()? {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    let HealthCheck::Http { path } = check else {
        return Ok(());
    };
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: strait-health\r\nConnection: close\r\n\r\n"
    );
    tcp.write_all(request.as_bytes()).await?;
    let mut line = [0; STATUS_LEN];
    tcp.read_exact(&mut line).await?;
    match status(&line) {
        Some(200..=399) => Ok(()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// The code of a status line (RFC 9112 section 4). A whole HTTP client would read no more of the answer than this.
fn status(line: &[u8; STATUS_LEN]) -> Option<u16> {
    let rest = line
        .strip_prefix(b"HTTP/1.1 ")
        .or_else(|| line.strip_prefix(b"HTTP/1.0 "))?;
    let (code, after) = rest.split_at(3);
    let code = std::str::from_utf8(code)
        .ok()
        .filter(|c| c.bytes().all(|b| b.is_ascii_digit()))?;
    // The reason phrase may be missing, its space too.
    matches!(after, b" " | b"\r").then(|| code.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use strait_federation_api::{
        ClusterId,
        catalog::SessionAffinity,
        control::GatewayEvent,
        snapshot::{Endpoint, Export, ExportPort, Snapshot},
    };
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn status_lines() {
        assert_eq!(status(b"HTTP/1.1 204 "), Some(204));
        assert_eq!(status(b"HTTP/1.0 500\r"), Some(500));
        for bad in [
            b"HTTP/2.0 200 ",
            b"HTTP/1.1 2000",
            b"HTTP/1.1 +20 ",
            b"SSH-2.0-Open ",
        ] {
            assert_eq!(status(bad), None);
        }
    }

    fn view(address: SocketAddr, health: HealthCheck) -> View {
        let service = ServiceKey::parse("demo", "greeter").unwrap();
        let export = Export {
            service: service.clone(),
            ports: vec![ExportPort {
                name: None,
                protocol: Protocol::Tcp,
                port: 80,
                endpoints: vec![Endpoint {
                    id: EndpointId("e0".parse().unwrap()),
                    address,
                    ready: true,
                    hostname: None,
                    zone: None,
                }],
            }],
            allowed: BTreeSet::new(),
            session_affinity: SessionAffinity::Unset,
            health,
        };
        let mut snapshot = Snapshot::empty(ClusterId::parse("east").unwrap());
        snapshot.exports.insert(service, Arc::new(export));
        View::new(Arc::new(snapshot), None)
    }

    async fn verdicts(health: HealthCheck, answer: &'static [u8]) -> Vec<bool> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let view = view(listener.local_addr().unwrap(), health);
        tokio::spawn(async move {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let _ = tcp.read(&mut [0; 512]).await;
            let _ = tcp.write_all(answer).await;
        });
        let outbox = Outbox::default();
        let (events, mut received) = mpsc::channel(16);
        tokio::spawn(outbox.clone().run(events));
        let mut checker = Checker::new(outbox);
        checker.take(&view, Instant::now());
        let mut verdicts = vec![];
        let end = Instant::now() + Duration::from_secs(30);
        // The listener is gone after its answer, so the last verdict is always "unhealthy".
        while verdicts.last() != Some(&false) && Instant::now() < end {
            checker.turn().await;
            for checked in checker.checked.values_mut() {
                checked.due = Instant::now();
            }
            while let Ok(GatewayEvent::Observed(Observation::EndpointHealth { healthy, .. })) =
                received.try_recv()
            {
                verdicts.push(healthy);
            }
        }
        verdicts
    }

    #[tokio::test]
    async fn http_answers_decide() {
        let http = HealthCheck::Http {
            path: "/healthz".into(),
        };
        assert_eq!(
            verdicts(http.clone(), b"HTTP/1.1 503 Busy\r\n\r\n").await,
            [false]
        );
        let good = verdicts(http.clone(), b"HTTP/1.1 204 No Content\r\n\r\n").await;
        assert_eq!(good, [true, false], "until the listener is gone");
        assert_eq!(verdicts(http, b"not http at all").await, [false]);
    }

    #[tokio::test]
    async fn an_endpoint_that_dies_is_told_once() {
        // Slower than the outbox, so that the healthy verdict is seen before it is replaced.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let view = view(listener.local_addr().unwrap(), HealthCheck::Tcp);
        let outbox = Outbox::default();
        let (events, mut received) = mpsc::channel(16);
        tokio::spawn(outbox.clone().run(events));
        let mut checker = Checker::new(outbox);
        checker.take(&view, Instant::now());
        let mut listener = Some(listener);
        let mut verdicts = vec![];
        let end = Instant::now() + Duration::from_secs(30);
        while verdicts.len() < 2 && Instant::now() < end {
            checker.turn().await;
            for checked in checker.checked.values_mut() {
                checked.due = Instant::now();
            }
            while let Ok(GatewayEvent::Observed(Observation::EndpointHealth { healthy, reason, .. })) =
                received.try_recv()
            {
                verdicts.push((healthy, reason));
                drop(listener.take());
            }
        }
        assert_eq!(verdicts, [(true, None), (false, Some(Reason::ProbeFailed))]);
    }
}
