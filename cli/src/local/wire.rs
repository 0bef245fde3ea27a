//! Framing: one JSON value on one line, bounded in size.
//!
//! Owns reading and writing of a line. Never interprets it. Used by both ends.

use std::io;

use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Reads one line of at most `max` bytes.
///
/// # Errors
/// `UnexpectedEof` if the line has no end (the other side closed, or it is too long), `InvalidData` if it is not the JSON expected.
pub(crate) async fn read<T: DeserializeOwned>(from: impl AsyncBufRead + Unpin, max: usize) -> io::Result<T> {
    let mut line = Vec::new();
    from.take(max as u64 + 1).read_until(b'\n', &mut line).await?;
    if line.last() != Some(&b'\n') {
        let why = if line.len() > max {
            "the line is too long"
        } else {
            "closed before the line ended"
        };
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
    }
    serde_json::from_slice(&line).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

/// Writes one line.
///
/// # Errors
/// As the writer gives.
pub(crate) async fn write<T: Serialize>(mut to: impl AsyncWrite + Unpin, value: &T) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    to.write_all(&line).await?;
    to.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_bounded_and_whole() {
        let read = async |bytes: &[u8], max| read::<Vec<u32>>(bytes, max).await.map_err(|e| e.kind());
        assert_eq!(read(b"[1,2]\nrest", 16).await, Ok(vec![1, 2]));
        assert_eq!(read(b"[1,2]", 16).await, Err(io::ErrorKind::UnexpectedEof));
        assert_eq!(read(b"[1,2]\n", 4).await, Err(io::ErrorKind::UnexpectedEof));
        assert_eq!(read(b"{}\n", 16).await, Err(io::ErrorKind::InvalidData));
    }

    #[tokio::test]
    async fn what_is_written_is_read() {
        let mut line = Vec::new();
        write(&mut line, &"two\nlines").await.unwrap();
        assert_eq!(read::<String>(line.as_slice(), 64).await.unwrap(), "two\nlines");
    }
}
