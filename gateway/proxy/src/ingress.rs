//! What brings connections in: VIP listeners and the SOCKS5 listener.
//!
//! Owns the accept loops and the way from an accepted socket to a running flow. A client that cannot be served is reset (VIP) or told
//! why (SOCKS5). Never an open proxy: only addresses and names of imports lead anywhere.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use strait_federation_api::{Reason, names};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::{
    accept::failed,
    connect::{Established, Failed, establish},
    copy::{self, Joint, Pending},
    flow::{Direction, Flow, FlowInfo, ResetOnDrop},
    route::{Target, View},
    socks::{self, Host, Parsed, SocksError},
    tries::Exit,
    worker::{Permit, Worker},
};

/// Time for a client's SOCKS messages: they come from this machine or its network in one round trip each.
const SOCKS_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after a failed accept. Out of file descriptors, the next try would fail at once too.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a listener serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// One port of a virtual address. The listener's own address may differ where only one loopback address exists.
    Vip(IpAddr, u16),
    /// SOCKS5.
    Socks,
}

/// Accepts for ever. Runs on the worker's runtime.
///
/// # Errors
/// When the listener cannot be registered with the runtime.
pub async fn accept_loop(
    worker: Arc<Worker>,
    listener: std::net::TcpListener,
    entry: Entry,
) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        match listener.accept().await {
            Ok((tcp, remote)) => {
                tokio::spawn(serve(Arc::clone(&worker), tcp, remote, entry));
            }
            Err(error) => {
                tracing::warn!(?entry, %error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(worker: Arc<Worker>, tcp: TcpStream, remote: SocketAddr, entry: Entry) {
    let outbound = Outbound {
        worker: &worker,
        tcp: ResetOnDrop::new(tcp),
        permit: None,
        started: Instant::now(),
        info: FlowInfo {
            direction: Direction::Outbound,
            service: None,
            port: 0,
            peer: None,
            remote,
        },
    };
    // On the heap, so that what stays for the life of a flow is small.
    match entry {
        Entry::Vip(ip, port) => Box::pin(outbound.vip(ip, port)).await,
        Entry::Socks => Box::pin(outbound.socks()).await,
    }
}

struct Outbound<'a> {
    worker: &'a Arc<Worker>,
    tcp: ResetOnDrop,
    permit: Option<Permit>,
    started: Instant,
    info: FlowInfo,
}

impl Outbound<'_> {
    async fn vip(mut self, ip: IpAddr, port: u16) {
        self.info.port = port;
        let view = self.worker.shared.view.load_full();
        let result = match view.at(ip, port) {
            Some(target) => self.establish(target).await,
            None => Err(unknown(format!("nothing is imported at {ip} port {port}"))),
        };
        match result {
            Ok(established) => self.copy(established),
            Err(failed) => self.fail(failed),
        }
    }

    async fn socks(mut self) {
        let connect = match tokio::time::timeout(SOCKS_TIMEOUT, self.handshake()).await {
            Ok(Ok(connect)) => connect,
            Ok(Err(failed)) => return self.fail(failed),
            Err(_) => {
                return self.fail(Failed {
                    reason: Reason::DeadlineExceeded,
                    detail: "no SOCKS request in time".into(),
                    peer: None,
                });
            }
        };
        let view = self.worker.shared.view.load_full();
        let result = match resolve(&view, &connect) {
            Ok(target) => self.establish(&target).await,
            Err(failed) => Err(failed),
        };
        match result {
            Ok(established) => {
                if self.say(&socks::reply(socks::SUCCEEDED)).await.is_ok() {
                    self.copy(established);
                } else {
                    self.fail(client_gone());
                }
            }
            Err(failed) => self.refuse(failed).await,
        }
    }

    async fn establish(&mut self, target: &Target) -> Result<Established, Failed> {
        self.info.service = Some(target.service.clone());
        self.info.port = target.port;
        self.permit = self.worker.shared.admit();
        if self.permit.is_none() {
            return Err(Failed {
                reason: Reason::Overloaded,
                detail: "this gateway has no place for another stream".into(),
                peer: None,
            });
        }
        let Some(tcp) = self.tcp.get() else {
            return Err(client_gone());
        };
        tcp.set_nodelay(true).map_err(|_| client_gone())?;
        establish(self.worker, target, tcp, self.info.remote).await
    }

    fn copy(mut self, established: Established) {
        let shared = &self.worker.shared;
        let (Some(permit), Some(tcp)) = (self.permit.take(), self.tcp.take()) else {
            return self.fail(client_gone());
        };
        let recorder = Arc::clone(&shared.recorder);
        match established.exit {
            Exit::Tunnel {
                send,
                recv,
                early,
                peer,
            } => {
                self.info.peer = Some(peer);
                let flow = Flow::new(
                    tcp,
                    None,
                    self.info,
                    self.started,
                    recorder,
                    Some(Box::new(permit)),
                );
                self.worker.flows.add(&flow);
                let joint = Joint {
                    send,
                    recv,
                    kept: established.kept,
                    early,
                };
                copy::spawn_tunnel(&flow, joint);
            }
            Exit::Local(mut connected) => {
                let held: Box<dyn Send + Sync> = Box::new((permit, connected.in_flight));
                let local = connected.tcp.take();
                let flow = Flow::new(tcp, local, self.info, self.started, recorder, Some(held));
                self.worker.flows.add(&flow);
                let mut kept = Pending::default();
                kept.push(established.kept);
                copy::spawn_local(&flow, kept);
            }
        }
    }

    /// The client is reset when `self` is dropped.
    fn fail(mut self, why: Failed) {
        self.info.peer = why.peer;
        let ended = failed(self.info, why.reason, why.detail, self.started);
        self.worker.shared.recorder.ended(&ended, false);
    }

    /// Tells a SOCKS client why, and closes cleanly so that it can read it.
    async fn refuse(mut self, why: Failed) {
        let reply = socks::reply(socks::reply_code(why.reason));
        if self.say(&reply).await.is_ok() {
            self.tcp.end();
        }
        self.fail(why);
    }

    async fn handshake(&mut self) -> Result<socks::Connect, Failed> {
        match self.read(socks::greeting).await? {
            Ok(()) => self.say(&socks::ACCEPT).await?,
            Err(error) => {
                if error == SocksError::NoMethod {
                    self.say(&socks::REFUSE).await?;
                }
                return Err(refused(error));
            }
        }
        match self.read(socks::request).await? {
            Ok(connect) => Ok(connect),
            Err(error) => {
                self.say(&socks::reply(error.reply())).await?;
                self.tcp.end();
                Err(refused(error))
            }
        }
    }

    /// Reads exactly one message: what follows it is payload and stays in the socket.
    async fn read<T>(
        &mut self,
        parse: impl Fn(&[u8]) -> Result<Parsed<T>, SocksError>,
    ) -> Result<Result<T, SocksError>, Failed> {
        let mut got = Vec::new();
        loop {
            match parse(&got) {
                Ok(Parsed::Done(value, _)) => return Ok(Ok(value)),
                Err(error) => return Ok(Err(error)),
                Ok(Parsed::More(more)) => {
                    let from = got.len();
                    got.resize(from + more, 0);
                    let tcp = self.tcp.get_mut().ok_or_else(client_gone)?;
                    tcp.read_exact(&mut got[from..])
                        .await
                        .map_err(|_| client_gone())?;
                }
            }
        }
    }

    async fn say(&mut self, bytes: &[u8]) -> Result<(), Failed> {
        let tcp = self.tcp.get_mut().ok_or_else(client_gone)?;
        tcp.write_all(bytes).await.map_err(|_| client_gone())
    }
}

/// What a SOCKS client may reach: our names and our virtual addresses.
fn resolve(view: &View, connect: &socks::Connect) -> Result<Target, Failed> {
    let target = match &connect.host {
        Host::Ip(ip) => view.at(*ip, connect.port).map(|t| Target::clone(t)),
        Host::Name(text) => match (names::parse(text), text.parse()) {
            (Ok(name), _) => view.named(&name, connect.port),
            // Some clients send literals as names.
            (Err(_), Ok(ip)) => view.at(ip, connect.port).map(|t| Target::clone(t)),
            (Err(_), Err(_)) => None,
        },
    };
    target.ok_or_else(|| unknown(format!("{:?} port {}", connect.host, connect.port)))
}

fn unknown(detail: String) -> Failed {
    Failed {
        reason: Reason::UnknownName,
        detail,
        peer: None,
    }
}

fn refused(error: SocksError) -> Failed {
    Failed {
        reason: error.reason(),
        detail: error.to_string(),
        peer: None,
    }
}

fn client_gone() -> Failed {
    Failed {
        reason: Reason::PeerReset,
        detail: "the client is gone".into(),
        peer: None,
    }
}
