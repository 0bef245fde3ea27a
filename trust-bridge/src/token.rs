//! [`JoinToken`]: what an inviter hands to a joiner out of band.
//!
//! Owns the text form: `straitjoin1_` and base64url of the fields and a checksum, which finds a damaged copy before anything is
//! dialled. The secret is wiped when dropped and shown by nothing but [`JoinToken::encode`].

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use rustls_pki_types::UnixTime;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::error::quoted;
use crate::wire::{Reader, put_short};
use crate::{RootFingerprint, RootPin, TrustDomain, TrustError};

/// Most addresses in a token, as for a peer.
pub const MAX_ADDRESSES: usize = 16;
/// Longest address in bytes: a DNS name of 253, a colon and a port.
const MAX_ADDRESS: usize = 253 + 6;
/// Bytes of the secret: beyond any search.
pub const SECRET_LEN: usize = 32;
/// Bytes of an invite's id.
const INVITE_ID_LEN: usize = 16;
/// Bytes of the checksum: a damaged copy passes once in four thousand million.
const CHECKSUM_LEN: usize = 4;
/// Longest text that is decoded: 16 of the longest addresses in base64, with room.
const MAX_TEXT: usize = 8 * 1024;
const PREFIX: &str = "straitjoin1_";

/// Where a gateway is reached: `host:port`, with a DNS name, an IPv4 address, or an IPv6 address in brackets.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(Arc<str>);

impl Address {
    /// Parses strictly; nothing is resolved.
    ///
    /// # Errors
    /// [`TrustError::InvalidAddress`].
    pub fn parse(text: &str) -> Result<Self, TrustError> {
        let bad = || TrustError::InvalidAddress(quoted(text));
        let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
        let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
        let port_ok = digits && port.parse::<u16>().is_ok_and(|port| port != 0);
        let host_ok = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
            None => is_name(host),
        };
        if text.len() > MAX_ADDRESS || !port_ok || !host_ok {
            return Err(bad());
        }
        Ok(Self(text.into()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A DNS name or an IPv4 address.
fn is_name(host: &str) -> bool {
    let label = |label: &str| {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        !label.is_empty() && label.len() <= 63 && label.bytes().all(allowed) && !label.starts_with('-')
    };
    host.split('.').all(label)
}

crate::macros::string_newtype!(Address);

/// Which invite a token belongs to. Not a secret.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InviteId([u8; INVITE_ID_LEN]);

impl InviteId {
    /// Takes an id from a message.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; INVITE_ID_LEN]) -> Self {
        Self(bytes)
    }

    /// The id.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; INVITE_ID_LEN] {
        &self.0
    }

    fn parse(text: &str) -> Result<Self, TrustError> {
        let bytes = HEXLOWER
            .decode(text.as_bytes())
            .ok()
            .and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or(TrustError::UnknownInvite)
    }
}

impl fmt::Display for InviteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for InviteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InviteId({self})")
    }
}

impl FromStr for InviteId {
    type Err = TrustError;

    /// Reads 32 hexadecimal characters, as `Display` writes them.
    fn from_str(text: &str) -> Result<Self, TrustError> {
        Self::parse(text)
    }
}

impl Serialize for InviteId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for InviteId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// The shared secret of an invite.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub(crate) struct Secret([u8; SECRET_LEN]);

impl Secret {
    pub(crate) const fn expose(&self) -> &[u8; SECRET_LEN] {
        &self.0
    }
}

impl PartialEq for Secret {
    /// In constant time, whoever compares.
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

/// Everything a joiner needs. `Debug` shows no secret; serialisation is the text form, for records under 0600 only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinToken {
    addresses: Vec<Address>,
    trust_domain: TrustDomain,
    root: RootFingerprint,
    invite: InviteId,
    secret: Secret,
    expires: u64,
}

impl JoinToken {
    /// Makes a token with a fresh id and secret. No address means: the joiner cannot dial this cluster.
    ///
    /// # Errors
    /// [`TrustError::MalformedToken`] for more than 16 addresses; [`TrustError::Crypto`].
    pub fn create(
        addresses: Vec<Address>,
        pin: RootPin,
        ttl: Duration,
        now: UnixTime,
    ) -> Result<Self, TrustError> {
        if addresses.len() > MAX_ADDRESSES {
            return Err(TrustError::MalformedToken("it has more than 16 addresses"));
        }
        let (mut invite, mut secret) = ([0; INVITE_ID_LEN], [0; SECRET_LEN]);
        let random = SystemRandom::new();
        random
            .fill(&mut invite)
            .and_then(|()| random.fill(&mut secret))
            .map_err(|_| TrustError::Crypto("no randomness".into()))?;
        let token = Self {
            addresses,
            trust_domain: pin.trust_domain,
            root: pin.root,
            invite: InviteId(invite),
            secret: Secret(secret),
            expires: now.as_secs().saturating_add(ttl.as_secs()),
        };
        secret.zeroize();
        Ok(token)
    }

    /// The inviter's addresses, at most 16.
    #[must_use]
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// What the joiner accepts as the inviter's server.
    #[must_use]
    pub fn pin(&self) -> RootPin {
        RootPin {
            trust_domain: self.trust_domain.clone(),
            root: self.root,
        }
    }

    /// The inviter's trust domain.
    #[must_use]
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The invite.
    #[must_use]
    pub const fn invite(&self) -> InviteId {
        self.invite
    }

    /// Unix seconds of the inviter's clock. Only the inviter judges it.
    #[must_use]
    pub const fn expires(&self) -> u64 {
        self.expires
    }

    pub(crate) const fn secret(&self) -> &Secret {
        &self.secret
    }

    /// All fields but the secret, as they are bound into the proofs' key.
    pub(crate) fn public_fields(&self) -> Vec<u8> {
        let mut out = vec![u8::try_from(self.addresses.len()).unwrap_or(u8::MAX)];
        for address in &self.addresses {
            // A name of 253 and a port can need 259 bytes: two bytes of length.
            out.extend_from_slice(
                &u16::try_from(address.as_str().len())
                    .unwrap_or(u16::MAX)
                    .to_be_bytes(),
            );
            out.extend_from_slice(address.as_str().as_bytes());
        }
        put_short(&mut out, self.trust_domain.as_str().as_bytes());
        out.extend_from_slice(self.root.as_bytes());
        out.extend_from_slice(&self.invite.0);
        out.extend_from_slice(&self.expires.to_be_bytes());
        out
    }

    /// The text to paste. It holds the secret: print it once, to the person who asked, and nowhere else.
    #[must_use]
    pub fn encode(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new(self.public_fields());
        bytes.extend_from_slice(self.secret.expose());
        let checksum = checksum(&bytes);
        bytes.extend_from_slice(&checksum);
        Zeroizing::new(format!(
            "{PREFIX}{}",
            *Zeroizing::new(BASE64URL_NOPAD.encode(&bytes))
        ))
    }

    /// Reads the text; white space, as a terminal's line breaks, is skipped.
    ///
    /// # Errors
    /// [`TrustError::MalformedToken`].
    pub fn decode(text: &str) -> Result<Self, TrustError> {
        if text.len() > MAX_TEXT {
            return Err(TrustError::MalformedToken("it is too long"));
        }
        let text: Zeroizing<String> = Zeroizing::new(text.split_ascii_whitespace().collect());
        let body = text
            .strip_prefix(PREFIX)
            .ok_or(TrustError::MalformedToken("it does not begin with straitjoin1_"))?;
        let bytes = BASE64URL_NOPAD
            .decode(body.as_bytes())
            .map_err(|_| TrustError::MalformedToken("it has a wrong character or length"))?;
        let bytes = Zeroizing::new(bytes);
        let (fields, sum) = bytes
            .split_last_chunk::<CHECKSUM_LEN>()
            .ok_or(TrustError::MalformedToken("it is too short"))?;
        if checksum(fields) != *sum {
            return Err(TrustError::MalformedToken("its checksum is wrong"));
        }
        let mut reader = Reader::new(fields);
        read_fields(&mut reader)
            .filter(|_| reader.is_empty())
            .ok_or(TrustError::MalformedToken("its fields are not valid"))
    }

    /// What a person may see of a token.
    #[must_use]
    pub fn describe(&self) -> String {
        let addresses: Vec<&str> = self.addresses.iter().map(Address::as_str).collect();
        format!(
            "invite {} of trust domain {}, root SHA-256 {}, addresses [{}], expires at Unix time {}",
            self.invite,
            self.trust_domain,
            self.root,
            addresses.join(", "),
            self.expires
        )
    }
}

fn read_fields(reader: &mut Reader<'_>) -> Option<JoinToken> {
    let count = usize::from(reader.u8()?);
    if count > MAX_ADDRESSES {
        return None;
    }
    let mut addresses = Vec::with_capacity(count);
    for _ in 0..count {
        let len = reader.u16()?;
        addresses.push(Address::parse(std::str::from_utf8(reader.take(len.into())?).ok()?).ok()?);
    }
    Some(JoinToken {
        addresses,
        trust_domain: TrustDomain::parse(reader.text()?).ok()?,
        root: RootFingerprint::from_bytes(reader.array()?),
        invite: InviteId(reader.array()?),
        expires: reader.u64()?,
        secret: Secret(reader.array()?),
    })
}

fn checksum(fields: &[u8]) -> [u8; CHECKSUM_LEN] {
    let mut hash = digest::Context::new(&digest::SHA256);
    hash.update(PREFIX.as_bytes());
    hash.update(fields);
    let mut sum = [0; CHECKSUM_LEN];
    sum.copy_from_slice(&hash.finish().as_ref()[..CHECKSUM_LEN]);
    sum
}

impl Serialize for JoinToken {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.encode())
    }
}

impl<'de> Deserialize<'de> for JoinToken {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        Self::decode(&text).map_err(serde::de::Error::custom)
    }
}
