//! A greeter over HTTP/1.1: says which cluster it is and counts request ids, so that a request served twice is found.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU16, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

use super::App;

/// Longest request head, bytes.
const HEAD_MAX: usize = 16 * 1024;
/// Longest request body, bytes.
const BODY_MAX: u64 = 16 * 1024 * 1024;
/// Header that carries the id of a request.
pub const REQUEST_ID: &str = "x-request-id";

/// What a greeter keeps.
#[derive(Debug)]
pub struct Greeter {
    cluster: String,
    seen: Mutex<HashMap<String, u32>>,
    served: AtomicU64,
    status: AtomicU16,
    delay_millis: AtomicU64,
}

impl Greeter {
    /// Requests served.
    #[must_use]
    pub fn served(&self) -> u64 {
        self.served.load(SeqCst)
    }

    /// How often each id arrived; requests without one are not in it.
    #[must_use]
    pub fn seen(&self) -> HashMap<String, u32> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ids that arrived more than once.
    #[must_use]
    pub fn repeated(&self) -> Vec<String> {
        self.seen()
            .into_iter()
            .filter(|(_, count)| *count > 1)
            .map(|(id, _)| id)
            .collect()
    }

    /// Answers with this status from now on.
    pub fn set_status(&self, status: u16) {
        self.status.store(status, SeqCst);
    }

    /// Waits this long before each answer from now on.
    pub fn set_delay(&self, delay: Duration) {
        let millis = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        self.delay_millis.store(millis, SeqCst);
    }
}

/// Starts a greeter of `cluster` on `listen`. It answers every request with `{"cluster":"…","id":"…"}`.
///
/// # Errors
/// If the address cannot be bound.
pub async fn greeter(listen: SocketAddr, cluster: &str) -> io::Result<App<Greeter>> {
    let state = Greeter {
        cluster: cluster.to_owned(),
        seen: Mutex::default(),
        served: AtomicU64::new(0),
        status: AtomicU16::new(200),
        delay_millis: AtomicU64::new(0),
    };
    App::start(listen, state, |stream, state| async move {
        serve(stream, &state).await
    })
    .await
}

async fn serve(stream: TcpStream, state: &Greeter) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    while let Some(request) = read_request(&mut stream).await? {
        if let Some(id) = &request.id {
            // Counted on arrival: a client that gave up has still been served.
            *state
                .seen
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .entry(id.clone())
                .or_default() += 1;
        }
        let delay = Duration::from_millis(state.delay_millis.load(SeqCst));
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        state.served.fetch_add(1, SeqCst);
        let body = serde_json::json!({"cluster": state.cluster, "id": request.id}).to_string();
        let status = state.status.load(SeqCst);
        let connection = if request.close { "close" } else { "keep-alive" };
        let answer = format!(
            "HTTP/1.1 {status} Said\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: {connection}\r\n\r\n{body}",
            body.len()
        );
        stream.get_mut().write_all(answer.as_bytes()).await?;
        if request.close {
            break;
        }
    }
    stream.get_mut().shutdown().await
}

struct Request {
    id: Option<String>,
    close: bool,
}

/// The next request with its body read away; `None` at a clean end between two.
async fn read_request(stream: &mut BufReader<TcpStream>) -> io::Result<Option<Request>> {
    let mut head = String::new();
    loop {
        let before = head.len();
        let line = stream
            .take((HEAD_MAX - before) as u64)
            .read_line(&mut head)
            .await?;
        match &head[before..] {
            "\r\n" => break,
            _ if line == 0 && before == 0 => return Ok(None),
            _ if line == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            _ => {}
        }
    }
    let header = |name: &str| {
        let lines = head.lines().filter_map(|line| line.split_once(':'));
        lines
            .filter(|(n, _)| n.trim().eq_ignore_ascii_case(name))
            .map(|(_, v)| v.trim().to_owned())
            .next()
    };
    let length = header("content-length")
        .map_or(Ok(0), |v| v.parse())
        .map_err(io::Error::other)?;
    if length > BODY_MAX {
        return Err(io::Error::other("body too long"));
    }
    let read = tokio::io::copy(&mut stream.take(length), &mut tokio::io::sink()).await?;
    if read < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let close = header("connection").is_some_and(|v| v.eq_ignore_ascii_case("close"));
    Ok(Some(Request {
        id: header(REQUEST_ID),
        close,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apps::loopback;

    async fn say(stream: &mut TcpStream, text: &str) -> String {
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut buffer = vec![0; 4096];
        let length = stream.read(&mut buffer).await.unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    #[tokio::test]
    async fn ids_are_counted_over_connections_and_keep_alive() {
        let app = greeter(loopback(), "west").await.unwrap();
        let mut stream = TcpStream::connect(app.address()).await.unwrap();
        for id in ["a", "b", "a"] {
            let answer = say(
                &mut stream,
                &format!("GET / HTTP/1.1\r\nhost: x\r\nX-Request-Id: {id}\r\n\r\n"),
            )
            .await;
            assert!(
                answer.starts_with("HTTP/1.1 200") && answer.contains("\"cluster\":\"west\""),
                "{answer}"
            );
        }
        assert_eq!(app.state().repeated(), ["a"]);
        assert_eq!(app.state().served(), 3);
        app.state().set_status(503);
        let answer = say(
            &mut stream,
            "POST / HTTP/1.1\r\ncontent-length: 3\r\nconnection: close\r\n\r\nabc",
        )
        .await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_request_cut_short_is_no_clean_end() {
        let app = greeter(loopback(), "west").await.unwrap();
        let mut stream = TcpStream::connect(app.address()).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost").await.unwrap();
        drop(stream);
        crate::apps::eventually(Duration::from_secs(10), || app.stats().resets() == 1)
            .await
            .unwrap();
    }
}
