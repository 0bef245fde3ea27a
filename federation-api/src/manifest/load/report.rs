//! How the loader reports: every finding gets the place of its field.

use std::sync::Arc;

use super::{Loader, Source};
use crate::manifest::{
    ErrorCode, Finding, ObjectId,
    node::{FieldPath, Place},
};

impl Loader {
    fn finding(
        &self,
        source: &Source,
        path: &FieldPath,
        code: ErrorCode,
        problem: impl Into<String>,
        fix: impl Into<String>,
    ) -> Finding {
        let full = source.base.join(path);
        let Place { line, column } = source.root.place_of(&full);
        Finding {
            file: Arc::clone(&source.file),
            line,
            column,
            code,
            object: source.id.as_ref().map(ToString::to_string),
            field: full.to_string(),
            problem: problem.into(),
            fix: fix.into(),
        }
    }

    pub(in crate::manifest) fn error(
        &mut self,
        source: &Source,
        path: &FieldPath,
        code: ErrorCode,
        problem: impl Into<String>,
        fix: impl Into<String>,
    ) {
        let finding = self.finding(source, path, code, problem, fix);
        self.errors.push(finding);
    }

    pub(in crate::manifest) fn error_at(
        &mut self,
        source: &Source,
        path: &str,
        code: ErrorCode,
        problem: impl Into<String>,
        fix: impl Into<String>,
    ) {
        self.error(source, &FieldPath::of(path), code, problem, fix);
    }

    pub(in crate::manifest) fn warn_at(
        &mut self,
        source: &Source,
        path: &str,
        code: ErrorCode,
        problem: impl Into<String>,
        fix: impl Into<String>,
    ) {
        let finding = self.finding(source, &FieldPath::of(path), code, problem, fix);
        self.warnings.push(finding);
    }

    /// A finding about the whole set.
    pub(in crate::manifest) fn error_without_place(&mut self, code: ErrorCode, problem: &str, fix: &str) {
        self.errors.push(Finding {
            file: self.first_file.clone().unwrap_or_else(|| "".into()),
            line: 0,
            column: 0,
            code,
            object: None,
            field: String::new(),
            problem: problem.to_owned(),
            fix: fix.to_owned(),
        });
    }

    pub(in crate::manifest) fn source(&self, kind: &str, name: impl std::fmt::Display) -> Option<Source> {
        self.sources.get(&ObjectId::new(kind, name)).cloned()
    }

    /// An object of this name exists but could not be read.
    pub(in crate::manifest) fn is_broken(&self, kind: &str, name: impl std::fmt::Display) -> bool {
        self.broken.contains(&ObjectId::new(kind, name))
    }
}
