//! What a change is said to take away.

use super::*;
use crate::manifest::load;

const BASE: &str = "apiVersion: strait.dev/v1alpha1
kind: Cluster
metadata: {name: east}
---
apiVersion: strait.dev/v1alpha1
kind: Federation
metadata: {name: west}
spec:
  peer: {cluster: west}
  trust: {static: {trustDomain: west.x, bundleFile: w.json}}
  exports: [{namespace: demo}]
  imports: [{namespace: demo, name: cart}, {namespace: shop}]
---
apiVersion: multicluster.x-k8s.io/v1beta1
kind: ServiceExport
metadata: {name: greeter, namespace: demo}
---
apiVersion: v1
kind: Service
metadata: {name: greeter, namespace: demo}
spec: {ports: [{name: http, port: 80}, {name: grpc, port: 90}]}
";

fn set(text: &str) -> ResourceSet {
    let l = load(&[("f", text)]);
    assert_eq!(l.errors, vec![], "{text}");
    l.resources
}

fn key(s: &str) -> ServiceKey {
    s.parse().unwrap()
}

fn live() -> Live {
    let name = FederationName::parse("west").unwrap();
    let cluster = ClusterId::parse("west").unwrap();
    let import = |remote: &str, vip: &str| LiveImport {
        vips: vec![vip.parse().unwrap()],
        sources: vec![(cluster.clone(), key(remote))],
        local: false,
    };
    Live {
        peers: BTreeMap::from([(
            name,
            LivePeer {
                cluster: Some(cluster.clone()),
                tunnels: 2,
                streams: 7,
                offers: BTreeSet::from([key("demo/cart"), key("shop/till"), key("secret/x")]),
            },
        )]),
        imports: BTreeMap::from([
            (key("demo/cart"), import("demo/cart", "127.77.0.1")),
            (key("shop/till"), import("shop/till", "127.77.0.2")),
        ]),
    }
}

/// What replacing `from` by `to` in the base would take away.
fn said(from: &str, to: &str, live: Option<&Live>) -> Vec<String> {
    assert!(BASE.contains(from), "{from}");
    let changes = diff(&set(BASE), &set(&BASE.replace(from, to)), live);
    changes.iter().map(ToString::to_string).collect()
}

#[test]
fn no_change_takes_nothing_away() {
    assert_eq!(diff(&set(BASE), &set(BASE), Some(&live())), vec![]);
    assert_eq!(
        said(
            "metadata: {name: west}",
            "metadata: {name: west, labels: {a: b}}",
            None
        ),
        [""; 0]
    );
}

#[test]
fn a_suspended_federation_loses_links_exports_and_imports_but_keeps_addresses() {
    let got = said("  exports:", "  mode: Suspended\n  exports:", Some(&live()));
    assert_eq!(
        got,
        [
            "Federation west: mode Active becomes Suspended (links close, imports are withdrawn, trust and addresses stay)",
            "Federation west: 2 tunnels are cut, 7 open streams are reset",
            "export demo/greeter: withdrawn from west (no export rule covers it any more, or the Federation is gone or suspended)",
            "import demo/cart: no longer served by west (demo/cart there)",
            "import shop/till: no longer served by west (shop/till there)",
        ]
    );
}

#[test]
fn a_removed_federation_takes_trust_and_addresses_too() {
    let start = BASE
        .find("---\napiVersion: strait.dev/v1alpha1\nkind: Federation")
        .unwrap();
    let end = BASE.find("---\napiVersion: multi").unwrap();
    let got = said(&BASE[start..end], "", Some(&live()));
    assert_eq!(got[0], "Federation west: trust in west is removed");
    assert_eq!(
        got[1],
        "Federation west: 2 tunnels are cut, 7 open streams are reset"
    );
    assert!(got.contains(
        &"import demo/cart: address 127.77.0.1 is given back (no cluster serves the name any more)".into()
    ));
    assert_eq!(got.len(), 7, "{got:#?}");
}

#[test]
fn rules_that_go_are_told_with_and_without_a_running_process() {
    let rules = "[{namespace: demo, name: cart}, {namespace: shop}]";
    let with = said(rules, "[{namespace: demo, name: cart}]", Some(&live()));
    assert_eq!(
        with[0],
        "import shop/till: no longer served by west (shop/till there)"
    );
    assert_eq!(with.len(), 2, "{with:#?}");
    let without = said(rules, "[]", None);
    assert_eq!(
        without[0],
        "import demo/cart: no longer served by west (demo/cart there)"
    );
    assert!(
        without[1].contains("import rule {\"namespace\":\"shop\""),
        "{without:#?}"
    );
    let renamed = said(
        rules,
        "[{namespace: demo, name: cart, as: {name: basket}}, {namespace: shop}]",
        Some(&live()),
    );
    assert_eq!(
        renamed[0],
        "import demo/cart: what west serves becomes demo/basket"
    );
    assert!(renamed[1].contains("127.77.0.1 is given back"), "{renamed:#?}");
}

#[test]
fn exports_ports_trust_and_ranges() {
    let unexport = said(
        "kind: ServiceExport\nmetadata: {name: greeter",
        "kind: ServiceExport\nmetadata: {name: other",
        None,
    );
    assert_eq!(
        unexport,
        ["export demo/greeter: withdrawn from west (its ServiceExport is gone)"]
    );
    let no_service = said(
        "kind: Service\nmetadata: {name: greeter",
        "kind: Service\nmetadata: {name: other",
        None,
    );
    assert_eq!(
        no_service,
        ["export demo/greeter: withdrawn from west (there is no Service demo/greeter)"]
    );
    let port = said(", {name: grpc, port: 90}", "", None);
    assert_eq!(port, ["export demo/greeter: port TCP/90 is withdrawn from west"]);
    let trust = said("trustDomain: west.x", "trustDomain: west.y", None);
    assert_eq!(
        trust,
        ["Federation west: static trust in west.x with west is replaced by static trust in west.y with west"]
    );
    let range = said(
        "metadata: {name: east}",
        "metadata: {name: east}\nspec: {vipRange: [10.9.0.0/16]}",
        Some(&live()),
    );
    assert_eq!(range.len(), 2, "{range:#?}");
    assert!(range[0].contains("spec.vipRange no longer holds it"));
    let renamed = said("metadata: {name: east}", "metadata: {name: far-east}", None);
    assert_eq!(
        renamed,
        ["cluster east becomes far-east: every peer must join again"]
    );
}

#[test]
fn a_new_token_or_a_named_peer_is_no_other_trust() {
    let joined = BASE.replace(
        "static: {trustDomain: west.x, bundleFile: w.json}",
        "join: {tokenFile: t}",
    );
    let invited = joined
        .replace("join: {tokenFile: t}", "invite: {serial: 2}")
        .replace("  peer: {cluster: west}\n", "");
    assert_eq!(diff(&set(&joined), &set(&invited), None), vec![]);
    assert_eq!(diff(&set(&invited), &set(&joined), None), vec![]);
    let moved = joined.replace("cluster: west}", "cluster: north}");
    assert_eq!(diff(&set(&joined), &set(&moved), None).len(), 1);
    assert_eq!(diff(&set(&joined), &set(BASE), None).len(), 1);
}

#[test]
fn changes_have_a_stable_json_form() {
    let change = Change::ImportLost {
        federation: FederationName::parse("west").unwrap(),
        service: key("a/b"),
        local: key("c/d"),
    };
    let json = serde_json::to_string(&change).unwrap();
    assert_eq!(
        json,
        r#"{"change":"importLost","federation":"west","service":"a/b","local":"c/d"}"#
    );
    assert_eq!(serde_json::from_str::<Change>(&json).unwrap(), change);
}
