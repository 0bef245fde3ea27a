//! Join messages on a byte stream: a four-byte length, big-endian, then the message.
//!
//! Owns the bounds on size and time of a peer that has proven nothing yet.

use std::{io, time::Duration};

use strait_trust_bridge::{
    TrustError,
    join::{JoinMessage, MAX_MESSAGE},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use strait_federation_api::control::ByteStream;

/// Each message must arrive whole within this: ten round trips of the slowest path we know, and a disk's fsync.
pub(super) const MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes read at a time: a stated length allocates nothing before its bytes come.
const READ_CHUNK: usize = 16 * 1024;

/// Why a session ended without a result.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    /// The stream failed or ended early.
    #[error("the connection was lost: {0}")]
    Io(#[from] io::Error),
    /// The other side is silent.
    #[error("the other side did not answer within {} s", MESSAGE_TIMEOUT.as_secs())]
    Silent,
    /// What came cannot be read.
    #[error(transparent)]
    Trust(#[from] TrustError),
}

/// Sends one message.
pub(super) async fn send(io: &mut (dyn ByteStream + '_), message: &JoinMessage) -> Result<(), SessionError> {
    let body = message.encode();
    let length =
        u32::try_from(body.len()).map_err(|_| TrustError::MalformedEnvelope("a join message is too long"))?;
    let write = async {
        io.write_all(&length.to_be_bytes()).await?;
        io.write_all(&body).await?;
        io.flush().await
    };
    timeout(MESSAGE_TIMEOUT, write)
        .await
        .map_err(|_| SessionError::Silent)?
        .map_err(Into::into)
}

/// Receives one message.
pub(super) async fn receive(io: &mut (dyn ByteStream + '_)) -> Result<JoinMessage, SessionError> {
    timeout(MESSAGE_TIMEOUT, read(io))
        .await
        .map_err(|_| SessionError::Silent)?
}

async fn read(io: &mut (dyn ByteStream + '_)) -> Result<JoinMessage, SessionError> {
    let mut head = [0; 4];
    io.read_exact(&mut head).await?;
    let length = u32::from_be_bytes(head) as usize;
    if length > MAX_MESSAGE {
        return Err(TrustError::MalformedEnvelope("a join message is too long").into());
    }
    let mut body = Vec::new();
    while body.len() < length {
        let at = body.len();
        body.resize(length.min(at + READ_CHUNK), 0);
        io.read_exact(&mut body[at..]).await?;
    }
    Ok(JoinMessage::decode(&body)?)
}
