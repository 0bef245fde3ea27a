//! The two halves of a stream.
//!
//! Owns the rule that only an explicit [`SendHalf::finish`] is a clean end: quinn sends FIN when a send stream is dropped, so a
//! cancelled task would look like a complete transfer. Here every other way out is a reset with a code. Used by proxy.

use std::{
    pin::pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use strait_federation_api::Reason;

use crate::{
    codes::varint,
    error::StreamError,
    runtime::Guarded,
    slot::{StreamSlot, Waiting},
};

/// What a half says that is dropped without a word: its task was cancelled or panicked.
const DROPPED: Reason = Reason::PeerReset;

/// The sending half. Dropping it without [`finish`](Self::finish) resets the stream.
#[derive(Debug)]
pub struct SendHalf {
    inner: Guarded<quinn::SendStream>,
    ended: bool,
    /// Its place in the tunnel.
    slot: Arc<StreamSlot>,
}

impl SendHalf {
    pub(crate) fn new(inner: quinn::SendStream, slot: Arc<StreamSlot>) -> Self {
        Self {
            inner: slot.guard(inner),
            ended: false,
            slot,
        }
    }

    /// Queues all of `chunk` without copying it, waiting for flow control.
    ///
    /// # Errors
    /// As [`StreamError`]; a part may have been sent.
    pub async fn write_chunk(&mut self, chunk: Bytes) -> Result<(), StreamError> {
        let mut one = [chunk];
        self.write_chunks(&mut one).await
    }

    /// Queues all of `chunks` in order without copying; those that were taken are left empty.
    ///
    /// # Errors
    /// As [`StreamError`]; a part may have been sent.
    pub async fn write_chunks(&mut self, chunks: &mut [Bytes]) -> Result<(), StreamError> {
        let inner = self.inner.get_mut().ok_or(StreamError::TunnelLost)?;
        let blocked = self.slot.tunnel().blocked_writers();
        let mut write = pin!(inner.write_all_chunks(chunks));
        let (mut waiting, mut stepped_back) = (None, false);
        let written = std::future::poll_fn(|cx| {
            // Quinn wakes all writers of a full connection at once, the last one blocked first, and the first to run takes all the
            // room: two of many would take turns for ever while the others starve. Stepping back by chance shuffles them.
            let others = blocked.load(Ordering::Relaxed) > 1;
            stepped_back = waiting.is_some() && others && !stepped_back && rand::random();
            if stepped_back {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let polled = write.as_mut().poll(cx);
            if polled.is_pending() {
                waiting.get_or_insert_with(|| Waiting::new(blocked));
            }
            polled
        });
        Ok(written.await?)
    }

    /// The clean end: the peer reads end-of-stream after all bytes. Does not wait for them to arrive.
    ///
    /// # Errors
    /// [`StreamError::Closed`] when it was already ended.
    pub fn finish(&mut self) -> Result<(), StreamError> {
        let inner = self.inner.get_mut().ok_or(StreamError::TunnelLost)?;
        inner.finish().map_err(|_| StreamError::Closed)?;
        self.ended = true;
        Ok(())
    }

    /// The unclean end: what the peer has not read yet is lost to it. Does nothing after an end.
    pub fn reset(&mut self, reason: Reason) {
        if !self.ended {
            self.ended = true;
            // Fails only for a stream that is closed already.
            let _ = self.inner.get_mut().map(|inner| inner.reset(varint(reason)));
        }
    }

    /// Resolves when the peer no longer wants bytes: its reason, [`Reason::TunnelLost`] with the connection, or `None` once
    /// everything up to [`finish`](Self::finish) was acknowledged.
    pub async fn stopped(&mut self) -> Option<Reason> {
        let Some(inner) = self.inner.get() else {
            return Some(Reason::TunnelLost);
        };
        match inner.stopped().await {
            Ok(Some(code)) => Some(StreamError::reset(code).reason()),
            Ok(None) => None,
            Err(_) => Some(Reason::TunnelLost),
        }
    }
}

impl Drop for SendHalf {
    fn drop(&mut self) {
        self.reset(DROPPED);
    }
}

/// The receiving half. Dropping it before the end tells the peer to stop.
#[derive(Debug)]
pub struct RecvHalf {
    inner: Guarded<quinn::RecvStream>,
    ended: bool,
    slot: Arc<StreamSlot>,
}

impl RecvHalf {
    pub(crate) fn new(inner: quinn::RecvStream, slot: Arc<StreamSlot>) -> Self {
        Self {
            inner: slot.guard(inner),
            ended: false,
            slot,
        }
    }

    /// Waits for bytes and fills `bufs` from the front; `None` is the peer's clean end. Cancel-safe.
    ///
    /// # Errors
    /// As [`StreamError`]: bytes that came before a reset may be lost.
    pub async fn read_chunks(&mut self, bufs: &mut [Bytes]) -> Result<Option<usize>, StreamError> {
        std::future::poll_fn(|cx| self.poll_read_chunks(cx, bufs)).await
    }

    /// As [`read_chunks`](Self::read_chunks), for callers that keep `bufs` per thread: nothing is held between polls.
    pub fn poll_read_chunks(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &mut [Bytes],
    ) -> Poll<Result<Option<usize>, StreamError>> {
        // Quinn's future holds only the two borrows, so it may be rebuilt at every poll (a test pins this).
        let Some(inner) = self.inner.get_mut() else {
            return Poll::Ready(Err(StreamError::TunnelLost));
        };
        let polled = pin!(inner.read_chunks(bufs)).poll(cx);
        match polled {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(Some(count))) => {
                self.slot.tunnel().heard_at(Instant::now());
                Poll::Ready(Ok(Some(count)))
            }
            Poll::Ready(Ok(None)) => {
                self.ended = true;
                Poll::Ready(Ok(None))
            }
            Poll::Ready(Err(error)) => {
                self.ended = true;
                Poll::Ready(Err(error.into()))
            }
        }
    }

    /// Tells the peer to stop sending, and why. Does nothing after the end.
    pub fn stop(&mut self, reason: Reason) {
        if !self.ended {
            self.ended = true;
            // Fails only for a stream that is closed already.
            let _ = self.inner.get_mut().map(|inner| inner.stop(varint(reason)));
        }
    }
}

impl Drop for RecvHalf {
    fn drop(&mut self) {
        self.stop(DROPPED);
    }
}
