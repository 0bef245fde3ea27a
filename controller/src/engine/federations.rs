//! Bringing trust and tasks in line with the Federations in force.
//!
//! Owns what follows from a new set of resources: static trust taken, invites made, joins begun, and what ends when a Federation
//! is gone. Called by the engine when the source changed.

use std::sync::Arc;

use strait_federation_api::{
    ClusterId, Reason, TrustDomain, exchange,
    resources::{ExportRules, Federation, FederationName, InviteTrust, StaticTrust, Trust, Updates},
    snapshot::{GatewayAddress, PeerMode},
};
use strait_trust_bridge::{JoinToken, PeerTrust, TrustError, spiffe_json};

use super::{Engine, local::LocalExports};
use crate::{
    ControllerError, clock,
    source::SourceState,
    trust::{Origin, TrustRecord},
};

impl Engine {
    /// Takes a new state of the source.
    pub(super) fn on_source(&mut self, state: SourceState) {
        self.metrics.config_valid.set(i64::from(!state.broken));
        if state.broken {
            self.metrics.config_errors.inc();
        }
        self.source = state;
        self.reconcile();
        self.start_tasks();
    }

    /// Brings records in line with the set in force. Needs no runtime.
    pub(crate) fn reconcile(&mut self) {
        let set = self.set();
        self.renamed_to = None;
        match &set.cluster {
            Some(cluster) if cluster.id != self.cluster.id => {
                tracing::error!(
                    reason = "ConfigInvalid",
                    "the Cluster manifest is named '{}', this is '{}': a ClusterId cannot change; name it '{}' again",
                    cluster.id,
                    self.cluster.id,
                    self.cluster.id
                );
                self.renamed_to = Some(cluster.id.clone());
            }
            Some(cluster) => self.cluster = cluster.clone(),
            None => {}
        }
        self.local = LocalExports::of(&set);
        self.health.retain(&self.local.endpoints());
        self.drop_ended();
        self.enforce_trust();
        self.troubles.clear();
        for (name, federation) in &set.federations {
            if let Err(error) = self.bring_trust(federation) {
                tracing::warn!(federation = %name, reason = %error.reason(), "{error}");
                self.troubles
                    .insert(name.clone(), (error.reason(), error.to_string()));
            }
            self.shown.insert(name.clone());
        }
    }

    /// Ends what belongs to Federations that were there and are gone.
    fn drop_ended(&mut self) {
        let set = self.set();
        let ended: Vec<FederationName> = self
            .shown
            .iter()
            .filter(|name| !set.federations.contains_key(*name))
            .cloned()
            .collect();
        for name in ended {
            self.shown.remove(&name);
            if let Err(error) = self.end_federation(&name) {
                // Kept on the list: tried again at the next change.
                self.failed(&format!("end the Federation '{name}'"), &error);
                self.shown.insert(name);
            }
        }
    }

    /// Trust counts only while its Federation exists.
    fn enforce_trust(&mut self) {
        let set = self.set();
        match self
            .trusted
            .enforce(&self.authority, |name| set.federations.contains_key(name))
        {
            Ok(dormant) => {
                for name in dormant {
                    tracing::warn!(federation = %name, reason = "FederationRemoved", "there is no manifest of this Federation: trust in its peer is kept in the records, but not in force");
                }
            }
            Err(error) => drop(self.failed("put the trust of the Federations in force", &error)),
        }
    }

    fn end_federation(&mut self, name: &FederationName) -> Result<(), ControllerError> {
        let peers: Vec<ClusterId> = self
            .trusted
            .iter()
            .filter(|(_, record)| record.federation == *name)
            .map(|(peer, _)| peer.clone())
            .collect();
        for peer in peers {
            tracing::info!(federation = %name, %peer, reason = "FederationRemoved", "the Federation is gone: trust in the peer ends");
            self.forget_peer(&peer)?;
        }
        self.joins.forget(name)?;
        self.remove_token(name);
        self.invites.forget(name, clock::unix_time())
    }

    /// Ends everything about a peer: trust first.
    pub(super) fn forget_peer(&mut self, peer: &ClusterId) -> Result<(), ControllerError> {
        let record = self.trusted.forget(&self.authority, peer)?;
        self.peerings.remove(peer);
        self.cache.forget(peer);
        if self.kept.sights.created.remove(peer).is_some() {
            self.sights_changed = true;
        }
        if let Some(record) = record {
            self.authority.forget_peer(record.peer.trust_domain())?;
        }
        Ok(())
    }

    fn bring_trust(&mut self, federation: &Federation) -> Result<(), ControllerError> {
        match &federation.spec.trust {
            Trust::Static(trust) => self.bring_static(federation, trust),
            Trust::Invite(invite) => self.bring_invite(federation, invite),
            Trust::Join(_) => self.bring_join(federation),
        }
    }

    fn bring_static(&mut self, federation: &Federation, trust: &StaticTrust) -> Result<(), ControllerError> {
        let refused = |text: String| ControllerError::refused(Reason::ConfigInvalid, text);
        let document = match self.source.references.bundles.get(&federation.name) {
            Some(Ok(text)) => text.clone(),
            Some(Err(why)) => {
                return Err(refused(format!(
                    "the bundle of static trust cannot be read: {why}"
                )));
            }
            None => return Err(refused("a bundleRef needs Kubernetes; use bundleFile".into())),
        };
        let bundle = spiffe_json::from_json(trust.trust_domain.clone(), document.as_bytes())?;
        let stated = PeerTrust::new(bundle)?;
        self.check_free(&federation.name, &stated, federation.peer_cluster())?;
        let held = self
            .trusted
            .get(stated.cluster())
            .filter(|held| held.peer.trust_domain() == stated.trust_domain());
        let peer = match held {
            Some(held) => newest(&held.peer, stated, trust.updates)?,
            None => stated,
        };
        self.replace_trust(TrustRecord {
            federation: federation.name.clone(),
            origin: Origin::Static,
            addresses: federation.addresses(),
            peer,
            activated: true,
        })
    }

    /// Makes the invite that the spec asks for, once for each serial.
    fn bring_invite(&mut self, federation: &Federation, spec: &InviteTrust) -> Result<(), ControllerError> {
        if self
            .invites
            .get(&federation.name)
            .is_some_and(|record| record.serial == spec.serial)
        {
            return Ok(());
        }
        self.make_invite(&federation.name, spec.serial, spec.ttl.get())?;
        tracing::info!(federation = %federation.name, serial = spec.serial, "an invite is open; `strait invite {}` prints its token", federation.name);
        Ok(())
    }

    pub(super) fn make_invite(
        &mut self,
        federation: &FederationName,
        serial: u32,
        ttl: std::time::Duration,
    ) -> Result<(), ControllerError> {
        let with = (self.authority.ca(), self.cluster.advertised());
        self.invites
            .make(federation, serial, ttl, (with.0, &with.1), clock::unix_time())
    }

    /// Begins the join that a token asks for, once for each token.
    fn bring_join(&mut self, federation: &Federation) -> Result<(), ControllerError> {
        let joined = self
            .trusted
            .of_federation(&federation.name)
            .map(|record| record.origin.clone());
        let token = match self.source.references.tokens.get(&federation.name) {
            Some(token) => token.0.clone(),
            None => Err("a tokenSecretRef needs Kubernetes; use tokenFile".into()),
        };
        let token = match token {
            Ok(text) => JoinToken::decode(&text)?,
            // A used token may be thrown away, and so may one that is in our records.
            Err(_) if matches!(joined, Some(Origin::Join { .. })) => return Ok(()),
            Err(_) if self.joins.pending(&federation.name).is_some() => return Ok(()),
            Err(why) => {
                return Err(ControllerError::refused(
                    Reason::TokenInvalid,
                    format!("the join token cannot be read: {why}"),
                ));
            }
        };
        if joined
            == Some(Origin::Join {
                invite: token.invite(),
            })
        {
            return Ok(());
        }
        self.begin_join(&federation.name, token, federation.peer_cluster())
    }

    /// Begins a join after checking that its peer is not another Federation's.
    pub(super) fn begin_join(
        &mut self,
        federation: &FederationName,
        token: JoinToken,
        stated: Option<&ClusterId>,
    ) -> Result<(), ControllerError> {
        let cluster = token.trust_domain().cluster_id()?;
        self.check_cluster(federation, &cluster, stated)?;
        let own = self.authority.ca().trust_domain().clone();
        self.joins.begin(federation, token, &own)
    }

    /// A ClusterId and a trust domain belong to one Federation only, and to the one the spec names.
    pub(super) fn check_free(
        &self,
        federation: &FederationName,
        peer: &PeerTrust,
        stated: Option<&ClusterId>,
    ) -> Result<(), ControllerError> {
        if peer.trust_domain() == self.authority.ca().trust_domain() {
            return Err(TrustError::OwnTrustDomain(peer.trust_domain().clone()).into());
        }
        self.check_cluster(federation, peer.cluster(), stated)
    }

    fn check_cluster(
        &self,
        federation: &FederationName,
        cluster: &ClusterId,
        stated: Option<&ClusterId>,
    ) -> Result<(), ControllerError> {
        let taken = |text: String| Err(ControllerError::refused(Reason::ClusterIdTaken, text));
        if *cluster == self.cluster.id {
            return taken(format!(
                "the peer calls itself '{cluster}' like this cluster; ids are unique, give one of the two another"
            ));
        }
        let set = self.set();
        let other = self.trusted.taken(cluster, federation);
        if let Some(other) = other.filter(|other| set.federations.contains_key(&other.federation)) {
            return taken(format!(
                "the cluster '{cluster}' ({}) is already the peer of the Federation '{}'; remove that one first, or give the clusters different ids",
                other.peer.trust_domain(),
                other.federation
            ));
        }
        match stated {
            Some(stated) if stated != cluster => taken(format!(
                "the peer is the cluster '{cluster}', but spec.peer of the Federation '{federation}' says '{stated}'; correct one of the two"
            )),
            _ => Ok(()),
        }
    }

    /// Holds trust for a Federation; what it held in another cluster ends.
    pub(super) fn replace_trust(&mut self, record: TrustRecord) -> Result<(), ControllerError> {
        let cluster = record.peer.cluster().clone();
        let (federation, activated) = (record.federation.clone(), record.activated);
        let domain_changed = self
            .trusted
            .get(&cluster)
            .is_some_and(|old| old.peer.trust_domain() != record.peer.trust_domain());
        self.trusted.put(&self.authority, record)?;
        if domain_changed {
            // Another CA is another cluster: nothing its predecessor said counts.
            self.peerings.remove(&cluster);
            self.cache.forget(&cluster);
        }
        if activated {
            let others: Vec<ClusterId> = self
                .trusted
                .iter()
                .filter(|(peer, other)| other.federation == federation && **peer != cluster)
                .map(|(peer, _)| peer.clone())
                .collect();
            for other in others {
                tracing::info!(%federation, peer = %other, "another cluster has taken this Federation's place: trust in the former ends");
                self.forget_peer(&other)?;
            }
        }
        Ok(())
    }

    /// Federations whose peer is trusted on both sides, with the peer. The others have no part in anything yet.
    pub(super) fn active(&self) -> Vec<(Arc<Federation>, TrustRecord)> {
        let set = self.set();
        let active = self.trusted.iter().filter(|(_, record)| record.activated);
        active
            .filter_map(|(_, record)| {
                let federation = set.federations.get(&record.federation)?;
                Some((Arc::new(federation.clone()), record.clone()))
            })
            .collect()
    }

    /// Export rules of every peer that may see anything.
    pub(super) fn export_rules(
        active: &[(Arc<Federation>, TrustRecord)],
    ) -> std::collections::BTreeMap<ClusterId, &ExportRules> {
        active
            .iter()
            .filter(|(federation, _)| federation.spec.mode != PeerMode::Suspended)
            .map(|(federation, record)| (record.peer.cluster().clone(), &federation.spec.exports))
            .collect()
    }

    /// Where a peer is dialled: as the manifest says, else as the peer said last.
    pub(super) fn addresses_of(federation: &Federation, record: &TrustRecord) -> Vec<GatewayAddress> {
        match federation.spec.peer {
            Some(_) => federation.addresses(),
            None => record.addresses.clone(),
        }
    }

    /// How our gateways can be reached.
    pub(super) fn own_gateways(&self) -> exchange::Gateways {
        exchange::Gateways {
            addresses: self.cluster.advertised(),
            instances: vec![self.instance.instance.clone()],
        }
    }

    /// Trust domains of activated peers.
    pub(super) fn peer_domains(&self) -> std::collections::BTreeSet<TrustDomain> {
        self.trusted.active_domains()
    }
}

/// Of what is held and what the manifest states: the newer, unless the manifest alone decides.
fn newest(held: &PeerTrust, stated: PeerTrust, updates: Updates) -> Result<PeerTrust, TrustError> {
    if updates == Updates::Follow && stated.bundle().sequence() <= held.bundle().sequence() {
        return Ok(held.clone());
    }
    // What was removed once stays removed: the document of a manifest cannot say so, our record can.
    PeerTrust::new(stated.bundle().clone().with_removed(held.bundle().removed())?)
}
