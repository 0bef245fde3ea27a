//! The runtime quinn sees: its drivers, wrapped.
//!
//! Owns three things around every driver that quinn spawns. Sends are gathered over a whole poll, and over repeated polls while a
//! connection has more to send. A panic in a connection's driver stays in that connection. And the end of an endpoint's driver is
//! told, so that the worker can build a new one. Used by [`crate::endpoint`].
//!
//! What cannot be had with quinn 0.11: surviving a panic inside the *endpoint's* driver or while its lock is held. Its drop locks the
//! mutex that the panic has just poisoned, and a panic during a panic aborts the process. A supervisor then starts it again, and
//! the kept keys of [`crate::TunnelConfig`] let peers notice within a round trip.

use std::{
    cell::RefCell,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Instant,
};

use futures_util::task::AtomicWaker;
use quinn::{AsyncTimer, AsyncUdpSocket, Runtime};
use tokio::{runtime::Handle, sync::Notify};

use crate::{counters::Counters, udp::WorkerSocket};

/// Polls of a connection's driver in a row while it has more to send. Quinn yields every 20 datagrams: so many polls fill several
/// of the kernel's batches of 64 and still end within about a millisecond.
const MAX_POLLS: u32 = 20;

type DriverFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

thread_local! {
    /// Whom the connection driver spawned next on this thread belongs to.
    static NEXT_HEALTH: RefCell<Option<Arc<Health>>> = const { RefCell::new(None) };
}

/// Whether a connection's driver panicked: its mutex is then poisoned, and quinn's handles panic on any touch, even when dropped.
#[derive(Debug, Default)]
pub(crate) struct Health {
    broken: AtomicBool,
    notify: Notify,
}

impl Health {
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    pub(crate) fn break_(&self) {
        self.broken.store(true, Ordering::Release);
        self.notify.notify_waiters();
    }

    /// Resolves when the driver has panicked.
    pub(crate) async fn broken(&self) {
        loop {
            let notified = self.notify.notified();
            if self.is_broken() {
                return;
            }
            notified.await;
        }
    }
}

/// Runs `start`, which makes one connection; its driver's panic is then seen in the returned value.
pub(crate) fn with_health<T>(start: impl FnOnce() -> T) -> (T, Arc<Health>) {
    let health = Arc::new(Health::default());
    NEXT_HEALTH.set(Some(Arc::clone(&health)));
    let made = start();
    NEXT_HEALTH.set(None);
    (made, health)
}

/// Quinn's runtime for one endpoint.
#[derive(Debug)]
pub(crate) struct WorkerRuntime {
    handle: Handle,
    socket: Arc<WorkerSocket>,
    coalesce: bool,
    counters: Arc<Counters>,
    /// The first driver spawned is the endpoint's.
    endpoint_spawned: AtomicBool,
    endpoint_ended: Arc<Health>,
}

impl WorkerRuntime {
    /// For an endpoint on `socket`; drivers run on the present runtime. The second value breaks when the endpoint's driver ends.
    pub(crate) fn new(
        socket: Arc<WorkerSocket>,
        coalesce: bool,
        counters: Arc<Counters>,
    ) -> (Arc<Self>, Arc<Health>) {
        let endpoint_ended = Arc::new(Health::default());
        let runtime = Self {
            handle: Handle::current(),
            socket,
            coalesce,
            counters,
            endpoint_spawned: AtomicBool::new(false),
            endpoint_ended: Arc::clone(&endpoint_ended),
        };
        (Arc::new(runtime), endpoint_ended)
    }
}

impl Runtime for WorkerRuntime {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        Box::pin(tokio::time::sleep_until(at.into()))
    }

    fn spawn(&self, future: DriverFuture) {
        let is_endpoint = !self.endpoint_spawned.swap(true, Ordering::AcqRel);
        let (health, max_polls) = if is_endpoint {
            (Arc::clone(&self.endpoint_ended), 1)
        } else {
            (NEXT_HEALTH.take().unwrap_or_default(), MAX_POLLS)
        };
        self.handle.spawn(Driver {
            future: Some(future),
            gather: self.coalesce.then(|| Arc::clone(&self.socket)),
            max_polls: if self.coalesce { max_polls } else { 1 },
            woken: Arc::default(),
            counters: Arc::clone(&self.counters),
            is_endpoint,
            health,
        });
    }

    /// Never used: endpoints are given their socket.
    fn wrap_udp_socket(&self, socket: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        Ok(WorkerSocket::new(socket, None)?)
    }

    fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }
}

/// Nobody polls: a wake goes to the task.
const IDLE: u8 = 0;
/// Polled right now.
const POLLING: u8 = 1;
/// Polled right now, and woken meanwhile.
const WOKEN: u8 = 2;

/// Notices a driver that wakes itself while it is polled, without a detour over the scheduler.
#[derive(Debug, Default)]
struct SelfWake {
    state: AtomicU8,
    task: AtomicWaker,
}

impl Wake for SelfWake {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let polling = self
            .state
            .compare_exchange(POLLING, WOKEN, Ordering::AcqRel, Ordering::Acquire);
        if polling == Err(IDLE) {
            self.task.wake();
        }
    }
}

struct Driver {
    /// `None` after the end.
    future: Option<DriverFuture>,
    gather: Option<Arc<WorkerSocket>>,
    max_polls: u32,
    woken: Arc<SelfWake>,
    counters: Arc<Counters>,
    is_endpoint: bool,
    health: Arc<Health>,
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.woken.task.register(cx.waker());
        let polled = catch_unwind(AssertUnwindSafe(|| self.poll_gathering()));
        match polled {
            Ok(Poll::Pending) => {
                // A wake between the last look and here must not be lost.
                if self.woken.state.swap(IDLE, Ordering::AcqRel) == WOKEN {
                    cx.waker().wake_by_ref();
                }
                return Poll::Pending;
            }
            Ok(Poll::Ready(())) => {
                if self.is_endpoint {
                    self.health.break_();
                }
            }
            Err(_) => self.panicked(),
        }
        Poll::Ready(())
    }
}

impl Driver {
    fn poll_gathering(&mut self) -> Poll<()> {
        let _gathering = self.gather.as_ref().map(WorkerSocket::gather);
        let Some(future) = &mut self.future else {
            return Poll::Ready(());
        };
        let waker = Waker::from(Arc::clone(&self.woken));
        let mut cx = Context::from_waker(&waker);
        for _ in 0..self.max_polls {
            self.woken.state.store(POLLING, Ordering::Release);
            if future.as_mut().poll(&mut cx).is_ready() {
                self.future = None;
                return Poll::Ready(());
            }
            if self.woken.state.load(Ordering::Acquire) != WOKEN {
                break;
            }
        }
        Poll::Pending
    }

    /// The panic's message was printed by the panic hook.
    fn panicked(&mut self) {
        self.counters.driver_panics.add(1);
        tracing::error!(
            reason = "Internal",
            endpoint = self.is_endpoint,
            "a QUIC driver panicked; its connections are lost, others go on"
        );
        // Dropping it touches the poisoned mutex and may panic again.
        let future = self.future.take();
        let _ = catch_unwind(AssertUnwindSafe(|| drop(future)));
        self.health.break_();
    }
}

/// A quinn handle that is forgotten instead of dropped when its driver panicked: the drop would panic, and a second panic aborts.
#[derive(Debug)]
pub(crate) struct Guarded<T> {
    inner: Option<T>,
    health: Arc<Health>,
}

impl<T> Guarded<T> {
    pub(crate) const fn new(inner: T, health: Arc<Health>) -> Self {
        Self {
            inner: Some(inner),
            health,
        }
    }

    /// The handle, while it may be touched.
    pub(crate) fn get(&self) -> Option<&T> {
        self.inner.as_ref().filter(|_| !self.health.is_broken())
    }

    /// As [`get`](Self::get).
    pub(crate) fn get_mut(&mut self) -> Option<&mut T> {
        self.inner.as_mut().filter(|_| !self.health.is_broken())
    }

    pub(crate) const fn health(&self) -> &Arc<Health> {
        &self.health
    }
}

impl<T> Drop for Guarded<T> {
    fn drop(&mut self) {
        if self.health.is_broken() {
            std::mem::forget(self.inner.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    fn driver(future: DriverFuture, max_polls: u32) -> Driver {
        Driver {
            future: Some(future),
            gather: None,
            max_polls,
            woken: Arc::default(),
            counters: Arc::default(),
            is_endpoint: false,
            health: Arc::default(),
        }
    }

    /// Counts task wakes.
    #[derive(Default)]
    struct Count(AtomicU32);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_driver_that_wakes_itself_is_polled_again_up_to_the_limit_and_then_scheduled() {
        let polls = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&polls);
        let busy = Box::pin(std::future::poll_fn(move |cx| {
            count.fetch_add(1, Ordering::Relaxed);
            cx.waker().wake_by_ref();
            Poll::<()>::Pending
        }));
        let wakes = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&wakes));
        let mut driver = driver(busy, 5);
        assert!(
            Pin::new(&mut driver)
                .poll(&mut Context::from_waker(&waker))
                .is_pending()
        );
        assert_eq!(
            (polls.load(Ordering::Relaxed), wakes.0.load(Ordering::Relaxed)),
            (5, 1)
        );
    }

    #[test]
    fn a_wake_from_outside_reaches_the_task() {
        let held: Arc<parking_lot::Mutex<Option<Waker>>> = Arc::default();
        let given = Arc::clone(&held);
        let quiet = Box::pin(std::future::poll_fn(move |cx| {
            *given.lock() = Some(cx.waker().clone());
            Poll::<()>::Pending
        }));
        let wakes = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&wakes));
        let mut driver = driver(quiet, 5);
        assert!(
            Pin::new(&mut driver)
                .poll(&mut Context::from_waker(&waker))
                .is_pending()
        );
        assert_eq!(wakes.0.load(Ordering::Relaxed), 0);
        held.lock().take().unwrap().wake();
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_panic_ends_the_driver_only() {
        let mut driver = driver(Box::pin(async { panic!("made by a test") }), 5);
        let health = Arc::clone(&driver.health);
        let counters = Arc::clone(&driver.counters);
        assert!(
            Pin::new(&mut driver)
                .poll(&mut Context::from_waker(Waker::noop()))
                .is_ready()
        );
        assert!(health.is_broken());
        assert_eq!(counters.driver_panics.get(), 1);
    }

    #[test]
    fn a_handle_of_a_broken_connection_is_never_touched_again() {
        struct Explodes;
        impl Drop for Explodes {
            fn drop(&mut self) {
                panic!("dropped");
            }
        }
        let health = Arc::new(Health::default());
        let guarded = Guarded::new(Explodes, Arc::clone(&health));
        assert!(guarded.get().is_some());
        health.break_();
        assert!(guarded.get().is_none());
        drop(guarded);
    }
}
