//! Our own CA, the gateway's leaf, and the store that TLS reads.
//!
//! Owns the CA record in memory: a change is saved before it is used. Called by the engine.

use std::{sync::Arc, time::Duration};

use rustls_pki_types::{CertificateDer, UnixTime};
use strait_federation_api::{ClusterId, InstanceId, Reason, exchange::BundleUpdate};
use strait_trust_bridge::{CaRecord, GatewayKey, LeafRequest, OwnIdentity, TrustError, TrustStore, envelope};
use tokio::sync::watch;

use crate::{
    ControllerError,
    records::{Record, RecordName, Records},
};

impl Record for CaRecord {
    const KIND: &'static str = "ca";
    const SCHEMA: u32 = 1;
}

/// What an [`Authority`] is made of.
pub(crate) struct AuthorityConfig {
    pub(crate) cluster: ClusterId,
    pub(crate) instance: InstanceId,
    /// Life of a leaf.
    pub(crate) leaf_ttl: Duration,
}

/// The cluster's CA and what the gateway presents.
pub(crate) struct Authority {
    records: Arc<Records>,
    config: AuthorityConfig,
    ca: CaRecord,
    store: Arc<TrustStore>,
    generation: watch::Sender<u64>,
    sealed: Option<Sealed>,
}

/// A signed bundle and the chain it was signed with.
struct Sealed {
    chain: Vec<CertificateDer<'static>>,
    update: BundleUpdate,
}

impl Authority {
    /// Loads the CA, or makes one on the first start, and issues the gateway's first leaf. Blocking.
    ///
    /// # Errors
    /// [`ControllerError`] of the record, or a Cluster whose name is not the one the CA was made for.
    pub(crate) fn open(
        records: Arc<Records>,
        config: AuthorityConfig,
        now: UnixTime,
    ) -> Result<Self, ControllerError> {
        let name = ca_name();
        let ca = match records.load::<CaRecord>(&name)? {
            Some(ca) => ca,
            None => {
                let ca = CaRecord::create(&config.cluster, now)?;
                records.save(&name, &ca)?;
                tracing::info!(trust_domain = %ca.trust_domain(), "made the cluster's CA; back up the state directory");
                ca
            }
        };
        ca.check()?;
        let made_for = ca.trust_domain().cluster_id()?;
        if made_for != config.cluster {
            return Err(ControllerError::refused(
                Reason::ConfigInvalid,
                format!(
                    "the CA in {} belongs to cluster '{made_for}', the Cluster manifest says '{}': a ClusterId cannot change; name it '{made_for}' again, or use another --state",
                    records.state_dir().display(),
                    config.cluster
                ),
            ));
        }
        let store = TrustStore::new(ca.trust_domain().clone());
        let generation = watch::Sender::new(0);
        let mut authority = Self {
            records,
            config,
            ca,
            store,
            generation,
            sealed: None,
        };
        authority.issue(now)?;
        Ok(authority)
    }

    /// The CA as it is.
    pub(crate) const fn ca(&self) -> &CaRecord {
        &self.ca
    }

    /// What TLS reads.
    pub(crate) const fn store(&self) -> &Arc<TrustStore> {
        &self.store
    }

    /// Tells of each change of the store.
    pub(crate) fn generation(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// Call after each change of the store.
    pub(crate) fn announce(&self) {
        self.generation.send_replace(self.store.generation());
    }

    /// Our bundle as it was sealed last.
    pub(crate) fn sealed(&self) -> Option<&BundleUpdate> {
        self.sealed.as_ref().map(|sealed| &sealed.update)
    }

    /// Signs our bundle for peers if it, or the CA that signs it, changed: a new signature is a new message to every peer.
    pub(crate) fn seal(&mut self) -> Result<(), TrustError> {
        let sequence = self.ca.rotation().sequence();
        let chain = self.ca.signing_chain()?;
        if self
            .sealed
            .as_ref()
            .is_some_and(|sealed| sealed.update.sequence == sequence && sealed.chain == chain)
        {
            return Ok(());
        }
        let envelope = envelope::seal(&self.ca)?.into();
        let update = BundleUpdate { sequence, envelope };
        self.sealed = Some(Sealed { chain, update });
        Ok(())
    }

    /// Unix seconds at which [`Self::renew`] has something to do.
    pub(crate) fn renew_at(&self) -> u64 {
        self.store
            .identity()
            .map_or(0, |identity| identity.renew_at().as_secs())
    }

    /// Renews what is due: the leaf at half its life, the issuing certificate at half of its own. Blocking.
    pub(crate) fn renew(&mut self, now: UnixTime) -> Result<bool, ControllerError> {
        let issuing = self.try_change(|ca| ca.renew_issuing(now))?;
        if !issuing && now.as_secs() < self.renew_at() {
            return Ok(false);
        }
        self.issue(now)?;
        Ok(true)
    }

    /// Issues a leaf with a new key and presents it from now on.
    pub(crate) fn issue(&mut self, now: UnixTime) -> Result<(), ControllerError> {
        let key = GatewayKey::generate()?;
        let request = LeafRequest::from_spki(&key.spki())?;
        let leaf = self
            .ca
            .issue(&self.config.instance, &request, self.config.leaf_ttl, now)?;
        self.store.set_identity(OwnIdentity::new(&leaf, &key)?)?;
        self.announce();
        Ok(())
    }

    /// Changes the CA: the changed record is durable before it is used, and on any error the old one stays.
    pub(super) fn change<T>(
        &mut self,
        change: impl FnOnce(&mut CaRecord) -> Result<T, TrustError>,
    ) -> Result<T, ControllerError> {
        let mut ca = self.ca.clone();
        let result = change(&mut ca)?;
        self.records.save(&ca_name(), &ca)?;
        self.ca = ca;
        Ok(result)
    }

    /// As [`Self::change`] for a change that says whether it did anything: nothing is written if not.
    pub(super) fn try_change(
        &mut self,
        change: impl FnOnce(&mut CaRecord) -> Result<bool, TrustError>,
    ) -> Result<bool, ControllerError> {
        let mut ca = self.ca.clone();
        let changed = change(&mut ca)?;
        if changed {
            self.records.save(&ca_name(), &ca)?;
            self.ca = ca;
        }
        Ok(changed)
    }
}

fn ca_name() -> RecordName {
    RecordName::fixed("ca")
}
