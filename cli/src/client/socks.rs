//! The client's side of SOCKS5 (RFC 1928): CONNECT by name, no authentication.
//!
//! Owns the handshake. Never sends payload: until it gives a stream, not a byte has left. Used by `check` and the demo.

use std::{fmt, io, net::SocketAddr};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// Protocol version.
const SOCKS5: u8 = 5;
/// Longest name the protocol can carry, bytes.
const NAME_MAX: usize = 255;

/// Why there is no connection. Until there is one, not a byte of payload has left.
#[derive(Debug)]
pub(crate) enum SocksError {
    /// The proxy refused, with this reply code (section 6).
    Refused(u8),
    /// The proxy could not be reached or broke off.
    Io(io::Error),
}

impl fmt::Display for SocksError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(code) => write!(f, "the proxy refused with code {code}"),
            Self::Io(e) => write!(f, "at the proxy: {e}"),
        }
    }
}

impl From<io::Error> for SocksError {
    fn from(e: io::Error) -> Self {
        Self::Io(e)
    }
}

/// Opens a connection to `host:port` through `proxy`.
pub(crate) async fn connect(proxy: SocketAddr, host: &str, port: u16) -> Result<TcpStream, SocksError> {
    let mut stream = TcpStream::connect(proxy).await?;
    stream.set_nodelay(true)?;
    stream.write_all(&[SOCKS5, 1, 0]).await?;
    let mut choice = [0; 2];
    stream.read_exact(&mut choice).await?;
    if choice != [SOCKS5, 0] {
        return Err(invalid(format!("it chose method {choice:?}")));
    }
    stream.write_all(&connect_message(host, port)?).await?;
    match reply(&mut stream).await? {
        0 => Ok(stream),
        code => Err(SocksError::Refused(code)),
    }
}

/// Section 4, with a domain name.
fn connect_message(host: &str, port: u16) -> Result<Vec<u8>, SocksError> {
    let length =
        u8::try_from(host.len()).map_err(|_| invalid(format!("the name is longer than {NAME_MAX} bytes")))?;
    let mut message = vec![SOCKS5, 1, 0, 3, length];
    message.extend_from_slice(host.as_bytes());
    message.extend_from_slice(&port.to_be_bytes());
    Ok(message)
}

/// Reads a reply (section 6) and gives its code.
async fn reply(stream: &mut TcpStream) -> Result<u8, SocksError> {
    let mut head = [0; 4];
    stream.read_exact(&mut head).await?;
    let address = match head[3] {
        1 => 4,
        4 => 16,
        3 => usize::from(stream.read_u8().await?),
        other => return Err(invalid(format!("address type {other}"))),
    };
    let mut rest = vec![0; address + 2];
    stream.read_exact(&mut rest).await?;
    Ok(head[1])
}

fn invalid(why: String) -> SocksError {
    SocksError::Io(io::Error::new(io::ErrorKind::InvalidData, why))
}
