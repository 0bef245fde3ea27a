//! gRPC on one control stream: envelopes out, envelopes in.
//!
//! Owns HTTP/2 on a byte stream whose transport is nobody's business: the dialler is the client, the acceptor the server, and
//! there is one call. Dropping a [`Pipe`] closes the stream. Never knows what an envelope says.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use parking_lot::Mutex;
use strait_federation_api::{
    control::{ByteStream, ControlStream, Role},
    exchange::{
        MESSAGE_MAX,
        wire::exchange_v1::{
            Envelope,
            exchange_client::ExchangeClient,
            exchange_server::{Exchange, ExchangeServer},
        },
    },
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};
use tonic::{Request, Response, Status, Streaming, body::Body};

/// Envelopes that wait for the stream: enough to fill a window with small ones, few enough to bound memory with large ones.
const OUT_MAX: usize = 16;
/// The call must be up within this: two round trips of the slowest path, and a busy process.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// One call over one control stream.
pub(super) struct Pipe {
    /// To the peer.
    pub(super) out: mpsc::Sender<Envelope>,
    /// From the peer.
    pub(super) inbound: Streaming<Envelope>,
    _driver: Driver,
}

/// Drives the connection; ends it when dropped.
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Opens the call.
pub(super) async fn open(stream: ControlStream) -> Result<Pipe, String> {
    let opening = async {
        match stream.role {
            Role::Dialler => dial(stream.io).await,
            Role::Acceptor => accept(stream.io).await,
        }
    };
    timeout(OPEN_TIMEOUT, opening)
        .await
        .map_err(|_| "the peer's control plane did not answer in time".to_string())?
}

async fn dial(io: Box<dyn ByteStream>) -> Result<Pipe, String> {
    let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(io))
        .await
        .map_err(|e| e.to_string())?;
    let driver = Driver(tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a control stream ended");
        }
    }));
    let origin = http::Uri::from_static("http://strait");
    let mut client = ExchangeClient::with_origin(OneConnection(sender), origin)
        .max_decoding_message_size(MESSAGE_MAX)
        .max_encoding_message_size(MESSAGE_MAX);
    let (out, envelopes) = mpsc::channel(OUT_MAX);
    let reply = client
        .converse(Queue(envelopes))
        .await
        .map_err(|e| e.to_string())?;
    Ok(Pipe {
        out,
        inbound: reply.into_inner(),
        _driver: driver,
    })
}

async fn accept(io: Box<dyn ByteStream>) -> Result<Pipe, String> {
    let (called, call) = oneshot::channel();
    let service = ExchangeServer::new(OneCall(Mutex::new(Some(called))))
        .max_decoding_message_size(MESSAGE_MAX)
        .max_encoding_message_size(MESSAGE_MAX);
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .max_concurrent_streams(1)
        .serve_connection(TokioIo::new(io), TowerToHyperService::new(service));
    let driver = Driver(tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a control stream ended");
        }
    }));
    let (out, inbound) = call
        .await
        .map_err(|_| "the peer closed the stream before it called".to_string())?;
    Ok(Pipe {
        out,
        inbound,
        _driver: driver,
    })
}

type Call = (mpsc::Sender<Envelope>, Streaming<Envelope>);

/// The server's side: hands the first call on and refuses every other.
struct OneCall(Mutex<Option<oneshot::Sender<Call>>>);

#[tonic::async_trait]
impl Exchange for OneCall {
    type ConverseStream = Queue<Result<Envelope, Status>>;

    async fn converse(
        &self,
        request: Request<Streaming<Envelope>>,
    ) -> Result<Response<Self::ConverseStream>, Status> {
        let called = self
            .0
            .lock()
            .take()
            .ok_or_else(|| Status::resource_exhausted("one conversation a stream"))?;
        let (out, mut envelopes) = mpsc::channel::<Envelope>(OUT_MAX);
        let (results, queue) = mpsc::channel(1);
        tokio::spawn(async move {
            while let Some(envelope) = envelopes.recv().await {
                if results.send(Ok(envelope)).await.is_err() {
                    return;
                }
            }
        });
        called
            .send((out, request.into_inner()))
            .map_err(|_| Status::unavailable("not waited for any more"))?;
        Ok(Response::new(Queue(queue)))
    }
}

/// A channel as a stream.
struct Queue<T>(mpsc::Receiver<T>);

impl<T> futures_util::Stream for Queue<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        self.0.poll_recv(cx)
    }
}

/// The client's side: one connection that is never made again.
struct OneConnection(hyper::client::conn::http2::SendRequest<Body>);

impl tower::Service<http::Request<Body>> for OneConnection {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
