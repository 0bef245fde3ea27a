//! What the gateway found out about local endpoints.
//!
//! Owns the set of endpoints that fail their checks: they are taken from what the slices call ready, never added. Called by the
//! engine.

use std::collections::{BTreeMap, BTreeSet};

use strait_federation_api::{Reason, ServiceKey, catalog::EndpointId};

/// Endpoints that fail, by service, with the reason.
#[derive(Debug, Default)]
pub(crate) struct Health {
    failing: BTreeMap<ServiceKey, BTreeMap<EndpointId, Reason>>,
}

impl Health {
    /// Takes an observation; gives whether it changed anything.
    pub(crate) fn observe(
        &mut self,
        service: &ServiceKey,
        endpoint: &EndpointId,
        failed: Option<Reason>,
    ) -> bool {
        match failed {
            Some(reason) => {
                let of_service = self.failing.entry(service.clone()).or_default();
                of_service.insert(endpoint.clone(), reason) != Some(reason)
            }
            None => {
                let Some(of_service) = self.failing.get_mut(service) else {
                    return false;
                };
                let changed = of_service.remove(endpoint).is_some();
                if of_service.is_empty() {
                    self.failing.remove(service);
                }
                changed
            }
        }
    }

    /// Whether an endpoint is not known to fail.
    pub(crate) fn is_healthy(&self, service: &ServiceKey, endpoint: &EndpointId) -> bool {
        !self
            .failing
            .get(service)
            .is_some_and(|failing| failing.contains_key(endpoint))
    }

    /// Forgets endpoints that do not exist any more.
    pub(crate) fn retain(&mut self, exist: &BTreeMap<ServiceKey, BTreeSet<EndpointId>>) {
        self.failing.retain(|service, failing| {
            let Some(endpoints) = exist.get(service) else {
                return false;
            };
            failing.retain(|endpoint, _| endpoints.contains(endpoint));
            !failing.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use strait_federation_api::Hostname;

    use super::*;

    #[test]
    fn observations_only_take_away_and_are_forgotten_with_their_endpoint() {
        let (service, endpoint) = (
            ServiceKey::parse("demo", "greeter").unwrap(),
            EndpointId(Hostname::parse("a").unwrap()),
        );
        let mut health = Health::default();
        assert!(health.is_healthy(&service, &endpoint));
        assert!(!health.observe(&service, &endpoint, None));
        assert!(health.observe(&service, &endpoint, Some(Reason::ProbeFailed)));
        assert!(!health.observe(&service, &endpoint, Some(Reason::ProbeFailed)));
        assert!(!health.is_healthy(&service, &endpoint));
        health.retain(&BTreeMap::from([(
            service.clone(),
            BTreeSet::from([endpoint.clone()]),
        )]));
        assert!(!health.is_healthy(&service, &endpoint));
        health.retain(&BTreeMap::from([(service.clone(), BTreeSet::new())]));
        assert!(health.is_healthy(&service, &endpoint));
    }
}
