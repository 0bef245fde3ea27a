//! Our invites, as records.
//!
//! Owns one invite per Federation and the flag that lets join connections in at all. Called by the engine.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rustls_pki_types::UnixTime;
use strait_federation_api::{Reason, TrustDomain, resources::FederationName, snapshot::GatewayAddress};
use strait_trust_bridge::{
    Address, CaRecord, InviteId, JoinToken, RootPin, TrustError,
    invite::{Invite, InviteState},
};
use zeroize::Zeroizing;

use super::InviteRecord;
use crate::{
    ControllerError,
    records::{Record, RecordName, Records},
};

/// Every invite.
pub(crate) struct Invites {
    records: Arc<Records>,
    held: BTreeMap<FederationName, InviteRecord>,
    open: Arc<AtomicBool>,
}

impl Invites {
    /// Loads the records. Blocking.
    pub(crate) fn open(records: Arc<Records>, now: UnixTime) -> Result<Self, ControllerError> {
        let mut held = BTreeMap::new();
        for name in records.names() {
            if name.of_kind(InviteRecord::KIND).is_some()
                && let Some(record) = records.load::<InviteRecord>(&name)?
            {
                held.insert(record.federation.clone(), record);
            }
        }
        let mut invites = Self {
            records,
            held,
            open: Arc::default(),
        };
        invites.sweep(now)?;
        Ok(invites)
    }

    /// Read inside handshakes: whether a join connection is let in.
    pub(crate) const fn open_flag(&self) -> &Arc<AtomicBool> {
        &self.open
    }

    /// The invite of a Federation.
    pub(crate) fn get(&self, federation: &FederationName) -> Option<&InviteRecord> {
        self.held.get(federation)
    }

    /// Every invite, by Federation.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &InviteRecord> {
        self.held.values()
    }

    /// The record of an invite that somebody names.
    pub(crate) fn named(&self, invite: InviteId) -> Result<&InviteRecord, TrustError> {
        let found = self.held.values().find(|record| record.invite.id() == invite);
        found.ok_or(TrustError::UnknownInvite)
    }

    /// Makes an invite, in place of the one before. Blocking.
    pub(crate) fn make(
        &mut self,
        federation: &FederationName,
        serial: u32,
        ttl: Duration,
        (ca, addresses): (&CaRecord, &[GatewayAddress]),
        now: UnixTime,
    ) -> Result<(), ControllerError> {
        if addresses.is_empty() {
            return Err(ControllerError::refused(
                Reason::NoAddress,
                "this cluster advertises no address, so nobody can join it: set spec.advertise of the Cluster, or let the other side invite",
            ));
        }
        let bundle = ca.bundle()?;
        let root = bundle.roots().first();
        let root = root.ok_or_else(|| TrustError::DamagedRecord("the CA has no root".into()))?;
        let pin = RootPin {
            trust_domain: ca.trust_domain().clone(),
            root: root.fingerprint(),
        };
        let addresses = addresses
            .iter()
            .map(|a| Address::parse(&a.to_string()))
            .collect::<Result<_, _>>()?;
        let invite = Invite::new(JoinToken::create(addresses, pin, ttl, now)?);
        let record = InviteRecord {
            federation: federation.clone(),
            serial,
            invite,
        };
        self.put(record, now)
    }

    /// The token's text, while somebody may use it.
    pub(crate) fn token(&self, federation: &FederationName, now: UnixTime) -> Option<Zeroizing<String>> {
        self.held
            .get(federation)?
            .invite
            .token(now)
            .map(JoinToken::encode)
    }

    /// Keeps a changed record. Blocking.
    pub(crate) fn put(&mut self, record: InviteRecord, now: UnixTime) -> Result<(), ControllerError> {
        self.records.save(&name_of(&record.federation)?, &record)?;
        self.held.insert(record.federation.clone(), record);
        self.update_flag(now);
        Ok(())
    }

    /// The joiner's first control connection came. Gives whether the secret was erased just now. Blocking.
    pub(crate) fn activate(
        &mut self,
        invite: InviteId,
        peer: &TrustDomain,
        now: UnixTime,
    ) -> Result<bool, ControllerError> {
        let mut record = self.named(invite)?.clone();
        let erased = record.invite.activate(peer)?;
        if erased {
            self.put(record, now)?;
        }
        Ok(erased)
    }

    /// Whether somebody has proven the secret and has not been seen over control.
    pub(crate) fn is_bound(&self, invite: InviteId) -> bool {
        self.named(invite)
            .is_ok_and(|record| matches!(record.invite.state(), InviteState::Bound { .. }))
    }

    /// Takes an invite back; gives the trust domain of a joiner that was bound. Blocking.
    pub(crate) fn revoke(
        &mut self,
        federation: &FederationName,
        now: UnixTime,
    ) -> Result<Option<TrustDomain>, ControllerError> {
        let mut record = self.held.get(federation).cloned().ok_or_else(|| {
            ControllerError::refused(
                Reason::InviteUnknown,
                format!("no invite was made for the Federation '{federation}'"),
            )
        })?;
        let joiner = record.invite.revoke()?;
        self.put(record, now)?;
        Ok(joiner.map(|joiner| joiner.trust_domain))
    }

    /// Erases what time has made useless. Blocking.
    pub(crate) fn sweep(&mut self, now: UnixTime) -> Result<bool, ControllerError> {
        let mut swept = false;
        for mut record in self.held.values().cloned().collect::<Vec<_>>() {
            if record.invite.sweep(now) {
                tracing::info!(federation = %record.federation, "the invite's time is over; its secret is erased");
                self.put(record, now)?;
                swept = true;
            }
        }
        self.update_flag(now);
        Ok(swept)
    }

    /// Forgets the invite of a Federation that is gone. Blocking.
    pub(crate) fn forget(
        &mut self,
        federation: &FederationName,
        now: UnixTime,
    ) -> Result<(), ControllerError> {
        if self.held.remove(federation).is_some() {
            self.update_flag(now);
            self.records.remove(&name_of(federation)?)?;
        }
        Ok(())
    }

    fn update_flag(&self, now: UnixTime) {
        let open = self.held.values().any(|record| record.invite.is_usable(now));
        self.open.store(open, Ordering::Release);
    }
}

fn name_of(federation: &FederationName) -> Result<RecordName, ControllerError> {
    RecordName::invite(federation.as_str())
        .map_err(|rule| ControllerError::refused(Reason::ConfigInvalid, rule))
}
