//! What loads, and what is refused with which words.

use super::*;
use crate::{
    catalog::ServiceKind,
    ids::{ServiceKey, Uid},
    resources::{FederationName, ImportDecision, Trust},
    snapshot::HealthCheck,
};

/// A whole small cluster, as the documentation shows it.
pub(super) const GOOD: &str = include_str!("testdata/good.yaml");

fn key(s: &str) -> ServiceKey {
    s.parse().unwrap()
}

fn loaded(text: &str) -> Loaded {
    load(&[("good.yaml", text)])
}

#[test]
fn a_whole_cluster_loads_without_a_word() {
    let l = loaded(GOOD);
    assert_eq!((l.errors, l.warnings), (vec![], vec![]));
    let cluster = l.resources.cluster.unwrap();
    assert_eq!(cluster.id.as_str(), "east");
    assert_eq!(cluster.advertised()[0].to_string(), "127.0.0.1:7443");
    let west = &l.resources.federations[&FederationName::parse("west").unwrap()];
    assert!(matches!(west.spec.trust, Trust::Invite(_)));
    assert!(west.spec.exports.covers(&key("demo/greeter")));
    let decision = west.spec.imports.decide(&key("shop/cart"));
    assert!(matches!(decision, ImportDecision::Allowed { by_wildcard: true, .. }), "{decision:?}");
    assert_eq!(l.origins[&ObjectId::new("Federation", "west")].file.as_ref(), "good.yaml");
}

#[test]
fn exports_resolve_ports_by_name_and_readiness_like_kube_proxy() {
    let l = loaded(GOOD);
    let all = exported_services(&l.resources);
    let greeter = all[&key("demo/greeter")].as_ref().unwrap();
    let http = &greeter.ports[0];
    let addresses: Vec<String> = http.endpoints.iter().map(|e| format!("{} {}", e.address, e.ready)).collect();
    assert_eq!(addresses, ["127.0.0.1:9001 true", "127.0.0.1:9002 false"]);
    assert_eq!(greeter.health, HealthCheck::Http { path: "/healthz".into() });
    let offer = greeter.offered(Uid::parse("u").unwrap(), 1, None, |_| true);
    assert_eq!((offer.kind, offer.ready, offer.replayable_ports), (ServiceKind::ClusterSetIp, 1, vec![80]));
    assert_eq!(greeter.offered(Uid::parse("u").unwrap(), 1, None, |_| false).ready, 0);
    let ids: std::collections::BTreeSet<_> = http.endpoints.iter().map(|e| &e.id).collect();
    assert_eq!(ids.len(), 2, "two endpoints of one host are two endpoints");
}
