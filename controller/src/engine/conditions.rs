//! Conditions with the time since when they hold.
//!
//! Owns that memory only. Called when views are made.

use std::collections::BTreeMap;

use strait_federation_api::{
    Reason,
    view::{ConditionStatus, ConditionView},
};

/// When each condition of each object last changed its status.
#[derive(Debug, Default)]
pub(crate) struct Conditions {
    since: BTreeMap<(String, &'static str), (ConditionStatus, i64)>,
    /// Seen since the last [`Self::forget_unseen`].
    seen: BTreeMap<(String, &'static str), ()>,
}

impl Conditions {
    /// A condition of an object, as of `now` (Unix seconds).
    pub(crate) fn make(
        &mut self,
        object: &str,
        kind: &'static str,
        status: ConditionStatus,
        reason: Reason,
        message: impl Into<String>,
        now: i64,
    ) -> ConditionView {
        let key = (object.to_owned(), kind);
        self.seen.insert(key.clone(), ());
        let entry = self.since.entry(key).or_insert((status, now));
        if entry.0 != status {
            *entry = (status, now);
        }
        ConditionView {
            kind: kind.into(),
            status,
            reason,
            message: message.into(),
            since: entry.1,
        }
    }

    /// Forgets objects that no view showed since the last time.
    pub(crate) fn forget_unseen(&mut self) {
        let seen = std::mem::take(&mut self.seen);
        self.since.retain(|key, _| seen.contains_key(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_moves_with_the_status_only() {
        let mut conditions = Conditions::default();
        let mut at = |status, reason, now| conditions.make("west", "Synced", status, reason, "", now).since;
        assert_eq!(at(ConditionStatus::False, Reason::Syncing, 1), 1);
        assert_eq!(at(ConditionStatus::False, Reason::Stale, 2), 1);
        assert_eq!(at(ConditionStatus::True, Reason::Synced, 3), 3);
        conditions.forget_unseen();
        conditions.forget_unseen();
        let again = conditions.make("west", "Synced", ConditionStatus::True, Reason::Synced, "", 9);
        assert_eq!(again.since, 9, "a forgotten object begins anew");
    }
}
