//! The admin endpoint: health, readiness, metrics and a redacted dump over HTTP, loopback unless asked otherwise.
//!
//! Owns the listener and its bounds. Never changes anything: commands that do use the 0600 socket. Started by `run`.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::{encoding::text::encode, registry::Registry};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tracing::{debug, warn};

use crate::readiness::Readiness;

/// Connections served at a time: a few scrapers and probes; more is a mistake.
const CONNECTIONS_MAX: usize = 64;
/// A request head arrives at once; a longer wait holds a permit for nothing.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest request head, bytes: paths here are short and headers are ignored. hyper's floor is 8 KiB.
const HEAD_MAX: usize = 16 << 10;
/// The content type prometheus-client writes.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the endpoint shows.
pub(crate) struct Admin {
    /// Conditions of `/readyz`.
    pub(crate) readiness: Readiness,
    /// Source of `/metrics`; unset until every room has registered.
    pub(crate) registry: OnceLock<Registry>,
    /// Source of `/dump`; unset until there is something to dump.
    pub(crate) dump: OnceLock<Dump>,
}

/// Makes the dump: JSON without secrets.
pub(crate) type Dump = Box<dyn Fn() -> String + Send + Sync>;

impl Admin {
    /// Binds the listener.
    ///
    /// # Errors
    /// As the system gives.
    pub(crate) async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
        TcpListener::bind(address).await
    }

    /// Serves until dropped.
    pub(crate) async fn serve(self: Arc<Self>, listener: TcpListener) {
        let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let admin = Arc::clone(&self);
                    tokio::spawn(async move {
                        admin.connection(stream).await;
                        drop(permit);
                    });
                }
                Err(e) => {
                    warn!(error = %e, "admin: accept failed");
                    tokio::time::sleep(HEAD_TIMEOUT / 50).await; // out of descriptors: do not spin
                }
            }
        }
    }

    async fn connection(self: Arc<Self>, stream: TcpStream) {
        let service = service_fn(move |request: Request<Incoming>| {
            let response = self.answer(request.method(), request.uri().path());
            std::future::ready(Ok::<_, Infallible>(response))
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(HEAD_MAX)
            .serve_connection(TokioIo::new(stream), service)
            .await;
        if let Err(e) = served {
            debug!(error = %e, "admin: connection ended early");
        }
    }

    fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        if method != Method::GET && method != Method::HEAD {
            return text(
                StatusCode::METHOD_NOT_ALLOWED,
                "only GET: commands use the socket in the state directory\n",
            );
        }
        match path {
            "/livez" => text(StatusCode::OK, "ok\n"),
            "/readyz" => self.ready(),
            "/metrics" => self.metrics(),
            "/dump" => match self.dump.get() {
                Some(dump) => typed(StatusCode::OK, "application/json", dump()),
                None => text(StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
            },
            _ => text(
                StatusCode::NOT_FOUND,
                "there are /livez, /readyz, /metrics and /dump\n",
            ),
        }
    }

    fn ready(&self) -> Response<Full<Bytes>> {
        let missing = self.readiness.missing();
        if missing.is_empty() {
            text(StatusCode::OK, "ok\n")
        } else {
            text(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("waiting for {}\n", missing.join(", ")),
            )
        }
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
        let Some(registry) = self.registry.get() else {
            return text(StatusCode::SERVICE_UNAVAILABLE, "starting\n");
        };
        let mut out = String::new();
        match encode(&mut out, registry) {
            Ok(()) => typed(StatusCode::OK, OPENMETRICS, out),
            Err(e) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("metrics: {e}\n")),
        }
    }
}

fn text(status: StatusCode, body: impl Into<String>) -> Response<Full<Bytes>> {
    typed(status, "text/plain; charset=utf-8", body.into())
}

fn typed(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    fn admin() -> Admin {
        Admin {
            readiness: Readiness::new(),
            registry: OnceLock::new(),
            dump: OnceLock::new(),
        }
    }

    async fn get(admin: &Admin, path: &str) -> (u16, String) {
        let response = admin.answer(&Method::GET, path);
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn readiness_names_what_is_missing() {
        let admin = admin();
        let gate = admin.readiness.gate("snapshot");
        assert_eq!(
            get(&admin, "/readyz").await,
            (503, "waiting for snapshot\n".into())
        );
        assert_eq!(get(&admin, "/livez").await.0, 200);
        gate.open();
        assert_eq!(get(&admin, "/readyz").await.0, 200);
    }

    #[tokio::test]
    async fn metrics_and_dump_wait_for_their_sources() {
        let admin = admin();
        assert_eq!(
            (get(&admin, "/metrics").await.0, get(&admin, "/dump").await.0),
            (503, 503)
        );
        let mut registry = Registry::default();
        registry.register(
            "strait_x",
            "X.",
            prometheus_client::metrics::counter::Counter::<u64>::default(),
        );
        assert!(admin.registry.set(registry).is_ok());
        assert!(admin.dump.set(Box::new(|| "{}".to_owned())).is_ok());
        assert!(get(&admin, "/metrics").await.1.contains("strait_x_total 0"));
        assert_eq!(get(&admin, "/dump").await, (200, "{}".into()));
    }

    #[tokio::test]
    async fn nothing_is_changed_over_tcp() {
        let admin = admin();
        assert_eq!(
            admin.answer(&Method::PUT, "/readyz").status(),
            StatusCode::METHOD_NOT_ALLOWED
        );
        assert_eq!(get(&admin, "/log-level").await.0, 404);
    }

    #[tokio::test]
    async fn it_speaks_http() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = Admin::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let server = tokio::spawn(Arc::new(admin()).serve(listener));
        stream
            .write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        server.abort();
    }
}
