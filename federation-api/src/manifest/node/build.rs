//! From parser events to the tree, with an explicit stack and every bound.

use std::{collections::HashMap, ops::Range, sync::Arc};

use serde_saphyr::granit_parser::{self as granit, Event, Parser, ScalarStyle, Span, StructureStyle};

use super::{Key, Kind, Node, Place, TextProblem};
use crate::manifest::{ErrorCode, MAX_DEPTH, MAX_FILE_BYTES, MAX_NODES};

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
