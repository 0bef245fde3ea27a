//! SPIFFE names: [`TrustDomain`], [`SpiffeId`] and the gateway's [`InstanceId`].
//!
//! Owns every syntax rule of the SPIFFE ID standard (section 2) and the shape of Strait's own domains and ids.
//! Strict: nothing is normalised, so two different texts are never the same identity.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use data_encoding::BASE32_NOPAD;

use crate::error::quoted;
use crate::fingerprint::sha256;
use crate::{ClusterId, TrustError};

/// Longest trust domain in bytes (SPIFFE ID 2.1).
pub const MAX_TRUST_DOMAIN: usize = 255;
/// Longest SPIFFE ID in bytes (SPIFFE ID 2.3).
pub const MAX_SPIFFE_ID: usize = 2048;
/// Longest instance name in bytes: a Kubernetes pod name fits in most cases, a log line stays readable.
pub const MAX_INSTANCE_ID: usize = 128;

/// Base32 characters of the root's key hash in a Strait trust domain: 130 bits, beyond any search for a second key.
const HASH_CHARS: usize = 26;
const SCHEME: &str = "spiffe://";
/// Path before the instance; only ids below it may speak Strait's protocols.
const GATEWAY_PATH: &str = "/strait/gateway/";

/// A SPIFFE trust domain: 1 to 255 bytes of `a-z`, `0-9`, `.`, `-`, `_`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Parses strictly; upper case is refused, not folded.
    ///
    /// # Errors
    /// [`TrustError::InvalidTrustDomain`].
    pub fn parse(text: &str) -> Result<Self, TrustError> {
        let allowed = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
        if text.is_empty() || text.len() > MAX_TRUST_DOMAIN || !text.bytes().all(allowed) {
            return Err(TrustError::InvalidTrustDomain(quoted(text)));
        }
        Ok(Self(text.into()))
    }

    /// The trust domain of a new cluster: its id and the hash of its first root's SubjectPublicKeyInfo (DER).
    /// Made once and kept over every rotation.
    #[must_use]
    pub fn for_root(cluster: &ClusterId, spki: &[u8]) -> Self {
        let mut hash = BASE32_NOPAD.encode(&sha256(spki)).to_ascii_lowercase();
        hash.truncate(HASH_CHARS);
        Self(format!("{cluster}.{hash}").into())
    }

    /// The ClusterId inside a Strait trust domain.
    ///
    /// # Errors
    /// [`TrustError::NotStraitTrustDomain`] for any other trust domain.
    pub fn cluster_id(&self) -> Result<ClusterId, TrustError> {
        let not_ours = || TrustError::NotStraitTrustDomain(quoted(&self.0));
        let (cluster, hash) = self.0.split_once('.').ok_or_else(not_ours)?;
        let base32 = |b: u8| matches!(b, b'a'..=b'z' | b'2'..=b'7');
        if hash.len() != HASH_CHARS || !hash.bytes().all(base32) {
            return Err(not_ours());
        }
        ClusterId::parse(cluster).map_err(|_| not_ours())
    }

    /// The id of the trust domain itself (no path): what signing certificates may carry.
    #[must_use]
    pub fn id(&self) -> SpiffeId {
        SpiffeId {
            text: format!("{SCHEME}{}", self.0).into(),
            domain: self.clone(),
        }
    }

    /// The domain.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

crate::macros::string_newtype!(TrustDomain);

/// The name of one gateway process, kept over restarts: 1 to 128 bytes of `A-Z`, `a-z`, `0-9`, `.`, `-`, `_`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId(Arc<str>);

impl InstanceId {
    /// Parses strictly.
    ///
    /// # Errors
    /// [`TrustError::InvalidInstanceId`].
    pub fn parse(text: &str) -> Result<Self, TrustError> {
        if text.len() > MAX_INSTANCE_ID || check_segment(text).is_err() {
            return Err(TrustError::InvalidInstanceId(quoted(text)));
        }
        Ok(Self(text.into()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

crate::macros::string_newtype!(InstanceId);

/// A SPIFFE ID, with or without a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    text: Arc<str>,
    domain: TrustDomain,
}

impl SpiffeId {
    /// Parses by the rules of the standard: exact scheme, no port, userinfo, percent-encoding, query or fragment; no
    /// empty, `.` or `..` segment; no trailing slash; at most 2048 bytes.
    ///
    /// # Errors
    /// [`TrustError::InvalidSpiffeId`].
    pub fn parse(text: &str) -> Result<Self, TrustError> {
        let bad = |why| TrustError::InvalidSpiffeId {
            id: quoted(text),
            why,
        };
        if text.len() > MAX_SPIFFE_ID {
            return Err(bad("it is longer than 2048 bytes"));
        }
        let rest = text
            .strip_prefix(SCHEME)
            .ok_or_else(|| bad("it does not begin with spiffe://"))?;
        let (domain, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
        let domain = TrustDomain::parse(domain)
            .map_err(|_| bad("its trust domain is not 1 to 255 of a-z, 0-9, '.', '-' and '_'"))?;
        for segment in path.split('/').skip(1) {
            check_segment(segment).map_err(bad)?;
        }
        Ok(Self {
            text: text.into(),
            domain,
        })
    }

    /// The id of a gateway.
    #[must_use]
    pub fn gateway(domain: &TrustDomain, instance: &InstanceId) -> Self {
        Self {
            text: format!("{SCHEME}{domain}{GATEWAY_PATH}{instance}").into(),
            domain: domain.clone(),
        }
    }

    /// The trust domain.
    #[must_use]
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// The path with its leading slash, or empty for the id of a trust domain.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.text[SCHEME.len() + self.domain.as_str().len()..]
    }

    /// The instance, if the id is a gateway's.
    #[must_use]
    pub fn gateway_instance(&self) -> Option<InstanceId> {
        InstanceId::parse(self.path().strip_prefix(GATEWAY_PATH)?).ok()
    }

    /// The whole id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

crate::macros::string_newtype!(SpiffeId);

/// One path segment (SPIFFE ID 2.2).
fn check_segment(segment: &str) -> Result<(), &'static str> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    match segment {
        "" => Err("its path has an empty segment or a trailing slash"),
        "." | ".." => Err("its path has a relative segment"),
        _ if !segment.bytes().all(allowed) => {
            Err("its path has a character outside A-Z, a-z, 0-9, '.', '-' and '_'")
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_the_tables_valid_ids() {
        let long_domain = format!("spiffe://{}", "a".repeat(255));
        let longest = format!("spiffe://td/{}", "a".repeat(2048 - 12));
        for (id, domain, path) in [
            ("spiffe://trustdomain", "trustdomain", ""),
            ("spiffe://trustdomain/path", "trustdomain", "/path"),
            ("spiffe://td/a/B/0/-._/...", "td", "/a/B/0/-._/..."),
            ("spiffe://a-b_c.d0/.x/..y", "a-b_c.d0", "/.x/..y"),
            ("spiffe://1.2.3.4/x", "1.2.3.4", "/x"),
            (long_domain.as_str(), &long_domain[9..], ""),
            (longest.as_str(), "td", &longest[11..]),
        ] {
            let parsed = SpiffeId::parse(id).unwrap();
            assert_eq!(
                (parsed.trust_domain().as_str(), parsed.path(), parsed.as_str()),
                (domain, path, id)
            );
        }
    }

    #[test]
    fn refuses_the_tables_invalid_ids() {
        let long_domain = format!("spiffe://{}", "a".repeat(256));
        let too_long = format!("spiffe://td/{}", "a".repeat(2049 - 12));
        for id in [
            "",
            "td/path",
            "http://td/path",
            "Spiffe://td/path",
            "SPIFFE://td",
            "spiffe:/td/path",
            "spiffe:td",
            "spiffe://",
            "spiffe:///path",
            "spiffe://TD/path",
            "spiffe://tD",
            "spiffe://td:80/path",
            "spiffe://user@td/path",
            "spiffe://user:pw@td/path",
            "spiffe://td%20/path",
            "spiffe://[::1]/path",
            "spiffe://td/",
            "spiffe://td//path",
            "spiffe://td/path/",
            "spiffe://td/./path",
            "spiffe://td/path/..",
            "spiffe://td/../x",
            "spiffe://td/p%61th",
            "spiffe://td/path?q",
            "spiffe://td?q",
            "spiffe://td/path#f",
            "spiffe://td#f",
            "spiffe://td/pa th",
            "spiffe://td/ü",
            "spiffe://tü/path",
            "spiffe://td/path\0",
            " spiffe://td/path",
            "spiffe://td/path ",
            "spiffe://td\\path",
            "spiffe://td/a:b",
            &long_domain,
            &too_long,
        ] {
            assert_eq!(
                SpiffeId::parse(id).unwrap_err().code(),
                "InvalidSpiffeId",
                "{id:?}"
            );
        }
    }

    #[test]
    fn trust_domain_alone_keeps_the_same_rules() {
        for bad in ["", "TD", "td/x", "spiffe://td", "td:1", "a%b", &"a".repeat(256)] {
            assert_eq!(
                TrustDomain::parse(bad).unwrap_err().code(),
                "InvalidTrustDomain",
                "{bad:?}"
            );
        }
    }

    #[test]
    fn strait_trust_domain_is_cluster_and_hash() {
        let east = ClusterId::parse("east").unwrap();
        // BASE32(SHA-256("")) = 4OYMIQUY7QOBJGX36TEJS35ZEQ...
        let domain = TrustDomain::for_root(&east, b"");
        assert_eq!(domain.as_str(), "east.4oymiquy7qobjgx36tejs35zeq");
        assert_eq!(domain.cluster_id().unwrap(), east);
        assert_ne!(TrustDomain::for_root(&east, b"x"), domain);
        for bad in [
            "cluster.local",
            "east",
            "east.4oymiquy7qobjgx36tejs35ze",
            "east.4oymiquy7qobjgx36tejs35ze1",
            "a_b.4oymiquy7qobjgx36tejs35zeq",
        ] {
            assert_eq!(
                TrustDomain::parse(bad).unwrap().cluster_id().unwrap_err().code(),
                "NotStraitTrustDomain"
            );
        }
    }

    #[test]
    fn gateway_ids() {
        let domain = TrustDomain::parse("td").unwrap();
        let id = SpiffeId::gateway(&domain, &InstanceId::parse("gw-0").unwrap());
        assert_eq!(id.as_str(), "spiffe://td/strait/gateway/gw-0");
        assert_eq!(SpiffeId::parse(id.as_str()).unwrap(), id);
        assert_eq!(id.gateway_instance().unwrap().as_str(), "gw-0");
        for other in [
            "spiffe://td",
            "spiffe://td/strait/gateway",
            "spiffe://td/strait/gateway/a/b",
            "spiffe://td/strait/gatewayx/a",
            "spiffe://td/x/strait/gateway/a",
        ] {
            assert_eq!(
                SpiffeId::parse(other).unwrap().gateway_instance(),
                None,
                "{other}"
            );
        }
        for bad in ["", ".", "..", "a/b", "a b", "ü", &"a".repeat(129)] {
            assert_eq!(
                InstanceId::parse(bad).unwrap_err().code(),
                "InvalidInstanceId",
                "{bad:?}"
            );
        }
    }
}
