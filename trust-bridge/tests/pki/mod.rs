//! A small PKI whose keys a test holds, for certificates that the CA of this room would never make.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used)]

use std::collections::BTreeSet;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls_pki_types::CertificateDer;
use strait_trust_bridge::testing::{gateway_id, good_leaf, sign, signer_cert};
use strait_trust_bridge::{Bundle, Root, TrustDomain};

use crate::common::noon;

type Chain = Vec<CertificateDer<'static>>;

/// A root and an issuing certificate whose keys a test holds.
pub struct Pki {
    pub domain: TrustDomain,
    pub root: CertificateDer<'static>,
    pub issuing: CertificateDer<'static>,
    pub issuing_signer: Issuer<'static, KeyPair>,
}

impl Pki {
    pub fn new(
        domain: &TrustDomain,
        spoil_root: impl FnOnce(&mut CertificateParams),
        spoil_issuing: impl FnOnce(&mut CertificateParams),
    ) -> Self {
        let pair = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = good_leaf(&domain.id(), noon());
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, "test root");
        params.extended_key_usages.clear();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(2));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        spoil_root(&mut params);
        let root = params.self_signed(&pair).unwrap().into();
        let signer = Issuer::new(params, pair);
        let (issuing, pair, params) = signer_cert(domain, &signer, noon(), spoil_issuing);
        let issuing_signer = Issuer::new(params, pair);
        Self {
            domain: domain.clone(),
            root,
            issuing,
            issuing_signer,
        }
    }

    pub fn bundle(&self) -> Bundle {
        let root = Root::from_der(&self.root).unwrap();
        Bundle::new(self.domain.clone(), 1, None, vec![root], BTreeSet::new()).unwrap()
    }

    pub fn chain(&self) -> Chain {
        leaf_under(self, |_| {})
    }
}

pub fn leaf_under(pki: &Pki, spoil: impl FnOnce(&mut CertificateParams)) -> Chain {
    let pair = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let mut params = good_leaf(&gateway_id(&pki.domain), noon());
    spoil(&mut params);
    vec![sign(&params, &pair, &pki.issuing_signer), pki.issuing.clone()]
}
