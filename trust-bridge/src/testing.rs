//! Helpers for tests of this and other rooms: clusters that trust each other, and every kind of bad leaf.
//!
//! Behind the feature `testing`. Panics instead of returning errors: a test that cannot set up its world has failed.
#![expect(clippy::expect_used, reason = "test helpers")]

use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls_pki_types::{CertificateDer, UnixTime};

use x509_parser::time::ASN1Time;

use crate::ca_keys::{ca_params, date, params, uri};
use crate::{
    CaRecord, ClusterId, DEFAULT_LEAF_TTL, GatewayKey, InstanceId, IssuedLeaf, LeafRequest, OwnIdentity,
    PeerTrust, SpiffeId, TrustDomain, TrustStore,
};

/// A cluster with a CA, one gateway identity and a store.
#[derive(Debug)]
pub struct TestCluster {
    /// The CA.
    pub ca: CaRecord,
    /// The store that the gateway's TLS reads.
    pub store: Arc<TrustStore>,
    /// The gateway's key.
    pub key: GatewayKey,
}

impl TestCluster {
    /// Makes a cluster whose gateway `gw-0` has a leaf of 24 h.
    #[must_use]
    pub fn new(cluster: &str, now: UnixTime) -> Self {
        let ca = CaRecord::create(&ClusterId::parse(cluster).expect("cluster id"), now).expect("CA");
        let store = TrustStore::new(ca.trust_domain().clone());
        let this = Self {
            ca,
            store,
            key: GatewayKey::generate().expect("key"),
        };
        this.renew("gw-0", DEFAULT_LEAF_TTL, now);
        this
    }

    /// The trust domain.
    #[must_use]
    pub const fn domain(&self) -> &TrustDomain {
        self.ca.trust_domain()
    }

    /// Issues a leaf for the gateway's key.
    #[must_use]
    pub fn issue(&self, instance: &str, ttl: Duration, now: UnixTime) -> IssuedLeaf {
        let request = LeafRequest::from_spki(&self.key.spki()).expect("request");
        self.ca
            .issue(
                &InstanceId::parse(instance).expect("instance"),
                &request,
                ttl,
                now,
            )
            .expect("leaf")
    }

    /// Issues a leaf and presents it from now on.
    pub fn renew(&self, instance: &str, ttl: Duration, now: UnixTime) {
        let leaf = self.issue(instance, ttl, now);
        self.store
            .set_identity(OwnIdentity::new(&leaf, &self.key).expect("identity"))
            .expect("own domain");
    }

    /// Presents a bad leaf from now on.
    pub fn present_bad(&self, kind: BadLeaf, now: UnixTime) {
        let identity = self.bad_identity(kind, now);
        self.store.set_identity(identity).expect("own domain");
    }

    /// A bad leaf of this cluster, as an identity.
    #[must_use]
    pub fn bad_identity(&self, kind: BadLeaf, now: UnixTime) -> OwnIdentity {
        let chain = kind.chain(&self.ca, &self.key, now);
        let leaf = IssuedLeaf {
            chain,
            roots: self
                .ca
                .bundle()
                .expect("bundle")
                .roots()
                .iter()
                .map(|r| r.der().clone())
                .collect(),
            root_key: self.ca.rotation().current(),
        };
        OwnIdentity::with_id(self.domain().id(), &leaf, &self.key).expect("identity")
    }

    /// Presents, from now on, a leaf of this CA that names `id`, whoever's that is.
    pub fn present_as(&self, id: &SpiffeId, now: UnixTime) {
        let good = self.ca.current().expect("current root");
        let signer = good.issuing_signer().expect("issuing");
        let leaf = IssuedLeaf {
            chain: vec![
                sign(&good_leaf(id, now), &self.key.pair, &signer),
                good.issuing_der().expect("issuing"),
            ],
            roots: Vec::new(),
            root_key: self.ca.rotation().current(),
        };
        let identity = OwnIdentity::with_id(self.domain().id(), &leaf, &self.key).expect("identity");
        self.store.set_identity(identity).expect("own domain");
    }

    /// Trusts the other cluster's present bundle.
    pub fn trust(&self, other: &Self) {
        let peer = PeerTrust::new(other.ca.bundle().expect("bundle")).expect("peer");
        self.store
            .update(|view| view.insert(peer.clone()))
            .expect("not our own domain");
    }
}

/// Two clusters, `east` and `west`, that trust each other.
#[must_use]
pub fn trusting_pair(now: UnixTime) -> (TestCluster, TestCluster) {
    let (east, west) = (TestCluster::new("east", now), TestCluster::new("west", now));
    east.trust(&west);
    west.trust(&east);
    (east, west)
}

/// The ways a chain can be wrong while its root is trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadLeaf {
    /// Two URI SANs.
    TwoUriSans,
    /// A DNS name and no URI SAN.
    NoUriSan,
    /// An upper-case trust domain.
    UpperCaseDomain,
    /// The id of the trust domain itself.
    RootPath,
    /// A workload's id.
    NotGateway,
    /// cA true.
    IsCa,
    /// No key usage extension.
    NoKeyUsage,
    /// Key usage that is not critical.
    KeyUsageNotCritical,
    /// Key usage without digitalSignature.
    NoDigitalSignature,
    /// Key usage with keyCertSign.
    KeyCertSign,
    /// Key usage with cRLSign.
    CrlSign,
    /// Extended key usage with serverAuth only.
    ServerAuthOnly,
    /// Extended key usage with clientAuth only.
    ClientAuthOnly,
    /// Expired a second ago.
    Expired,
    /// Valid in a minute.
    NotYetValid,
    /// Signed by itself.
    SelfSigned,
    /// An issuing certificate that is no CA.
    IssuingNotCa,
    /// An issuing certificate without keyCertSign.
    IssuingNoKeyCertSign,
    /// An issuing certificate with a workload's id.
    IssuingIdHasPath,
    /// An expired issuing certificate.
    IssuingExpired,
    /// A CA below an issuing certificate that allows none.
    PathTooLong,
}

impl BadLeaf {
    /// Every kind.
    pub const ALL: [Self; 21] = [
        Self::TwoUriSans,
        Self::NoUriSan,
        Self::UpperCaseDomain,
        Self::RootPath,
        Self::NotGateway,
        Self::IsCa,
        Self::NoKeyUsage,
        Self::KeyUsageNotCritical,
        Self::NoDigitalSignature,
        Self::KeyCertSign,
        Self::CrlSign,
        Self::ServerAuthOnly,
        Self::ClientAuthOnly,
        Self::Expired,
        Self::NotYetValid,
        Self::SelfSigned,
        Self::IssuingNotCa,
        Self::IssuingNoKeyCertSign,
        Self::IssuingIdHasPath,
        Self::IssuingExpired,
        Self::PathTooLong,
    ];

    /// The code of the error that must refuse it.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::TwoUriSans => "MultipleUriSans",
            Self::NoUriSan => "NoUriSan",
            Self::UpperCaseDomain => "InvalidSpiffeId",
            Self::RootPath => "RootPath",
            Self::NotGateway => "NotGateway",
            Self::IsCa => "LeafIsCa",
            Self::NoKeyUsage => "KeyUsageMissing",
            Self::KeyUsageNotCritical => "KeyUsageNotCritical",
            Self::NoDigitalSignature => "DigitalSignatureMissing",
            Self::KeyCertSign => "LeafKeyCertSign",
            Self::CrlSign => "LeafCrlSign",
            Self::ServerAuthOnly | Self::ClientAuthOnly => "ExtendedKeyUsage",
            Self::Expired => "LeafExpired",
            Self::NotYetValid => "LeafNotYetValid",
            Self::SelfSigned => "UnknownIssuer",
            Self::IssuingNotCa => "SignerNotCa",
            Self::IssuingNoKeyCertSign => "SignerKeyCertSignMissing",
            Self::IssuingIdHasPath => "SignerIdHasPath",
            Self::IssuingExpired => "SignerExpired",
            Self::PathTooLong => "PathTooLong",
        }
    }

    /// Makes the chain, leaf first, for `key`.
    #[must_use]
    pub fn chain(self, ca: &CaRecord, key: &GatewayKey, now: UnixTime) -> Vec<CertificateDer<'static>> {
        let domain = ca.trust_domain();
        let leaf = |signer: &Issuer<'_, KeyPair>| {
            let mut leaf = good_leaf(&gateway_id(domain), now);
            self.spoil_leaf(&mut leaf, domain, now);
            sign(&leaf, &key.pair, signer)
        };
        let good = ca.current().expect("current root");
        let root = good.root_signer().expect("root");
        let issuing = good.issuing_signer().expect("issuing");
        match self {
            Self::SelfSigned => {
                vec![
                    good_leaf(&gateway_id(domain), now)
                        .self_signed(&key.pair)
                        .expect("leaf")
                        .into(),
                ]
            }
            Self::PathTooLong => {
                let (sub, pair, params) = signer_cert(domain, &issuing, now, |_| {});
                vec![
                    leaf(&Issuer::from_params(&params, pair)),
                    sub,
                    good.issuing_der().expect("issuing"),
                ]
            }
            Self::IssuingNotCa
            | Self::IssuingNoKeyCertSign
            | Self::IssuingIdHasPath
            | Self::IssuingExpired => {
                let (bad, pair, params) =
                    signer_cert(domain, &root, now, |p| self.spoil_issuing(p, domain, now));
                vec![leaf(&Issuer::from_params(&params, pair)), bad]
            }
            _ => vec![leaf(&issuing), good.issuing_der().expect("issuing")],
        }
    }

    fn spoil_leaf(self, leaf: &mut CertificateParams, domain: &TrustDomain, now: UnixTime) {
        match self {
            Self::TwoUriSans => leaf
                .subject_alt_names
                .push(uri(&gateway_id(domain)).expect("uri")),
            Self::NoUriSan => {
                leaf.subject_alt_names = vec![SanType::DnsName("gw.example".try_into().expect("name"))];
            }
            Self::UpperCaseDomain => {
                let id = format!("spiffe://{}/strait/gateway/gw-0", domain.as_str().to_uppercase());
                leaf.subject_alt_names = vec![SanType::URI(id.try_into().expect("uri"))];
            }
            Self::RootPath => leaf.subject_alt_names = vec![uri(&domain.id()).expect("uri")],
            Self::NotGateway => {
                let id = SpiffeId::parse(&format!("spiffe://{domain}/ns/demo/sa/greeter")).expect("id");
                leaf.subject_alt_names = vec![uri(&id).expect("uri")];
            }
            Self::IsCa => leaf.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)),
            Self::NoKeyUsage => leaf.key_usages.clear(),
            Self::KeyUsageNotCritical => {
                leaf.key_usages.clear();
                // BIT STRING with digitalSignature only; rcgen itself always marks key usage critical.
                let usage = CustomExtension::from_oid_content(&[2, 5, 29, 15], vec![3, 2, 7, 0x80]);
                leaf.custom_extensions.push(usage);
            }
            Self::NoDigitalSignature => leaf.key_usages = vec![KeyUsagePurpose::KeyAgreement],
            Self::KeyCertSign => leaf.key_usages.push(KeyUsagePurpose::KeyCertSign),
            Self::CrlSign => leaf.key_usages.push(KeyUsagePurpose::CrlSign),
            Self::ServerAuthOnly => leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth],
            Self::ClientAuthOnly => leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth],
            Self::Expired => leaf.not_after = at(now, -1).to_datetime(),
            Self::NotYetValid => leaf.not_before = at(now, 60).to_datetime(),
            _ => {}
        }
    }

    fn spoil_issuing(self, issuing: &mut CertificateParams, domain: &TrustDomain, now: UnixTime) {
        match self {
            Self::IssuingNotCa => issuing.is_ca = IsCa::ExplicitNoCa,
            Self::IssuingNoKeyCertSign => issuing.key_usages = vec![KeyUsagePurpose::CrlSign],
            Self::IssuingIdHasPath => {
                issuing.subject_alt_names = vec![uri(&gateway_id(domain)).expect("uri")]
            }
            Self::IssuingExpired => issuing.not_after = at(now, -1).to_datetime(),
            _ => {}
        }
    }
}

/// The parameters of a correct leaf, to be spoiled.
#[must_use]
pub fn good_leaf(id: &SpiffeId, now: UnixTime) -> CertificateParams {
    let mut leaf = params("strait gateway", now, DEFAULT_LEAF_TTL).expect("parameters");
    leaf.subject_alt_names = vec![uri(id).expect("uri")];
    leaf.is_ca = IsCa::ExplicitNoCa;
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    leaf
}

/// The id of gateway `gw-0` in `domain`.
#[must_use]
pub fn gateway_id(domain: &TrustDomain) -> SpiffeId {
    SpiffeId::gateway(domain, &InstanceId::parse("gw-0").expect("instance"))
}

/// A signing certificate with pathLen 0 below `signer`, changed by `spoil`.
#[must_use]
pub fn signer_cert(
    domain: &TrustDomain,
    signer: &Issuer<'_, KeyPair>,
    now: UnixTime,
    spoil: impl FnOnce(&mut CertificateParams),
) -> (CertificateDer<'static>, KeyPair, CertificateParams) {
    let pair = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("key");
    let mut params = ca_params(domain, &pair, "issuing", 0, now, DEFAULT_LEAF_TTL).expect("parameters");
    spoil(&mut params);
    (sign(&params, &pair, signer), pair, params)
}

/// A signing certificate below the CA's issuing certificate, which allows none, and the chain above it.
#[must_use]
pub fn signer_below_issuing(
    ca: &CaRecord,
    now: UnixTime,
) -> (CertificateDer<'static>, Vec<CertificateDer<'static>>) {
    let issuing = ca
        .current()
        .expect("current root")
        .issuing_signer()
        .expect("issuing");
    let (sub, _, _) = signer_cert(ca.trust_domain(), &issuing, now, |_| {});
    (sub, ca.signing_chain().expect("chain"))
}

/// A bundle update of any content, signed by a CA, with any chain beside it.
#[must_use]
pub fn seal_with(ca: &CaRecord, payload: &[u8], chain: &[CertificateDer<'_>]) -> Vec<u8> {
    crate::envelope::seal_payload(ca, payload, chain).expect("update")
}

/// Signs `params` for `pair`.
#[must_use]
pub fn sign(
    params: &CertificateParams,
    pair: &KeyPair,
    signer: &Issuer<'_, KeyPair>,
) -> CertificateDer<'static> {
    params.signed_by(pair, signer).expect("certificate").into()
}

/// `now` moved by some seconds, for a certificate.
fn at(now: UnixTime, seconds: i64) -> ASN1Time {
    date(crate::x509::seconds(now) + seconds).expect("date")
}

/// `now` moved by some seconds.
#[must_use]
pub fn later(now: UnixTime, seconds: i64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs().saturating_add_signed(seconds)))
}
