//! Making connections to a peer.
//!
//! Owns which addresses are dialled, the order of attempts, and the proof of who answered. Decides not when to dial: the planner does. Called by a
//! worker on its own runtime.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, future::join_all, stream::FuturesUnordered};
use quinn::{ClientConfig, TransportConfig, crypto::rustls::QuicClientConfig};
use rustls_pki_types::{CertificateDer, UnixTime};
use strait_federation_api::{
    Reason, TrustDomain,
    control::{DialError, JoinStream, VerifiedPeer},
    snapshot::GatewayAddress,
};
use strait_trust_bridge::{
    RootPin, TrustError, TrustStore, VerifiedPeer as Chain,
    tls::{Alpn, RefusalSink},
};
use tokio::{
    sync::oneshot,
    time::{sleep, timeout},
};

use crate::{
    conn::Proven,
    endpoint::Port,
    failure::{self, RefusalSlot},
    runtime::{Health, with_health},
    shared::Shared,
    transport,
};

/// Name in the ClientHello's place: SNI is off and certificates carry ids, so it is never looked at.
const SERVER_NAME: &str = "gateway.strait.invalid";
/// Addresses a peer may list.
const MAX_ADDRESSES: usize = 16;
/// Addresses tried of one name.
const MAX_PER_NAME: usize = 4;
/// One handshake: three round trips of the longest path, and two losses.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);
/// The next address is tried while the one before is still unanswered (RFC 8305 section 8 advises 250 ms).
const STAGGER: Duration = Duration::from_millis(250);

/// A join to dial.
#[derive(Debug)]
pub(crate) struct JoinDial {
    pub(crate) addresses: Vec<GatewayAddress>,
    pub(crate) pin: RootPin,
    pub(crate) timeout: Duration,
    pub(crate) reply: oneshot::Sender<Result<JoinStream, DialError>>,
}

/// Whom to expect, and with what.
#[derive(Clone)]
pub(crate) enum Target {
    Peer { domain: TrustDomain, alpn: Alpn },
    Join(RootPin),
}

/// A handshake that is done.
pub(crate) struct Dialled {
    pub(crate) quic: quinn::Connection,
    pub(crate) health: Arc<Health>,
    pub(crate) remote: SocketAddr,
}

/// What an attempt needs.
#[derive(Clone)]
pub(crate) struct Dialler {
    endpoint: quinn::Endpoint,
    shared: Arc<Shared>,
}

impl Dialler {
    pub(crate) fn new(shared: &Arc<Shared>, port: &Port) -> Self {
        Self {
            endpoint: port.endpoint.clone(),
            shared: Arc::clone(shared),
        }
    }

    /// Tries the addresses in order, starting with number `first`, each a little after the one before; the first that answers wins.
    ///
    /// # Errors
    /// The most telling reason, and what every address said.
    pub(crate) async fn dial(
        &self,
        addresses: &[GatewayAddress],
        first: usize,
        target: &Target,
    ) -> Result<Dialled, DialError> {
        let mut failures = Vec::new();
        let mut targets = Vec::new();
        // All at once: a name whose resolver is silent must not hold up the other addresses one by one.
        let resolving = addresses.iter().take(MAX_ADDRESSES);
        for resolved in join_all(resolving.map(|address| self.resolve(address))).await {
            match resolved {
                Ok(found) => targets.extend(found),
                Err(failure) => failures.push(failure),
            }
        }
        if !targets.is_empty() {
            let start = first % targets.len();
            targets.rotate_left(start);
        }
        match self.race(targets, target, &mut failures).await {
            Some(dialled) => Ok(dialled),
            None => Err(DialError {
                reason: failure::most_telling(&failures),
                detail: describe(&failures),
            }),
        }
    }

    async fn race(
        &self,
        targets: Vec<SocketAddr>,
        target: &Target,
        failures: &mut Vec<(Reason, String)>,
    ) -> Option<Dialled> {
        let mut waiting = targets.into_iter();
        let mut running = FuturesUnordered::new();
        loop {
            match waiting.next() {
                Some(address) => running.push(self.attempt(address, target)),
                None if running.is_empty() => return None,
                None => {}
            }
            let more = waiting.len() > 0;
            tokio::select! {
                Some(ended) = running.next() => match ended {
                    Ok(dialled) => return Some(dialled),
                    Err(failure) => failures.push(failure),
                },
                () = sleep(STAGGER), if more => {}
            }
        }
    }

    async fn attempt(&self, address: SocketAddr, target: &Target) -> Result<Dialled, (Reason, String)> {
        let slot = RefusalSlot::default();
        let said = |(reason, detail): (Reason, String)| (reason, format!("{address}: {detail}"));
        let config = self
            .client_config(target, slot.sink())
            .map_err(|error| said((Reason::from(&error), error.to_string())))?;
        let (connecting, health) = with_health(|| self.endpoint.connect_with(config, address, SERVER_NAME));
        let connecting = connecting.map_err(|error| said((Reason::Unreachable, error.to_string())))?;
        match timeout(HANDSHAKE_TIMEOUT, connecting).await {
            Ok(Ok(quic)) => Ok(Dialled {
                quic,
                health,
                remote: address,
            }),
            Ok(Err(error)) => {
                // A server that we refuse is as much an attack, or a mistake, as a client that we refuse.
                let refused = slot.holds_refusal();
                let failed = said(failure::handshake(&error, &slot));
                if refused {
                    self.shared.refused(address, None, failed.0, &failed.1);
                }
                Err(failed)
            }
            Err(_) => Err(said((Reason::HandshakeTimeout, "no answer".into()))),
        }
    }

    fn client_config(&self, target: &Target, sink: RefusalSink) -> Result<ClientConfig, TrustError> {
        use strait_trust_bridge::tls::{client_config, join_client_config};
        let (tls, transport): (_, Arc<TransportConfig>) = match target {
            Target::Peer { domain, alpn } => {
                let transport = match alpn {
                    Alpn::Data => transport::data_client(),
                    Alpn::Control | Alpn::Join => transport::control_client(),
                };
                (
                    client_config(&self.shared.links.trust, domain.clone(), *alpn, sink)?,
                    transport,
                )
            }
            Target::Join(pin) => (
                join_client_config(pin.clone(), sink)?,
                transport::control_client(),
            ),
        };
        let tls = QuicClientConfig::try_from(tls)
            .map_err(|_| TrustError::Provider("QUIC's initial cipher suite is missing"))?;
        let mut config = ClientConfig::new(Arc::new(tls));
        config.transport_config(transport);
        Ok(config)
    }

    async fn resolve(&self, address: &GatewayAddress) -> Result<Vec<SocketAddr>, (Reason, String)> {
        let named = format!("{}:{}", address.host, address.port);
        if let Ok(ip) = address.host.parse::<IpAddr>() {
            return self
                .permit(ip)
                .then(|| vec![SocketAddr::new(ip, address.port)])
                .ok_or_else(|| not_allowed(&named));
        }
        let found = self
            .shared
            .resolver
            .addresses(&address.host)
            .await
            .map_err(|error| (Reason::NameNotResolved, format!("{named}: {error}")))?;
        let allowed: Vec<_> = found
            .into_iter()
            .filter(|found| self.permit(*found))
            .map(|found| SocketAddr::new(found, address.port))
            .take(MAX_PER_NAME)
            .collect();
        if allowed.is_empty() {
            Err(not_allowed(&named))
        } else {
            Ok(allowed)
        }
    }

    fn permit(&self, ip: IpAddr) -> bool {
        may_dial(ip, self.shared.config.allow_loopback)
    }
}

fn not_allowed(named: &str) -> (Reason, String) {
    let why = "loopback, link-local, multicast and unspecified addresses are not dialled";
    (Reason::Unreachable, format!("{named}: {why}"))
}

/// A peer must not make us talk to ourselves or to the local link, except where that is the point.
fn may_dial(ip: IpAddr, allow_loopback: bool) -> bool {
    let ip = ip.to_canonical();
    let local = match ip {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unicast_link_local(),
    };
    let never = match ip {
        IpAddr::V4(v4) => v4.is_unspecified() || v4.is_multicast() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unspecified() || v6.is_multicast(),
    };
    !never && (!local || allow_loopback)
}

fn describe(failures: &[(Reason, String)]) -> String {
    if failures.is_empty() {
        return "no address to dial".into();
    }
    let one = |(reason, detail): &(Reason, String)| format!("{detail} ({reason})");
    failures.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// The chain that the other end presented.
pub(crate) fn presented(quic: &quinn::Connection) -> Vec<CertificateDer<'static>> {
    quic.peer_identity()
        .and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok())
        .map(|chain| *chain)
        .unwrap_or_default()
}

/// What a verified chain proves, with the chain kept.
pub(crate) fn proven(found: Chain, chain: Vec<CertificateDer<'static>>) -> Result<Proven, Reason> {
    let instance = found.chain.id.gateway_instance().ok_or(Reason::NotAGateway)?;
    Ok(Proven {
        peer: VerifiedPeer {
            cluster: found.cluster,
            trust_domain: found.chain.id.trust_domain().clone(),
            instance,
        },
        chain,
        leaf_ends: found.chain.not_after,
    })
}

/// Who answered a dial, verified once more against the trust held now.
pub(crate) fn prove_server(
    quic: &quinn::Connection,
    trust: &TrustStore,
    domain: &TrustDomain,
) -> Result<Proven, Reason> {
    let chain = presented(quic);
    let found = trust
        .view()
        .verify_pinned(&chain, UnixTime::now(), domain)
        .map_err(|error| Reason::from(&error))?;
    proven(found, chain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_addresses_are_dialled_only_where_that_is_the_point() {
        for local in ["127.0.0.1", "::1", "169.254.1.1", "fe80::1", "::ffff:127.0.0.1"] {
            let ip = local.parse().unwrap();
            assert!(!may_dial(ip, false), "{local}");
            assert!(may_dial(ip, true), "{local}");
        }
        for never in ["0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255"] {
            assert!(!may_dial(never.parse().unwrap(), true), "{never}");
        }
        for always in ["10.0.0.1", "192.0.2.1", "2001:db8::1", "fd00::1"] {
            assert!(may_dial(always.parse().unwrap(), false), "{always}");
        }
    }

    #[test]
    fn every_address_is_in_the_detail() {
        let failures = [
            (Reason::HandshakeTimeout, "192.0.2.1:7443: no answer".to_owned()),
            (Reason::NameNotResolved, "gw:7443: not found".to_owned()),
        ];
        assert_eq!(
            describe(&failures),
            "192.0.2.1:7443: no answer (HandshakeTimeout); gw:7443: not found (NameNotResolved)"
        );
    }
}
