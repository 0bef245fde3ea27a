//! Steady load: requests by name through the SOCKS5 listener, each on a connection of its own, each with a unique id.
//!
//! Owns the clock of the demo, the records and the pace. Never retries and never judges. Started once by the demo.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::{sync::Semaphore, task::JoinHandle, time};

use super::{
    record::{Outcome, Record},
    request::{Target, request},
};

/// A request that takes longer has failed: ten times the slowest failover promised.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Requests in flight at a time: at 5,000 a second and 100 ms each.
const IN_FLIGHT_MAX: usize = 512;
/// How often settling looks again.
const SETTLE_POLL: Duration = Duration::from_millis(10);

/// The running load. Dropping it ends the load.
#[derive(Debug)]
pub(crate) struct Load {
    shared: Arc<Shared>,
    pacer: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    epoch: Instant,
    target: Target,
    rate: AtomicU32,
    book: Mutex<Book>,
}

#[derive(Debug, Default)]
struct Book {
    next: u64,
    open: BTreeMap<u64, Duration>,
    done: Vec<Record>,
}

impl Load {
    /// Starts `rate` requests a second to `target` through `socks`.
    pub(crate) fn start(socks: SocketAddr, host: String, port: u16, rate: u32) -> Self {
        let shared = Arc::new(Shared {
            epoch: Instant::now(),
            target: Target { socks, host, port },
            rate: AtomicU32::new(rate),
            book: Mutex::default(),
        });
        let pacer = tokio::spawn(pace(Arc::clone(&shared)));
        Self { shared, pacer }
    }

    /// Time since the start: the clock of every record.
    pub(crate) fn now(&self) -> Duration {
        self.shared.epoch.elapsed()
    }

    /// Changes the pace.
    pub(crate) fn set_rate(&self, rate: u32) {
        self.shared.rate.store(rate.max(1), Ordering::Relaxed);
    }

    /// Waits until every request started before `to` has ended: at most [`REQUEST_TIMEOUT`] past `to`.
    pub(crate) async fn settle(&self, to: Duration) {
        while self.now() < to || self.shared.book.lock().open.values().any(|&started| started < to) {
            time::sleep(SETTLE_POLL).await;
        }
    }

    /// The requests that have ended, in the order they did.
    pub(crate) fn records(&self) -> Vec<Record> {
        self.shared.book.lock().done.clone()
    }

    /// The last one that ended.
    pub(crate) fn last(&self) -> Option<Record> {
        self.shared.book.lock().done.last().cloned()
    }

    /// Forgets what ended before `time`: the demo may stay up for days.
    pub(crate) fn forget_before(&self, time: Duration) {
        self.shared.book.lock().done.retain(|record| record.ended >= time);
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.pacer.abort();
    }
}

async fn pace(shared: Arc<Shared>) {
    let permits = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
            return;
        };
        let shared_here = Arc::clone(&shared);
        tokio::spawn(async move {
            one(&shared_here).await;
            drop(permit);
        });
        time::sleep(Duration::from_secs(1) / shared.rate.load(Ordering::Relaxed)).await;
    }
}

async fn one(shared: &Shared) {
    let (id, started) = {
        let mut book = shared.book.lock();
        book.next += 1;
        let (id, started) = (book.next, shared.epoch.elapsed());
        book.open.insert(id, started);
        (id, started)
    };
    let outcome = time::timeout(REQUEST_TIMEOUT, request(&shared.target, id))
        .await
        .unwrap_or(Outcome::TimedOut);
    let mut book = shared.book.lock();
    book.open.remove(&id);
    book.done.push(Record {
        id,
        started,
        ended: shared.epoch.elapsed(),
        outcome,
    });
}
