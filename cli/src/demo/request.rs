//! One request: a connection by name through SOCKS5, then HTTP/1.1.
//!
//! Owns what each way of failing is called. Called by the load.

use std::net::SocketAddr;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Request, body::Bytes, client::conn::http1, header::HOST};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{
    greeter::{CLUSTER_HEADER, ID_HEADER},
    record::Outcome,
};
use crate::client::socks::{self, SocksError};

/// Largest answer read, bytes: a greeting is one line.
const ANSWER_MAX: usize = 4 << 10;

/// Where requests go.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// The SOCKS5 listener.
    pub(crate) socks: SocketAddr,
    /// The service's name; the proxy resolves it.
    pub(crate) host: String,
    /// Its port.
    pub(crate) port: u16,
}

/// Sends one request and says how it ended.
pub(crate) async fn request(target: &Target, id: u64) -> Outcome {
    match socks::connect(target.socks, &target.host, target.port).await {
        Ok(stream) => get(target, stream, id).await.unwrap_or_else(|outcome| outcome),
        Err(SocksError::Refused(code)) => Outcome::Refused(code),
        Err(broken) => Outcome::Reset(broken.to_string()),
    }
}

async fn get(target: &Target, stream: TcpStream, id: u64) -> Result<Outcome, Outcome> {
    let reset = |e: hyper::Error| Outcome::Reset(e.to_string());
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(reset)?;
    let driver = tokio::spawn(connection);
    let request = Request::get("/")
        .header(HOST, &target.host)
        .header(ID_HEADER, id)
        .body(Empty::<Bytes>::new())
        .map_err(|e| Outcome::Wrong(e.to_string()))?;
    let response = sender.send_request(request).await.map_err(reset)?;
    let (head, body) = response.into_parts();
    let body = Limited::new(body, ANSWER_MAX)
        .collect()
        .await
        .map_err(|e| Outcome::Reset(e.to_string()))?
        .to_bytes();
    driver.abort(); // the answer is whole; closing is all that is left
    let cluster = head.headers.get(CLUSTER_HEADER).and_then(|v| v.to_str().ok());
    match cluster {
        Some(cluster) if head.status.is_success() => Ok(Outcome::Answered {
            cluster: cluster.to_owned(),
            line: String::from_utf8_lossy(&body).trim().to_owned(),
        }),
        _ => Err(Outcome::Wrong(format!("status {}", head.status))),
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    /// A proxy that answers the connect message with `code` and then plays `after`.
    async fn against(code: u8, after: &'static [u8]) -> Outcome {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = Target {
            socks: listener.local_addr().unwrap(),
            host: "greeter.demo".into(),
            port: 80,
        };
        let proxy = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut hello = [0; 3];
            stream.read_exact(&mut hello).await.unwrap();
            stream.write_all(&[5, 0]).await.unwrap();
            let mut message = vec![0; 5 + 12 + 2];
            stream.read_exact(&mut message).await.unwrap();
            assert_eq!(message[..17], *b"\x05\x01\0\x03\x0cgreeter.demo");
            stream
                .write_all(&[5, code, 0, 1, 0, 0, 0, 0, 0, 0])
                .await
                .unwrap();
            if code == 0 {
                let mut sink = [0; 256];
                let _ = stream.read(&mut sink).await.unwrap();
                stream.write_all(after).await.unwrap();
            }
        });
        let outcome = request(&target, 7).await;
        proxy.await.unwrap();
        outcome
    }

    #[tokio::test]
    async fn each_way_of_ending_has_its_name() {
        assert_eq!(against(2, b"").await, Outcome::Refused(2));
        let ok = b"HTTP/1.1 200 OK\r\nx-cluster: west\r\ncontent-length: 6\r\n\r\nHello\n";
        assert_eq!(
            against(0, ok).await,
            Outcome::Answered {
                cluster: "west".into(),
                line: "Hello".into()
            }
        );
        let short = b"HTTP/1.1 200 OK\r\nx-cluster: west\r\ncontent-length: 6\r\n\r\nHel";
        assert!(
            matches!(against(0, short).await, Outcome::Reset(_)),
            "a short answer is a broken one"
        );
        assert!(matches!(against(0, b"").await, Outcome::Reset(_)));
        let stranger = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        assert!(matches!(against(0, stranger).await, Outcome::Wrong(_)));
    }
}
