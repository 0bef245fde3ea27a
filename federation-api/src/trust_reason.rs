//! How errors of trust-bridge read as reasons.
//!
//! Owns the one table, so that a condition, a metric label and a close code say the same of one error. Called by every room that
//! handles a `TrustError`.

use strait_trust_bridge::TrustError;

use crate::Reason;

impl From<&TrustError> for Reason {
    fn from(error: &TrustError) -> Self {
        use TrustError as E;
        match error {
            E::NoCertificate => Self::NoClientCertificate,
            E::ChainTooLong { .. } | E::PathTooLong => Self::PathTooLong,
            E::CertificateTooLarge { .. }
            | E::MalformedCertificate(_)
            | E::InvalidPath(_)
            | E::BadSignature
            | E::SignerExpired
            | E::RootExpired(_) => Self::ChainMalformed,
            E::NoUriSan => Self::NoUriSan,
            E::MultipleUriSans(_) => Self::MultipleUriSans,
            E::RootPath(_) => Self::RootPath,
            E::NotGateway(_) => Self::NotAGateway,
            E::LeafIsCa => Self::LeafIsCa,
            E::KeyUsageMissing
            | E::KeyUsageNotCritical
            | E::DigitalSignatureMissing
            | E::LeafKeyCertSign
            | E::LeafCrlSign
            | E::SignerNotCa
            | E::SignerKeyCertSignMissing => Self::KeyUsageWrong,
            E::ExtendedKeyUsage => Self::ExtendedKeyUsageWrong,
            E::LeafExpired { .. } => Self::LeafExpired,
            E::LeafNotYetValid { .. } => Self::LeafNotYetValid,
            E::InvalidSpiffeId { .. }
            | E::InvalidTrustDomain(_)
            | E::NotStraitTrustDomain(_)
            | E::InvalidInstanceId(_)
            | E::SignerIdHasPath(_) => Self::BadSpiffeId,
            E::UnknownIssuer(_) => Self::UntrustedRoot,
            E::BundleEmpty(_) => Self::BundleEmpty,
            E::KeyRemoved(_) => Self::KeyRemoved,
            E::OwnTrustDomain(_) => Self::OwnTrustDomain,
            E::UnknownTrustDomain(_) => Self::UnknownTrustDomain,
            E::WrongTrustDomain { .. } => Self::WrongTrustDomain,
            E::WrongRoot => Self::FingerprintMismatch,
            E::JoinNotOffered | E::UnknownProtocol => Self::AlpnRefused,
            E::SequenceRollback { .. } | E::SequenceReused { .. } => Self::SequenceRollback,
            E::SignerRemoved(_) => Self::UpdateNotAuthorised,
            E::MalformedBundle(_)
            | E::BundleTooLarge { .. }
            | E::RootNotSigner(_)
            | E::RemovedRootListed(_)
            | E::MalformedEnvelope(_) => Self::Malformed,
            E::UnsupportedVersion { .. } => Self::Unsupported,
            E::MalformedToken(_) => Self::TokenInvalid,
            E::UnknownInvite => Self::InviteUnknown,
            E::InviteExpired => Self::InviteExpired,
            E::InviteRevoked => Self::InviteRevoked,
            E::InviteSpent => Self::InviteSpent,
            E::InviteBound => Self::InviteBoundToOther,
            E::BadProof => Self::ProofInvalid,
            E::TrustDomainTaken(_) | E::ClusterIdTaken(_) => Self::ClusterIdTaken,
            E::WrongJoinState(_) => Self::InviteSpent,
            E::DamagedRecord(_) => Self::RecordLost,
            E::WrongPhase(_) => Self::RotationPending,
            E::InvalidClusterId(_)
            | E::InvalidFingerprint(_)
            | E::InvalidAddress(_)
            | E::BadRequest(_)
            | E::InvalidTtl { .. }
            | E::NoSuchRoot(_) => Self::ConfigInvalid,
            // Crypto, Provider, and what a later version of the enum adds before this table knows it.
            _ => Self::Internal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_negative_table_keeps_its_rows_apart() {
        let rows = [
            (TrustError::MultipleUriSans(2), Reason::MultipleUriSans),
            (TrustError::NoUriSan, Reason::NoUriSan),
            (TrustError::LeafIsCa, Reason::LeafIsCa),
            (TrustError::RootPath("x".into()), Reason::RootPath),
            (TrustError::PathTooLong, Reason::PathTooLong),
            (TrustError::LeafExpired { ago_seconds: 1 }, Reason::LeafExpired),
            (TrustError::WrongRoot, Reason::FingerprintMismatch),
            (TrustError::InviteBound, Reason::InviteBoundToOther),
            (TrustError::BadProof, Reason::ProofInvalid),
        ];
        for (error, reason) in rows {
            assert_eq!(Reason::from(&error), reason, "{error}");
        }
    }
}
