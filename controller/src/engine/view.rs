//! What people see: every object with its conditions.
//!
//! Owns the words of conditions on Federations, imports and the cluster; those on exports come from the merge. Built after each
//! settlement. Never read back to decide anything. Holds no secret.

use std::sync::Arc;

use strait_federation_api::{
    ClusterId, Reason, ServiceKey,
    catalog::IpFamily,
    exchange::ExchangeStatus,
    resources::{Federation, Trust, import_rule_for},
    snapshot::{Import, PeerMode},
    view::{
        ConditionStatus, ConditionView, ControllerView, ExportView, FederationView, ImportView, ImportsView,
        OfferView, VerdictView,
    },
};

use super::{
    Engine, Peering, compile,
    settle::{Active, EXHAUSTED, Settled, imports_from},
};
use crate::{
    join::view_of,
    merge::{ExportFindings, Finding},
    trust::TrustRecord,
    vip::Owner,
};

/// A condition before its time is looked up.
struct Says {
    kind: &'static str,
    status: ConditionStatus,
    reason: Reason,
    message: String,
}

impl Says {
    fn new(kind: &'static str, holds: bool, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            kind,
            status: if holds {
                ConditionStatus::True
            } else {
                ConditionStatus::False
            },
            reason,
            message: message.into(),
        }
    }

    fn of(kind: &'static str, finding: &Finding) -> Self {
        let first = finding.reasons.first().copied().unwrap_or(Reason::Internal);
        let message = match finding.reasons.len() {
            0 | 1 => finding.message.clone(),
            _ => format!("{}: {}", finding.reason_text(), finding.message),
        };
        Self {
            kind,
            status: finding.status,
            reason: first,
            message,
        }
    }
}

impl Engine {
    /// Builds the view and publishes it if it changed.
    pub(super) fn publish_view(&mut self, settled: &Settled, now: u64) {
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        let version = self.snapshot.borrow().version;
        let view = ControllerView {
            cluster: self.cluster.id.clone(),
            trust_domain: self.authority.ca().trust_domain().clone(),
            epoch: self.epoch,
            version,
            conditions: self.cluster_conditions(now),
            federations: self.federation_views(settled, now),
            exports: self.export_views(settled, now),
            imports: self.imports_view(settled, now),
            invites: self.invites.iter().map(view_of).collect(),
            rotation: self.authority.rotation_view(&self.peer_domains()),
        };
        self.conditions.forget_unseen();
        self.view.send_if_modified(|held| {
            let changed = **held != view;
            if changed {
                *held = Arc::new(view);
            }
            changed
        });
    }

    fn state(&mut self, object: &str, says: Vec<Says>, now: i64) -> Vec<ConditionView> {
        let state = |s: Says| {
            self.conditions
                .make(object, s.kind, s.status, s.reason, s.message, now)
        };
        says.into_iter().map(state).collect()
    }

    fn cluster_conditions(&mut self, now: i64) -> Vec<ConditionView> {
        let config = match (&self.renamed_to, self.source.broken) {
            (Some(other), _) => Says::new(
                "ConfigValid",
                false,
                Reason::ConfigInvalid,
                format!(
                    "the Cluster manifest is named '{other}', this is '{}': a ClusterId cannot change",
                    self.cluster.id
                ),
            ),
            (None, true) => {
                let findings = &self.source.findings;
                let first = findings.first().map_or_else(String::new, ToString::to_string);
                let text = format!(
                    "{} errors; the last good state stays in force; first: {first}",
                    findings.len()
                );
                Says::new("ConfigValid", false, Reason::ConfigInvalid, text)
            }
            (None, false) => Says::new("ConfigValid", true, Reason::Valid, ""),
        };
        let mut says = vec![config];
        if let Some(why) = &self.cache_rebuilt {
            says.push(Says::new("CacheValid", false, Reason::CacheRebuilt, why.as_str()));
        }
        self.state("Cluster", says, now)
    }

    fn federation_views(&mut self, settled: &Settled, now: i64) -> Vec<FederationView> {
        let set = self.set();
        let views: Vec<_> = set
            .federations
            .values()
            .map(|federation| self.federation_view(federation, settled))
            .collect();
        views
            .into_iter()
            .map(|(mut view, says)| {
                view.conditions = self.state(&format!("Federation {}", view.name), says, now);
                view
            })
            .collect()
    }

    fn federation_view(&self, federation: &Federation, settled: &Settled) -> (FederationView, Vec<Says>) {
        let record = self.trusted.of_federation(&federation.name);
        let cluster = record
            .map(|record| record.peer.cluster())
            .or_else(|| federation.peer_cluster())
            .cloned();
        let nothing = Peering::default();
        let peering = cluster
            .as_ref()
            .and_then(|cluster| self.peerings.get(cluster))
            .unwrap_or(&nothing);
        let active = settled.active.iter().find(|(f, _)| f.name == federation.name);
        let offered = peering.held.catalog.len();
        let imported = cluster
            .as_ref()
            .and_then(|cluster| settled.merged.verdicts.get(cluster))
            .map_or(0, |verdicts| {
                verdicts.values().filter(|verdict| verdict.accepted).count()
            });
        let exported = settled
            .offers
            .keys()
            .filter(|key| federation.spec.exports.covers(key))
            .count();
        let addresses = record.map_or_else(
            || federation.addresses(),
            |record| Self::addresses_of(federation, record),
        );
        let view = FederationView {
            name: federation.name.to_string(),
            trust_domain: record.map(|record| record.peer.trust_domain().clone()),
            trust: federation.spec.trust.kind().into(),
            mode: federation.spec.mode,
            addresses: addresses.iter().map(ToString::to_string).collect(),
            link: peering.link.clone(),
            offered: count(offered),
            imported: count(imported),
            exported: count(if active.is_some() { exported } else { 0 }),
            synced: peering.synced_at,
            bundle_sequence: record.map(|record| record.peer.bundle().sequence()),
            conditions: Vec::new(),
            cluster,
        };
        let says = match active {
            Some(active) => vec![
                self.trusted_says(active, peering),
                connected(active, peering, settled),
                synced(active, peering),
            ],
            None => {
                let waits = "there is no trust yet";
                vec![
                    self.untrusted_says(federation, record),
                    Says::new("Connected", false, Reason::JoinPending, waits),
                    Says::new("Synced", false, Reason::JoinPending, waits),
                ]
            }
        };
        (view, says)
    }

    fn trusted_says(&self, (federation, record): &Active, peering: &Peering) -> Says {
        if let Some((reason, why)) = self.troubles.get(&federation.name) {
            return Says::new("Trusted", false, *reason, why.as_str());
        }
        if let Some(refusal) = &peering.bundle_refused {
            return Says::new(
                "Trusted",
                false,
                refusal.reason,
                format!("the peer does not take our bundle: {}", refusal.message),
            );
        }
        if self.authority.is_lagging(record.peer.trust_domain()) {
            return Says::new(
                "Trusted",
                true,
                Reason::PeerLagging,
                "the peer has not acknowledged our new root yet",
            );
        }
        Says::new("Trusted", true, Reason::Trusted, "")
    }

    /// Why there is no trust (yet).
    fn untrusted_says(&self, federation: &Federation, record: Option<&TrustRecord>) -> Says {
        if let Some((reason, why)) = self.troubles.get(&federation.name) {
            return Says::new("Trusted", false, *reason, why.as_str());
        }
        if record.is_some() {
            let text = "the joiner has proven the secret; waiting for its control connection";
            return Says::new("Trusted", false, Reason::JoinPending, text);
        }
        match &federation.spec.trust {
            Trust::Invite(_) => match self.invites.get(&federation.name).map(view_of) {
                Some(invite) => Says::new("Trusted", false, invite.state, invite.state.remedy()),
                None => Says::new("Trusted", false, Reason::Pending, "the invite is not made yet"),
            },
            Trust::Join(_) => match self
                .joins
                .get(&federation.name)
                .and_then(|join| join.last.as_ref())
            {
                Some((reason, detail)) => Says::new("Trusted", false, *reason, detail.as_str()),
                None => Says::new("Trusted", false, Reason::JoinPending, "joining"),
            },
            Trust::Static(_) => Says::new("Trusted", false, Reason::Pending, "the bundle is not read yet"),
        }
    }

    fn export_views(&mut self, settled: &Settled, now: i64) -> Vec<ExportView> {
        let views: Vec<_> = settled
            .merged
            .exports
            .iter()
            .map(|(key, findings)| self.export_view(key, findings, settled))
            .collect();
        views
            .into_iter()
            .map(|(mut view, says)| {
                view.conditions = self.state(&format!("ServiceExport {}", view.service), says, now);
                view
            })
            .collect()
    }

    fn export_view(
        &self,
        key: &ServiceKey,
        findings: &ExportFindings,
        settled: &Settled,
    ) -> (ExportView, Vec<Says>) {
        let offer = settled.offers.get(key);
        let verdict = |(peer, verdict): (&ClusterId, &Option<strait_federation_api::exchange::Verdict>)| {
            let (reason, message) = match verdict {
                None => (Reason::Pending, String::new()),
                Some(v) => {
                    let fallback = if v.accepted {
                        Reason::Accepted
                    } else {
                        Reason::Failed
                    };
                    (
                        v.reasons.first().copied().unwrap_or(fallback),
                        v.message.to_string(),
                    )
                }
            };
            VerdictView {
                cluster: peer.clone(),
                reason,
                message,
            }
        };
        let view = ExportView {
            service: key.clone(),
            kind: offer.map(|offer| offer.kind),
            ports: offer.map(|offer| offer.ports.clone()).unwrap_or_default(),
            ready: offer.map_or(0, |offer| offer.ready),
            peers: findings.peers.iter().map(verdict).collect(),
            conditions: Vec::new(),
        };
        let says = vec![
            Says::of("Valid", &findings.valid),
            Says::of("Ready", &findings.ready),
            Says::of("Conflict", &findings.conflict),
        ];
        (view, says)
    }

    fn imports_view(&mut self, settled: &Settled, now: i64) -> ImportsView {
        let snapshot = Arc::clone(&self.snapshot.borrow());
        let views: Vec<_> = snapshot
            .imports
            .values()
            .map(|import| (view_of_import(import), self.import_says(import, settled)))
            .collect();
        let imports = views
            .into_iter()
            .map(|(mut view, says)| {
                view.conditions = self.state(&format!("ServiceImport {}", view.service), says, now);
                view
            })
            .collect();
        ImportsView {
            imports,
            offers: offers(settled),
        }
    }

    fn import_says(&self, import: &Import, settled: &Settled) -> Vec<Says> {
        let merged = settled.merged.imports.get(&import.service);
        let conflict = match merged.map(|merged| &merged.conflicts) {
            Some(conflicts) if !conflicts.is_empty() => {
                let names: Vec<_> = conflicts.iter().map(|reason| reason.name()).collect();
                let first = conflicts.first().copied().unwrap_or(Reason::Internal);
                Says::new(
                    "Conflict",
                    true,
                    first,
                    format!("exporters disagree: {}", names.join(",")),
                )
            }
            _ => Says::new("Conflict", false, Reason::NoConflicts, ""),
        };
        let mut says = vec![self.import_ready(import, settled), conflict];
        says.extend(self.not_listening(import));
        says
    }

    fn import_ready(&self, import: &Import, settled: &Settled) -> Says {
        let mine = |(owner, _): &&(Owner, IpFamily)| match owner {
            Owner::Service(key) | Owner::Cluster(key, _) | Owner::Member(key, ..) => *key == import.service,
        };
        if let Some((owner, _)) = settled.exhausted.iter().find(mine) {
            let ranges: Vec<_> = self
                .cluster
                .spec
                .vip_range
                .nets()
                .iter()
                .map(ToString::to_string)
                .collect();
            let text = format!("no address is left for {owner} in {}", ranges.join(", "));
            return Says::new("Ready", false, EXHAUSTED, text);
        }
        let ranges = self.cluster.spec.vip_range.nets();
        let merged = settled.merged.imports.get(&import.service);
        let families = merged
            .map(|merged| compile::served(merged, ranges))
            .unwrap_or_default();
        let headless = import.kind == strait_federation_api::catalog::ServiceKind::Headless;
        if families.is_empty() && !headless {
            return Says::new(
                "Ready",
                false,
                Reason::IPFamilyNotSupported,
                "spec.vipRange has no range of its IP family",
            );
        }
        match import.backends.iter().map(|backend| backend.ready).sum::<u32>() {
            0 => Says::new(
                "Ready",
                true,
                Reason::NoBackend,
                "no cluster has a ready endpoint now",
            ),
            _ => Says::new("Ready", true, Reason::Ready, ""),
        }
    }

    /// Ports that no listener serves: SOCKS still does.
    fn not_listening(&self, import: &Import) -> Option<Says> {
        let failed = import
            .vips
            .iter()
            .flat_map(|vip| import.ports.iter().map(move |port| (*vip, port.port)));
        let failed: Vec<_> = failed
            .filter_map(|(vip, port)| {
                let bound = self.listeners.get(&(import.service.clone(), vip, port))?;
                bound
                    .as_ref()
                    .err()
                    .map(|error| (error.reason, format!("{vip}:{port}: {}", error.detail)))
            })
            .collect();
        let (reason, _) = *failed.first().map(|(reason, text)| (*reason, text)).as_ref()?;
        let words: Vec<_> = failed.into_iter().map(|(_, text)| text).collect();
        Some(Says::new(
            "Listening",
            false,
            reason,
            format!("{}; SOCKS serves it", words.join(", ")),
        ))
    }
}

fn connected((federation, record): &Active, peering: &Peering, settled: &Settled) -> Says {
    let says = |holds, reason, text: String| Says::new("Connected", holds, reason, text);
    match federation.spec.mode {
        PeerMode::Suspended => {
            return says(
                false,
                Reason::PeerSuspended,
                Reason::PeerSuspended.remedy().into(),
            );
        }
        PeerMode::Drain | PeerMode::Active => {}
    }
    let control = peering.remote.is_some() && peering.status.as_ref().is_some_and(|status| status.connected);
    let importing = imports_from(&settled.merged, record.peer.cluster());
    let tunnels = peering.link.usable_tunnels;
    if control && (tunnels > 0 || !importing) {
        if federation.spec.mode == PeerMode::Drain {
            return says(
                true,
                Reason::PeerDraining,
                "takes no new streams (spec.mode: Drain)".into(),
            );
        }
        return says(
            true,
            Reason::Connected,
            format!("control and {tunnels} data tunnels"),
        );
    }
    if control {
        return says(
            false,
            Reason::NoTunnel,
            "control is up, no data tunnel yet".into(),
        );
    }
    match &peering.link.last_error {
        Some((reason, detail)) => says(false, *reason, detail.clone()),
        None if Engine::addresses_of(federation, record).is_empty() => says(
            false,
            Reason::NoAddress,
            "the peer has no address to dial and has not dialled in".into(),
        ),
        None => says(false, Reason::Dialling, "no control connection yet".into()),
    }
}

fn synced((federation, _): &Active, peering: &Peering) -> Says {
    let says = |holds, reason, text: String| Says::new("Synced", holds, reason, text);
    if federation.spec.mode == PeerMode::Suspended {
        return says(false, Reason::PeerSuspended, "the exchange is closed".into());
    }
    let Some(status) = &peering.status else {
        return says(
            false,
            if peering.stale {
                Reason::Stale
            } else {
                Reason::Syncing
            },
            "nothing was heard yet".into(),
        );
    };
    if let Some(refusal) = &status.outdated {
        return says(false, refusal.reason, refusal.message.to_string());
    }
    if let Some((service, refusal)) = status.refused.first() {
        let text = format!(
            "{} services are not taken; {service}: {}",
            status.refused.len(),
            refusal.message
        );
        return says(false, refusal.reason, text);
    }
    if status.synced {
        return says(true, Reason::Synced, format!("{} services", status.held));
    }
    match status.stale {
        true if status.held > 0 => says(false, Reason::Stale, stale_words(status)),
        _ => says(false, Reason::Syncing, Reason::Syncing.remedy().into()),
    }
}

fn stale_words(status: &ExchangeStatus) -> String {
    match status.expires_in {
        Some(left) => format!(
            "{} services as last told; they are dropped in {} h",
            status.held,
            left.as_secs().div_ceil(3600)
        ),
        None => format!("{} services as last told", status.held),
    }
}

fn view_of_import(import: &Import) -> ImportView {
    ImportView {
        service: import.service.clone(),
        kind: import.kind,
        ports: import.ports.clone(),
        vips: import.vips.clone(),
        backends: import.backends.clone(),
        conditions: Vec::new(),
    }
}

/// What peers offer and no rule lets in, with the line that would.
fn offers(settled: &Settled) -> Vec<OfferView> {
    let mut offers = Vec::new();
    for (cluster, verdicts) in &settled.merged.verdicts {
        let federation = settled
            .active
            .iter()
            .find(|(_, record)| record.peer.cluster() == cluster);
        let name = federation.map_or_else(String::new, |(federation, _)| federation.name.to_string());
        for (service, verdict) in verdicts.iter().filter(|(_, verdict)| !verdict.accepted) {
            offers.push(OfferView {
                cluster: cluster.clone(),
                service: service.clone(),
                reason: verdict.reasons.first().copied().unwrap_or(Reason::NotAllowed),
                rule: format!(
                    "{}   # under spec.imports of the Federation '{name}'",
                    import_rule_for(service)
                ),
            });
        }
    }
    offers
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
