//! `spec.trust` of a Federation: invite, join or static.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::values::{FederationName, HumanDuration, ValueError};
use crate::{ids::TrustDomain, manifest::ErrorCode};

/// `spec.trust`: exactly one way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
#[cfg_attr(
    feature = "crd",
    schemars(extend("x-kubernetes-validations" = [{"rule": "(has(self.invite) ? 1 : 0) + (has(self.join) ? 1 : 0) + (has(self.static) ? 1 : 0) == 1", "message": "exactly one of invite, join and static must be set"}]))
)]
pub enum Trust {
    /// This side invites: it makes a token for the other side.
    Invite(InviteTrust),
    /// This side joins with a token of the other side.
    Join(TokenSource),
    /// Trust kept by hand or by GitOps: the peer's trust domain and bundle, mirrored on the other side.
    Static(StaticTrust),
}

impl Trust {
    /// `invite`, `join` or `static`.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Invite(_) => "invite",
            Self::Join(_) => "join",
            Self::Static(_) => "static",
        }
    }
}

/// `spec.trust.invite`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
pub struct InviteTrust {
    /// How long the token may be used, by this side's clock.
    #[serde(default = "InviteTrust::default_ttl")]
    pub ttl: HumanDuration,
    /// Raise it for a new token: a spent invite is inert until this changes.
    #[serde(default = "InviteTrust::default_serial")]
    #[cfg_attr(feature = "crd", schemars(range(min = 1), extend("format" = "int64")))]
    pub serial: u32,
}

impl InviteTrust {
    /// An hour: long enough to carry a token to another team, short enough to forget it.
    const DEFAULT_TTL_SECS: u64 = 3600;
    /// Longest life of an invite, seconds (30 days): a token that lies about for months is a leak.
    pub const TTL_MAX_SECS: u64 = 30 * 24 * 3600;

    fn default_ttl() -> HumanDuration {
        #[expect(
            clippy::expect_used,
            reason = "one hour is within the bounds, as the test of this module shows"
        )]
        HumanDuration::from_secs(Self::DEFAULT_TTL_SECS).expect("within bounds")
    }

    const fn default_serial() -> u32 {
        1
    }
}

impl Default for InviteTrust {
    fn default() -> Self {
        Self {
            ttl: Self::default_ttl(),
            serial: Self::default_serial(),
        }
    }
}

/// `spec.trust.join`: where the token is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
#[cfg_attr(
    feature = "crd",
    schemars(extend("x-kubernetes-validations" = [{"rule": "has(self.tokenSecretRef) != has(self.tokenFile)", "message": "exactly one of tokenSecretRef and tokenFile must be set"}]))
)]
pub enum TokenSource {
    /// A Secret of the release namespace, in a cluster.
    TokenSecretRef(ObjectRef),
    /// A file, without Kubernetes; relative paths start at the manifest's folder.
    #[cfg_attr(feature = "crd", schemars(with = "String"))]
    TokenFile(PathBuf),
}

/// A reference to an object of the release namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
pub struct ObjectRef {
    /// Name of the object.
    pub name: FederationName,
    /// Key within it; the default depends on what is referred to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// `spec.trust.static`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "StaticTrustFields", into = "StaticTrustFields")]
pub struct StaticTrust {
    /// The peer's Strait trust domain.
    pub trust_domain: TrustDomain,
    /// Where its bundle is.
    pub bundle: BundleSource,
    /// Who may change the bundle later.
    pub updates: Updates,
}

/// Where a static bundle is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BundleSource {
    /// A ConfigMap of the release namespace, in a cluster.
    Ref(ObjectRef),
    /// A file with SPIFFE bundle JSON; relative paths start at the manifest's folder.
    File(PathBuf),
}

/// `spec.trust.static.updates`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
pub enum Updates {
    /// The peer's signed updates are followed.
    #[default]
    Follow,
    /// Only the manifest changes the bundle.
    Pinned,
}

/// The YAML form of [`StaticTrust`].
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
#[cfg_attr(
    feature = "crd",
    schemars(extend("x-kubernetes-validations" = [{"rule": "has(self.bundleRef) != has(self.bundleFile)", "message": "exactly one of bundleRef and bundleFile must be set"}]))
)]
pub(crate) struct StaticTrustFields {
    /// The peer's Strait trust domain, as `strait bundle` prints it on the other side.
    #[cfg_attr(feature = "crd", schemars(with = "String", length(min = 1, max = 255)))]
    trust_domain: TrustDomain,
    /// A ConfigMap of the release namespace with the bundle, in a cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bundle_ref: Option<ObjectRef>,
    /// A file with the bundle, without Kubernetes; relative paths start at the manifest's folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "crd", schemars(with = "Option<String>"))]
    bundle_file: Option<PathBuf>,
    /// Follow the peer's signed updates, or stay Pinned to what is given here.
    #[serde(default)]
    updates: Updates,
}

impl TryFrom<StaticTrustFields> for StaticTrust {
    type Error = ValueError;
    fn try_from(raw: StaticTrustFields) -> Result<Self, ValueError> {
        let fix = "give bundleFile (files) or bundleRef (Kubernetes), not both";
        let bundle = match (raw.bundle_ref, raw.bundle_file) {
            (Some(r), None) => BundleSource::Ref(r),
            (None, Some(f)) => BundleSource::File(f),
            (None, None) => return Err(ValueError::new(ErrorCode::NotOneOf, "has no bundle", fix)),
            (Some(_), Some(_)) => return Err(ValueError::new(ErrorCode::NotOneOf, "has two bundles", fix)),
        };
        Ok(Self {
            trust_domain: raw.trust_domain,
            bundle,
            updates: raw.updates,
        })
    }
}

impl From<StaticTrust> for StaticTrustFields {
    fn from(s: StaticTrust) -> Self {
        let (bundle_ref, bundle_file) = match s.bundle {
            BundleSource::Ref(r) => (Some(r), None),
            BundleSource::File(f) => (None, Some(f)),
        };
        Self {
            trust_domain: s.trust_domain,
            bundle_ref,
            bundle_file,
            updates: s.updates,
        }
    }
}

#[cfg(feature = "crd")]
impl schemars::JsonSchema for StaticTrust {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "StaticTrust".into()
    }
    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        StaticTrustFields::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shapes_of_trust() {
        let t: Trust = serde_json::from_str(r#"{"invite":{}}"#).unwrap();
        assert_eq!(t, Trust::Invite(InviteTrust::default()));
        let t: Trust = serde_json::from_str(r#"{"join":{"tokenFile":"t"}}"#).unwrap();
        assert_eq!(t, Trust::Join(TokenSource::TokenFile("t".into())));
        for bad in [
            "{}",
            r#"{"invite":{},"join":{"tokenFile":"t"}}"#,
            r#"{"join":{}}"#,
            r#"{"join":{"tokenFile":"t","tokenSecretRef":{"name":"x"}}}"#,
            r#"{"static":{"trustDomain":"td"}}"#,
            r#"{"static":{"trustDomain":"td","bundleFile":"a","bundleRef":{"name":"b"}}}"#,
        ] {
            assert!(serde_json::from_str::<Trust>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn static_trust_round_trips() {
        let json = r#"{"static":{"trustDomain":"td","bundleFile":"west.json","updates":"Pinned"}}"#;
        let t: Trust = serde_json::from_str(json).unwrap();
        assert_eq!(serde_json::to_string(&t).unwrap(), json);
        assert_eq!(t.kind(), "static");
    }
}
