//! Edits of manifest text that leave every other byte alone, comments included.
//!
//! Owns the two edits commands make: `spec.trust` (invite, join) and `spec.mode` (drain). An edit is checked by reading its own
//! result: if anything but the wanted field changed, it is refused and the text stays as it was. Pure: writing the file is the
//! caller's. Called by cli.

use std::{ops::Range, sync::Arc};

use super::{
    de,
    node::{self, FieldPath, Key, Node},
};
use crate::{
    resources::{FederationName, STRAIT_API_VERSION, Trust},
    snapshot::PeerMode,
};

/// Why an edit was refused. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// The text is not valid YAML as it stands.
    #[error("line {line}: {problem}; correct the file first (`strait validate` lists all mistakes)")]
    Unreadable {
        /// Line, from 1.
        line: u32,
        /// What is wrong.
        problem: String,
    },
    /// There is no such Federation in the text.
    #[error("no Federation {0} in this file")]
    NotFound(FederationName),
    /// The Federation occurs more than once.
    #[error("the Federation {0} is defined more than once in this file; remove one")]
    Ambiguous(FederationName),
    /// The field is written in a way that cannot be replaced safely.
    #[error("line {line}: {field} cannot be changed safely here ({why}); write it by hand: {wanted}")]
    Unsafe {
        /// Line, from 1.
        line: u32,
        /// `spec.trust` or `spec.mode`.
        field: &'static str,
        /// Why.
        why: &'static str,
        /// What was to be written.
        wanted: String,
    },
}

/// A new manifest for a Federation that has none yet: nothing exported, nothing imported.
#[must_use]
pub fn new_federation(name: &FederationName, trust: &Trust) -> String {
    format!(
        "apiVersion: {STRAIT_API_VERSION}\nkind: Federation\nmetadata: {{name: {name}}}\nspec:\n  trust: {}\n  \
         # What this peer may see here, and what may come in from it: nothing until a rule says so.\n  exports: []\n  \
         imports: []\n  mode: Active\n",
        flow(&value_of(trust), false)
    )
}

/// Sets `spec.trust` of one Federation.
///
/// # Errors
/// [`EditError`]; nothing is changed then.
pub fn set_trust(text: &str, name: &FederationName, trust: &Trust) -> Result<String, EditError> {
    set(text, name, "trust", "spec.trust", &value_of(trust))
}

/// Sets `spec.mode` of one Federation.
///
/// # Errors
/// [`EditError`]; nothing is changed then.
pub fn set_mode(text: &str, name: &FederationName, mode: PeerMode) -> Result<String, EditError> {
    set(text, name, "mode", "spec.mode", &value_of(&mode))
}

fn value_of<T: serde::Serialize>(value: &T) -> serde_json::Value {
    // Our own enums of strings, numbers and maps with text keys always have a JSON form; null would be refused below.
    serde_json::to_value(value).unwrap_or_default()
}

fn set(
    text: &str,
    name: &FederationName,
    key: &'static str,
    field: &'static str,
    value: &serde_json::Value,
) -> Result<String, EditError> {
    let docs = read(text)?;
    let target = find(&docs, name)?;
    let refuse = |node: &Node, why| EditError::Unsafe {
        line: node.place.line,
        field,
        why,
        wanted: format!("{key}: {}", flow(value, false)),
    };
    let Some((_, spec)) = target.entry("spec") else {
        return Err(refuse(target, "there is no spec"));
    };
    let (range, new) = match spec.entry(key) {
        Some((k, old)) => replacement(text, spec, k, old, value).map_err(|why| refuse(old, why))?,
        None => insertion(text, spec, key, value).map_err(|why| refuse(spec, why))?,
    };
    let mut out = String::with_capacity(text.len() + new.len());
    out.push_str(text.get(..range.start).unwrap_or_default());
    out.push_str(&new);
    out.push_str(text.get(range.end..).unwrap_or_default());
    if holds(&docs, &out, name, key, value) {
        Ok(out)
    } else {
        Err(refuse(spec, "the result would not read back as meant"))
    }
}

fn read(text: &str) -> Result<Vec<Arc<Node>>, EditError> {
    let (docs, problems) = node::parse(text);
    match problems.into_iter().next() {
        None => Ok(docs),
        Some(p) => Err(EditError::Unreadable {
            line: p.place.line,
            problem: p.problem,
        }),
    }
}

/// Objects of a text: documents, and items of lists.
fn objects(docs: &[Arc<Node>]) -> impl Iterator<Item = &Node> {
    docs.iter().flat_map(|d| {
        let items = d.get("items").map_or(&[][..], Node::items);
        std::iter::once(&**d).chain(items.iter().map(|i| &**i))
    })
}

fn is_federation(node: &Node, name: &FederationName) -> bool {
    let text = |n: Option<&Node>| n.and_then(|n| n.text().map(str::to_owned));
    text(node.get("apiVersion")).as_deref() == Some(STRAIT_API_VERSION)
        && text(node.get("kind")).as_deref() == Some("Federation")
        && text(node.get("metadata").and_then(|m| m.get("name"))).as_deref() == Some(name.as_str())
}

fn find<'a>(docs: &'a [Arc<Node>], name: &FederationName) -> Result<&'a Node, EditError> {
    let mut found = objects(docs).filter(|n| is_federation(n, name));
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one),
        (None, _) => Err(EditError::NotFound(name.clone())),
        (Some(_), Some(_)) => Err(EditError::Ambiguous(name.clone())),
    }
}

type Change = (Range<usize>, String);

/// Replaces `key: old`, from the key to the last byte of the value.
fn replacement(
    text: &str,
    spec: &Node,
    key: &Key,
    old: &Node,
    value: &serde_json::Value,
) -> Result<Change, &'static str> {
    if old.shared {
        return Err("it uses YAML anchors or aliases");
    }
    let start = key.bytes.start;
    let end = if old.is_null() && old.bytes.is_empty() {
        // `trust:` with nothing behind it: the value's mark may lie on a later line.
        let colon = text.get(key.bytes.end..).and_then(|t| t.find(':'));
        key.bytes.end + colon.ok_or("its key has no colon")? + 1
    } else {
        old.bytes.end
    };
    let old_text = text.get(start..end).ok_or("its place is unclear")?;
    // Trailing white space and line ends are not part of the field.
    let end = start + old_text.trim_end().len();
    Ok((start..end, entry(&key.text, value, key.quoted && spec.flow)))
}

/// Puts a new entry before the first one of `spec`.
fn insertion(text: &str, spec: &Node, key: &str, value: &serde_json::Value) -> Result<Change, &'static str> {
    if spec.shared {
        return Err("spec uses YAML anchors or aliases");
    }
    let Some((first, _)) = spec.entries().first() else {
        return if spec.flow && text.get(spec.bytes.clone()).is_some_and(|t| t.starts_with('{')) {
            Ok((spec.bytes.clone(), format!("{{{}}}", entry(key, value, false))))
        } else {
            Err("spec is empty")
        };
    };
    let at = first.bytes.start;
    let new = entry(key, value, first.quoted && spec.flow);
    if spec.flow {
        return Ok((at..at, format!("{new}, ")));
    }
    let line_start = text.get(..at).and_then(|t| t.rfind('\n')).map_or(0, |n| n + 1);
    let indent = text.get(line_start..at).unwrap_or_default();
    if !indent.bytes().all(|b| b == b' ') {
        return Err("spec does not begin on a line of its own");
    }
    let line_end = if text.contains("\r\n") { "\r\n" } else { "\n" };
    Ok((at..at, format!("{new}{line_end}{indent}")))
}

fn entry(key: &str, value: &serde_json::Value, json: bool) -> String {
    if json {
        format!("\"{key}\": {}", flow(value, true))
    } else {
        format!("{key}: {}", flow(value, false))
    }
}

/// A value on one line: as JSON, or as YAML with quotes only where they are needed.
fn flow(value: &serde_json::Value, json: bool) -> String {
    use serde_json::Value;
    let pair = |(k, v): (&String, &Value)| {
        let key = if json {
            Value::String(k.clone()).to_string()
        } else {
            k.clone()
        };
        format!("{key}: {}", flow(v, json))
    };
    match value {
        Value::Object(map) => format!("{{{}}}", map.iter().map(pair).collect::<Vec<_>>().join(", ")),
        Value::Array(list) => {
            format!(
                "[{}]",
                list.iter().map(|v| flow(v, json)).collect::<Vec<_>>().join(", ")
            )
        }
        Value::String(s) if !json && is_plain(s) => s.clone(),
        other => other.to_string(),
    }
}

/// Text that YAML reads as this very text without quotes, anywhere.
fn is_plain(s: &str) -> bool {
    let safe = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'.' | b'-' | b'_');
    let word = matches!(
        s.to_ascii_lowercase().as_str(),
        "" | "true" | "false" | "null" | "yes" | "no" | "on" | "off" | "y" | "n"
    );
    // `1h` is text, `1e3` and `0x1f` are numbers: a leading digit needs a letter that no number has.
    let numeric = s.starts_with(|c: char| !c.is_ascii_alphabetic() && c != '/')
        && !s.bytes().any(|b| matches!(b, b'h' | b'm' | b's'));
    !word && !numeric && s.bytes().all(safe) && !s.starts_with('-')
}

/// The edited text reads back with the wanted value, and everything else as it was.
fn holds(
    before: &[Arc<Node>],
    text: &str,
    name: &FederationName,
    key: &str,
    value: &serde_json::Value,
) -> bool {
    let Ok(after) = read(text) else { return false };
    if before.len() != after.len() {
        return false;
    }
    let same_elsewhere = before.iter().zip(&after).all(|(a, b)| same_but(a, b, name, key));
    let found = find(&after, name).ok().and_then(|f| f.get("spec")?.get(key));
    let read_back =
        found.and_then(|n| de::read::<serde_json::Value>(n, &FieldPath::default(), true, &mut Vec::new()));
    same_elsewhere && read_back.as_ref() == Some(value)
}

/// Two documents are the same, the key under `spec` of that Federation aside.
fn same_but(a: &Node, b: &Node, name: &FederationName, key: &str) -> bool {
    if a.same_value(b) {
        return true;
    }
    if is_federation(a, name) && is_federation(b, name) {
        let rest = |n: &Node, skip: &str| -> Vec<(Arc<str>, Arc<Node>)> {
            let entries = n.entries().iter().filter(|(k, _)| &*k.text != skip);
            entries
                .map(|(k, v)| (Arc::clone(&k.text), Arc::clone(v)))
                .collect()
        };
        let equal = |x: Vec<(Arc<str>, Arc<Node>)>, y: Vec<(Arc<str>, Arc<Node>)>| {
            x.len() == y.len() && x.iter().zip(&y).all(|((k, v), (l, w))| k == l && v.same_value(w))
        };
        let (Some(sa), Some(sb)) = (a.get("spec"), b.get("spec")) else {
            return false;
        };
        return equal(rest(a, "spec"), rest(b, "spec")) && equal(rest(sa, key), rest(sb, key));
    }
    let (Some(x), Some(y)) = (a.get("items"), b.get("items")) else {
        return false;
    };
    let (x, y) = (x.items(), y.items());
    x.len() == y.len() && x.iter().zip(y).all(|(a, b)| same_but(a, b, name, key))
}

#[cfg(test)]
mod tests;
