//! The one enum of reasons: condition reason, metric label, log field, wire code and docs anchor all use the same name.
//!
//! Owns the table of names, codes, meanings and remedies; `docs/troubleshooting.md` is generated from it. Never carries detail of
//! one event (that goes beside it). Called by every room.

use std::fmt;

/// What an operator may conclude from a reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// All is well.
    Ok,
    /// It passes by itself; the sender may try elsewhere.
    Transient,
    /// Somebody must change something.
    Final,
}

macro_rules! reasons {
    ($($(#[$sec:meta])* $name:ident = $code:literal, $class:ident, $meaning:literal, $remedy:literal;)*) => {
        /// Why. See [`Reason::meaning`] and [`Reason::remedy`] for the words.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Reason {
            $(#[doc = $meaning] $name,)*
        }

        impl Reason {
            /// Every reason, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The name used in conditions, labels, logs and docs anchors.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// Stable code on the wire (stream refusals, resets, nacks). Codes are never reused.
            #[must_use]
            pub const fn code(self) -> u16 {
                match self { $(Self::$name => $code,)* }
            }

            /// The reason of a wire code, `None` for a code of a newer version.
            #[must_use]
            pub const fn from_code(code: u16) -> Option<Self> {
                match code { $($code => Some(Self::$name),)* _ => None }
            }

            /// What may be concluded.
            #[must_use]
            pub const fn class(self) -> Class {
                match self { $(Self::$name => Class::$class,)* }
            }

            /// What happened, one sentence.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$name => $meaning,)* }
            }

            /// What to do, one sentence.
            #[must_use]
            pub const fn remedy(self) -> &'static str {
                match self { $(Self::$name => $remedy,)* }
            }

            /// The reason with this name.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $(stringify!($name) => Some(Self::$name),)* _ => None }
            }
        }
    };
}

reasons! {
    // 1..99: good states
    Connected = 1, Ok, "Control and, where needed, data tunnels to the peer are up.", "Nothing to do.";
    Trusted = 2, Ok, "Both sides hold each other's current bundle.", "Nothing to do.";
    Synced = 3, Ok, "The peer's catalog is complete and current.", "Nothing to do.";
    Accepted = 4, Ok, "The object was accepted.", "Nothing to do.";
    Valid = 5, Ok, "The export names a Service that can be exported.", "Nothing to do.";
    Exported = 6, Ok, "The service is offered to the peers its rules name.", "Nothing to do.";
    Ready = 7, Ok, "The import is served.", "Nothing to do.";
    NoConflicts = 8, Ok, "All exporters of the name agree.", "Nothing to do.";
    Listening = 9, Ok, "The VIP port is bound.", "Nothing to do.";

    // 100..199: streams
    NoEndpoint = 100, Transient, "The service has no ready endpoint there.", "Check the endpoints of the exporting cluster.";
    ConnectFailed = 101, Transient, "The far gateway could not connect to the endpoint it chose.", "Check that the endpoint listens and that the far gateway may reach it.";
    Overloaded = 102, Transient, "The far side is over a budget of streams or memory.", "Add gateways, or raise the budget.";
    Draining = 103, Transient, "The far gateway is going away and takes no new streams.", "Nothing to do: another gateway is tried.";
    UnknownService = 104, Transient, "The far side does not export this service or port (any more).", "Compare `strait get exports` there with `strait get imports` here.";
    Denied = 105, Final, "Policy of the far side does not allow this peer to reach the service.", "Add an export rule for this peer on the exporting side.";
    Malformed = 106, Final, "A message could not be parsed.", "Compare the versions of both sides; report it if they match.";
    Unsupported = 107, Final, "A message asks for something this version does not know.", "Upgrade the older side.";
    DeadlineExceeded = 108, Transient, "No candidate answered in time.", "Check the link (`strait check PEER`) and the endpoints.";
    TunnelLost = 109, Transient, "The tunnel died under the stream.", "Nothing to do: new streams go elsewhere.";
    OutcomeUnknown = 110, Final, "Payload had been sent when the tunnel or answer was lost; it is never sent twice.", "Retry in the client, or declare the port replayable if repeating is harmless.";
    NoTunnel = 111, Transient, "No usable tunnel to any cluster that serves the port.", "Run `strait check PEER`.";
    NoBackend = 112, Transient, "No cluster serves this port of the import now.", "Run `strait check SERVICE`.";
    PeerReset = 113, Transient, "The other end reset the stream.", "Look at the client or endpoint that reset it.";
    StalledReader = 114, Transient, "The stream's reader stalled while memory was short.", "Make the slow reader faster, or raise the byte budget per peer.";
    IdleTimeout = 115, Transient, "No byte moved within the idle limit.", "Use keepalives in the protocol, or raise the limit.";
    ProbeFailed = 116, Transient, "A health check of the endpoint failed.", "Check the endpoint; the check itself is set by the annotation strait.dev/health-check.";
    Ejected = 117, Transient, "The endpoint failed several connections in a row and rests for a while.", "Check the endpoint; it comes back by itself.";
    TransitRefused = 118, Final, "A stream from a peer may only end at a local endpoint.", "Federate with the cluster that runs the service.";
    PeerSuspended = 119, Final, "The Federation with this peer is suspended.", "Set spec.mode to Active.";
    PeerDraining = 120, Transient, "The Federation with this peer is in Drain.", "Set spec.mode to Active to send traffic again.";
    UnknownName = 121, Final, "The name is not an imported service.", "Check the spelling, the import rules and `strait get imports`.";
    ProtocolNotServed = 122, Final, "Only TCP is carried between clusters yet.", "Use TCP, or reach a local endpoint.";

    // 200..299: links
    Dialling = 200, Transient, "The first connection is being made.", "Wait; run `strait check PEER` if it stays.";
    Unreachable = 201, Transient, "No address of the peer answers.", "Check address, UDP port 7443 and firewalls on the path.";
    NoAddress = 202, Transient, "The peer lists no address and has not dialled in.", "Give spec.peer.addresses, or check that the peer can reach us.";
    NameNotResolved = 203, Transient, "The peer's address does not resolve.", "Check the name in spec.peer.addresses and the resolver.";
    HandshakeTimeout = 204, Transient, "Packets go out, none comes back in time.", "Check firewalls and UDP on the path in both directions.";
    AlpnRefused = 205, Final, "The other side does not offer this protocol now.", "For a join: is the invite still open? Else compare versions.";
    PeerSilent = 206, Transient, "Nothing was heard from the tunnel; it is suspect.", "Check the path; traffic goes elsewhere meanwhile.";
    VersionSkew = 207, Final, "The two sides have no protocol version in common.", "Upgrade the older side.";
    NoClientCertificate = 208, Final, "The connection brought no client certificate.", "Only Strait gateways may dial this port.";
    TooManyConnections = 209, Transient, "The source has too many connections or attempts.", "Check what dials from there.";
    Superseded = 210, Transient, "Another connection of the same two gateways took its place.", "Nothing to do.";

    // 300..399: trust
    LeafExpired = 300, Final, "The peer's certificate has expired.", "Check the peer's clock and that its control plane renews certificates.";
    LeafNotYetValid = 301, Final, "The peer's certificate is not valid yet.", "Compare the clocks of both sides.";
    MultipleUriSans = 302, Final, "The certificate has more than one URI SAN.", "Only certificates issued by Strait's cluster CA may be used.";
    NoUriSan = 303, Final, "The certificate has no URI SAN.", "Only certificates issued by Strait's cluster CA may be used.";
    BadSpiffeId = 304, Final, "The certificate's SPIFFE ID breaks the syntax.", "Only certificates issued by Strait's cluster CA may be used.";
    RootPath = 305, Final, "The certificate names a trust domain, not a workload.", "A signing certificate cannot authenticate a gateway.";
    NotAGateway = 306, Final, "The identity is not that of a Strait gateway.", "Only /strait/gateway/<instance> may speak to this port.";
    LeafIsCa = 307, Final, "A CA certificate was used as a leaf.", "A signing certificate cannot authenticate a gateway.";
    KeyUsageWrong = 308, Final, "The certificate's key usage is wrong for its place in the chain.", "Only certificates issued by Strait's cluster CA may be used.";
    ExtendedKeyUsageWrong = 309, Final, "The certificate's extended key usage forbids this use.", "Only certificates issued by Strait's cluster CA may be used.";
    UnknownTrustDomain = 310, Final, "No Federation lists this trust domain.", "Join the clusters, or add static trust.";
    OwnTrustDomain = 311, Final, "A peer presented our own trust domain.", "Two clusters share a CA key, or somebody holds ours: rotate the root.";
    WrongTrustDomain = 312, Final, "The server's trust domain is not the one this Federation names.", "Check spec.peer.addresses: another cluster answers there.";
    UntrustedRoot = 313, Final, "The chain does not lead to a root of this trust domain's bundle.", "Did the peer lose its CA or rotate while apart? Re-join if so.";
    PathTooLong = 314, Final, "The chain is longer than its certificates allow.", "Only certificates issued by Strait's cluster CA may be used.";
    KeyRemoved = 315, Final, "A key in the chain was removed by its owner.", "The peer must issue from its current root.";
    ChainMalformed = 316, Final, "A certificate in the chain cannot be parsed or does not verify.", "Check what answers at this address.";
    BundleEmpty = 317, Final, "The trust domain's bundle is empty: everything of it is revoked.", "Re-join when the peer has a root again.";
    SequenceRollback = 318, Final, "A bundle update is older than the bundle held.", "Was the peer's state restored from an old backup? Re-join.";
    UpdateNotAuthorised = 319, Final, "A bundle update is not signed by a CA that may make this change.", "Re-join out of band if the old root is gone.";
    TrustPinned = 320, Transient, "The peer announced a new bundle, but static trust is Pinned.", "Update the bundle file, or set updates: Follow.";
    RotationPending = 321, Transient, "A root rotation waits for peers to acknowledge.", "See `strait rotate-root --status`; lagging peers are listed.";
    PeerLagging = 322, Transient, "This peer has not acknowledged our new root.", "Bring its link up, or force the rotation and re-join it.";
    FederationRemoved = 323, Final, "The Federation with this peer was removed.", "Nothing to do if that was meant.";
    FingerprintMismatch = 324, Final, "The server's root is not the one the token pins.", "Somebody may be in the middle, or the address leads to another cluster: make a new invite.";
    TlsFailed = 325, Final, "TLS failed for a reason outside the rules above.", "See the detail in the log.";
    CertificateRefused = 326, Final, "The other side refused our certificate.", "Run `strait check` and read the log there: it has no Federation with us, holds an old bundle of ours, or a clock is off.";

    // 400..499: join
    InviteUnknown = 400, Final, "No such invite.", "Make a new invite on the inviting side.";
    InviteExpired = 401, Final, "The invite has expired by the inviter's clock.", "Make a new invite.";
    InviteRevoked = 402, Final, "The invite was revoked.", "Make a new invite.";
    InviteBoundToOther = 403, Final, "Another cluster's key used this invite first.", "If that was not you: revoke it, check who had the token, make a new invite.";
    InviteSpent = 404, Final, "The invite was used up.", "Raise spec.trust.invite.serial for a new one.";
    ProofInvalid = 405, Final, "The join proof does not hold: wrong secret, altered token, or somebody in the middle.", "Paste the token again; make a new invite if it persists.";
    TokenInvalid = 406, Final, "The token cannot be decoded.", "Paste it whole, on one line.";
    ClusterIdTaken = 407, Final, "Another Federation already holds this ClusterId or trust domain.", "Give one cluster another id; ids are unique per clusterset.";
    TooManyAttempts = 408, Transient, "Too many join attempts from this source.", "Wait a minute.";
    JoinPending = 409, Transient, "The join is under way.", "Wait; it is retried until the token expires.";
    InviteOpen = 410, Transient, "An invite is open and waits for the other side.", "Run `strait join TOKEN` there.";
    SelfJoin = 411, Final, "The token was made by this very cluster.", "Use it on the other cluster.";

    // 500..599: exchange
    Syncing = 500, Transient, "The first sync is under way.", "Wait.";
    Stale = 501, Transient, "The peer is away; this is the last it said.", "Bring the link up; entries are dropped when their time runs out.";
    EpochTooOld = 502, Final, "The peer speaks from an older epoch than before.", "Was its state restored from an old backup? See the recovery page.";
    OverLimit = 503, Final, "The peer offers more than the limit; what was accepted stays.", "Raise the limit named in the message, or export less.";
    NotAllowed = 504, Final, "The importing side has no rule for this service.", "Add an import rule there; `strait get imports` shows the line.";
    NamespaceMissing = 505, Transient, "The importing side has no such namespace.", "Create the namespace there, or map with `as`.";
    NameTaken = 506, Final, "A wildcard rule would merge into a locally exported name.", "Name the service in an import rule to merge, or map it with `as`.";
    Withdrawn = 507, Transient, "The peer withdrew the service.", "Nothing to do if that was meant.";
    PeerExpired = 508, Transient, "The peer was away longer than its entries live.", "Bring the link up.";
    ProtocolViolation = 509, Final, "The peer broke the protocol of the exchange.", "Compare versions; report it if they match.";

    // 600..699: MCS conditions
    NoService = 600, Final, "The ServiceExport names no Service.", "Create the Service, or remove the ServiceExport.";
    InvalidServiceType = 601, Final, "Services of this type cannot be exported.", "Export a ClusterIP or headless Service.";
    Pending = 602, Transient, "Not processed yet.", "Wait.";
    Failed = 603, Final, "Exporting failed.", "See the message.";
    PortConflict = 604, Final, "Exporters give one port name or number two meanings.", "Align the ports; the oldest export wins meanwhile.";
    TypeConflict = 605, Final, "Exporters disagree on headless or not.", "Align the Services; the oldest export wins meanwhile.";
    SessionAffinityConflict = 606, Final, "Exporters disagree on session affinity.", "Align the Services; the oldest export wins meanwhile.";
    SessionAffinityConfigConflict = 607, Final, "Exporters disagree on the affinity timeout.", "Align the Services; the oldest export wins meanwhile.";
    LabelsConflict = 608, Final, "Exporters disagree on exported labels.", "Align them; the oldest export wins meanwhile.";
    AnnotationsConflict = 609, Final, "Exporters disagree on exported annotations.", "Align them; the oldest export wins meanwhile.";
    InternalTrafficPolicyConflict = 610, Final, "Exporters disagree on internalTrafficPolicy.", "Align the Services; the oldest export wins meanwhile.";
    TrafficDistributionConflict = 611, Final, "Exporters disagree on trafficDistribution.", "Align the Services; the oldest export wins meanwhile.";
    IPFamilyConflict = 612, Final, "One IP protocol would reach only part of the backends.", "Align the IP families.";
    IPFamilyNotSupported = 613, Final, "This cluster cannot serve the import's IP family.", "Enable the family here, or export another.";
    NotCovered = 614, Final, "A ServiceExport exists, but no export rule of any Federation covers it.", "Add the service to spec.exports of a Federation.";

    // 700..799: local
    PortNotBindable = 700, Final, "The VIP port cannot be bound by this user.", "Use the SOCKS listener, or allow low ports (CAP_NET_BIND_SERVICE).";
    PortTaken = 701, Final, "Another program listens on the VIP port.", "Stop it, or give Strait another VIP range.";
    VipRangeExhausted = 702, Final, "No free address is left in the VIP range.", "Widen spec.vipRange of the Cluster.";
    ConfigInvalid = 703, Final, "A manifest is invalid; the last good state stays in force.", "Run `strait validate` and fix what it lists.";
    RecordLost = 704, Final, "A record is missing or damaged.", "Run the command the message names; restore from backup if there is one.";
    CacheRebuilt = 705, Transient, "The cache was missing or damaged and is being rebuilt.", "Nothing to do.";
    SocketBufferSmall = 706, Transient, "The system granted a smaller UDP buffer than asked.", "Raise net.core.rmem_max and net.core.wmem_max.";
    StateLocked = 707, Final, "Another process holds the state directory.", "Stop it, or use another --state.";
    Internal = 799, Final, "A bug in Strait.", "Please report it with the log around it.";
}

impl Reason {
    /// After this refusal the sender may try another candidate, as long as the contract on payload allows.
    #[must_use]
    pub const fn is_retryable(self) -> bool {
        matches!(self.class(), Class::Transient)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl serde::Serialize for Reason {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.name())
    }
}

impl<'de> serde::Deserialize<'de> for Reason {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let name = std::borrow::Cow::<'de, str>::deserialize(d)?;
        Self::from_name(&name)
            .ok_or_else(|| serde::de::Error::custom(format_args!("unknown reason {name:?}")))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_and_codes_are_unique_and_round_trip() {
        let codes: BTreeSet<_> = Reason::ALL.iter().map(|r| r.code()).collect();
        let names: BTreeSet<_> = Reason::ALL.iter().map(|r| r.name()).collect();
        assert_eq!((codes.len(), names.len()), (Reason::ALL.len(), Reason::ALL.len()));
        for &reason in Reason::ALL {
            assert_eq!(Reason::from_code(reason.code()), Some(reason));
            assert_eq!(Reason::from_name(reason.name()), Some(reason));
        }
    }
}
