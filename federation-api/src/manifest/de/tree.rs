//! The deserializer itself: one node, its path, and the serde data model.

use serde::de::{self, Visitor};

use super::{
    Ctx, DeError, Problem,
    access::{Choice, Entries, Items, Word},
    suggestion,
};
use crate::{
    manifest::{
        ErrorCode,
        node::{FieldPath, Key, Kind, Node},
    },
    resources::values::shown,
};

/// A node on its way to becoming a value.
pub(super) struct De<'a> {
    pub(super) node: &'a Node,
    pub(super) path: FieldPath,
    pub(super) ctx: &'a Ctx,
}

/// A plain scalar by the core schema of YAML 1.2.
enum Plain<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Float(f64),
    Text(&'a str),
}

fn plain_scalar(node: &Node) -> Option<Plain<'_>> {
    let Kind::Scalar { text, plain } = &node.kind else {
        return None;
    };
    if !plain {
        return Some(Plain::Text(text));
    }
    if node.is_null() {
        return Some(Plain::Null);
    }
    let digits = text.trim_start_matches(['+', '-']);
    let numeric = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    Some(match text.as_str() {
        "true" | "True" | "TRUE" => Plain::Bool(true),
        "false" | "False" | "FALSE" => Plain::Bool(false),
        t if !numeric => Plain::Text(t),
        t => t
            .parse()
            .map(Plain::Int)
            .or_else(|_| t.parse().map(Plain::Uint))
            .or_else(|_| t.parse().map(Plain::Float))
            .unwrap_or(Plain::Text(t)),
    })
}

fn kind_in_words(node: &Node) -> String {
    match (&node.kind, plain_scalar(node)) {
        (Kind::Seq(_), _) => "a list".into(),
        (Kind::Map(_), _) => "a mapping".into(),
        (_, Some(Plain::Null)) => "empty".into(),
        (_, Some(Plain::Bool(b))) => format!("the boolean {b}"),
        (Kind::Scalar { text, .. }, Some(Plain::Int(_) | Plain::Uint(_) | Plain::Float(_))) => {
            format!("the number {}", shown(text).trim_matches('"'))
        }
        (Kind::Scalar { text, .. }, _) => format!("the text {}", shown(text)),
    }
}

impl<'a> De<'a> {
    pub(super) fn wrong(&self, fix: &str) -> DeError {
        DeError::new(
            ErrorCode::WrongType,
            format!("is {}", kind_in_words(self.node)),
            fix,
        )
        .at(&self.path)
    }

    pub(super) fn child(&self, node: &'a Node, path: FieldPath) -> Self {
        De {
            node,
            path,
            ctx: self.ctx,
        }
    }

    fn integer<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        match plain_scalar(self.node) {
            Some(Plain::Int(n)) => visitor.visit_i64(n),
            Some(Plain::Uint(n)) => visitor.visit_u64(n),
            _ => return Err(self.wrong("write a whole number, without quotes")),
        }
        .map_err(|e: DeError| e.at(&self.path))
    }

    fn text<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        match plain_scalar(self.node) {
            Some(Plain::Text(t)) => visitor.visit_str(t).map_err(|e: DeError| e.at(&self.path)),
            Some(Plain::Null) | None => Err(self.wrong("write a text")),
            Some(_) => Err(self.wrong("write it as text, in quotes")),
        }
    }

    pub(super) fn mapping<'de, V: Visitor<'de>>(
        self,
        visitor: V,
        fields: Option<&'static [&'static str]>,
    ) -> Result<V::Value, DeError> {
        if !matches!(self.node.kind, Kind::Map(_)) {
            return Err(self.wrong("write a mapping"));
        }
        let path = self.path.clone();
        let access = Entries {
            rest: self.node.entries().iter(),
            value: None,
            fields,
            de: self,
        };
        visitor.visit_map(access).map_err(|e| e.at(&path))
    }

    pub(super) fn note_unknown(&self, key: &Key, fields: &'static [&'static str]) {
        let hint = suggestion(&key.text, fields);
        let fix = if hint.is_empty() {
            format!("remove it; the fields here are {}", fields.join(", "))
        } else {
            format!("remove it{hint}")
        };
        self.ctx.unknown.borrow_mut().insert(Problem {
            path: self.path.key(&key.text),
            code: ErrorCode::UnknownField,
            problem: "is not a field of this kind".into(),
            fix,
        });
    }
}

macro_rules! integers {
    ($($method:ident)*) => { $(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
            self.integer(visitor)
        }
    )* };
}

impl<'de> de::Deserializer<'de> for De<'_> {
    type Error = DeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        let path = self.path.clone();
        match plain_scalar(self.node) {
            Some(Plain::Null) => visitor.visit_unit(),
            Some(Plain::Bool(b)) => visitor.visit_bool(b),
            Some(Plain::Int(n)) => visitor.visit_i64(n),
            Some(Plain::Uint(n)) => visitor.visit_u64(n),
            Some(Plain::Float(n)) => visitor.visit_f64(n),
            Some(Plain::Text(t)) => visitor.visit_str(t),
            None if matches!(self.node.kind, Kind::Seq(_)) => self.deserialize_seq(visitor),
            None => self.mapping(visitor, None),
        }
        .map_err(|e| e.at(&path))
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        match plain_scalar(self.node) {
            Some(Plain::Bool(b)) => visitor.visit_bool(b),
            _ => Err(self.wrong("write true or false")),
        }
    }

    integers! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        match plain_scalar(self.node) {
            Some(Plain::Float(n)) => visitor.visit_f64(n),
            _ => self.integer(visitor),
        }
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        self.text(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        self.text(visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        self.text(visitor)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        self.text(visitor)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        self.text(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        if self.node.is_null() {
            visitor.visit_none()
        } else {
            visitor.visit_some(self)
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        if self.node.is_null() {
            visitor.visit_unit()
        } else {
            Err(self.wrong("leave it empty"))
        }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, DeError> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, DeError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        if !matches!(self.node.kind, Kind::Seq(_)) {
            return Err(self.wrong("write a list"));
        }
        let path = self.path.clone();
        let access = Items {
            rest: self.node.items().iter().enumerate(),
            de: self,
        };
        visitor.visit_seq(access).map_err(|e| e.at(&path))
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, DeError> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _len: usize,
        visitor: V,
    ) -> Result<V::Value, DeError> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        self.mapping(visitor, None)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DeError> {
        self.mapping(visitor, Some(fields))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DeError> {
        let path = self.path.clone();
        match &self.node.kind {
            Kind::Scalar { .. } => {
                if !matches!(plain_scalar(self.node), Some(Plain::Text(_))) {
                    return Err(self.wrong(&format!("use one of {}", variants.join(", "))));
                }
                visitor.visit_enum(Word(self))
            }
            Kind::Map(entries) => {
                let set: Vec<_> = entries.iter().filter(|(_, v)| !v.is_null()).collect();
                let &[(key, value)] = set.as_slice() else {
                    let found: Vec<&str> = set.iter().map(|(k, _)| &*k.text).collect();
                    let problem = match found.as_slice() {
                        [] => "names none of its choices".to_owned(),
                        found => format!("names {} together", found.join(" and ")),
                    };
                    let fix = format!("give exactly one of {}", variants.join(", "));
                    return Err(DeError::new(ErrorCode::NotOneOf, problem, fix).at(&path));
                };
                let inner = path.key(&key.text);
                if self.ctx.left_out.contains(&inner) {
                    // Already reported: the choice as a whole goes out too.
                    return Err(DeError::new(ErrorCode::NotOneOf, "", "").at(&inner));
                }
                visitor.visit_enum(Choice {
                    key,
                    content: self.child(value, inner),
                })
            }
            Kind::Seq(_) => return Err(self.wrong(&format!("use one of {}", variants.join(", ")))),
        }
        .map_err(|e| e.at(&path))
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        self.text(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        visitor.visit_unit()
    }
}
