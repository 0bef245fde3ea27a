//! Metadata every object has, and conditions.
//!
//! Owns the part of `metav1.ObjectMeta` we read and `metav1.Condition` in full. Unknown metadata is tolerated: objects exported
//! with kubectl carry more than we read. Called by manifest and by everything that writes a status.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Reason, view::ConditionStatus};

/// What the API server adds to metadata and we read past; anything else unknown is taken for a misspelt field.
pub(crate) const META_PASSED_OVER: &[&str] = &[
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// `metadata` of a manifest.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Meta {
    /// Name.
    #[serde(default)]
    pub name: String,
    /// Namespace; `None` means `default` for namespaced kinds.
    #[serde(default)]
    pub namespace: Option<String>,
    /// Labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

/// `metav1.Condition`. `reason` is text because one condition may carry several reasons, joined by commas.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
pub struct Condition {
    /// Type, unique within one status.
    #[serde(rename = "type")]
    pub kind: String,
    /// True, False or Unknown.
    #[cfg_attr(feature = "crd", schemars(with = "String", extend("enum" = ["True", "False", "Unknown"])))]
    pub status: ConditionStatus,
    /// Generation of the object this speaks about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// When `status` last changed.
    #[cfg_attr(feature = "crd", schemars(with = "String", extend("format" = "date-time")))]
    pub last_transition_time: jiff::Timestamp,
    /// Names of [`Reason`], joined by commas.
    pub reason: String,
    /// For people; may be empty.
    pub message: String,
}

impl Condition {
    /// A condition with one reason.
    #[must_use]
    pub fn new(
        kind: &str,
        status: ConditionStatus,
        reason: Reason,
        message: impl Into<String>,
        now: jiff::Timestamp,
    ) -> Self {
        Self {
            kind: kind.to_owned(),
            status,
            observed_generation: None,
            last_transition_time: now,
            reason: reason.name().to_owned(),
            message: message.into(),
        }
    }

    /// Puts `self` into `list`, keeping the transition time when the status did not change. True when anything changed.
    pub fn apply(mut self, list: &mut Vec<Self>) -> bool {
        match list.iter_mut().find(|c| c.kind == self.kind) {
            Some(old) => {
                if old.status == self.status {
                    self.last_transition_time = old.last_transition_time;
                }
                let changed = *old != self;
                *old = self;
                changed
            }
            None => {
                list.push(self);
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transition_time_moves_only_with_the_status() {
        let at = |s| jiff::Timestamp::from_second(s).unwrap();
        let make = |status, reason, t| Condition::new("Ready", status, reason, "", at(t));
        let mut list = Vec::new();
        assert!(make(ConditionStatus::False, Reason::Pending, 1).apply(&mut list));
        assert!(!make(ConditionStatus::False, Reason::Pending, 2).apply(&mut list));
        assert!(make(ConditionStatus::False, Reason::Failed, 3).apply(&mut list));
        assert_eq!(list[0].last_transition_time, at(1));
        assert!(make(ConditionStatus::True, Reason::Ready, 4).apply(&mut list));
        assert_eq!((list.len(), list[0].last_transition_time), (1, at(4)));
    }
}
