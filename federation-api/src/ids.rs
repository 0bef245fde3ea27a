//! One newtype per role, parsed once at the edge.
//!
//! Owns the syntax of names that are not identities (those live in trust-bridge and are re-exported here). Never normalises:
//! a value that is not already in its canonical form is refused. Called by every parser of files, wire and flags.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};
pub use strait_trust_bridge::{ClusterId, InstanceId, SpiffeId, TrustDomain};

/// RFC 1123 label limit, in bytes.
pub const LABEL_MAX: usize = 63;
/// Bound on a UID, in bytes. Kubernetes UIDs have 36; peers may use their own scheme.
pub const UID_MAX: usize = 128;

/// Why a name was refused. The message names the rule, never echoes more than [`LABEL_MAX`] bytes of the input.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The value is empty.
    #[error("must not be empty")]
    Empty,
    /// The value is longer than allowed.
    #[error("must be at most {max} characters, has {len}")]
    TooLong {
        /// Bound in bytes.
        max: usize,
        /// Found length in bytes.
        len: usize,
    },
    /// A character or position violates the rule.
    #[error("must be {rule}")]
    Syntax {
        /// The rule in words.
        rule: &'static str,
    },
}

/// The rule of RFC 1123 section 2.1 for one label, in words.
const LABEL_RULE: &str = "lower-case letters, digits and '-', starting and ending with a letter or digit";

fn check_label(s: &str) -> Result<(), NameError> {
    if s.is_empty() {
        return Err(NameError::Empty);
    }
    if s.len() > LABEL_MAX {
        return Err(NameError::TooLong {
            max: LABEL_MAX,
            len: s.len(),
        });
    }
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = s.as_bytes();
    let inner = bytes.iter().all(|&b| alnum(b) || b == b'-');
    let ends = bytes.first().copied().is_some_and(alnum) && bytes.last().copied().is_some_and(alnum);
    if inner && ends {
        Ok(())
    } else {
        Err(NameError::Syntax { rule: LABEL_RULE })
    }
}

/// Kubernetes UIDs are opaque: any printable ASCII without spaces, at most [`UID_MAX`] bytes.
fn check_uid(s: &str) -> Result<(), NameError> {
    match s.len() {
        0 => Err(NameError::Empty),
        len if len > UID_MAX => Err(NameError::TooLong { max: UID_MAX, len }),
        _ if s.bytes().all(|b| b.is_ascii_graphic()) => Ok(()),
        _ => Err(NameError::Syntax {
            rule: "printable ASCII without spaces",
        }),
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $check:path) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Parses the canonical form.
            ///
            /// # Errors
            /// [`NameError`] with the rule that was broken.
            pub fn parse(s: &str) -> Result<Self, NameError> {
                $check(s)?;
                Ok(Self(s.into()))
            }

            /// The name as text.
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
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }

        impl std::str::FromStr for $name {
            type Err = NameError;
            fn from_str(s: &str) -> Result<Self, NameError> {
                Self::parse(s)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(s: String) -> Result<Self, NameError> {
                Self::parse(&s)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.as_ref().into()
            }
        }
    };
}

name!(
    /// A Kubernetes namespace: one RFC 1123 label.
    Namespace, check_label
);
name!(
    /// A Service name: one RFC 1123 label (Kubernetes asks RFC 1035 of Services; the wider rule covers both).
    ServiceName, check_label
);
name!(
    /// A port name: one label. Kubernetes' 15-character rule is for container ports, not Service ports.
    PortName, check_label
);
name!(
    /// The `hostname` of a headless endpoint: one label.
    Hostname, check_label
);
name!(
    /// The UID of an exported object, opaque to us.
    Uid, check_uid
);

/// Namespace and name of a Service, the key of everything that is exported or imported. Shown and serialised as
/// `namespace/name`, so that it can key a JSON object.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServiceKey {
    /// Namespace.
    pub namespace: Namespace,
    /// Name.
    pub name: ServiceName,
}

impl ServiceKey {
    /// Parses both parts.
    ///
    /// # Errors
    /// [`NameError`] of the first part that is wrong.
    pub fn parse(namespace: &str, name: &str) -> Result<Self, NameError> {
        Ok(Self {
            namespace: Namespace::parse(namespace)?,
            name: ServiceName::parse(name)?,
        })
    }
}

impl TryFrom<String> for ServiceKey {
    type Error = NameError;
    fn try_from(s: String) -> Result<Self, NameError> {
        s.parse()
    }
}

impl std::str::FromStr for ServiceKey {
    type Err = NameError;
    fn from_str(s: &str) -> Result<Self, NameError> {
        let (namespace, name) = s.split_once('/').ok_or(NameError::Syntax {
            rule: "namespace/name",
        })?;
        Self::parse(namespace, name)
    }
}

impl From<ServiceKey> for String {
    fn from(key: ServiceKey) -> Self {
        key.to_string()
    }
}

impl fmt::Debug for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The exchange epoch: raised at each start or leadership, kept as a record, never going back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_follow_rfc_1123() {
        for good in ["a", "0", "a-b", "greeter", &"x".repeat(63)] {
            assert!(Namespace::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", "ä", &"x".repeat(64)] {
            assert!(Namespace::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn uids_are_opaque_but_bounded() {
        assert!(Uid::parse("0b5b9b1e-7d43-4c52-8b5f-1f2a3b4c5d6e").is_ok());
        assert!(Uid::parse("with space").is_err());
        assert!(Uid::parse(&"u".repeat(UID_MAX + 1)).is_err());
    }

    #[test]
    fn serde_refuses_what_parse_refuses() {
        assert!(serde_json::from_str::<ServiceName>("\"Bad\"").is_err());
        let key = ServiceKey::parse("demo", "greeter").unwrap();
        assert_eq!(
            serde_json::from_str::<ServiceKey>(&serde_json::to_string(&key).unwrap()).unwrap(),
            key
        );
    }
}
