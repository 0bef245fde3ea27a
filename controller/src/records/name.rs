//! [`RecordName`]: the name of a record, safe as a file name.

use std::fmt;

use serde::{Deserialize, Serialize};
use strait_federation_api::ClusterId;

/// Longest name in bytes: a kind, a dot and a Kubernetes object name (253) would be too long for a file system's 255 with our
/// suffix, and Federation names are labels in practice.
const MAX: usize = 200;

/// Lower-case letters, digits, `-` and `.`; starts with a letter.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RecordName(String);

impl RecordName {
    /// Parses a name.
    ///
    /// # Errors
    /// The rule that was broken.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
        let starts = text.bytes().next().is_some_and(|b| b.is_ascii_lowercase());
        if starts && text.len() <= MAX && text.bytes().all(allowed) {
            Ok(Self(text.into()))
        } else {
            Err("a record name has lower-case letters, digits, '-' and '.', and starts with a letter")
        }
    }

    /// A name known at compile time.
    pub(crate) fn fixed(text: &'static str) -> Self {
        Self(text.into())
    }

    /// The trust held for a peer.
    #[must_use]
    pub fn trust(peer: &ClusterId) -> Self {
        Self(format!("trust.{peer}"))
    }

    /// The invite of a Federation.
    ///
    /// # Errors
    /// When the Federation's name cannot be part of a record name.
    pub fn invite(federation: &str) -> Result<Self, &'static str> {
        Self::parse(&format!("invite.{federation}"))
    }

    /// Our side of joining through a Federation.
    ///
    /// # Errors
    /// When the Federation's name cannot be part of a record name.
    pub fn joining(federation: &str) -> Result<Self, &'static str> {
        Self::parse(&format!("join.{federation}"))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part after the first dot, if the part before it is `kind`.
    #[must_use]
    pub fn of_kind(&self, kind: &str) -> Option<&str> {
        self.0
            .split_once('.')
            .and_then(|(head, rest)| (head == kind).then_some(rest))
    }
}

impl fmt::Display for RecordName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for RecordName {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<RecordName> for String {
    fn from(name: RecordName) -> Self {
        name.0
    }
}
