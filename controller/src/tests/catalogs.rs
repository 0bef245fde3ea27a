//! Catalogs between real controllers: offered, imported, withdrawn, kept over restarts.

use std::{net::IpAddr, sync::Arc};

use strait_federation_api::{
    Reason, ServiceKey, TrustDomain, catalog::EndpointId, control::GatewayEvent, observation::Observation,
    snapshot::BackendCluster, view::ConditionStatus,
};

use super::world::{Node, World, join, until};
use crate::RotateAction;

/// East imports west's greeter, which west exports to it.
pub(super) async fn federated(world: &World) -> (Node, Node) {
    let (mut east, mut west) = (world.node("east", 17001), world.node("west", 17002));
    west.add_service("greeter", 8080);
    east.start();
    west.start();
    join(&east, &west).await;
    west.edit(
        "east.yaml",
        "exports: []",
        "exports: [{namespace: demo, name: greeter}]",
    );
    east.edit(
        "west.yaml",
        "imports: []",
        "imports: [{namespace: demo, name: greeter}]",
    );
    until("the import is there", || {
        east.import("greeter").is_some_and(|i| !i.backends[0].stale)
    })
    .await;
    until("synced", || east.is("west", "Synced", Reason::Synced)).await;
    (east, west)
}

fn vip(node: &Node) -> IpAddr {
    node.import("greeter").unwrap().vips[0]
}

fn export_condition(node: &Node, kind: &str) -> Option<(ConditionStatus, Reason)> {
    let view = node.view();
    let condition = view.exports.first()?.conditions.iter().find(|c| c.kind == kind)?;
    Some((condition.status, condition.reason))
}

#[tokio::test]
async fn a_service_travels_and_its_verdict_comes_back() {
    let world = World::default();
    let (east, west) = federated(&world).await;
    let import = east.import("greeter").unwrap();
    assert_eq!(import.backends.len(), 1);
    assert_eq!(
        import.backends[0].cluster,
        BackendCluster::Peer(west.snapshot().cluster.clone())
    );
    assert_eq!(import.backends[0].ready, 2);
    assert!(!import.backends[0].stale);
    assert_ne!(
        import.vips, import.backends[0].vips,
        "the cluster's own name has an address of its own"
    );
    until("the verdict is back", || {
        export_condition(&west, "Ready") == Some((ConditionStatus::True, Reason::Exported))
    })
    .await;
    let peer = east.snapshot().peers.values().next().unwrap().clone();
    assert!(peer.importing && !peer.instances.is_empty());
    let export = west.snapshot().exports.values().next().unwrap().clone();
    assert_eq!(
        export.allowed.iter().map(|c| c.as_str()).collect::<Vec<_>>(),
        ["east"]
    );
    until("synced", || east.is("west", "Synced", Reason::Synced)).await;
}

#[tokio::test]
async fn what_no_rule_allows_changes_nothing_and_is_shown_with_the_rule() {
    let world = World::default();
    let (east, west) = federated(&world).await;
    let before = east.snapshot();
    west.add_service("secret", 9000);
    west.edit(
        "east.yaml",
        "exports: [{namespace: demo, name: greeter}]",
        "exports: [{}]",
    );
    until("the offer is shown", || !east.view().imports.offers.is_empty()).await;
    let view = east.view();
    let offer = &view.imports.offers[0];
    assert_eq!(
        (offer.service.to_string().as_str(), offer.reason),
        ("demo/secret", Reason::NotAllowed)
    );
    assert!(
        offer.rule.starts_with("- {namespace: demo, name: secret}"),
        "{}",
        offer.rule
    );
    assert_eq!(before.imports, east.snapshot().imports);
    until("west hears why", || {
        let view = west.view();
        let secret = view.exports.iter().find(|e| e.service.name.as_str() == "secret");
        secret.is_some_and(|e| e.peers.iter().any(|p| p.reason == Reason::NotAllowed))
    })
    .await;
    // The line that is shown does let it in.
    let line = offer
        .rule
        .split("   #")
        .next()
        .unwrap()
        .trim_start_matches("- ")
        .to_owned();
    let rules = format!("imports: [{{namespace: demo, name: greeter}}, {line}]");
    east.edit("west.yaml", "imports: [{namespace: demo, name: greeter}]", &rules);
    until("it is imported", || east.import("secret").is_some()).await;
}

#[tokio::test]
async fn what_is_withdrawn_goes_at_once_and_comes_back_to_its_address() {
    let world = World::default();
    let (east, west) = federated(&world).await;
    let ip = vip(&east);
    west.remove("export-greeter.yaml");
    until("withdrawn", || east.import("greeter").is_none()).await;
    assert!(west.snapshot().exports.is_empty());
    west.export("greeter");
    until("back", || east.import("greeter").is_some()).await;
    assert_eq!(vip(&east), ip);
    west.edit(
        "east.yaml",
        "exports: [{namespace: demo, name: greeter}]",
        "exports: []",
    );
    until("uncovered", || east.import("greeter").is_none()).await;
    assert_eq!(
        export_condition(&west, "Ready"),
        Some((ConditionStatus::False, Reason::NotCovered))
    );
}

#[tokio::test]
async fn failing_endpoints_flow_into_the_catalog() {
    let world = World::default();
    let (east, west) = federated(&world).await;
    let service = ServiceKey::parse("demo", "greeter").unwrap();
    let endpoint: EndpointId = west.snapshot().exports[&service].ports[0].endpoints[0].id.clone();
    let health = |healthy| {
        GatewayEvent::Observed(Observation::EndpointHealth {
            service: service.clone(),
            endpoint: endpoint.clone(),
            healthy,
            reason: (!healthy).then_some(Reason::ProbeFailed),
        })
    };
    west.tell(health(false)).await;
    until("one less", || {
        east.import("greeter").is_some_and(|i| i.backends[0].ready == 1)
    })
    .await;
    west.tell(health(true)).await;
    until("both again", || {
        east.import("greeter").is_some_and(|i| i.backends[0].ready == 2)
    })
    .await;
}

#[tokio::test]
async fn a_broken_file_withdraws_nothing_and_says_so() {
    let world = World::default();
    let (east, west) = federated(&world).await;
    let good = west.read("svc-greeter.yaml");
    west.write("svc-greeter.yaml", "kind: Service\n  broken: [");
    until("west says so", || {
        west.view()
            .conditions
            .iter()
            .any(|c| c.kind == "ConfigValid" && c.reason == Reason::ConfigInvalid)
    })
    .await;
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    assert!(east.import("greeter").is_some());
    west.write("svc-greeter.yaml", &good.replace("10.1.0.6", "10.1.0.7"));
    until("good again", || {
        west.view()
            .conditions
            .iter()
            .all(|c| c.kind != "ConfigValid" || c.status == ConditionStatus::True)
    })
    .await;
}

#[tokio::test]
async fn a_restart_with_the_peer_away_serves_what_was_said_last() {
    let world = World::default();
    let (mut east, mut west) = federated(&world).await;
    let ip = vip(&east);
    tokio::time::sleep(std::time::Duration::from_millis(700)).await;
    west.stop().await;
    east.stop().await;
    // Before anything runs, the first snapshot has it.
    let prepared = east.prepare().unwrap();
    let first = Arc::clone(&prepared.snapshot().borrow());
    let import = first.imports.values().next().expect("served from the cache");
    assert_eq!(import.vips[0], ip);
    assert!(import.backends[0].stale);
    drop(prepared);
    east.start();
    west.start();
    until("current again", || {
        east.import("greeter").is_some_and(|i| !i.backends[0].stale)
    })
    .await;
    assert_eq!(vip(&east), ip);
    assert!(east.snapshot().epoch.0 >= 3, "each start has an epoch of its own");
}

#[tokio::test]
async fn without_the_cache_addresses_and_trust_are_the_same() {
    let world = World::default();
    let (mut east, mut west) = federated(&world).await;
    let (ip, domain) = (vip(&east), east.domain());
    east.stop().await;
    west.stop().await;
    for node in [&east, &west] {
        std::fs::remove_dir_all(crate::cache::cache_dir(&node.state_dir())).unwrap();
    }
    east.start();
    assert!(east.import("greeter").is_none(), "the cache is really gone");
    west.start();
    until("rebuilt from the peer", || east.import("greeter").is_some()).await;
    assert_eq!(vip(&east), ip);
    assert_eq!(east.domain(), domain);
    assert!(east.trusts("west") && west.trusts("east"));
}

#[tokio::test]
async fn suspended_closes_everything_and_keeps_trust_and_addresses() {
    let world = World::default();
    let (east, west) = federated(&world).await;
    let ip = vip(&east);
    east.edit("west.yaml", "mode: Active", "mode: Suspended");
    until("imports are withdrawn", || east.import("greeter").is_none()).await;
    assert!(east.is("west", "Connected", Reason::PeerSuspended));
    assert!(east.store().view().peer(&west.domain()).is_some());
    east.edit("west.yaml", "mode: Suspended", "mode: Active");
    until("back", || east.import("greeter").is_some()).await;
    assert_eq!(vip(&east), ip);
}

#[tokio::test]
async fn drain_edits_the_manifest_and_reaches_the_gateway() {
    let world = World::default();
    let (east, _west) = federated(&world).await;
    let mode = |node: &Node| node.snapshot().peers.values().next().unwrap().mode;
    east.handle().drain("west", false).await.unwrap();
    assert!(east.read("west.yaml").contains("mode: Drain"));
    until("draining", || {
        mode(&east) == strait_federation_api::snapshot::PeerMode::Drain
    })
    .await;
    assert!(east.import("greeter").is_some(), "names stay");
    east.handle().drain("west", true).await.unwrap();
    until("active", || {
        mode(&east) == strait_federation_api::snapshot::PeerMode::Active
    })
    .await;
    assert!(east.handle().drain("nobody", false).await.is_err());
}

/// Static trust of `node` in `peer`.
fn trust_statically(node: &Node, peer: &Node, port: u16, updates: &str, rules: &str) {
    let bundle = peer.handle().bundle();
    node.write("peer.bundle.json", &bundle.spiffe);
    let (name, domain) = (peer.name, bundle.trust_domain);
    node.write(
        "peer.yaml",
        &format!(
            "apiVersion: strait.dev/v1alpha1\nkind: Federation\nmetadata: {{name: {name}}}\nspec:\n  peer: {{cluster: {name}, addresses: [\"127.0.0.1:{port}\"]}}\n  trust: {{static: {{trustDomain: {domain}, bundleFile: peer.bundle.json, updates: {updates}}}}}\n  {rules}\n"
        ),
    );
}

#[tokio::test]
async fn static_trust_gives_the_same_end_and_obeys_who_may_update_it() {
    let world = World::default();
    let (mut east, mut west) = (world.node("east", 17001), world.node("west", 17002));
    west.add_service("greeter", 8080);
    east.start();
    west.start();
    trust_statically(&east, &west, 17002, "Follow", "imports: [{}]");
    trust_statically(&west, &east, 17001, "Pinned", "exports: [{}]");
    until("imported", || east.import("greeter").is_some()).await;
    assert!(east.trusts("west") && west.trusts("east"));
    // West rotates: east follows. East rotates: west, pinned, says that it does not.
    let sequence =
        |node: &Node, domain: &TrustDomain| node.store().view().peer(domain).unwrap().bundle().sequence();
    west.handle().rotate_root(RotateAction::Start).await.unwrap();
    until("east follows", || sequence(&east, &west.domain()) > 1).await;
    east.handle().rotate_root(RotateAction::Start).await.unwrap();
    until("east hears that west is pinned", || {
        east.is("west", "Trusted", Reason::TrustPinned)
    })
    .await;
    assert_eq!(sequence(&west, &east.domain()), 1);
    // Git catches up.
    west.write("peer.bundle.json", &east.handle().bundle().spiffe);
    until("west holds it", || sequence(&west, &east.domain()) == 2).await;
}

#[tokio::test]
async fn thousands_of_services_arrive_and_one_change_is_one_change() {
    const MANY: usize = 1500;
    let world = World::default();
    let (east, west) = federated(&world).await;
    let mut text = String::new();
    for n in 0..MANY {
        text += &format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{namespace: demo, name: s{n}}}\nspec: {{ports: [{{port: 80}}]}}\n---\napiVersion: multicluster.x-k8s.io/v1beta1\nkind: ServiceExport\nmetadata: {{namespace: demo, name: s{n}}}\n---\n"
        );
    }
    east.edit(
        "west.yaml",
        "imports: [{namespace: demo, name: greeter}]",
        "imports: [{}]",
    );
    west.edit(
        "east.yaml",
        "exports: [{namespace: demo, name: greeter}]",
        "exports: [{}]",
    );
    west.write("many.yaml", &text);
    until("all are imported", || east.snapshot().imports.len() == MANY + 1).await;
    let before = east.snapshot();
    let vips: std::collections::BTreeSet<_> = before.imports.values().flat_map(|i| i.vips.clone()).collect();
    assert_eq!(vips.len(), MANY + 1, "each has an address of its own");
    west.edit("svc-greeter.yaml", "10.1.0.6", "10.1.0.7");
    west.remove("export-greeter.yaml");
    until("one is gone", || east.snapshot().imports.len() == MANY).await;
    let after = east.snapshot();
    let kept = before
        .imports
        .iter()
        .filter(|(key, import)| after.imports.get(*key).is_some_and(|i| Arc::ptr_eq(i, import)));
    assert_eq!(kept.count(), MANY, "what did not change was not rebuilt");
}

#[tokio::test]
async fn a_peer_restored_from_an_old_backup_is_refused() {
    let world = World::default();
    let (east, mut west) = federated(&world).await;
    west.stop().await;
    let backup = tempfile::tempdir().unwrap();
    let records = crate::records::records_dir(&west.state_dir());
    let copy = |from: &std::path::Path, to: &std::path::Path| {
        for entry in std::fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    };
    copy(&records, backup.path());
    for _ in 0..3 {
        west.start();
        until("synced", || east.is("west", "Synced", Reason::Synced)).await;
        west.stop().await;
        until("east notices", || !east.is("west", "Synced", Reason::Synced)).await;
    }
    copy(backup.path(), &records);
    west.start();
    until("refused", || east.is("west", "Synced", Reason::EpochTooOld)).await;
    assert!(east.import("greeter").is_some(), "what was held stays");
}
