//! Documentation that is generated from code, so that it cannot fall behind.
//!
//! Owns the text of `docs/troubleshooting.md`, made of the table of [`Reason`]s. Called by its own test, which keeps the checked-in
//! file current.

use crate::{Reason, reason::Class};

/// Groups of reasons by the hundred of their code, in the order of the page.
const GROUPS: &[(u16, &str, &str)] = &[
    (0, "Good states", "Nothing is wrong; these say what was reached."),
    (
        100,
        "Streams",
        "Why one connection was refused, reset or not carried. The access log has one line for each.",
    ),
    (
        200,
        "Links",
        "Why a tunnel or control connection is not up. Run `strait check PEER`.",
    ),
    (
        300,
        "Trust",
        "Why a certificate, bundle or rotation was refused. Nothing is carried until it is settled.",
    ),
    (400, "Joining", "What stands between a token and mutual trust."),
    (
        500,
        "Exchange",
        "What became of a catalog, or of one object in it.",
    ),
    (
        600,
        "Exports and imports",
        "Conditions of ServiceExports and ServiceImports.",
    ),
    (
        700,
        "This process",
        "Configuration, records, ports and limits of this machine.",
    ),
];

/// Codes of one group lie within this many numbers.
const GROUP_SPAN: u16 = 100;

/// The text of `docs/troubleshooting.md`.
#[must_use]
pub fn troubleshooting() -> String {
    let mut page = String::from(
        "# Troubleshooting by reason\n\n<!-- Generated from federation-api/src/reason.rs; do not edit. -->\n\n\
         Everything Strait refuses, delays or reports carries one of these words: in status conditions, log lines, metric labels\n\
         and command output. Find the word you saw. *Passes by itself* means that Strait keeps trying or goes another way;\n\
         *needs a change* means that somebody must act. `strait check PEER` and `strait check SERVICE` say which side.\n",
    );
    for &(from, title, about) in GROUPS {
        page.push_str(&format!("\n## {title}\n\n{about}\n"));
        for &reason in Reason::ALL.iter().filter(|r| in_group(**r, from)) {
            page.push_str(&section(reason));
        }
    }
    page
}

fn in_group(reason: Reason, from: u16) -> bool {
    (from..from + GROUP_SPAN).contains(&reason.code())
}

fn section(reason: Reason) -> String {
    let class = match reason.class() {
        Class::Ok => "good",
        Class::Transient => "passes by itself",
        Class::Final => "needs a change",
    };
    format!(
        "\n<a id=\"{reason}\"></a>\n### {reason}\n\n{} *({class}; code {})*\n\n**What to do:** {}\n",
        reason.meaning(),
        reason.code(),
        reason.remedy()
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Set this variable to write the file instead of comparing it.
    const WRITE: &str = "STRAIT_WRITE_GENERATED";

    #[test]
    fn the_checked_in_page_is_current() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/troubleshooting.md");
        let text = troubleshooting();
        if std::env::var_os(WRITE).is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            found == text,
            "docs/troubleshooting.md is not current: run {WRITE}=1 cargo test -p strait-federation-api docs"
        );
    }

    #[test]
    fn every_reason_has_exactly_one_section() {
        let page = troubleshooting();
        for reason in Reason::ALL {
            let anchor = format!("<a id=\"{reason}\"></a>");
            assert_eq!(page.matches(&anchor).count(), 1, "{reason}");
        }
    }
}
