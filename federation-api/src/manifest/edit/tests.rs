//! What edits keep, and what they refuse.

use proptest::prelude::*;

use super::*;
use crate::{
    manifest::load,
    resources::{InviteTrust, TokenSource},
};

fn west() -> FederationName {
    FederationName::parse("west").unwrap()
}

fn join() -> Trust {
    Trust::Join(TokenSource::TokenFile("secrets/east token".into()))
}

const TEXT: &str = "# ours\napiVersion: strait.dev/v1alpha1\nkind: Cluster\nmetadata: {name: east}\n--- # the peer\n\
    apiVersion: strait.dev/v1alpha1\nkind: Federation\nmetadata: {name: west} # ask Ann\nspec:\n  # how we met\n  trust:\n    \
    invite:\n      ttl: 1h\n      serial: 1 # first\n\n  # rules\n  exports: [{}]\n  mode: Active # for now\n";

#[test]
fn only_the_field_changes_and_comments_stay() {
    let out = set_mode(TEXT, &west(), PeerMode::Drain).unwrap();
    assert_eq!(out, TEXT.replace("mode: Active #", "mode: Drain #"));
    let out = set_trust(TEXT, &west(), &join()).unwrap();
    let old = "trust:\n    invite:\n      ttl: 1h\n      serial: 1 # first";
    let new = "trust: {join: {tokenFile: \"secrets/east token\"}} # first";
    assert_eq!(out, TEXT.replace(old, new));
    assert_eq!(load(&[("f", out)]).errors, vec![]);
}

#[test]
fn a_missing_field_is_added_in_either_style() {
    let block = "apiVersion: strait.dev/v1alpha1\nkind: Federation\nmetadata: {name: west}\nspec:\n  # c\n  exports: []\n";
    let out = set_mode(block, &west(), PeerMode::Suspended).unwrap();
    assert_eq!(out, block.replace("  exports", "  mode: Suspended\n  exports"));
    let flow =
        "{apiVersion: strait.dev/v1alpha1, kind: Federation, metadata: {name: west}, spec: {exports: []}}";
    let out = set_mode(flow, &west(), PeerMode::Drain).unwrap();
    assert_eq!(out, flow.replace("{exports", "{mode: Drain, exports"));
    let json = r#"{"apiVersion": "strait.dev/v1alpha1", "kind": "Federation", "metadata": {"name": "west"}, "spec": {"mode": "Active"}}"#;
    let out = set_mode(json, &west(), PeerMode::Drain).unwrap();
    assert_eq!(out, json.replace("Active", "Drain"));
    assert!(serde_json::from_str::<serde_json::Value>(&set_trust(json, &west(), &join()).unwrap()).is_ok());
}

#[test]
fn windows_line_ends_and_lists_are_kept() {
    let text = TEXT.replace('\n', "\r\n");
    let out = set_mode(&text, &west(), PeerMode::Drain).unwrap();
    assert_eq!(out, text.replace("mode: Active #", "mode: Drain #"));
    let bare = text.replace("  mode: Active # for now\r\n", "");
    let out = set_mode(&bare, &west(), PeerMode::Drain).unwrap();
    assert_eq!(out, bare.replace("  trust:", "  mode: Drain\r\n  trust:"));
    let list = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: strait.dev/v1alpha1\n  kind: Federation\n  \
        metadata: {name: west}\n  spec: # here\n    trust: {invite: {}}\n- {a: b}\n";
    let out = set_trust(list, &west(), &join()).unwrap();
    assert_eq!(
        out,
        list.replace("{invite: {}}", "{join: {tokenFile: \"secrets/east token\"}}")
    );
}

#[test]
fn what_cannot_be_done_safely_is_refused() {
    let head = "apiVersion: strait.dev/v1alpha1\nkind: Federation\nmetadata: {name: west}\n";
    assert_eq!(
        set_mode("a: 1", &west(), PeerMode::Drain),
        Err(EditError::NotFound(west()))
    );
    let twice = format!("{head}spec: {{}}\n---\n{head}spec: {{}}\n");
    assert_eq!(
        set_mode(&twice, &west(), PeerMode::Drain),
        Err(EditError::Ambiguous(west()))
    );
    let broken = format!("{head}spec: {{\n");
    assert!(matches!(
        set_mode(&broken, &west(), PeerMode::Drain),
        Err(EditError::Unreadable { .. })
    ));
    for bad in [
        "",
        "spec:\n",
        "spec:\n  mode: &m Active\n  x: *m\n",
        "spec: text\n",
    ] {
        let got = set_mode(&format!("{head}{bad}"), &west(), PeerMode::Drain);
        assert!(
            matches!(got, Err(EditError::Unsafe { .. })),
            "{bad:?} gave {got:?}"
        );
    }
    let error = set_mode(&format!("{head}spec:\n"), &west(), PeerMode::Drain)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("line ") && error.contains("mode: Drain"),
        "{error}"
    );
}

#[test]
fn an_empty_value_and_an_empty_spec_are_filled() {
    let head = "apiVersion: strait.dev/v1alpha1\nkind: Federation\nmetadata: {name: west}\n";
    let text = format!("{head}spec:\n  mode: # later\n  exports: []\n");
    let out = set_mode(&text, &west(), PeerMode::Drain).unwrap();
    assert_eq!(out, text.replace("mode: #", "mode: Drain #"));
    let out = set_mode(&format!("{head}spec: {{}}\n"), &west(), PeerMode::Drain).unwrap();
    assert_eq!(out, format!("{head}spec: {{mode: Drain}}\n"));
}

#[test]
fn a_new_manifest_loads_and_can_be_edited() {
    let trust = Trust::Invite(InviteTrust::default());
    let text = new_federation(&west(), &trust);
    assert!(
        text.contains("  trust: {invite: {serial: 1, ttl: 1h}}\n"),
        "{text}"
    );
    let cluster = "apiVersion: strait.dev/v1alpha1\nkind: Cluster\nmetadata: {name: east}\n";
    let l = load(&[("c", cluster), ("f", &text)]);
    assert_eq!((l.errors, l.warnings), (vec![], vec![]));
    assert_eq!(l.resources.federations[&west()].spec.trust, trust);
    assert_eq!(set_trust(&text, &west(), &trust).as_deref(), Ok(&*text));
}

proptest! {
    /// Whatever stands around it, an accepted edit reads back as wanted and keeps every line that held no field of trust.
    #[test]
    fn an_accepted_edit_keeps_the_rest(
        lines in proptest::collection::vec("(  # [a-z ]{0,8}|  conflicts: Oldest|  exports:( \\[\\])?|| {0,4}# x|  zz: \"[a-z#:]{0,6}\"|  zy: \\|\\n    t[a-z ]{0,5})", 0..6),
        tail in "( # [a-z]{0,5})?",
    ) {
        let body = lines.join("\n");
        let text = format!("apiVersion: strait.dev/v1alpha1\nkind: Federation\nmetadata: {{name: west}}\nspec:\n  trust:\n    invite: {{}}{tail}\n{body}\n---\nother: doc # kept\n");
        if let Ok(out) = set_trust(&text, &west(), &join()) {
            let new = "trust: {join: {tokenFile: \"secrets/east token\"}}";
            prop_assert!(out.contains(new));
            prop_assert!(out.ends_with(&format!("{tail}\n{body}\n---\nother: doc # kept\n")), "{}", out);
        }
    }
}
