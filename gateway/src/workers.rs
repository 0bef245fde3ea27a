//! The data workers: one thread, one current-thread runtime each.
//!
//! Owns threads and their end. A panic of one task ends that task, of a tunnel worker ends it with an error log and a mark that cli
//! reads; others go on.

use std::{panic::AssertUnwindSafe, sync::Arc, thread::JoinHandle};

use parking_lot::Mutex;
use strait_federation_api::Reason;
use strait_proxy::{Acceptor, Shared, Worker};
use strait_tunnel::TunnelWorker;
use tokio::{
    runtime::{Builder, Handle},
    sync::watch,
};

use crate::GatewayError;

/// One data worker as others reach it.
pub(crate) struct DataWorker {
    pub(crate) proxy: Arc<Worker>,
    pub(crate) runtime: Handle,
}

/// All data workers.
pub(crate) struct Workers {
    all: Vec<DataWorker>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Workers {
    /// Starts a thread for each tunnel worker. `failed` is set to why when one of them ends by itself.
    pub(crate) fn start(
        tunnels: Vec<TunnelWorker>,
        shared: &Arc<Shared>,
        failed: &watch::Sender<Option<String>>,
    ) -> Result<Self, GatewayError> {
        let mut all = Vec::new();
        let mut threads = Vec::new();
        for tunnel in tunnels {
            let worker = tunnel.index();
            let failing = |source| GatewayError::Worker { worker, source };
            let proxy = Worker::new(worker, Arc::clone(shared));
            let runtime = Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(failing)?;
            let handle = runtime.handle().clone();
            let (running, failed) = (Arc::clone(&proxy), failed.clone());
            let thread = std::thread::Builder::new()
                .name(format!("strait-data-{worker}"))
                .spawn(move || {
                    run(&runtime, tunnel, running, &failed);
                    // Tasks are dropped where they are: sockets are reset, streams too.
                    runtime.shutdown_background();
                })
                .map_err(failing)?;
            threads.push(thread);
            all.push(DataWorker {
                proxy,
                runtime: handle,
            });
        }
        Ok(Self {
            all,
            threads: Mutex::new(threads),
        })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &DataWorker> {
        self.all.iter()
    }

    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    /// Resets every flow.
    pub(crate) fn end_all(&self, reason: Reason) {
        self.all.iter().for_each(|worker| worker.proxy.end_all(reason));
    }

    /// Waits for the threads after the tunnels were closed.
    pub(crate) async fn join(&self) {
        let threads = std::mem::take(&mut *self.threads.lock());
        let joined = tokio::task::spawn_blocking(move || {
            for thread in threads {
                // A panic was reported where it happened.
                let _ = thread.join();
            }
        });
        let _ = joined.await;
    }
}

fn run(
    runtime: &tokio::runtime::Runtime,
    tunnel: TunnelWorker,
    proxy: Arc<Worker>,
    failed: &watch::Sender<Option<String>>,
) {
    let index = tunnel.index();
    let driving = AssertUnwindSafe(|| {
        runtime.block_on(async {
            tokio::spawn(Arc::clone(&proxy).sweep());
            tunnel.run(Arc::new(Acceptor(proxy))).await
        })
    });
    let why = match std::panic::catch_unwind(driving) {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error.to_string(),
        Err(_) => "it panicked".to_owned(),
    };
    tracing::error!(
        worker = index,
        reason = Reason::Internal.name(),
        why,
        "a data worker ended"
    );
    failed.send_replace(Some(format!("data worker {index} ended: {why}")));
}
