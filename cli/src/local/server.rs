//! The serving end of the command socket.
//!
//! Owns the socket file and the bounds on who may connect, how many and how long. Never knows what a request does: that is the
//! [`Handler`]. Started by `run` after it holds the state directory's lock, so no second process serves the same path.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::{
    io::BufReader,
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    time::timeout,
};
use tracing::{debug, warn};

use super::{
    CONNECTIONS_MAX, Failure, PROTOCOL_VERSION, REQUEST_MAX, REQUEST_TIMEOUT, Reply, Request,
    protocol::Envelope, socket_path, wire,
};

/// Owner only.
const SOCKET_MODE: u32 = 0o600;
/// The folder the socket is made in, before it has its mode and moves to its place.
const PRIVATE_MODE: u32 = 0o700;

/// Carries out requests.
pub(crate) trait Handler: Send + Sync + 'static {
    /// Answers one request.
    fn handle(&self, request: Request) -> impl Future<Output = Result<Reply, Failure>> + Send;
}

/// The bound socket; its file is removed on drop.
#[derive(Debug)]
pub(crate) struct Server {
    listener: UnixListener,
    path: PathBuf,
}

impl Server {
    /// Binds the socket of `state`, replacing what a killed process left.
    ///
    /// # Errors
    /// As the system gives; `InvalidInput` for a path longer than a socket address holds.
    pub(crate) fn bind(state: &Path) -> io::Result<Self> {
        let path = socket_path(state);
        // A socket is made with the umask's mode, and between bind and chmod anyone could connect: so it is made where nobody
        // else can go, and moved when its mode is right.
        let private = state.join(".control.sock.d");
        let _ = fs::remove_dir_all(&private);
        fs::DirBuilder::new().mode(PRIVATE_MODE).create(&private)?;
        let made = private.join("s");
        let listener = UnixListener::bind(&made)?;
        fs::set_permissions(&made, fs::Permissions::from_mode(SOCKET_MODE))?;
        fs::rename(&made, &path)?;
        fs::remove_dir(&private)?;
        Ok(Self { listener, path })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Serves until dropped.
    pub(crate) async fn serve(self, handler: Arc<impl Handler>) {
        let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
                return;
            };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let handler = Arc::clone(&handler);
                    tokio::spawn(async move {
                        if let Err(e) = converse(stream, handler.as_ref()).await {
                            debug!(error = %e, "command socket: connection ended early");
                        }
                        drop(permit);
                    });
                }
                Err(e) => {
                    warn!(error = %e, "command socket: accept failed");
                    tokio::time::sleep(REQUEST_TIMEOUT / 50).await; // out of descriptors: do not spin
                }
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// One request, one reply.
async fn converse(mut stream: UnixStream, handler: &impl Handler) -> io::Result<()> {
    let uid = stream.peer_cred()?.uid();
    if !may_command(uid) {
        warn!(uid, "command socket: refused another user");
        return Ok(());
    }
    let (read, write) = stream.split();
    let received = timeout(
        REQUEST_TIMEOUT,
        wire::read::<Envelope<Request>>(BufReader::new(read), REQUEST_MAX),
    )
    .await?;
    let answer = match received {
        Ok(Envelope {
            version: PROTOCOL_VERSION,
            body,
        }) => handler.handle(body).await,
        Ok(Envelope { version, .. }) => Err(Failure::version(version)),
        Err(e) if e.kind() == io::ErrorKind::InvalidData => Err(Failure::malformed(&e)),
        Err(e) => return Err(e),
    };
    wire::write(
        write,
        &Envelope {
            version: PROTOCOL_VERSION,
            body: answer,
        },
    )
    .await
}

/// Ourselves and root.
fn may_command(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[tokio::test]
    async fn the_socket_is_for_its_owner_and_replaces_a_stale_one() {
        let state = tempfile::tempdir().unwrap();
        fs::write(socket_path(state.path()), "left by a killed process").unwrap();
        let server = Server::bind(state.path()).unwrap();
        assert_eq!(fs::metadata(server.path()).unwrap().mode() & 0o777, SOCKET_MODE);
        assert_eq!(
            fs::read_dir(state.path()).unwrap().count(),
            1,
            "nothing else is left"
        );
        drop(server);
        assert_eq!(fs::read_dir(state.path()).unwrap().count(), 0);
    }

    #[test]
    fn only_the_owner_and_root_may_command() {
        let own = rustix::process::geteuid().as_raw();
        assert!(may_command(own) && may_command(0));
        assert!(!may_command(own.wrapping_add(1)));
    }
}
