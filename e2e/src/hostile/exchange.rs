//! The exchange as the hostile peer speaks it: envelopes of its own making over a control connection.
//!
//! Owns gRPC on the control stream and nothing of the protocol: what is said, and in which order, is the test's.

use std::{
    future::Future,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use hyper_util::rt::{TokioExecutor, TokioIo};
use strait_federation_api::exchange::wire::exchange_v1::{
    self as wire, Envelope, envelope::Body, exchange_client::ExchangeClient,
};
use strait_trust_bridge::{TrustDomain, tls::Alpn};
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, timeout_at},
};
use tonic::Streaming;

use super::{Hostile, Line, PATIENCE, PREFACE};

/// Envelopes that wait for the stream.
const OUT_MAX: usize = 64;
/// Bytes of one message this side takes or sends: beyond the bound of the other side, which is to be tested.
const MESSAGE_MAX: usize = 64 << 20;

/// One conversation over one control connection.
#[derive(Debug)]
pub struct Exchange {
    /// The connection.
    pub line: Line,
    out: mpsc::Sender<Envelope>,
    inbound: Streaming<Envelope>,
    driver: JoinHandle<()>,
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Hostile {
    /// Opens a control connection and the one call on it. Nothing is said yet.
    ///
    /// # Panics
    /// If the gateway does not let it in.
    pub async fn control(&self, to: SocketAddr, victim: &TrustDomain) -> Exchange {
        let line = self
            .dial(to, victim, Alpn::Control, |_| ())
            .await
            .expect("a handshake");
        let (mut send, mut recv) = line.quic.open_bi().await.expect("a stream");
        send.write_all(&PREFACE).await.expect("a preface goes out");
        let mut preface = [0; PREFACE.len()];
        recv.read_exact(&mut preface).await.expect("a preface");
        let io = TokioIo::new(tokio::io::join(recv, send));
        let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
            .await
            .expect("HTTP/2");
        // How it ends shows in the call.
        let driver = tokio::spawn(async move { drop(connection.await) });
        let origin = http::Uri::from_static("http://hostile");
        let mut client = ExchangeClient::with_origin(One(sender), origin)
            .max_decoding_message_size(MESSAGE_MAX)
            .max_encoding_message_size(MESSAGE_MAX);
        let (out, envelopes) = mpsc::channel(OUT_MAX);
        let reply = client.converse(Queue(envelopes)).await.expect("a call");
        Exchange {
            line,
            out,
            inbound: reply.into_inner(),
            driver,
        }
    }
}

impl Exchange {
    /// Says something; false if the conversation is over.
    pub async fn say(&self, body: Body) -> bool {
        self.say_envelope(Envelope {
            body: Some(body),
            critical: false,
        })
        .await
    }

    /// Says something, with all of the envelope.
    pub async fn say_envelope(&self, envelope: Envelope) -> bool {
        self.out.send(envelope).await.is_ok()
    }

    /// The next thing the other side says that `wanted` takes; `None` if it ends the conversation first.
    ///
    /// # Panics
    /// If neither comes in time.
    pub async fn hear<T>(&mut self, mut wanted: impl FnMut(Body) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let next = timeout_at(deadline, self.inbound.message())
                .await
                .expect("what was waited for was never said");
            let body = next.ok().flatten()?.body;
            if let Some(found) = body.and_then(&mut wanted) {
                return Some(found);
            }
        }
    }

    /// Waits until the other side ends the conversation.
    ///
    /// # Panics
    /// If it does not.
    pub async fn ended(&mut self) {
        assert_eq!(self.hear(|_| None::<()>).await, None);
    }
}

/// A correct hello of `cluster`.
#[must_use]
pub fn hello(cluster: &str, epoch: u64) -> Body {
    Body::Hello(wire::Hello {
        version_min: 1,
        version_max: 1,
        cluster: cluster.to_owned(),
        epoch,
        mesh_trust_domain: Some("cluster.local".to_owned()),
        gateways: Some(wire::Gateways::default()),
        held: None,
    })
}

/// A correct offer of one TCP port.
#[must_use]
pub fn offer(namespace: &str, name: &str, port: u32) -> Body {
    Body::Upsert(wire::Service {
        service: Some(key(namespace, name)),
        uid: format!("uid-{namespace}-{name}"),
        created: 1_700_000_000,
        kind: wire::Kind::ClusterSetIp.into(),
        ports: vec![wire::Port {
            name: None,
            protocol: wire::Protocol::Tcp.into(),
            port,
            app_protocol: None,
        }],
        ready: 1,
        ..wire::Service::default()
    })
}

/// A service's key.
#[must_use]
pub fn key(namespace: &str, name: &str) -> wire::ServiceKey {
    wire::ServiceKey {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
}

/// The end of a sync.
#[must_use]
pub const fn catalog_end(number: u64) -> Body {
    Body::EndOfSync(wire::EndOfSync { number })
}

/// A channel as a stream.
struct Queue(mpsc::Receiver<Envelope>);

impl futures_util::Stream for Queue {
    type Item = Envelope;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Envelope>> {
        self.0.poll_recv(cx)
    }
}

/// One connection that is never made again.
struct One(hyper::client::conn::http2::SendRequest<tonic::body::Body>);

impl tower::Service<http::Request<tonic::body::Body>> for One {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
