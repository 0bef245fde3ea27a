//! All tunnels of the process, by peer.
//!
//! Owns the list the data path reads without a lock. Written by connection tasks; read by proxy at every new stream.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use strait_federation_api::ClusterId;

use crate::tunnel::Tunnel;

type ByPeer = BTreeMap<ClusterId, Arc<[Arc<Tunnel>]>>;

/// What a peer without tunnels has; shared so that asking costs no allocation.
static NONE: LazyLock<Arc<[Arc<Tunnel>]>> = LazyLock::new(|| Arc::from([]));

/// Every data tunnel whose hello is done, shared by all workers. A clone is one reference count; the default has none and gets none.
#[derive(Debug, Clone, Default)]
pub struct Tunnels {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    by_peer: ArcSwap<ByPeer>,
    /// Writers take turns; readers never see it.
    writing: Mutex<()>,
}

impl Tunnels {
    /// Tunnels to a peer, usable or not, oldest first. Lock-free.
    #[must_use]
    pub fn to_peer(&self, peer: &ClusterId) -> Arc<[Arc<Tunnel>]> {
        self.inner.by_peer.load().get(peer).unwrap_or(&NONE).clone()
    }

    pub(crate) fn insert(&self, tunnel: &Arc<Tunnel>) {
        self.rewrite(&tunnel.peer().cluster, |list| list.push(Arc::clone(tunnel)));
    }

    pub(crate) fn remove(&self, tunnel: &Tunnel) {
        self.rewrite(&tunnel.peer().cluster, |list| {
            list.retain(|held| held.id() != tunnel.id());
        });
    }

    fn rewrite(&self, peer: &ClusterId, change: impl FnOnce(&mut Vec<Arc<Tunnel>>)) {
        let _turn = self.inner.writing.lock();
        let mut by_peer = ByPeer::clone(&self.inner.by_peer.load());
        let mut list = by_peer.get(peer).map(|held| held.to_vec()).unwrap_or_default();
        change(&mut list);
        if list.is_empty() {
            by_peer.remove(peer);
        } else {
            by_peer.insert(peer.clone(), list.into());
        }
        self.inner.by_peer.store(Arc::new(by_peer));
    }
}
