//! A network path between two processes, as bad as a test wants it.
//!
//! Owns one port (UDP and TCP) that leads to a target through delay, loss, rate, cuts and rebinding, all changeable while traffic
//! flows. What is lost or delayed is decided by a seed, so a run can be repeated. Never needs root. Put it wherever a process is
//! given a peer's address.

mod tcp;
mod udp;

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    net::{TcpListener, UdpSocket},
    sync::watch,
    task::JoinSet,
};

/// How the path is, for each direction alike unless said otherwise.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Conditions {
    /// One-way delay.
    pub delay: Duration,
    /// Random extra delay of a datagram, up to this: datagrams may overtake each other. TCP keeps its order.
    pub jitter: Duration,
    /// Share of datagrams lost, 0.0..=1.0. TCP loses nothing: the system would repeat it.
    pub loss: f64,
    /// Bytes per second; `None` is as fast as the machine.
    pub rate: Option<u64>,
    /// What vanishes without a trace.
    pub cut: Cut,
    /// UDP vanishes, TCP passes: the firewall that QUIC meets.
    pub udp_blocked: bool,
}

/// Which direction is a black hole. Nobody is told: no reset, no ICMP.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Cut {
    /// Neither.
    #[default]
    None,
    /// Both: a partition.
    Both,
    /// From the dialling side to the target.
    ToTarget,
    /// From the target to the dialling side.
    FromTarget,
}

/// One of the two directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From whoever uses the link's address.
    ToTarget,
    /// Back.
    FromTarget,
}

impl Conditions {
    /// A clean path with this one-way delay.
    #[must_use]
    pub fn delayed(delay: Duration) -> Self {
        Self {
            delay,
            ..Self::default()
        }
    }

    fn is_cut(&self, direction: Direction) -> bool {
        match self.cut {
            Cut::None => false,
            Cut::Both => true,
            Cut::ToTarget => direction == Direction::ToTarget,
            Cut::FromTarget => direction == Direction::FromTarget,
        }
    }

    /// Time the path is busy with `bytes`.
    fn busy(&self, bytes: usize) -> Duration {
        self.rate.map_or(Duration::ZERO, |rate| {
            Duration::from_nanos((bytes as u64).saturating_mul(1_000_000_000) / rate.max(1))
        })
    }
}

/// What passed so far.
#[derive(Debug, Default)]
struct Counters {
    datagrams: AtomicU64,
    lost: AtomicU64,
    bytes: AtomicU64,
    tcp_connections: AtomicU64,
}

/// Totals of a link since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LinkTotals {
    /// Datagrams delivered, both directions.
    pub datagrams: u64,
    /// Datagrams that vanished: loss, cuts, a full queue.
    pub lost: u64,
    /// Payload bytes delivered, UDP and TCP, both directions.
    pub bytes: u64,
    /// TCP connections taken.
    pub tcp_connections: u64,
}

/// A running link. Dropping it ends it; its connections are reset.
#[derive(Debug)]
pub struct Link {
    address: SocketAddr,
    conditions: Arc<watch::Sender<Conditions>>,
    rebinds: watch::Sender<u64>,
    severs: watch::Sender<u64>,
    counters: Arc<Counters>,
    _tasks: JoinSet<()>,
}

/// What every task of a link shares.
#[derive(Clone)]
pub(crate) struct Path {
    target: SocketAddr,
    conditions: watch::Receiver<Conditions>,
    rebinds: watch::Receiver<u64>,
    severs: watch::Receiver<u64>,
    counters: Arc<Counters>,
    seed: u64,
}

impl Path {
    fn now(&self) -> Conditions {
        *self.conditions.borrow()
    }

    fn delivered(&self, bytes: usize) {
        self.counters.bytes.fetch_add(bytes as u64, Relaxed);
    }
}

impl Link {
    /// A link from a fresh loopback port to `target`. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// If no port is free for both UDP and TCP.
    pub async fn start(target: SocketAddr, conditions: Conditions, seed: u64) -> io::Result<Self> {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), target, conditions, seed).await
    }

    /// The same on an address of choice; port 0 takes any.
    ///
    /// # Errors
    /// If the address cannot be bound.
    pub async fn start_at(
        listen: SocketAddr,
        target: SocketAddr,
        conditions: Conditions,
        seed: u64,
    ) -> io::Result<Self> {
        let (udp, tcp) = bind_both(listen).await?;
        let address = udp.local_addr()?;
        let conditions = Arc::new(watch::Sender::new(conditions));
        let (rebinds, severs) = (watch::Sender::new(0), watch::Sender::new(0));
        let counters = Arc::new(Counters::default());
        let path = Path {
            target,
            conditions: conditions.subscribe(),
            rebinds: rebinds.subscribe(),
            severs: severs.subscribe(),
            counters: Arc::clone(&counters),
            seed,
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(udp::run(udp, path.clone()));
        tasks.spawn(tcp::run(tcp, path));
        Ok(Self {
            address,
            conditions,
            rebinds,
            severs,
            counters,
            _tasks: tasks,
        })
    }

    /// Where the dialling side is sent.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The conditions of this moment.
    #[must_use]
    pub fn conditions(&self) -> Conditions {
        *self.conditions.borrow()
    }

    /// Changes the path from now on. What is already under way keeps its delay.
    pub fn set(&self, conditions: Conditions) {
        self.conditions.send_replace(conditions);
    }

    /// Changes some of the path.
    pub fn change(&self, edit: impl FnOnce(&mut Conditions)) {
        self.conditions.send_modify(edit);
    }

    /// Everything vanishes, both ways.
    pub fn cut(&self) {
        self.change(|c| c.cut = Cut::Both);
    }

    /// Nothing vanishes any more.
    pub fn mend(&self) {
        self.change(|c| c.cut = Cut::None);
    }

    /// What a NAT does that forgets: the target sees every UDP client from a new source port, the old ports are gone.
    pub fn rebind(&self) {
        self.rebinds.send_modify(|n| *n += 1);
    }

    /// Resets every TCP connection through the link.
    pub fn sever(&self) {
        self.severs.send_modify(|n| *n += 1);
    }

    /// What passed so far.
    #[must_use]
    pub fn totals(&self) -> LinkTotals {
        let counters = &self.counters;
        LinkTotals {
            datagrams: counters.datagrams.load(Relaxed),
            lost: counters.lost.load(Relaxed),
            bytes: counters.bytes.load(Relaxed),
            tcp_connections: counters.tcp_connections.load(Relaxed),
        }
    }
}

/// Ports tried until one is free for both.
const PORT_TRIES: usize = 32;

async fn bind_both(listen: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let mut tries = if listen.port() == 0 { PORT_TRIES } else { 1 };
    loop {
        tries -= 1;
        let udp = UdpSocket::bind(listen).await?;
        match TcpListener::bind(udp.local_addr()?).await {
            Ok(tcp) => return Ok((udp, tcp)),
            Err(error) if tries == 0 => return Err(error),
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests;
