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
    assert!(
        matches!(
            decision,
            ImportDecision::Allowed {
                by_wildcard: true,
                ..
            }
        ),
        "{decision:?}"
    );
    assert_eq!(
        l.origins[&ObjectId::new("Federation", "west")].file.as_ref(),
        "good.yaml"
    );
}

#[test]
fn exports_resolve_ports_by_name_and_readiness_like_kube_proxy() {
    let l = loaded(GOOD);
    let all = exported_services(&l.resources);
    let greeter = all[&key("demo/greeter")].as_ref().unwrap();
    let http = &greeter.ports[0];
    let addresses: Vec<String> = http
        .endpoints
        .iter()
        .map(|e| format!("{} {}", e.address, e.ready))
        .collect();
    assert_eq!(addresses, ["127.0.0.1:9001 true", "127.0.0.1:9002 false"]);
    assert_eq!(
        greeter.health,
        HealthCheck::Http {
            path: "/healthz".into()
        }
    );
    let offer = greeter.offered(Uid::parse("u").unwrap(), 1, None, |_| true);
    assert_eq!(
        (offer.kind, offer.ready, offer.replayable_ports),
        (ServiceKind::ClusterSetIp, 1, vec![80])
    );
    assert_eq!(
        greeter
            .offered(Uid::parse("u").unwrap(), 1, None, |_| false)
            .ready,
        0
    );
    let ids: std::collections::BTreeSet<_> = http.endpoints.iter().map(|e| &e.id).collect();
    assert_eq!(ids.len(), 2, "two endpoints of one host are two endpoints");
}

/// A valid Cluster beside cases that have none.
const EAST: &str =
    "apiVersion: strait.dev/v1alpha1\nkind: Cluster\nmetadata: {name: east}\nspec: {allowLoopback: true}\n";

/// One case of the table: its manifest and what must be said, `error|warning Code line field`.
struct Case {
    name: String,
    text: String,
    expected: Vec<String>,
}

fn cases() -> Vec<Case> {
    let table = include_str!("testdata/mistakes.txt");
    let bodies = table.split("\n=== ").skip(1);
    bodies
        .map(|body| {
            let (name, rest) = body.split_once('\n').unwrap();
            let (expected, text): (Vec<&str>, Vec<&str>) = rest.lines().partition(|l| l.starts_with("!! "));
            Case {
                name: name.to_owned(),
                text: text.join("\n"),
                expected: expected
                    .iter()
                    .map(|l| l.trim_start_matches("!! ").trim().to_owned())
                    .collect(),
            }
        })
        .collect()
}

fn said(l: &Loaded) -> Vec<String> {
    let line = |kind: &str, f: &Finding| {
        format!("{kind} {} {} {}", f.code, f.line, f.field)
            .trim()
            .to_owned()
    };
    let errors = l.errors.iter().map(|f| line("error", f));
    errors
        .chain(l.warnings.iter().map(|f| line("warning", f)))
        .collect()
}

#[test]
fn each_mistake_has_its_own_words_and_place() {
    let mut wrong = Vec::new();
    let all = cases();
    assert!(all.len() >= 35, "{} cases", all.len());
    for case in &all {
        assert!(!case.expected.is_empty(), "{} expects nothing", case.name);
        let mut files = vec![("case.yaml", case.text.as_str())];
        if !case.text.contains("kind: Cluster\n") {
            files.push(("east.yaml", EAST));
        }
        let l = load(&files);
        let found = said(&l);
        if found != case.expected {
            wrong.push(format!(
                "{}\n  expected {:?}\n  found    {found:?}",
                case.name, case.expected
            ));
        }
        for f in l.errors.iter().chain(&l.warnings) {
            assert_eq!(&*f.file, "case.yaml", "{}: {f}", case.name);
            assert!(!f.problem.is_empty() && !f.fix.is_empty(), "{}: {f}", case.name);
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_code_that_a_manifest_can_earn_is_in_the_table() {
    let table = include_str!("testdata/mistakes.txt");
    let elsewhere = [
        ErrorCode::TooLarge,
        ErrorCode::TooDeep,
        ErrorCode::MissingCluster,
        ErrorCode::Unreadable,
    ];
    for code in ErrorCode::ALL.iter().filter(|c| !elsewhere.contains(c)) {
        assert!(table.contains(&format!(" {code} ")), "{code} has no case");
    }
}

#[test]
fn a_folder_without_a_cluster_says_so() {
    let l = load::<&str, &str>(&[]);
    assert_eq!(said(&l), ["error MissingCluster 0"]);
    let broken = EAST.replace("true", "maybe");
    assert_eq!(
        said(&load(&[("c", broken)])),
        ["error WrongType 4 spec.allowLoopback"]
    );
}

#[test]
fn sizes_depth_and_aliases_are_bounded() {
    let deep = format!("a: {}{}", "[".repeat(60), "]".repeat(60));
    assert_eq!(load(&[("f", deep)]).errors[0].code, ErrorCode::TooDeep);
    let long = " ".repeat(MAX_FILE_BYTES + 1);
    assert_eq!(load(&[("f", long)]).errors[0].code, ErrorCode::TooLarge);
    let mut laughs = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for i in 1..12 {
        let of = vec![format!("*a{}", i - 1); 10].join(", ");
        laughs.push_str(&format!("a{i}: &a{i} [{of}]\n"));
    }
    assert_eq!(load(&[("f", laughs)]).errors[0].code, ErrorCode::TooLarge);
    let mut chain = String::from("a0: &a0 [x]\n");
    for i in 1..2000 {
        chain.push_str(&format!("a{i}: &a{i} [*a{}]\n", i - 1));
    }
    assert_eq!(load(&[("f", chain)]).errors[0].code, ErrorCode::TooDeep);
}

#[test]
fn findings_do_not_follow_from_findings() {
    // The ServiceExport and the Service cannot be read: nobody is told that they do not exist.
    let text = "apiVersion: multicluster.x-k8s.io/v1beta1\nkind: ServiceExport\nmetadata: {name: a}\nspec: {x: 1}\n---\n\
        apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: 80}\n---\n\
        apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: a, labels: {kubernetes.io/service-name: a}}\n\
        addressType: IPv4\nports: null\n---\n\
        apiVersion: strait.dev/v1alpha1\nkind: Federation\nmetadata: {name: w}\nspec: {trust: {invite: {}}, exports: [{namespace: default, name: a}]}\n";
    let found = said(&load(&[("f", text), ("e", EAST)]));
    assert_eq!(
        found,
        ["error UnknownField 4 spec.x", "error WrongType 9 spec.ports"]
    );
}

#[test]
fn text_forms_that_editors_and_tools_produce_load_alike() {
    let plain = loaded(GOOD);
    let forms = [
        GOOD.replace('\n', "\r\n"),
        format!("\u{feff}{GOOD}"),
        format!("# only a comment\n---\n---\n{GOOD}\n...\n"),
    ];
    for form in forms {
        let l = loaded(&form);
        assert_eq!(l.errors, vec![], "{form:?}");
        assert_eq!(l.resources, plain.resources);
    }
    let json = r#"{"apiVersion": "strait.dev/v1alpha1", "kind": "Cluster", "metadata": {"name": "east"}, "spec": {"workers": 2}}"#;
    assert_eq!(loaded(json).resources.cluster.unwrap().spec.workers, Some(2));
}

#[test]
fn null_means_absent_as_in_kubernetes() {
    let text = format!(
        "{EAST}---\napiVersion: strait.dev/v1alpha1\nkind: Federation\nmetadata: {{name: w, labels: null}}\n\
         spec: {{peer: null, trust: {{invite: {{}}, join: null}}, imports: ~, exports: }}\n"
    );
    let l = loaded(&text);
    assert_eq!(l.errors, vec![]);
    assert_eq!(l.resources.federations.len(), 1);
}

mod fuzz {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// Arbitrary text is refused or read, never a panic, and every place lies within the text.
        #[test]
        fn arbitrary_text_never_panics(text in "\\PC{0,400}") {
            let l = load(&[("f", &text)]);
            let lines = u32::try_from(text.lines().count()).unwrap() + 2;
            prop_assert!(l.errors.iter().all(|f| f.line <= lines));
        }

        /// YAML-like text reaches deeper than arbitrary text.
        #[test]
        fn yaml_like_text_never_panics(text in "(([ \\n]{0,3}(apiVersion|kind|metadata|spec|name|trust|\\{|\\}|\\[|\\]|\"|'|: |- |&a|\\*a|\\||>|---\\n|#|<<|!t|v1|Service|Federation|1|~)){0,60})") {
            let _ = load(&[("f", &text)]);
        }

        /// A valid manifest with a few bytes changed, cut or doubled.
        #[test]
        fn mutated_manifests_never_panic(
            edits in proptest::collection::vec((0usize..4000, 0usize..12, "[\\PC\\n]{0,4}"), 1..6),
        ) {
            let mut text: Vec<char> = GOOD.chars().collect();
            for (at, cut, new) in edits {
                let at = at.min(text.len());
                let end = (at + cut).min(text.len());
                text.splice(at..end, new.chars());
            }
            let text: String = text.into_iter().collect();
            let l = load(&[("f", &text)]);
            let west = FederationName::parse("west").unwrap();
            if let Ok(edited) = edit::set_mode(&text, &west, crate::snapshot::PeerMode::Drain) {
                // An edit never adds a mistake.
                prop_assert!(load(&[("f", edited)]).errors.len() <= l.errors.len());
            }
            let _ = exported_services(&l.resources);
        }
    }
}
