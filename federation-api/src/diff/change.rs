//! One thing a change takes away, as value and in words.

use std::{fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

use crate::{
    catalog::Protocol,
    ids::{ClusterId, ServiceKey},
    resources::FederationName,
    snapshot::PeerMode,
};

/// One thing a change takes away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "camelCase", rename_all_fields = "camelCase")]
#[non_exhaustive]
pub enum Change {
    /// This cluster would be another one to every peer.
    ClusterRenamed {
        /// ClusterId now.
        from: ClusterId,
        /// ClusterId then.
        to: ClusterId,
    },
    /// The gateway leaves its address: every connection ends.
    ListenMoved {
        /// Address now.
        from: String,
        /// Address then.
        to: String,
    },
    /// A peer is no longer trusted.
    TrustRemoved {
        /// Its Federation.
        federation: FederationName,
        /// Who it is, where known.
        cluster: Option<ClusterId>,
    },
    /// A peer is trusted in another way; what stood before may not hold.
    TrustReplaced {
        /// Its Federation.
        federation: FederationName,
        /// Kind or trust domain now.
        from: String,
        /// Kind or trust domain then.
        to: String,
    },
    /// The mode changes.
    ModeChanged {
        /// Of this Federation.
        federation: FederationName,
        /// Mode now.
        from: PeerMode,
        /// Mode then.
        to: PeerMode,
    },
    /// Connections to a peer end.
    TunnelsCut {
        /// Its Federation.
        federation: FederationName,
        /// Connections now.
        tunnels: u32,
        /// Streams in them, which are reset.
        streams: u32,
    },
    /// Peers can no longer reach a service of this cluster.
    ExportWithdrawn {
        /// The service.
        service: ServiceKey,
        /// Federations that could see it.
        from: Vec<FederationName>,
        /// Why.
        why: String,
    },
    /// Peers can no longer reach one port of a service of this cluster.
    PortWithdrawn {
        /// The service.
        service: ServiceKey,
        /// Protocol.
        protocol: Protocol,
        /// Port.
        port: u16,
        /// Federations that could see it.
        from: Vec<FederationName>,
    },
    /// A service of a peer is no longer reachable here through this peer.
    ImportLost {
        /// The peer's Federation.
        federation: FederationName,
        /// The peer's name for it.
        service: ServiceKey,
        /// Its local name now.
        local: ServiceKey,
    },
    /// A service of a peer gets another local name: the old one ends.
    ImportRenamed {
        /// The peer's Federation.
        federation: FederationName,
        /// Local name now.
        from: ServiceKey,
        /// Local name then.
        to: ServiceKey,
    },
    /// A rule for many services goes, and no process is running to say which ones it let in.
    RuleRemoved {
        /// The Federation.
        federation: FederationName,
        /// The rule.
        rule: String,
    },
    /// Virtual addresses are given back: clients that keep them fail.
    VipsReleased {
        /// Local name.
        service: ServiceKey,
        /// The addresses.
        vips: Vec<IpAddr>,
        /// Why.
        why: String,
    },
}

fn joined<T: fmt::Display>(list: &[T]) -> String {
    list.iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClusterRenamed { from, to } => {
                write!(f, "cluster {from} becomes {to}: every peer must join again")
            }
            Self::ListenMoved { from, to } => {
                write!(
                    f,
                    "the gateway moves from {from} to {to}: every tunnel is cut once"
                )
            }
            Self::TrustRemoved { federation, cluster } => {
                let who = cluster.as_ref().map_or_else(String::new, |c| format!(" in {c}"));
                write!(f, "Federation {federation}: trust{who} is removed")
            }
            Self::TrustReplaced { federation, from, to } => {
                write!(f, "Federation {federation}: {from} is replaced by {to}")
            }
            Self::ModeChanged { federation, from, to } => {
                let effect = match to {
                    PeerMode::Active => "streams flow again",
                    PeerMode::Drain => "no new streams, names stay",
                    PeerMode::Suspended => "links close, imports are withdrawn, trust and addresses stay",
                };
                write!(
                    f,
                    "Federation {federation}: mode {from:?} becomes {to:?} ({effect})"
                )
            }
            Self::TunnelsCut {
                federation,
                tunnels,
                streams,
            } => write!(
                f,
                "Federation {federation}: {tunnels} tunnels are cut, {streams} open streams are reset"
            ),
            Self::ExportWithdrawn { service, from, why } => {
                write!(f, "export {service}: withdrawn from {} ({why})", joined(from))
            }
            Self::PortWithdrawn {
                service,
                protocol,
                port,
                from,
            } => write!(
                f,
                "export {service}: port {protocol}/{port} is withdrawn from {}",
                joined(from)
            ),
            Self::ImportLost {
                federation,
                service,
                local,
            } => write!(
                f,
                "import {local}: no longer served by {federation} ({service} there)"
            ),
            Self::ImportRenamed { federation, from, to } => {
                write!(f, "import {from}: what {federation} serves becomes {to}")
            }
            Self::RuleRemoved { federation, rule } => {
                write!(
                    f,
                    "Federation {federation}: import rule {rule} goes; all it let in is lost"
                )
            }
            Self::VipsReleased { service, vips, why } => {
                write!(
                    f,
                    "import {service}: address {} is given back ({why})",
                    joined(vips)
                )
            }
        }
    }
}
