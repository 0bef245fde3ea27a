//! TLS configurations for the one port: what every QUIC and TCP connection between gateways is made with.
//!
//! Owns the provider (aws-lc-rs, TLS 1.3 only, post-quantum key exchange first), the protocol names, and the check of what a
//! finished handshake may do. Resumption, tickets and 0-RTT are off: each of them would skip a verification.

use std::fmt;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, kx_group};
use rustls::{CipherSuite, ClientConfig, NamedGroup, ServerConfig};
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::tls_verifiers::{AnyPeerClient, OwnClientCert, OwnServerCert, PinnedPeer, PinnedRoot};
use crate::verify::RootPin;
use crate::{SpiffeId, TrustDomain, TrustError, TrustStore, VerifiedPeer};

/// What a connection is for, as its ALPN says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Alpn {
    /// `strait-join/1`: no client certificate, only while an invite is open.
    Join,
    /// `strait-control/1`: the exchange.
    Control,
    /// `strait/1`: data.
    Data,
}

impl Alpn {
    /// All, in the server's order.
    pub const ALL: [Self; 3] = [Self::Data, Self::Control, Self::Join];

    /// The protocol name on the wire.
    #[must_use]
    pub const fn as_bytes(self) -> &'static [u8] {
        match self {
            Self::Join => b"strait-join/1",
            Self::Control => b"strait-control/1",
            Self::Data => b"strait/1",
        }
    }

    /// Reads a negotiated name.
    #[must_use]
    pub fn from_bytes(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|alpn| alpn.as_bytes() == name)
    }
}

/// Which part of a handshake was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefusedAt {
    /// A dialler's certificate, by us as the server.
    ClientCertificate,
    /// A server's certificate, by us as the dialler.
    ServerCertificate,
    /// A dialler's wish to join, by us as the server.
    JoinHello,
    /// A connection without a certificate, or without one of our protocols, by us as the server.
    Admission,
}

/// A handshake that was refused, and why. Made for a log line and a counter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Where.
    pub at: RefusedAt,
    /// The id the leaf claims, unverified, if it can be read.
    pub claimed: Option<SpiffeId>,
    /// Why.
    pub error: TrustError,
}

/// Where refusals go. Called inside a handshake: must not block.
#[derive(Clone)]
pub struct RefusalSink(Arc<dyn Fn(&Refusal) + Send + Sync>);

impl RefusalSink {
    /// Calls `sink` for every refusal.
    pub fn new(sink: impl Fn(&Refusal) + Send + Sync + 'static) -> Self {
        Self(Arc::new(sink))
    }

    pub(crate) fn report(&self, at: RefusedAt, claimed: Option<SpiffeId>, error: &TrustError) {
        (self.0)(&Refusal {
            at,
            claimed,
            error: error.clone(),
        });
    }
}

impl fmt::Debug for RefusalSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RefusalSink")
    }
}

/// Whether an invite is open just now. Called inside a handshake: must not block.
#[derive(Clone)]
pub struct JoinGate(Arc<dyn Fn() -> bool + Send + Sync>);

impl JoinGate {
    /// Asks `open` at every join handshake.
    pub fn new(open: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(open))
    }

    pub(crate) fn is_open(&self) -> bool {
        (self.0)()
    }
}

impl fmt::Debug for JoinGate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinGate")
    }
}

/// The provider of every configuration. AES-128-GCM first (AES-256 costs up to 40 % of throughput), X25519MLKEM768 first.
///
/// # Errors
/// [`TrustError::Provider`] if the order is not as required; call it once at start to fail early.
pub fn provider() -> Result<Arc<CryptoProvider>, TrustError> {
    let provider = CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1],
        ..default_provider()
    };
    check_provider(&provider)?;
    Ok(Arc::new(provider))
}

/// Checks that a provider keeps the security rules: TLS 1.3 suites only, AES-128-GCM and X25519MLKEM768 first.
///
/// # Errors
/// [`TrustError::Provider`].
pub fn check_provider(provider: &CryptoProvider) -> Result<(), TrustError> {
    if provider.cipher_suites.first().map(|suite| suite.suite())
        != Some(CipherSuite::TLS13_AES_128_GCM_SHA256)
    {
        return Err(TrustError::Provider("AES-128-GCM is not the first cipher suite"));
    }
    if provider.cipher_suites.iter().any(|suite| suite.tls13().is_none()) {
        return Err(TrustError::Provider("a cipher suite is not of TLS 1.3"));
    }
    if provider.kx_groups.first().map(|group| group.name()) != Some(NamedGroup::X25519MLKEM768) {
        return Err(TrustError::Provider(
            "X25519MLKEM768 is not the first key exchange group",
        ));
    }
    Ok(())
}

/// The server's configuration: all three protocols, client certificates optional, those presented verified against `store`.
/// Call [`admit`] when a handshake is done.
///
/// # Errors
/// [`TrustError::Provider`].
pub fn server_config(
    store: &Arc<TrustStore>,
    join: JoinGate,
    sink: RefusalSink,
) -> Result<ServerConfig, TrustError> {
    let provider = provider()?;
    let verifier = AnyPeerClient::new(Arc::clone(store), &provider, sink.clone());
    let resolver = OwnServerCert::new(Arc::clone(store), join, sink);
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(no_tls13)?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = Alpn::ALL.map(|alpn| alpn.as_bytes().to_vec()).into();
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}

/// A dialler's configuration for control or data, pinned to one peer: a server of any other trust domain is refused.
///
/// # Errors
/// [`TrustError::Provider`]; [`TrustError::UnknownProtocol`] for [`Alpn::Join`], which has its own configuration.
pub fn client_config(
    store: &Arc<TrustStore>,
    peer: TrustDomain,
    alpn: Alpn,
    sink: RefusalSink,
) -> Result<ClientConfig, TrustError> {
    if alpn == Alpn::Join {
        return Err(TrustError::UnknownProtocol);
    }
    let provider = provider()?;
    let verifier = PinnedPeer::new(Arc::clone(store), peer, &provider, sink);
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(no_tls13)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(OwnClientCert::new(Arc::clone(store))));
    Ok(dialler(config, alpn))
}

/// A joiner's configuration: no client certificate, the server pinned to the root and trust domain of the token.
///
/// # Errors
/// [`TrustError::Provider`].
pub fn join_client_config(pin: RootPin, sink: RefusalSink) -> Result<ClientConfig, TrustError> {
    let provider = provider()?;
    let verifier = PinnedRoot::new(pin, &provider, sink);
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(no_tls13)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(dialler(config, Alpn::Join))
}

fn dialler(mut config: ClientConfig, alpn: Alpn) -> ClientConfig {
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    config.enable_early_data = false;
    // The name is not checked, and would tell the path who talks to whom.
    config.enable_sni = false;
    config
}

fn no_tls13(_: rustls::Error) -> TrustError {
    TrustError::Provider("TLS 1.3 is not available")
}

/// What a connection that we accepted may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// A joiner, not authenticated yet.
    Join,
    /// The exchange with this peer.
    Control(VerifiedPeer),
    /// Data streams with this peer.
    Data(VerifiedPeer),
}

/// Decides what an accepted connection may do, before its first stream: only a join may lack a certificate. The chain is
/// verified again, against the trust held now.
///
/// # Errors
/// [`TrustError::UnknownProtocol`], [`TrustError::NoCertificate`], or as [`crate::TrustView::verify`]; reported to `sink` too.
pub fn admit(
    alpn: Option<&[u8]>,
    chain: Option<&[CertificateDer<'_>]>,
    store: &TrustStore,
    now: UnixTime,
    sink: &RefusalSink,
) -> Result<Admission, TrustError> {
    let chain = chain.unwrap_or_default();
    let admission = match alpn.and_then(Alpn::from_bytes) {
        None => Err(TrustError::UnknownProtocol),
        Some(Alpn::Join) => Ok(Admission::Join),
        Some(Alpn::Control) => store.view().verify(chain, now).map(Admission::Control),
        Some(Alpn::Data) => store.view().verify(chain, now).map(Admission::Data),
    };
    if let Err(error) = &admission {
        sink.report(RefusedAt::Admission, crate::verify::claimed_id(chain).ok(), error);
    }
    admission
}
