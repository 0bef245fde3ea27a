//! The SPIFFE bundle document (SPIFFE Trust Domain and Bundle, section 4): JSON in and out.
//!
//! Owns the format rules: unknown elements are ignored, only `x5c[0]` is read, sizes are bounded, `keys` must be there and may
//! be empty (everything revoked). The document does not name its trust domain, so the caller does.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use x509_parser::public_key::PublicKey;

use crate::bundle::{MAX_ROOTS, Root, bounded};
use crate::error::quoted;
use crate::x509::Parsed;
use crate::{Bundle, TrustDomain, TrustError};

/// Largest document that is read, in bytes: [`MAX_ROOTS`] of the largest certificates, in base64, with their JWK members.
pub const MAX_DOCUMENT: usize = 256 * 1024;
/// Most elements of `keys` that are looked at: roots, and JWT and WIT keys beside them.
const MAX_KEYS: usize = 64;

const X509_SVID: &str = "x509-svid";
/// Key types of RFC 7518 and RFC 8037 that an X.509 root can have.
const KEY_TYPES: [&str; 3] = ["EC", "RSA", "OKP"];

#[derive(Serialize, Deserialize)]
struct Document {
    keys: Vec<Jwk>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    spiffe_sequence: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    spiffe_refresh_hint: Option<u32>,
}

#[derive(Serialize, Deserialize)]
struct Jwk {
    #[serde(default)]
    kty: String,
    #[serde(default, rename = "use")]
    usage: String,
    #[serde(default)]
    x5c: Vec<String>,
    #[serde(flatten, skip_deserializing)]
    public: JwkPublic,
}

/// The public key members that JOSE libraries (go-jose, which SPIRE uses) ask of an element.
#[derive(Serialize, Default)]
#[serde(untagged)]
enum JwkPublic {
    Ec {
        crv: &'static str,
        x: String,
        y: String,
    },
    Rsa {
        n: String,
        e: String,
    },
    #[default]
    None,
}

/// Reads a document as the bundle of `trust_domain`. A missing sequence is 0.
///
/// # Errors
/// [`TrustError::MalformedBundle`], [`TrustError::BundleTooLarge`], [`TrustError::RootNotSigner`].
pub fn from_json(trust_domain: TrustDomain, json: &[u8]) -> Result<Bundle, TrustError> {
    bounded("bytes", json.len(), MAX_DOCUMENT)?;
    let document: Document =
        serde_json::from_slice(json).map_err(|e| TrustError::MalformedBundle(quoted(&e.to_string())))?;
    bounded("keys", document.keys.len(), MAX_KEYS)?;
    let mut roots = Vec::new();
    for jwk in &document.keys {
        if jwk.usage != X509_SVID || !KEY_TYPES.contains(&jwk.kty.as_str()) {
            continue;
        }
        let Some(first) = jwk.x5c.first() else { continue };
        bounded("roots", roots.len() + 1, MAX_ROOTS)?;
        let der = STANDARD
            .decode(first)
            .map_err(|_| TrustError::MalformedBundle("an x5c element is not base64".into()))?;
        roots.push(Root::from_der(&der)?);
    }
    let sequence = document.spiffe_sequence.unwrap_or(0);
    Bundle::new(
        trust_domain,
        sequence,
        document.spiffe_refresh_hint,
        roots,
        BTreeSet::new(),
    )
}

/// Writes a bundle as a document. Removed keys have no place in it; our envelope carries them.
#[must_use]
pub fn to_json(bundle: &Bundle) -> String {
    let document = Document {
        keys: bundle.roots().iter().map(jwk).collect(),
        spiffe_sequence: Some(bundle.sequence()),
        spiffe_refresh_hint: bundle.refresh_hint(),
    };
    // Strings and integers only: this cannot fail, and an empty text would not parse as a bundle.
    serde_json::to_string(&document).unwrap_or_default()
}

fn jwk(root: &Root) -> Jwk {
    let (kty, public) = Parsed::parse(root.der())
        .ok()
        .and_then(|cert| cert.public_key().map(|key| public_members(&key)))
        .unwrap_or(("OKP", JwkPublic::None));
    Jwk {
        kty: kty.into(),
        usage: X509_SVID.into(),
        x5c: vec![STANDARD.encode(root.der())],
        public,
    }
}

fn public_members(key: &PublicKey<'_>) -> (&'static str, JwkPublic) {
    match key {
        PublicKey::EC(point) => ("EC", ec_members(point.data())),
        PublicKey::RSA(rsa) => {
            let trimmed = |bytes: &[u8]| {
                let start = bytes.iter().position(|b| *b != 0).unwrap_or(0);
                URL_SAFE_NO_PAD.encode(&bytes[start..])
            };
            (
                "RSA",
                JwkPublic::Rsa {
                    n: trimmed(rsa.modulus),
                    e: trimmed(rsa.exponent),
                },
            )
        }
        _ => ("OKP", JwkPublic::None),
    }
}

/// RFC 7518, 6.2.1: the coordinates of an uncompressed point (`04 || x || y`).
fn ec_members(point: &[u8]) -> JwkPublic {
    let crv = match point.len() {
        65 => "P-256",
        97 => "P-384",
        133 => "P-521",
        _ => return JwkPublic::None,
    };
    let (x, y) = point[1..].split_at((point.len() - 1) / 2);
    JwkPublic::Ec {
        crv,
        x: URL_SAFE_NO_PAD.encode(x),
        y: URL_SAFE_NO_PAD.encode(y),
    }
}
