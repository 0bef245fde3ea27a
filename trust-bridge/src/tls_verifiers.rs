//! The rustls traits over the pure verifier and the store.
//!
//! Owns no rule: each type asks [`TrustView`](crate::TrustView) or [`verify_with_pin`], reports a refusal, and translates. TLS 1.2
//! is never spoken, so its signatures are refused.

use std::sync::Arc;

use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::tls::{Alpn, JoinGate, RefusalSink, RefusedAt};
use crate::verify::{RootPin, claimed_id, verify_with_pin};
use crate::{TrustDomain, TrustError, TrustStore};

/// Joins what rustls gives in two pieces, without copying a certificate.
fn whole<'a>(leaf: &'a CertificateDer<'_>, rest: &'a [CertificateDer<'_>]) -> Vec<CertificateDer<'a>> {
    std::iter::once(leaf)
        .chain(rest)
        .map(|der| CertificateDer::from(der.as_ref()))
        .collect()
}

/// Reports a refusal and makes it the handshake's error.
fn refuse(sink: &RefusalSink, at: RefusedAt, chain: &[CertificateDer<'_>], error: TrustError) -> Error {
    sink.report(at, claimed_id(chain).ok(), &error);
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
}

/// The signature methods that the two verifier traits share word for word.
macro_rules! tls13_signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Err(Error::General("TLS 1.2 is not spoken".into()))
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(message, cert, dss, &self.algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.algorithms.supported_schemes()
        }
    };
}

/// A dialler's verifier: the server must be a gateway of one peer.
#[derive(Debug)]
pub(crate) struct PinnedPeer {
    store: Arc<TrustStore>,
    peer: TrustDomain,
    algorithms: WebPkiSupportedAlgorithms,
    sink: RefusalSink,
}

impl PinnedPeer {
    pub(crate) fn new(
        store: Arc<TrustStore>,
        peer: TrustDomain,
        provider: &CryptoProvider,
        sink: RefusalSink,
    ) -> Self {
        Self {
            store,
            peer,
            algorithms: provider.signature_verification_algorithms,
            sink,
        }
    }
}

impl ServerCertVerifier for PinnedPeer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let chain = whole(end_entity, intermediates);
        match self.store.view().verify_pinned(&chain, now, &self.peer) {
            Ok(_) => Ok(ServerCertVerified::assertion()),
            Err(error) => Err(refuse(&self.sink, RefusedAt::ServerCertificate, &chain, error)),
        }
    }

    tls13_signatures!();
}

/// A joiner's verifier: the server's chain must hold and lead to the token's root.
#[derive(Debug)]
pub(crate) struct PinnedRoot {
    pin: RootPin,
    algorithms: WebPkiSupportedAlgorithms,
    sink: RefusalSink,
}

impl PinnedRoot {
    pub(crate) fn new(pin: RootPin, provider: &CryptoProvider, sink: RefusalSink) -> Self {
        Self {
            pin,
            algorithms: provider.signature_verification_algorithms,
            sink,
        }
    }
}

impl ServerCertVerifier for PinnedRoot {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let chain = whole(end_entity, intermediates);
        match verify_with_pin(&chain, now, &self.pin) {
            Ok(_) => Ok(ServerCertVerified::assertion()),
            Err(error) => Err(refuse(&self.sink, RefusedAt::ServerCertificate, &chain, error)),
        }
    }

    tls13_signatures!();
}

/// A server's verifier: a certificate is optional, one that is presented must be of some peer.
#[derive(Debug)]
pub(crate) struct AnyPeerClient {
    store: Arc<TrustStore>,
    algorithms: WebPkiSupportedAlgorithms,
    sink: RefusalSink,
}

impl AnyPeerClient {
    pub(crate) fn new(store: Arc<TrustStore>, provider: &CryptoProvider, sink: RefusalSink) -> Self {
        Self {
            store,
            algorithms: provider.signature_verification_algorithms,
            sink,
        }
    }
}

impl ClientCertVerifier for AnyPeerClient {
    /// A joiner has none; [`crate::tls::admit`] asks for one on the other protocols.
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    /// No hints: they would tell every scanner whom we federate with.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let chain = whole(end_entity, intermediates);
        match self.store.view().verify(&chain, now) {
            Ok(_) => Ok(ClientCertVerified::assertion()),
            Err(error) => Err(refuse(&self.sink, RefusedAt::ClientCertificate, &chain, error)),
        }
    }

    tls13_signatures!();
}

/// Presents our leaf as a server; with the roots on a join, and no join while no invite is open.
#[derive(Debug)]
pub(crate) struct OwnServerCert {
    store: Arc<TrustStore>,
    join: JoinGate,
    sink: RefusalSink,
}

impl OwnServerCert {
    pub(crate) const fn new(store: Arc<TrustStore>, join: JoinGate, sink: RefusalSink) -> Self {
        Self { store, join, sink }
    }
}

impl ResolvesServerCert for OwnServerCert {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let offered: Vec<&[u8]> = hello.alpn().map(Iterator::collect).unwrap_or_default();
        let identity = self.store.identity()?;
        if !offered.contains(&Alpn::Join.as_bytes()) {
            return Some(identity.presented());
        }
        // Beside another protocol it is unclear which one will be chosen, and none of our diallers does it.
        if offered.len() > 1 || !self.join.is_open() {
            self.sink
                .report(RefusedAt::JoinHello, None, &TrustError::JoinNotOffered);
            return None;
        }
        Some(identity.presented_on_join())
    }
}

/// Presents our leaf as a dialler, whatever authorities the server hints at: hints cannot know of a cross-certificate.
#[derive(Debug)]
pub(crate) struct OwnClientCert {
    store: Arc<TrustStore>,
}

impl OwnClientCert {
    pub(crate) const fn new(store: Arc<TrustStore>) -> Self {
        Self { store }
    }
}

impl ResolvesClientCert for OwnClientCert {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.store.identity().map(|identity| identity.presented())
    }

    fn has_certs(&self) -> bool {
        self.store.identity().is_some()
    }
}
