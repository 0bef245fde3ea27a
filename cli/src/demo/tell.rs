//! How the demo is told: a story for people, one JSON line a step for programs.
//!
//! Owns the layout. Never judges. Used by the story.

use std::{
    io::{self, Write as _},
    time::Duration,
};

use serde_json::json;

use super::judge::Verdict;
use crate::args::DemoOutput;

/// Prints as it goes. Nothing is buffered: a reader sees each step when it ends.
#[derive(Debug)]
pub(crate) struct Teller {
    output: DemoOutput,
    total: usize,
}

impl Teller {
    /// Will tell `total` steps.
    pub(crate) const fn new(output: DemoOutput, total: usize) -> Self {
        Self { output, total }
    }

    /// Words around the steps; programs get none.
    pub(crate) fn say(&self, text: &str) {
        if self.output == DemoOutput::Text {
            print(text);
        }
    }

    /// A step has ended.
    pub(crate) fn step(&self, number: usize, name: &str, verdict: &Verdict, took: Duration) {
        let total = self.total;
        match self.output {
            DemoOutput::Text => {
                let mark = if verdict.ok { "" } else { "FAILED: " };
                print(&format!("[{number}/{total}] {mark}{}", verdict.text));
            }
            DemoOutput::Json => print(
                &json!({
                    "step": number, "of": total, "name": name, "ok": verdict.ok, "text": verdict.text,
                    "tookMs": took.as_millis() as u64, "figures": verdict.figures,
                })
                .to_string(),
            ),
        }
    }
}

/// A reader that went away must not end the demo before it has cleaned up.
fn print(line: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
