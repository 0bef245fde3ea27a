//! Datagrams: one mapping per client, as a NAT keeps it, and a queue per direction.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{
    net::UdpSocket,
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::{Direction, Path};

/// Datagrams under way in one direction of one mapping, at most: a router's queue, tail drop.
const QUEUE: usize = 4096;
/// Clients of one link, at most.
const MAPPINGS: usize = 1024;
/// The largest datagram.
const DATAGRAM: usize = 65_535;

type Datagram = Vec<u8>;

pub(super) async fn run(socket: UdpSocket, path: Path) {
    let socket = Arc::new(socket);
    let mut mappings: HashMap<SocketAddr, mpsc::Sender<Datagram>> = HashMap::new();
    let mut tasks = JoinSet::new();
    let mut buffer = vec![0; DATAGRAM];
    loop {
        // An error here is an ICMP message about a client that is gone.
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        if mappings.len() >= MAPPINGS && !mappings.contains_key(&client) {
            path.counters.lost.fetch_add(1, Relaxed);
            continue;
        }
        let number = mappings.len() as u64;
        let mapping = mappings.entry(client).or_insert_with(|| {
            let (sender, queue) = mpsc::channel(QUEUE);
            tasks.spawn(map(Arc::clone(&socket), client, number, queue, path.clone()));
            sender
        });
        if mapping.try_send(buffer[..length].to_vec()).is_err() {
            path.counters.lost.fetch_add(1, Relaxed);
        }
    }
}

/// One client: its datagrams leave from a socket of its own, answers come back through it.
async fn map(
    socket: Arc<UdpSocket>,
    client: SocketAddr,
    number: u64,
    mut queue: mpsc::Receiver<Datagram>,
    mut path: Path,
) {
    let mut out = Lane::new(Direction::ToTarget, path.clone(), number);
    let mut back = Lane::new(Direction::FromTarget, path.clone(), number);
    let mut upstream = connect(path.target).await;
    let mut buffer = vec![0; DATAGRAM];
    loop {
        tokio::select! {
            changed = path.rebinds.changed() => match changed {
                Ok(()) => upstream = connect(path.target).await,
                Err(_) => return,
            },
            datagram = queue.recv() => match datagram {
                Some(datagram) => out.take(datagram),
                None => return,
            },
            received = receive(upstream.as_ref(), &mut buffer) => {
                if let Some(length) = received {
                    back.take(buffer[..length].to_vec());
                }
            }
            datagram = out.next() => if let Some(upstream) = &upstream {
                // A target that is down answers with ICMP, which surfaces here; the datagram is lost as on a wire.
                let _ = upstream.send(&datagram).await;
            },
            datagram = back.next() => {
                let _ = socket.send_to(&datagram, client).await;
            }
        }
    }
}

async fn connect(target: SocketAddr) -> Option<UdpSocket> {
    let local = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(local).await.ok()?;
    socket.connect(target).await.ok()?;
    Some(socket)
}

async fn receive(socket: Option<&UdpSocket>, buffer: &mut [u8]) -> Option<usize> {
    match socket {
        Some(socket) => socket.recv(buffer).await.ok(),
        None => std::future::pending().await,
    }
}

/// One direction of one mapping: decides loss, keeps what is under way in order of arrival time.
struct Lane {
    direction: Direction,
    path: Path,
    rng: StdRng,
    under_way: BTreeMap<(Instant, u64), Datagram>,
    sequence: u64,
    free_at: Instant,
}

impl Lane {
    fn new(direction: Direction, path: Path, number: u64) -> Self {
        let salt = if direction == Direction::ToTarget {
            0
        } else {
            1 << 63
        };
        let rng = StdRng::seed_from_u64(path.seed ^ salt ^ number.rotate_left(32));
        Self {
            direction,
            path,
            rng,
            under_way: BTreeMap::new(),
            sequence: 0,
            free_at: Instant::now(),
        }
    }

    fn take(&mut self, datagram: Datagram) {
        let conditions = self.path.now();
        // Drawn for every datagram, so that one seed decides alike whatever else is set.
        let (luck, late) = (self.rng.random::<f64>(), self.rng.random::<f64>());
        let vanishes = conditions.udp_blocked
            || conditions.is_cut(self.direction)
            || luck < conditions.loss
            || self.under_way.len() >= QUEUE;
        if vanishes {
            self.path.counters.lost.fetch_add(1, Relaxed);
            return;
        }
        self.free_at = self.free_at.max(Instant::now()) + conditions.busy(datagram.len());
        let due = self.free_at + conditions.delay + conditions.jitter.mul_f64(late);
        self.sequence += 1;
        self.under_way.insert((due, self.sequence), datagram);
    }

    /// The next datagram when it arrives. Cancelling loses nothing.
    async fn next(&mut self) -> Datagram {
        loop {
            let Some((&(due, _), _)) = self.under_way.first_key_value() else {
                std::future::pending::<()>().await;
                continue;
            };
            sleep_until(due).await;
            let Some((_, datagram)) = self.under_way.pop_first() else {
                continue;
            };
            // A cut takes what is on the wire too.
            let conditions = self.path.now();
            if conditions.is_cut(self.direction) || conditions.udp_blocked {
                self.path.counters.lost.fetch_add(1, Relaxed);
                continue;
            }
            self.path.counters.datagrams.fetch_add(1, Relaxed);
            self.path.delivered(datagram.len());
            return datagram;
        }
    }
}
