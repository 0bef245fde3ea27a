//! Which cluster serves a stream, and which come next.
//!
//! Owns the order: priority groups, weights within one, returning backends by their share, stale and empty ones last. Never sends
//! traffic to a cluster that does not export exactly that protocol and port.

use strait_federation_api::{
    ClusterId, Reason,
    catalog::{EndpointId, Protocol},
    snapshot::{Backend, BackendCluster, Import},
};

use crate::{FULL_SHARE, hash::unit, stable_hash};

/// What a stream asks for.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// The service.
    pub import: &'a Import,
    /// Protocol of the port.
    pub protocol: Protocol,
    /// Service port.
    pub port: u16,
    /// Only this cluster will do.
    pub only: Option<&'a BackendCluster>,
    /// Only this member of a headless service will do.
    pub member: Option<&'a EndpointId>,
    /// Key of the client, where the service has session affinity.
    pub affinity: Option<u64>,
}

/// The way to a peer now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerPath {
    /// Its Federation is active and a tunnel takes streams.
    Usable,
    /// No tunnel takes streams.
    NoTunnel,
    /// Its Federation is in Drain.
    Draining,
    /// Its Federation is suspended, or there is none (any more).
    Suspended,
}

/// Candidates, best first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice<'a> {
    /// Each cluster at most once.
    pub candidates: Vec<&'a Backend>,
    /// What to say when there is none, or none is left: the obstacle nearest to working.
    pub obstacle: Reason,
}

/// How willingly a backend is used, best first. Within one class priority counts, then the draw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    InUse,
    /// Coming back and not drawn this time: a reserve.
    Returning,
    Stale,
    /// Told us it has nothing ready. That word may be old, and asking costs one round trip.
    Empty,
}

/// Orders the backends of an import for one stream.
///
/// `path` tells the way to a peer; `share` takes in whether a backend can be used and returns its percentage
/// ([`crate::Recovery::observe`]); it is called once for every backend that serves the port.
pub fn choose<'a>(
    ask: Ask<'a>,
    path: impl Fn(&ClusterId) -> PeerPath,
    mut share: impl FnMut(&'a Backend, bool) -> u8,
    rng: &mut fastrand::Rng,
) -> Choice<'a> {
    let mut obstacle = Reason::NoBackend;
    let mut ranked = Vec::with_capacity(ask.import.backends.len());
    for backend in &ask.import.backends {
        if !serves(backend, &ask) {
            continue;
        }
        let way = match &backend.cluster {
            BackendCluster::Local => PeerPath::Usable,
            BackendCluster::Peer(peer) => path(peer),
        };
        let usable = way == PeerPath::Usable;
        let percent = share(backend, usable && backend.ready > 0 && !backend.stale);
        if usable {
            ranked.push(rank(backend, ask.affinity, percent, rng));
        } else {
            obstacle = nearer(obstacle, way);
        }
    }
    ranked.sort_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)).then(a.2.total_cmp(&b.2)));
    Choice {
        candidates: ranked.into_iter().map(|(_, _, _, backend)| backend).collect(),
        obstacle,
    }
}

fn serves(backend: &Backend, ask: &Ask<'_>) -> bool {
    let pinned = ask.only.is_some();
    backend.ports.contains(&(ask.protocol, ask.port))
        && ask.only.is_none_or(|only| *only == backend.cluster)
        && (pinned || backend.weight > 0)
        && ask
            .member
            .is_none_or(|id| backend.members.iter().any(|m| m.member.id == *id))
}

/// Class, priority and draw. The draw of -ln(u)/weight, smallest first, is a weighted choice without replacement; with `u` from
/// the client's key it is weighted rendezvous hashing, so affinity holds across clusters too.
fn rank<'a>(
    backend: &'a Backend,
    affinity: Option<u64>,
    percent: u8,
    rng: &mut fastrand::Rng,
) -> (Class, u16, f64, &'a Backend) {
    let u = affinity.map_or_else(
        || unit(rng.u64(..)),
        |key| unit(stable_hash(key, cluster_text(&backend.cluster).as_bytes())),
    );
    // A second, independent draw decides whether a returning backend counts; by key, so that a client moves once, not back and forth.
    let drawn = affinity.map_or_else(
        || rng.u8(..FULL_SHARE),
        |key| (stable_hash(!key, cluster_text(&backend.cluster).as_bytes()) % u64::from(FULL_SHARE)) as u8,
    );
    let class = if backend.ready == 0 {
        Class::Empty
    } else if backend.stale {
        Class::Stale
    } else if drawn < percent {
        Class::InUse
    } else {
        Class::Returning
    };
    (
        class,
        backend.priority,
        -u.ln() / f64::from(backend.weight.max(1)),
        backend,
    )
}

fn cluster_text(cluster: &BackendCluster) -> &str {
    match cluster {
        // Not a label, so no peer can be called that.
        BackendCluster::Local => "(local)",
        BackendCluster::Peer(id) => id.as_str(),
    }
}

/// Of two obstacles the one an operator should hear of: what needs the smallest change to work.
fn nearer(held: Reason, way: PeerPath) -> Reason {
    let reason = match way {
        PeerPath::Usable => return held,
        PeerPath::NoTunnel => Reason::NoTunnel,
        PeerPath::Draining => Reason::PeerDraining,
        PeerPath::Suspended => Reason::PeerSuspended,
    };
    let distance = |reason: Reason| match reason {
        Reason::NoTunnel => 0,
        Reason::PeerDraining => 1,
        Reason::PeerSuspended => 2,
        _ => 3,
    };
    if distance(reason) < distance(held) {
        reason
    } else {
        held
    }
}

#[cfg(test)]
mod tests;
