//! Clusters of one test: real controllers, real files, and a pretended gateway each.
//!
//! The pretended gateway does what the real one does with trust: it asks the same stores. Its bytes travel over pipes that a test
//! can cut.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use parking_lot::Mutex;
use strait_federation_api::{
    ClusterId, InstanceId, Reason, ServiceKey, TrustDomain,
    control::{ControlStream, DialError, GatewayEvent, GatewayRequest, JoinStream, Role, VerifiedPeer},
    observation::{GatewayStatus, LinkState, Observation},
    snapshot::{Import, PeerMode, Snapshot},
    view::{ConditionStatus, ControllerView},
};
use strait_trust_bridge::{RootFingerprint, TrustStore, spiffe_json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    sync::{mpsc, watch},
    task::JoinHandle,
};

use super::mortal::Mortal;
use crate::{ControllerConfig, ControllerHandle, GatewayLink, Metrics, Prepared, Running, Timing};

/// Longest wait for anything: a slow machine, never a measure.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes in flight in one pipe.
const PIPE: usize = 256 * 1024;

/// A cluster of a test: its folders outlive its process.
pub(super) struct Node {
    pub(super) name: &'static str,
    port: u16,
    dir: tempfile::TempDir,
    state: tempfile::TempDir,
    pub(super) disk: Arc<Mortal>,
    live: Option<Live>,
    timing: Timing,
    world: World,
}

struct Live {
    running: Running,
    handle: ControllerHandle,
    metrics: Metrics,
    gateway: JoinHandle<()>,
}

/// What a pretended gateway shows the others.
#[derive(Clone)]
struct Reachable {
    cluster: ClusterId,
    instance: InstanceId,
    store: Arc<TrustStore>,
    invite_open: Arc<AtomicBool>,
    events: mpsc::Sender<GatewayEvent>,
    handle: ControllerHandle,
}

/// The network between the nodes.
#[derive(Clone, Default)]
pub(super) struct World(Arc<Inner>);

type Pair = (TrustDomain, TrustDomain);

#[derive(Default)]
struct Inner {
    reachable: Mutex<BTreeMap<u16, Reachable>>,
    /// Control connections by (lower, higher) trust domain.
    links: Mutex<BTreeMap<Pair, Vec<JoinHandle<()>>>>,
    /// No control connection comes up.
    no_control: AtomicBool,
    /// The next join session is cut after so many bytes from the inviter.
    cut_join: Mutex<Option<usize>>,
    sessions: AtomicUsize,
}

impl World {
    pub(super) fn node(&self, name: &'static str, port: u16) -> Node {
        let node = Node {
            name,
            port,
            dir: tempfile::tempdir().unwrap(),
            state: tempfile::tempdir().unwrap(),
            disk: Mortal::new(),
            live: None,
            timing: Timing {
                join_retry: Duration::from_millis(20),
                settle: Duration::from_millis(2),
                poll: Duration::from_millis(300),
                debounce: Duration::from_millis(10),
                ..Timing::default()
            },
            world: self.clone(),
        };
        node.write(
            "cluster.yaml",
            &format!(
                "apiVersion: strait.dev/v1alpha1\nkind: Cluster\nmetadata: {{name: {name}}}\nspec:\n  advertise: [\"127.0.0.1:{port}\"]\n  allowLoopback: true\n"
            ),
        );
        node
    }

    pub(super) fn allow_control(&self, allow: bool) {
        self.0.no_control.store(!allow, Ordering::SeqCst);
    }

    pub(super) fn cut_next_join_after(&self, bytes: usize) {
        *self.0.cut_join.lock() = Some(bytes);
    }

    pub(super) fn join_sessions(&self) -> usize {
        self.0.sessions.load(Ordering::SeqCst)
    }

    fn at(&self, address: &strait_federation_api::snapshot::GatewayAddress) -> Option<Reachable> {
        self.0.reachable.lock().get(&address.port).cloned()
    }

    async fn dial_join(
        &self,
        addresses: &[strait_federation_api::snapshot::GatewayAddress],
        root: RootFingerprint,
    ) -> Result<JoinStream, DialError> {
        let failed = |reason| DialError {
            reason,
            detail: format!("{reason}"),
        };
        let target = addresses
            .iter()
            .find_map(|a| self.at(a))
            .ok_or_else(|| failed(Reason::Unreachable))?;
        if !target.invite_open.load(Ordering::SeqCst) {
            return Err(failed(Reason::AlpnRefused));
        }
        if !target.roots().contains(&root) {
            return Err(failed(Reason::FingerprintMismatch));
        }
        self.0.sessions.fetch_add(1, Ordering::SeqCst);
        let mut exporter = [0; 32];
        SystemRandom::new().fill(&mut exporter).unwrap();
        let cut = self.0.cut_join.lock().take();
        let (near, far, _task) = pipe(cut);
        let remote = SocketAddr::from(([127, 0, 0, 1], 9));
        let stream = |role, io: DuplexStream| JoinStream {
            role,
            remote,
            exporter,
            io: Box::new(io),
        };
        let event = GatewayEvent::Join(stream(Role::Acceptor, far));
        target
            .events
            .send(event)
            .await
            .map_err(|_| failed(Reason::Unreachable))?;
        Ok(stream(Role::Dialler, near))
    }

    /// Brings the control connection of a pair up if both sides trust each other and there is none.
    async fn dial_control(&self, from: &Reachable, to: &Reachable) -> bool {
        let (own, other) = (from.store.view().own().clone(), to.store.view().own().clone());
        let trusted = from.store.view().peer(&other).is_some() && to.store.view().peer(&own).is_some();
        if !trusted || self.0.no_control.load(Ordering::SeqCst) {
            return false;
        }
        let pair = if own < other { (own, other) } else { (other, own) };
        let (near, far) = {
            let mut links = self.0.links.lock();
            let link = links.entry(pair).or_default();
            if link.iter().any(|task| !task.is_finished()) {
                return true;
            }
            let (near, far, task) = pipe(None);
            *link = vec![task];
            (near, far)
        };
        let up = |peer: &Reachable, role, io: DuplexStream| {
            GatewayEvent::Control(ControlStream {
                peer: VerifiedPeer {
                    cluster: peer.cluster.clone(),
                    trust_domain: peer.store.view().own().clone(),
                    instance: peer.instance.clone(),
                },
                role,
                remote: SocketAddr::from(([127, 0, 0, 1], 9)),
                io: Box::new(io),
            })
        };
        from.events.send(up(to, Role::Dialler, near)).await.is_ok()
            && to.events.send(up(from, Role::Acceptor, far)).await.is_ok()
    }

    fn cut_links_of(&self, domain: &TrustDomain) {
        let mut links = self.0.links.lock();
        for (pair, tasks) in links.iter_mut() {
            if pair.0 == *domain || pair.1 == *domain {
                tasks.drain(..).for_each(|task| task.abort());
            }
        }
    }
}

impl Reachable {
    fn roots(&self) -> Vec<RootFingerprint> {
        let own = self.handle.bundle();
        let bundle = spiffe_json::from_json(own.trust_domain, own.spiffe.as_bytes()).unwrap();
        bundle.roots().iter().map(|root| root.fingerprint()).collect()
    }
}

/// Two ends with a task between that can be cut; `cut` ends it after so many bytes towards the near end.
fn pipe(cut: Option<usize>) -> (DuplexStream, DuplexStream, JoinHandle<()>) {
    let (near, mut near_inner) = duplex(PIPE);
    let (mut far_inner, far) = duplex(PIPE);
    let task = tokio::spawn(async move {
        let Some(mut left) = cut else {
            let _ended = tokio::io::copy_bidirectional(&mut near_inner, &mut far_inner).await;
            return;
        };
        let (mut near_read, mut near_write) = tokio::io::split(near_inner);
        let (mut far_read, mut far_write) = tokio::io::split(far_inner);
        let towards_far = tokio::io::copy(&mut near_read, &mut far_write);
        let towards_near = async {
            let mut chunk = [0; 64];
            while left > 0 {
                let want = left.min(chunk.len());
                let got = far_read.read(&mut chunk[..want]).await.unwrap_or(0);
                if got == 0 || near_write.write_all(&chunk[..got]).await.is_err() {
                    return;
                }
                left -= got;
            }
        };
        tokio::select! { _ = towards_far => {}, () = towards_near => {} }
    });
    (near, far, task)
}

/// What the pretended gateway of one node does.
async fn gateway(
    me: Reachable,
    world: World,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    mut requests: mpsc::Receiver<GatewayRequest>,
) {
    let mut told: BTreeMap<ClusterId, bool> = BTreeMap::new();
    let mut every = tokio::time::interval(Duration::from_millis(10));
    loop {
        tokio::select! {
            request = requests.recv() => match request {
                Some(GatewayRequest::JoinDial { addresses, root, reply, .. }) => {
                    let _gone = reply.send(world.dial_join(&addresses, root).await);
                }
                Some(_) => {}
                None => return,
            },
            _ = every.tick() => {
                let snapshot = Arc::clone(&snapshots.borrow_and_update());
                for peer in snapshot.peers.values() {
                    let target = peer.addresses.iter().find_map(|address| world.at(address));
                    let up = match target {
                        Some(target) if peer.mode != PeerMode::Suspended => world.dial_control(&me, &target).await,
                        _ => false,
                    };
                    if told.insert(peer.cluster.clone(), up) != Some(up) {
                        let state = LinkState { usable_tunnels: u32::from(up), tunnels: u32::from(up), control: up, ..LinkState::default() };
                        let link = Observation::Link { peer: peer.cluster.clone(), state };
                        if me.events.send(GatewayEvent::Observed(link)).await.is_err() {
                            return;
                        }
                    }
                }
            }
        }
    }
}

impl Node {
    pub(super) fn write(&self, file: &str, text: &str) {
        // As an editor does: whole, by a rename.
        let temp = self.dir.path().join(format!(".{file}.tmp"));
        fs::write(&temp, text).unwrap();
        fs::rename(temp, self.dir.path().join(file)).unwrap();
    }

    pub(super) fn read(&self, file: &str) -> String {
        fs::read_to_string(self.dir.path().join(file)).unwrap()
    }

    pub(super) fn remove(&self, file: &str) {
        fs::remove_file(self.dir.path().join(file)).unwrap();
    }

    /// Replaces text in a manifest.
    pub(super) fn edit(&self, file: &str, from: &str, to: &str) {
        let text = self.read(file);
        assert!(text.contains(from), "{file} has no {from:?}:\n{text}");
        self.write(file, &text.replace(from, to));
    }

    pub(super) fn state_dir(&self) -> PathBuf {
        self.state.path().into()
    }

    pub(super) fn timing(&mut self) -> &mut Timing {
        &mut self.timing
    }

    /// A service with one endpoint and its export.
    pub(super) fn add_service(&self, name: &str, port: u16) {
        self.write(
            &format!("svc-{name}.yaml"),
            &format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{namespace: demo, name: {name}}}\nspec: {{ports: [{{name: http, port: {port}}}]}}\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{namespace: demo, name: {name}-1, labels: {{kubernetes.io/service-name: {name}}}}}\naddressType: IPv4\nendpoints: [{{addresses: [10.1.0.5]}}, {{addresses: [10.1.0.6]}}]\nports: [{{name: http, port: 8080}}]\n"
            ),
        );
        self.export(name);
    }

    pub(super) fn export(&self, name: &str) {
        self.write(
            &format!("export-{name}.yaml"),
            &format!("apiVersion: multicluster.x-k8s.io/v1beta1\nkind: ServiceExport\nmetadata: {{namespace: demo, name: {name}}}\n"),
        );
    }

    pub(super) fn prepare(&self) -> Result<Prepared, crate::ControllerError> {
        let config = ControllerConfig {
            state: self.state.path().into(),
            manifests: self.dir.path().into(),
            timing: self.timing.clone(),
        };
        Prepared::open_on(&config, self.disk.clone())
    }

    /// Starts its process.
    pub(super) fn start(&mut self) {
        self.stopped_at_step(usize::try_from(i64::MAX).unwrap());
        let prepared = self
            .prepare()
            .unwrap_or_else(|e| panic!("{} does not start: {e}", self.name));
        let (events, told) = mpsc::channel(64);
        let (requests, asked) = mpsc::channel(16);
        let (_status, status) = watch::channel(Arc::new(GatewayStatus::default()));
        let (cluster, instance) = (
            prepared.cluster().id.clone(),
            prepared.instance().instance.clone(),
        );
        let (store, invite_open) = (prepared.trust(), prepared.invite_open());
        let (snapshots, metrics) = (prepared.snapshot(), prepared.metrics());
        let link = GatewayLink {
            events: told,
            requests,
            status,
        };
        let running = prepared.start(link, &tokio::runtime::Handle::current()).unwrap();
        let handle = running.handle();
        let me = Reachable {
            cluster,
            instance,
            store,
            invite_open,
            events,
            handle: handle.clone(),
        };
        self.world.0.reachable.lock().insert(self.port, me.clone());
        let gateway = tokio::spawn(gateway(me, self.world.clone(), snapshots, asked));
        self.live = Some(Live {
            running,
            handle,
            metrics,
            gateway,
        });
    }

    fn stopped_at_step(&self, n: usize) {
        self.disk.arm(n);
    }

    /// Stops its process in order.
    pub(super) async fn stop(&mut self) {
        let domain = self.domain();
        if let Some(live) = self.live.take() {
            self.world.0.reachable.lock().remove(&self.port);
            live.gateway.abort();
            live.running.stop().await;
        }
        self.world.cut_links_of(&domain);
    }

    /// Waits until its engine has died of the disk, and clears up after it.
    pub(super) async fn bury(&mut self) {
        let domain = self.domain();
        let mut live = self.live.take().unwrap();
        tokio::time::timeout(PATIENCE, live.running.ended())
            .await
            .unwrap();
        self.world.0.reachable.lock().remove(&self.port);
        live.gateway.abort();
        self.world.cut_links_of(&domain);
    }

    pub(super) fn handle(&self) -> ControllerHandle {
        self.live.as_ref().unwrap().handle.clone()
    }

    pub(super) fn metrics(&self) -> Metrics {
        self.live.as_ref().unwrap().metrics.clone()
    }

    pub(super) fn domain(&self) -> TrustDomain {
        self.handle().bundle().trust_domain
    }

    pub(super) fn store(&self) -> Arc<TrustStore> {
        self.world.0.reachable.lock()[&self.port].store.clone()
    }

    /// Tells the engine something as its gateway would.
    pub(super) async fn tell(&self, event: GatewayEvent) {
        let events = self.world.0.reachable.lock()[&self.port].events.clone();
        events.send(event).await.unwrap();
    }

    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        self.handle().snapshot()
    }

    pub(super) fn import(&self, name: &str) -> Option<Arc<Import>> {
        self.snapshot()
            .imports
            .get(&ServiceKey::parse("demo", name).unwrap())
            .cloned()
    }

    /// (status, reason, message) of a condition of a Federation.
    pub(super) fn federation(&self, name: &str, kind: &str) -> Option<(ConditionStatus, Reason, String)> {
        let view = self.handle().view();
        let federation = view.federations.iter().find(|f| f.name == name)?;
        let condition = federation.conditions.iter().find(|c| c.kind == kind)?;
        Some((condition.status, condition.reason, condition.message.clone()))
    }

    pub(super) fn is(&self, federation: &str, kind: &str, reason: Reason) -> bool {
        self.federation(federation, kind)
            .is_some_and(|(_, found, _)| found == reason)
    }

    pub(super) fn trusts(&self, federation: &str) -> bool {
        self.is(federation, "Trusted", Reason::Trusted)
    }

    pub(super) fn view(&self) -> Arc<ControllerView> {
        self.handle().view()
    }
}

/// Waits until something holds.
pub(super) async fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Joins `joiner` to `inviter`, each naming the Federation after the other.
pub(super) async fn join(inviter: &Node, joiner: &Node) {
    let invited = inviter.handle().invite(joiner.name, None).await.unwrap();
    joiner
        .handle()
        .join(invited.token, Some(inviter.name))
        .await
        .unwrap();
    both_trust(inviter, joiner).await;
}

pub(super) async fn both_trust(a: &Node, b: &Node) {
    until("both sides trust each other", || {
        a.trusts(b.name) && b.trusts(a.name)
    })
    .await;
}
