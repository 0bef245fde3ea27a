//! Read buffers, shared by the connections of one thread.
//!
//! Owns a LIFO pool per thread: the buffer used last is the one in cache, and an idle connection holds none. Called by the copy loop.

use std::{cell::RefCell, io};

use bytes::Bytes;
use tokio::net::TcpStream;

/// Size of one read, bytes. One read of 128 KiB feeds three full sends of ~35 segments; larger ones fall out of L2.
pub(crate) const BUFFER_LEN: usize = 128 * 1024;
/// Buffers kept by a thread, 4 MiB: what a busy thread has in flight between a read and its acknowledgement comes back in bursts.
const KEEP: usize = 32;
/// Below this fill a read is copied out, so that a small message does not pin a large buffer until the far side acknowledges it.
const COPY_BELOW: usize = BUFFER_LEN / 4;

thread_local! {
    static POOL: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// A filled buffer that goes back to the pool of whichever thread drops it.
struct Filled {
    buffer: Box<[u8]>,
    len: usize,
}

impl AsRef<[u8]> for Filled {
    fn as_ref(&self) -> &[u8] {
        &self.buffer[..self.len]
    }
}

impl Drop for Filled {
    fn drop(&mut self) {
        give_back(std::mem::take(&mut self.buffer));
    }
}

fn take() -> Box<[u8]> {
    POOL.try_with(|pool| pool.borrow_mut().pop())
        .ok()
        .flatten()
        .unwrap_or_else(|| vec![0; BUFFER_LEN].into_boxed_slice())
}

fn give_back(buffer: Box<[u8]>) {
    // Fails only while the thread ends: then the buffer is freed.
    let _ = POOL.try_with(|pool| {
        let mut pool = pool.borrow_mut();
        if pool.len() < KEEP && buffer.len() == BUFFER_LEN {
            pool.push(buffer);
        }
    });
}

/// Reads what is there, without waiting; empty at end-of-stream.
///
/// # Errors
/// `WouldBlock` when nothing is there; else as the socket says.
pub(crate) fn try_read(tcp: &TcpStream) -> io::Result<Bytes> {
    try_read_at_most(tcp, BUFFER_LEN)
}

/// As [`try_read`], at most `limit` bytes.
///
/// # Errors
/// As [`try_read`].
pub(crate) fn try_read_at_most(tcp: &TcpStream, limit: usize) -> io::Result<Bytes> {
    let mut buffer = take();
    let limit = limit.min(buffer.len());
    match tcp.try_read(&mut buffer[..limit]) {
        Ok(len) if len < COPY_BELOW => {
            let chunk = Bytes::copy_from_slice(&buffer[..len]);
            give_back(buffer);
            Ok(chunk)
        }
        Ok(len) => Ok(Bytes::from_owner(Filled { buffer, len })),
        Err(error) => {
            give_back(buffer);
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pooled() -> usize {
        POOL.with(|pool| pool.borrow().len())
    }

    #[tokio::test]
    async fn buffers_come_back_and_small_reads_pin_none() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let out = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (tcp, _) = listener.accept().await.unwrap();
        assert!(try_read(&tcp).is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock));
        assert_eq!(pooled(), 1, "a read without result keeps nothing");

        out.writable().await.unwrap();
        out.try_write(b"small").unwrap();
        tcp.readable().await.unwrap();
        let small = try_read(&tcp).unwrap();
        assert_eq!((&small[..], pooled()), (&b"small"[..], 1));

        let big = vec![7; COPY_BELOW];
        let mut sent = 0;
        while sent < big.len() {
            out.writable().await.unwrap();
            sent += out.try_write(&big[sent..]).unwrap();
        }
        let mut got = 0;
        while got < big.len() {
            tcp.readable().await.unwrap();
            let Ok(chunk) = try_read(&tcp) else { continue };
            let held = chunk.len() >= COPY_BELOW;
            assert_eq!(pooled(), usize::from(!held));
            got += chunk.len();
        }
        assert_eq!(pooled(), 1, "dropping a chunk gives its buffer back");
    }
}
