//! Reasons as QUIC application error codes.
//!
//! Owns the mapping: a reset, a STOP_SENDING or a CONNECTION_CLOSE carries [`Reason::code`]. Code 0 is what quinn sends by itself when a
//! handle is dropped without a word, so it never means a reason.

use quinn::VarInt;
use strait_federation_api::Reason;

/// The application error code that carries `reason` (RFC 9000 section 20.2).
#[must_use]
pub fn code_of(reason: Reason) -> u64 {
    u64::from(reason.code())
}

/// The reason of an application error code; `None` for 0 and for codes of a newer version.
#[must_use]
pub fn reason_of(code: u64) -> Option<Reason> {
    u16::try_from(code).ok().and_then(Reason::from_code)
}

pub(crate) fn varint(reason: Reason) -> VarInt {
    VarInt::from_u32(u32::from(reason.code()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_survives_the_wire() {
        for &reason in Reason::ALL {
            assert_eq!(reason_of(varint(reason).into_inner()), Some(reason));
            assert_ne!(code_of(reason), 0);
        }
        assert_eq!(reason_of(0), None);
        assert_eq!(reason_of(u64::from(u16::MAX) + 101), None);
    }
}
