//! Addresses of a name.
//!
//! Owns the lookups under way, at most one of each name, shared by all who ask for it. A lookup is a call of the system's resolver on a
//! thread of its own that nothing can end; who stops waiting leaves it behind, and starting another each time would fill the process
//! with them when the resolver is dead. Never caches: that is the resolver's. Called by [`crate::dial`], from every worker.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, ToSocketAddrs},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::watch, time::timeout};

/// A resolver that takes longer is as good as none.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the resolver said; the error in its words.
type Answer = Result<Vec<IpAddr>, String>;
type Running = Arc<Mutex<HashMap<Arc<str>, watch::Receiver<Option<Answer>>>>>;
type System = dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync;

/// See the module.
pub(crate) struct Resolver {
    system: Arc<System>,
    running: Running,
}

impl Default for Resolver {
    fn default() -> Self {
        // The port is the caller's: lookups of two ports are one.
        let addresses = |host: &str| Ok((host, 0).to_socket_addrs()?.map(|found| found.ip()).collect());
        Self::new(addresses)
    }
}

impl Resolver {
    fn new(system: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static) -> Self {
        Self {
            system: Arc::new(system),
            running: Running::default(),
        }
    }

    /// Asks for `host`, or waits for the answer that somebody else has asked for.
    ///
    /// # Errors
    /// The resolver's words, or that it has none in time.
    pub(crate) async fn addresses(&self, host: &str) -> Answer {
        let mut answer = self.lookup(host);
        let silent = || "the resolver does not answer".to_owned();
        match timeout(PATIENCE, answer.wait_for(Option::is_some)).await {
            Ok(Ok(answer)) => answer.clone().unwrap_or_else(|| Err(silent())),
            Ok(Err(_)) => Err("the lookup was given up".into()),
            Err(_) => Err(silent()),
        }
    }

    fn lookup(&self, host: &str) -> watch::Receiver<Option<Answer>> {
        let (tell, answer) = watch::channel(None);
        let host: Arc<str> = host.into();
        {
            let mut running = self.running.lock();
            if let Some(under_way) = running.get(&host) {
                return under_way.clone();
            }
            running.insert(Arc::clone(&host), answer.clone());
        }
        let listed = Listed {
            running: Arc::clone(&self.running),
            host,
        };
        let system = Arc::clone(&self.system);
        // Not under the lock: a runtime that is going away drops the closure at once.
        tokio::task::spawn_blocking(move || {
            let found = system(&listed.host).map_err(|error| error.to_string());
            // First off the list, so that who asks after the answer gets a new one.
            drop(listed);
            tell.send_replace(Some(found));
        });
        answer
    }
}

/// Takes a lookup off the list when it ends, also if it never ran.
struct Listed {
    running: Running,
    host: Arc<str>,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.running.lock().remove(&self.host);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    };

    use futures_util::future::join_all;

    use super::*;

    const FOUND: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    /// A resolver that answers when told, and how often it was called.
    fn silent() -> (Arc<Resolver>, mpsc::Sender<()>, Arc<AtomicUsize>) {
        let (go, wait) = mpsc::channel();
        let (wait, calls) = (Mutex::new(wait), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&calls);
        let resolver = Resolver::new(move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            // Ends with the test at the latest.
            let _ = wait.lock().recv();
            Ok(vec![FOUND])
        });
        (Arc::new(resolver), go, calls)
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_resolver_holds_one_thread_a_name_however_often_it_is_asked() {
        let (resolver, go, calls) = silent();
        for _ in 0..5 {
            let asking = join_all((0..16).map(|_| resolver.addresses("gw.example")));
            // The clock does not move by itself while a thread is held.
            let (asked, ()) = tokio::join!(asking, tokio::time::advance(2 * PATIENCE));
            assert!(
                asked
                    .iter()
                    .all(|a| a.as_ref().unwrap_err().contains("not answer"))
            );
        }
        assert_eq!(resolver.running.lock().len(), 1);
        assert!(calls.load(Ordering::SeqCst) <= 1);
        drop(go);
    }

    #[tokio::test]
    async fn later_callers_get_the_answer_of_the_one_under_way_and_the_next_asks_anew() {
        let (resolver, go, calls) = silent();
        let asked: Vec<_> = (0..16)
            .map(|_| {
                let resolver = Arc::clone(&resolver);
                tokio::spawn(async move { resolver.addresses("gw.example").await })
            })
            .collect();
        // The test has one thread: all have asked once they have run.
        while Arc::strong_count(&resolver) < 17 || resolver.running.lock().is_empty() {
            tokio::task::yield_now().await;
        }
        tokio::task::yield_now().await;
        go.send(()).unwrap();
        for answer in join_all(asked).await {
            assert_eq!(answer.unwrap(), Ok(vec![FOUND]));
        }
        assert_eq!(calls.load(Ordering::SeqCst), 1);
        go.send(()).unwrap();
        assert_eq!(resolver.addresses("gw.example").await, Ok(vec![FOUND]));
        assert_eq!(calls.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn an_error_is_told_in_the_resolvers_words() {
        let resolver = Resolver::new(|_| Err(io::Error::other("no such name")));
        assert_eq!(
            resolver.addresses("gw.example").await,
            Err("no such name".to_owned())
        );
        assert!(resolver.running.lock().is_empty());
    }
}
