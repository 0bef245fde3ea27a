//! Opening the engine: every record read, the first snapshot made, before anything is carried.
//!
//! Owns the order of a start. Blocking. Called by [`crate::Prepared`].

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use strait_federation_api::{
    Epoch, Reason,
    catalog::Catalog,
    resources::{Cluster, FederationName},
    snapshot::Snapshot,
    view::{ControllerView, ImportsView},
};
use strait_trust_bridge::spiffe_json;
use tokio::sync::watch;

use super::{Conditions, Engine, Health, Kept, LocalExports, Outlets, Peering};
use crate::{
    ControllerConfig, ControllerError, OwnBundle,
    cache::SledCache,
    clock,
    join::{Invites, Joins},
    metrics::Metrics,
    records::{
        Disk, Record, RecordName, Records,
        types::{EpochRecord, FirstSights, InstanceRecord, OwnExports},
    },
    source::Source,
    trust::{Authority, AuthorityConfig, Peers},
    vip::VipTable,
};

impl Engine {
    /// Opens everything. `source` has looked once.
    ///
    /// # Errors
    /// [`ControllerError::Config`] without any good state, or of the records.
    pub(crate) fn open(
        config: &ControllerConfig,
        source: &dyn Source,
        disk: Arc<dyn Disk>,
    ) -> Result<Self, ControllerError> {
        let state = source.state().clone();
        let cluster = state.set.as_ref().and_then(|set| set.cluster.clone());
        let Some(cluster) = cluster else {
            return Err(ControllerError::Config(state.findings.to_vec()));
        };
        let records = Arc::new(Records::open(&config.state, disk)?);
        let instance = load_or(&records, InstanceRecord::generate)?;
        let epoch = next_epoch(&records)?;
        let authority = Authority::open(
            records.clone(),
            AuthorityConfig {
                cluster: cluster.id.clone(),
                instance: instance.instance.clone(),
                leaf_ttl: config.timing.leaf_ttl,
            },
            clock::unix_time(),
        )?;
        let trusted = Peers::open(records.clone())?;
        let invites = Invites::open(records.clone(), clock::unix_time())?;
        let joins = Joins::open(records.clone())?;
        let cache = SledCache::open(&config.state);
        if let Some(why) = &cache.rebuilt {
            tracing::warn!(reason = "CacheRebuilt", "the catalog cache starts empty: {why}");
        }
        let mut engine = Self {
            shown: BTreeSet::new(),
            out: outlets(&cluster, &authority, epoch)?,
            kept: kept(&records)?,
            peerings: BTreeMap::new(),
            cluster,
            instance,
            epoch,
            timing: config.timing.clone(),
            records,
            cache: cache.store,
            authority,
            trusted,
            invites,
            joins,
            source: state,
            folder: source.folder(),
            renamed_to: None,
            local: LocalExports::default(),
            health: Health::default(),
            offered: Catalog::new(),
            listeners: BTreeMap::new(),
            troubles: BTreeMap::new(),
            sights_changed: false,
            cache_rebuilt: cache.rebuilt,
            conditions: Conditions::default(),
            metrics: Metrics::default(),
            carrier: None,
            numbers: clock::SteadyMicros::start(),
            tasks: 0,
        };
        engine.begin()?;
        Ok(engine)
    }

    /// Brings everything in line with the manifests and makes the first snapshot.
    fn begin(&mut self) -> Result<(), ControllerError> {
        self.load_cache();
        self.drop_unasked()?;
        let state = self.source.clone();
        self.on_source(state);
        if let Some(other) = &self.renamed_to {
            // The CA's own check says the same first; this is for a state directory without one.
            return Err(ControllerError::refused(
                Reason::ConfigInvalid,
                format!(
                    "the Cluster manifest is named '{other}', this is '{}'",
                    self.cluster.id
                ),
            ));
        }
        self.settle();
        Ok(())
    }

    /// Invites and joins of Federations that went while nothing ran are void. Trust is only put out of force: a wrong folder at a
    /// start must not cost a cluster its peers.
    fn drop_unasked(&mut self) -> Result<(), ControllerError> {
        let set = self.set();
        let asked = |name: &FederationName| set.federations.contains_key(name);
        let gone = self.invites.iter().map(|record| &record.federation);
        let gone = gone.chain(self.joins.iter().map(|record| &record.federation));
        let gone: BTreeSet<FederationName> = gone.filter(|name| !asked(name)).cloned().collect();
        for name in &gone {
            self.invites.forget(name, clock::unix_time())?;
            self.joins.forget(name)?;
            self.remove_token(name);
        }
        Ok(())
    }

    fn load_cache(&mut self) {
        for (peer, held) in self.cache.load() {
            if self.trusted.get(&peer).is_none() {
                self.cache.forget(&peer);
                continue;
            }
            let peering = Peering {
                stale: !held.catalog.is_empty(),
                held,
                ..Peering::default()
            };
            self.peerings.insert(peer, peering);
        }
    }
}

/// The record's name is its kind.
pub(super) fn name_of<R: Record>() -> Result<RecordName, ControllerError> {
    RecordName::parse(R::KIND)
        .map_err(|rule| ControllerError::refused(Reason::Internal, format!("{}: {rule}", R::KIND)))
}

fn load_or<R: Record>(
    records: &Records,
    make: impl FnOnce() -> Result<R, ControllerError>,
) -> Result<R, ControllerError> {
    let name = name_of::<R>()?;
    if let Some(record) = records.load(&name)? {
        return Ok(record);
    }
    let record = make()?;
    records.save(&name, &record)?;
    Ok(record)
}

/// Raises the epoch; it is durable before anything is said in it.
fn next_epoch(records: &Records) -> Result<Epoch, ControllerError> {
    let name = name_of::<EpochRecord>()?;
    let last = records
        .load::<EpochRecord>(&name)?
        .map_or(0, |record| record.epoch.0);
    let epoch = Epoch(last + 1);
    records.save(&name, &EpochRecord { epoch })?;
    Ok(epoch)
}

fn kept(records: &Records) -> Result<Kept, ControllerError> {
    Ok(Kept {
        vips: records.load(&name_of::<VipTable>()?)?.unwrap_or_default(),
        own: records.load(&name_of::<OwnExports>()?)?.unwrap_or_default(),
        sights: records.load(&name_of::<FirstSights>()?)?.unwrap_or_default(),
    })
}

fn outlets(cluster: &Cluster, authority: &Authority, epoch: Epoch) -> Result<Outlets, ControllerError> {
    let snapshot = Snapshot {
        epoch,
        zone: cluster.spec.zone.clone(),
        ..Snapshot::empty(cluster.id.clone())
    };
    let view = ControllerView {
        cluster: cluster.id.clone(),
        trust_domain: authority.ca().trust_domain().clone(),
        epoch,
        version: 0,
        conditions: Vec::new(),
        federations: Vec::new(),
        exports: Vec::new(),
        imports: ImportsView::default(),
        invites: Vec::new(),
        rotation: authority.rotation_view(&BTreeSet::new()),
    };
    Ok(Outlets {
        snapshot: watch::Sender::new(Arc::new(snapshot)),
        view: watch::Sender::new(Arc::new(view)),
        bundle: watch::Sender::new(Arc::new(own_bundle(authority)?)),
    })
}

/// Our bundle as people are shown it.
pub(super) fn own_bundle(authority: &Authority) -> Result<OwnBundle, ControllerError> {
    let bundle = authority.ca().bundle()?;
    Ok(OwnBundle {
        trust_domain: bundle.trust_domain().clone(),
        sequence: bundle.sequence(),
        spiffe: spiffe_json::to_json(&bundle),
    })
}
