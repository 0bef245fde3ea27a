//! The relay to upstream resolvers.
//!
//! Owns the order of upstreams, their timeouts and rests, and that an equal question is asked once however many wait for it (which
//! also ends a loop of forwarders: the question that comes back joins itself and runs out of time). Never reads the snapshot and
//! never caches. Called by the shells for questions outside our zones.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use hickory_proto::op::ResponseCode;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    sync::broadcast,
    time::{Instant, timeout, timeout_at},
};

use crate::{
    counters::Counters,
    message::{Forward, Reply, Transport},
};

/// One attempt at one upstream. Resolvers answer from cache in milliseconds and recurse in about a second.
const ATTEMPT: Duration = Duration::from_millis(1500);
/// All attempts: below the 5 s after which stub resolvers ask again.
const OVERALL: Duration = Duration::from_millis(4500);
/// An upstream that gave no answer is asked last for this long.
const REST: Duration = Duration::from_secs(10);
/// Questions under way, at most: each holds a socket.
const IN_FLIGHT_MAX: usize = 512;
/// Rounds over all upstreams: one lost datagram must not fail a lookup when there is one upstream.
const ROUNDS: usize = 2;

/// An equal question: the query's bytes, and over what it is asked.
type Key = (Vec<u8>, bool);
/// An upstream's answer, `None` if all failed.
type Outcome = Option<Arc<[u8]>>;

/// The relay. One for both shells.
pub(crate) struct Forwarder {
    upstreams: Vec<Upstream>,
    under_way: Mutex<HashMap<Key, broadcast::Sender<Outcome>>>,
    counters: Arc<Counters>,
    started: Instant,
}

struct Upstream {
    address: SocketAddr,
    /// Milliseconds after `started` until which it is asked last.
    rests_until: AtomicU64,
}

impl Forwarder {
    pub(crate) fn new(upstreams: &[SocketAddr], counters: Arc<Counters>) -> Self {
        let upstream = |&address| Upstream {
            address,
            rests_until: AtomicU64::new(0),
        };
        Self {
            upstreams: upstreams.iter().map(upstream).collect(),
            under_way: Mutex::default(),
            counters,
            started: Instant::now(),
        }
    }

    pub(crate) fn is_on(&self) -> bool {
        !self.upstreams.is_empty()
    }

    /// The reply to a question, within [`OVERALL`].
    pub(crate) async fn resolve(self: &Arc<Self>, forward: Forward) -> Reply {
        let Some(mut waiting) = self.join(&forward) else {
            Counters::add(&self.counters.overloaded);
            return forward.failure();
        };
        match timeout(OVERALL + ATTEMPT, waiting.recv()).await {
            Ok(Ok(Some(answer))) => forward.relay(&answer),
            _ => forward.failure(),
        }
    }

    /// Joins an equal question under way, or starts one; `None` when too many are under way. It runs in a task of its own, so that
    /// a client that hangs up does not take the answer from others.
    fn join(self: &Arc<Self>, forward: &Forward) -> Option<broadcast::Receiver<Outcome>> {
        let key = (forward.query.clone(), forward.transport == Transport::Tcp);
        let mut under_way = self.under_way.lock();
        if let Some(running) = under_way.get(&key) {
            Counters::add(&self.counters.joined);
            return Some(running.subscribe());
        }
        if under_way.len() >= IN_FLIGHT_MAX {
            return None;
        }
        let (sender, receiver) = broadcast::channel(1);
        under_way.insert(key.clone(), sender);
        drop(under_way);
        Counters::add(&self.counters.forwarded);
        let (this, forward) = (Arc::clone(self), forward.clone());
        tokio::spawn(async move {
            let running = UnderWay {
                of: &this,
                key: Some(key),
            };
            let outcome = timeout(OVERALL, this.ask_all(&forward)).await.ok().flatten();
            running.end(outcome);
        });
        Some(receiver)
    }

    async fn ask_all(&self, forward: &Forward) -> Outcome {
        let mut last = None;
        for _ in 0..ROUNDS {
            for upstream in self.order() {
                match self.ask(upstream.address, forward).await {
                    Ok(answer) if !gave_up(&answer) => {
                        upstream.rests_until.store(0, Relaxed);
                        return Some(answer.into());
                    }
                    // Kept: if nobody knows better, the client learns what the upstream said.
                    Ok(answer) => last = Some(answer.into()),
                    Err(error) => {
                        tracing::debug!(upstream = %upstream.address, %error, "upstream resolver gave no answer");
                        let until = self.started.elapsed() + REST;
                        upstream.rests_until.store(millis(until), Relaxed);
                    }
                }
                Counters::add(&self.counters.upstream_failed);
            }
            if last.is_some() {
                break;
            }
        }
        last
    }

    /// As configured, those that failed lately last.
    fn order(&self) -> Vec<&Upstream> {
        let now = millis(self.started.elapsed());
        let mut order: Vec<_> = self.upstreams.iter().collect();
        order.sort_by_key(|u| u.rests_until.load(Relaxed) > now);
        order
    }

    async fn ask(&self, upstream: SocketAddr, forward: &Forward) -> io::Result<Vec<u8>> {
        let deadline = Instant::now() + ATTEMPT;
        let ask = async {
            if forward.transport == Transport::Tcp {
                self.over_tcp(upstream, forward).await
            } else {
                self.over_udp(upstream, forward).await
            }
        };
        timeout_at(deadline, ask)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// A fresh connected socket a query: the system picks a random source port and lets in nothing but the upstream's packets.
    async fn over_udp(&self, upstream: SocketAddr, forward: &Forward) -> io::Result<Vec<u8>> {
        let any: IpAddr = match upstream {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0)).await?;
        socket.connect(upstream).await?;
        let id = rand::random();
        socket.send(&forward.with_id(id)).await?;
        let mut buffer = vec![0; usize::from(u16::MAX)];
        loop {
            let length = socket.recv(&mut buffer).await?;
            if forward.is_answer(id, &buffer[..length]) {
                buffer.truncate(length);
                return Ok(buffer);
            }
            // A forger's guess must not end the wait for the real answer.
            Counters::add(&self.counters.upstream_mismatch);
        }
    }

    async fn over_tcp(&self, upstream: SocketAddr, forward: &Forward) -> io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect(upstream).await?;
        let id = rand::random();
        let query = forward.with_id(id);
        // A query is a question and at most an OPT record: far below the 16 bits of the prefix.
        let length = u16::try_from(query.len()).map_err(io::Error::other)?;
        let mut framed = length.to_be_bytes().to_vec();
        framed.extend(query);
        stream.write_all(&framed).await?;
        let length = stream.read_u16().await?;
        let mut answer = vec![0; usize::from(length)];
        stream.read_exact(&mut answer).await?;
        if forward.is_answer(id, &answer) {
            Ok(answer)
        } else {
            Counters::add(&self.counters.upstream_mismatch);
            Err(io::Error::other("the answer is not to our question"))
        }
    }
}

/// SERVFAIL and REFUSED say that this upstream cannot help; another may.
fn gave_up(answer: &[u8]) -> bool {
    answer.get(3).is_some_and(|flags| {
        let code = ResponseCode::from_low(flags & 0x0f);
        matches!(code, ResponseCode::ServFail | ResponseCode::Refused)
    })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Takes the question off the table however its task ends.
struct UnderWay<'a> {
    of: &'a Forwarder,
    /// `None` once off: by then an equal question may be under way again.
    key: Option<Key>,
}

impl UnderWay<'_> {
    fn take(&mut self) -> Option<broadcast::Sender<Outcome>> {
        let key = self.key.take()?;
        self.of.under_way.lock().remove(&key)
    }

    /// Off the table first: whoever comes now asks afresh, everybody before has subscribed.
    fn end(mut self, outcome: Outcome) {
        if let Some(sender) = self.take() {
            // Nobody may be waiting any more.
            let _ = sender.send(outcome);
        }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.take();
    }
}
