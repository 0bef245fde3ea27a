//! The cache of peers' catalogs: what a restart serves while the peers are away.
//!
//! Owns its form on disk and its distrust of it: every entry is summed, every peer's catalog is counted, and anything that does
//! not add up is dropped. Deleting it loses nothing but time. Never holds a record. Called by the exchange shell.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
};

use aws_lc_rs::digest::{SHA256, digest};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use strait_federation_api::{
    ClusterId, Epoch, ServiceKey,
    catalog::{Catalog, OfferedService},
    exchange::{CatalogVersion, HeldCatalog},
};

/// Version of the stored form; another one starts empty.
const SCHEMA: u32 = 1;
/// Memory sled may use for pages, bytes: catalogs are read once, at the start.
const PAGE_CACHE_BYTES: u64 = 1 << 20;
/// Ends the peer's name in a key; no ClusterId contains it.
const SEPARATOR: u8 = 0;

/// Keeps catalogs; may forget any of them at any time.
pub trait CatalogStore: Send + Sync {
    /// Everything that verifies. Blocking.
    fn load(&self) -> BTreeMap<ClusterId, HeldCatalog>;
    /// Keeps a peer's catalog; writes what differs from what is kept. Blocking.
    fn keep(&self, peer: &ClusterId, catalog: &HeldCatalog);
    /// Forgets a peer. Blocking.
    fn forget(&self, peer: &ClusterId);
    /// Asks the system to write it out. Blocking.
    fn flush(&self);
}

/// Keeps nothing: for when the disk refuses.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoCache;

impl CatalogStore for NoCache {
    fn load(&self) -> BTreeMap<ClusterId, HeldCatalog> {
        BTreeMap::new()
    }
    fn keep(&self, _: &ClusterId, _: &HeldCatalog) {}
    fn forget(&self, _: &ClusterId) {}
    fn flush(&self) {}
}

/// What a peer's entries must add up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Meta {
    schema: u32,
    epoch: Epoch,
    version: Option<CatalogVersion>,
    count: u64,
    /// Wrapping sum of the entries' sums: the order of keys does not matter.
    total: u64,
}

/// The cache on sled.
pub struct SledCache {
    db: sled::Db,
    /// What is on disk, so that a change writes only what it changes.
    written: Mutex<BTreeMap<ClusterId, Catalog>>,
}

/// How opening went.
pub struct Opened {
    /// The cache.
    pub store: Arc<dyn CatalogStore>,
    /// It was damaged and starts empty; what was wrong.
    pub rebuilt: Option<String>,
}

impl SledCache {
    /// Opens the cache of a state directory; whatever is wrong with it, it starts empty and says so. Blocking.
    #[must_use]
    pub fn open(state: &Path) -> Opened {
        let dir = cache_dir(state);
        let first = match try_open(&dir) {
            Ok(cache) => return cache.into(),
            Err(why) => why,
        };
        let second = std::fs::remove_dir_all(&dir)
            .map_err(|error| format!("it cannot be removed: {error}"))
            .and_then(|()| try_open(&dir));
        match second {
            Ok(cache) => Opened {
                rebuilt: Some(first),
                ..cache.into()
            },
            Err(why) => Opened {
                store: Arc::new(NoCache),
                rebuilt: Some(format!("{first}; and again: {why}; running without")),
            },
        }
    }

    fn load_peer(&self, peer: &ClusterId, meta: Meta) -> Option<HeldCatalog> {
        let mut catalog = Catalog::new();
        let mut total = 0_u64;
        for entry in self.db.scan_prefix(prefix(peer)) {
            let (_, value) = entry.ok()?;
            let (sum, body) = value.split_first_chunk::<8>()?;
            if u64::from_le_bytes(*sum) != checksum(body) {
                return None;
            }
            total = total.wrapping_add(checksum(body));
            let service: OfferedService = serde_json::from_slice(body).ok()?;
            catalog.insert(service.service.clone(), Arc::new(service));
        }
        let adds_up = meta.schema == SCHEMA && meta.count == catalog.len() as u64 && meta.total == total;
        adds_up.then_some(HeldCatalog {
            epoch: meta.epoch,
            version: meta.version,
            catalog,
        })
    }

    fn try_load(&self) -> BTreeMap<ClusterId, HeldCatalog> {
        let mut found = BTreeMap::new();
        for entry in self.db.scan_prefix(META_PREFIX) {
            let Ok((key, value)) = entry else { break };
            let peer = std::str::from_utf8(&key[META_PREFIX.len()..])
                .ok()
                .and_then(|s| ClusterId::parse(s).ok());
            let Some(peer) = peer else { continue };
            let catalog = meta_of(&value).and_then(|meta| self.load_peer(&peer, meta));
            match catalog {
                Some(catalog) => {
                    found.insert(peer, catalog);
                }
                None => {
                    tracing::warn!(%peer, reason = "CacheRebuilt", "the cached catalog does not add up and is dropped");
                    self.forget(&peer);
                }
            }
        }
        found
    }

    fn try_keep(&self, peer: &ClusterId, held: &HeldCatalog) -> Result<(), sled::Error> {
        let mut written = self.written.lock();
        let old = written.get(peer).cloned().unwrap_or_default();
        let mut batch = sled::Batch::default();
        for change in old.diff(&held.catalog) {
            match change {
                imbl::ordmap::DiffItem::Add(key, service) => put(&mut batch, peer, key, service),
                imbl::ordmap::DiffItem::Update {
                    new: (key, service), ..
                } => put(&mut batch, peer, key, service),
                imbl::ordmap::DiffItem::Remove(key, _) => batch.remove(entry_key(peer, key)),
            }
        }
        let total = held
            .catalog
            .values()
            .fold(0_u64, |sum, s| sum.wrapping_add(checksum(&body(s))));
        let meta = Meta {
            schema: SCHEMA,
            epoch: held.epoch,
            version: held.version,
            count: held.catalog.len() as u64,
            total,
        };
        batch.insert(
            meta_key(peer),
            framed(&serde_json::to_vec(&meta).unwrap_or_default()),
        );
        self.db.apply_batch(batch)?;
        written.insert(peer.clone(), held.catalog.clone());
        Ok(())
    }

    fn try_forget(&self, peer: &ClusterId) -> Result<(), sled::Error> {
        self.written.lock().remove(peer);
        self.db.remove(meta_key(peer))?;
        let mut batch = sled::Batch::default();
        for entry in self.db.scan_prefix(prefix(peer)).keys() {
            batch.remove(entry?);
        }
        self.db.apply_batch(batch)
    }
}

impl CatalogStore for SledCache {
    fn load(&self) -> BTreeMap<ClusterId, HeldCatalog> {
        let found = guarded("read", || Ok(self.try_load())).unwrap_or_default();
        *self.written.lock() = found
            .iter()
            .map(|(peer, c)| (peer.clone(), c.catalog.clone()))
            .collect();
        found
    }

    fn keep(&self, peer: &ClusterId, catalog: &HeldCatalog) {
        guarded("write", || self.try_keep(peer, catalog));
    }

    fn forget(&self, peer: &ClusterId) {
        guarded("forget", || self.try_forget(peer));
    }

    fn flush(&self) {
        guarded("flush", || self.db.flush().map(drop));
    }
}

impl From<SledCache> for Opened {
    fn from(cache: SledCache) -> Self {
        Self {
            store: Arc::new(cache),
            rebuilt: None,
        }
    }
}

/// Where the cache of a state directory lies.
#[must_use]
pub fn cache_dir(state: &Path) -> PathBuf {
    state.join("cache")
}

/// sled panics on some kinds of damage: that is damage like any other.
fn try_open(dir: &Path) -> Result<SledCache, String> {
    let config = sled::Config::new()
        .path(dir)
        .cache_capacity(PAGE_CACHE_BYTES)
        .flush_every_ms(None);
    let opened = catch_unwind(AssertUnwindSafe(|| config.open()));
    let db = opened
        .map_err(|_| "it cannot be opened".to_string())?
        .map_err(|e| e.to_string())?;
    let cache = SledCache {
        db,
        written: Mutex::new(BTreeMap::new()),
    };
    catch_unwind(AssertUnwindSafe(|| cache.check_readable()))
        .map_err(|_| "it cannot be read".to_string())??;
    Ok(cache)
}

impl SledCache {
    fn check_readable(&self) -> Result<(), String> {
        self.db
            .iter()
            .try_for_each(|entry| entry.map(drop))
            .map_err(|e| e.to_string())
    }
}

/// A cache that fails is only slow: say it, go on.
fn guarded<T>(verb: &str, work: impl FnOnce() -> Result<T, sled::Error>) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => Some(value),
        Ok(Err(error)) => {
            tracing::warn!(%error, reason = "CacheRebuilt", "cannot {verb} the catalog cache; the next start may have to wait for peers");
            None
        }
        Err(_) => {
            tracing::warn!(
                reason = "CacheRebuilt",
                "the catalog cache broke while asked to {verb}; delete its directory if this repeats"
            );
            None
        }
    }
}

/// Begins the keys of [`Meta`]; no ClusterId contains it.
const META_PREFIX: &[u8] = b"/meta/";

fn meta_key(peer: &ClusterId) -> Vec<u8> {
    [META_PREFIX, peer.as_str().as_bytes()].concat()
}

fn prefix(peer: &ClusterId) -> Vec<u8> {
    [peer.as_str().as_bytes(), &[SEPARATOR]].concat()
}

fn entry_key(peer: &ClusterId, key: &ServiceKey) -> Vec<u8> {
    [prefix(peer), key.to_string().into_bytes()].concat()
}

fn put(batch: &mut sled::Batch, peer: &ClusterId, key: &ServiceKey, service: &OfferedService) {
    batch.insert(entry_key(peer, key), framed(&body(service)));
}

fn body(service: &OfferedService) -> Vec<u8> {
    // A plain value of strings and numbers always serialises; an empty body would fail its checksum at the next start.
    serde_json::to_vec(service).unwrap_or_default()
}

fn framed(body: &[u8]) -> Vec<u8> {
    [&checksum(body).to_le_bytes(), body].concat()
}

fn meta_of(value: &[u8]) -> Option<Meta> {
    let (sum, body) = value.split_first_chunk::<8>()?;
    (u64::from_le_bytes(*sum) == checksum(body))
        .then(|| serde_json::from_slice(body).ok())
        .flatten()
}

fn checksum(body: &[u8]) -> u64 {
    let sum = digest(&SHA256, body);
    sum.as_ref()
        .first_chunk::<8>()
        .map_or(0, |first| u64::from_le_bytes(*first))
}

#[cfg(test)]
mod tests;
