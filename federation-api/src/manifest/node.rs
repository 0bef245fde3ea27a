//! YAML text as a tree in which every key and value knows its place.
//!
//! Owns the bounds on size, depth and aliases, and refuses duplicate keys, merge keys and tags. Reads with an explicit stack:
//! nesting costs no call depth. Called by load and edit.

use std::{fmt, ops::Range, sync::Arc};

use serde_saphyr::granit_parser as granit;

use super::ErrorCode;

mod build;

pub(crate) use build::parse;

/// One step of a field path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Seg {
    /// A key of a mapping.
    Key(Arc<str>),
    /// An element of a list.
    Index(usize),
}

/// Path of a field within its document.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct FieldPath(pub Vec<Seg>);

impl FieldPath {
    /// Parses the dotted form `spec.imports[1].as`. For paths written in this crate only: keys hold no dots.
    pub(crate) fn of(dotted: &str) -> Self {
        let mut segs = Vec::new();
        for part in dotted.split('.').filter(|p| !p.is_empty()) {
            let mut rest = part.split('[');
            if let Some(key) = rest.next().filter(|k| !k.is_empty()) {
                segs.push(Seg::Key(key.into()));
            }
            segs.extend(
                rest.filter_map(|i| i.trim_end_matches(']').parse().ok())
                    .map(Seg::Index),
            );
        }
        Self(segs)
    }

    pub(crate) fn key(&self, key: &str) -> Self {
        let mut segs = self.0.clone();
        segs.push(Seg::Key(key.into()));
        Self(segs)
    }

    pub(crate) fn index(&self, index: usize) -> Self {
        let mut segs = self.0.clone();
        segs.push(Seg::Index(index));
        Self(segs)
    }

    pub(crate) fn join(&self, tail: &Self) -> Self {
        Self(self.0.iter().chain(&tail.0).cloned().collect())
    }

    /// The path without its last step; `None` at the root.
    pub(crate) fn parent(&self) -> Option<Self> {
        let (_, init) = self.0.split_last()?;
        Some(Self(init.to_vec()))
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, seg) in self.0.iter().enumerate() {
            match seg {
                Seg::Index(n) => write!(f, "[{n}]")?,
                Seg::Key(k) if k.contains('.') => write!(f, "[{k}]")?,
                Seg::Key(k) if i == 0 => f.write_str(k)?,
                Seg::Key(k) => write!(f, ".{k}")?,
            }
        }
        Ok(())
    }
}

/// A place in a file, both from 1; 0 when unknown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub line: u32,
    pub column: u32,
}

impl Place {
    fn of(mark: &granit::Marker) -> Self {
        let n = |v: usize| u32::try_from(v).unwrap_or(u32::MAX);
        Self {
            line: n(mark.line()),
            column: n(mark.col().saturating_add(1)),
        }
    }
}

/// A key with its place.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    pub text: Arc<str>,
    pub place: Place,
    /// Bytes of the key in the text.
    pub bytes: Range<usize>,
    pub quoted: bool,
}

/// What a node is.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    /// `plain` scalars may be numbers, booleans or null.
    Scalar {
        text: String,
        plain: bool,
    },
    Seq(Vec<Arc<Node>>),
    Map(Vec<(Key, Arc<Node>)>),
}

/// A value with its place.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub kind: Kind,
    pub place: Place,
    /// Bytes from the first to the last character that belongs to the value.
    pub bytes: Range<usize>,
    /// Flow style (`{}`, `[]`) or a scalar on its own.
    pub flow: bool,
    /// Holds an anchor or an alias somewhere within.
    pub shared: bool,
    /// Nodes within, aliases counted each time.
    weight: usize,
    /// Levels within, aliases followed: what keeps every walk over the tree shallow.
    height: usize,
}

impl Node {
    /// Entries of a mapping.
    pub(crate) fn entries(&self) -> &[(Key, Arc<Self>)] {
        match &self.kind {
            Kind::Map(entries) => entries,
            Kind::Scalar { .. } | Kind::Seq(_) => &[],
        }
    }

    /// Elements of a list.
    pub(crate) fn items(&self) -> &[Arc<Self>] {
        match &self.kind {
            Kind::Seq(items) => items,
            Kind::Scalar { .. } | Kind::Map(_) => &[],
        }
    }

    /// Value of a key, with the key.
    pub(crate) fn entry(&self, key: &str) -> Option<&(Key, Arc<Self>)> {
        self.entries().iter().find(|(k, _)| &*k.text == key)
    }

    /// Value of a key.
    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        self.entry(key).map(|(_, v)| &**v)
    }

    /// Text of a scalar that is not null.
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Scalar { text, .. } if !self.is_null() => Some(text),
            Kind::Scalar { .. } | Kind::Seq(_) | Kind::Map(_) => None,
        }
    }

    /// An absent value, `~` or `null`.
    pub(crate) fn is_null(&self) -> bool {
        matches!(&self.kind, Kind::Scalar { text, plain: true } if matches!(&**text, "" | "~" | "null" | "Null" | "NULL"))
    }

    /// Place of `path`, or of the deepest part of it that exists. A mapping entry is placed at its key.
    pub(crate) fn place_of(&self, path: &FieldPath) -> Place {
        let (mut node, mut place) = (self, self.place);
        for seg in &path.0 {
            match seg {
                Seg::Key(k) => match node.entry(k) {
                    Some((key, value)) => (node, place) = (value, key.place),
                    None => return place,
                },
                Seg::Index(i) => match node.items().get(*i) {
                    Some(item) => (node, place) = (item, item.place),
                    None => return place,
                },
            }
        }
        place
    }

    /// Same value and same quoting, places and layout aside.
    pub(crate) fn same_value(&self, other: &Self) -> bool {
        match (&self.kind, &other.kind) {
            (Kind::Scalar { text: a, plain: p }, Kind::Scalar { text: b, plain: q }) => a == b && p == q,
            (Kind::Seq(a), Kind::Seq(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(x, y)| x.same_value(y))
            }
            (Kind::Map(a), Kind::Map(b)) => {
                let same = |(k, x): &(Key, Arc<Self>), (l, y): &(Key, Arc<Self>)| {
                    k.text == l.text && x.same_value(y)
                };
                a.len() == b.len() && a.iter().zip(b).all(|(x, y)| same(x, y))
            }
            _ => false,
        }
    }
}

/// A mistake of the text itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TextProblem {
    pub code: ErrorCode,
    pub place: Place,
    pub problem: String,
    pub fix: String,
}
