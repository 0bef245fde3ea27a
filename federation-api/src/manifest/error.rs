//! Findings: what is wrong, where, and what to write instead.
//!
//! Owns the codes and the text form. Called by everything that validates.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

macro_rules! codes {
    ($($(#[doc = $doc:literal])* $name:ident,)*) => {
        /// Kind of a configuration mistake. The name is stable: scripts may match on it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[non_exhaustive]
        pub enum ErrorCode { $($(#[doc = $doc])* $name,)* }

        impl ErrorCode {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// The code of a name.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $(stringify!($name) => Some(Self::$name),)* _ => None }
            }
        }
    };
}

codes! {
    /// The file or folder cannot be read.
    Unreadable,
    /// The text is not YAML.
    Syntax,
    /// File, node count or list is over its bound.
    TooLarge,
    /// Nested too deeply.
    TooDeep,
    /// One key twice in one mapping.
    DuplicateKey,
    /// YAML that manifests do not use: merge keys, tags, keys that are not text.
    UnsupportedYaml,
    /// A document is not a mapping with apiVersion and kind.
    NotAnObject,
    /// `kind` is none of ours.
    UnknownKind,
    /// `apiVersion` does not fit the kind.
    UnsupportedVersion,
    /// This kind is written by Strait, never read.
    OutputOnly,
    /// A field that must be there is not.
    MissingField,
    /// A field that does not exist.
    UnknownField,
    /// Text where a number belongs, and the like.
    WrongType,
    /// A word that is not one of the allowed ones.
    UnknownVariant,
    /// None or several of fields that exclude each other.
    NotOneOf,
    /// A value that breaks a rule without a code of its own.
    BadValue,
    /// A name that breaks the rules of names.
    BadName,
    /// A `host:port` that cannot be dialled.
    BadAddress,
    /// An `ip:port` that cannot be listened on.
    BadListener,
    /// A network that cannot be used.
    BadRange,
    /// Not a duration.
    BadDuration,
    /// Not a size.
    BadSize,
    /// Not a port.
    BadPort,
    /// A rule pattern that is neither a name nor `*`.
    BadPattern,
    /// A number outside its bounds.
    OutOfRange,
    /// An annotation of ours with a value it cannot have.
    BadAnnotation,
    /// An annotation of ours that does not exist.
    UnknownAnnotation,
    /// The same object twice.
    DuplicateObject,
    /// A namespace on a kind that has none.
    NotNamespaced,
    /// No Cluster.
    MissingCluster,
    /// More than one Cluster.
    SecondCluster,
    /// More than 16 addresses.
    TooManyAddresses,
    /// One address twice.
    DuplicateAddress,
    /// Loopback or link-local without `allowLoopback`.
    LoopbackAddress,
    /// Two listeners on one address.
    ListenerClash,
    /// The name server would ask itself.
    UpstreamLoop,
    /// The VIP range is one that a neighbour gives out by default.
    RangeTaken,
    /// A Federation with this very cluster.
    PeerIsSelf,
    /// Two Federations name one peer.
    PeerTaken,
    /// Static trust without a peer.
    PeerMissing,
    /// Two Federations list one trust domain.
    TrustDomainTaken,
    /// The trust domain does not begin with the peer's ClusterId.
    TrustDomainMismatch,
    /// A reference to a Kubernetes object, without Kubernetes.
    RefWithoutKubernetes,
    /// A rule that can never decide anything.
    RuleNeverMatches,
    /// `as.name` on a rule that may match several services.
    AsNeedsName,
    /// Two rules give one local name to different services.
    AsCollision,
    /// An export rule names a service without ServiceExport.
    ExportNotFound,
    /// A Service without ports.
    NoPorts,
    /// One port name twice.
    DuplicatePortName,
    /// One protocol and port twice.
    DuplicatePort,
    /// Several ports, and one without a name.
    PortNameMissing,
    /// A replayable port the Service does not have.
    ReplayablePortUnknown,
    /// A slice without the label that names its Service.
    SliceLabelMissing,
    /// A slice of a Service that does not exist.
    SliceWithoutService,
    /// A slice port whose name no port of the Service has.
    SlicePortUnknown,
    /// An address that is not of the slice's address type.
    AddressFamily,
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One mistake, or one warning. Shown as `file:line:column: object: field: problem; fix: ... [Code]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, thiserror::Error)]
pub struct Finding {
    /// The file, as the caller named it; empty for a mistake of the whole set.
    pub file: Arc<str>,
    /// Line, from 1; 0 when it has no place.
    pub line: u32,
    /// Column, from 1; 0 when it has no place.
    pub column: u32,
    /// Kind of mistake.
    pub code: ErrorCode,
    /// `Kind name` of the object, where known.
    pub object: Option<String>,
    /// Path of the field, such as `spec.imports[1].weight`; empty for the whole document.
    pub field: String,
    /// What is wrong.
    pub problem: String,
    /// What to write instead.
    pub fix: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.file.is_empty() {
            // A mistake of the whole folder: no file has it.
        } else if self.line == 0 {
            write!(f, "{}: ", self.file)?;
        } else {
            write!(f, "{}:{}:{}: ", self.file, self.line, self.column)?;
        }
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        write!(f, "{}; fix: {} [{}]", self.problem, self.fix, self.code)
    }
}
