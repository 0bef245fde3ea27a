//! Export and import rules: who may see what, and under which name.
//!
//! Owns their precedence and nothing else: default deny, the most specific rule wins, the first among equals. Pure. Called by
//! controller (filter, merge), diff and diagnose.
//!
//! A field left out means "any, and I accept that the same name means the same service"; a literal `*` means "any, but never merge
//! into a name that is exported here".

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::values::{Priority, ValueError, Weight, as_text, shown};
use crate::{
    ids::{Namespace, ServiceKey, ServiceName},
    manifest::ErrorCode,
};

/// One side of a rule: a name, or `*`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pattern {
    /// `*`: any name.
    Any,
    /// Exactly this label.
    Name(ServiceName),
}

impl Pattern {
    /// Parses `*` or a label.
    ///
    /// # Errors
    /// [`ValueError`] for anything else: partial wildcards are not supported.
    pub fn parse(s: &str) -> Result<Self, ValueError> {
        if s == "*" {
            return Ok(Self::Any);
        }
        ServiceName::parse(s).map(Self::Name).map_err(|e| {
            ValueError::new(
                ErrorCode::BadPattern,
                format!("{} {e}", shown(s)),
                "write one name, or \"*\" for any; parts of names cannot be matched",
            )
        })
    }

    fn matches(&self, s: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Name(n) => n.as_str() == s,
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Name(n) => n.fmt(f),
        }
    }
}

as_text!(Pattern, {"type": "string", "maxLength": 63, "pattern": "^([*]|[a-z0-9]([-a-z0-9]*[a-z0-9])?)$"});

fn pattern_matches(pattern: Option<&Pattern>, s: &str) -> bool {
    pattern.is_none_or(|p| p.matches(s))
}

const fn is_named(pattern: Option<&Pattern>) -> bool {
    matches!(pattern, Some(Pattern::Name(_)))
}

/// One export rule. `{}` covers everything that has a ServiceExport.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
pub struct ExportRule {
    /// Namespace; left out or `*` means any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Pattern>,
    /// Service name; left out or `*` means any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Pattern>,
}

impl ExportRule {
    /// True if this rule covers `service`.
    #[must_use]
    pub fn covers(&self, service: &ServiceKey) -> bool {
        pattern_matches(self.namespace.as_ref(), service.namespace.as_str())
            && pattern_matches(self.name.as_ref(), service.name.as_str())
    }
}

/// `spec.exports`: what the peer may see. Empty means nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
pub struct ExportRules(pub Vec<ExportRule>);

impl ExportRules {
    /// True if a rule covers `service`. The service must have a ServiceExport too to be seen.
    #[must_use]
    pub fn covers(&self, service: &ServiceKey) -> bool {
        self.0.iter().any(|r| r.covers(service))
    }
}

/// `as` of an import rule: the local name. What is left out stays as the peer has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
pub struct RuleTarget {
    /// Local namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "crd", schemars(with = "Option<String>"))]
    pub namespace: Option<Namespace>,
    /// Local name. Only with a rule that names one service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "crd", schemars(with = "Option<String>"))]
    pub name: Option<ServiceName>,
}

/// One import rule.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
pub struct ImportRule {
    /// Namespace at the peer; left out or `*` means any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Pattern>,
    /// Service name at the peer; left out or `*` means any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Pattern>,
    /// Local name, where it differs.
    #[serde(default, rename = "as", skip_serializing_if = "Option::is_none")]
    pub target: Option<RuleTarget>,
    /// Lower first; local endpoints are at 0.
    #[serde(default)]
    pub priority: Priority,
    /// Share within one priority.
    #[serde(default)]
    pub weight: Weight,
}

impl ImportRule {
    fn covers(&self, service: &ServiceKey) -> bool {
        pattern_matches(self.namespace.as_ref(), service.namespace.as_str())
            && pattern_matches(self.name.as_ref(), service.name.as_str())
    }

    /// How many sides are named: 2 beats 1 beats 0.
    pub(crate) fn specificity(&self) -> u8 {
        u8::from(is_named(self.namespace.as_ref())) + u8::from(is_named(self.name.as_ref()))
    }

    /// The rule contains a literal `*`.
    #[must_use]
    pub const fn has_wildcard(&self) -> bool {
        matches!(self.namespace, Some(Pattern::Any)) || matches!(self.name, Some(Pattern::Any))
    }

    /// The one service this rule names, if it names one.
    #[must_use]
    pub fn exact(&self) -> Option<ServiceKey> {
        match (&self.namespace, &self.name) {
            (Some(Pattern::Name(ns)), Some(Pattern::Name(name))) => {
                ServiceKey::parse(ns.as_str(), name.as_str()).ok()
            }
            _ => None,
        }
    }

    /// The local name of `service` under this rule.
    #[must_use]
    pub fn local_name(&self, service: &ServiceKey) -> ServiceKey {
        let target = self.target.as_ref();
        ServiceKey {
            namespace: target
                .and_then(|t| t.namespace.clone())
                .unwrap_or_else(|| service.namespace.clone()),
            name: target
                .and_then(|t| t.name.clone())
                .unwrap_or_else(|| service.name.clone()),
        }
    }
}

/// What the import rules of one Federation say about one offered service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImportDecision {
    /// A rule lets it in.
    Allowed {
        /// Local name.
        as_key: ServiceKey,
        /// Lower first.
        priority: u16,
        /// Share within one priority.
        weight: u16,
        /// The rule contains a literal `*`: it never merges into a locally exported name.
        by_wildcard: bool,
        /// Index of the rule in `spec.imports`.
        rule: usize,
    },
    /// No rule covers it.
    NotAllowed,
}

/// `spec.imports`: what may come in from the peer. Empty means nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
pub struct ImportRules(pub Vec<ImportRule>);

impl ImportRules {
    /// Decides about one offered service: the most specific rule wins, the first among equals.
    #[must_use]
    pub fn decide(&self, service: &ServiceKey) -> ImportDecision {
        let mut best: Option<(usize, &ImportRule)> = None;
        for (index, rule) in self.0.iter().enumerate() {
            let better = best.is_none_or(|(_, b)| rule.specificity() > b.specificity());
            if better && rule.covers(service) {
                best = Some((index, rule));
            }
        }
        best.map_or(ImportDecision::NotAllowed, |(index, rule)| {
            ImportDecision::Allowed {
                as_key: rule.local_name(service),
                priority: rule.priority.get(),
                weight: rule.weight.get(),
                by_wildcard: rule.has_wildcard(),
                rule: index,
            }
        })
    }
}

/// The line of `spec.imports` that would let `service` in.
#[must_use]
pub fn import_rule_for(service: &ServiceKey) -> String {
    rule_line(service)
}

/// The line of `spec.exports` that would cover `service`.
#[must_use]
pub fn export_rule_for(service: &ServiceKey) -> String {
    rule_line(service)
}

fn rule_line(service: &ServiceKey) -> String {
    format!("- {{namespace: {}, name: {}}}", service.namespace, service.name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rules(json: &str) -> ImportRules {
        serde_json::from_str(json).unwrap()
    }

    fn key(s: &str) -> ServiceKey {
        s.parse().unwrap()
    }

    #[test]
    fn nothing_is_allowed_without_a_rule() {
        assert_eq!(
            ImportRules::default().decide(&key("demo/greeter")),
            ImportDecision::NotAllowed
        );
        assert!(!ExportRules::default().covers(&key("demo/greeter")));
    }

    #[test]
    fn named_beats_wildcard_wherever_it_stands_and_first_wins_among_equals() {
        let r = rules(
            r#"[{"namespace":"*","name":"*","as":{"namespace":"from-west"}},
                {"namespace":"demo","priority":5},{"name":"greeter","priority":6},
                {"namespace":"demo","name":"greeter","weight":7},{"namespace":"demo","name":"greeter","weight":8}]"#,
        );
        let got = |s: &str| match r.decide(&key(s)) {
            ImportDecision::Allowed {
                as_key,
                rule,
                by_wildcard,
                ..
            } => (as_key.to_string(), rule, by_wildcard),
            ImportDecision::NotAllowed => panic!("{s} must be allowed"),
        };
        assert_eq!(got("demo/greeter"), ("demo/greeter".into(), 3, false));
        assert_eq!(got("demo/other"), ("demo/other".into(), 1, false));
        assert_eq!(got("shop/greeter"), ("shop/greeter".into(), 2, false));
        assert_eq!(got("shop/cart"), ("from-west/cart".into(), 0, true));
    }

    #[test]
    fn an_empty_rule_accepts_sameness_and_is_no_wildcard() {
        let ImportDecision::Allowed {
            by_wildcard,
            priority,
            weight,
            ..
        } = rules("[{}]").decide(&key("a/b"))
        else {
            panic!("{{}} allows everything")
        };
        assert_eq!((by_wildcard, priority, weight), (false, 1, 100));
    }

    #[test]
    fn the_suggested_line_allows_exactly_that_service() {
        let line = import_rule_for(&key("demo/greeter"));
        assert_eq!(line, "- {namespace: demo, name: greeter}");
        let parsed: ImportRules = serde_saphyr::from_str(&line).unwrap();
        assert!(matches!(
            parsed.decide(&key("demo/greeter")),
            ImportDecision::Allowed { .. }
        ));
        assert_eq!(parsed.decide(&key("demo/other")), ImportDecision::NotAllowed);
    }

    proptest! {
        /// The decision names a rule that covers the service, and no covering rule is more specific.
        #[test]
        fn the_chosen_rule_is_the_most_specific_cover(
            sides in proptest::collection::vec((0u8..4, 0u8..4), 0..8),
            (ns, name) in (0u8..3, 0u8..3),
        ) {
            let side = |n: u8, base: &str| match n {
                0 => None,
                1 => Some(Pattern::Any),
                n => Some(Pattern::parse(&format!("{base}{}", n - 2)).unwrap()),
            };
            let r = ImportRules(sides.iter().map(|&(a, b)| ImportRule {
                namespace: side(a, "ns"), name: side(b, "svc"), ..ImportRule::default()
            }).collect());
            let service = ServiceKey::parse(&format!("ns{ns}"), &format!("svc{name}")).unwrap();
            let covering: Vec<usize> = (0..r.0.len()).filter(|&i| r.0[i].covers(&service)).collect();
            match r.decide(&service) {
                ImportDecision::NotAllowed => prop_assert!(covering.is_empty()),
                ImportDecision::Allowed { rule, .. } => {
                    let top = covering.iter().map(|&i| r.0[i].specificity()).max().unwrap();
                    let first = covering.iter().copied().find(|&i| r.0[i].specificity() == top);
                    prop_assert_eq!(first, Some(rule));
                }
            }
        }
    }
}
