//! What the data plane knows about reachability, as far as DNS answers depend on it.
//!
//! Owns the fold of observations into "which clusters cannot be reached and which local endpoints fail their checks". Never
//! measures anything. Written by whoever wires the gateway's observations, read with every answer.

use std::collections::{BTreeMap, BTreeSet};

use strait_federation_api::{
    catalog::EndpointId,
    ids::{ClusterId, ServiceKey},
    observation::Observation,
};

/// Reachability as last observed. What was never observed counts as fine: after a restart the snapshot alone speaks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HealthView {
    links: BTreeMap<ClusterId, bool>,
    failing: BTreeSet<(ServiceKey, EndpointId)>,
}

impl HealthView {
    /// Takes in one observation; true if an answer may have changed.
    pub fn observe(&mut self, observation: &Observation) -> bool {
        match observation {
            Observation::Link { peer, state } => {
                let up = state.usable_tunnels > 0;
                self.links.insert(peer.clone(), up) != Some(up)
            }
            Observation::EndpointHealth {
                service,
                endpoint,
                healthy,
                ..
            } => {
                let key = (service.clone(), endpoint.clone());
                if *healthy {
                    self.failing.remove(&key)
                } else {
                    self.failing.insert(key)
                }
            }
            Observation::Listener { .. } | Observation::Refused { .. } => false,
        }
    }

    /// Forgets a peer whose Federation is gone, so that a later one of the same id starts unknown.
    pub fn forget(&mut self, peer: &ClusterId) {
        self.links.remove(peer);
    }

    /// `Some(true)`: data tunnels are up. `Some(false)`: none is. `None`: never observed.
    #[must_use]
    pub fn link(&self, peer: &ClusterId) -> Option<bool> {
        self.links.get(peer).copied()
    }

    /// A local endpoint fails its checks.
    #[must_use]
    pub fn is_failing(&self, service: &ServiceKey, endpoint: &EndpointId) -> bool {
        !self.failing.is_empty() && self.failing.contains(&(service.clone(), endpoint.clone()))
    }
}

#[cfg(test)]
mod tests {
    use strait_federation_api::{ids::Hostname, observation::LinkState};

    use super::*;

    #[test]
    fn the_last_observation_counts() {
        let west = ClusterId::parse("west").unwrap();
        let mut view = HealthView::default();
        assert_eq!(view.link(&west), None);
        let link = |usable_tunnels| Observation::Link {
            peer: ClusterId::parse("west").unwrap(),
            state: LinkState {
                usable_tunnels,
                ..LinkState::default()
            },
        };
        assert!(view.observe(&link(2)));
        assert!(!view.observe(&link(1)), "still up: no answer changes");
        assert!(view.observe(&link(0)));
        assert_eq!(view.link(&west), Some(false));
        view.forget(&west);
        assert_eq!(view.link(&west), None);
    }

    #[test]
    fn endpoints_fail_and_recover() {
        let service = ServiceKey::parse("demo", "db").unwrap();
        let endpoint = EndpointId(Hostname::parse("db-0").unwrap());
        let seen = |healthy| Observation::EndpointHealth {
            service: ServiceKey::parse("demo", "db").unwrap(),
            endpoint: EndpointId(Hostname::parse("db-0").unwrap()),
            healthy,
            reason: None,
        };
        let mut view = HealthView::default();
        assert!(view.observe(&seen(false)));
        assert!(view.is_failing(&service, &endpoint));
        assert!(view.observe(&seen(true)));
        assert!(!view.is_failing(&service, &endpoint));
    }
}
