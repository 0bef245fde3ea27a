//! From a YAML tree to a resource type, with every mistake and its place.
//!
//! Owns the serde deserializer over [`Node`] and the rule that one mistake never hides another: what is wrong is reported, taken
//! out, and the rest is read again. Called by load.

use std::{cell::RefCell, collections::BTreeSet, fmt, sync::Arc};

use serde::de::{self, DeserializeOwned, DeserializeSeed, IntoDeserializer, Visitor};

use super::{
    ErrorCode, MAX_FINDINGS_PER_DOCUMENT,
    node::{FieldPath, Key, Kind, Node},
};
use crate::resources::{meta::META_PASSED_OVER, values::shown};

/// A mistake at a field.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Problem {
    pub path: FieldPath,
    pub code: ErrorCode,
    pub problem: String,
    pub fix: String,
}

/// Reads `node` as `T`. `None` if anything was wrong; all of it is then in `problems`. `strict` refuses unknown fields.
pub(crate) fn read<T: DeserializeOwned>(
    node: &Node,
    base: &FieldPath,
    strict: bool,
    problems: &mut Vec<Problem>,
) -> Option<T> {
    let mut ctx = Ctx {
        strict,
        left_out: BTreeSet::new(),
        unknown: RefCell::default(),
    };
    let mut value = None;
    let mut clean = true;
    for _ in 0..MAX_FINDINGS_PER_DOCUMENT {
        let attempt = De {
            node,
            path: base.clone(),
            ctx: &ctx,
        };
        let error = match T::deserialize(attempt) {
            Ok(v) => {
                value = Some(v);
                break;
            }
            Err(e) => e.at(base),
        };
        clean = false;
        let Some(drop) = error.take_out(&mut ctx.left_out, problems) else {
            break;
        };
        if &drop == base {
            break;
        }
        ctx.left_out.insert(drop);
    }
    let unknown = ctx.unknown.into_inner();
    clean &= unknown.is_empty();
    problems.extend(unknown);
    value.filter(|_| clean)
}

struct Ctx {
    strict: bool,
    /// Paths already reported and skipped.
    left_out: BTreeSet<FieldPath>,
    unknown: RefCell<BTreeSet<Problem>>,
}

/// An error on its way up; it gets its place from the innermost field it passes.
#[derive(Debug)]
struct DeError {
    path: Option<FieldPath>,
    /// A field that is missing in the mapping at `path`.
    missing: Option<&'static str>,
    code: ErrorCode,
    problem: String,
    fix: String,
}

impl DeError {
    fn new(code: ErrorCode, problem: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            path: None,
            missing: None,
            code,
            problem: problem.into(),
            fix: fix.into(),
        }
    }

    fn at(mut self, path: &FieldPath) -> Self {
        if self.path.is_none() {
            self.path = Some(path.clone());
        }
        self
    }

    /// Reports the error unless it only follows from an earlier one, and says what to leave out next.
    fn take_out(self, left_out: &mut BTreeSet<FieldPath>, problems: &mut Vec<Problem>) -> Option<FieldPath> {
        let path = self.path.unwrap_or_default();
        let field = self.missing.map_or_else(|| path.clone(), |m| path.key(m));
        // What is wrong with a whole after a part of it was taken out follows from that part.
        let part_is_out = |p: &FieldPath| p.0.len() > path.0.len() && p.0.starts_with(&path.0);
        let follows =
            left_out.contains(&field) || (self.missing.is_none() && left_out.iter().any(part_is_out));
        if !follows {
            problems.push(Problem {
                path: field,
                code: self.code,
                problem: self.problem,
                fix: self.fix,
            });
        }
        // A mapping without a required field cannot be read at all.
        if self.missing.is_none() && left_out.contains(&path) {
            path.parent()
        } else {
            Some(path)
        }
    }
}

impl fmt::Display for DeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem)
    }
}

impl std::error::Error for DeError {}

impl de::Error for DeError {
    /// Values of ours say `Code: problem; fix` ([`crate::resources::ValueError`]); others only say what is wrong.
    fn custom<T: fmt::Display>(msg: T) -> Self {
        let text = msg.to_string();
        if let Some((code, rest)) = text.split_once(": ")
            && let Some(code) = ErrorCode::from_name(code)
        {
            let (problem, fix) = rest.rsplit_once("; ").unwrap_or((rest, "correct the value"));
            return Self::new(code, problem, fix);
        }
        Self::new(ErrorCode::BadValue, text, "correct the value")
    }

    fn invalid_type(unexpected: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::new(
            ErrorCode::WrongType,
            format!("is {unexpected}"),
            format!("write {expected}"),
        )
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let fix = format!(
            "use one of {}{}",
            expected.join(", "),
            suggestion(variant, expected)
        );
        Self::new(
            ErrorCode::UnknownVariant,
            format!("{} is not allowed", shown(variant)),
            fix,
        )
    }

    fn missing_field(field: &'static str) -> Self {
        Self {
            missing: Some(field),
            ..Self::new(ErrorCode::MissingField, "is required", format!("add {field}"))
        }
    }
}

/// ` (did you mean X?)` where a known word is close.
pub(crate) fn suggestion(word: &str, known: &[&str]) -> String {
    // A jaro-winkler similarity at which a typing slip is likelier than another word.
    const CLOSE: f64 = 0.8;
    let lower = word.to_lowercase();
    known
        .iter()
        .map(|k| (strsim::jaro_winkler(&lower, &k.to_lowercase()), *k))
        .filter(|(score, _)| *score >= CLOSE)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map_or_else(String::new, |(_, k)| format!(" (did you mean {k}?)"))
}

struct De<'a> {
    node: &'a Node,
    path: FieldPath,
    ctx: &'a Ctx,
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
    fn wrong(&self, fix: &str) -> DeError {
        DeError::new(
            ErrorCode::WrongType,
            format!("is {}", kind_in_words(self.node)),
            fix,
        )
        .at(&self.path)
    }

    fn child(&self, node: &'a Node, path: FieldPath) -> Self {
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

    fn mapping<'de, V: Visitor<'de>>(
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

    fn note_unknown(&self, key: &Key, fields: &'static [&'static str]) {
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

/// Elements of a list, what was left out skipped.
struct Items<'a> {
    rest: std::iter::Enumerate<std::slice::Iter<'a, Arc<Node>>>,
    de: De<'a>,
}

impl<'de> de::SeqAccess<'de> for Items<'_> {
    type Error = DeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, DeError> {
        for (index, node) in self.rest.by_ref() {
            let path = self.de.path.index(index);
            if self.de.ctx.left_out.contains(&path) {
                continue;
            }
            let child = self.de.child(node, path.clone());
            return seed.deserialize(child).map(Some).map_err(|e| e.at(&path));
        }
        Ok(None)
    }
}

/// Entries of a mapping. With `fields`, an absent value counts as an absent field, and unknown keys are noted.
struct Entries<'a> {
    rest: std::slice::Iter<'a, (Key, Arc<Node>)>,
    value: Option<(&'a Key, &'a Node)>,
    fields: Option<&'static [&'static str]>,
    de: De<'a>,
}

impl Entries<'_> {
    fn is_skipped(&self, key: &Key, value: &Node) -> bool {
        if self.de.ctx.left_out.contains(&self.de.path.key(&key.text)) {
            return true;
        }
        let Some(fields) = self.fields else { return false };
        if !fields.contains(&&*key.text) {
            let passed_over = self.de.path.0.len() == 1
                && self.de.path.to_string() == "metadata"
                && META_PASSED_OVER.contains(&&*key.text);
            if self.de.ctx.strict && !passed_over {
                self.de.note_unknown(key, fields);
            }
            return true;
        }
        value.is_null()
    }
}

impl<'de> de::MapAccess<'de> for Entries<'_> {
    type Error = DeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, DeError> {
        while let Some((key, value)) = self.rest.next() {
            if self.is_skipped(key, value) {
                continue;
            }
            self.value = Some((key, value));
            let text: de::value::StrDeserializer<'_, DeError> = (*key.text).into_deserializer();
            return seed
                .deserialize(text)
                .map(Some)
                .map_err(|e| e.at(&self.de.path.key(&key.text)));
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, DeError> {
        let Some((key, node)) = self.value.take() else {
            return Err(DeError::new(
                ErrorCode::BadValue,
                "is read out of order",
                "report this",
            ));
        };
        let path = self.de.path.key(&key.text);
        seed.deserialize(self.de.child(node, path.clone()))
            .map_err(|e| e.at(&path))
    }
}

/// A choice written as one word.
struct Word<'a>(De<'a>);

impl<'de> de::EnumAccess<'de> for Word<'_> {
    type Error = DeError;
    type Variant = Self;
    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), DeError> {
        let De { node, path, ctx } = self.0;
        let value = seed.deserialize(De {
            node,
            path: path.clone(),
            ctx,
        })?;
        Ok((value, Self(De { node, path, ctx })))
    }
}

impl<'de> de::VariantAccess<'de> for Word<'_> {
    type Error = DeError;
    fn unit_variant(self) -> Result<(), DeError> {
        Ok(())
    }
    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, _seed: T) -> Result<T::Value, DeError> {
        Err(self.0.wrong("write it as a mapping with this word as key"))
    }
    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, _visitor: V) -> Result<V::Value, DeError> {
        Err(self.0.wrong("write it as a mapping with this word as key"))
    }
    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, DeError> {
        Err(self.0.wrong("write it as a mapping with this word as key"))
    }
}

/// A choice written as a mapping with one key.
struct Choice<'a> {
    key: &'a Key,
    content: De<'a>,
}

impl<'de, 'a> de::EnumAccess<'de> for Choice<'a> {
    type Error = DeError;
    type Variant = De<'a>;
    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, De<'a>), DeError> {
        let word: de::value::StrDeserializer<'_, DeError> = (*self.key.text).into_deserializer();
        let value = seed.deserialize(word).map_err(|e| e.at(&self.content.path))?;
        Ok((value, self.content))
    }
}

impl<'de> de::VariantAccess<'de> for De<'_> {
    type Error = DeError;
    fn unit_variant(self) -> Result<(), DeError> {
        Err(self.wrong("write the word alone"))
    }
    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, DeError> {
        let path = self.path.clone();
        seed.deserialize(self).map_err(|e| e.at(&path))
    }
    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, DeError> {
        de::Deserializer::deserialize_seq(self, visitor)
    }
    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DeError> {
        self.mapping(visitor, Some(fields))
    }
}
