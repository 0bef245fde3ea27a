//! [`ClusterId`]: the self-declared, immutable name of a cluster.
//!
//! Owns the strict parse; never guesses or normalises. Called by every room at its edge.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::TrustError;
use crate::error::quoted;

/// Longest DNS label in bytes (RFC 1035, 2.3.4).
const MAX_LABEL: usize = 63;

/// One lower-case DNS label (RFC 1123): 1 to 63 of `a-z`, `0-9`, `-`, not starting or ending with `-`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(Arc<str>);

impl ClusterId {
    /// Parses strictly.
    ///
    /// # Errors
    /// [`TrustError::InvalidClusterId`].
    pub fn parse(text: &str) -> Result<Self, TrustError> {
        let bytes = text.as_bytes();
        let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let inner = bytes
            .iter()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-');
        if bytes.len() > MAX_LABEL || !inner || !edge(bytes.first()) || !edge(bytes.last()) {
            return Err(TrustError::InvalidClusterId(quoted(text)));
        }
        Ok(Self(text.into()))
    }

    /// The label.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

crate::macros::string_newtype!(ClusterId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_labels() {
        for ok in ["a", "0", "east", "eu-west-1", &"a".repeat(63)] {
            assert_eq!(ClusterId::parse(ok).unwrap().as_str(), ok);
        }
    }

    #[test]
    fn refuses_all_else() {
        for bad in [
            "",
            "-",
            "a-",
            "-a",
            "East",
            "a.b",
            "a_b",
            "ü",
            "a b",
            "a\n",
            "a/b",
            &"a".repeat(64),
        ] {
            assert_eq!(
                ClusterId::parse(bad).unwrap_err().code(),
                "InvalidClusterId",
                "{bad:?}"
            );
        }
    }

    #[test]
    fn serde_parses() {
        assert_eq!(
            serde_json::from_str::<ClusterId>("\"east\"").unwrap().as_str(),
            "east"
        );
        assert!(serde_json::from_str::<ClusterId>("\"East\"").is_err());
    }
}
