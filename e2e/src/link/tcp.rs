//! TCP connections: bytes keep their order; half-close and reset are passed on as what they are.

use std::{collections::VecDeque, io, sync::atomic::Ordering::Relaxed};

use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::{Direction, Path};

/// Bytes read at once.
const CHUNK: usize = 64 * 1024;
/// Bytes under way in one direction, at most: then the sender is held back, as by a full window.
const WINDOW: usize = 4 * 1024 * 1024;

pub(super) async fn run(listener: TcpListener, path: Path) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else {
            continue;
        };
        path.counters.tcp_connections.fetch_add(1, Relaxed);
        connections.spawn(connection(client, path.clone()));
        while connections.try_join_next().is_some() {}
    }
}

/// Dropped with an error or by the link's end, both sides see a reset.
async fn connection(client: TcpStream, path: Path) {
    let mut severs = path.severs.clone();
    severs.mark_unchanged();
    // From here on dropping is a reset, until both directions have ended well.
    let _ = client.set_zero_linger();
    let carried = tokio::select! {
        carried = carry(&client, &path) => carried,
        _ = severs.changed() => Err(io::ErrorKind::ConnectionReset.into()),
    };
    if carried.is_ok() {
        let _ = socket2::SockRef::from(&client).set_linger(None);
    }
}

async fn carry(client: &TcpStream, path: &Path) -> io::Result<()> {
    // The handshake itself crosses the path.
    uncut(path, Direction::ToTarget).await;
    sleep_until(Instant::now() + path.now().delay).await;
    let target = TcpStream::connect(path.target).await?;
    target.set_zero_linger()?;
    target.set_nodelay(true)?;
    client.set_nodelay(true)?;
    tokio::try_join!(
        pump(client, &target, Direction::ToTarget, path),
        pump(&target, client, Direction::FromTarget, path),
    )?;
    socket2::SockRef::from(&target).set_linger(None)
}

/// Resolves once the direction is whole.
async fn uncut(path: &Path, direction: Direction) {
    let mut conditions = path.conditions.clone();
    // The link's end takes this task with it.
    let _ = conditions.wait_for(|c| !c.is_cut(direction)).await;
}

/// Bytes on the wire with the time they arrive; `None` is the end of the stream.
type Wire = VecDeque<(Instant, Option<Vec<u8>>)>;

async fn pump(from: &TcpStream, to: &TcpStream, direction: Direction, path: &Path) -> io::Result<()> {
    let (mut wire, mut on_wire, mut free_at) = (Wire::new(), 0, Instant::now());
    let (mut buffer, mut ended) = (vec![0; CHUNK], false);
    loop {
        let head = wire.front().map(|&(due, _)| due);
        tokio::select! {
            ready = from.readable(), if !ended && on_wire < WINDOW => {
                ready?;
                let conditions = path.now();
                let chunk = match from.try_read(&mut buffer) {
                    Ok(0) => None,
                    Ok(length) => Some(buffer[..length].to_vec()),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                    Err(error) => return Err(error),
                };
                ended = chunk.is_none();
                let length = chunk.as_ref().map_or(0, Vec::len);
                on_wire += length;
                free_at = free_at.max(Instant::now()) + conditions.busy(length);
                wire.push_back((free_at + conditions.delay, chunk));
            }
            () = arrival(head), if head.is_some() => {
                uncut(path, direction).await;
                match wire.pop_front() {
                    Some((_, Some(chunk))) => {
                        write_all(to, &chunk).await?;
                        on_wire -= chunk.len();
                        path.delivered(chunk.len());
                    }
                    Some((_, None)) => return shutdown(to),
                    None => {}
                }
            }
        }
    }
}

async fn arrival(due: Option<Instant>) {
    if let Some(due) = due {
        sleep_until(due).await;
    }
}

async fn write_all(to: &TcpStream, mut chunk: &[u8]) -> io::Result<()> {
    while !chunk.is_empty() {
        to.writable().await?;
        match to.try_write(chunk) {
            Ok(written) => chunk = &chunk[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn shutdown(to: &TcpStream) -> io::Result<()> {
    match socket2::SockRef::from(to).shutdown(std::net::Shutdown::Write) {
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
        done => done,
    }
}
