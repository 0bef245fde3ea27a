//! Working out what follows: merge, addresses, snapshot, words to the peers.
//!
//! Owns the order: a record is durable before anybody learns what it holds. Called by the engine after a batch of input.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use strait_federation_api::{
    ClusterId, Reason, ServiceKey,
    catalog::{Catalog, IpFamily},
    exchange::Refusal,
    resources::Federation,
    snapshot::{Peer, PeerMode, Snapshot},
};

use super::{
    Engine, compile,
    local::{note_births, random_uid, visible},
    opening::{name_of, own_bundle},
    peering::label,
};
use crate::{
    clock,
    merge::{MergeInput, MergeOutput, OwnExport, PeerInput, merge},
    trust::TrustRecord,
    vip::Owner,
};

/// A Federation whose peer is trusted on both sides.
pub(super) type Active = (Arc<Federation>, TrustRecord);

/// What a settlement worked out, for the view.
pub(super) struct Settled {
    pub(super) active: Vec<Active>,
    pub(super) offers: Catalog,
    pub(super) merged: MergeOutput,
    /// Imports and members without an address.
    pub(super) exhausted: BTreeSet<(Owner, IpFamily)>,
}

impl Engine {
    /// Works everything out anew and tells whom it concerns.
    pub(crate) fn settle(&mut self) {
        let now = clock::unix_seconds();
        self.save_births(now);
        self.save_sights();
        let active = self.active();
        let offers = self.offers();
        let merged = self.merge(&active, &offers);
        let exhausted = self.settle_vips(&active, &merged, now);
        let settled = Settled {
            active,
            offers,
            merged,
            exhausted,
        };
        self.publish_snapshot(&settled);
        self.publish_bundle();
        self.tell_peers(&settled);
        self.count(&settled);
        self.publish_view(&settled, now);
    }

    fn save_births(&mut self, now: u64) {
        let present: BTreeSet<ServiceKey> = self.local.exports.keys().cloned().collect();
        let mut own = self.kept.own.clone();
        if !note_births(
            &mut own,
            &present,
            i64::try_from(now).unwrap_or(i64::MAX),
            random_uid,
        ) {
            return;
        }
        match name_of::<crate::records::types::OwnExports>().and_then(|name| self.records.save(&name, &own)) {
            Ok(()) => self.kept.own = own,
            Err(error) => drop(self.failed("record the exports' ids", &error)),
        }
    }

    fn save_sights(&mut self) {
        if !self.sights_changed {
            return;
        }
        match name_of::<crate::records::types::FirstSights>()
            .and_then(|name| self.records.save(&name, &self.kept.sights))
        {
            Ok(()) => self.sights_changed = false,
            Err(error) => drop(self.failed("record first sights", &error)),
        }
    }

    /// Everything that could be offered; equal offers keep their place in memory.
    fn offers(&mut self) -> Catalog {
        let fresh = self
            .local
            .offers(&self.kept.own, self.cluster.spec.zone.as_ref(), &self.health);
        let fresh = fresh
            .into_iter()
            .map(|(key, offer)| (key, Arc::unwrap_or_clone(offer)))
            .collect();
        self.offered = compile::carry_over(&self.offered, fresh);
        self.offered.clone()
    }

    fn merge(&self, active: &[Active], offers: &Catalog) -> MergeOutput {
        let rules = Self::export_rules(active);
        let exports: BTreeMap<ServiceKey, OwnExport> = self
            .local
            .exports
            .iter()
            .filter_map(|(key, export)| {
                let state = match export {
                    Ok(_) => Ok(Arc::clone(offers.get(key)?)),
                    Err(problem) => Err(Refusal::new(problem.reason, problem.message.as_str())),
                };
                let offered_to = rules
                    .iter()
                    .filter(|(_, rules)| rules.covers(key))
                    .map(|(peer, _)| peer.clone());
                let offered_to = offered_to.collect();
                Some((key.clone(), OwnExport { state, offered_to }))
            })
            .collect();
        let nothing = super::Peering::default();
        let peers: Vec<PeerInput<'_>> = active
            .iter()
            .map(|(federation, record)| {
                let peering = self.peerings.get(record.peer.cluster()).unwrap_or(&nothing);
                PeerInput {
                    cluster: record.peer.cluster(),
                    trust_domain: record.peer.trust_domain(),
                    catalog: &peering.held.catalog,
                    stale: peering.stale,
                    suspended: federation.spec.mode == PeerMode::Suspended,
                    conflicts: federation.spec.conflicts,
                    rules: &federation.spec.imports,
                    feedback: &peering.feedback,
                }
            })
            .collect();
        merge(&MergeInput {
            trust_domain: self.authority.ca().trust_domain(),
            exports: &exports,
            peers: &peers,
            namespaces: None,
        })
    }

    /// Allots addresses; a table that cannot be saved is not used.
    fn settle_vips(
        &mut self,
        active: &[Active],
        merged: &MergeOutput,
        now: u64,
    ) -> BTreeSet<(Owner, IpFamily)> {
        let ranges = self.cluster.spec.vip_range.nets();
        let mut wanted = compile::wanted(&merged.imports, &self.cluster.id, ranges);
        // A suspended peer's imports are withdrawn, its addresses are kept.
        if active
            .iter()
            .any(|(federation, _)| federation.spec.mode == PeerMode::Suspended)
        {
            wanted.extend(self.kept.vips.by_owner().into_keys());
        }
        let mut vips = self.kept.vips.clone();
        let settled = vips.settle(&wanted, ranges, now);
        if settled.changed {
            match name_of::<crate::vip::VipTable>().and_then(|name| self.records.save(&name, &vips)) {
                Ok(()) => self.kept.vips = vips,
                Err(error) => drop(self.failed("record virtual addresses", &error)),
            }
        }
        settled.exhausted
    }

    fn publish_snapshot(&self, settled: &Settled) {
        let old = Arc::clone(&self.out.snapshot.borrow());
        let ranges = self.cluster.spec.vip_range.nets();
        let rules = Self::export_rules(&settled.active);
        let imports = compile::imports(&settled.merged.imports, &self.cluster.id, ranges, &self.kept.vips);
        let mut new = Snapshot {
            epoch: self.epoch,
            version: old.version,
            cluster: self.cluster.id.clone(),
            zone: self.cluster.spec.zone.clone(),
            peers: compile::carry_over(&old.peers, self.snapshot_peers(settled)),
            imports: compile::carry_over(&old.imports, imports),
            exports: compile::carry_over(&old.exports, self.local.snapshot_exports(&rules)),
        };
        if old.version > 0 && new == *old {
            return;
        }
        new.version += 1;
        self.metrics.snapshots.inc();
        self.out.snapshot.send_replace(Arc::new(new));
    }

    fn snapshot_peers(&self, settled: &Settled) -> BTreeMap<ClusterId, Peer> {
        let peer = |(federation, record): &Active| {
            let cluster = record.peer.cluster().clone();
            let gateways = self
                .peerings
                .get(&cluster)
                .and_then(|peering| peering.gateways.as_ref());
            let peer = Peer {
                cluster: cluster.clone(),
                trust_domain: record.peer.trust_domain().clone(),
                mode: federation.spec.mode,
                addresses: Self::addresses_of(federation, record),
                instances: gateways
                    .map(|g| g.instances.iter().cloned().collect())
                    .unwrap_or_default(),
                importing: imports_from(&settled.merged, &cluster),
            };
            (cluster, peer)
        };
        settled.active.iter().map(peer).collect()
    }

    fn publish_bundle(&mut self) {
        if let Err(error) = self.authority.seal() {
            self.failed("sign our bundle", &error.into());
        }
        let Ok(own) = own_bundle(&self.authority) else {
            return;
        };
        self.out.bundle.send_if_modified(|held| {
            let changed = **held != own;
            if changed {
                *held = Arc::new(own);
            }
            changed
        });
    }

    fn tell_peers(&mut self, settled: &Settled) {
        let gateways = self.own_gateways();
        let bundle = self.authority.sealed().cloned();
        let limits = super::peering::limits(&self.cluster.spec.limits);
        let broken = self.source.broken;
        for (federation, record) in &settled.active {
            let cluster = record.peer.cluster();
            let Some(peering) = self.peerings.get_mut(cluster) else {
                continue;
            };
            let Some(task) = &peering.task else { continue };
            let catalog = visible(&settled.offers, &federation.spec.exports);
            let verdicts = settled.merged.verdicts.get(cluster).cloned().unwrap_or_default();
            // The last good state counts as listed once: who connects now must hear it, only no news of it.
            let listed = !broken || !peering.told;
            peering.told = true;
            task.tell(|inputs| {
                let before = inputs.clone();
                inputs.catalog = catalog;
                inputs.listed = listed;
                inputs.verdicts = verdicts;
                inputs.gateways.clone_from(&gateways);
                inputs.bundle.clone_from(&bundle);
                inputs.limits = limits;
                *inputs != before
            });
        }
    }

    fn count(&self, settled: &Settled) {
        for (_, record) in &settled.active {
            let cluster = record.peer.cluster();
            let Some(peering) = self.peerings.get(cluster) else {
                continue;
            };
            let synced = peering.status.as_ref().is_some_and(|status| status.synced);
            let held = i64::try_from(peering.held.catalog.len()).unwrap_or(i64::MAX);
            self.metrics.offered.get_or_create(&label(cluster)).set(held);
            self.metrics
                .synced
                .get_or_create(&label(cluster))
                .set(i64::from(synced));
        }
    }
}

/// Whether any import is served by this peer.
pub(super) fn imports_from(merged: &MergeOutput, peer: &ClusterId) -> bool {
    use strait_federation_api::snapshot::BackendCluster;
    let of_peer = |cluster: &BackendCluster| matches!(cluster, BackendCluster::Peer(p) if p == peer);
    merged
        .imports
        .values()
        .any(|import| import.backends.iter().any(|backend| of_peer(&backend.cluster)))
}

/// The reason of an owner without an address.
pub(super) const EXHAUSTED: Reason = Reason::VipRangeExhausted;
