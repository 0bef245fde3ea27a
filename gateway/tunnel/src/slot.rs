//! Counting streams and those who wait for one.
//!
//! Owns two guards; the counts are the tunnel's. Never sends anything.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use tokio::sync::OwnedSemaphorePermit;

use crate::{runtime::Guarded, tunnel::Tunnel};

/// Counts one open or write that waits, also when its future is dropped.
pub(crate) struct Waiting<'a>(&'a AtomicU32);

impl<'a> Waiting<'a> {
    pub(crate) fn new(count: &'a AtomicU32) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One stream's place in its tunnel, given back when both halves are gone.
#[derive(Debug)]
pub(crate) struct StreamSlot {
    tunnel: Arc<Tunnel>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl StreamSlot {
    pub(crate) fn new(tunnel: Arc<Tunnel>, permit: Option<OwnedSemaphorePermit>) -> Arc<Self> {
        tunnel.stream_begins();
        Arc::new(Self {
            tunnel,
            _permit: permit,
        })
    }

    pub(crate) fn guard<T>(&self, inner: T) -> Guarded<T> {
        Guarded::new(inner, Arc::clone(self.tunnel.health()))
    }

    pub(crate) const fn tunnel(&self) -> &Arc<Tunnel> {
        &self.tunnel
    }
}

impl Drop for StreamSlot {
    fn drop(&mut self) {
        self.tunnel.stream_ends();
    }
}
