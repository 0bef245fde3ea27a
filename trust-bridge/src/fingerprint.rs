//! SHA-256 newtypes: what a root is pinned by and what a key is removed by.
//!
//! Owns hashing and the hexadecimal text form (lower case, 64 characters). Never compares secrets.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest;
use data_encoding::HEXLOWER;

use crate::TrustError;
use crate::error::quoted;

/// Bytes of a SHA-256.
pub const SHA256_LEN: usize = 32;

/// SHA-256 of some bytes.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; SHA256_LEN] {
    let mut out = [0; SHA256_LEN];
    out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    out
}

macro_rules! fingerprint {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; SHA256_LEN]);

        impl $name {
            /// Takes a hash that was read from a message.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; SHA256_LEN]) -> Self {
                Self(bytes)
            }

            /// The hash.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; SHA256_LEN] {
                &self.0
            }

            /// Parses 64 hexadecimal characters of either case.
            ///
            /// # Errors
            /// [`TrustError::InvalidFingerprint`].
            pub fn parse(text: &str) -> Result<Self, TrustError> {
                let bytes = HEXLOWER
                    .decode(text.to_ascii_lowercase().as_bytes())
                    .map_err(|_| TrustError::InvalidFingerprint(quoted(text)))?;
                let hash = bytes.try_into().map_err(|_| TrustError::InvalidFingerprint(quoted(text)))?;
                Ok(Self(hash))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&HEXLOWER.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = TrustError;

            fn from_str(text: &str) -> Result<Self, TrustError> {
                Self::parse(text)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

fingerprint! {
    /// SHA-256 of a root certificate's DER: what a join token and a person pin.
    RootFingerprint
}
fingerprint! {
    /// SHA-256 of a SubjectPublicKeyInfo: what a removal names, so that no other certificate keeps the key alive.
    KeyHash
}

impl RootFingerprint {
    /// Of a certificate.
    #[must_use]
    pub fn of_der(der: &[u8]) -> Self {
        Self(sha256(der))
    }
}

impl KeyHash {
    /// Of a DER SubjectPublicKeyInfo.
    #[must_use]
    pub fn of_spki(spki: &[u8]) -> Self {
        Self(sha256(spki))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answer_and_text_form() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(RootFingerprint::of_der(b"").to_string(), empty);
        assert_eq!(
            KeyHash::parse(&empty.to_uppercase()).unwrap(),
            KeyHash::of_spki(b"")
        );
        for bad in [
            "",
            "00",
            &empty[1..],
            &format!("{empty}0"),
            &empty.replace('e', "g"),
        ] {
            assert_eq!(KeyHash::parse(bad).unwrap_err().code(), "InvalidFingerprint");
        }
    }
}
