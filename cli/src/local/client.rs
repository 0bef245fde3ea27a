//! The calling end of the command socket.
//!
//! Owns connecting, the time bound and the words for "nobody answers there". Never retries: a command that changes something is
//! sent once. Called by commands, and by the demo for its clusters.

use std::{io, path::PathBuf, time::Duration};

use tokio::{io::BufReader, net::UnixStream, time::timeout};

use super::{
    Failure, PROTOCOL_VERSION, REPLY_MAX, REPLY_TIMEOUT, Reply, Request, protocol::Envelope, socket_path,
    wire,
};

/// Speaks to the running process of one state directory.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    path: PathBuf,
}

/// Why there is no reply.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LocalError {
    /// Nobody serves the socket.
    #[error("no running strait answers at {}: {source}", path.display())]
    NotRunning {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The socket belongs to another user.
    #[error("no permission to use {}", path.display())]
    NotPermitted {
        /// The socket.
        path: PathBuf,
    },
    /// It was reached, and then the conversation broke.
    #[error("the running strait at {} gave no whole reply: {detail}", path.display())]
    Broken {
        /// The socket.
        path: PathBuf,
        /// Why.
        detail: String,
    },
    /// The process refused or failed.
    #[error("{0}")]
    Refused(Failure),
}

impl LocalError {
    /// What to do.
    #[must_use]
    pub(crate) fn help(&self) -> Option<String> {
        Some(match self {
            Self::NotRunning { .. } => {
                "start `strait run`, or name its state directory with --state or STRAIT_STATE".into()
            }
            Self::NotPermitted { .. } => "run this command as the user that runs strait".into(),
            Self::Broken { .. } => "look at the log of the running process".into(),
            Self::Refused(failure) => return failure.help.clone(),
        })
    }
}

impl Client {
    /// For the process whose state directory this is.
    #[must_use]
    pub(crate) fn new(state: &std::path::Path) -> Self {
        Self {
            path: socket_path(state),
        }
    }

    /// Sends a request and waits for the reply, at most 30 s.
    ///
    /// # Errors
    /// [`LocalError`].
    pub(crate) async fn call(&self, request: Request) -> Result<Reply, LocalError> {
        self.call_within(request, REPLY_TIMEOUT).await
    }

    pub(crate) async fn call_within(&self, request: Request, limit: Duration) -> Result<Reply, LocalError> {
        let stream = UnixStream::connect(&self.path)
            .await
            .map_err(|e| self.unreachable(e))?;
        match timeout(limit, converse(stream, request)).await {
            Ok(Ok(Ok(reply))) => Ok(reply),
            Ok(Ok(Err(failure))) => Err(LocalError::Refused(failure)),
            Ok(Err(e)) => Err(self.broken(e.to_string())),
            Err(_) => Err(self.broken(format!("nothing within {} s", limit.as_secs()))),
        }
    }

    fn unreachable(&self, source: io::Error) -> LocalError {
        let path = self.path.clone();
        match source.kind() {
            io::ErrorKind::PermissionDenied => LocalError::NotPermitted { path },
            _ => LocalError::NotRunning { path, source },
        }
    }

    fn broken(&self, detail: String) -> LocalError {
        LocalError::Broken {
            path: self.path.clone(),
            detail,
        }
    }
}

async fn converse(mut stream: UnixStream, request: Request) -> io::Result<Result<Reply, Failure>> {
    let (read, write) = stream.split();
    wire::write(
        write,
        &Envelope {
            version: PROTOCOL_VERSION,
            body: request,
        },
    )
    .await?;
    let envelope: Envelope<Result<Reply, Failure>> = wire::read(BufReader::new(read), REPLY_MAX).await?;
    Ok(envelope.body)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::local::{Handler, Server};

    struct Echo;
    impl Handler for Echo {
        async fn handle(&self, request: Request) -> Result<Reply, Failure> {
            match request {
                Request::LogLevel { set: Some(text) } => Ok(Reply::LogLevel { directives: text }),
                _ => Err(Failure::new("only log levels here")),
            }
        }
    }

    #[tokio::test]
    async fn requests_and_failures_cross_the_socket() {
        let state = tempfile::tempdir().unwrap();
        let server = tokio::spawn(Server::bind(state.path()).unwrap().serve(Arc::new(Echo)));
        let client = Client::new(state.path());
        let reply = client
            .call(Request::LogLevel {
                set: Some("debug".into()),
            })
            .await
            .unwrap();
        assert!(matches!(reply, Reply::LogLevel { directives } if directives == "debug"));
        let error = client.call(Request::Status).await.unwrap_err();
        assert!(matches!(error, LocalError::Refused(f) if f.message == "only log levels here"));
        server.abort();
    }

    #[tokio::test]
    async fn nobody_there_is_said_with_what_to_do() {
        let state = tempfile::tempdir().unwrap();
        let error = Client::new(state.path()).call(Request::Status).await.unwrap_err();
        assert!(matches!(error, LocalError::NotRunning { .. }));
        assert!(error.help().unwrap().contains("STRAIT_STATE"));
    }

    #[tokio::test]
    async fn garbage_is_answered_with_an_error() {
        let state = tempfile::tempdir().unwrap();
        let server = tokio::spawn(Server::bind(state.path()).unwrap().serve(Arc::new(Echo)));
        let mut stream = UnixStream::connect(socket_path(state.path())).await.unwrap();
        let (read, write) = stream.split();
        wire::write(
            write,
            &serde_json::json!({"version": 1, "body": {"op": "format-disk"}}),
        )
        .await
        .unwrap();
        let reply: Envelope<Result<Reply, Failure>> =
            wire::read(BufReader::new(read), REPLY_MAX).await.unwrap();
        assert!(reply.body.unwrap_err().message.contains("format-disk"));
        server.abort();
    }
}
