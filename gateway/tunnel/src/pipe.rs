//! One QUIC stream as a byte stream that another room may hold.
//!
//! Owns the byte streams given to the controller, and the preface that makes a stream exist: QUIC tells the peer of a stream only
//! when its first byte is sent. The holder may live on another runtime. Dropping it closes the connection, after what was
//! written and shut down has had a moment to arrive.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use quinn::{RecvStream, SendStream};
use strait_federation_api::Reason;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::oneshot,
};

use crate::runtime::{Guarded, Health};

/// First bytes of a control or join stream in both directions: name and version of this framing.
const PREFACE: [u8; 8] = *b"strait\x00\x01";
/// Bound on opening and prefacing: a few round trips of the longest path.
pub(crate) const PREFACE_TIMEOUT: Duration = Duration::from_secs(5);
/// After the holder is gone, what it wrote has so long to be acknowledged.
const LINGER: Duration = Duration::from_secs(2);

/// Writes the preface.
pub(crate) async fn send_preface(send: &mut SendStream) -> Result<(), Reason> {
    send.write_all(&PREFACE).await.map_err(|_| Reason::TunnelLost)
}

/// Reads the preface; anything else is another protocol.
pub(crate) async fn read_preface(recv: &mut RecvStream) -> Result<(), Reason> {
    let mut found = [0; PREFACE.len()];
    recv.read_exact(&mut found)
        .await
        .map_err(|_| Reason::TunnelLost)?;
    if found == PREFACE {
        Ok(())
    } else {
        Err(Reason::VersionSkew)
    }
}

/// The dialler's side: opens the one stream and waits until the other side has taken it.
pub(crate) async fn open(conn: &quinn::Connection) -> Result<(SendStream, RecvStream), Reason> {
    let (mut send, mut recv) = conn.open_bi().await.map_err(|_| Reason::TunnelLost)?;
    send_preface(&mut send).await?;
    read_preface(&mut recv).await?;
    Ok((send, recv))
}

/// The acceptor's side: waits for the one stream. It answers with [`send_preface`] once it has decided to take it.
pub(crate) async fn accept(conn: &quinn::Connection) -> Result<(SendStream, RecvStream), Reason> {
    let (send, mut recv) = conn.accept_bi().await.map_err(|_| Reason::TunnelLost)?;
    read_preface(&mut recv).await?;
    Ok((send, recv))
}

/// The byte stream given away.
pub(crate) struct Pipe {
    recv: Guarded<RecvStream>,
    /// `Some` until dropped.
    send: Option<Guarded<SendStream>>,
    /// Shut down: all that was written shall arrive.
    shut: bool,
    gone: Option<oneshot::Sender<Guarded<SendStream>>>,
}

/// The other end of a [`Pipe`]'s life: resolves when its holder has dropped it. Carries the stream if it was shut down.
pub(crate) struct Holder(oneshot::Receiver<Guarded<SendStream>>);

impl Pipe {
    pub(crate) fn new(send: SendStream, recv: RecvStream, health: &Arc<Health>) -> (Self, Holder) {
        let (gone, held) = oneshot::channel();
        let pipe = Self {
            recv: Guarded::new(recv, Arc::clone(health)),
            send: Some(Guarded::new(send, Arc::clone(health))),
            shut: false,
            gone: Some(gone),
        };
        (pipe, Holder(held))
    }
}

impl Holder {
    /// Waits for the drop, and then a moment for what was written and shut down.
    pub(crate) async fn gone(self) {
        if let Ok(send) = self.0.await
            && let Some(send) = send.get()
        {
            let _ = tokio::time::timeout(LINGER, send.stopped()).await;
        }
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        if let (true, Some(gone), Some(send)) = (self.shut, self.gone.take(), self.send.take()) {
            // Fails only when the connection's task is gone, and the connection with it.
            let _ = gone.send(send);
        }
    }
}

fn closed() -> io::Error {
    io::ErrorKind::BrokenPipe.into()
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.recv.get_mut() {
            Some(recv) => AsyncRead::poll_read(Pin::new(recv), cx, buf),
            None => Poll::Ready(Err(closed())),
        }
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.send.as_mut().and_then(Guarded::get_mut) {
            Some(send) => AsyncWrite::poll_write(Pin::new(send), cx, buf),
            None => Poll::Ready(Err(closed())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shut = true;
        match self.send.as_mut().and_then(Guarded::get_mut) {
            Some(send) => AsyncWrite::poll_shutdown(Pin::new(send), cx),
            None => Poll::Ready(Err(closed())),
        }
    }
}
