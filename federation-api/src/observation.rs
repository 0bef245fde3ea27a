//! Observations: what the data plane saw.
//!
//! Owns the values the gateway sends up: events that change what the controller decides, and a status value for people. Never
//! carries a command. Produced by gateway, read by controller and cli.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    Reason,
    catalog::{EndpointId, Protocol},
    ids::{ClusterId, InstanceId, ServiceKey, TrustDomain},
};

/// Something the controller must know to decide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observation {
    /// Links to a peer changed.
    Link {
        /// The peer.
        peer: ClusterId,
        /// Now.
        state: LinkState,
    },
    /// An endpoint passed or failed its checks.
    EndpointHealth {
        /// The exported service.
        service: ServiceKey,
        /// The endpoint.
        endpoint: EndpointId,
        /// Healthy now.
        healthy: bool,
        /// Why not: `None` when healthy.
        reason: Option<Reason>,
    },
    /// A VIP listener was bound or not.
    Listener {
        /// The imported service.
        service: ServiceKey,
        /// Where it listens, or should.
        vip: IpAddr,
        /// Its Service port.
        port: u16,
        /// The address it really has (on systems with only one loopback address a port of its own), or why none.
        bound: Result<SocketAddr, ListenError>,
    },
    /// A handshake, hello or stream was refused for a reason of trust or policy.
    Refused {
        /// Where from.
        remote: SocketAddr,
        /// The peer, where one was proven.
        peer: Option<ClusterId>,
        /// Why.
        reason: Reason,
    },
}

/// Why a VIP port is not served by a listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListenError {
    /// Reason.
    pub reason: Reason,
    /// The system's words.
    pub detail: String,
}

/// Links to one peer as the gateway sees them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LinkState {
    /// Data tunnels that can take streams.
    pub usable_tunnels: u32,
    /// Data tunnels that exist, draining and suspect ones included.
    pub tunnels: u32,
    /// A control connection is up.
    pub control: bool,
    /// Smallest smoothed round trip among data tunnels.
    #[serde(with = "seconds::optional")]
    pub rtt: Option<Duration>,
    /// Instances reached.
    pub instances: Vec<InstanceId>,
    /// Why the last dial failed, if it did and nothing is up.
    pub last_error: Option<(Reason, String)>,
}

/// The gateway as people see it: `get gateways`, `get tunnels`, dumps. Refreshed at most once a second.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayStatus {
    /// This instance.
    pub instance: Option<InstanceId>,
    /// The UDP address it listens on.
    pub listen: Option<SocketAddr>,
    /// SOCKS5 address, if on.
    pub socks: Option<SocketAddr>,
    /// Data workers.
    pub workers: u32,
    /// Sockets with what was asked and granted.
    pub sockets: Vec<SocketStatus>,
    /// Every tunnel and control connection.
    pub tunnels: Vec<TunnelStatus>,
    /// Every VIP listener.
    pub listeners: Vec<ListenerStatus>,
    /// Seconds until our own leaf expires.
    pub leaf_expires_in: Option<u64>,
}

/// One UDP socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SocketStatus {
    /// Worker that owns it.
    pub worker: u32,
    /// Local address.
    pub local: SocketAddr,
    /// Receive buffer asked for, bytes.
    pub receive_asked: u64,
    /// Receive buffer granted, bytes (the kernel's doubling taken out).
    pub receive_granted: u64,
    /// Send buffer asked for, bytes.
    pub send_asked: u64,
    /// Send buffer granted, bytes.
    pub send_granted: u64,
    /// Segments one send may carry; 1 means segmentation offload is off or broke.
    pub gso_segments: u32,
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TunnelKind {
    /// Streams of workloads.
    Data,
    /// The exchange.
    Control,
}

/// One connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TunnelStatus {
    /// Number of this connection within the process.
    pub id: u64,
    /// The peer.
    pub peer: ClusterId,
    /// Its trust domain.
    pub trust_domain: TrustDomain,
    /// Its instance.
    pub instance: InstanceId,
    /// What it is for.
    pub kind: TunnelKind,
    /// We dialled it.
    pub dialled: bool,
    /// Remote address.
    pub remote: SocketAddr,
    /// Worker that drives it.
    pub worker: u32,
    /// Smoothed round trip.
    #[serde(with = "seconds")]
    pub rtt: Duration,
    /// Path MTU, bytes.
    pub mtu: u16,
    /// Streams open now.
    pub streams: u32,
    /// Packets lost so far.
    pub lost_packets: u64,
    /// Age.
    #[serde(with = "seconds")]
    pub age: Duration,
    /// Silence so far.
    #[serde(with = "seconds")]
    pub silent_for: Duration,
    /// Takes no new streams.
    pub draining: bool,
    /// It rests on a leaf of ours that was renewed since.
    #[serde(default)]
    pub outdated: bool,
}

/// One VIP listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListenerStatus {
    /// The imported service.
    pub service: ServiceKey,
    /// Its VIP.
    pub vip: IpAddr,
    /// Protocol.
    pub protocol: Protocol,
    /// Its Service port.
    pub port: u16,
    /// Where it listens, or why not.
    pub bound: Result<SocketAddr, ListenError>,
}

/// Durations as decimal seconds: what programs that read the status expect.
mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(time: &Duration, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_f64(time.as_secs_f64())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
        Duration::try_from_secs_f64(f64::deserialize(d)?).map_err(D::Error::custom)
    }

    pub(super) mod optional {
        use super::{Deserialize, Deserializer, Duration, Error, Serializer};

        pub(crate) fn serialize<S: Serializer>(time: &Option<Duration>, s: S) -> Result<S::Ok, S::Error> {
            match time {
                Some(time) => super::serialize(time, s),
                None => s.serialize_none(),
            }
        }

        pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
            let seconds = Option::<f64>::deserialize(d)?;
            seconds
                .map(Duration::try_from_secs_f64)
                .transpose()
                .map_err(D::Error::custom)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_reads_back_and_times_are_seconds() {
        let link = LinkState {
            usable_tunnels: 1,
            rtt: Some(Duration::from_micros(1_500)),
            ..LinkState::default()
        };
        let json = serde_json::to_value(&link).unwrap();
        assert_eq!(
            (json["usableTunnels"].as_u64(), json["rtt"].as_f64()),
            (Some(1), Some(0.0015))
        );
        assert_eq!(serde_json::from_value::<LinkState>(json).unwrap(), link);
        let none = serde_json::to_value(LinkState::default()).unwrap();
        assert_eq!(
            serde_json::from_value::<LinkState>(none).unwrap(),
            LinkState::default()
        );
        assert!(
            serde_json::from_str::<LinkState>(
                r#"{"usableTunnels":0,"tunnels":0,"control":false,"rtt":-1,"instances":[]}"#
            )
            .is_err()
        );
    }
}
