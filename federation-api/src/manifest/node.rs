//! YAML text as a tree in which every key and value knows its place.
//!
//! Owns the bounds on size, depth and aliases, and refuses duplicate keys, merge keys and tags. Reads with an explicit stack:
//! nesting costs no call depth. Called by load and edit.

use std::{collections::HashMap, fmt, ops::Range, sync::Arc};

use serde_saphyr::granit_parser::{self as granit, Event, Parser, ScalarStyle, Span, StructureStyle};

use super::{ErrorCode, MAX_DEPTH, MAX_FILE_BYTES, MAX_NODES};

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

/// The documents of one text that are not empty, and what is wrong with the text. After a syntax error the rest of the file is lost.
pub(crate) fn parse(text: &str) -> (Vec<Arc<Node>>, Vec<TextProblem>) {
    let mut builder = Builder::default();
    if text.len() > MAX_FILE_BYTES {
        builder.report(
            ErrorCode::TooLarge,
            Place::default(),
            format!("the file has {} bytes, the limit is {MAX_FILE_BYTES}", text.len()),
            "split it into several files",
        );
        return (Vec::new(), builder.problems);
    }
    let mut options =
        granit::options! { block_nesting_limit: MAX_DEPTH * 2, flow_nesting_limit: MAX_DEPTH * 2 };
    options.set_emit_comments(false);
    for event in Parser::new_from_str_with_options(text, options) {
        match event {
            Ok((event, span)) => {
                if !builder.take(event, span) {
                    break;
                }
            }
            Err(e) => {
                let fix = "correct the YAML here; indentation and quotes are the usual causes";
                builder.report(ErrorCode::Syntax, Place::of(e.marker()), e.info(), fix);
                break;
            }
        }
    }
    (builder.docs, builder.problems)
}

/// A collection that is being read.
struct Open {
    place: Place,
    start: usize,
    end: usize,
    flow: bool,
    anchor: usize,
    shared: bool,
    weight: usize,
    height: usize,
    content: Content,
}

enum Content {
    Seq(Vec<Arc<Node>>),
    Map {
        entries: Vec<(Key, Arc<Node>)>,
        /// Keys so far with their lines.
        seen: HashMap<Arc<str>, u32>,
        key: Option<Key>,
        /// The pending key was refused: its value is read past.
        refused: bool,
    },
}

#[derive(Default)]
struct Builder {
    docs: Vec<Arc<Node>>,
    problems: Vec<TextProblem>,
    stack: Vec<Open>,
    anchors: HashMap<usize, Arc<Node>>,
    nodes: usize,
}

impl Builder {
    fn report(&mut self, code: ErrorCode, place: Place, problem: impl Into<String>, fix: impl Into<String>) {
        self.problems.push(TextProblem {
            code,
            place,
            problem: problem.into(),
            fix: fix.into(),
        });
    }

    /// Takes one event; false ends the reading.
    fn take(&mut self, event: Event<'_>, span: Span) -> bool {
        let place = Place::of(&span.start);
        let bytes = span.byte_range().unwrap_or(0..0);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain && tag.is_none();
                self.tag(tag.as_deref(), place);
                let node = Node {
                    kind: Kind::Scalar {
                        text: text.into_owned(),
                        plain,
                    },
                    place,
                    bytes,
                    flow: matches!(
                        style,
                        ScalarStyle::Plain | ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted
                    ),
                    shared: anchor != 0,
                    weight: 1,
                    height: 1,
                };
                let quoted = style != ScalarStyle::Plain;
                self.push(Arc::new(node), anchor, Some(quoted))
            }
            Event::SequenceStart(style, anchor, tag) => {
                self.tag(tag.as_deref(), place);
                self.open(place, bytes, style, anchor, Content::Seq(Vec::new()))
            }
            Event::MappingStart(style, anchor, tag) => {
                self.tag(tag.as_deref(), place);
                let content = Content::Map {
                    entries: Vec::new(),
                    seen: HashMap::new(),
                    key: None,
                    refused: false,
                };
                self.open(place, bytes, style, anchor, content)
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(bytes.end),
            Event::Alias(id) => self.alias(id, place, bytes),
            _ => true,
        }
    }

    /// Tags of the core schema say what we would read anyway; others mean something we do not know.
    fn tag(&mut self, tag: Option<&granit::Tag>, place: Place) {
        if tag.is_some_and(|t| !t.is_yaml_core_schema()) {
            self.report(
                ErrorCode::UnsupportedYaml,
                place,
                "has a YAML tag",
                "write the value without a tag",
            );
        }
    }

    fn too_deep(&mut self, place: Place) -> bool {
        let problem = format!("is nested more than {MAX_DEPTH} levels deep");
        let fix = "flatten it: no resource needs so many levels";
        self.report(ErrorCode::TooDeep, place, problem, fix);
        false
    }

    fn open(
        &mut self,
        place: Place,
        bytes: Range<usize>,
        style: StructureStyle,
        anchor: usize,
        content: Content,
    ) -> bool {
        if self.stack.len() >= MAX_DEPTH {
            return self.too_deep(place);
        }
        self.stack.push(Open {
            place,
            start: bytes.start,
            end: bytes.end,
            flow: style == StructureStyle::Flow,
            anchor,
            shared: anchor != 0,
            weight: 1,
            height: 1,
            content,
        });
        true
    }

    /// Ends the innermost collection. A block collection ends with its last value: the parser's own mark lies behind comments.
    fn close(&mut self, end: usize) -> bool {
        let Some(open) = self.stack.pop() else { return true };
        let kind = match open.content {
            Content::Seq(items) => Kind::Seq(items),
            Content::Map { entries, .. } => Kind::Map(entries),
        };
        let node = Node {
            kind,
            place: open.place,
            bytes: open.start..if open.flow { end } else { open.end },
            flow: open.flow,
            shared: open.shared,
            weight: open.weight,
            height: open.height,
        };
        self.push(Arc::new(node), open.anchor, None)
    }

    fn alias(&mut self, id: usize, place: Place, bytes: Range<usize>) -> bool {
        let Some(target) = self.anchors.get(&id) else {
            self.report(
                ErrorCode::UnsupportedYaml,
                place,
                "refers to a value that contains it",
                "write the value out",
            );
            return false;
        };
        let node = Node {
            place,
            bytes,
            shared: true,
            ..(**target).clone()
        };
        self.push(Arc::new(node), 0, None)
    }

    /// Puts a finished node where it belongs. `quoted` is given for scalars, the only nodes that may be keys.
    fn push(&mut self, node: Arc<Node>, anchor: usize, quoted: Option<bool>) -> bool {
        if anchor != 0 {
            self.anchors.insert(anchor, Arc::clone(&node));
        }
        self.nodes = self.nodes.saturating_add(if quoted.is_some() || node.shared {
            node.weight
        } else {
            1
        });
        if self.nodes > MAX_NODES {
            let fix = "split it, and use fewer YAML aliases";
            self.report(
                ErrorCode::TooLarge,
                node.place,
                format!("the file has more than {MAX_NODES} values"),
                fix,
            );
            return false;
        }
        if self.stack.len() + node.height > MAX_DEPTH {
            return self.too_deep(node.place);
        }
        let Some(top) = self.stack.last_mut() else {
            if !node.is_null() {
                self.docs.push(node);
            }
            return true;
        };
        top.shared |= node.shared;
        top.weight = top.weight.saturating_add(node.weight);
        top.height = top.height.max(node.height + 1);
        top.end = top.end.max(node.bytes.end);
        let (place, problem) = (node.place, top.content.push(node, quoted));
        if let Some((code, problem, fix)) = problem {
            self.report(code, place, problem, fix);
        }
        true
    }
}

/// Code, problem and fix.
type Complaint = (ErrorCode, String, &'static str);

impl Content {
    /// Takes a finished node as element, key or value.
    fn push(&mut self, node: Arc<Node>, quoted: Option<bool>) -> Option<Complaint> {
        let (entries, seen, key, refused) = match self {
            Self::Seq(items) => {
                items.push(node);
                return None;
            }
            Self::Map {
                entries,
                seen,
                key,
                refused,
            } => (entries, seen, key, refused),
        };
        if let Some(key) = key.take() {
            if !*refused {
                entries.push((key, node));
            }
            return None;
        }
        let text: Option<Arc<str>> = match &node.kind {
            Kind::Scalar { text, .. } => quoted.map(|_| text.as_str().into()),
            Kind::Seq(_) | Kind::Map(_) => None,
        };
        let quoted = quoted == Some(true);
        let problem = match &text {
            None => Some((
                ErrorCode::UnsupportedYaml,
                "is a key that is not text".to_owned(),
                "use text as key",
            )),
            Some(text) => key_problem(seen, text, quoted, node.place.line),
        };
        *refused = problem.is_some();
        *key = Some(Key {
            text: text.unwrap_or_default(),
            place: node.place,
            bytes: node.bytes.clone(),
            quoted,
        });
        problem
    }
}

/// What is wrong with a new key of a mapping.
fn key_problem(
    seen: &mut HashMap<Arc<str>, u32>,
    text: &Arc<str>,
    quoted: bool,
    line: u32,
) -> Option<Complaint> {
    if &**text == "<<" && !quoted {
        let problem = "uses a YAML merge key".to_owned();
        return Some((ErrorCode::UnsupportedYaml, problem, "write the fields out"));
    }
    let first = seen.insert(Arc::clone(text), line)?;
    let problem = format!("the key {text:?} was given before, on line {first}");
    Some((ErrorCode::DuplicateKey, problem, "keep one of them"))
}
