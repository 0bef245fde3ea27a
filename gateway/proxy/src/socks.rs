//! SOCKS5 as a server speaks it: the messages only (RFC 1928).
//!
//! Owns the parsing of greeting and request and the encoding of replies: CONNECT, no authentication. Never does I/O and never decides
//! what may be reached. Three fixed-size messages need no library: the ones at hand bring their own sockets, resolver and relay, and
//! the point here is to bound every byte and to refuse all but our own names. Called by ingress.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use strait_federation_api::Reason;

const VERSION: u8 = 5;
const NO_AUTHENTICATION: u8 = 0;
const NO_ACCEPTABLE_METHOD: u8 = 0xff;
const CONNECT: u8 = 1;
const ATYP_V4: u8 = 1;
const ATYP_NAME: u8 = 3;
const ATYP_V6: u8 = 4;

/// Longest greeting: version, count, 255 methods.
pub const GREETING_MAX: usize = 2 + 255;
/// Longest request: four fixed bytes, a name of 255 with its length, the port.
pub const REQUEST_MAX: usize = 4 + 1 + 255 + 2;

/// A message that is read piece by piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed<T> {
    /// Whole; so many bytes of input belong to it.
    Done(T, usize),
    /// At least so many more bytes are needed.
    More(usize),
}

/// What a client wants to reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connect {
    /// Where.
    pub host: Host,
    /// TCP port.
    pub port: u16,
}

/// Address of a [`Connect`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// A literal.
    Ip(IpAddr),
    /// A domain name, UTF-8, not checked further.
    Name(String),
}

/// Why a client's message was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SocksError {
    /// Not SOCKS5.
    #[error("not a SOCKS5 message")]
    NotSocks5,
    /// The client insists on authentication.
    #[error("the client offers no method without authentication")]
    NoMethod,
    /// BIND and UDP ASSOCIATE are not served.
    #[error("command {0} is not served, only CONNECT")]
    Command(u8),
    /// An address type that is not known.
    #[error("address type {0} is not known")]
    AddressType(u8),
    /// A name that is not UTF-8, or port 0.
    #[error("the address is not valid")]
    Address,
}

impl SocksError {
    /// REP field of the reply.
    #[must_use]
    pub const fn reply(self) -> u8 {
        match self {
            Self::Command(_) => 7,
            Self::AddressType(_) => 8,
            Self::NotSocks5 | Self::NoMethod | Self::Address => 1,
        }
    }

    /// For logs and metrics.
    #[must_use]
    pub const fn reason(self) -> Reason {
        match self {
            Self::Command(_) => Reason::ProtocolNotServed,
            Self::NoMethod | Self::AddressType(_) => Reason::Unsupported,
            Self::NotSocks5 | Self::Address => Reason::Malformed,
        }
    }
}

/// The method selection that accepts a greeting.
pub const ACCEPT: [u8; 2] = [VERSION, NO_AUTHENTICATION];
/// The method selection that refuses one.
pub const REFUSE: [u8; 2] = [VERSION, NO_ACCEPTABLE_METHOD];

/// Parses a greeting.
///
/// # Errors
/// [`SocksError::NotSocks5`] or [`SocksError::NoMethod`].
pub fn greeting(input: &[u8]) -> Result<Parsed<()>, SocksError> {
    match input {
        [] => Ok(Parsed::More(2)),
        [version, ..] if *version != VERSION => Err(SocksError::NotSocks5),
        [_] => Ok(Parsed::More(1)),
        [_, count, methods @ ..] => {
            let count = usize::from(*count);
            let Some(methods) = methods.get(..count) else {
                return Ok(Parsed::More(count - methods.len()));
            };
            if methods.contains(&NO_AUTHENTICATION) {
                Ok(Parsed::Done((), 2 + count))
            } else {
                Err(SocksError::NoMethod)
            }
        }
    }
}

/// Parses a request.
///
/// # Errors
/// As [`SocksError`].
pub fn request(input: &[u8]) -> Result<Parsed<Connect>, SocksError> {
    let &[version, command, _reserved, kind, first, ..] = input else {
        if input.first().is_some_and(|v| *v != VERSION) {
            return Err(SocksError::NotSocks5);
        }
        return Ok(Parsed::More(5 - input.len()));
    };
    if version != VERSION {
        return Err(SocksError::NotSocks5);
    }
    let (start, len) = match kind {
        ATYP_V4 => (4, 4),
        ATYP_V6 => (4, 16),
        ATYP_NAME => (5, usize::from(first)),
        other => return Err(SocksError::AddressType(other)),
    };
    let whole = start + len + 2;
    let Some(message) = input.get(..whole) else {
        return Ok(Parsed::More(whole - input.len()));
    };
    if command != CONNECT {
        return Err(SocksError::Command(command));
    }
    let (address, port) = message[start..].split_at(len);
    let port = u16::from_be_bytes([port[0], port[1]]);
    if port == 0 {
        return Err(SocksError::Address);
    }
    let host = host(address, kind).ok_or(SocksError::Address)?;
    Ok(Parsed::Done(Connect { host, port }, whole))
}

fn host(address: &[u8], kind: u8) -> Option<Host> {
    Some(match kind {
        ATYP_V4 => Host::Ip(Ipv4Addr::from(<[u8; 4]>::try_from(address).ok()?).into()),
        ATYP_V6 => Host::Ip(Ipv6Addr::from(<[u8; 16]>::try_from(address).ok()?).into()),
        _ => Host::Name(
            std::str::from_utf8(address)
                .ok()
                .filter(|s| !s.is_empty())?
                .to_owned(),
        ),
    })
}

/// A reply. The bound address is all zeros: what we connect from lies in another cluster and means nothing to the client.
#[must_use]
pub const fn reply(code: u8) -> [u8; 10] {
    [VERSION, code, 0, ATYP_V4, 0, 0, 0, 0, 0, 0]
}

/// REP field: success.
pub const SUCCEEDED: u8 = 0;

/// REP field for a stream that failed for `reason`.
#[must_use]
pub const fn reply_code(reason: Reason) -> u8 {
    match reason {
        // "not allowed by ruleset"
        Reason::Denied | Reason::TransitRefused | Reason::PeerSuspended | Reason::PeerDraining => 2,
        // "network unreachable"
        Reason::NoTunnel | Reason::TunnelLost | Reason::PeerSilent => 3,
        // "host unreachable"
        Reason::UnknownName | Reason::NoBackend | Reason::NoEndpoint | Reason::UnknownService => 4,
        // "connection refused"
        Reason::ConnectFailed => 5,
        // "TTL expired"
        Reason::DeadlineExceeded => 6,
        Reason::ProtocolNotServed => 7,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn connect_name(name: &[u8], port: u16) -> Vec<u8> {
        let mut bytes = vec![5, 1, 0, 3, u8::try_from(name.len()).unwrap()];
        bytes.extend(name);
        bytes.extend(port.to_be_bytes());
        bytes
    }

    #[test]
    fn greetings() {
        assert_eq!(greeting(&[5, 2, 2, 0]), Ok(Parsed::Done((), 4)));
        assert_eq!(greeting(&[5, 1, 2]), Err(SocksError::NoMethod));
        assert_eq!(greeting(&[5, 0]), Err(SocksError::NoMethod));
        assert_eq!(greeting(&[4, 1]), Err(SocksError::NotSocks5));
        assert_eq!(greeting(b"GET / HTTP/1.1"), Err(SocksError::NotSocks5));
        assert_eq!(greeting(&[5, 3, 1]), Ok(Parsed::More(2)));
    }

    #[test]
    fn requests_of_every_kind() {
        let name = connect_name(b"greeter.demo.svc.clusterset.local", 8080);
        let want = Connect {
            host: Host::Name("greeter.demo.svc.clusterset.local".into()),
            port: 8080,
        };
        assert_eq!(request(&name), Ok(Parsed::Done(want, name.len())));
        let v4 = [5, 1, 0, 1, 127, 1, 2, 3, 0, 80];
        let want = Connect {
            host: Host::Ip("127.1.2.3".parse().unwrap()),
            port: 80,
        };
        assert_eq!(request(&v4), Ok(Parsed::Done(want, 10)));
        let mut v6 = vec![5, 1, 0, 4];
        v6.extend(Ipv6Addr::LOCALHOST.octets());
        v6.extend([0, 80]);
        let want = Connect {
            host: Host::Ip(Ipv6Addr::LOCALHOST.into()),
            port: 80,
        };
        assert_eq!(request(&v6), Ok(Parsed::Done(want, 22)));
    }

    #[test]
    fn what_is_not_served_has_its_own_reply() {
        assert_eq!(
            request(&[5, 2, 0, 1, 1, 1, 1, 1, 0, 80]),
            Err(SocksError::Command(2))
        );
        assert_eq!(request(&[5, 1, 0, 9, 1]), Err(SocksError::AddressType(9)));
        assert_eq!(request(&[5, 1, 0, 1, 1, 1, 1, 1, 0, 0]), Err(SocksError::Address));
        assert_eq!(request(&connect_name(&[0xff], 80)), Err(SocksError::Address));
        assert_eq!(request(&connect_name(b"", 80)), Err(SocksError::Address));
        assert_eq!(
            (SocksError::Command(3).reply(), SocksError::AddressType(9).reply()),
            (7, 8)
        );
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic_and_lengths_are_bounded(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            if let Ok(Parsed::Done((), n)) = greeting(&bytes) {
                prop_assert!(n <= bytes.len() && n <= GREETING_MAX);
            }
            match request(&bytes) {
                Ok(Parsed::Done(_, n)) => prop_assert!(n <= bytes.len() && n <= REQUEST_MAX),
                Ok(Parsed::More(n)) => prop_assert!(n > 0 && bytes.len() + n <= REQUEST_MAX),
                Err(_) => {}
            }
        }

        /// However a message is cut into pieces, it ends in the same parse, and `More` never asks beyond it.
        #[test]
        fn pieces_make_the_whole(name in "[a-z.]{1,255}", port in 1u16.., cut in any::<prop::sample::Index>()) {
            let whole = connect_name(name.as_bytes(), port);
            let cut = cut.index(whole.len());
            match request(&whole[..cut]) {
                Ok(Parsed::More(n)) => prop_assert!(n > 0 && cut + n <= whole.len()),
                other => prop_assert!(false, "{other:?}"),
            }
        }
    }
}
