//! The first bytes of a stream, each way.
//!
//! Owns the codec of the request header (who wants what) and of the answer to it. Never decides anything. Everything here comes from
//! a peer and is hostile until parsed: sizes and counts are bounded before anything is allocated. Called by egress (encode, read the
//! answer) and by the acceptor (the reverse).
//!
//! ```text
//! frame    = version:u8 length:u16 body[length]                     integers are big-endian
//! request  = protocol:u8 port:u16 hops:u8 deadline_ms:u32 text8(namespace) text8(service) text8(origin)
//!            text16(source or "") text8(endpoint or "") opt(affinity:u64) opt(trace_id[16] span_id[8] flags:u8) extension*
//! answer   = class:u8 (0 ok, 1 retryable, 2 final) code:u16 text8(message) extension*
//! opt(x)   = 0:u8 | 1:u8 x
//! extension = type:u16 (top bit: critical) length:u16 value
//! ```

use std::time::Duration;

use bytes::{BufMut, Bytes};
use strait_federation_api::{
    ClusterId, Hostname, Reason, ServiceKey,
    catalog::{EndpointId, Protocol},
    ids::SpiffeId,
};

mod wire;

use self::wire::{Reader, frame, put_opt, put_text8, put_text16, seal};

/// Version of both frames. A receiver answers another one with `Unsupported` in its own version.
pub const VERSION: u8 = 1;
/// Bytes before the body.
pub const PREFIX_LEN: usize = 3;
/// Bound on a body, bytes: the longest SPIFFE ID (2,048) and every other field at its longest fit with 1 KiB left for extensions.
pub const BODY_MAX: usize = 4096;
/// Bound on an answer's message, bytes: one line in a log.
pub const MESSAGE_MAX: usize = 200;
/// Longest deadline a header may ask for. Longer ones are cut, so that no peer can pin state here.
pub const DEADLINE_MAX: Duration = Duration::from_secs(60);

/// W3C trace context (Trace Context Level 1), in binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// `trace-id`.
    pub trace_id: [u8; 16],
    /// `parent-id`.
    pub span_id: [u8; 8],
    /// `trace-flags`.
    pub flags: u8,
}

/// What a stream asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Protocol of the port.
    pub protocol: Protocol,
    /// Service port, never 0.
    pub port: u16,
    /// Tunnels crossed so far, this one included.
    pub hops: u8,
    /// Time left for an answer, counted from the receipt: clocks are not compared.
    pub deadline: Duration,
    /// The service under the receiver's own name.
    pub service: ServiceKey,
    /// The cluster the client runs in.
    pub origin: ClusterId,
    /// The client's mesh identity, a claim of the sending gateway.
    pub source: Option<SpiffeId>,
    /// The member of a headless service.
    pub endpoint: Option<EndpointId>,
    /// Key of the client for session affinity.
    pub affinity: Option<u64>,
    /// Trace the stream belongs to.
    pub trace: Option<TraceContext>,
}

/// What the receiver says to a [`Request`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Connected: payload may flow.
    Ok,
    /// Not here, and no payload reached an endpoint.
    Refused(Refusal),
}

/// Why a stream was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct Refusal {
    /// Reason; [`Reason::Unsupported`] for a code of a newer version.
    pub reason: Reason,
    /// Another candidate may be tried. Kept apart from the reason so that codes of a newer version can be acted on.
    pub retryable: bool,
    /// One line, at most [`MESSAGE_MAX`] bytes, printable.
    pub message: String,
}

impl Refusal {
    /// A refusal that is as retryable as its reason.
    #[must_use]
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            retryable: reason.is_retryable(),
            message: message.into(),
        }
    }
}

/// Why a frame was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The version is not ours.
    #[error("version {0} is not supported, this side speaks {VERSION}")]
    Version(u8),
    /// The body would be longer than allowed.
    #[error("body of {0} bytes is over the limit of {BODY_MAX}")]
    TooLong(usize),
    /// The body ends inside this field.
    #[error("body ends inside {0}")]
    Truncated(&'static str),
    /// This field's value breaks its rule.
    #[error("{0} is not valid")]
    Invalid(&'static str),
    /// A critical extension is not known.
    #[error("critical extension {0:#06x} is not known")]
    CriticalExtension(u16),
}

impl HeaderError {
    /// For the answer and for metrics.
    #[must_use]
    pub const fn reason(self) -> Reason {
        match self {
            Self::Version(_) | Self::CriticalExtension(_) => Reason::Unsupported,
            Self::TooLong(_) | Self::Truncated(_) | Self::Invalid(_) => Reason::Malformed,
        }
    }
}

/// Length of the body that follows a prefix.
///
/// # Errors
/// When the version or the length is not acceptable; nothing more needs to be read then.
pub fn body_len(prefix: [u8; PREFIX_LEN]) -> Result<usize, HeaderError> {
    let [version, high, low] = prefix;
    if version != VERSION {
        return Err(HeaderError::Version(version));
    }
    let len = usize::from(u16::from_be_bytes([high, low]));
    if len > BODY_MAX {
        return Err(HeaderError::TooLong(len));
    }
    Ok(len)
}

impl Request {
    /// The whole frame.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut body = frame();
        body.put_u8(protocol_code(self.protocol));
        body.put_u16(self.port);
        body.put_u8(self.hops);
        let deadline = self.deadline.min(DEADLINE_MAX).as_millis();
        body.put_u32(u32::try_from(deadline).unwrap_or(u32::MAX));
        put_text8(&mut body, self.service.namespace.as_str());
        put_text8(&mut body, self.service.name.as_str());
        put_text8(&mut body, self.origin.as_str());
        put_text16(&mut body, self.source.as_ref().map_or("", SpiffeId::as_str));
        put_text8(&mut body, self.endpoint.as_ref().map_or("", |id| id.0.as_str()));
        put_opt(&mut body, self.affinity, |body, key| body.put_u64(key));
        put_opt(&mut body, self.trace, |body, trace| {
            body.put_slice(&trace.trace_id);
            body.put_slice(&trace.span_id);
            body.put_u8(trace.flags);
        });
        seal(body)
    }

    /// Parses the body of a frame.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn decode(body: &[u8]) -> Result<Self, HeaderError> {
        let mut r = Reader::new(body)?;
        let request = Self {
            protocol: r.u8("protocol").and_then(protocol_of)?,
            port: r.u16("port")?,
            hops: r.u8("hop count")?,
            deadline: Duration::from_millis(r.u32("deadline")?.into()).min(DEADLINE_MAX),
            service: {
                let namespace = r.text8("namespace")?;
                let name = r.text8("service")?;
                ServiceKey::parse(namespace, name).map_err(|_| HeaderError::Invalid("service"))?
            },
            origin: ClusterId::parse(r.text8("origin")?).map_err(|_| HeaderError::Invalid("origin"))?,
            source: parse_some(r.text16("source identity")?, |s| SpiffeId::parse(s).ok())
                .ok_or(HeaderError::Invalid("source identity"))?,
            endpoint: parse_some(r.text8("endpoint")?, |s| Hostname::parse(s).ok().map(EndpointId))
                .ok_or(HeaderError::Invalid("endpoint"))?,
            affinity: r.opt("affinity key", |r| r.u64("affinity key"))?,
            trace: r.opt("trace context", Reader::trace)?,
        };
        if request.port == 0 {
            return Err(HeaderError::Invalid("port"));
        }
        if request.hops == 0 {
            return Err(HeaderError::Invalid("hop count"));
        }
        r.extensions()?;
        Ok(request)
    }
}

/// Classes of an answer on the wire.
const CLASS_OK: u8 = 0;
const CLASS_RETRYABLE: u8 = 1;
const CLASS_FINAL: u8 = 2;

impl Answer {
    /// The whole frame. A message over the bound is cut.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut body = frame();
        match self {
            Self::Ok => {
                body.put_u8(CLASS_OK);
                body.put_u16(0);
                put_text8(&mut body, "");
            }
            Self::Refused(refusal) => {
                body.put_u8(if refusal.retryable {
                    CLASS_RETRYABLE
                } else {
                    CLASS_FINAL
                });
                body.put_u16(refusal.reason.code());
                put_text8(&mut body, &one_line(&refusal.message));
            }
        }
        seal(body)
    }

    /// Parses the body of a frame.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn decode(body: &[u8]) -> Result<Self, HeaderError> {
        let mut r = Reader::new(body)?;
        let class = r.u8("class")?;
        let code = r.u16("code")?;
        let message = one_line(r.text8("message")?);
        r.extensions()?;
        match class {
            CLASS_OK => Ok(Self::Ok),
            CLASS_RETRYABLE | CLASS_FINAL => Ok(Self::Refused(Refusal {
                reason: Reason::from_code(code).unwrap_or(Reason::Unsupported),
                retryable: class == CLASS_RETRYABLE,
                message,
            })),
            _ => Err(HeaderError::Invalid("class")),
        }
    }
}

/// Printable ASCII of at most [`MESSAGE_MAX`] bytes: a peer's words go to our log and must not forge lines in it.
fn one_line(text: &str) -> String {
    text.chars()
        .take(MESSAGE_MAX)
        .map(|c| if c == ' ' || c.is_ascii_graphic() { c } else { '?' })
        .collect()
}

const fn protocol_code(protocol: Protocol) -> u8 {
    // IANA protocol numbers.
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

const fn protocol_of(code: u8) -> Result<Protocol, HeaderError> {
    match code {
        6 => Ok(Protocol::Tcp),
        17 => Ok(Protocol::Udp),
        132 => Ok(Protocol::Sctp),
        _ => Err(HeaderError::Invalid("protocol")),
    }
}

/// `Some(None)` for an empty text, `None` for one that is not valid.
fn parse_some<T>(text: &str, parse: impl Fn(&str) -> Option<T>) -> Option<Option<T>> {
    if text.is_empty() {
        Some(None)
    } else {
        parse(text).map(Some)
    }
}

#[cfg(test)]
mod tests;
