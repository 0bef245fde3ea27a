//! One candidate being tried, as a future.
//!
//! Owns opening a tunnel stream with its header, reading the answer, and sending kept payload meanwhile; or dialling a local endpoint. Dropping a
//! [`Running`] resets what it opened. Decides nothing: [`crate::attempt`] does. Called by `connect`.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use strait_federation_api::{ClusterId, Reason};
use strait_tunnel::{RecvHalf, SendHalf, StreamError, Tunnel};

use crate::{
    accept::read_frame,
    attempt::{TryId, patience},
    copy::Pending,
    endpoint::Connected,
    header::{Answer, Refusal, Request},
};

type Task<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What a try reports.
pub(crate) enum Event {
    /// The header is out; an answer later than this is overdue.
    Opened(Duration),
    /// The far side said no.
    Refused(Refusal),
    /// The tunnel is silent, and may be dead.
    Suspected,
    /// The stream or tunnel ended before an answer, or never was.
    Lost(Reason, String),
    /// The far side said yes: take it with [`Running::into_exit`].
    Accepted,
}

/// A way that said yes.
pub(crate) enum Exit {
    Tunnel {
        send: SendHalf,
        recv: RecvHalf,
        early: Pending,
        peer: ClusterId,
    },
    Local(Connected),
}

enum Driver {
    Open(Task<Result<(SendHalf, RecvHalf), Reason>>),
    Answer(Task<AnswerRead>),
    Local(Task<Result<Connected, Refusal>>),
    Done,
}

type AnswerRead = Result<(Answer, RecvHalf, Pending), (Reason, String)>;

enum Sender {
    /// Not open yet, or local.
    None,
    Idle(SendHalf),
    /// Gives the half back, or nothing when it broke: the answer tells why.
    Busy(Task<Option<SendHalf>>),
}

/// See the module.
pub(crate) struct Running {
    tunnel: Option<Arc<Tunnel>>,
    /// Resolves when the tunnel is suspect; armed again with each payload.
    suspicion: Option<Task<()>>,
    driver: Driver,
    sender: Sender,
    queued: VecDeque<Bytes>,
    answered: Option<(RecvHalf, Pending)>,
    connected: Option<Connected>,
}

impl Running {
    /// Opens a stream on `tunnel` and sends `request` on it.
    pub(crate) fn tunnel(tunnel: Arc<Tunnel>, request: &Request) -> Self {
        let header = request.encode();
        let on = Arc::clone(&tunnel);
        let open = async move {
            let (mut send, recv) = on.open().await.map_err(|error| error.reason())?;
            send.write_chunk(header).await.map_err(StreamError::reason)?;
            Ok((send, recv))
        };
        Self::new(Some(tunnel), Driver::Open(Box::pin(open)))
    }

    /// Dials a local endpoint.
    pub(crate) fn local(dial: impl Future<Output = Result<Connected, Refusal>> + Send + 'static) -> Self {
        Self::new(None, Driver::Local(Box::pin(dial)))
    }

    fn new(tunnel: Option<Arc<Tunnel>>, driver: Driver) -> Self {
        Self {
            suspicion: tunnel.clone().map(suspicion),
            tunnel,
            driver,
            sender: Sender::None,
            queued: VecDeque::new(),
            answered: None,
            connected: None,
        }
    }

    /// Its tunnel was heard from within its [`patience`].
    pub(crate) fn is_fresh(&self, now: Instant) -> bool {
        self.tunnel
            .as_ref()
            .is_some_and(|t| t.is_usable() && t.silent_for(now) <= patience(t.rtt()))
    }

    /// Sends payload behind what was sent before.
    pub(crate) fn send(&mut self, payload: Bytes) {
        if self.suspicion.is_none() {
            self.suspicion = self.tunnel.clone().map(suspicion);
        }
        self.queued.push_back(payload);
    }

    /// Drives it; ready when there is something to report.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        // The order matters: a half that comes back takes the next chunk at once.
        self.poll_sender(cx);
        let polled = self.poll_driver(cx);
        if polled.is_ready() || matches!(self.driver, Driver::Done) {
            return polled;
        }
        // Only after the answer had its turn: one that came is worth more than any doubt.
        let doubted = |suspicion: &mut Task<()>| suspicion.as_mut().poll(cx).is_ready();
        if self.suspicion.as_mut().is_some_and(doubted) {
            self.suspicion = None;
            return Poll::Ready(Event::Suspected);
        }
        Poll::Pending
    }

    fn poll_driver(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        match &mut self.driver {
            Driver::Done => Poll::Pending,
            Driver::Open(open) => match open.as_mut().poll(cx) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Ok((send, recv))) => Poll::Ready(self.opened(send, recv)),
                Poll::Ready(Err(reason)) => self.done(Event::Lost(reason, String::new())),
            },
            Driver::Answer(answer) => match answer.as_mut().poll(cx) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Ok((Answer::Ok, recv, early))) => {
                    self.answered = Some((recv, early));
                    self.done(Event::Accepted)
                }
                Poll::Ready(Ok((Answer::Refused(refusal), ..))) => self.done(Event::Refused(refusal)),
                Poll::Ready(Err((reason, words))) => self.done(Event::Lost(reason, words)),
            },
            Driver::Local(dial) => match dial.as_mut().poll(cx) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Ok(connected)) => {
                    self.connected = Some(connected);
                    self.done(Event::Accepted)
                }
                Poll::Ready(Err(refusal)) => self.done(Event::Refused(refusal)),
            },
        }
    }

    fn done(&mut self, event: Event) -> Poll<Event> {
        self.driver = Driver::Done;
        Poll::Ready(event)
    }

    fn opened(&mut self, send: SendHalf, recv: RecvHalf) -> Event {
        self.sender = Sender::Idle(send);
        let rtt = self.tunnel.as_ref().map_or(Duration::ZERO, |t| t.rtt());
        self.driver = Driver::Answer(Box::pin(read_answer(recv)));
        Event::Opened(rtt + patience(rtt))
    }

    fn poll_sender(&mut self, cx: &mut Context<'_>) {
        loop {
            match std::mem::replace(&mut self.sender, Sender::None) {
                Sender::None => return,
                Sender::Idle(mut send) => {
                    if self.queued.is_empty() {
                        self.sender = Sender::Idle(send);
                        return;
                    }
                    let mut chunks: Vec<Bytes> = self.queued.drain(..).collect();
                    self.sender = Sender::Busy(Box::pin(async move {
                        send.write_chunks(&mut chunks).await.ok()?;
                        Some(send)
                    }));
                }
                Sender::Busy(mut task) => match task.as_mut().poll(cx) {
                    Poll::Ready(Some(send)) => self.sender = Sender::Idle(send),
                    Poll::Ready(None) => return,
                    Poll::Pending => {
                        self.sender = Sender::Busy(task);
                        return;
                    }
                },
            }
        }
    }

    /// After [`Event::Accepted`]: waits until kept payload is handed over; `None` when the stream broke meanwhile.
    pub(crate) async fn into_exit(mut self) -> Option<Exit> {
        if let Some(connected) = self.connected {
            return Some(Exit::Local(connected));
        }
        poll_fn(|cx| {
            self.poll_sender(cx);
            match self.sender {
                Sender::Busy(_) => Poll::Pending,
                Sender::Idle(_) | Sender::None => Poll::Ready(()),
            }
        })
        .await;
        let (recv, early) = self.answered?;
        let Sender::Idle(send) = self.sender else {
            return None;
        };
        Some(Exit::Tunnel {
            send,
            recv,
            early,
            peer: self.tunnel?.peer().cluster.clone(),
        })
    }
}

fn suspicion(tunnel: Arc<Tunnel>) -> Task<()> {
    Box::pin(async move { tunnel.lost().await })
}

async fn read_answer(mut recv: RecvHalf) -> AnswerRead {
    let frame = read_frame(&mut recv).await;
    let malformed = |error: &dyn std::fmt::Display| (Reason::Malformed, format!("answer: {error}"));
    match frame {
        Ok(Ok((body, early))) => match Answer::decode(&body) {
            Ok(answer) => Ok((answer, recv, early)),
            Err(error) => Err(malformed(&error)),
        },
        Ok(Err(error)) => Err(malformed(&error)),
        Err(reason) => Err((reason, String::new())),
    }
}

/// The next report of any try.
pub(crate) async fn next_event(
    tries: &mut [Option<Running>],
    id_of: impl Fn(usize) -> TryId,
) -> (TryId, Event) {
    poll_fn(|cx| {
        for (index, slot) in tries.iter_mut().enumerate() {
            if let Some(running) = slot
                && let Poll::Ready(event) = running.poll(cx)
            {
                return Poll::Ready((id_of(index), event));
            }
        }
        Poll::Pending
    })
    .await
}
