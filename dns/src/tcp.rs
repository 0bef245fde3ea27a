//! DNS over TCP (RFC 7766): length-prefixed messages, pipelined, answered in any order.
//!
//! Owns connections and their bounds. Never decides an answer. Run by the server.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
    task::JoinSet,
    time::timeout,
};

use crate::{
    counters::Counters,
    message::{Transport, Verdict},
    server::Shared,
};

/// Connections open at one time, at most. Stub resolvers hold one for moments only.
const CONNECTIONS_MAX: usize = 256;
/// Silence after which a connection is closed. RFC 7766 asks for some seconds.
const IDLE: Duration = Duration::from_secs(10);
/// A client that does not take its answers is let go after this.
const WRITE: Duration = Duration::from_secs(5);
/// Questions of one connection under way, at most; reading stops until one is answered.
const PIPELINE: usize = 32;
/// Pause after an accept error (out of descriptors): accepting again at once would spin.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

pub(crate) async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "DNS accept failed");
                tokio::time::sleep(ERROR_PAUSE).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        if connections.len() >= CONNECTIONS_MAX {
            Counters::add(&shared.counters.connections_refused);
            continue;
        }
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            if let Err(error) = connection(stream, shared).await {
                tracing::debug!(%error, "DNS connection ended");
            }
        });
    }
}

async fn connection(stream: TcpStream, shared: Arc<Shared>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (reader, writer) = stream.into_split();
    // One place a question under way: a sender is held until its answer is queued.
    let (answers, queue) = mpsc::channel(PIPELINE);
    let reading = read(reader, answers, shared);
    let (read, written) = tokio::join!(reading, write(writer, queue));
    read.and(written)
}

/// Reads until the client ends, falls silent or stops taking answers.
async fn read(
    mut reader: OwnedReadHalf,
    answers: mpsc::Sender<Vec<u8>>,
    shared: Arc<Shared>,
) -> io::Result<()> {
    let mut relays = JoinSet::new();
    loop {
        while relays.try_join_next().is_some() {}
        let Ok(place) = answers.clone().reserve_owned().await else {
            return Ok(());
        };
        let message = tokio::select! {
            message = next(&mut reader) => message?,
            () = answers.closed() => return Ok(()),
        };
        let Some(message) = message else { break };
        match shared.judge(&message, Transport::Tcp) {
            Verdict::Drop => {}
            Verdict::Reply(reply) => {
                place.send(reply.bytes);
            }
            Verdict::Forward(forward) => {
                let shared = Arc::clone(&shared);
                relays.spawn(async move {
                    place.send(shared.relay(forward).await);
                });
            }
        }
    }
    // A client may half-close after its last question and still wants the answers.
    while relays.join_next().await.is_some() {}
    Ok(())
}

/// The next message; `None` at the end or after too long a silence.
async fn next(reader: &mut OwnedReadHalf) -> io::Result<Option<Vec<u8>>> {
    let Ok(first) = timeout(IDLE, reader.read_u16()).await else {
        return Ok(None);
    };
    let length = match first {
        Ok(length) => usize::from(length),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut message = vec![0; length];
    match timeout(IDLE, reader.read_exact(&mut message)).await {
        Ok(done) => done.map(|_| Some(message)),
        Err(_) => Ok(None),
    }
}

async fn write(mut writer: OwnedWriteHalf, mut queue: mpsc::Receiver<Vec<u8>>) -> io::Result<()> {
    while let Some(answer) = queue.recv().await {
        // Encoders bound a message to 65,535 bytes.
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        let mut framed = length.to_be_bytes().to_vec();
        framed.extend(answer);
        timeout(WRITE, writer.write_all(&framed))
            .await
            .map_err(|_| io::ErrorKind::TimedOut)??;
    }
    writer.shutdown().await
}
