//! Small servers whose behaviour is known exactly, for tests to put behind a gateway.
//!
//! Owns the servers and what they saw. Never hides a fault: each counts resets apart from clean ends. Used by tests of this crate and
//! by benches.

pub mod bulk;
pub mod http;
pub mod witness;

use std::{
    future::Future,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::{Instant, sleep},
};

/// A running server. Dropping it closes the listener; connections under way live on until their clients end them.
#[derive(Debug)]
pub struct App<S> {
    address: SocketAddr,
    state: Arc<S>,
    stats: Arc<Stats>,
    task: JoinHandle<()>,
}

/// What a server saw.
#[derive(Debug, Default)]
pub struct Stats {
    accepted: AtomicU64,
    open: AtomicU64,
    ended: AtomicU64,
    resets: AtomicU64,
}

impl Stats {
    /// Connections accepted.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.accepted.load(SeqCst)
    }

    /// Connections open now.
    #[must_use]
    pub fn open(&self) -> u64 {
        self.open.load(SeqCst)
    }

    /// Connections that ended cleanly.
    #[must_use]
    pub fn ended(&self) -> u64 {
        self.ended.load(SeqCst)
    }

    /// Connections that ended with an error: a reset by the client, mostly.
    #[must_use]
    pub fn resets(&self) -> u64 {
        self.resets.load(SeqCst)
    }
}

impl<S: Send + Sync + 'static> App<S> {
    /// Starts a server on `listen`; `serve` handles one connection, an error counts as reset.
    ///
    /// # Errors
    /// If the address cannot be bound.
    pub async fn start<F, R>(listen: SocketAddr, state: S, serve: F) -> io::Result<Self>
    where
        F: Fn(TcpStream, Arc<S>) -> R + Send + Sync + 'static,
        R: Future<Output = io::Result<()>> + Send + 'static,
    {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let (state, stats) = (Arc::new(state), Arc::new(Stats::default()));
        let (shared, counted) = (Arc::clone(&state), Arc::clone(&stats));
        let task = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    // Out of descriptors: those under way must end first.
                    sleep(Duration::from_millis(10)).await;
                    continue;
                };
                let _ = stream.set_nodelay(true);
                counted.accepted.fetch_add(1, SeqCst);
                counted.open.fetch_add(1, SeqCst);
                let (serving, counted) = (serve(stream, Arc::clone(&shared)), Arc::clone(&counted));
                tokio::spawn(async move {
                    let end = serving.await;
                    counted.open.fetch_sub(1, SeqCst);
                    if end.is_ok() {
                        &counted.ended
                    } else {
                        &counted.resets
                    }
                    .fetch_add(1, SeqCst);
                });
            }
        });
        Ok(Self {
            address,
            state,
            stats,
            task,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it saw.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// What it keeps.
    #[must_use]
    pub fn state(&self) -> &S {
        &self.state
    }
}

impl<S> Drop for App<S> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Any free loopback port.
#[must_use]
pub fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// Polls until `holds`; an error after `patience`.
///
/// # Errors
/// `TimedOut`.
pub async fn eventually(patience: Duration, holds: impl Fn() -> bool) -> io::Result<()> {
    let deadline = Instant::now() + patience;
    while !holds() {
        if Instant::now() >= deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// Sends back what comes; ends when the client does.
///
/// # Errors
/// If no port can be bound.
pub async fn echo() -> io::Result<App<()>> {
    App::start(loopback(), (), |stream, _| serve_echo(stream)).await
}

async fn serve_echo(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return stream.shutdown().await,
            length => stream.write_all(&buffer[..length]).await?,
        }
    }
}

/// Says nothing until the client has half-closed; then answers with the number of bytes it got, eight bytes big-endian, and ends. Only
/// a gateway that keeps half-close apart gets an answer through.
///
/// # Errors
/// If no port can be bound.
pub async fn half_close() -> io::Result<App<()>> {
    App::start(loopback(), (), |mut stream, _| async move {
        let (mut buffer, mut total) = (vec![0; 64 * 1024], 0_u64);
        loop {
            match stream.read(&mut buffer).await? {
                0 => break,
                length => total += length as u64,
            }
        }
        stream.write_all(&total.to_be_bytes()).await?;
        stream.shutdown().await
    })
    .await
}

/// The client's side of [`half_close`]: the number of bytes the server says it got.
///
/// # Errors
/// If the answer is cut short, or longer than it should be.
pub async fn half_close_exchange(mut stream: TcpStream, payload: &[u8]) -> io::Result<u64> {
    stream.write_all(payload).await?;
    stream.shutdown().await?;
    let total = stream.read_u64().await?;
    match stream.read(&mut [0; 1]).await? {
        0 => Ok(total),
        _ => Err(io::Error::other("bytes after the answer")),
    }
}

/// Speaks first: sends `banner` at once, then echoes.
///
/// # Errors
/// If no port can be bound.
pub async fn banner(banner: &'static [u8]) -> io::Result<App<()>> {
    App::start(loopback(), (), move |mut stream, _| async move {
        stream.write_all(banner).await?;
        serve_echo(stream).await
    })
    .await
}

/// Resets every connection after it has read `bytes`.
///
/// # Errors
/// If no port can be bound.
pub async fn reset_after(bytes: usize) -> io::Result<App<()>> {
    App::start(loopback(), (), move |mut stream, _| async move {
        let mut buffer = vec![0; bytes];
        stream.read_exact(&mut buffer).await?;
        stream.set_zero_linger()
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn echo_ends_with_its_client() {
        let app = echo().await.unwrap();
        let mut stream = TcpStream::connect(app.address()).await.unwrap();
        stream.write_all(b"abc").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"abc");
        eventually(Duration::from_secs(10), || app.stats().ended() == 1)
            .await
            .unwrap();
        assert_eq!(
            (app.stats().accepted(), app.stats().open(), app.stats().resets()),
            (1, 0, 0)
        );
    }

    #[tokio::test]
    async fn the_banner_comes_unasked() {
        let app = banner(b"220 hello\r\n").await.unwrap();
        let mut stream = TcpStream::connect(app.address()).await.unwrap();
        let mut first = [0; 11];
        stream.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"220 hello\r\n");
    }

    #[tokio::test]
    async fn half_close_counts() {
        let app = half_close().await.unwrap();
        let stream = TcpStream::connect(app.address()).await.unwrap();
        assert_eq!(half_close_exchange(stream, &[1; 10_000]).await.unwrap(), 10_000);
    }

    #[tokio::test]
    async fn a_reset_is_a_reset() {
        let app = reset_after(2).await.unwrap();
        let mut stream = TcpStream::connect(app.address()).await.unwrap();
        stream.write_all(b"ab").await.unwrap();
        let error = stream.read(&mut [0; 1]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}
