//! From a YAML tree to a resource type, with every mistake and its place.
//!
//! Owns the serde deserializer over [`Node`] and the rule that one mistake never hides another: what is wrong is reported, taken
//! out, and the rest is read again. Called by load.

use std::{cell::RefCell, collections::BTreeSet, fmt};

use serde::de::{self, DeserializeOwned};

use super::{
    ErrorCode, MAX_FINDINGS_PER_DOCUMENT,
    node::{FieldPath, Node},
};
use crate::resources::values::shown;

mod access;
mod tree;

use tree::De;

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
