//! From the addresses of a snapshot to bound listeners.
//!
//! Owns which listeners exist, what became of those that cannot, and their retry. The accept loops run on the data workers; what a
//! connection leads to is looked up at each one, so a change of an import touches no listener.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use strait_federation_api::{
    ServiceKey,
    catalog::Protocol,
    observation::{ListenError, ListenerStatus, Observation},
};
use strait_proxy::{Entry, View, accept_loop, listen};
use tokio::task::AbortHandle;

use crate::{outbox::Outbox, workers::Workers};

/// Time between two tries of a port that could not be bound.
const RETRY: Duration = Duration::from_secs(5);

type At = (IpAddr, u16);

struct Listener {
    service: ServiceKey,
    bound: Result<SocketAddr, ListenError>,
    loops: Vec<AbortHandle>,
    retry_at: Instant,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.loops.iter().for_each(AbortHandle::abort);
    }
}

/// See the module.
pub(crate) struct Listeners {
    workers: Arc<Workers>,
    outbox: Outbox,
    held: BTreeMap<At, Listener>,
    socks: Vec<AbortHandle>,
}

impl Listeners {
    pub(crate) const fn new(workers: Arc<Workers>, outbox: Outbox) -> Self {
        Self {
            workers,
            outbox,
            held: BTreeMap::new(),
            socks: Vec::new(),
        }
    }

    /// Binds the SOCKS5 listener.
    pub(crate) fn socks(&mut self, address: SocketAddr) -> Result<SocketAddr, ListenError> {
        let bound = listen::bind(address, self.workers.len(), false)?;
        let address = bound.address;
        self.socks = self.start(bound, Entry::Socks);
        Ok(address)
    }

    /// Makes listeners be what `view` says, and retries those that are due.
    pub(crate) fn reconcile(&mut self, view: &View, now: Instant) {
        let wanted = view.targets();
        self.held.retain(|at, _| wanted.contains_key(at));
        for (at, target) in wanted {
            let (served, failed_before) = match self.held.get_mut(at) {
                Some(listener) => {
                    if listener.service != target.service {
                        listener.service = target.service.clone();
                        tell(&self.outbox, *at, listener);
                    }
                    (
                        listener.bound.is_ok() || now < listener.retry_at,
                        listener.bound.clone().err(),
                    )
                }
                None => (false, None),
            };
            if !served {
                self.bind(*at, &target.service, failed_before, now);
            }
        }
    }

    fn bind(&mut self, at: At, service: &ServiceKey, before: Option<ListenError>, now: Instant) {
        let address = SocketAddr::from(at);
        let (bound, loops) = match listen::bind(address, self.workers.len(), true) {
            Ok(bound) => {
                let address = bound.address;
                (Ok(address), self.start(bound, Entry::Vip(at.0, at.1)))
            }
            Err(error) => (Err(error), Vec::new()),
        };
        let changed = before.is_none() || bound.as_ref().err() != before.as_ref();
        let listener = Listener {
            service: service.clone(),
            bound,
            loops,
            retry_at: now + RETRY,
        };
        if changed {
            if let Err(error) = &listener.bound {
                tracing::warn!(
                    reason = error.reason.name(), %service, vip = %at.0, port = at.1, detail = error.detail,
                    "VIP port is not served; the SOCKS listener serves it"
                );
            }
            tell(&self.outbox, at, &listener);
        }
        self.held.insert(at, listener);
    }

    fn start(&self, bound: listen::Bound, entry: Entry) -> Vec<AbortHandle> {
        let each = self.workers.iter().zip(bound.sockets);
        each.map(|(worker, socket)| {
            let accepting = accept_loop(Arc::clone(&worker.proxy), socket, entry);
            let task = worker.runtime.spawn(async move {
                if let Err(error) = accepting.await {
                    tracing::error!(?entry, %error, "listener ended");
                }
            });
            task.abort_handle()
        })
        .collect()
    }

    /// Closes every listener: new clients go elsewhere.
    pub(crate) fn close(&mut self) {
        self.held.clear();
        self.socks.drain(..).for_each(|task| task.abort());
    }

    /// For people.
    pub(crate) fn status(&self) -> Vec<ListenerStatus> {
        let each = self.held.iter().map(|(at, listener)| ListenerStatus {
            service: listener.service.clone(),
            vip: at.0,
            protocol: Protocol::Tcp,
            port: at.1,
            bound: listener.bound.clone(),
        });
        each.collect()
    }
}

fn tell(outbox: &Outbox, at: At, listener: &Listener) {
    outbox.put(Observation::Listener {
        service: listener.service.clone(),
        vip: at.0,
        port: at.1,
        bound: listener.bound.clone(),
    });
}
