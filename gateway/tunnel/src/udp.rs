//! The socket quinn sees: steering on the way in, coalescing on the way out.
//!
//! Owns reading and writing of one UDP socket. While a driver of this socket is polled, sends gather in a thread-local batch that is
//! flushed when the poll ends; at any other time they go out at once. Used by [`crate::runtime`].

use std::{
    cell::RefCell,
    io::{self, IoSliceMut},
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use parking_lot::Mutex;
use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit, UdpSocketState},
};
use tokio::io::Interest;

use crate::{batch::Batch, steer::Steering};

/// Receive errors in a row after which a socket is given up, and built again, instead of being asked for ever.
const MAX_FAILURES: u32 = 64;

thread_local! {
    /// The batch of the driver that is polled on this thread, and its socket's id (0: none is polled).
    static GATHERING: RefCell<(u64, Batch)> = RefCell::default();
}

/// Ids tell sockets of one thread apart; 0 is never given.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// One UDP socket of one worker.
#[derive(Debug)]
pub(crate) struct WorkerSocket {
    id: u64,
    io: tokio::net::UdpSocket,
    state: UdpSocketState,
    /// Our index and the inboxes, where several workers share the port.
    steering: Option<(usize, Arc<Steering>)>,
    /// A send met a full kernel buffer and no wait for room has ended since.
    blocked: AtomicBool,
    /// A batch that met a full kernel buffer when its driver had already returned: quinn takes it for sent.
    leftover: Mutex<Batch>,
    batches: AtomicU64,
}

impl WorkerSocket {
    /// Registers `socket` with the runtime it is called on.
    pub(crate) fn new(
        socket: std::net::UdpSocket,
        steering: Option<(usize, Arc<Steering>)>,
    ) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            state: UdpSocketState::new((&socket).into())?,
            io: tokio::net::UdpSocket::from_std(socket)?,
            steering,
            blocked: AtomicBool::new(false),
            leftover: Mutex::default(),
            batches: AtomicU64::new(0),
        }))
    }

    /// Segments one send may carry now: 1 when offload is not there or broke.
    pub(crate) fn gso_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    /// Batches sent so far.
    pub(crate) fn batches(&self) -> u64 {
        self.batches.load(Ordering::Relaxed)
    }

    /// From here to the guard's drop, this thread's sends on this socket are gathered.
    pub(crate) fn gather(self: &Arc<Self>) -> Gathering {
        GATHERING.with_borrow_mut(|gathering| gathering.0 = self.id);
        Gathering(Arc::clone(self))
    }

    fn send_now(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let result = self.io.try_io(Interest::WRITABLE, || {
            if transmit.segment_size.is_none() {
                // Logs what is not `WouldBlock`, at a bounded rate, and takes it for sent: QUIC resends.
                return self.state.send((&self.io).into(), transmit);
            }
            match self.state.try_send((&self.io).into(), transmit) {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => self.send_singly(transmit),
                other => other,
            }
        });
        if matches!(&result, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
            self.blocked.store(true, Ordering::Release);
        }
        result
    }

    /// The kernel refused a batch (offload may have broken under us): its packets one by one, so that none is lost for it.
    fn send_singly(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let size = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        for contents in transmit.contents.chunks(size) {
            let one = Transmit {
                contents,
                segment_size: None,
                ..*transmit
            };
            // A full buffer here loses the rest of one batch, once, on the way to single sends.
            let _ = self.state.send((&self.io).into(), &one);
        }
        Ok(())
    }

    fn enqueue(&self, batch: &mut Batch, transmit: &Transmit<'_>) -> io::Result<()> {
        self.send_leftover()?;
        // Read every time: it drops to 1 when the kernel refuses offload.
        let max_segments = self.state.max_gso_segments();
        if max_segments > 1 && batch.append(transmit, max_segments) {
            return Ok(());
        }
        self.flush(batch)?;
        if max_segments > 1 && batch.append(transmit, max_segments) {
            return Ok(());
        }
        self.send_now(transmit)
    }

    fn flush(&self, batch: &mut Batch) -> io::Result<()> {
        if let Some(transmit) = batch.transmit() {
            self.send_now(&transmit)?;
            batch.clear();
            self.batches.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn send_leftover(&self) -> io::Result<()> {
        let mut leftover = self.leftover.lock();
        if leftover.is_empty() {
            Ok(())
        } else {
            self.flush(&mut leftover)
        }
    }

    /// Nobody waits for the socket on behalf of a leftover, so a task does.
    fn send_when_writable(self: Arc<Self>) {
        tokio::spawn(async move {
            while self.io.writable().await.is_ok() {
                self.blocked.store(false, Ordering::Release);
                if self.send_leftover().is_ok() {
                    return;
                }
            }
        });
    }
}

/// Ends the gathering and flushes, also when the driver panics.
#[derive(Debug)]
pub(crate) struct Gathering(Arc<WorkerSocket>);

impl Drop for Gathering {
    fn drop(&mut self) {
        GATHERING.with_borrow_mut(|(owner, batch)| {
            *owner = 0;
            if self.0.flush(batch).is_ok() {
                return;
            }
            // `enqueue` gathers only once the leftover is out, so its place is free.
            std::mem::swap(&mut *self.0.leftover.lock(), batch);
            Arc::clone(&self.0).send_when_writable();
        });
    }
}

impl AsyncUdpSocket for WorkerSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Poller {
            socket: self,
            waiting: None,
        })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        GATHERING.with_borrow_mut(|(owner, batch)| {
            if *owner == self.id {
                self.enqueue(batch, transmit)
            } else {
                self.send_now(transmit)
            }
        })
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        if let Some((me, steering)) = &self.steering {
            let count = steering.collect(*me, cx, buffers, metas);
            if count > 0 {
                return Poll::Ready(Ok(count));
            }
        }
        let mut failures = 0;
        loop {
            ready!(self.io.poll_recv_ready(cx))?;
            let received = self.io.try_io(Interest::READABLE, || {
                self.state.recv((&self.io).into(), buffers, metas)
            });
            match received {
                Ok(count) => {
                    if let Some((me, steering)) = &self.steering {
                        for (buffer, meta) in buffers.iter_mut().zip(&mut *metas).take(count) {
                            steering.sort(*me, buffer, meta);
                        }
                    }
                    return Poll::Ready(Ok(count));
                }
                // Readiness is cleared: the next turn waits.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // Single errors are another packet's (an ICMP answer) and mean nothing for QUIC.
                Err(_) if failures < MAX_FAILURES => failures += 1,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.state.gro_segments()
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }
}

type Waiting = Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>;

/// Waits for room in the send buffer on behalf of one connection; costs nothing while there is room.
struct Poller {
    socket: Arc<WorkerSocket>,
    waiting: Option<Waiting>,
}

impl std::fmt::Debug for Poller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Poller")
    }
}

impl UdpPoller for Poller {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.waiting.is_none() && !self.socket.blocked.load(Ordering::Acquire) {
            return Poll::Ready(Ok(()));
        }
        let socket = Arc::clone(&self.socket);
        let waiting = self
            .waiting
            .get_or_insert_with(|| Box::pin(async move { socket.io.writable().await }));
        let result = ready!(waiting.as_mut().poll(cx));
        self.waiting = None;
        self.socket.blocked.store(false, Ordering::Release);
        Poll::Ready(result)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::UdpSocket;

    use super::*;

    async fn sockets() -> (Arc<WorkerSocket>, UdpSocket) {
        let receiver = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        (WorkerSocket::new(sender, None).unwrap(), receiver)
    }

    fn send(socket: &WorkerSocket, to: &UdpSocket, contents: &[u8]) {
        let transmit = Transmit {
            destination: to.local_addr().unwrap(),
            ecn: None,
            contents,
            segment_size: None,
            src_ip: None,
        };
        socket.try_send(&transmit).unwrap();
    }

    async fn receive(receiver: &UdpSocket) -> Vec<u8> {
        let mut buffer = [0; 2048];
        let received = tokio::time::timeout(Duration::from_secs(10), receiver.recv(&mut buffer));
        let length = received.await.unwrap().unwrap();
        buffer[..length].to_vec()
    }

    #[tokio::test]
    async fn sends_of_one_poll_go_out_in_one_call() {
        let (socket, receiver) = sockets().await;
        socket.io.writable().await.unwrap();
        if socket.gso_segments() == 1 {
            return;
        }
        let gathering = socket.gather();
        (0..30).for_each(|number| send(&socket, &receiver, &[number; 1200]));
        drop(gathering);
        assert_eq!(socket.batches(), 1);
        for number in 0..30 {
            assert_eq!(receive(&receiver).await, [number; 1200]);
        }
    }

    #[tokio::test]
    async fn a_batch_that_meets_a_full_socket_is_kept_and_sent_later() {
        let (socket, receiver) = sockets().await;
        // The reactor has not yet said that the socket is writable, so the flush would block.
        let gathering = socket.gather();
        send(&socket, &receiver, &[1; 100]);
        drop(gathering);
        assert_eq!(socket.batches(), 0);
        assert_eq!(receive(&receiver).await, [1; 100]);
        // And nothing is out of order afterwards.
        let gathering = socket.gather();
        send(&socket, &receiver, &[2; 100]);
        drop(gathering);
        assert_eq!(receive(&receiver).await, [2; 100]);
    }

    #[tokio::test]
    async fn outside_a_driver_sends_go_out_at_once() {
        let (socket, receiver) = sockets().await;
        socket.io.writable().await.unwrap();
        send(&socket, &receiver, &[3; 100]);
        assert_eq!(receive(&receiver).await, [3; 100]);
        assert_eq!(socket.batches(), 0);
    }
}
