//! The load generator and the server behind the gateways, as roles of this program inside a namespace.
//!
//! Owns what is sent and how it is timed. Never knows which gateway is between. Prints one JSON line.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::apps::App;

/// First byte of a connection: what it wants of the server.
const BULK: u8 = b'B';
/// One byte back, then silence.
const IDLE: u8 = b'I';
/// The request; its first byte tells it from the others.
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: server.bench.internal\r\n\r\n";
/// The answer: a small JSON document's worth.
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 32\r\n\r\n{\"cluster\":\"far\",\"greeting\":\"hi\"}";
/// Bytes a bulk connection writes or reads at once.
const CHUNK: usize = 256 * 1024;
/// Before this nothing counts: slow start, caches, code pages.
const WARM_UP: Duration = Duration::from_millis(700);
/// Connections that open new ones side by side: enough to keep both gateways busy.
const OPENERS: usize = 16;
/// A load whose target is mute fails instead of hanging.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is done to the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Read as fast as it comes over each connection.
    Bulk,
    /// One request after the other over each connection.
    Requests,
    /// A new connection for every request.
    Connections,
    /// Open connections, exchange one byte, hold them until standard input ends.
    Idle,
    /// One request, until it is answered.
    Probe,
}

/// What came of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Result {
    /// Bytes, requests or connections per second; held connections for `Idle`.
    pub figure: f64,
    /// What did not work.
    pub failures: u64,
    /// Median time of one request or connection, microseconds.
    pub p50_micros: u64,
    /// 99th percentile.
    pub p99_micros: u64,
}

/// Serves until killed.
///
/// # Errors
/// If the address cannot be bound.
pub async fn serve(listen: SocketAddr) -> io::Result<()> {
    let app = App::start(listen, (), |stream, _| serve_one(stream)).await?;
    println!("serving on {}", app.address());
    std::future::pending().await
}

async fn serve_one(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 4096];
    let mut length = stream.read(&mut buffer).await?;
    match buffer[..length].first() {
        Some(&BULK) => {
            let chunk = vec![0x5a; CHUNK];
            loop {
                stream.write_all(&chunk).await?;
            }
        }
        Some(&IDLE) => {
            stream.write_all(&[IDLE]).await?;
            drop(buffer);
            stream.read(&mut [0; 1]).await.map(|_| ())
        }
        _ => {
            while length > 0 {
                if buffer[..length].ends_with(b"\r\n\r\n") {
                    stream.write_all(ANSWER).await?;
                    length = 0;
                }
                match stream.read(&mut buffer[length..]).await? {
                    0 => break,
                    more => length += more,
                }
            }
            Ok(())
        }
    }
}

/// Puts load on `target` for `length`.
///
/// # Errors
/// If not even the first connection works.
pub async fn run(kind: Kind, target: SocketAddr, connections: usize, length: Duration) -> io::Result<Result> {
    match kind {
        Kind::Bulk => bulk(target, connections, length).await,
        Kind::Requests => paced(target, connections, length, requests).await,
        Kind::Connections => paced(target, OPENERS, length, opener).await,
        Kind::Idle => idle(target, connections).await,
        Kind::Probe => probe(target).await,
    }
}

async fn bulk(target: SocketAddr, connections: usize, length: Duration) -> io::Result<Result> {
    let (total, mut readers) = (Arc::new(AtomicU64::new(0)), JoinSet::new());
    for _ in 0..connections {
        let mut stream = TcpStream::connect(target).await?;
        stream.write_all(&[BULK]).await?;
        let total = Arc::clone(&total);
        readers.spawn(async move {
            let mut buffer = vec![0; CHUNK];
            while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                total.fetch_add(read as u64, Relaxed);
            }
        });
    }
    sleep(WARM_UP).await;
    let (before, started) = (total.load(Relaxed), Instant::now());
    sleep(length).await;
    let bytes = total.load(Relaxed) - before;
    let seconds = started.elapsed().as_secs_f64();
    let mut failures = 0;
    while let Some(ended) = readers.try_join_next() {
        failures += 1;
        drop(ended);
    }
    Ok(Result {
        figure: bytes as f64 / seconds,
        failures,
        ..Result::default()
    })
}

/// What the workers of a paced load share.
struct Pace {
    target: SocketAddr,
    counting: AtomicBool,
    stop: AtomicBool,
    failures: AtomicU64,
}

async fn paced<F, R>(target: SocketAddr, workers: usize, length: Duration, work: F) -> io::Result<Result>
where
    F: Fn(Arc<Pace>) -> R,
    R: Future<Output = Vec<u32>> + Send + 'static,
{
    let pace = Arc::new(Pace {
        target,
        counting: AtomicBool::new(false),
        stop: AtomicBool::new(false),
        failures: AtomicU64::new(0),
    });
    let mut running = JoinSet::new();
    for _ in 0..workers {
        running.spawn(work(Arc::clone(&pace)));
    }
    sleep(WARM_UP).await;
    pace.counting.store(true, Relaxed);
    let started = Instant::now();
    sleep(length).await;
    pace.counting.store(false, Relaxed);
    let seconds = started.elapsed().as_secs_f64();
    pace.stop.store(true, Relaxed);
    let mut times = Vec::new();
    while let Some(Ok(part)) = running.join_next().await {
        times.extend(part);
    }
    times.sort_unstable();
    let at = |share: usize| times.get(times.len() * share / 100).copied().map_or(0, u64::from);
    Ok(Result {
        figure: times.len() as f64 / seconds,
        failures: pace.failures.load(Relaxed),
        p50_micros: at(50),
        p99_micros: at(99),
    })
}

/// Request after request over one connection; a new one after a failure.
async fn requests(pace: Arc<Pace>) -> Vec<u32> {
    let (mut times, mut stream) = (Vec::new(), None);
    while !pace.stop.load(Relaxed) {
        let began = Instant::now();
        match timeout(PATIENCE, exchange(&mut stream, pace.target)).await {
            Ok(Ok(())) => note(&pace, &mut times, began),
            _ => {
                stream = None;
                fail(&pace).await;
            }
        }
    }
    times
}

async fn opener(pace: Arc<Pace>) -> Vec<u32> {
    let mut times = Vec::new();
    while !pace.stop.load(Relaxed) {
        let began = Instant::now();
        match timeout(PATIENCE, exchange(&mut None, pace.target)).await {
            Ok(Ok(())) => note(&pace, &mut times, began),
            _ => fail(&pace).await,
        }
    }
    times
}

fn note(pace: &Pace, times: &mut Vec<u32>, began: Instant) {
    if pace.counting.load(Relaxed) {
        times.push(u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX));
    }
}

async fn fail(pace: &Pace) {
    pace.failures.fetch_add(1, Relaxed);
    // A refused connection comes back in microseconds; counting millions of them helps nobody.
    sleep(Duration::from_millis(10)).await;
}

async fn exchange(stream: &mut Option<TcpStream>, target: SocketAddr) -> io::Result<()> {
    if stream.is_none() {
        let fresh = TcpStream::connect(target).await?;
        fresh.set_nodelay(true)?;
        *stream = Some(fresh);
    }
    let Some(stream) = stream.as_mut() else {
        return Ok(());
    };
    stream.write_all(REQUEST).await?;
    let mut answer = [0; ANSWER.len()];
    stream.read_exact(&mut answer).await?;
    if answer == ANSWER {
        Ok(())
    } else {
        Err(io::Error::other("another answer than the server gives"))
    }
}

async fn idle(target: SocketAddr, connections: usize) -> io::Result<Result> {
    let mut held = Vec::with_capacity(connections);
    for _ in 0..connections {
        let mut stream = TcpStream::connect(target).await?;
        stream.write_all(&[IDLE]).await?;
        timeout(PATIENCE, stream.read_exact(&mut [0; 1]))
            .await
            .map_err(|_| io::ErrorKind::TimedOut)??;
        held.push(stream);
    }
    let result = Result {
        figure: held.len() as f64,
        ..Result::default()
    };
    println!("{}", serde_json::to_string(&result).map_err(io::Error::other)?);
    // Held until this process is killed.
    std::future::pending::<()>().await;
    drop(held);
    Ok(result)
}

async fn probe(target: SocketAddr) -> io::Result<Result> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match timeout(Duration::from_secs(2), exchange(&mut None, target)).await {
            Ok(Ok(())) => {
                return Ok(Result {
                    figure: 1.0,
                    ..Result::default()
                });
            }
            Ok(Err(error)) if Instant::now() >= deadline => return Err(error),
            Err(_) if Instant::now() >= deadline => return Err(io::ErrorKind::TimedOut.into()),
            _ => sleep(Duration::from_millis(50)).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apps::loopback;

    #[tokio::test]
    async fn every_kind_gives_figures_against_the_server_itself() {
        let app = App::start(loopback(), (), |stream, _| serve_one(stream))
            .await
            .unwrap();
        let length = Duration::from_millis(200);
        for (kind, connections) in [
            (Kind::Bulk, 2),
            (Kind::Requests, 4),
            (Kind::Connections, 1),
            (Kind::Probe, 1),
        ] {
            let result = run(kind, app.address(), connections, length).await.unwrap();
            assert!(result.figure > 0.0 && result.failures == 0, "{kind:?} {result:?}");
            assert!(result.p50_micros <= result.p99_micros);
        }
    }

    #[tokio::test]
    async fn failures_are_counted_and_not_taken_for_requests() {
        let app = crate::apps::reset_after(1).await.unwrap();
        let result = run(Kind::Connections, app.address(), 1, Duration::from_millis(100))
            .await
            .unwrap();
        assert!(result.failures > 0 && result.figure == 0.0, "{result:?}");
    }
}
