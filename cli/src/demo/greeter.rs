//! The demo's service: greets over HTTP and writes down every request id it sees.
//!
//! Owns a deliberately plain HTTP/1.1 service. Its record of ids is what proves that nothing arrived twice: each id is written
//! before the answer is, so a killed process has recorded all it acted on. Started by the demo as a process of its own.

use std::{
    convert::Infallible,
    fs::{self, File, OpenOptions},
    io::Write as _,
    path::PathBuf,
    sync::Arc,
};

use http_body_util::Full;
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    header::{HeaderName, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

use super::family;
use crate::{
    args::GreeterArgs,
    exit::{CliError, Exit},
};

/// Header of a request that carries its id, and of the answer that carries the cluster.
pub(crate) const ID_HEADER: HeaderName = HeaderName::from_static("x-request-id");
/// See [`ID_HEADER`].
pub(crate) const CLUSTER_HEADER: HeaderName = HeaderName::from_static("x-cluster");
/// Longest greeting shown, characters: a line on a terminal.
const GREETING_MAX: usize = 120;

/// Serves until killed.
pub(crate) fn greeter(args: GreeterArgs) -> Result<Exit, CliError> {
    family::die_with(args.die_with)?;
    let failed =
        |what: &str, e: std::io::Error| CliError::failed(format!("greeter {}: {what}: {e}", args.cluster));
    let seen = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&args.seen)
        .map_err(|e| failed("record", e))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| failed("start", e))?;
    let listener = runtime
        .block_on(TcpListener::bind(args.listen))
        .map_err(|e| failed("listen", e))?;
    let greeter = Arc::new(Greeter {
        cluster: args.cluster,
        greeting: args.greeting,
        seen,
    });
    runtime.block_on(async {
        loop {
            if let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(Arc::clone(&greeter).connection(stream));
            }
        }
    })
}

struct Greeter {
    cluster: String,
    greeting: PathBuf,
    seen: File,
}

impl Greeter {
    async fn connection(self: Arc<Self>, stream: TcpStream) {
        let service = service_fn(move |request: Request<Incoming>| {
            let response = self.answer(request.headers().get(ID_HEADER));
            std::future::ready(Ok::<_, Infallible>(response))
        });
        // An error here is a client that went away: its side reports it.
        let _ = http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .await;
    }

    fn answer(&self, id: Option<&HeaderValue>) -> Response<Full<Bytes>> {
        if let Some(id) = id.and_then(|v| v.to_str().ok()?.parse::<u64>().ok()) {
            // One write with O_APPEND: whole lines, even when the process is killed right after.
            if let Err(e) = (&self.seen).write_all(format!("{id}\n").as_bytes()) {
                return reply(500, &self.cluster, format!("cannot record: {e}\n"));
            }
        }
        let greeting = fs::read_to_string(&self.greeting).unwrap_or_default();
        let line: String = greeting
            .lines()
            .next()
            .unwrap_or_default()
            .chars()
            .take(GREETING_MAX)
            .collect();
        reply(200, &self.cluster, format!("{line}, from {}\n", self.cluster))
    }
}

fn reply(status: u16, cluster: &str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = hyper::StatusCode::from_u16(status).unwrap_or_default();
    if let Ok(value) = HeaderValue::from_str(cluster) {
        response.headers_mut().insert(CLUSTER_HEADER, value);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_recorded_before_the_answer() {
        let dir = tempfile::tempdir().unwrap();
        let (seen, greeting) = (dir.path().join("seen"), dir.path().join("greeting"));
        fs::write(&greeting, "Hello\nsecond line").unwrap();
        let file = OpenOptions::new().create(true).append(true).open(&seen).unwrap();
        let greeter = Greeter {
            cluster: "west".into(),
            greeting,
            seen: file,
        };
        let response = greeter.answer(Some(&HeaderValue::from_static("17")));
        assert_eq!(response.headers()[CLUSTER_HEADER], "west");
        greeter.answer(Some(&HeaderValue::from_static("no number")));
        greeter.answer(None);
        assert_eq!(fs::read_to_string(&seen).unwrap(), "17\n");
    }
}
