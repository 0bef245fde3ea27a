//! Our joins with tokens of others, as records.
//!
//! Owns one attempt per Federation, and its task while it is pending. Called by the engine.

use std::{collections::BTreeMap, sync::Arc};

use strait_federation_api::{Reason, TrustDomain, resources::FederationName};
use strait_trust_bridge::{InviteId, JoinToken, TrustError, join::JoinAttempt};
use tokio::task::JoinHandle;

use super::JoinRecord;
use crate::{
    ControllerError,
    records::{Record, RecordName, Records},
};

/// Every join.
pub(crate) struct Joins {
    records: Arc<Records>,
    held: BTreeMap<FederationName, JoinRecord>,
    running: BTreeMap<FederationName, Running>,
}

/// The task of a pending join; ends with its owner.
pub(crate) struct Running(pub(crate) JoinHandle<()>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Joins {
    /// Loads the records. Blocking.
    pub(crate) fn open(records: Arc<Records>) -> Result<Self, ControllerError> {
        let mut held = BTreeMap::new();
        for name in records.names() {
            if name.of_kind(JoinRecord::KIND).is_some()
                && let Some(record) = records.load::<JoinRecord>(&name)?
            {
                held.insert(record.federation.clone(), record);
            }
        }
        Ok(Self {
            records,
            held,
            running: BTreeMap::new(),
        })
    }

    /// The join of a Federation.
    pub(crate) fn get(&self, federation: &FederationName) -> Option<&JoinRecord> {
        self.held.get(federation)
    }

    /// Every join, by Federation.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &JoinRecord> {
        self.held.values()
    }

    /// Begins a join, or goes on with it if it is the same token: key and token are durable before a byte is sent. Blocking.
    pub(crate) fn begin(
        &mut self,
        federation: &FederationName,
        token: JoinToken,
        own: &TrustDomain,
    ) -> Result<(), ControllerError> {
        let invite = token.invite();
        if self
            .held
            .get(federation)
            .is_some_and(|record| record.invite == invite)
        {
            return Ok(());
        }
        self.running.remove(federation);
        let attempt = JoinAttempt::new(token, own).map_err(|error| match error {
            TrustError::OwnTrustDomain(_) => ControllerError::refused(
                Reason::SelfJoin,
                "this token was made by this very cluster; use it on the other one",
            ),
            other => other.into(),
        })?;
        self.put(JoinRecord {
            federation: federation.clone(),
            invite,
            attempt: Some(attempt),
            last: None,
        })
    }

    /// The pending attempt of a Federation.
    pub(crate) fn pending(&self, federation: &FederationName) -> Option<(&JoinAttempt, InviteId)> {
        let record = self.held.get(federation)?;
        let attempt = record
            .attempt
            .as_ref()
            .filter(|attempt| attempt.token().is_ok())?;
        Some((attempt, record.invite))
    }

    /// Notes why a try ended; a final end erases the token. Blocking.
    pub(crate) fn note(
        &mut self,
        federation: &FederationName,
        reason: Reason,
        detail: String,
        is_final: bool,
    ) -> Result<(), ControllerError> {
        let Some(mut record) = self.held.get(federation).cloned() else {
            return Ok(());
        };
        let last = Some((reason, detail));
        if !is_final && record.last == last {
            return Ok(());
        }
        record.last = last;
        if is_final {
            record.attempt = None;
            // The task may be the caller: it ends by itself.
            return self.put(record);
        }
        // What a try said is for people: only its end is worth a write.
        self.held.insert(federation.clone(), record);
        Ok(())
    }

    /// Forgets the join of a Federation. Blocking.
    pub(crate) fn forget(&mut self, federation: &FederationName) -> Result<(), ControllerError> {
        self.running.remove(federation);
        if self.held.remove(federation).is_some() {
            self.records.remove(&name_of(federation)?)?;
        }
        Ok(())
    }

    /// Whether its task runs.
    pub(crate) fn is_running(&self, federation: &FederationName) -> bool {
        self.running
            .get(federation)
            .is_some_and(|task| !task.0.is_finished())
    }

    /// Keeps the task of a pending join.
    pub(crate) fn keep(&mut self, federation: FederationName, task: Running) {
        self.running.insert(federation, task);
    }

    fn put(&mut self, record: JoinRecord) -> Result<(), ControllerError> {
        self.records.save(&name_of(&record.federation)?, &record)?;
        self.held.insert(record.federation.clone(), record);
        Ok(())
    }
}

fn name_of(federation: &FederationName) -> Result<RecordName, ControllerError> {
    RecordName::joining(federation.as_str())
        .map_err(|rule| ControllerError::refused(Reason::ConfigInvalid, rule))
}
