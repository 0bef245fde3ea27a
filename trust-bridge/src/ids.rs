//! First cut of the identity newtypes, so that rooms above compile while this room is built.
use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($name:ident, $doc:literal, $max:literal, $ok:expr) => {
        #[doc = $doc]
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);
        impl $name {
            /// Parses the canonical form.
            ///
            /// # Errors
            /// When the syntax is broken.
            pub fn parse(s: &str) -> Result<Self, IdError> {
                let ok: fn(&str) -> bool = $ok;
                if s.is_empty() || s.len() > $max || !ok(s) {
                    Err(IdError)
                } else {
                    Ok(Self(s.into()))
                }
            }
            /// As text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(s: String) -> Result<Self, IdError> {
                Self::parse(&s)
            }
        }
        impl From<$name> for String {
            fn from(v: $name) -> Self {
                v.0.as_ref().into()
            }
        }
        impl std::str::FromStr for $name {
            type Err = IdError;
            fn from_str(s: &str) -> Result<Self, IdError> {
                Self::parse(s)
            }
        }
    };
}

/// The syntax is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a valid identifier")]
pub struct IdError;

fn label(s: &str) -> bool {
    let b = s.as_bytes();
    b.iter()
        .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == b'-')
        && b.first() != Some(&b'-')
        && b.last() != Some(&b'-')
}

id!(ClusterId, "One DNS label.", 63, label);
id!(InstanceId, "One DNS label.", 63, label);
id!(TrustDomain, "SPIFFE trust domain.", 255, |s| s
    .bytes()
    .all(|c| c.is_ascii_lowercase()
        || c.is_ascii_digit()
        || matches!(c, b'.' | b'-' | b'_')));
id!(SpiffeId, "SPIFFE id.", 2048, |s| s.starts_with("spiffe://"));

/// SHA-256 of a root's DER.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RootFingerprint(pub [u8; 32]);
