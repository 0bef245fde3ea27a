//! Tasks whose panic ends nothing else.
//!
//! Owns the one way in which this crate spawns work for a single connection.

use std::{panic::AssertUnwindSafe, sync::Arc};

use futures_util::FutureExt;

use crate::counters::Counters;

/// Runs `task` so that its panic ends nothing else; the panic hook has printed it.
pub(crate) fn isolated(counters: Arc<Counters>, task: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(async move {
        if AssertUnwindSafe(task).catch_unwind().await.is_err() {
            counters.task_panics.add(1);
            tracing::error!(reason = "Internal", "a connection task panicked; others go on");
        }
    });
}
