//! The sockets of the shim.
//!
//! Owns the UDP and TCP listeners, their bounds and their end. Never decides an answer. Started by cli on the control runtime.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use strait_federation_api::snapshot::Snapshot;
use tokio::{
    net::{TcpListener, UdpSocket},
    sync::watch,
    task::JoinSet,
};

use crate::{
    counters::{Counters, DnsTotals},
    forward::Forwarder,
    health::HealthView,
    message::{self, Context, Transport, Verdict},
    tcp,
};

/// Pause after a receive error, so that a broken socket does not spin.
const ERROR_PAUSE: Duration = Duration::from_millis(50);
/// The longest query read over UDP, bytes: a name, an OPT with options and room to spare. Longer ones are cut and fail to parse.
const UDP_QUERY_MAX: usize = 4096;
/// Ports tried when any port will do, until one is free for both UDP and TCP.
const PORT_TRIES: usize = 16;

/// Clients waiting for a relayed answer over UDP, at most; more are left to ask again.
const RELAYS_MAX: usize = 2048;

/// Where to listen and whom to ask.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DnsConfig {
    /// Addresses to serve on, UDP and TCP alike; port 0 takes any. Concrete addresses: behind a wildcard on a machine with several,
    /// the system may answer UDP from another address than was asked.
    pub listen: Vec<SocketAddr>,
    /// Resolvers for all names outside our zones, in order of preference, at most [`UPSTREAMS_MAX`]; none: such names are refused.
    pub upstreams: Vec<SocketAddr>,
}

/// Upstreams, at most, as the manifest allows: with more, the last could not be reached within a client's patience.
pub const UPSTREAMS_MAX: usize = 8;

/// Why the shim did not start.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// A listen address cannot be bound.
    #[error(
        "cannot serve DNS on {address}: {source}; free the address, choose another, or grant CAP_NET_BIND_SERVICE for ports below 1024"
    )]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// An upstream is one of our own listeners.
    #[error("DNS upstream {0} is this server itself; name the resolver that was in use before")]
    UpstreamIsSelf(SocketAddr),
    /// Too many upstreams.
    #[error("{0} DNS upstreams are given, at most {UPSTREAMS_MAX} are used; keep the nearest")]
    TooManyUpstreams(usize),
}

impl DnsError {
    /// The reason an operator sees.
    #[must_use]
    pub fn reason(&self) -> strait_federation_api::Reason {
        use strait_federation_api::Reason;
        match self {
            Self::Bind { source, .. } if source.kind() == io::ErrorKind::AddrInUse => Reason::PortTaken,
            Self::Bind { .. } => Reason::PortNotBindable,
            Self::UpstreamIsSelf(_) | Self::TooManyUpstreams(_) => Reason::ConfigInvalid,
        }
    }
}

/// What both shells share.
pub(crate) struct Shared {
    pub(crate) snapshot: watch::Receiver<Arc<Snapshot>>,
    pub(crate) health: watch::Receiver<Arc<HealthView>>,
    pub(crate) forwarder: Arc<Forwarder>,
    pub(crate) counters: Arc<Counters>,
}

impl Shared {
    /// The verdict on one message over the snapshot of this moment; counts it.
    pub(crate) fn judge(&self, bytes: &[u8], transport: Transport) -> Verdict {
        let (snapshot, health) = (
            Arc::clone(&self.snapshot.borrow()),
            Arc::clone(&self.health.borrow()),
        );
        let context = Context {
            snapshot: &snapshot,
            health: &health,
            forwarding: self.forwarder.is_on(),
        };
        let verdict = message::handle(bytes, transport, context);
        Counters::add(match transport {
            Transport::Udp => &self.counters.udp,
            Transport::Tcp => &self.counters.tcp,
        });
        match &verdict {
            Verdict::Drop => Counters::add(&self.counters.dropped),
            Verdict::Reply(reply) => self.counters.reply(reply.code, reply.truncated),
            Verdict::Forward(_) => {}
        }
        verdict
    }

    /// Asks an upstream and counts the reply.
    pub(crate) async fn relay(&self, forward: message::Forward) -> Vec<u8> {
        let reply = self.forwarder.resolve(forward).await;
        self.counters.reply(reply.code, reply.truncated);
        reply.bytes
    }
}

/// A running shim. Dropping it ends it.
pub struct DnsServer {
    addresses: Vec<SocketAddr>,
    counters: Arc<Counters>,
    tasks: JoinSet<()>,
}

impl DnsServer {
    /// Binds every address, then serves until shut down or dropped. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`DnsError`] if an address cannot be bound or an upstream leads back here; nothing is left running then.
    pub async fn start(
        config: &DnsConfig,
        snapshot: watch::Receiver<Arc<Snapshot>>,
        health: watch::Receiver<Arc<HealthView>>,
    ) -> Result<Self, DnsError> {
        if config.upstreams.len() > UPSTREAMS_MAX {
            return Err(DnsError::TooManyUpstreams(config.upstreams.len()));
        }
        let (mut sockets, mut addresses) = (Vec::new(), Vec::new());
        for &address in &config.listen {
            let pair = bind(address)
                .await
                .map_err(|source| DnsError::Bind { address, source })?;
            addresses.push(
                pair.0
                    .local_addr()
                    .map_err(|source| DnsError::Bind { address, source })?,
            );
            sockets.push(pair);
        }
        if let Some(&own) = config.upstreams.iter().find(|u| leads_back(**u, &addresses)) {
            return Err(DnsError::UpstreamIsSelf(own));
        }
        let counters = Arc::new(Counters::default());
        let forwarder = Arc::new(Forwarder::new(&config.upstreams, Arc::clone(&counters)));
        let shared = Arc::new(Shared {
            snapshot,
            health,
            forwarder,
            counters: Arc::clone(&counters),
        });
        let mut tasks = JoinSet::new();
        for (udp, listener) in sockets {
            tasks.spawn(serve_udp(Arc::new(udp), Arc::clone(&shared)));
            tasks.spawn(tcp::serve(listener, Arc::clone(&shared)));
        }
        Ok(Self {
            addresses,
            counters,
            tasks,
        })
    }

    /// Where it listens, in the order of the configuration, with real ports.
    #[must_use]
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Totals since the start.
    #[must_use]
    pub fn totals(&self) -> DnsTotals {
        self.counters.totals()
    }

    /// A reader of the totals that may outlive this handle.
    pub fn totals_reader(&self) -> impl Fn() -> DnsTotals + Send + Sync + 'static {
        let counters = Arc::clone(&self.counters);
        move || counters.totals()
    }

    /// Closes the sockets and every connection.
    pub async fn shutdown(mut self) {
        self.tasks.shutdown().await;
    }
}

/// An upstream that is one of our listeners, also through a wildcard.
fn leads_back(upstream: SocketAddr, listeners: &[SocketAddr]) -> bool {
    listeners.iter().any(|listener| {
        listener.port() == upstream.port()
            && (listener.ip() == upstream.ip()
                || upstream.ip().is_unspecified()
                || listener.ip().is_unspecified() && is_local(upstream.ip()))
    })
}

/// An address of this machine: only such can be bound.
fn is_local(ip: IpAddr) -> bool {
    std::net::UdpSocket::bind((ip, 0)).is_ok()
}

async fn bind(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let mut tries = if address.port() == 0 { PORT_TRIES } else { 1 };
    loop {
        tries -= 1;
        let udp = UdpSocket::bind(address).await?;
        match TcpListener::bind(udp.local_addr()?).await {
            Ok(tcp) => return Ok((udp, tcp)),
            Err(error) if tries == 0 => return Err(error),
            Err(_) => {}
        }
    }
}

async fn serve_udp(socket: Arc<UdpSocket>, shared: Arc<Shared>) {
    // Relays end with the server; the forwarder bounds how many there are.
    let mut relays = JoinSet::new();
    let mut buffer = vec![0; UDP_QUERY_MAX];
    loop {
        while relays.try_join_next().is_some() {}
        let (length, client) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                tracing::debug!(%error, "DNS receive failed");
                tokio::time::sleep(ERROR_PAUSE).await;
                continue;
            }
        };
        // Nothing can be sent to port 0; such a datagram was forged.
        if client.port() == 0 {
            continue;
        }
        match shared.judge(&buffer[..length], Transport::Udp) {
            Verdict::Drop => {}
            Verdict::Reply(reply) => send(&socket, &reply.bytes, client).await,
            Verdict::Forward(_) if relays.len() >= RELAYS_MAX => Counters::add(&shared.counters.overloaded),
            Verdict::Forward(forward) => {
                let (socket, shared) = (Arc::clone(&socket), Arc::clone(&shared));
                relays.spawn(async move {
                    let bytes = shared.relay(forward).await;
                    send(&socket, &bytes, client).await;
                });
            }
        }
    }
}

async fn send(socket: &UdpSocket, bytes: &[u8], client: SocketAddr) {
    if let Err(error) = socket.send_to(bytes, client).await {
        tracing::debug!(%client, %error, "DNS reply not sent");
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
