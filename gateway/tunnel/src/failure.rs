//! Why a connection failed, in our words.
//!
//! Owns the reading of quinn's errors. Called where a dial, an accept or a live connection ended.

use std::sync::Arc;

use parking_lot::Mutex;
use quinn::{ConnectionError, TransportErrorCode};
use strait_federation_api::Reason;
use strait_trust_bridge::tls::{Refusal, RefusalSink};

use crate::codes::reason_of;

/// TLS alert `access_denied` (RFC 8446 section 6.2): the server has no certificate for this protocol, so a closed join.
const ACCESS_DENIED: u8 = 49;
/// TLS alerts `bad_certificate` to `certificate_unknown`, and `unknown_ca` (RFC 8446 section 6.2).
const CERTIFICATE_ALERTS: [u8; 6] = [42, 43, 44, 45, 46, 48];
/// TLS alert `no_application_protocol` (RFC 7301 section 3.2).
const NO_APPLICATION_PROTOCOL: u8 = 120;

/// Keeps what our own verifier refused in one handshake: quinn's error has only its text.
#[derive(Debug, Clone, Default)]
pub(crate) struct RefusalSlot(Arc<Mutex<Option<Refusal>>>);

impl RefusalSlot {
    pub(crate) fn sink(&self) -> RefusalSink {
        let slot = Arc::clone(&self.0);
        RefusalSink::new(move |refusal| *slot.lock() = Some(refusal.clone()))
    }

    pub(crate) fn holds_refusal(&self) -> bool {
        self.0.lock().is_some()
    }

    pub(crate) fn take(&self) -> Option<Refusal> {
        self.0.lock().take()
    }
}

/// Reason and detail of a handshake that failed.
pub(crate) fn handshake(error: &ConnectionError, slot: &RefusalSlot) -> (Reason, String) {
    if let Some(refusal) = slot.take() {
        return (Reason::from(&refusal.error), refusal.error.to_string());
    }
    (reason(error), error.to_string())
}

/// Reason of a connection's end.
pub(crate) fn reason(error: &ConnectionError) -> Reason {
    match error {
        ConnectionError::TimedOut => Reason::HandshakeTimeout,
        ConnectionError::VersionMismatch => Reason::VersionSkew,
        ConnectionError::ApplicationClosed(close) => {
            reason_of(close.error_code.into_inner()).unwrap_or(Reason::TunnelLost)
        }
        // An alert that came in, not one of ours.
        ConnectionError::ConnectionClosed(close) if is_about_certificate(close.error_code) => {
            Reason::CertificateRefused
        }
        ConnectionError::ConnectionClosed(close) => transport(close.error_code),
        ConnectionError::TransportError(error) => transport(error.code),
        ConnectionError::Reset | ConnectionError::LocallyClosed => Reason::TunnelLost,
        ConnectionError::CidsExhausted => Reason::Overloaded,
    }
}

/// One of the TLS alerts by which a side refuses the other's certificate.
fn is_about_certificate(code: TransportErrorCode) -> bool {
    CERTIFICATE_ALERTS.map(TransportErrorCode::crypto).contains(&code)
}

fn transport(code: TransportErrorCode) -> Reason {
    let denied = [ACCESS_DENIED, NO_APPLICATION_PROTOCOL].map(TransportErrorCode::crypto);
    if denied.contains(&code) {
        Reason::AlpnRefused
    } else if code == TransportErrorCode::CONNECTION_REFUSED {
        Reason::TooManyConnections
    } else if (0x100..0x200).contains(&u64::from(code)) {
        Reason::TlsFailed
    } else {
        Reason::TunnelLost
    }
}

/// The most telling of several failures: what names a fault of trust or protocol beats silence.
pub(crate) fn most_telling(failures: &[(Reason, String)]) -> Reason {
    let rank = |reason: Reason| match reason {
        Reason::NameNotResolved => 0,
        Reason::Unreachable => 1,
        Reason::HandshakeTimeout => 2,
        Reason::TunnelLost => 3,
        Reason::TooManyConnections | Reason::Overloaded => 4,
        _ => 5,
    };
    failures
        .iter()
        .map(|(reason, _)| *reason)
        .max_by_key(|reason| rank(*reason))
        .unwrap_or(Reason::NoAddress)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn a_fault_of_trust_outweighs_silence() {
        let failures = [
            (Reason::HandshakeTimeout, String::new()),
            (Reason::WrongTrustDomain, String::new()),
            (Reason::NameNotResolved, String::new()),
        ];
        assert_eq!(most_telling(&failures), Reason::WrongTrustDomain);
        assert_eq!(most_telling(&[]), Reason::NoAddress);
    }

    #[test]
    fn alerts_are_told_apart() {
        assert_eq!(
            transport(TransportErrorCode::crypto(NO_APPLICATION_PROTOCOL)),
            Reason::AlpnRefused
        );
        assert_eq!(transport(TransportErrorCode::crypto(42)), Reason::TlsFailed);
        let told = |code| {
            reason(&ConnectionError::ConnectionClosed(quinn::ConnectionClose {
                error_code: code,
                frame_type: None,
                reason: Bytes::new(),
            }))
        };
        assert_eq!(told(TransportErrorCode::crypto(48)), Reason::CertificateRefused);
        assert_eq!(
            told(TransportErrorCode::crypto(NO_APPLICATION_PROTOCOL)),
            Reason::AlpnRefused
        );
        assert_eq!(transport(TransportErrorCode::INTERNAL_ERROR), Reason::TunnelLost);
    }
}
