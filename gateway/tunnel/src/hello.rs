//! The first uni stream of a data connection: hello, later renewal and drain.
//!
//! Owns the wire format and the choice of a protocol version. Pure: bytes in, frames out. Called by the connection task.
//!
//! A frame is `type: u8, length: u16, body`, big-endian. A frame type or extension type with the top bit set is critical: whoever does
//! not know it must refuse; others are skipped, so that version n talks to n-1.

use strait_federation_api::{InstanceId, Reason};

/// The protocol versions spoken here, oldest and newest.
pub(crate) const VERSIONS: (u16, u16) = (1, 1);
/// Bound on one frame's body, bytes: a hello is under 200; the rest is room for extensions.
pub(crate) const MAX_BODY: usize = 4096;
/// Bytes before a body.
pub(crate) const HEADER_LEN: usize = 3;
/// Top bit of a frame or extension type.
const CRITICAL: u8 = 0x80;
const HELLO: u8 = 0x81;
const DRAIN: u8 = 0x02;
const RENEW: u8 = 0x03;

/// What a gateway says of itself at the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hello {
    /// Oldest and newest protocol version it speaks.
    pub(crate) versions: (u16, u16),
    /// Its instance; must be the one in its certificate.
    pub(crate) instance: InstanceId,
    /// Streams it lets the reader keep open at a time.
    pub(crate) max_streams: u32,
}

/// A frame that a reader understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Frame {
    Hello(Hello),
    /// The sender takes no new streams, and why.
    Drain(Reason),
    /// The sender, which was dialled, has a new leaf: the dialler shall open a new connection and then leave this one.
    Renew,
    /// Not known and not critical.
    Skipped,
}

/// Length of the body, from a header.
pub(crate) fn body_len(header: [u8; HEADER_LEN]) -> Result<usize, Reason> {
    let length = usize::from(u16::from_be_bytes([header[1], header[2]]));
    if length > MAX_BODY {
        Err(Reason::Malformed)
    } else {
        Ok(length)
    }
}

/// Reads one frame whose body is whole.
pub(crate) fn decode(header: [u8; HEADER_LEN], body: &[u8]) -> Result<Frame, Reason> {
    match header[0] {
        HELLO => decode_hello(body).map(Frame::Hello),
        DRAIN => {
            let (code, _) = take_u16(body)?;
            Ok(Frame::Drain(Reason::from_code(code).unwrap_or(Reason::Draining)))
        }
        RENEW => Ok(Frame::Renew),
        other if other & CRITICAL != 0 => Err(Reason::Unsupported),
        _ => Ok(Frame::Skipped),
    }
}

fn decode_hello(body: &[u8]) -> Result<Hello, Reason> {
    let (oldest, rest) = take_u16(body)?;
    let (newest, rest) = take_u16(rest)?;
    let (max_streams, rest) = rest.split_first_chunk::<4>().ok_or(Reason::Malformed)?;
    let (length, rest) = rest.split_first().ok_or(Reason::Malformed)?;
    let (instance, extensions) = rest
        .split_at_checked(usize::from(*length))
        .ok_or(Reason::Malformed)?;
    let instance = std::str::from_utf8(instance).map_err(|_| Reason::Malformed)?;
    check_extensions(extensions)?;
    Ok(Hello {
        versions: (oldest, newest),
        instance: InstanceId::parse(instance).map_err(|_| Reason::Malformed)?,
        max_streams: u32::from_be_bytes(*max_streams),
    })
}

/// None is known yet, so a critical one is refused and others are skipped.
fn check_extensions(mut rest: &[u8]) -> Result<(), Reason> {
    while let Some((kind, after)) = rest.split_first() {
        let (length, after) = take_u16(after)?;
        let (_, after) = after
            .split_at_checked(usize::from(length))
            .ok_or(Reason::Malformed)?;
        if kind & CRITICAL != 0 {
            return Err(Reason::Unsupported);
        }
        rest = after;
    }
    Ok(())
}

fn take_u16(bytes: &[u8]) -> Result<(u16, &[u8]), Reason> {
    let (head, rest) = bytes.split_first_chunk::<2>().ok_or(Reason::Malformed)?;
    Ok((u16::from_be_bytes(*head), rest))
}

impl Hello {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let instance = self.instance.as_str().as_bytes();
        let mut body = Vec::with_capacity(9 + instance.len());
        body.extend(self.versions.0.to_be_bytes());
        body.extend(self.versions.1.to_be_bytes());
        body.extend(self.max_streams.to_be_bytes());
        // An InstanceId has at most 128 bytes.
        body.push(u8::try_from(instance.len()).unwrap_or(u8::MAX));
        body.extend(instance);
        frame(HELLO, &body)
    }

    /// The newest version that both sides speak.
    pub(crate) fn version(&self) -> Result<u16, Reason> {
        let newest = self.versions.1.min(VERSIONS.1);
        if newest >= self.versions.0.max(VERSIONS.0) {
            Ok(newest)
        } else {
            Err(Reason::VersionSkew)
        }
    }
}

/// A drain frame.
pub(crate) fn encode_drain(reason: Reason) -> Vec<u8> {
    frame(DRAIN, &reason.code().to_be_bytes())
}

/// A renewal frame. Not critical: an older dialler keeps its connection, which is no worse than before.
pub(crate) fn encode_renew() -> Vec<u8> {
    frame(RENEW, &[])
}

fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap_or(u16::MAX);
    let mut frame = vec![kind];
    frame.extend(length.to_be_bytes());
    frame.extend(body);
    frame
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hello(versions: (u16, u16)) -> Hello {
        Hello {
            versions,
            instance: InstanceId::parse("gw-1").unwrap(),
            max_streams: 1024,
        }
    }

    fn read(bytes: &[u8]) -> Result<Frame, Reason> {
        let (header, body) = bytes.split_first_chunk::<HEADER_LEN>().ok_or(Reason::Malformed)?;
        assert_eq!(body_len(*header)?, body.len());
        decode(*header, body)
    }

    #[test]
    fn frames_round_trip() {
        assert_eq!(read(&hello((1, 3)).encode()), Ok(Frame::Hello(hello((1, 3)))));
        assert_eq!(
            read(&encode_drain(Reason::Draining)),
            Ok(Frame::Drain(Reason::Draining))
        );
        assert_eq!(read(&encode_renew()), Ok(Frame::Renew));
    }

    #[test]
    fn versions_must_overlap() {
        assert_eq!(hello((1, 1)).version(), Ok(1));
        assert_eq!(hello((0, 9)).version(), Ok(VERSIONS.1));
        assert_eq!(hello((2, 9)).version(), Err(Reason::VersionSkew));
        assert_eq!(hello((0, 0)).version(), Err(Reason::VersionSkew));
    }

    #[test]
    fn unknown_frames_and_extensions_follow_the_critical_bit() {
        assert_eq!(read(&frame(0x04, b"later")), Ok(Frame::Skipped));
        assert_eq!(read(&frame(0x83, b"later")), Err(Reason::Unsupported));
        let extended = |kind: u8| {
            let plain = hello((1, 1)).encode();
            frame(HELLO, &[&plain[HEADER_LEN..], &[kind, 0, 2, 9, 9]].concat())
        };
        assert_eq!(read(&extended(0x01)), Ok(Frame::Hello(hello((1, 1)))));
        assert_eq!(read(&extended(0x81)), Err(Reason::Unsupported));
    }

    #[test]
    fn a_frame_over_the_bound_is_refused_before_its_body() {
        let [high, low] = u16::try_from(MAX_BODY + 1).unwrap().to_be_bytes();
        assert_eq!(body_len([HELLO, high, low]), Err(Reason::Malformed));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(kind: u8, body in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = decode([kind, 0, 0], &body);
        }

        #[test]
        fn a_cut_hello_is_malformed(cut in 0usize..13) {
            let whole = hello((1, 1)).encode();
            let body = &whole[HEADER_LEN..];
            prop_assume!(cut < body.len());
            prop_assert_eq!(decode([HELLO, 0, 0], &body[..cut]), Err(Reason::Malformed));
        }
    }
}
