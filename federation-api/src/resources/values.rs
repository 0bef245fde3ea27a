//! Values of single fields: one type per role, parsed once.
//!
//! Owns their text forms and bounds. A refused value says its [`ErrorCode`], what is wrong and how to write it, in a form that
//! survives serde: `Code: problem; fix`. Called by every resource type.

use std::{fmt, sync::Arc, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use super::address::AddressText;
use crate::{ids::LABEL_MAX, manifest::ErrorCode};

/// Longest DNS name in text form, bytes (RFC 1035 section 2.3.4 without the root dot).
pub const DNS_NAME_MAX: usize = 253;

/// Why a field's text was refused. Shown as `Code: problem; fix`, which the manifest loader takes apart again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {problem}; {fix}")]
pub struct ValueError {
    /// What kind of mistake it is.
    pub code: ErrorCode,
    /// What is wrong, with the value.
    pub problem: String,
    /// How to write it.
    pub fix: String,
}

impl ValueError {
    /// An error of this code.
    pub(crate) fn new(code: ErrorCode, problem: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            code,
            problem: problem.into(),
            fix: fix.into(),
        }
    }
}

/// At most 64 characters of a value for a message.
pub(crate) fn shown(s: &str) -> String {
    const SHOWN_CHARS: usize = 64;
    let mut out: String = s.chars().take(SHOWN_CHARS).collect();
    if out.len() < s.len() {
        out.push('…');
    }
    format!("{out:?}")
}

macro_rules! as_text {
    ($name:ident, $schema:tt) => {
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = String::deserialize(d)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl std::str::FromStr for $name {
            type Err = ValueError;
            fn from_str(s: &str) -> Result<Self, ValueError> {
                Self::parse(s)
            }
        }

        #[cfg(feature = "crd")]
        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn inline_schema() -> bool {
                true
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!($schema)
            }
        }
    };
}
pub(crate) use as_text;

/// `metadata.name` of a cluster-scoped object: a DNS subdomain (RFC 1123), at most 253 bytes. Local, never on the wire.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FederationName(Arc<str>);

impl FederationName {
    /// Parses the canonical form.
    ///
    /// # Errors
    /// [`ValueError`] when it is not a lower-case DNS subdomain.
    pub fn parse(s: &str) -> Result<Self, ValueError> {
        dns_name(s).map(Self)
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for FederationName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

as_text!(FederationName, {"type": "string", "minLength": 1, "maxLength": 253});

fn is_label(s: &str) -> bool {
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let b = s.as_bytes();
    (1..=LABEL_MAX).contains(&b.len())
        && b.iter().all(|&c| alnum(c) || c == b'-')
        && b.first().copied().is_some_and(alnum)
        && b.last().copied().is_some_and(alnum)
}

pub(super) fn dns_name(s: &str) -> Result<Arc<str>, ValueError> {
    if s.len() <= DNS_NAME_MAX && s.split('.').all(is_label) {
        return Ok(s.into());
    }
    Err(ValueError::new(
        ErrorCode::BadName,
        format!("{} is not a DNS name", shown(s)),
        "use lower-case letters, digits and '-' in labels of at most 63 characters, joined by '.', 253 at most",
    ))
}

/// A span of time such as `90s`, `1h` or `1h 30m`: above zero, at most ten years.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HumanDuration(Duration);

impl HumanDuration {
    /// Ten years: longer is a typing mistake.
    pub const MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

    /// Of whole seconds; `None` when zero or above [`Self::MAX`].
    #[must_use]
    pub const fn from_secs(secs: u64) -> Option<Self> {
        if secs == 0 || secs > Self::MAX.as_secs() {
            None
        } else {
            Some(Self(Duration::from_secs(secs)))
        }
    }

    /// Parses `1h`, `90s`, `1h 30m`.
    ///
    /// # Errors
    /// [`ValueError`] when it is no duration, zero, negative or above [`Self::MAX`].
    pub fn parse(s: &str) -> Result<Self, ValueError> {
        let bad = |why: &str| {
            ValueError::new(
                ErrorCode::BadDuration,
                format!("{} {why}", shown(s)),
                "write a number with a unit, such as 30s, 15m or 1h",
            )
        };
        let signed: jiff::SignedDuration = s.parse().map_err(|_| bad("is not a duration"))?;
        match Duration::try_from(signed) {
            Ok(d) if !d.is_zero() && d <= Self::MAX => Ok(Self(d)),
            _ => Err(bad("is not between 1ns and ten years")),
        }
    }

    /// The value.
    #[must_use]
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::SignedDuration::try_from(self.0) {
            Ok(d) => write!(f, "{d:#}"),
            Err(_) => write!(f, "{}s", self.0.as_secs()),
        }
    }
}

as_text!(HumanDuration, {"type": "string", "minLength": 2, "maxLength": 64});

/// A size in bytes: a whole number with `Ki`, `Mi` or `Gi`, or without a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

impl ByteSize {
    const UNITS: [(&'static str, u64); 3] = [("Ki", 1 << 10), ("Mi", 1 << 20), ("Gi", 1 << 30)];

    /// Parses `256Mi`.
    ///
    /// # Errors
    /// [`ValueError`] when it is no size or does not fit.
    pub fn parse(s: &str) -> Result<Self, ValueError> {
        let (digits, unit) = Self::UNITS
            .iter()
            .find_map(|&(u, n)| s.strip_suffix(u).map(|d| (d, n)))
            .unwrap_or((s, 1));
        let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        plain
            .then(|| digits.parse::<u64>().ok()?.checked_mul(unit))
            .flatten()
            .map(Self)
            .ok_or_else(|| {
                ValueError::new(
                    ErrorCode::BadSize,
                    format!("{} is not a size", shown(s)),
                    "write a whole number with Ki, Mi or Gi, such as 256Mi",
                )
            })
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = Self::UNITS
            .iter()
            .rev()
            .find(|(_, n)| self.0 != 0 && self.0.is_multiple_of(*n));
        match unit {
            Some((u, n)) => write!(f, "{}{u}", self.0 / n),
            None => self.0.fmt(f),
        }
    }
}

as_text!(ByteSize, {"type": "string", "pattern": "^[0-9]+(Ki|Mi|Gi)?$", "maxLength": 24});

macro_rules! bounded {
    ($(#[$doc:meta])* $name:ident, $min:literal, $max:literal, $default:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(u16);

        impl $name {
            /// Smallest value.
            pub const MIN: u16 = $min;
            /// Largest value.
            pub const MAX: u16 = $max;

            /// The value if it is within bounds.
            ///
            /// # Errors
            /// [`ValueError`] when it is not.
            pub fn new(value: i64) -> Result<Self, ValueError> {
                u16::try_from(value)
                    .ok()
                    .filter(|v| (Self::MIN..=Self::MAX).contains(v))
                    .map(Self)
                    .ok_or_else(|| ValueError::new(
                        ErrorCode::OutOfRange,
                        format!("{value} is out of range"),
                        concat!("use a whole number from ", $min, " to ", $max),
                    ))
            }

            /// The number.
            #[must_use]
            pub const fn get(self) -> u16 {
                self.0
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self($default)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                Self::new(i64::deserialize(d)?).map_err(serde::de::Error::custom)
            }
        }

        #[cfg(feature = "crd")]
        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn inline_schema() -> bool {
                true
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({"type": "integer", "format": "int32", "minimum": $min, "maximum": $max})
            }
        }
    };
}

bounded!(
    /// `priority` of an import rule: lower first. 0 shares the place of local endpoints.
    Priority, 0, 1000, 1
);
bounded!(
    /// `weight` of an import rule: its share within one priority. 0 takes no traffic while others can.
    Weight, 0, 1000, 100
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_read_as_people_write_them() {
        assert_eq!(
            HumanDuration::parse("1h").unwrap().get(),
            Duration::from_secs(3600)
        );
        assert_eq!(
            HumanDuration::parse("1h 30m").unwrap().get(),
            Duration::from_secs(5400)
        );
        for bad in ["", "0s", "-1h", "1", "forever", "1000000000h"] {
            assert!(HumanDuration::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(ByteSize::parse("256Mi").unwrap(), ByteSize(256 << 20));
        assert_eq!(ByteSize(256 << 20).to_string(), "256Mi");
        assert_eq!(ByteSize(1000).to_string(), "1000");
        for bad in ["", "Mi", "1.5Mi", "-1", "99999999999Gi", "1MB"] {
            assert!(ByteSize::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn bounds_hold_at_both_ends() {
        assert!(Weight::new(0).is_ok() && Weight::new(1000).is_ok());
        assert!(Weight::new(-1).is_err() && Weight::new(1001).is_err());
        assert_eq!((Weight::default().get(), Priority::default().get()), (100, 1));
    }
}
