//! The fields of a frame: how they are put and how they are read.
//!
//! Owns bounds and cursor. Called by the two messages of [`super`] only.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{BODY_MAX, HeaderError, PREFIX_LEN, TraceContext, VERSION};

/// Bound on the extensions of one frame; none is defined yet.
pub(super) const EXTENSIONS_MAX: usize = 16;
/// Top bit of an extension's type: refuse the frame if the type is not known.
const CRITICAL: u16 = 0x8000;

/// Room for a typical request, bytes.
const TYPICAL: usize = 160;

pub(super) fn frame() -> BytesMut {
    let mut body = BytesMut::with_capacity(TYPICAL);
    body.put_bytes(0, PREFIX_LEN);
    body
}

pub(super) fn seal(mut body: BytesMut) -> Bytes {
    // Every field is bounded by its type well below 64 KiB in sum.
    let len = u16::try_from(body.len() - PREFIX_LEN).unwrap_or(u16::MAX);
    let [high, low] = len.to_be_bytes();
    body[..PREFIX_LEN].copy_from_slice(&[VERSION, high, low]);
    body.freeze()
}

pub(super) fn put_text8(body: &mut BytesMut, text: &str) {
    let len = u8::try_from(text.len()).unwrap_or(u8::MAX);
    body.put_u8(len);
    body.put_slice(&text.as_bytes()[..usize::from(len)]);
}

pub(super) fn put_text16(body: &mut BytesMut, text: &str) {
    let len = u16::try_from(text.len()).unwrap_or(u16::MAX);
    body.put_u16(len);
    body.put_slice(&text.as_bytes()[..usize::from(len)]);
}

pub(super) fn put_opt<T>(body: &mut BytesMut, value: Option<T>, put: impl FnOnce(&mut BytesMut, T)) {
    body.put_u8(value.is_some().into());
    if let Some(value) = value {
        put(body, value);
    }
}

/// A bounded cursor: every read names the field it is for.
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) const fn new(body: &'a [u8]) -> Result<Self, HeaderError> {
        if body.len() > BODY_MAX {
            return Err(HeaderError::TooLong(body.len()));
        }
        Ok(Self(body))
    }

    pub(super) const fn take(&mut self, len: usize, field: &'static str) -> Result<&'a [u8], HeaderError> {
        let Some((taken, rest)) = self.0.split_at_checked(len) else {
            return Err(HeaderError::Truncated(field));
        };
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn u8(&mut self, field: &'static str) -> Result<u8, HeaderError> {
        Ok(self.take(1, field)?.get_u8())
    }

    pub(super) fn u16(&mut self, field: &'static str) -> Result<u16, HeaderError> {
        Ok(self.take(2, field)?.get_u16())
    }

    pub(super) fn u32(&mut self, field: &'static str) -> Result<u32, HeaderError> {
        Ok(self.take(4, field)?.get_u32())
    }

    pub(super) fn u64(&mut self, field: &'static str) -> Result<u64, HeaderError> {
        Ok(self.take(8, field)?.get_u64())
    }

    pub(super) fn text8(&mut self, field: &'static str) -> Result<&'a str, HeaderError> {
        let len = self.u8(field)?.into();
        self.text(len, field)
    }

    pub(super) fn text16(&mut self, field: &'static str) -> Result<&'a str, HeaderError> {
        let len = self.u16(field)?.into();
        self.text(len, field)
    }

    pub(super) fn text(&mut self, len: usize, field: &'static str) -> Result<&'a str, HeaderError> {
        std::str::from_utf8(self.take(len, field)?).map_err(|_| HeaderError::Invalid(field))
    }

    pub(super) fn opt<T>(
        &mut self,
        field: &'static str,
        read: impl FnOnce(&mut Self) -> Result<T, HeaderError>,
    ) -> Result<Option<T>, HeaderError> {
        match self.u8(field)? {
            0 => Ok(None),
            1 => read(self).map(Some),
            _ => Err(HeaderError::Invalid(field)),
        }
    }

    pub(super) fn trace(&mut self) -> Result<TraceContext, HeaderError> {
        const FIELD: &str = "trace context";
        let mut trace = TraceContext {
            trace_id: [0; 16],
            span_id: [0; 8],
            flags: 0,
        };
        trace.trace_id.copy_from_slice(self.take(16, FIELD)?);
        trace.span_id.copy_from_slice(self.take(8, FIELD)?);
        trace.flags = self.u8(FIELD)?;
        Ok(trace)
    }

    /// No extension is known yet: critical ones are refused, others skipped.
    pub(super) fn extensions(&mut self) -> Result<(), HeaderError> {
        for _ in 0..EXTENSIONS_MAX {
            if self.0.is_empty() {
                return Ok(());
            }
            let kind = self.u16("extension")?;
            let len = self.u16("extension")?.into();
            self.take(len, "extension")?;
            if kind & CRITICAL != 0 {
                return Err(HeaderError::CriticalExtension(kind));
            }
        }
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(HeaderError::Invalid("number of extensions"))
        }
    }
}
