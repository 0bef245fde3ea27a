//! An endpoint that ends is built again, and connections come back by themselves.

use std::thread::JoinHandle;

use strait_federation_api::{InstanceId, control::GatewayEvent, snapshot::GatewayAddress};
use strait_trust_bridge::testing::{TestCluster, trusting_pair};
use tokio::sync::watch;

use super::*;
use crate::{Links, RecvHalf, SendHalf, Tunnel, TunnelConfig, TunnelHub};

struct Ignore;

impl StreamAcceptor for Ignore {
    fn accept(&self, _: Arc<Tunnel>, _: SendHalf, _: RecvHalf) {}
}

/// A port of a worker, and the runtime that drives it.
type Fault = Box<dyn FnOnce() + Send>;

struct Gateway {
    hub: TunnelHub,
    snapshot: watch::Sender<Arc<Snapshot>>,
    /// Kept so that sends do not fail.
    _events: mpsc::Receiver<GatewayEvent>,
    /// Ends the endpoint that accepts, and the one that dials, as an I/O error would.
    faults: [Option<Fault>; 2],
    thread: Option<JoinHandle<()>>,
}

fn fault(port: Port) -> Fault {
    Box::new(move || {
        port.endpoint.close(varint(Reason::Internal), b"");
        port.ended.break_();
    })
}

impl Gateway {
    fn start(cluster: &TestCluster) -> Self {
        let id = cluster.domain().cluster_id().unwrap();
        let (snapshot, snapshots) = watch::channel(Arc::new(Snapshot::empty(id)));
        let (events, held) = mpsc::channel(1024);
        let links = Links {
            trust: Arc::clone(&cluster.store),
            trust_changes: watch::channel(0).1,
            snapshots,
            events,
            invite_open: Arc::default(),
        };
        let config = TunnelConfig {
            listen: ([127, 0, 0, 1], 0).into(),
            workers: 1,
            instance: InstanceId::parse("gw-0").unwrap(),
            cid_key: [1; 32],
            reset_key: [2; 32],
            allow_loopback: true,
            coalesce: true,
        };
        let (hub, mut workers) = TunnelHub::bind(config, links).unwrap();
        let worker = workers.remove(0);
        let (give, faults) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let (running, dials) = worker.start(Arc::new(Ignore)).unwrap();
                let ports = [running.server.clone(), Some(running.client.clone())];
                give.send(ports.map(|port| port.map(fault))).unwrap();
                running.run(dials).await.unwrap();
            });
        });
        Self {
            hub,
            snapshot,
            _events: held,
            faults: faults.recv().unwrap(),
            thread: Some(thread),
        }
    }

    fn peer(&self, cluster: &TestCluster, addresses: Vec<GatewayAddress>) {
        let peer = Peer {
            cluster: cluster.domain().cluster_id().unwrap(),
            trust_domain: cluster.domain().clone(),
            mode: PeerMode::Active,
            addresses,
            instances: BTreeSet::new(),
            importing: true,
        };
        self.snapshot.send_modify(|held| {
            let mut snapshot = Snapshot::clone(held);
            snapshot.peers.insert(peer.cluster.clone(), Arc::new(peer));
            *held = Arc::new(snapshot);
        });
    }

    fn usable(&self, of: &TestCluster) -> Vec<u64> {
        let tunnels = self.hub.tunnels().to_peer(&of.domain().cluster_id().unwrap());
        let usable = tunnels.iter().filter(|tunnel| tunnel.is_usable());
        usable.map(|tunnel| tunnel.id()).collect()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.hub.close();
        let ended = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            ended.unwrap().unwrap();
        }
    }
}

async fn until(what: &str, look: impl Fn() -> bool) {
    let start = Instant::now();
    while !look() {
        assert!(
            start.elapsed() < Duration::from_secs(30),
            "still waiting for {what}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn survives(accepting: bool) {
    let (east_cluster, west_cluster) = trusting_pair(UnixTime::now());
    let (mut east, mut west) = (Gateway::start(&east_cluster), Gateway::start(&west_cluster));
    let address = GatewayAddress {
        host: "127.0.0.1".into(),
        port: west.hub.listen().port(),
    };
    west.peer(&east_cluster, vec![]);
    east.peer(&west_cluster, vec![address]);
    until("the first tunnel", || !east.usable(&west_cluster).is_empty()).await;
    let first = east.usable(&west_cluster);
    let (hub, fault) = if accepting {
        (west.hub.clone(), west.faults[0].take())
    } else {
        (east.hub.clone(), east.faults[1].take())
    };
    fault.unwrap()();
    until("another tunnel", || {
        let now = east.usable(&west_cluster);
        !now.is_empty() && now != first && !west.usable(&east_cluster).is_empty()
    })
    .await;
    assert_eq!(hub.counters().endpoint_restarts.get(), 1);
}

#[tokio::test]
async fn an_accepting_endpoint_that_ends_is_built_again() {
    survives(true).await;
}

#[tokio::test]
async fn a_dialling_endpoint_that_ends_is_built_again() {
    survives(false).await;
}
