//! A server that knows its clients and remembers how each of them ended. Health probes, which say nothing, leave no trace.

use std::{
    collections::BTreeMap,
    io,
    sync::{Mutex, PoisonError},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{App, loopback};

/// How a client's connection is, as its server sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Still open.
    Open,
    /// It said that it is done, after so many bytes behind its id.
    Clean(u64),
    /// An error.
    Reset,
}

/// What a witness keeps.
#[derive(Debug)]
pub struct Witness {
    echoes: bool,
    ends: Mutex<BTreeMap<u64, Vec<End>>>,
}

impl Witness {
    /// Every connection of each client that said its id.
    #[must_use]
    pub fn ends(&self) -> BTreeMap<u64, Vec<End>> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Connections of clients, by how they are.
    #[must_use]
    pub fn count(&self, wanted: impl Fn(End) -> bool) -> usize {
        self.ends()
            .into_values()
            .flatten()
            .filter(|end| wanted(*end))
            .count()
    }

    fn set(&self, id: u64, slot: usize, end: End) {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = ends.get_mut(&id).and_then(|of_id| of_id.get_mut(slot)) {
            *kept = end;
        }
    }

    fn open(&self, id: u64) -> usize {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        let of_id = ends.entry(id).or_default();
        of_id.push(End::Open);
        of_id.len() - 1
    }
}

/// Starts a witness: a client's first eight bytes are its id. What follows is echoed, or swallowed; the client's end is answered with
/// a clean one.
///
/// # Errors
/// If no port can be bound.
pub async fn witness(echoes: bool) -> io::Result<App<Witness>> {
    let state = Witness {
        echoes,
        ends: Mutex::default(),
    };
    App::start(loopback(), state, |mut stream, state| async move {
        let id = stream.read_u64().await?;
        let slot = state.open(id);
        let served = serve(&mut stream, state.echoes).await;
        state.set(
            id,
            slot,
            served.as_ref().map_or(End::Reset, |bytes| End::Clean(*bytes)),
        );
        served.map(drop)
    })
    .await
}

async fn serve(stream: &mut TcpStream, echoes: bool) -> io::Result<u64> {
    let (mut buffer, mut total) = (vec![0; 16 * 1024], 0);
    loop {
        let length = stream.read(&mut buffer).await?;
        if length == 0 {
            stream.shutdown().await?;
            return Ok(total);
        }
        total += length as u64;
        if echoes {
            stream.write_all(&buffer[..length]).await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::apps::eventually;

    #[tokio::test]
    async fn each_client_has_its_own_end_and_a_probe_none() {
        let app = witness(true).await.unwrap();
        drop(TcpStream::connect(app.address()).await.unwrap());
        for id in [1_u64, 1, 2] {
            let mut stream = TcpStream::connect(app.address()).await.unwrap();
            stream.write_all(&id.to_be_bytes()).await.unwrap();
            stream.write_all(b"abc").await.unwrap();
            stream.read_exact(&mut [0; 3]).await.unwrap();
            if id == 2 {
                stream.set_zero_linger().unwrap();
            }
        }
        let state = app.state();
        eventually(Duration::from_secs(10), || {
            state.count(|end| end != End::Open) == 3
        })
        .await
        .unwrap();
        let wanted = BTreeMap::from([(1, vec![End::Clean(3), End::Clean(3)]), (2, vec![End::Reset])]);
        assert_eq!(state.ends(), wanted);
    }
}
