//! A folder that is written to: what is seen, when, and what stays in force.

use std::fs;

use strait_federation_api::resources::PeerSpec;

use super::*;

const CLUSTER: &str = "apiVersion: strait.dev/v1alpha1\nkind: Cluster\nmetadata: {name: east}\n";
const FEDERATION: &str = "apiVersion: strait.dev/v1alpha1
kind: Federation
metadata: {name: west}
spec:
  trust: {join: {tokenFile: west.token}}
";

struct Folder {
    dir: tempfile::TempDir,
    state: tempfile::TempDir,
}

impl Folder {
    fn new() -> Self {
        let folder = Self {
            dir: tempfile::tempdir().unwrap(),
            state: tempfile::tempdir().unwrap(),
        };
        folder.write("cluster.yaml", CLUSTER);
        folder
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.dir.path().join(name), text).unwrap();
    }

    fn config(&self) -> FileSourceConfig {
        FileSourceConfig {
            debounce: std::time::Duration::from_millis(20),
            poll: std::time::Duration::from_millis(200),
            ..FileSourceConfig::new(self.dir.path().into(), self.state.path().into())
        }
    }

    fn open(&self) -> FileSource {
        FileSource::open(self.config())
    }
}

fn federations(state: &SourceState) -> usize {
    state.set.as_ref().unwrap().federations.len()
}

async fn until(
    states: &mut watch::Receiver<SourceState>,
    what: &str,
    is: impl Fn(&SourceState) -> bool,
) -> SourceState {
    let found = tokio::time::timeout(std::time::Duration::from_secs(20), states.wait_for(|s| is(s)));
    found
        .await
        .unwrap_or_else(|_| panic!("never seen: {what}"))
        .unwrap()
        .clone()
}

#[tokio::test]
async fn changes_are_seen_live_and_a_broken_file_keeps_the_last_good_state() {
    let folder = Folder::new();
    let mut states = Box::new(folder.open()).watch();
    assert_eq!(federations(&states.borrow_and_update().clone()), 0);
    folder.write("west.yaml", FEDERATION);
    let seen = until(&mut states, "a new file", |s| federations(s) == 1).await;
    assert!(!seen.broken);
    folder.write("west.yaml", "kind: [");
    let seen = until(&mut states, "a broken file", |s| s.broken).await;
    assert_eq!(federations(&seen), 1, "the last good state stays");
    assert!(!seen.findings.is_empty());
    fs::remove_file(folder.dir.path().join("west.yaml")).unwrap();
    until(&mut states, "the file is gone", |s| {
        !s.broken && federations(s) == 0
    })
    .await;
}

#[tokio::test]
async fn a_token_that_arrives_later_is_seen_and_never_shown() {
    let folder = Folder::new();
    folder.write("west.yaml", FEDERATION);
    let mut states = Box::new(folder.open()).watch();
    let name = FederationName::parse("west").unwrap();
    assert!(states.borrow_and_update().references.tokens[&name].0.is_err());
    folder.write("west.token", "secret-text\n");
    let seen = until(&mut states, "the token", |s| s.references.tokens[&name].0.is_ok()).await;
    assert!(!format!("{seen:?}").contains("secret-text"));
}

#[test]
fn a_restart_with_a_broken_folder_has_the_last_good_state() {
    let folder = Folder::new();
    folder.write("west.yaml", FEDERATION);
    drop(folder.open());
    folder.write("west.yaml", "spec: {");
    let source = folder.open();
    assert!(source.state().broken);
    assert_eq!(federations(source.state()), 1);
    assert_eq!(source.state().references.tokens.len(), 1);
}

#[test]
fn without_a_last_good_state_there_is_none() {
    let folder = Folder::new();
    folder.write("cluster.yaml", "kind: Cluster");
    let source = folder.open();
    assert!(source.state().broken && source.state().set.is_none());
}

#[test]
fn only_visible_yaml_files_of_the_folder_itself_count() {
    let folder = Folder::new();
    for name in [".hidden.yaml", "notes.txt", "west.json", "west.yaml~"] {
        folder.write(name, "garbage: [");
    }
    fs::create_dir(folder.dir.path().join("sub.yaml")).unwrap();
    folder.write("other.yml", FEDERATION);
    let source = folder.open();
    assert!(!source.state().broken, "{:?}", source.state().findings);
    assert_eq!(federations(source.state()), 1);
}

#[test]
fn bundles_are_read_beside_the_manifest() {
    let folder = Folder::new();
    let text = FEDERATION.replace(
        "  trust: {join: {tokenFile: west.token}}\n",
        "  peer: {cluster: west, addresses: []}\n  trust: {static: {trustDomain: west.abcdefghijklmnopqrstuvwxyz, bundleFile: west.json}}\n",
    );
    folder.write("west.yaml", &text);
    folder.write("west.json", "{\"keys\":[]}");
    let source = folder.open();
    assert!(!source.state().broken, "{:?}", source.state().findings);
    let set = source.state().set.clone().unwrap();
    let peer: &PeerSpec = set
        .federations
        .values()
        .next()
        .unwrap()
        .spec
        .peer
        .as_ref()
        .unwrap();
    assert_eq!(peer.cluster.as_str(), "west");
    assert_eq!(
        source.state().references.bundles.values().next(),
        Some(&Ok("{\"keys\":[]}".to_string()))
    );
}
