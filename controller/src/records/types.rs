//! The payloads of the small records. Those of trust and joining are defined where they are decided.

use std::collections::BTreeMap;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use data_encoding::{BASE32_NOPAD, HEXLOWER, HEXLOWER_PERMISSIVE};
use serde::{Deserialize, Serialize};
use strait_federation_api::{ClusterId, Epoch, InstanceId, ServiceKey, Uid};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::Record;
use crate::clock;

/// The exchange epoch of the last start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// Raised at each start.
    pub epoch: Epoch,
}

impl EpochRecord {
    /// An epoch above every one that was counted from 1 by starts.
    pub(crate) fn from_clock() -> Self {
        Self {
            epoch: Epoch(clock::unix_seconds()),
        }
    }
}

impl Record for EpochRecord {
    const KIND: &'static str = "epoch";
    const SCHEMA: u32 = 1;
}

/// Length of a connection-id or stateless-reset key in bytes: one AES-256 or HMAC key.
const KEY_LEN: usize = 32;
/// Random bytes in an instance id: 80 bits never collide among the gateways of a clusterset.
const INSTANCE_RANDOM: usize = 10;

/// A key of this gateway instance, kept over restarts so that a restarted process can still reset what its predecessor left.
#[derive(Clone, Zeroize, ZeroizeOnDrop, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InstanceKey([u8; KEY_LEN]);

impl InstanceKey {
    fn generate() -> Result<Self, aws_lc_rs::error::Unspecified> {
        let mut key = [0; KEY_LEN];
        SystemRandom::new().fill(&mut key)?;
        Ok(Self(key))
    }

    /// The bytes, for the tunnel's configuration only.
    #[must_use]
    pub const fn expose(&self) -> &[u8; KEY_LEN] {
        &self.0
    }
}

impl std::fmt::Debug for InstanceKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("InstanceKey(redacted)")
    }
}

impl TryFrom<String> for InstanceKey {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        let bytes = HEXLOWER_PERMISSIVE
            .decode(text.as_bytes())
            .map_err(|_| "not hexadecimal")?;
        bytes.try_into().map(Self).map_err(|_| "not 32 bytes")
    }
}

impl From<InstanceKey> for String {
    fn from(key: InstanceKey) -> Self {
        HEXLOWER.encode(&key.0)
    }
}

/// Who this gateway is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct InstanceRecord {
    /// Name in the leaf.
    pub instance: InstanceId,
    /// Key of the connection ids.
    pub cid_key: InstanceKey,
    /// Key of the stateless resets.
    pub reset_key: InstanceKey,
}

impl InstanceRecord {
    /// A new instance: `gw-` and 16 random characters.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn generate() -> Result<Self, crate::ControllerError> {
        let no_random = |_| crate::ControllerError::Io {
            what: "read random bytes for the instance keys".into(),
            source: std::io::Error::other("the system's random source failed"),
        };
        let mut random = [0; INSTANCE_RANDOM];
        SystemRandom::new().fill(&mut random).map_err(no_random)?;
        let name = format!("gw-{}", BASE32_NOPAD.encode(&random).to_ascii_lowercase());
        Ok(Self {
            instance: InstanceId::parse(&name).map_err(|e| crate::ControllerError::Io {
                what: format!("name the instance {name}"),
                source: std::io::Error::other(e),
            })?,
            cid_key: InstanceKey::generate().map_err(no_random)?,
            reset_key: InstanceKey::generate().map_err(no_random)?,
        })
    }
}

impl Record for InstanceRecord {
    const KIND: &'static str = "instance";
    const SCHEMA: u32 = 1;
}

/// UID and creation time that a ServiceExport got when it was first seen in the files. Forgotten when the export goes away: the
/// same name later is a new object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnExports {
    /// By the service's name.
    pub exports: BTreeMap<ServiceKey, Born>,
}

/// Identity and age of an export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Born {
    /// UID.
    pub uid: Uid,
    /// Unix seconds.
    pub created: i64,
}

impl Record for OwnExports {
    const KIND: &'static str = "own-exports";
    const SCHEMA: u32 = 1;
}

/// The creation time each peer claimed when an object of it was first seen: a later claim does not win a conflict.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirstSights {
    /// By peer, then UID; Unix seconds.
    pub created: BTreeMap<ClusterId, BTreeMap<Uid, i64>>,
}

impl Record for FirstSights {
    const KIND: &'static str = "first-sights";
    const SCHEMA: u32 = 1;
}
