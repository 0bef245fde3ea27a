//! Findings on own ServiceExports: the standard's conditions, from our own merge and the peers' verdicts.
//!
//! Only the exporter judges its exports; what peers say is evidence.

use std::collections::{BTreeMap, BTreeSet};

use strait_federation_api::{
    ClusterId, Reason, ServiceKey,
    exchange::{Refusal, Verdict},
    resources::export_rule_for,
    view::ConditionStatus,
};

use super::{MergeInput, OwnExport};

/// One condition without its times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Holds?
    pub status: ConditionStatus,
    /// Why, at least one; several only for conflicts.
    pub reasons: Vec<Reason>,
    /// For people; may name our own peers.
    pub message: String,
}

impl Finding {
    fn new(status: ConditionStatus, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            status,
            reasons: vec![reason],
            message: message.into(),
        }
    }

    /// The condition's `reason`: names joined by commas, as the standard allows for conflicts.
    #[must_use]
    pub fn reason_text(&self) -> String {
        let names: Vec<_> = self.reasons.iter().map(|r| r.name()).collect();
        names.join(",")
    }
}

/// The three conditions of a ServiceExport.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportFindings {
    /// It names a Service that can be exported.
    pub valid: Finding,
    /// It was pushed to and taken by at least one peer.
    pub ready: Finding,
    /// Exporters of the name disagree, here or at a peer.
    pub conflict: Finding,
    /// What each peer it is offered to says; `None`: nothing yet.
    pub peers: BTreeMap<ClusterId, Option<Verdict>>,
}

/// Findings on every own export. `own` holds our merge's verdict on each valid one.
pub(super) fn findings(
    input: &MergeInput<'_>,
    own: &BTreeMap<ServiceKey, Verdict>,
) -> BTreeMap<ServiceKey, ExportFindings> {
    let one = |(key, export): (&ServiceKey, &OwnExport)| {
        let findings = match &export.state {
            Ok(_) => valid(input, key, export, own.get(key)),
            Err(refusal) => invalid(refusal),
        };
        (key.clone(), findings)
    };
    input.exports.iter().map(one).collect()
}

fn invalid(refusal: &Refusal) -> ExportFindings {
    ExportFindings {
        valid: Finding::new(ConditionStatus::False, refusal.reason, &*refusal.message),
        ready: Finding::new(ConditionStatus::False, Reason::Failed, &*refusal.message),
        conflict: Finding::new(ConditionStatus::False, Reason::NoConflicts, ""),
        peers: BTreeMap::new(),
    }
}

fn valid(
    input: &MergeInput<'_>,
    key: &ServiceKey,
    export: &OwnExport,
    own: Option<&Verdict>,
) -> ExportFindings {
    let offered = input
        .peers
        .iter()
        .filter(|p| export.offered_to.contains(p.cluster) && !p.suspended);
    let peers: BTreeMap<_, _> = offered
        .map(|p| (p.cluster.clone(), p.feedback.get(key).cloned()))
        .collect();
    ExportFindings {
        valid: Finding::new(ConditionStatus::True, Reason::Valid, ""),
        ready: ready(key, export, &peers),
        conflict: conflict(own, &peers),
        peers,
    }
}

fn ready(key: &ServiceKey, export: &OwnExport, peers: &BTreeMap<ClusterId, Option<Verdict>>) -> Finding {
    if export.offered_to.is_empty() {
        let words = format!(
            "no export rule of any Federation covers it; this one would: {}",
            export_rule_for(key)
        );
        return Finding::new(ConditionStatus::False, Reason::NotCovered, words);
    }
    let refusals: Vec<_> = peers
        .iter()
        .filter_map(|(peer, verdict)| Some((peer, verdict.as_ref().filter(|v| !v.accepted)?)))
        .collect();
    let list: Vec<_> = refusals
        .iter()
        .map(|(peer, v)| format!("{peer}: {}", reasons_of(v)))
        .collect();
    let accepted = peers.values().flatten().filter(|v| v.accepted).count();
    if accepted > 0 {
        let mut words = format!("accepted by {accepted} of {} peers", peers.len());
        if !list.is_empty() {
            words = format!("{words}; not by {}", list.join(", "));
        }
        return Finding::new(ConditionStatus::True, Reason::Exported, words);
    }
    match refusals.first() {
        Some((_, verdict)) if refusals.len() == peers.len() => {
            let reason = verdict.reasons.first().copied().unwrap_or(Reason::Failed);
            Finding::new(
                ConditionStatus::False,
                reason,
                format!("not accepted by {}", list.join(", ")),
            )
        }
        _ => Finding::new(
            ConditionStatus::False,
            Reason::Pending,
            "no peer has answered yet",
        ),
    }
}

fn conflict(own: Option<&Verdict>, peers: &BTreeMap<ClusterId, Option<Verdict>>) -> Finding {
    let mut reasons = BTreeSet::new();
    let mut words = Vec::new();
    if let Some(own) = own.filter(|v| !v.reasons.is_empty()) {
        reasons.extend(own.reasons.iter().copied());
        words.push(own.message.to_string());
    }
    for (peer, verdict) in peers {
        let Some(verdict) = verdict.as_ref().filter(|v| v.accepted) else {
            continue;
        };
        // Words a peer may put into our conditions are the conflicts of the standard, nothing else.
        let found: Vec<_> = verdict
            .reasons
            .iter()
            .copied()
            .filter(|r| is_conflict(*r))
            .collect();
        if !found.is_empty() {
            words.push(format!("{peer}: {}", verdict.message));
        }
        reasons.extend(found);
    }
    if reasons.is_empty() {
        return Finding::new(ConditionStatus::False, Reason::NoConflicts, "");
    }
    Finding {
        status: ConditionStatus::True,
        reasons: reasons.into_iter().collect(),
        message: words.join("; "),
    }
}

fn reasons_of(verdict: &Verdict) -> String {
    let names: Vec<_> = verdict.reasons.iter().map(|r| r.name()).collect();
    names.join(",")
}

/// The conflicts the standard knows.
const fn is_conflict(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::PortConflict
            | Reason::TypeConflict
            | Reason::SessionAffinityConflict
            | Reason::SessionAffinityConfigConflict
            | Reason::LabelsConflict
            | Reason::AnnotationsConflict
            | Reason::InternalTrafficPolicyConflict
            | Reason::TrafficDistributionConflict
            | Reason::IPFamilyConflict
    )
}
