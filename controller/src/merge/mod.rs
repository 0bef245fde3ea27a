//! Merge and conflict policy: what this cluster offers, what its peers offer and what its rules allow become imports, verdicts for
//! the peers and findings on own exports.
//!
//! Owns the policy of the Multi-Cluster Services API (KEP-1645, "Constraints and Conflict Resolution") with Strait's default deny
//! in front. Pure: the same input gives the same output, and every cluster that sees the same exports reaches the same verdict.
//! Never allots an address and never talks to a peer. Called by the controller's engine.

mod findings;
mod group;
mod ports;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use strait_federation_api::{
    ClusterId, Namespace, Reason, ServiceKey, TrustDomain,
    catalog::{
        Catalog, InternalTrafficPolicy, IpFamily, Member, OfferedService, Protocol, ServiceKind, ServicePort,
        SessionAffinity,
    },
    exchange::{Refusal, Verdict},
    resources::{Conflicts, ImportDecision, ImportRules, Weight, import_rule_for},
    snapshot::{Backend, BackendCluster, BackendMember, Import},
};

pub use findings::{ExportFindings, Finding};
use group::Candidate;

/// Local endpoints come before any peer's default of 1.
const LOCAL_PRIORITY: u16 = 0;

/// Everything a merge looks at.
#[derive(Debug, Clone, Copy)]
pub struct MergeInput<'a> {
    /// Our own Strait trust domain: the tie-breaker between exports of one age.
    pub trust_domain: &'a TrustDomain,
    /// Every local ServiceExport, valid or not.
    pub exports: &'a BTreeMap<ServiceKey, OwnExport>,
    /// Every Federation with a known peer, in any order.
    pub peers: &'a [PeerInput<'a>],
    /// Namespaces that exist here; `None` where namespaces are only names (files).
    pub namespaces: Option<&'a BTreeSet<Namespace>>,
}

/// One local ServiceExport.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnExport {
    /// What is offered, with ready counts; or why it cannot be (`NoService`, `InvalidServiceType`, ...).
    pub state: Result<Arc<OfferedService>, Refusal>,
    /// Peers whose export rules cover it.
    pub offered_to: BTreeSet<ClusterId>,
}

/// One peer.
#[derive(Debug, Clone, Copy)]
pub struct PeerInput<'a> {
    /// Who.
    pub cluster: &'a ClusterId,
    /// Its Strait trust domain.
    pub trust_domain: &'a TrustDomain,
    /// What we hold of its catalog.
    pub catalog: &'a Catalog,
    /// It is the last word of a peer that is away.
    pub stale: bool,
    /// `spec.mode: Suspended`: its imports are withdrawn.
    pub suspended: bool,
    /// `spec.conflicts`.
    pub conflicts: Conflicts,
    /// `spec.imports`.
    pub rules: &'a ImportRules,
    /// What it said about our exports.
    pub feedback: &'a imbl::OrdMap<ServiceKey, Verdict>,
}

/// What a merge decides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MergeOutput {
    /// Services reachable here, by local name.
    pub imports: imbl::OrdMap<ServiceKey, Arc<MergedImport>>,
    /// For each peer a verdict on each object held of it. Suspended peers have none.
    pub verdicts: BTreeMap<ClusterId, imbl::OrdMap<ServiceKey, Verdict>>,
    /// Findings on every local ServiceExport.
    pub exports: BTreeMap<ServiceKey, ExportFindings>,
}

/// One import before addresses are allotted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MergedImport {
    /// Local namespace and name.
    pub service: ServiceKey,
    /// Type of the oldest export.
    pub kind: ServiceKind,
    /// Union of the ports: the oldest export's in its order, then what others add.
    pub ports: Vec<ServicePort>,
    /// Affinity of the oldest export; unset when headless.
    pub session_affinity: SessionAffinity,
    /// Of the oldest export; unset stays unset.
    pub internal_traffic_policy: Option<InternalTrafficPolicy>,
    /// Of the oldest export; unset stays unset.
    pub traffic_distribution: Option<Arc<str>>,
    /// Of the oldest export: one VIP for each, in this order, unless headless.
    pub ip_families: Vec<IpFamily>,
    /// Exported labels of the oldest export.
    pub labels: BTreeMap<String, String>,
    /// Exported annotations of the oldest export.
    pub annotations: BTreeMap<String, String>,
    /// Clusters that serve it: local first, then by ClusterId.
    pub backends: Vec<MergedBackend>,
    /// On what its exporters disagree.
    pub conflicts: BTreeSet<Reason>,
}

/// One cluster that serves an import, before member addresses are allotted. Fields as in [`Backend`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MergedBackend {
    /// Where.
    pub cluster: BackendCluster,
    /// Name there.
    pub remote: ServiceKey,
    /// Lower first.
    pub priority: u16,
    /// Share within one priority.
    pub weight: u16,
    /// Ports it exports exactly as the import has them.
    pub ports: Vec<(Protocol, u16)>,
    /// Endpoints ready there.
    pub ready: u32,
    /// Zone there.
    pub locality: Option<Arc<str>>,
    /// Members; empty unless the import is headless.
    pub members: Vec<Member>,
    /// Ports whose requests may be sent twice.
    pub replayable_ports: Vec<u16>,
    /// The peer is out of reach.
    pub stale: bool,
}

impl MergedImport {
    /// The snapshot's import. `vips` are the virtual addresses of the import, `backend_vips` gives those that lead to one
    /// cluster only (none when headless), `member_address` the one that leads to a remote member from here (`None` leaves the
    /// member out); local members keep their own.
    pub fn to_import(
        &self,
        vips: Vec<IpAddr>,
        mut backend_vips: impl FnMut(&BackendCluster, &ServiceKey) -> Vec<IpAddr>,
        mut member_address: impl FnMut(&ClusterId, &ServiceKey, &Member) -> Option<IpAddr>,
    ) -> Import {
        let backends = self.backends.iter().map(|b| {
            let address = |member: &Member| {
                let address = match &b.cluster {
                    BackendCluster::Local => Some(member.ip),
                    BackendCluster::Peer(peer) => member_address(peer, &b.remote, member),
                }?;
                Some(BackendMember {
                    member: member.clone(),
                    address,
                })
            };
            Backend {
                cluster: b.cluster.clone(),
                remote: b.remote.clone(),
                priority: b.priority,
                weight: b.weight,
                ports: b.ports.clone(),
                ready: b.ready,
                locality: b.locality.clone(),
                members: b.members.iter().filter_map(address).collect(),
                vips: backend_vips(&b.cluster, &b.remote),
                replayable_ports: b.replayable_ports.clone(),
                stale: b.stale,
            }
        });
        Import {
            service: self.service.clone(),
            kind: self.kind,
            ports: self.ports.clone(),
            vips,
            session_affinity: self.session_affinity,
            backends: backends.collect(),
        }
    }
}

/// Merges everything. See the module for what it promises.
#[must_use]
pub fn merge(input: &MergeInput<'_>) -> MergeOutput {
    let mut groups: BTreeMap<ServiceKey, Vec<Candidate<'_>>> = BTreeMap::new();
    for (key, export) in input.exports {
        if let Ok(offer) = &export.state {
            groups
                .entry(key.clone())
                .or_default()
                .push(local_candidate(input, offer));
        }
    }
    let mut verdicts = BTreeMap::new();
    for peer in input.peers.iter().filter(|p| !p.suspended) {
        let refused = admit(input, peer, &mut groups);
        verdicts.insert(peer.cluster.clone(), refused);
    }
    let mut imports = imbl::OrdMap::new();
    let mut own_conflicts = BTreeMap::new();
    for (key, candidates) in groups {
        let merged = group::merge_group(&key, candidates);
        for (cluster, service, verdict) in merged.verdicts {
            verdicts.entry(cluster).or_default().insert(service, verdict);
        }
        if let Some(own) = merged.own {
            own_conflicts.insert(key.clone(), own);
        }
        imports.insert(key, Arc::new(merged.import));
    }
    MergeOutput {
        imports,
        verdicts,
        exports: findings::findings(input, &own_conflicts),
    }
}

fn local_candidate<'a>(input: &MergeInput<'a>, offer: &'a Arc<OfferedService>) -> Candidate<'a> {
    Candidate {
        cluster: None,
        trust_domain: input.trust_domain,
        offer,
        priority: LOCAL_PRIORITY,
        weight: Weight::default().get(),
        stale: false,
        yields_to_local: false,
    }
}

/// Sorts a peer's objects into groups by local name; returns the verdicts on those that go into none.
fn admit<'a>(
    input: &MergeInput<'a>,
    peer: &PeerInput<'a>,
    groups: &mut BTreeMap<ServiceKey, Vec<Candidate<'a>>>,
) -> imbl::OrdMap<ServiceKey, Verdict> {
    let mut refused = imbl::OrdMap::new();
    for (service, offer) in peer.catalog {
        match place(input, peer, service) {
            Ok((local, priority, weight)) => groups.entry(local).or_default().push(Candidate {
                cluster: Some(peer.cluster),
                trust_domain: peer.trust_domain,
                offer,
                priority,
                weight,
                stale: peer.stale,
                yields_to_local: peer.conflicts == Conflicts::PreferLocal,
            }),
            Err(verdict) => {
                refused.insert(service.clone(), verdict);
            }
        }
    }
    refused
}

/// The local name, priority and weight of a peer's object, or why it has none.
fn place(
    input: &MergeInput<'_>,
    peer: &PeerInput<'_>,
    service: &ServiceKey,
) -> Result<(ServiceKey, u16, u16), Verdict> {
    let ImportDecision::Allowed {
        as_key,
        priority,
        weight,
        by_wildcard,
        ..
    } = peer.rules.decide(service)
    else {
        let rule = import_rule_for(service);
        let words = format!("no import rule there covers it; this one would: {rule}");
        return Err(Verdict::refused(Reason::NotAllowed, words));
    };
    // Any ServiceExport of the name protects it, also one whose Service is missing for a moment.
    if by_wildcard && input.exports.contains_key(&as_key) {
        let words = format!(
            "{as_key} is exported there itself and a rule with * never merges; name the service in a rule"
        );
        return Err(Verdict::refused(Reason::NameTaken, words));
    }
    if input
        .namespaces
        .is_some_and(|all| !all.contains(&as_key.namespace))
    {
        let words = format!("namespace {} does not exist there", as_key.namespace);
        return Err(Verdict::refused(Reason::NamespaceMissing, words));
    }
    Ok((as_key, priority, weight))
}
