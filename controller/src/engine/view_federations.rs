//! Federations as people see them, and the words of their conditions Trusted, Connected and Synced.
//!
//! Owns those words only. Built with the rest of the view after each settlement.

use strait_federation_api::{
    Reason,
    exchange::ExchangeStatus,
    resources::{Federation, Trust},
    snapshot::PeerMode,
    view::FederationView,
};

use super::{
    Engine, Peering,
    settle::{Active, Settled, imports_from},
    view::{Says, count},
};
use crate::{join::view_of, trust::TrustRecord};

impl Engine {
    pub(super) fn federation_views(&mut self, settled: &Settled, now: i64) -> Vec<FederationView> {
        let set = self.set();
        let views: Vec<_> = set
            .federations
            .values()
            .map(|federation| self.federation_view(federation, settled))
            .collect();
        views
            .into_iter()
            .map(|(mut view, says)| {
                view.conditions = self.state(&format!("Federation {}", view.name), says, now);
                view
            })
            .collect()
    }

    fn federation_view(&self, federation: &Federation, settled: &Settled) -> (FederationView, Vec<Says>) {
        let record = self.trusted.of_federation(&federation.name);
        let cluster = record
            .map(|record| record.peer.cluster())
            .or_else(|| federation.peer_cluster())
            .cloned();
        let nothing = Peering::default();
        let peering = cluster
            .as_ref()
            .and_then(|cluster| self.peerings.get(cluster))
            .unwrap_or(&nothing);
        let active = settled.active.iter().find(|(f, _)| f.name == federation.name);
        let offered = peering.held.catalog.len();
        let imported = cluster
            .as_ref()
            .and_then(|cluster| settled.merged.verdicts.get(cluster))
            .map_or(0, |verdicts| {
                verdicts.values().filter(|verdict| verdict.accepted).count()
            });
        let exported = settled
            .offers
            .keys()
            .filter(|key| federation.spec.exports.covers(key))
            .count();
        let addresses = record.map_or_else(
            || federation.addresses(),
            |record| Self::addresses_of(federation, record),
        );
        let view = FederationView {
            name: federation.name.to_string(),
            trust_domain: record.map(|record| record.peer.trust_domain().clone()),
            trust: federation.spec.trust.kind().into(),
            mode: federation.spec.mode,
            addresses: addresses.iter().map(ToString::to_string).collect(),
            link: peering.link.clone(),
            offered: count(offered),
            imported: count(imported),
            exported: count(if active.is_some() { exported } else { 0 }),
            synced: peering.synced_at,
            bundle_sequence: record.map(|record| record.peer.bundle().sequence()),
            conditions: Vec::new(),
            cluster,
        };
        let says = match active {
            Some(active) => vec![
                self.trusted_says(active, peering),
                connected(active, peering, settled),
                synced(active, peering),
            ],
            None => self.unjoined_says(federation, record),
        };
        (view, says)
    }

    fn unjoined_says(&self, federation: &Federation, record: Option<&TrustRecord>) -> Vec<Says> {
        let waits = |kind| Says::new(kind, false, Reason::JoinPending, "there is no trust yet");
        vec![
            self.untrusted_says(federation, record),
            waits("Connected"),
            waits("Synced"),
        ]
    }

    fn trusted_says(&self, (federation, record): &Active, peering: &Peering) -> Says {
        if let Some((reason, why)) = self.troubles.get(&federation.name) {
            return Says::new("Trusted", false, *reason, why.as_str());
        }
        if self.joins.pending(&federation.name).is_some() {
            let text = "a new token is in use; until it is through, the trust held before stays";
            return Says::new("Trusted", false, Reason::JoinPending, text);
        }
        if let Some(refusal) = &peering.bundle_refused {
            return Says::new(
                "Trusted",
                false,
                refusal.reason,
                format!("the peer does not take our bundle: {}", refusal.message),
            );
        }
        if self.authority.is_lagging(record.peer.trust_domain()) {
            return Says::new(
                "Trusted",
                true,
                Reason::PeerLagging,
                "the peer has not acknowledged our new root yet",
            );
        }
        Says::new("Trusted", true, Reason::Trusted, "")
    }

    /// Why there is no trust (yet).
    fn untrusted_says(&self, federation: &Federation, record: Option<&TrustRecord>) -> Says {
        if let Some((reason, why)) = self.troubles.get(&federation.name) {
            return Says::new("Trusted", false, *reason, why.as_str());
        }
        if record.is_some() {
            let text = "the joiner has proven the secret; waiting for its control connection";
            return Says::new("Trusted", false, Reason::JoinPending, text);
        }
        match &federation.spec.trust {
            Trust::Invite(_) => match self.invites.get(&federation.name).map(view_of) {
                Some(invite) => Says::new("Trusted", false, invite.state, invite.state.remedy()),
                None => Says::new("Trusted", false, Reason::Pending, "the invite is not made yet"),
            },
            Trust::Join(_) => match self
                .joins
                .get(&federation.name)
                .and_then(|join| join.last.as_ref())
            {
                Some((reason, detail)) => Says::new("Trusted", false, *reason, detail.as_str()),
                None => Says::new("Trusted", false, Reason::JoinPending, "joining"),
            },
            Trust::Static(_) => Says::new("Trusted", false, Reason::Pending, "the bundle is not read yet"),
        }
    }
}

fn connected((federation, record): &Active, peering: &Peering, settled: &Settled) -> Says {
    let says = |holds, reason, text: String| Says::new("Connected", holds, reason, text);
    match federation.spec.mode {
        PeerMode::Suspended => {
            return says(
                false,
                Reason::PeerSuspended,
                Reason::PeerSuspended.remedy().into(),
            );
        }
        PeerMode::Drain | PeerMode::Active => {}
    }
    let control = peering.remote.is_some() && peering.status.as_ref().is_some_and(|status| status.connected);
    let importing = imports_from(&settled.merged, record.peer.cluster());
    let tunnels = peering.link.usable_tunnels;
    if control && (tunnels > 0 || !importing) {
        if federation.spec.mode == PeerMode::Drain {
            return says(
                true,
                Reason::PeerDraining,
                "takes no new streams (spec.mode: Drain)".into(),
            );
        }
        return says(
            true,
            Reason::Connected,
            format!("control and {tunnels} data tunnels"),
        );
    }
    if control {
        // A peer that died is known by its data tunnels first: control is only missed when its idle limit ends.
        return match &peering.link.last_error {
            Some((reason, detail)) => says(false, *reason, format!("no data tunnel: {detail}")),
            None => says(
                false,
                Reason::NoTunnel,
                "the control connection stands, no data tunnel answers".into(),
            ),
        };
    }
    match &peering.link.last_error {
        Some((reason, detail)) => says(false, *reason, detail.clone()),
        None if Engine::addresses_of(federation, record).is_empty() => says(
            false,
            Reason::NoAddress,
            "the peer has no address to dial and has not dialled in".into(),
        ),
        None => says(false, Reason::Dialling, "no control connection yet".into()),
    }
}

fn synced((federation, _): &Active, peering: &Peering) -> Says {
    let says = |holds, reason, text: String| Says::new("Synced", holds, reason, text);
    if federation.spec.mode == PeerMode::Suspended {
        return says(false, Reason::PeerSuspended, "the exchange is closed".into());
    }
    let Some(status) = &peering.status else {
        return says(
            false,
            if peering.stale {
                Reason::Stale
            } else {
                Reason::Syncing
            },
            "nothing was heard yet".into(),
        );
    };
    if let Some(refusal) = &status.outdated {
        return says(false, refusal.reason, refusal.message.to_string());
    }
    if let Some((service, refusal)) = status.refused.first() {
        let text = format!(
            "{} services are not taken; {service}: {}",
            status.refused.len(),
            refusal.message
        );
        return says(false, refusal.reason, text);
    }
    if status.synced {
        return says(true, Reason::Synced, format!("{} services", status.held));
    }
    match status.stale {
        true if status.held > 0 => says(false, Reason::Stale, stale_words(status)),
        _ => says(false, Reason::Syncing, Reason::Syncing.remedy().into()),
    }
}

fn stale_words(status: &ExchangeStatus) -> String {
    match status.expires_in {
        Some(left) => format!(
            "{} services as last told; they are dropped in {} h",
            status.held,
            left.as_secs().div_ceil(3600)
        ),
        None => format!("{} services as last told", status.held),
    }
}
