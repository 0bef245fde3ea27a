//! What this cluster exports.
//!
//! Owns the exports of one set of resources with their identity and age, and what each peer may see of them. Pure. Called by the
//! engine.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use strait_federation_api::{
    ClusterId, ServiceKey, Uid,
    catalog::{Catalog, EndpointId, OfferedService},
    manifest::{ExportProblem, ExportedService, ResourceSet, exported_services},
    resources::ExportRules,
    snapshot::Export,
};

use super::health::Health;
use crate::records::types::{Born, OwnExports};

/// The exports of one set of resources.
#[derive(Debug, Default)]
pub(crate) struct LocalExports {
    /// Every ServiceExport: what it exports, or why nothing.
    pub(crate) exports: BTreeMap<ServiceKey, Result<ExportedService, ExportProblem>>,
}

impl LocalExports {
    pub(crate) fn of(set: &ResourceSet) -> Self {
        Self {
            exports: exported_services(set),
        }
    }

    /// Exports that are valid.
    pub(crate) fn valid(&self) -> impl Iterator<Item = (&ServiceKey, &ExportedService)> {
        self.exports
            .iter()
            .filter_map(|(key, export)| Some((key, export.as_ref().ok()?)))
    }

    /// Endpoints of every valid export.
    pub(crate) fn endpoints(&self) -> BTreeMap<ServiceKey, BTreeSet<EndpointId>> {
        let ids = |export: &ExportedService| {
            export
                .ports
                .iter()
                .flat_map(|port| &port.endpoints)
                .map(|endpoint| endpoint.id.clone())
                .collect()
        };
        self.valid()
            .map(|(key, export)| (key.clone(), ids(export)))
            .collect()
    }

    /// Everything that could be offered, as it is now.
    pub(crate) fn offers(&self, own: &OwnExports, zone: Option<&Arc<str>>, health: &Health) -> Catalog {
        self.valid()
            .filter_map(|(key, export)| {
                let born = own.exports.get(key)?;
                let healthy = |endpoint: &EndpointId| health.is_healthy(key, endpoint);
                let offer: OfferedService =
                    export.offered(born.uid.clone(), born.created, zone.cloned(), healthy);
                Some((key.clone(), Arc::new(offer)))
            })
            .collect()
    }

    /// The snapshot's exports: each open to the peers whose rules cover it.
    pub(crate) fn snapshot_exports(
        &self,
        rules: &BTreeMap<ClusterId, &ExportRules>,
    ) -> BTreeMap<ServiceKey, Export> {
        self.valid()
            .map(|(key, export)| {
                let allowed = rules
                    .iter()
                    .filter(|(_, rules)| rules.covers(key))
                    .map(|(peer, _)| peer.clone());
                (key.clone(), export.export(allowed.collect()))
            })
            .collect()
    }
}

/// What one peer may see: an export rule covers it.
pub(crate) fn visible(offers: &Catalog, rules: &ExportRules) -> Catalog {
    offers
        .iter()
        .filter(|(key, _)| rules.covers(key))
        .map(|(key, offer)| (key.clone(), Arc::clone(offer)))
        .collect()
}

/// Gives identity and age to exports seen for the first time and forgets those that are gone. Gives whether the record changed.
pub(crate) fn note_births(
    own: &mut OwnExports,
    present: &BTreeSet<ServiceKey>,
    now: i64,
    mut new_uid: impl FnMut() -> Option<Uid>,
) -> bool {
    let before = own.exports.len();
    own.exports.retain(|key, _| present.contains(key));
    let mut changed = own.exports.len() != before;
    for key in present {
        if !own.exports.contains_key(key)
            && let Some(uid) = new_uid()
        {
            own.exports.insert(key.clone(), Born { uid, created: now });
            changed = true;
        }
    }
    changed
}

/// A random UID in the form of Kubernetes' own. `None` when the system has no randomness: the next look tries again.
pub(crate) fn random_uid() -> Option<Uid> {
    use aws_lc_rs::rand::{SecureRandom, SystemRandom};
    let mut random = [0; 16];
    SystemRandom::new().fill(&mut random).ok()?;
    let hex = data_encoding::HEXLOWER.encode(&random);
    let parts = [
        hex.get(..8)?,
        hex.get(8..12)?,
        hex.get(12..16)?,
        hex.get(16..20)?,
        hex.get(20..)?,
    ];
    Uid::parse(&parts.join("-")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(names: &[&str]) -> BTreeSet<ServiceKey> {
        names
            .iter()
            .map(|name| ServiceKey::parse("demo", name).unwrap())
            .collect()
    }

    #[test]
    fn an_export_keeps_its_birth_until_it_goes_and_is_new_when_it_returns() {
        let mut own = OwnExports::default();
        assert!(note_births(&mut own, &keys(&["a", "b"]), 5, random_uid));
        let first = own.exports[&ServiceKey::parse("demo", "a").unwrap()].clone();
        assert!(!note_births(&mut own, &keys(&["a", "b"]), 9, random_uid));
        assert_eq!(own.exports.values().next(), Some(&first));
        assert!(note_births(&mut own, &keys(&["b"]), 9, random_uid));
        assert!(note_births(&mut own, &keys(&["a", "b"]), 11, random_uid));
        let second = &own.exports[&ServiceKey::parse("demo", "a").unwrap()];
        assert_ne!(first.uid, second.uid);
        assert_eq!(second.created, 11);
    }

    #[test]
    fn uids_look_like_those_of_kubernetes() {
        let (a, b) = (random_uid().unwrap(), random_uid().unwrap());
        assert_ne!(a, b);
        assert_eq!(a.as_str().len(), 36);
    }
}
