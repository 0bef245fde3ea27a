//! Clients that record what became of every request.
//!
//! Owns dialling (straight or through SOCKS5 with names resolved there), a small HTTP/1.1 client and steady load. Never retries: a
//! retry would hide what is measured. Used by tests and benches.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use crate::apps::http::REQUEST_ID;

/// Longest answer read, bytes.
const ANSWER_MAX: u64 = 16 * 1024 * 1024;

/// How to get a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dial {
    /// Straight to an address, a VIP for one.
    Direct(SocketAddr),
    /// Through a SOCKS5 proxy that resolves the name (socks5h).
    Socks {
        /// The proxy.
        proxy: SocketAddr,
        /// The name it is given.
        host: String,
        /// The port it is given.
        port: u16,
    },
}

/// Why a request has no answer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Failure {
    /// Nobody listens.
    #[error("refused")]
    Refused,
    /// The proxy said no, with this SOCKS5 reply code.
    #[error("SOCKS reply {0}")]
    Socks(u8),
    /// Reset.
    #[error("reset")]
    Reset,
    /// A clean end before the answer was whole.
    #[error("cut short")]
    CutShort,
    /// No answer in time.
    #[error("timed out")]
    TimedOut,
    /// The answer is no HTTP.
    #[error("not HTTP")]
    Garbled,
    /// Another error of the system.
    #[error("{0}")]
    Other(String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionAborted => {
                Self::Reset
            }
            io::ErrorKind::UnexpectedEof => Self::CutShort,
            io::ErrorKind::TimedOut => Self::TimedOut,
            _ => Self::Other(error.to_string()),
        }
    }
}

impl Dial {
    /// A connection, ready for the service's bytes.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn connect(&self) -> Result<TcpStream, Failure> {
        match self {
            Self::Direct(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Ok(stream)
            }
            Self::Socks { proxy, host, port } => socks(*proxy, host, *port).await,
        }
    }
}

/// RFC 1928 without authentication, address type domain name.
async fn socks(proxy: SocketAddr, host: &str, port: u16) -> Result<TcpStream, Failure> {
    let mut stream = TcpStream::connect(proxy).await?;
    stream.set_nodelay(true)?;
    stream.write_all(&[5, 1, 0]).await?;
    let mut choice = [0; 2];
    stream.read_exact(&mut choice).await?;
    if choice != [5, 0] {
        return Err(Failure::Socks(choice[1]));
    }
    let length = u8::try_from(host.len()).map_err(|_| Failure::Other("host name too long".to_owned()))?;
    let mut request = vec![5, 1, 0, 3, length];
    request.extend(host.as_bytes());
    request.extend(port.to_be_bytes());
    stream.write_all(&request).await?;
    let mut reply = [0; 4];
    stream.read_exact(&mut reply).await?;
    if reply[1] != 0 {
        return Err(Failure::Socks(reply[1]));
    }
    let bound = match reply[3] {
        1 => 4,
        4 => 16,
        3 => usize::from(stream.read_u8().await?),
        _ => return Err(Failure::Garbled),
    };
    stream.read_exact(&mut vec![0; bound + 2]).await?;
    Ok(stream)
}

/// The reply code of a SOCKS5 server to any request: `command` (1 is CONNECT), then `address` as it is on the wire (type, address,
/// port).
///
/// # Errors
/// [`Failure`]; `Socks` if already the greeting is refused.
pub async fn socks_reply(proxy: SocketAddr, command: u8, address: &[u8]) -> Result<u8, Failure> {
    let mut stream = TcpStream::connect(proxy).await?;
    stream.write_all(&[5, 1, 0]).await?;
    let mut choice = [0; 2];
    stream.read_exact(&mut choice).await?;
    if choice != [5, 0] {
        return Err(Failure::Socks(choice[1]));
    }
    stream.write_all(&[&[5, command, 0], address].concat()).await?;
    let mut reply = [0; 2];
    stream.read_exact(&mut reply).await?;
    Ok(reply[1])
}

/// An HTTP answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Body.
    pub body: String,
}

impl Answer {
    /// The cluster a greeter names.
    #[must_use]
    pub fn cluster(&self) -> Option<String> {
        let body: serde_json::Value = serde_json::from_str(&self.body).ok()?;
        Some(body.get("cluster")?.as_str()?.to_owned())
    }
}

/// One GET on a connection of its own.
///
/// # Errors
/// [`Failure`]; `TimedOut` after `patience` over all.
pub async fn get(
    dial: &Dial,
    host: &str,
    path: &str,
    id: Option<&str>,
    patience: Duration,
) -> Result<Answer, Failure> {
    let exchange = async {
        let mut stream = BufReader::new(dial.connect().await?);
        send_get(&mut stream, host, path, id, true).await?;
        read_answer(&mut stream).await
    };
    timeout(patience, exchange)
        .await
        .unwrap_or(Err(Failure::TimedOut))
}

/// Writes a GET.
///
/// # Errors
/// [`Failure`].
pub async fn send_get(
    stream: &mut BufReader<TcpStream>,
    host: &str,
    path: &str,
    id: Option<&str>,
    close: bool,
) -> Result<(), Failure> {
    let id = id.map_or_else(String::new, |id| format!("{REQUEST_ID}: {id}\r\n"));
    let connection = if close { "connection: close\r\n" } else { "" };
    let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n{id}{connection}\r\n");
    Ok(stream.get_mut().write_all(request.as_bytes()).await?)
}

/// Reads an answer with `content-length`.
///
/// # Errors
/// [`Failure`]; `CutShort` for a clean end before the last byte.
pub async fn read_answer(stream: &mut BufReader<TcpStream>) -> Result<Answer, Failure> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Err(Failure::CutShort);
    }
    let status = line
        .split(' ')
        .nth(1)
        .and_then(|s| s.parse().ok())
        .ok_or(Failure::Garbled)?;
    let mut length = 0;
    loop {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            return Err(Failure::CutShort);
        }
        match line.trim_end().split_once(':') {
            None if line == "\r\n" => break,
            None => return Err(Failure::Garbled),
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.trim().parse::<u64>().map_err(|_| Failure::Garbled)?;
            }
            Some(_) => {}
        }
    }
    let size = usize::try_from(length.min(ANSWER_MAX)).unwrap_or_default();
    let mut body = vec![0; size];
    stream.read_exact(&mut body).await?;
    Ok(Answer {
        status,
        body: String::from_utf8_lossy(&body).into_owned(),
    })
}

/// What became of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Its id, unique within the load.
    pub id: String,
    /// When it was started, after the load's start.
    pub started: Duration,
    /// How long it took.
    pub took: Duration,
    /// The cluster that answered 200, or why not.
    pub result: Result<String, Failure>,
}

/// Steady load: a request every interval, whether or not earlier ones are back (open loop, so a stall shows as many failures and not
/// as one), each on a connection of its own.
#[derive(Debug)]
pub struct Load {
    outcomes: Arc<Mutex<Vec<Outcome>>>,
    started: Instant,
    running: JoinSet<()>,
}

/// What kind of load.
#[derive(Debug, Clone)]
pub struct LoadSpec {
    /// How to connect.
    pub dial: Dial,
    /// `host` header.
    pub host: String,
    /// Time between two requests.
    pub every: Duration,
    /// After this a request has failed.
    pub patience: Duration,
    /// Start of every id.
    pub prefix: String,
}

impl Load {
    /// Starts it.
    #[must_use]
    pub fn start(spec: LoadSpec) -> Self {
        let outcomes: Arc<Mutex<Vec<Outcome>>> = Arc::default();
        let (record, started) = (Arc::clone(&outcomes), Instant::now());
        let mut running = JoinSet::new();
        running.spawn(async move {
            let mut requests = JoinSet::new();
            let mut ticks = interval(spec.every);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            for number in 0_u64.. {
                ticks.tick().await;
                while requests.try_join_next().is_some() {}
                let (spec, record) = (spec.clone(), Arc::clone(&record));
                requests.spawn(async move {
                    let outcome = request(&spec, number, started).await;
                    record
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(outcome);
                });
            }
        });
        Self {
            outcomes,
            started,
            running,
        }
    }

    /// Time since the start, to compare with [`Outcome::started`].
    #[must_use]
    pub fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// What is known so far, in order of starting.
    #[must_use]
    pub fn outcomes(&self) -> Vec<Outcome> {
        let mut outcomes = self
            .outcomes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        outcomes.sort_by_key(|o| o.started);
        outcomes
    }

    /// Ends it; requests under way are given up and not recorded.
    pub async fn stop(mut self) -> Vec<Outcome> {
        self.running.shutdown().await;
        self.outcomes()
    }
}

async fn request(spec: &LoadSpec, number: u64, load_started: Instant) -> Outcome {
    let (id, began) = (format!("{}-{number}", spec.prefix), Instant::now());
    let answer = get(&spec.dial, &spec.host, "/", Some(&id), spec.patience).await;
    let result = answer.and_then(|answer| match answer.status {
        200 => answer.cluster().ok_or(Failure::Garbled),
        status => Err(Failure::Other(format!("status {status}"))),
    });
    Outcome {
        id,
        started: began - load_started,
        took: began.elapsed(),
        result,
    }
}

/// How many requests each cluster answered, and how many failed in which way.
#[must_use]
pub fn tally(outcomes: &[Outcome]) -> BTreeMap<String, usize> {
    let mut tally = BTreeMap::new();
    for outcome in outcomes {
        let kind = match &outcome.result {
            Ok(cluster) => cluster.clone(),
            Err(failure) => format!("failed: {failure}"),
        };
        *tally.entry(kind).or_default() += 1;
    }
    tally
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apps::{self, App, eventually, loopback};

    const PATIENCE: Duration = Duration::from_secs(20);

    /// A SOCKS5 server that answers `code` and then leads to `target`, whatever name it is given; keeps the name.
    async fn proxy(code: u8, target: SocketAddr) -> App<Mutex<String>> {
        App::start(
            loopback(),
            Mutex::default(),
            move |mut stream, name: Arc<Mutex<String>>| async move {
                let mut hello = [0; 3];
                stream.read_exact(&mut hello).await?;
                stream.write_all(&[5, 0]).await?;
                let mut head = [0; 5];
                stream.read_exact(&mut head).await?;
                let mut host = vec![0; usize::from(head[4]) + 2];
                stream.read_exact(&mut host).await?;
                host.truncate(usize::from(head[4]));
                *name.lock().unwrap() = String::from_utf8(host).unwrap();
                stream.write_all(&[5, code, 0, 1, 0, 0, 0, 0, 0, 0]).await?;
                let mut onward = TcpStream::connect(target).await?;
                tokio::io::copy_bidirectional(&mut stream, &mut onward)
                    .await
                    .map(|_| ())
            },
        )
        .await
        .unwrap()
    }

    #[tokio::test]
    async fn names_go_to_the_proxy_and_its_refusal_is_told() {
        let app = apps::http::greeter(loopback(), "west").await.unwrap();
        for code in [0, 4] {
            let proxy = proxy(code, app.address()).await;
            let host = "greeter.demo.svc.clusterset.local".to_owned();
            let dial = Dial::Socks {
                proxy: proxy.address(),
                host: host.clone(),
                port: 8080,
            };
            let answer = get(&dial, &host, "/", Some("1"), PATIENCE).await;
            assert_eq!(
                answer.map(|a| a.cluster()),
                if code == 0 {
                    Ok(Some("west".to_owned()))
                } else {
                    Err(Failure::Socks(4))
                }
            );
            assert_eq!(*proxy.state().lock().unwrap(), host);
        }
    }

    #[tokio::test]
    async fn failures_are_told_apart() {
        let nobody = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let ask = |address| async move {
            get(&Dial::Direct(address), "x", "/", None, Duration::from_millis(500)).await
        };
        assert_eq!(ask(nobody).await, Err(Failure::Refused));
        assert_eq!(
            ask(apps::reset_after(10).await.unwrap().address()).await,
            Err(Failure::Reset)
        );
        assert_eq!(
            ask(apps::half_close().await.unwrap().address()).await,
            Err(Failure::TimedOut)
        );
        let short = App::start(loopback(), (), |mut stream, _| async move {
            stream.read_exact(&mut [0; 30]).await?;
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")
                .await?;
            stream.shutdown().await?;
            tokio::io::copy(&mut stream, &mut tokio::io::sink())
                .await
                .map(|_| ())
        });
        assert_eq!(ask(short.await.unwrap().address()).await, Err(Failure::CutShort));
        let banner = apps::banner(b"220 hello\r\n220 there\r\n").await.unwrap();
        assert!(matches!(ask(banner.address()).await, Err(Failure::Garbled)));
    }

    #[tokio::test]
    async fn load_records_every_request_once() {
        let app = apps::http::greeter(loopback(), "west").await.unwrap();
        let load = Load::start(LoadSpec {
            dial: Dial::Direct(app.address()),
            host: "x".to_owned(),
            every: Duration::from_millis(2),
            patience: PATIENCE,
            prefix: "t".to_owned(),
        });
        eventually(PATIENCE, || load.outcomes().len() >= 50)
            .await
            .unwrap();
        app.state().set_status(503);
        eventually(PATIENCE, || load.outcomes().iter().any(|o| o.result.is_err()))
            .await
            .unwrap();
        let outcomes = load.stop().await;
        let ids: std::collections::BTreeSet<_> = outcomes.iter().map(|o| &o.id).collect();
        assert_eq!(ids.len(), outcomes.len());
        assert!(app.state().repeated().is_empty());
        let tally = tally(&outcomes);
        assert!(
            tally["west"] >= 50 && tally["failed: status 503"] >= 1,
            "{tally:?}"
        );
        assert!(outcomes.windows(2).all(|pair| pair[0].started <= pair[1].started));
    }
}
