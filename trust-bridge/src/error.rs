//! The one error of this room.
//!
//! Owns every reason why an identity, a bundle, a token or an update is refused. Each variant has a stable
//! [`TrustError::code`] which other rooms map to a condition reason, a metric label and a log field.
//! Never holds a secret or an unbounded text of a peer: peer-made text is cut to [`MAX_QUOTED`] characters.

use crate::{RootFingerprint, TrustDomain};

/// Longest piece of peer-made text an error repeats, in characters: enough to recognise an id, too little to flood a log.
pub const MAX_QUOTED: usize = 120;

/// Cuts peer-made text to [`MAX_QUOTED`] characters and escapes control characters.
pub(crate) fn quoted(text: &str) -> String {
    let mut out: String = text
        .chars()
        .take(MAX_QUOTED)
        .flat_map(char::escape_default)
        .collect();
    if text.chars().count() > MAX_QUOTED {
        out.push('…');
    }
    out
}

/// Why something was not trusted, not issued or not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    // ---- names
    /// A text is not a ClusterId (one lower-case DNS label).
    #[error(
        "'{0}' is not a cluster id: use one DNS label of 1 to 63 of a-z, 0-9 and '-', starting and ending with a letter or digit"
    )]
    InvalidClusterId(String),
    /// A text is not a SPIFFE trust domain.
    #[error("'{0}' is not a trust domain: use 1 to 255 of a-z, 0-9, '.', '-' and '_'")]
    InvalidTrustDomain(String),
    /// A trust domain is not one that Strait makes (`<ClusterId>.<26 base32 characters>`).
    #[error("trust domain '{0}' is not a Strait trust domain (<cluster id>.<26 base32 characters>)")]
    NotStraitTrustDomain(String),
    /// A text is not a SPIFFE ID.
    #[error("'{id}' is not a SPIFFE ID: {why}")]
    InvalidSpiffeId {
        /// The text, cut.
        id: String,
        /// The rule it breaks.
        why: &'static str,
    },
    /// A text is not a gateway instance name.
    #[error(
        "'{0}' is not an instance name: use 1 to 128 of A-Z, a-z, 0-9, '.', '-' and '_', and not '.' or '..'"
    )]
    InvalidInstanceId(String),
    /// A text is not a fingerprint (64 hexadecimal characters).
    #[error("'{0}' is not a SHA-256 fingerprint: use 64 hexadecimal characters")]
    InvalidFingerprint(String),

    // ---- a presented chain
    /// No certificate was presented where one is needed.
    #[error("the peer presented no certificate; data and control connections need one")]
    NoCertificate,
    /// More certificates than a chain may have.
    #[error("the chain has {count} certificates, at most {max} are read")]
    ChainTooLong {
        /// Presented.
        count: usize,
        /// Bound.
        max: usize,
    },
    /// A certificate is larger than the bound.
    #[error("a certificate of {size} bytes is larger than the {max} that are read")]
    CertificateTooLarge {
        /// Bytes presented.
        size: usize,
        /// Bound in bytes.
        max: usize,
    },
    /// A certificate cannot be parsed, or carries an extension twice.
    #[error("a certificate is malformed: {0}")]
    MalformedCertificate(String),
    /// The leaf has no URI SAN.
    #[error("the leaf has no URI SAN; exactly one spiffe:// id is needed")]
    NoUriSan,
    /// The leaf has several URI SANs.
    #[error("the leaf has {0} URI SANs; exactly one is allowed")]
    MultipleUriSans(usize),
    /// The leaf's id has no path.
    #[error("the leaf's id '{0}' names a trust domain, not a workload (root path)")]
    RootPath(String),
    /// The leaf's path is not a gateway's.
    #[error(
        "the leaf's id '{0}' is not a gateway's (/strait/gateway/<instance>); only gateways speak Strait"
    )]
    NotGateway(String),
    /// The leaf is a CA certificate.
    #[error("the leaf is a CA certificate; a signing certificate never authenticates a peer")]
    LeafIsCa,
    /// The leaf has no key usage extension.
    #[error("the leaf has no key usage extension")]
    KeyUsageMissing,
    /// The leaf's key usage extension is not critical.
    #[error("the leaf's key usage extension is not critical")]
    KeyUsageNotCritical,
    /// The leaf may not sign handshakes.
    #[error("the leaf's key usage lacks digitalSignature")]
    DigitalSignatureMissing,
    /// The leaf may sign certificates.
    #[error("the leaf's key usage has keyCertSign, which only a CA may have")]
    LeafKeyCertSign,
    /// The leaf may sign CRLs.
    #[error("the leaf's key usage has cRLSign, which only a CA may have")]
    LeafCrlSign,
    /// The extended key usage does not allow both roles.
    #[error("the extended key usage of a certificate lacks serverAuth or clientAuth; gateways need both")]
    ExtendedKeyUsage,
    /// The leaf's validity has ended.
    #[error("the leaf expired {ago_seconds} s ago; check renewal and the clocks of both sides")]
    LeafExpired {
        /// Seconds since notAfter.
        ago_seconds: u64,
    },
    /// The leaf's validity has not begun.
    #[error("the leaf becomes valid in {in_seconds} s; check the clocks of both sides")]
    LeafNotYetValid {
        /// Seconds until notBefore.
        in_seconds: u64,
    },
    /// A signing certificate lacks the CA flag.
    #[error("a signing certificate of the chain is not a CA (cA false)")]
    SignerNotCa,
    /// A signing certificate lacks keyCertSign.
    #[error("a signing certificate of the chain lacks keyCertSign")]
    SignerKeyCertSignMissing,
    /// A signing certificate carries a SPIFFE ID with a path.
    #[error("a signing certificate carries the id '{0}'; its id must have no path")]
    SignerIdHasPath(String),
    /// A signing certificate is expired or not yet valid.
    #[error("a signing certificate of the chain is outside its validity")]
    SignerExpired,
    /// A root is expired or not yet valid.
    #[error("root {0} is outside its validity; rotate the root of that cluster")]
    RootExpired(RootFingerprint),
    /// A path length constraint is exceeded.
    #[error("the chain is longer than a path length constraint of one of its signers allows")]
    PathTooLong,
    /// The chain leads to no root of the domain's bundle.
    #[error(
        "the chain of '{0}' leads to no root of that trust domain's bundle; compare roots with `strait bundle`"
    )]
    UnknownIssuer(TrustDomain),
    /// The bundle holds no root: everything of the domain is revoked.
    #[error("the bundle of '{0}' holds no root: everything of it is revoked; join again when it has one")]
    BundleEmpty(TrustDomain),
    /// Path validation failed otherwise.
    #[error("the chain is not valid: {0}")]
    InvalidPath(String),
    /// A key that was removed appears in the chain.
    #[error("the chain contains a key that its cluster removed ({0})")]
    KeyRemoved(crate::KeyHash),
    /// The leaf names our own trust domain.
    #[error("a peer presented our own trust domain '{0}'")]
    OwnTrustDomain(TrustDomain),
    /// No Federation lists the leaf's trust domain.
    #[error("no Federation lists the trust domain '{0}'")]
    UnknownTrustDomain(TrustDomain),
    /// The peer is in another trust domain than the one dialled.
    #[error("expected trust domain '{expected}', the peer is in '{found}'")]
    WrongTrustDomain {
        /// The one that was pinned.
        expected: TrustDomain,
        /// The one in the leaf.
        found: TrustDomain,
    },
    /// The server's chain does not hold the root that the token pins.
    #[error(
        "the server does not hold the root that the token names; someone may sit in between, or the token is of another cluster"
    )]
    WrongRoot,
    /// A signature of the handshake or of a message is wrong.
    #[error("a signature does not verify")]
    BadSignature,
    /// `strait-join/1` was asked for while no invite is open, or beside other protocols.
    #[error("strait-join/1 was asked for while no invite is open")]
    JoinNotOffered,
    /// The connection's protocol is none of ours.
    #[error("the connection speaks no Strait protocol")]
    UnknownProtocol,

    // ---- bundles
    /// A bundle document cannot be read.
    #[error("the bundle is malformed: {0}")]
    MalformedBundle(String),
    /// A bundle breaks a size or count bound.
    #[error("the bundle has {found} {what}, at most {max} are allowed")]
    BundleTooLarge {
        /// What is counted.
        what: &'static str,
        /// Found.
        found: usize,
        /// Bound.
        max: usize,
    },
    /// A root of a bundle may not sign certificates.
    #[error("root {0} of the bundle is not a signing certificate (cA and keyCertSign)")]
    RootNotSigner(RootFingerprint),
    /// A bundle lists a root whose key it also lists as removed.
    #[error("the bundle lists root {0} although its key is removed")]
    RemovedRootListed(RootFingerprint),
    /// An update carries an older sequence than the one held.
    #[error("bundle sequence {offered} of '{trust_domain}' is older than {held}, which is held")]
    SequenceRollback {
        /// Whose bundle.
        trust_domain: TrustDomain,
        /// Held now.
        held: u64,
        /// Offered.
        offered: u64,
    },
    /// An update carries the held sequence with another content.
    #[error("bundle sequence {sequence} of '{trust_domain}' came with another content")]
    SequenceReused {
        /// Whose bundle.
        trust_domain: TrustDomain,
        /// The sequence.
        sequence: u64,
    },
    /// An envelope or payload cannot be read.
    #[error("the bundle update is malformed: {0}")]
    MalformedEnvelope(&'static str),
    /// The version of a message is not known.
    #[error("version {found} of {what} is not supported (highest known: {known})")]
    UnsupportedVersion {
        /// The message.
        what: &'static str,
        /// Found.
        found: u8,
        /// Highest known.
        known: u8,
    },
    /// The root that authorises an update is not in the resulting bundle.
    #[error(
        "the update is signed under root {0}, which it removes or replaces; if no other root remains, join again"
    )]
    SignerRemoved(RootFingerprint),

    // ---- joining
    /// A token cannot be read.
    #[error("the join token cannot be read: {0}; copy it again, whole")]
    MalformedToken(&'static str),
    /// An address of a token is not `host:port`.
    #[error(
        "'{0}' is not an address: use host:port, with a DNS name, an IPv4 address or an IPv6 address in brackets"
    )]
    InvalidAddress(String),
    /// The invite is not known here.
    #[error("the invite is not known here")]
    UnknownInvite,
    /// The invite has expired by the inviter's clock.
    #[error("the invite has expired; make a new one")]
    InviteExpired,
    /// The invite was revoked.
    #[error("the invite was revoked")]
    InviteRevoked,
    /// The invite was used and is finished.
    #[error("the invite was already used")]
    InviteSpent,
    /// Another joiner has used the invite.
    #[error(
        "the invite is bound to another joiner's root; revoke it and make a new one if that was not yours"
    )]
    InviteBound,
    /// The proof of the secret is wrong.
    #[error("the proof of the token's secret is wrong")]
    BadProof,
    /// The joiner's trust domain is already a peer by another Federation.
    #[error("trust domain '{0}' is already listed by another Federation")]
    TrustDomainTaken(TrustDomain),
    /// Another cluster that we know, or our own, has the same ClusterId under another trust domain.
    #[error("cluster id '{0}' is already that of another cluster known here; ids must be unique")]
    ClusterIdTaken(crate::ClusterId),
    /// A joining step came out of order.
    #[error("{0}")]
    WrongJoinState(&'static str),

    // ---- issuing and rotating
    /// A stored key or certificate of our own cannot be used.
    #[error(
        "a trust record is damaged: {0}; restore it from the backup, or remove it and let every peer join again"
    )]
    DamagedRecord(String),
    /// A signing request cannot be accepted.
    #[error("the signing request is refused: {0}")]
    BadRequest(&'static str),
    /// A lifetime is outside its bounds.
    #[error("a leaf lifetime of {seconds} s is outside {min} to {max} s")]
    InvalidTtl {
        /// Asked for.
        seconds: u64,
        /// Bound.
        min: u64,
        /// Bound.
        max: u64,
    },
    /// A rotation step does not fit the phase.
    #[error("{0}")]
    WrongPhase(&'static str),
    /// The root named is none of ours.
    #[error("root key {0} is not one of this cluster's roots")]
    NoSuchRoot(crate::KeyHash),
    /// The crypto library refused an operation.
    #[error("cryptography failed: {0}")]
    Crypto(String),
    /// The TLS provider is not set up as required.
    #[error("the TLS provider is not as required: {0}")]
    Provider(&'static str),
}

impl TrustError {
    /// A stable CamelCase name, for conditions, metrics, logs and docs. Names never change once released.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::InvalidClusterId(_) => "InvalidClusterId",
            Self::InvalidTrustDomain(_) => "InvalidTrustDomain",
            Self::NotStraitTrustDomain(_) => "NotStraitTrustDomain",
            Self::InvalidSpiffeId { .. } => "InvalidSpiffeId",
            Self::InvalidInstanceId(_) => "InvalidInstanceId",
            Self::InvalidFingerprint(_) => "InvalidFingerprint",
            Self::NoCertificate => "NoCertificate",
            Self::ChainTooLong { .. } => "ChainTooLong",
            Self::CertificateTooLarge { .. } => "CertificateTooLarge",
            Self::MalformedCertificate(_) => "MalformedCertificate",
            Self::NoUriSan => "NoUriSan",
            Self::MultipleUriSans(_) => "MultipleUriSans",
            Self::RootPath(_) => "RootPath",
            Self::NotGateway(_) => "NotGateway",
            Self::LeafIsCa => "LeafIsCa",
            Self::KeyUsageMissing => "KeyUsageMissing",
            Self::KeyUsageNotCritical => "KeyUsageNotCritical",
            Self::DigitalSignatureMissing => "DigitalSignatureMissing",
            Self::LeafKeyCertSign => "LeafKeyCertSign",
            Self::LeafCrlSign => "LeafCrlSign",
            Self::ExtendedKeyUsage => "ExtendedKeyUsage",
            Self::LeafExpired { .. } => "LeafExpired",
            Self::LeafNotYetValid { .. } => "LeafNotYetValid",
            Self::SignerNotCa => "SignerNotCa",
            Self::SignerKeyCertSignMissing => "SignerKeyCertSignMissing",
            Self::SignerIdHasPath(_) => "SignerIdHasPath",
            Self::SignerExpired => "SignerExpired",
            Self::RootExpired(_) => "RootExpired",
            Self::PathTooLong => "PathTooLong",
            Self::UnknownIssuer(_) => "UnknownIssuer",
            Self::BundleEmpty(_) => "BundleEmpty",
            Self::InvalidPath(_) => "InvalidPath",
            Self::KeyRemoved(_) => "KeyRemoved",
            Self::OwnTrustDomain(_) => "OwnTrustDomain",
            Self::UnknownTrustDomain(_) => "UnknownTrustDomain",
            Self::WrongTrustDomain { .. } => "WrongTrustDomain",
            Self::WrongRoot => "WrongRoot",
            Self::BadSignature => "BadSignature",
            Self::JoinNotOffered => "JoinNotOffered",
            Self::UnknownProtocol => "UnknownProtocol",
            Self::MalformedBundle(_) => "MalformedBundle",
            Self::BundleTooLarge { .. } => "BundleTooLarge",
            Self::RootNotSigner(_) => "RootNotSigner",
            Self::RemovedRootListed(_) => "RemovedRootListed",
            Self::SequenceRollback { .. } => "SequenceRollback",
            Self::SequenceReused { .. } => "SequenceReused",
            Self::MalformedEnvelope(_) => "MalformedEnvelope",
            Self::UnsupportedVersion { .. } => "UnsupportedVersion",
            Self::SignerRemoved(_) => "SignerRemoved",
            Self::MalformedToken(_) => "MalformedToken",
            Self::InvalidAddress(_) => "InvalidAddress",
            Self::UnknownInvite => "UnknownInvite",
            Self::InviteExpired => "InviteExpired",
            Self::InviteRevoked => "InviteRevoked",
            Self::InviteSpent => "InviteSpent",
            Self::InviteBound => "InviteBound",
            Self::BadProof => "BadProof",
            Self::TrustDomainTaken(_) => "TrustDomainTaken",
            Self::ClusterIdTaken(_) => "ClusterIdTaken",
            Self::WrongJoinState(_) => "WrongJoinState",
            Self::DamagedRecord(_) => "DamagedRecord",
            Self::BadRequest(_) => "BadRequest",
            Self::InvalidTtl { .. } => "InvalidTtl",
            Self::WrongPhase(_) => "WrongPhase",
            Self::NoSuchRoot(_) => "NoSuchRoot",
            Self::Crypto(_) => "Crypto",
            Self::Provider(_) => "Provider",
        }
    }
}
