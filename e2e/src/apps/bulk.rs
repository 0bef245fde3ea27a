//! Bulk transfer whose every byte is known: what is cut short, repeated or mixed up is found.

use std::io;

use rand::{Rng, SeedableRng, rngs::SmallRng};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{App, loopback};

/// Bytes produced at once.
const BLOCK: usize = 64 * 1024;

/// The bytes of a seed, without end.
#[derive(Debug)]
pub struct Pattern(SmallRng);

impl Pattern {
    /// The bytes of `seed` from their start.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(SmallRng::seed_from_u64(seed))
    }

    /// The next bytes. Blocks must be read in multiples of eight to be the same however they are cut.
    pub fn fill(&mut self, block: &mut [u8]) {
        self.0.fill_bytes(block);
    }
}

/// Sends what a client asks for: it gets 16 bytes (length and seed, big-endian), answers with that many bytes of the seed's pattern,
/// then ends.
///
/// # Errors
/// If no port can be bound.
pub async fn sender() -> io::Result<App<()>> {
    App::start(loopback(), (), |mut stream, _| async move {
        let (length, seed) = (stream.read_u64().await?, stream.read_u64().await?);
        send(&mut stream, length, seed).await?;
        stream.shutdown().await
    })
    .await
}

/// Sends `length` bytes of the pattern.
///
/// # Errors
/// As the stream gives.
pub async fn send(stream: &mut TcpStream, length: u64, seed: u64) -> io::Result<()> {
    let (mut pattern, mut block, mut left) = (Pattern::new(seed), vec![0; BLOCK], length);
    while left > 0 {
        pattern.fill(&mut block);
        let part = usize::try_from(left).unwrap_or(BLOCK).min(BLOCK);
        stream.write_all(&block[..part]).await?;
        left -= part as u64;
    }
    Ok(())
}

/// How a transfer ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Transfer {
    /// Every byte, then a clean end.
    Whole,
    /// A clean end before the last byte: the lie a gateway must never tell.
    Short(u64),
    /// Another byte than was sent, at this offset.
    Wrong(u64),
    /// More than was asked for.
    Long,
    /// An error after this many bytes.
    Broken(u64, io::ErrorKind),
}

/// Asks a [`sender`] for `length` bytes and compares every one.
///
/// # Errors
/// If the request itself cannot be sent.
pub async fn fetch(stream: &mut TcpStream, length: u64, seed: u64) -> io::Result<Transfer> {
    let mut request = length.to_be_bytes().to_vec();
    request.extend(seed.to_be_bytes());
    stream.write_all(&request).await?;
    Ok(compare(stream, length, seed).await)
}

async fn compare(stream: &mut TcpStream, length: u64, seed: u64) -> Transfer {
    let (mut pattern, mut expected, mut got) = (Pattern::new(seed), vec![0; BLOCK], vec![0; BLOCK]);
    let (mut total, mut in_block) = (0_u64, BLOCK);
    loop {
        if in_block == BLOCK {
            pattern.fill(&mut expected);
            in_block = 0;
        }
        let part = match stream.read(&mut got[..BLOCK - in_block]).await {
            Ok(0) if total == length => return Transfer::Whole,
            Ok(0) => return Transfer::Short(total),
            Ok(part) => part,
            Err(error) => return Transfer::Broken(total, error.kind()),
        };
        if total + part as u64 > length {
            return Transfer::Long;
        }
        let pairs = got[..part].iter().zip(&expected[in_block..]);
        if let Some(at) = pairs.clone().position(|(a, b)| a != b) {
            return Transfer::Wrong(total + at as u64);
        }
        total += part as u64;
        in_block += part;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn through(tamper: fn(Vec<u8>) -> Vec<u8>) -> Transfer {
        let app = App::start(loopback(), (), move |mut stream, _| async move {
            let (length, seed) = (stream.read_u64().await?, stream.read_u64().await?);
            let mut bytes = vec![0; usize::try_from(length).unwrap()];
            Pattern::new(seed).fill(&mut bytes);
            stream.write_all(&tamper(bytes)).await?;
            stream.shutdown().await
        })
        .await
        .unwrap();
        let mut stream = TcpStream::connect(app.address()).await.unwrap();
        fetch(&mut stream, 4096, 9).await.unwrap()
    }

    #[tokio::test]
    async fn a_whole_transfer_is_whole() {
        let app = sender().await.unwrap();
        for length in [0, 1, 65_535, 65_536, 65_537, 3_000_000] {
            let mut stream = TcpStream::connect(app.address()).await.unwrap();
            assert_eq!(
                fetch(&mut stream, length, 42).await.unwrap(),
                Transfer::Whole,
                "{length}"
            );
        }
    }

    #[tokio::test]
    async fn every_fault_is_found() {
        assert_eq!(through(|b| b).await, Transfer::Whole);
        assert_eq!(through(|b| b[..4000].to_vec()).await, Transfer::Short(4000));
        assert_eq!(through(|b| [b, vec![0]].concat()).await, Transfer::Long);
        let flip = |mut b: Vec<u8>| {
            b[1234] ^= 1;
            b
        };
        assert_eq!(through(flip).await, Transfer::Wrong(1234));
    }
}
