//! What people see: every object with its conditions.
//!
//! Owns the words of conditions on imports and the cluster; those on Federations are in `view_federations.rs`, those on exports come
//! from the merge. Built after each
//! settlement. Never read back to decide anything. Holds no secret.

use std::sync::Arc;

use strait_federation_api::{
    ClusterId, Reason, ServiceKey,
    catalog::IpFamily,
    resources::import_rule_for,
    snapshot::Import,
    view::{
        ConditionStatus, ConditionView, ControllerView, ExportView, ImportView, ImportsView, OfferView,
        VerdictView,
    },
};

use super::{
    Engine, compile,
    settle::{EXHAUSTED, Settled},
};
use crate::{
    join::view_of,
    merge::{ExportFindings, Finding},
    vip::Owner,
};

/// A condition before its time is looked up.
pub(super) struct Says {
    kind: &'static str,
    status: ConditionStatus,
    reason: Reason,
    message: String,
}

impl Says {
    pub(super) fn new(kind: &'static str, holds: bool, reason: Reason, message: impl Into<String>) -> Self {
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
        let version = self.out.snapshot.borrow().version;
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
        self.out.view.send_if_modified(|held| {
            let changed = **held != view;
            if changed {
                *held = Arc::new(view);
            }
            changed
        });
    }

    pub(super) fn state(&mut self, object: &str, says: Vec<Says>, now: i64) -> Vec<ConditionView> {
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
        let snapshot = Arc::clone(&self.out.snapshot.borrow());
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

pub(super) fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
