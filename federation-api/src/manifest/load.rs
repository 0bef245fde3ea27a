//! Loading: texts in, resources and findings out.
//!
//! Owns which kinds there are and how one document becomes one object. Called by the sources of the controller, `validate` and
//! tests.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::de::DeserializeOwned;

use super::{
    ErrorCode, Finding, MAX_FINDINGS_PER_DOCUMENT, ObjectId, Origin, ResourceSet, check,
    de::{self, Problem, suggestion},
    node::{self, FieldPath, Node},
};
use crate::{
    ids::{Namespace, ServiceKey, ServiceName},
    resources::{MCS_GROUP, Meta, STRAIT_API_VERSION, values::shown},
};

mod kinds;
mod report;

/// What a load found.
#[derive(Debug, Clone, Default)]
pub struct Loaded {
    /// Every object that is valid by itself. Act on it only when `errors` is empty.
    pub resources: ResourceSet,
    /// What must be corrected, in order of place.
    pub errors: Vec<Finding>,
    /// What works but is probably not meant, in order of place.
    pub warnings: Vec<Finding>,
    /// Where each object stands.
    pub origins: BTreeMap<ObjectId, Origin>,
}

/// Loads manifests: `(name of the file, its text)` each. Never fails as a whole: every mistake is a finding with its place.
///
/// Text that is valid by itself is kept even when other text is not, so that findings do not follow from findings; a caller must
/// not act on the resources while there are errors.
#[must_use]
pub fn load<P: AsRef<str>, T: AsRef<str>>(files: &[(P, T)]) -> Loaded {
    let mut loader = Loader::default();
    for (path, text) in files {
        loader.file(path.as_ref(), text.as_ref());
    }
    check::all(&mut loader);
    loader.finish()
}

/// An object's document: where findings about it point to.
#[derive(Debug, Clone)]
pub(super) struct Source {
    file: Arc<str>,
    /// Root of the document.
    root: Arc<Node>,
    /// Where the object stands within: empty unless it is an item of a list.
    base: FieldPath,
    id: Option<ObjectId>,
}

/// Collects what the documents say.
#[derive(Default)]
pub(super) struct Loader {
    pub(super) set: ResourceSet,
    errors: Vec<Finding>,
    warnings: Vec<Finding>,
    sources: BTreeMap<ObjectId, Source>,
    /// Objects that exist but could not be read: nothing is said about their absence.
    broken: BTreeSet<ObjectId>,
    first_file: Option<Arc<str>>,
    /// A Cluster document exists, valid or not, or may stand in text that cannot be read.
    pub(super) may_have_cluster: bool,
}

impl Loader {
    fn file(&mut self, path: &str, text: &str) {
        let file: Arc<str> = path.into();
        self.first_file.get_or_insert_with(|| Arc::clone(&file));
        let (docs, problems) = node::parse(text);
        self.may_have_cluster |= !problems.is_empty();
        for p in problems {
            self.errors.push(Finding {
                file: Arc::clone(&file),
                line: p.place.line,
                column: p.place.column,
                code: p.code,
                object: None,
                field: String::new(),
                problem: p.problem,
                fix: p.fix,
            });
        }
        for root in docs {
            let source = Source {
                file: Arc::clone(&file),
                root: Arc::clone(&root),
                base: FieldPath::default(),
                id: None,
            };
            self.document(source, &root);
        }
    }

    /// One document, or one item of a list.
    fn document(&mut self, mut source: Source, node: &Node) {
        let text = |key: &str| node.get(key).and_then(Node::text);
        let (Some(api), Some(kind)) = (text("apiVersion"), text("kind")) else {
            let problem = "is not a resource with apiVersion and kind";
            let fix = "begin each document with apiVersion, kind and metadata";
            return self.error_at(&source, "", ErrorCode::NotAnObject, problem, fix);
        };
        if api == "v1" && kind.ends_with("List") || kind == "EndpointSliceList" {
            return self.items(&source, node);
        }
        let Some(reader) = self.reader(&source, api, kind) else {
            return;
        };
        self.may_have_cluster |= matches!(reader, Reader::Cluster);
        source.id = identity(reader, kind, node);
        if !self.is_first(&source) {
            return;
        }
        let read = match reader {
            Reader::Cluster => self.cluster(&source, node),
            Reader::Federation => self.federation(&source, node),
            Reader::Export => self.export(&source, node),
            Reader::Service => self.service(&source, node),
            Reader::Slice => self.slice(&source, node),
        };
        if let (None, Some(id)) = (read, source.id) {
            self.broken.insert(id);
        }
    }

    /// Notes where an object stands; false, with a finding, if it stands elsewhere too.
    fn is_first(&mut self, source: &Source) -> bool {
        let Some(id) = &source.id else { return true };
        let Some(first) = self.sources.get(id) else {
            self.sources.insert(id.clone(), source.clone());
            return true;
        };
        let line = first.root.place_of(&first.base).line;
        let problem = format!("is defined before, in {} on line {line}", first.file);
        let fix = "remove one of the two";
        self.error_at(source, "metadata.name", ErrorCode::DuplicateObject, problem, fix);
        false
    }

    fn items(&mut self, source: &Source, list: &Node) {
        let Some(items) = list.get("items") else { return };
        for (i, item) in items.items().iter().enumerate() {
            let source = Source {
                base: source.base.key("items").index(i),
                ..source.clone()
            };
            self.document(source, item);
        }
    }

    /// How to read a kind, or the reason why not.
    fn reader(&mut self, source: &Source, api: &str, kind: &str) -> Option<Reader> {
        let group = api.split_once('/').map_or("", |(g, _)| g);
        let (reader, versions): (_, &[&str]) = match kind {
            "Cluster" if group != "strait.dev" && !group.is_empty() => {
                return self.unknown_kind(source, api, kind);
            }
            "Cluster" => (Reader::Cluster, &[STRAIT_API_VERSION]),
            "Federation" => (Reader::Federation, &[STRAIT_API_VERSION]),
            "ServiceExport" => (Reader::Export, MCS_VERSIONS),
            "Service" => (Reader::Service, &["v1"]),
            "EndpointSlice" => (Reader::Slice, &["discovery.k8s.io/v1"]),
            "ServiceImport" if group == MCS_GROUP => {
                let problem = "a ServiceImport is written by Strait, never read";
                let fix = "remove it, and allow the service in spec.imports of a Federation";
                self.error_at(source, "kind", ErrorCode::OutputOnly, problem, fix);
                return None;
            }
            _ => return self.unknown_kind(source, api, kind),
        };
        if versions.contains(&api) {
            return Some(reader);
        }
        let fix = format!(
            "write apiVersion: {}",
            versions.first().copied().unwrap_or_default()
        );
        let problem = format!("{} is not a version of {kind}", shown(api));
        self.error_at(source, "apiVersion", ErrorCode::UnsupportedVersion, problem, fix);
        None
    }

    fn unknown_kind(&mut self, source: &Source, api: &str, kind: &str) -> Option<Reader> {
        let hint = suggestion(kind, KINDS);
        let problem = format!(
            "{} of {} is not a kind Strait reads{hint}",
            shown(kind),
            shown(api)
        );
        let fix = format!("use one of {}, or keep this document elsewhere", KINDS.join(", "));
        self.error_at(source, "kind", ErrorCode::UnknownKind, problem, fix);
        None
    }

    fn read<T: DeserializeOwned>(&mut self, source: &Source, node: &Node, strict: bool) -> Option<T> {
        let mut problems = Vec::new();
        let value = de::read(node, &FieldPath::default(), strict, &mut problems);
        problems.sort();
        problems.dedup();
        for Problem {
            path,
            code,
            problem,
            fix,
        } in problems.into_iter().take(MAX_FINDINGS_PER_DOCUMENT)
        {
            self.error(source, &path, code, problem, fix);
        }
        value
    }

    fn name<N, E: std::fmt::Display>(
        &mut self,
        source: &Source,
        meta: &Meta,
        parse: impl Fn(&str) -> Result<N, E>,
    ) -> Option<N> {
        if meta.name.is_empty() {
            self.error_at(
                source,
                "metadata.name",
                ErrorCode::MissingField,
                "is required",
                "add metadata.name",
            );
            return None;
        }
        match parse(&meta.name) {
            Ok(name) => Some(name),
            Err(_) => {
                let problem = format!("{} cannot be the name of this kind", shown(&meta.name));
                let fix = "use lower-case letters, digits and '-', at most 63, starting and ending with a letter or digit";
                self.error_at(source, "metadata.name", ErrorCode::BadName, problem, fix);
                None
            }
        }
    }

    fn namespace(&mut self, source: &Source, meta: &Meta) -> Option<Namespace> {
        let text = meta.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
        match Namespace::parse(text) {
            Ok(ns) => Some(ns),
            Err(e) => {
                let problem = format!("{} {e}", shown(text));
                self.error_at(
                    source,
                    "metadata.namespace",
                    ErrorCode::BadName,
                    problem,
                    "use the name of a namespace",
                );
                None
            }
        }
    }

    fn key(&mut self, source: &Source, meta: &Meta) -> Option<ServiceKey> {
        let namespace = self.namespace(source, meta);
        let name = self.name(source, meta, ServiceName::parse)?;
        Some(ServiceKey {
            namespace: namespace?,
            name,
        })
    }

    fn not_namespaced(&mut self, source: &Source, meta: &Meta) {
        if meta.namespace.is_some() {
            let problem = "this kind has no namespace";
            self.error_at(
                source,
                "metadata.namespace",
                ErrorCode::NotNamespaced,
                problem,
                "remove it",
            );
        }
    }

    fn finish(mut self) -> Loaded {
        self.errors.sort();
        self.warnings.sort();
        let origins = self.sources.into_iter().map(|(id, s)| {
            let line = s.root.place_of(&s.base).line;
            let origin = Origin { file: s.file, line };
            (id, origin)
        });
        Loaded {
            resources: self.set,
            errors: self.errors,
            warnings: self.warnings,
            origins: origins.collect(),
        }
    }
}

/// Kind and name of a document, where it has a name.
fn identity(reader: Reader, kind: &str, node: &Node) -> Option<ObjectId> {
    let meta = node.get("metadata")?;
    let name = meta.get("name").and_then(Node::text)?;
    let namespace = meta.get("namespace").and_then(Node::text);
    Some(match reader {
        Reader::Cluster | Reader::Federation => ObjectId::new(kind, name),
        Reader::Export | Reader::Service | Reader::Slice => {
            let namespace = namespace.unwrap_or(DEFAULT_NAMESPACE);
            ObjectId::new(kind, format_args!("{namespace}/{name}"))
        }
    })
}

/// The namespace of namespaced objects that name none, as kubectl has it.
const DEFAULT_NAMESPACE: &str = "default";
/// Kinds that are read.
const KINDS: &[&str] = &[
    "Cluster",
    "Federation",
    "ServiceExport",
    "Service",
    "EndpointSlice",
];
/// Versions of the Multi-Cluster Services API, all with the same schema.
const MCS_VERSIONS: &[&str] = &["multicluster.x-k8s.io/v1beta1", "multicluster.x-k8s.io/v1alpha1"];

/// How a document is read.
#[derive(Clone, Copy)]
enum Reader {
    Cluster,
    Federation,
    Export,
    Service,
    Slice,
}
