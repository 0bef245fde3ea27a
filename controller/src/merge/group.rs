//! One name: all who export it, ranked by age, become one import.

use std::{collections::BTreeSet, sync::Arc};

use strait_federation_api::{
    ClusterId, Reason, ServiceKey, TrustDomain,
    catalog::{InternalTrafficPolicy, OfferedService, ServiceKind, SessionAffinity},
    exchange::Verdict,
    snapshot::BackendCluster,
};

use super::{MergedBackend, MergedImport, ports};

/// Seconds of ClientIP affinity where none are stated: the Service API's default.
const AFFINITY_TIMEOUT_DEFAULT: u32 = 10_800;

/// One export of a name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate<'a> {
    /// `None`: ours.
    pub(super) cluster: Option<&'a ClusterId>,
    pub(super) trust_domain: &'a TrustDomain,
    pub(super) offer: &'a Arc<OfferedService>,
    pub(super) priority: u16,
    pub(super) weight: u16,
    pub(super) stale: bool,
    /// `conflicts: PreferLocal`: it never wins over ours.
    pub(super) yields_to_local: bool,
}

/// What became of one name.
pub(super) struct Merged {
    pub(super) import: MergedImport,
    /// One for each candidate of a peer.
    pub(super) verdicts: Vec<(ClusterId, ServiceKey, Verdict)>,
    /// The same for ours, if we export it.
    pub(super) own: Option<Verdict>,
}

/// Merges all exports of one name. `candidates` is not empty.
pub(super) fn merge_group(key: &ServiceKey, mut candidates: Vec<Candidate<'_>>) -> Merged {
    rank(&mut candidates);
    let union = ports::union(candidates.iter().map(|c| c.offer.ports.as_slice()));
    let oldest = candidates[0].offer;
    let conflicts = conflicts(&candidates);
    let mut verdicts = Vec::new();
    let mut own = None;
    for (place, candidate) in candidates.iter().enumerate() {
        let verdict = Verdict {
            accepted: true,
            reasons: conflicts.iter().copied().collect(),
            message: words(
                &conflicts,
                place,
                &ports::overruled(&union, &candidate.offer.ports),
            )
            .into(),
        };
        match candidate.cluster {
            Some(cluster) => verdicts.push((cluster.clone(), candidate.offer.service.clone(), verdict)),
            None => own = Some(verdict),
        }
    }
    let mut backends: Vec<_> = candidates
        .iter()
        .map(|c| backend(c, oldest.kind, &union))
        .collect();
    backends.sort_by(|a, b| (&a.cluster, &a.remote).cmp(&(&b.cluster, &b.remote)));
    let headless = oldest.kind == ServiceKind::Headless;
    let import = MergedImport {
        service: key.clone(),
        kind: oldest.kind,
        ports: union,
        session_affinity: if headless {
            SessionAffinity::Unset
        } else {
            oldest.session_affinity
        },
        internal_traffic_policy: oldest.internal_traffic_policy,
        traffic_distribution: oldest.traffic_distribution.clone(),
        ip_families: oldest.ip_families.clone(),
        labels: oldest.labels.clone(),
        annotations: oldest.annotations.clone(),
        backends,
        conflicts,
    };
    Merged {
        import,
        verdicts,
        own,
    }
}

/// Oldest first: creation time, then trust domain, then name at its owner. By choice, ours before peers that yield to it.
fn rank(candidates: &mut [Candidate<'_>]) {
    candidates.sort_by(|a, b| age(a).cmp(&age(b)));
    let Some(ours) = candidates.iter().position(|c| c.cluster.is_none()) else {
        return;
    };
    // Those before ours that yield move behind it; the order among them and among the others stays.
    candidates[..=ours].sort_by_key(|c| c.yields_to_local);
}

fn age<'a>(c: &Candidate<'a>) -> (i64, &'a TrustDomain, &'a ServiceKey) {
    (c.offer.created, c.trust_domain, &c.offer.service)
}

fn backend(
    candidate: &Candidate<'_>,
    kind: ServiceKind,
    union: &[strait_federation_api::catalog::ServicePort],
) -> MergedBackend {
    let offer = candidate.offer;
    MergedBackend {
        cluster: candidate
            .cluster
            .map_or(BackendCluster::Local, |c| BackendCluster::Peer(c.clone())),
        remote: offer.service.clone(),
        priority: candidate.priority,
        weight: candidate.weight,
        ports: ports::exact(union, &offer.ports),
        ready: offer.ready,
        locality: offer.locality.clone(),
        members: match kind {
            ServiceKind::Headless => offer.members.clone(),
            ServiceKind::ClusterSetIp => Vec::new(),
        },
        replayable_ports: offer.replayable_ports.clone(),
        stale: candidate.stale,
    }
}

/// On what the exporters disagree. The standard puts a conflict on every constituent, so it belongs to the group.
fn conflicts(candidates: &[Candidate<'_>]) -> BTreeSet<Reason> {
    let Some((oldest, rest)) = candidates.split_first() else {
        return BTreeSet::new();
    };
    rest.iter()
        .flat_map(|c| disagreements(oldest.offer, c.offer))
        .collect()
}

/// Every reason why `b` cannot be merged into `a` without loss. What is unset counts as what it means.
fn disagreements(a: &OfferedService, b: &OfferedService) -> Vec<Reason> {
    let mut found = Vec::new();
    let mut note = |differs: bool, reason| found.extend(differs.then_some(reason));
    note(ports::differ(&a.ports, &b.ports), Reason::PortConflict);
    note(a.kind != b.kind, Reason::TypeConflict);
    // Affinity is meaningless without a virtual address.
    if a.kind == ServiceKind::ClusterSetIp && b.kind == ServiceKind::ClusterSetIp {
        match (timeout(a), timeout(b)) {
            (Some(a), Some(b)) => note(a != b, Reason::SessionAffinityConfigConflict),
            (a, b) => note(a != b, Reason::SessionAffinityConflict),
        }
    }
    note(a.labels != b.labels, Reason::LabelsConflict);
    note(a.annotations != b.annotations, Reason::AnnotationsConflict);
    note(
        local_only(a) != local_only(b),
        Reason::InternalTrafficPolicyConflict,
    );
    note(
        a.traffic_distribution != b.traffic_distribution,
        Reason::TrafficDistributionConflict,
    );
    note(families_differ(a, b), Reason::IPFamilyConflict);
    found
}

/// Seconds of ClientIP affinity, `None` without affinity.
const fn timeout(offer: &OfferedService) -> Option<u32> {
    match offer.session_affinity {
        SessionAffinity::Unset | SessionAffinity::None => None,
        SessionAffinity::ClientIp {
            timeout_seconds: None,
        } => Some(AFFINITY_TIMEOUT_DEFAULT),
        SessionAffinity::ClientIp { timeout_seconds } => timeout_seconds,
    }
}

fn local_only(offer: &OfferedService) -> bool {
    offer.internal_traffic_policy == Some(InternalTrafficPolicy::Local)
}

/// One protocol would reach only part of the backends. An owner that states no family says nothing.
fn families_differ(a: &OfferedService, b: &OfferedService) -> bool {
    let set = |o: &OfferedService| o.ip_families.iter().copied().collect::<BTreeSet<_>>();
    let (a, b) = (set(a), set(b));
    !a.is_empty() && !b.is_empty() && a != b
}

/// What one exporter should know of the conflicts. Names no cluster: it may go to a peer of ours about another peer.
fn words(conflicts: &BTreeSet<Reason>, place: usize, overruled: &[String]) -> String {
    if conflicts.is_empty() {
        return String::new();
    }
    let mut parts = Vec::new();
    let others = conflicts.iter().filter(|r| **r != Reason::PortConflict).count();
    if others > 0 && place == 0 {
        parts.push("exporters disagree; this export is the one in force".to_owned());
    } else if others > 0 {
        parts.push("exporters disagree; another export is in force, for it is older or preferred".to_owned());
    }
    if conflicts.contains(&Reason::PortConflict) {
        parts.push(match overruled {
            [] => "ports differ; all ports of this export are served".to_owned(),
            list => format!("ports differ; not served from this export: {}", list.join(", ")),
        });
    }
    parts.join("; ")
}
