//! Bounds on what a peer may say, and the rules one offered service must keep.
//!
//! Owns every number of the exchange that protects the reader. Never decides what happens over a bound beyond naming it: the
//! machine refuses the one object and keeps what it had. Called by the decoder, the receiving half and the sending half.

use std::{collections::BTreeSet, time::Duration};

use super::message::{Gateways, Refusal};
use crate::{
    Reason,
    catalog::{OfferedService, ServiceKind, SessionAffinity},
    snapshot::GatewayAddress,
};

/// Bytes of one message on the wire. A service with 1,000 members and full metadata stays under a quarter of it; the transport
/// must be told the same number (`max_decoding_message_size`), for it refuses before we see anything.
pub const MESSAGE_MAX: usize = 512 * 1024;
/// Gateway addresses a peer may advertise: CONTRACTS, "Port and connections".
pub const ADDRESSES_MAX: usize = 16;
/// Gateway instances a peer may advertise: four per address is more than a load balancer fronts in practice.
pub const INSTANCES_MAX: usize = 64;
/// Bytes of a host name: the limit of DNS (RFC 1035 section 2.3.4) in text form.
pub const HOST_MAX: usize = 253;
/// Bytes of a text for people in a nack or verdict; longer ones are cut.
pub const TEXT_MAX: usize = 1024;
/// Reasons in one verdict: the standard knows nine conflicts.
pub const REASONS_MAX: usize = 16;
/// Bytes of one bundle envelope: a SPIFFE bundle of some tens of roots with its chain and signature.
pub const ENVELOPE_MAX: usize = 256 * 1024;
/// Bytes of a qualified name (label keys, `appProtocol`): prefix of 253, a slash, a name of 63.
pub const QUALIFIED_MAX: usize = 317;
/// Bytes of a label value: Kubernetes' own limit.
pub const LABEL_VALUE_MAX: usize = 63;
/// Bytes of a zone name: it is a label value in Kubernetes, some clouds outside are wordier.
pub const LOCALITY_MAX: usize = 253;
/// Seconds of ClientIP affinity: one day, the limit of the Service API.
pub const AFFINITY_TIMEOUT_MAX: u32 = 86_400;
/// Last second of year 9999: a creation time beyond it cannot be written as RFC 3339.
pub const CREATED_MAX: i64 = 253_402_300_799;

/// How long entries live while control and all data tunnels are down: over a long night, under two.
pub const EXPIRE_AFTER: Duration = Duration::from_hours(24);

/// Bounds on one peer. What was accepted under a bound stays when the bound is met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Services held of one peer.
    pub objects: usize,
    /// Bytes held of one peer, by [`offer_bytes`].
    pub catalog_bytes: usize,
    /// Ports of one service.
    pub ports: usize,
    /// Members of one headless service.
    pub members: usize,
    /// Bytes of labels and annotations of one service together.
    pub metadata_bytes: usize,
    /// Messages read per second in the long run; reading pauses above it.
    pub messages_per_second: u32,
    /// Messages read at once after a quiet time.
    pub message_burst: u32,
    /// How long entries live while control and all data tunnels to the peer are down.
    pub expire_after: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            objects: 10_000,
            // Ten thousand ordinary services take some 5 MB; this is where a peer starts to weigh on the process.
            catalog_bytes: 64 << 20,
            ports: 128,
            members: 1_000,
            // Kubernetes allows 256 KiB of annotations; a peer's have no business being that long.
            metadata_bytes: 32 << 10,
            // Ten times what rolling restarts of a large catalog cause; a full sync lives off the burst.
            messages_per_second: 1_000,
            message_burst: 20_000,
            expire_after: EXPIRE_AFTER,
        }
    }
}

impl Limits {
    /// The widest bounds that still fit [`MESSAGE_MAX`]: what a sender holds its own objects to, not knowing the peer's bounds.
    #[must_use]
    pub fn widest() -> Self {
        Self {
            objects: usize::MAX,
            catalog_bytes: usize::MAX,
            ports: 500,
            members: 1_000,
            metadata_bytes: 64 << 10,
            messages_per_second: u32::MAX,
            message_burst: u32::MAX,
            expire_after: Duration::MAX,
        }
    }
}

/// A rough, cheap weight of one service in bytes: enough to bound memory, and the same on every run.
#[must_use]
pub fn offer_bytes(offer: &OfferedService) -> usize {
    /// Map node, key and string headers of one service.
    const BASE: usize = 512;
    /// One port with its name.
    const PORT: usize = 128;
    /// One member with id and hostname.
    const MEMBER: usize = 224;
    BASE + offer.ports.len() * PORT + offer.members.len() * MEMBER + metadata_bytes(offer)
}

/// Labels and annotations with what the wire adds to each, so that many empty ones cannot slip under the bound.
fn metadata_bytes(offer: &OfferedService) -> usize {
    /// Tags and lengths of one map entry.
    const ENTRY: usize = 12;
    let all = offer.labels.iter().chain(&offer.annotations);
    all.map(|(k, v)| k.len() + v.len() + ENTRY).sum()
}

/// Name of the one bound that operators raise.
pub(super) const OBJECTS: &str = "services";

/// Holds one service to the bounds and to the rules of the standard.
///
/// # Errors
/// [`Reason::OverLimit`] names the bound, [`Reason::Malformed`] the rule.
pub fn check_offer(offer: &OfferedService, limits: &Limits) -> Result<(), Refusal> {
    over("ports", offer.ports.len(), limits.ports)?;
    over("members", offer.members.len(), limits.members)?;
    over("metadataBytes", metadata_bytes(offer), limits.metadata_bytes)?;
    check_ports(offer)?;
    check_strings(offer)?;
    check_members(offer)?;
    check_families(offer)?;
    if !(0..=CREATED_MAX).contains(&offer.created) {
        return malformed("creation time is outside the years 1970 to 9999");
    }
    if let SessionAffinity::ClientIp {
        timeout_seconds: Some(seconds),
    } = offer.session_affinity
        && !(1..=AFFINITY_TIMEOUT_MAX).contains(&seconds)
    {
        return malformed("affinity timeout is outside 1..=86400 seconds");
    }
    Ok(())
}

fn malformed(rule: &str) -> Result<(), Refusal> {
    Err(Refusal::new(Reason::Malformed, rule))
}

/// Refuses `found > limit` and says how to get on.
pub(super) fn over(bound: &str, found: usize, limit: usize) -> Result<(), Refusal> {
    if found <= limit {
        return Ok(());
    }
    let remedy = if bound == OBJECTS {
        "raise spec.limits.servicesPerPeer of the Cluster there, or export less"
    } else {
        "this bound is fixed: export less"
    };
    Err(Refusal::new(
        Reason::OverLimit,
        format!("{found} {bound} is over the importing side's limit of {limit}; {remedy}"),
    ))
}

fn check_ports(offer: &OfferedService) -> Result<(), Refusal> {
    let mut names = BTreeSet::new();
    let mut numbers = BTreeSet::new();
    for port in &offer.ports {
        if port.port == 0 {
            return malformed("port 0 does not exist");
        }
        if !numbers.insert((port.protocol, port.port)) {
            return malformed("two ports share protocol and number");
        }
        match &port.name {
            Some(name) if !names.insert(name) => return malformed("two ports share a name"),
            None if offer.ports.len() > 1 => return malformed("ports need names when there are several"),
            _ => {}
        }
    }
    if offer.replayable_ports.len() > offer.ports.len() {
        return malformed("more replayable ports than ports");
    }
    Ok(())
}

fn check_strings(offer: &OfferedService) -> Result<(), Refusal> {
    let short = |s: &str, max: usize| s.len() <= max && !s.chars().any(char::is_control);
    let app = offer.ports.iter().filter_map(|p| p.app_protocol.as_deref());
    if !app
        .chain(offer.traffic_distribution.as_deref())
        .all(|s| short(s, QUALIFIED_MAX))
    {
        return malformed("appProtocol or trafficDistribution is too long or not printable");
    }
    if !offer.locality.iter().all(|s| short(s, LOCALITY_MAX)) {
        return malformed("locality is too long or not printable");
    }
    let label = |(k, v): (&String, &String)| short(k, QUALIFIED_MAX) && short(v, LABEL_VALUE_MAX);
    if !offer.labels.iter().all(label) {
        return malformed("a label is too long or not printable");
    }
    // Annotation values are free text; only their sum is bounded.
    if !offer.annotations.keys().all(|k| short(k, QUALIFIED_MAX)) {
        return malformed("an annotation key is too long or not printable");
    }
    Ok(())
}

fn check_members(offer: &OfferedService) -> Result<(), Refusal> {
    if offer.kind != ServiceKind::Headless && !offer.members.is_empty() {
        return malformed("only a headless service has members");
    }
    let mut ids = BTreeSet::new();
    if !offer.members.iter().all(|m| ids.insert(&m.id)) {
        return malformed("two members share an id");
    }
    Ok(())
}

fn check_families(offer: &OfferedService) -> Result<(), Refusal> {
    let distinct: BTreeSet<_> = offer.ip_families.iter().collect();
    if distinct.len() == offer.ip_families.len() {
        Ok(())
    } else {
        malformed("an IP family is listed twice")
    }
}

/// Splits advertised gateways into what may be dialled and what is refused, with words. `allow_loopback` is for clusters that
/// share a machine.
#[must_use]
pub fn check_gateways(gateways: Gateways, allow_loopback: bool) -> (Gateways, Vec<String>) {
    let mut refused = Vec::new();
    let mut addresses = Vec::new();
    for address in gateways.addresses {
        match check_address(&address, allow_loopback) {
            Ok(()) if addresses.len() < ADDRESSES_MAX => addresses.push(address),
            Ok(()) => refused.push(format!("more than {ADDRESSES_MAX} addresses")),
            Err(why) => refused.push(format!("{}:{}: {why}", address.host, address.port)),
        }
    }
    let mut instances = gateways.instances;
    if instances.len() > INSTANCES_MAX {
        refused.push(format!("more than {INSTANCES_MAX} instances"));
        instances.truncate(INSTANCES_MAX);
    }
    (Gateways { addresses, instances }, refused)
}

/// Whether a peer may make us dial this. A name is judged again by the dialler when it resolves.
///
/// # Errors
/// The rule in words.
pub fn check_address(address: &GatewayAddress, allow_loopback: bool) -> Result<(), &'static str> {
    if address.port == 0 {
        return Err("port 0 does not exist");
    }
    let Ok(ip) = address.host.parse::<std::net::IpAddr>() else {
        return check_host(&address.host, allow_loopback);
    };
    let (loopback, link_local) = match ip.to_canonical() {
        std::net::IpAddr::V4(ip) => (ip.is_loopback(), ip.is_link_local() || ip.is_broadcast()),
        std::net::IpAddr::V6(ip) => (ip.is_loopback(), ip.is_unicast_link_local()),
    };
    if ip.to_canonical().is_unspecified() || ip.to_canonical().is_multicast() {
        Err("not the address of a host")
    } else if (loopback || link_local) && !allow_loopback {
        Err("loopback and link-local addresses are not dialled")
    } else {
        Ok(())
    }
}

fn check_host(host: &str, allow_loopback: bool) -> Result<(), &'static str> {
    let name = host.strip_suffix('.').unwrap_or(host);
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !l.starts_with('-')
    };
    if host.len() > HOST_MAX || !name.split('.').all(label) {
        return Err("neither an IP address nor a DNS name");
    }
    let last = name.rsplit('.').next().unwrap_or(name);
    if last.eq_ignore_ascii_case("localhost") && !allow_loopback {
        return Err("loopback and link-local addresses are not dialled");
    }
    Ok(())
}

/// Cuts a text for people at [`TEXT_MAX`] bytes, on a character, and takes control characters out of it.
#[must_use]
pub fn clean_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len().min(TEXT_MAX));
    for c in text.chars() {
        let c = if c.is_control() { ' ' } else { c };
        if out.len() + c.len_utf8() > TEXT_MAX {
            break;
        }
        out.push(c);
    }
    out
}

/// A token bucket: how fast a peer's messages are read.
#[derive(Debug, Clone)]
pub(super) struct Rate {
    /// Messages that may be read now.
    tokens: f64,
    /// When `tokens` was right.
    at: std::time::Instant,
}

impl Rate {
    /// Full.
    pub(super) fn new(limits: &Limits, now: std::time::Instant) -> Self {
        Self {
            tokens: f64::from(limits.message_burst),
            at: now,
        }
    }

    /// Counts one message that was read. A `heavy` one, which costs its reader a signature check or a write to disk, counts as much as
    /// a second of ordinary ones: a burst of them passes, then one a second.
    pub(super) fn take(&mut self, limits: &Limits, heavy: bool, now: std::time::Instant) {
        let cost = if heavy {
            f64::from(limits.messages_per_second.max(1))
        } else {
            1.0
        };
        let gained =
            now.saturating_duration_since(self.at).as_secs_f64() * f64::from(limits.messages_per_second);
        self.tokens = (self.tokens + gained).min(f64::from(limits.message_burst)) - cost;
        self.at = now.max(self.at);
    }

    /// When the next message may be read, if not at once.
    pub(super) fn ready_at(&self, limits: &Limits) -> Option<std::time::Instant> {
        (self.tokens < 0.0).then(|| {
            let wait = -self.tokens / f64::from(limits.messages_per_second.max(1));
            self.at + Duration::from_secs_f64(wait)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Limits, Rate};

    #[test]
    fn heavy_messages_are_soon_held_back_to_one_a_second() {
        let (limits, start) = (Limits::default(), Instant::now());
        let mut rate = Rate::new(&limits, start);
        let burst = limits.message_burst / limits.messages_per_second;
        (0..burst).for_each(|_| rate.take(&limits, true, start));
        assert_eq!(
            rate.ready_at(&limits),
            None,
            "a rotation of roots is never slowed"
        );
        rate.take(&limits, true, start);
        let ready = rate.ready_at(&limits).map(|at| at - start);
        assert!(
            ready.is_some_and(|wait| wait > Duration::from_millis(900)),
            "{ready:?}"
        );
    }
}
