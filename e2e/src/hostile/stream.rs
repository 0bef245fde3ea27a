//! A data connection as the hostile peer holds it: a hello, then streams with headers of its own making.
//!
//! Owns the bytes, written from the contract and not with Strait's codec.

use quinn::{RecvStream, SendStream};
use strait_federation_api::Reason;
use strait_trust_bridge::{TrustDomain, tls::Alpn};
use tokio::time::timeout;

use super::{Hostile, Line, PATIENCE};
use std::net::SocketAddr;

/// Frame type of a hello.
const HELLO: u8 = 0x81;
/// IANA number of TCP.
const TCP: u8 = 6;

/// A data connection that is through its hello.
#[derive(Debug)]
pub struct DataLine {
    /// The connection.
    pub line: Line,
    _hello: SendStream,
}

/// A request header; the fields may be anything.
#[derive(Debug, Clone)]
pub struct Header {
    /// Version of the frame.
    pub version: u8,
    /// IANA protocol number.
    pub protocol: u8,
    /// Service port.
    pub port: u16,
    /// Hop count.
    pub hops: u8,
    /// Namespace and name of the service.
    pub service: (String, String),
    /// ClusterId it claims to come from.
    pub origin: String,
    /// Extensions, as TLV bytes.
    pub extensions: Vec<u8>,
}

/// What the gateway answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// `None`: accepted.
    pub refused: Option<Reason>,
    /// Another candidate may be tried.
    pub retryable: bool,
    /// The words.
    pub message: String,
}

impl Header {
    /// A correct header of the cluster `origin` for `namespace/name`.
    #[must_use]
    pub fn new(origin: &str, namespace: &str, name: &str, port: u16) -> Self {
        Self {
            version: 1,
            protocol: TCP,
            port,
            hops: 1,
            service: (namespace.to_owned(), name.to_owned()),
            origin: origin.to_owned(),
            extensions: Vec::new(),
        }
    }

    /// The whole frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut body = vec![self.protocol];
        body.extend(self.port.to_be_bytes());
        body.push(self.hops);
        body.extend(5_000_u32.to_be_bytes());
        for text in [&self.service.0, &self.service.1, &self.origin] {
            body.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
            body.extend(text.as_bytes());
        }
        // No source identity, no endpoint, no affinity key, no trace context.
        body.extend([0, 0, 0, 0, 0]);
        body.extend(&self.extensions);
        let mut frame = vec![self.version];
        frame.extend(u16::try_from(body.len()).unwrap_or(u16::MAX).to_be_bytes());
        frame.extend(body);
        frame
    }
}

impl Hostile {
    /// Opens a data connection with the identity it presents.
    ///
    /// # Panics
    /// If the gateway does not let it in.
    pub async fn data(&self, to: SocketAddr, victim: &TrustDomain) -> DataLine {
        let line = self
            .dial(to, victim, Alpn::Data, |_| ())
            .await
            .expect("a handshake");
        let mut hello = line.quic.open_uni().await.expect("a stream for the hello");
        let instance = b"gw-0";
        let mut body = Vec::new();
        body.extend(1_u16.to_be_bytes());
        body.extend(1_u16.to_be_bytes());
        body.extend(100_u32.to_be_bytes());
        body.push(u8::try_from(instance.len()).expect("short"));
        body.extend(instance);
        let mut frame = vec![HELLO];
        frame.extend(u16::try_from(body.len()).expect("short").to_be_bytes());
        frame.extend(body);
        hello.write_all(&frame).await.expect("the hello goes out");
        let heard = timeout(PATIENCE, line.quic.accept_uni()).await;
        heard.expect("a hello in time").expect("a hello");
        DataLine { line, _hello: hello }
    }
}

impl DataLine {
    /// Opens a stream with these first bytes.
    ///
    /// # Panics
    /// If the connection is gone.
    pub async fn open(&self, first: &[u8]) -> (SendStream, RecvStream) {
        let (mut send, recv) = self.line.quic.open_bi().await.expect("a stream");
        send.write_all(first).await.expect("the header goes out");
        (send, recv)
    }

    /// Opens a stream and reads the answer.
    ///
    /// # Panics
    /// If no whole answer comes.
    pub async fn ask(&self, first: &[u8]) -> Answer {
        let (mut send, mut recv) = self.open(first).await;
        // Only a frame that is cut short needs its end to be judged.
        let _ = send.finish();
        timeout(PATIENCE, read_answer(&mut recv))
            .await
            .expect("an answer in time")
    }
}

/// Reads one answer.
///
/// # Panics
/// If it is not one.
pub(super) async fn read_answer(recv: &mut RecvStream) -> Answer {
    let mut prefix = [0; 3];
    recv.read_exact(&mut prefix).await.expect("an answer");
    assert_eq!(prefix[0], 1, "the version of an answer");
    let mut body = vec![0; usize::from(u16::from_be_bytes([prefix[1], prefix[2]]))];
    recv.read_exact(&mut body).await.expect("a whole answer");
    let code = u16::from_be_bytes([body[1], body[2]]);
    let message = body.get(4..4 + usize::from(body[3])).unwrap_or_default();
    Answer {
        refused: (body[0] != 0).then(|| Reason::from_code(code).expect("a reason we know")),
        retryable: body[0] == 1,
        message: String::from_utf8_lossy(message).into_owned(),
    }
}
