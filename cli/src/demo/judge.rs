//! What each step's records must show for the step to hold, and the words and figures it is told with.
//!
//! Owns the thresholds and the sentences. Pure: values in, [`Verdict`] out. Called by the story.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::record::{self, EARLY, LATE, Record, Tally};
use crate::output::count;

/// Whether a step held, how it is told, and its figures for programs.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Verdict {
    /// It held.
    pub(crate) ok: bool,
    /// One sentence.
    pub(crate) text: String,
    /// Figures, milliseconds where they are times.
    pub(crate) figures: Map<String, Value>,
}

impl Verdict {
    /// A verdict with figures (a JSON object).
    pub(crate) fn new(ok: bool, text: impl Into<String>, figures: Value) -> Self {
        let figures = match figures {
            Value::Object(map) => map,
            _ => Map::new(),
        };
        Self {
            ok,
            text: text.into(),
            figures,
        }
    }
}

/// A stretch of the demo's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    /// Start, included.
    pub(crate) from: Duration,
    /// End, excluded.
    pub(crate) to: Duration,
}

impl Window {
    fn tally(self, records: &[Record]) -> Tally {
        record::tally(records, self.from, self.to)
    }

    /// Requests that must have started in it for a verdict to mean anything: half the pace, since a loaded machine paces worse.
    fn least(self, rate: u32) -> u64 {
        let expected = f64::from(rate) * (self.to.saturating_sub(self.from)).as_secs_f64();
        (expected / 2.0) as u64
    }

    fn failure(self, records: &[Record]) -> String {
        record::first_failure(records, self.from, self.to)
            .map(|why| format!("; first failure: {why}"))
            .unwrap_or_default()
    }
}

/// Steady traffic: enough requests, all answered by `cluster`.
pub(crate) fn steady(records: &[Record], window: Window, rate: u32, cluster: &str) -> Verdict {
    let tally = window.tally(records);
    let ok = record::all_from(
        records,
        window.from,
        window.to,
        cluster,
        window.least(rate).max(1),
    );
    let text = format!(
        "{} requests by name, {} failed, answered by {}{}",
        count(tally.total),
        count(tally.failed),
        sources(&tally),
        window.failure(records)
    );
    Verdict::new(ok, text, figures(&tally))
}

/// The serving cluster was killed: all that failed did so early, and `to` serves.
pub(crate) fn killed(records: &[Record], window: Window, rate: u32, from: &str, to: &str) -> Verdict {
    let seen = record::failover(records, window.from, window.to, from);
    let late = Window {
        from: window.from + LATE,
        ..window
    };
    let serves = record::all_from(records, late.from, late.to, to, late.least(rate).max(1));
    let after_early = seen.failed_middle + seen.failed_late;
    let ok = seen.failed_late == 0 && serves;
    let text = format!(
        "{from} killed: {} requests, {} reset in flight, {} failed within {} ms, {after_early} failed after {} ms, {}{}",
        count(seen.total),
        seen.reset,
        seen.failed_early,
        EARLY.as_millis(),
        EARLY.as_millis(),
        if serves {
            format!("now {to}")
        } else {
            format!("but {to} does not serve them all")
        },
        if ok { String::new() } else { late.failure(records) },
    );
    let ms = |d: Option<Duration>| d.map(|d| d.as_millis() as u64);
    Verdict::new(
        ok,
        text,
        json!({
            "requests": seen.total, "resetInFlight": seen.reset, "failedEarly": seen.failed_early,
            "failedAfter300ms": after_early, "failedAfter1s": seen.failed_late,
            "movedAfterMs": ms(seen.moved_after), "lastFailureMs": ms(seen.last_failure),
        }),
    )
}

/// Traffic moved to `to` by an orderly change: nothing failed on the way, and at the end (`settled`) only `to` answers.
pub(crate) fn moved(
    records: &[Record],
    window: Window,
    settled: Option<Window>,
    rate: u32,
    to: &str,
) -> Verdict {
    let tally = window.tally(records);
    let there = settled.is_some_and(|w| record::all_from(records, w.from, w.to, to, w.least(rate).max(1)));
    let after = settled.map(|w| (w.from - window.from).as_millis());
    let text = format!(
        "{} requests, {} failed, {}{}",
        count(tally.total),
        count(tally.failed),
        match after {
            Some(ms) if there => format!("all from {to} after {ms} ms"),
            _ => format!(
                "but {to} does not serve them all (answered by {})",
                sources(&tally)
            ),
        },
        window.failure(records)
    );
    let mut figures = figures(&tally);
    figures["settledAfterMs"] = json!(after.and_then(|ms| u64::try_from(ms).ok()));
    Verdict::new(there && tally.failed == 0, text, figures)
}

/// A service came back: it was answered again, and at the end (`settled`) by `to` alone.
pub(crate) fn back(records: &[Record], window: Window, settled: Window, rate: u32, to: &str) -> Verdict {
    let first = record::first_answer(records, window.from, window.to);
    let there = record::all_from(records, settled.from, settled.to, to, settled.least(rate).max(1));
    let (Some(first), true) = (first, there) else {
        let tally = window.tally(records);
        let text = format!(
            "but {to} does not serve it alone (answered by {})",
            sources(&tally)
        );
        return Verdict::new(false, text, figures(&tally));
    };
    let (first, settled) = (
        (first - window.from).as_millis(),
        (settled.from - window.from).as_millis(),
    );
    let text = format!("answered again after {first} ms, all from {to} after {settled} ms");
    Verdict::new(
        true,
        text,
        json!({"firstAnswerMs": first as u64, "settledAfterMs": settled as u64}),
    )
}

/// Something went on under load and no request noticed.
pub(crate) fn undisturbed(records: &[Record], window: Window, rate: u32, what: &str) -> Verdict {
    let tally = window.tally(records);
    let ok = tally.failed == 0 && tally.total >= window.least(rate).max(1);
    let text = format!(
        "{what}: {} requests meanwhile, {} failed{}",
        count(tally.total),
        count(tally.failed),
        window.failure(records)
    );
    Verdict::new(ok, text, figures(&tally))
}

/// Nobody serves the name any more: every request of the window is refused, none hangs or breaks.
pub(crate) fn refused(records: &[Record], window: Window, rate: u32, explained: &str) -> Verdict {
    let tally = window.tally(records);
    let ok = record::all_refused(records, window.from, window.to, window.least(rate).max(1));
    let answered: u64 = tally.by_cluster.values().sum();
    let text = format!(
        "{} requests, all refused before a byte was sent: {}; {explained}",
        count(tally.total),
        if ok {
            "yes".to_owned()
        } else {
            format!("no ({answered} answered{})", window.failure(records))
        },
    );
    Verdict::new(ok, text, figures(&tally))
}

/// Over the whole demo, no request arrived twice and no answer came from nowhere.
pub(crate) fn once(records: &[Record], seen: &[String]) -> Verdict {
    let twice = record::sent_twice(seen.iter().map(String::as_str));
    let unseen = record::unseen(records, seen.iter().map(String::as_str));
    let text = format!(
        "{} requests in all, {} arrived twice, {} answered by nobody known",
        count(records.len() as u64),
        twice.len(),
        unseen
    );
    let ok = twice.is_empty() && unseen == 0 && !records.is_empty();
    Verdict::new(
        ok,
        text,
        json!({"requests": records.len(), "twice": twice.len(), "unseen": unseen}),
    )
}

fn sources(tally: &Tally) -> String {
    let names: Vec<_> = tally
        .by_cluster
        .iter()
        .map(|(cluster, n)| format!("{cluster} ({})", count(*n)))
        .collect();
    if names.is_empty() {
        "nobody".to_owned()
    } else {
        names.join(" and ")
    }
}

fn figures(tally: &Tally) -> Value {
    json!({"requests": tally.total, "failed": tally.failed, "answeredBy": tally.by_cluster})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::record::Outcome;

    const RATE: u32 = 100;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    const fn window(from: u64, to: u64) -> Window {
        Window {
            from: ms(from),
            to: ms(to),
        }
    }

    /// One request every 10 ms from `from` to `to`, each with the outcome `of` gives for its start.
    fn stream(from: u64, to: u64, of: impl Fn(u64) -> Outcome) -> Vec<Record> {
        (from..to)
            .step_by(10)
            .map(|at| Record {
                id: at,
                started: ms(at),
                ended: ms(at + 4),
                outcome: of(at),
            })
            .collect()
    }

    fn by(cluster: &str) -> Outcome {
        Outcome::Answered {
            cluster: cluster.into(),
            line: String::new(),
        }
    }

    #[test]
    fn steady_wants_the_right_cluster_no_failure_and_enough() {
        let good = stream(0, 1_000, |_| by("west"));
        assert!(steady(&good, window(0, 1_000), RATE, "west").ok);
        assert!(!steady(&good, window(0, 1_000), RATE, "north").ok);
        assert!(
            !steady(&good[..40], window(0, 1_000), RATE, "west").ok,
            "too few to mean anything"
        );
        let one_failed = stream(
            0,
            1_000,
            |at| if at == 500 { Outcome::TimedOut } else { by("west") },
        );
        let verdict = steady(&one_failed, window(0, 1_000), RATE, "west");
        assert!(!verdict.ok && verdict.text.contains("500 ms"), "{}", verdict.text);
    }

    #[test]
    fn a_kill_forgives_early_failures_and_not_one_late_one() {
        let kill = |last_failure: u64| {
            let records = stream(1_000, 4_000, |at| match at - 1_000 {
                after if after <= last_failure => Outcome::Reset("x".into()),
                _ => by("north"),
            });
            killed(&records, window(1_000, 4_000), RATE, "west", "north")
        };
        assert!(kill(50).ok && kill(990).ok);
        assert!(!kill(1_000).ok, "a request started 1 s after the kill failed");
        assert_eq!(kill(290).figures["failedAfter300ms"], 0);
        assert_eq!(kill(310).figures["failedAfter300ms"], 2);
        assert_eq!(kill(50).figures["movedAfterMs"], 60);
    }

    #[test]
    fn a_kill_with_nobody_left_does_not_hold() {
        let dead = stream(1_000, 4_000, |_| Outcome::Refused(1));
        let verdict = killed(&dead, window(1_000, 4_000), RATE, "west", "north");
        assert!(
            !verdict.ok && verdict.text.contains("north does not serve"),
            "{}",
            verdict.text
        );
        let silent = killed(&[], window(1_000, 4_000), RATE, "west", "north");
        assert!(!silent.ok, "no request is no proof");
    }

    #[test]
    fn an_orderly_move_loses_nothing() {
        let records = stream(0, 2_000, |at| by(if at < 700 { "north" } else { "west" }));
        let settled = Some(window(1_000, 2_000));
        assert!(moved(&records, window(0, 2_000), settled, RATE, "west").ok);
        assert!(!moved(&records, window(0, 2_000), Some(window(500, 2_000)), RATE, "west").ok);
        assert!(!moved(&records, window(0, 2_000), None, RATE, "west").ok);
        let lossy = stream(0, 2_000, |at| {
            if at == 700 {
                Outcome::Refused(1)
            } else {
                by("west")
            }
        });
        assert!(!moved(&lossy, window(0, 2_000), settled, RATE, "west").ok);
    }

    #[test]
    fn back_means_answered_and_settled() {
        let records = stream(0, 2_000, |at| match at {
            0..200 => Outcome::Refused(4),
            200..700 => by("north"),
            _ => by("west"),
        });
        let verdict = back(&records, window(0, 2_000), window(1_000, 2_000), RATE, "west");
        assert!(
            verdict.ok && verdict.text.contains("after 200 ms, all from west after 1000 ms"),
            "{}",
            verdict.text
        );
        assert!(!back(&records, window(0, 2_000), window(600, 2_000), RATE, "west").ok);
        assert!(!back(&records[..20], window(0, 200), window(0, 200), RATE, "west").ok);
    }

    #[test]
    fn refused_means_every_one_and_at_once() {
        let refusals = stream(0, 1_000, |_| Outcome::Refused(4));
        assert!(refused(&refusals, window(0, 1_000), RATE, "x").ok);
        let hang = stream(0, 1_000, |at| {
            if at == 990 {
                Outcome::TimedOut
            } else {
                Outcome::Refused(4)
            }
        });
        assert!(!refused(&hang, window(0, 1_000), RATE, "x").ok);
        let leak = stream(0, 1_000, |at| {
            if at == 990 {
                by("west")
            } else {
                Outcome::Refused(4)
            }
        });
        assert!(!refused(&leak, window(0, 1_000), RATE, "x").ok);
    }

    #[test]
    fn nothing_twice_and_nothing_from_nowhere() {
        let records = stream(0, 30, |_| by("west"));
        assert!(once(&records, &["0\n10\n".into(), "20\n".into()]).ok);
        assert!(!once(&records, &["0\n10\n20\n".into(), "20\n".into()]).ok);
        assert!(!once(&records, &["0\n10\n".into()]).ok);
        assert!(!once(&[], &[]).ok);
    }

    #[test]
    fn undisturbed_says_what_went_on() {
        let records = stream(0, 1_000, |_| by("west"));
        let verdict = undisturbed(&records, window(0, 1_000), RATE, "root rotated");
        assert!(verdict.ok && verdict.text == "root rotated: 100 requests meanwhile, 0 failed");
    }
}
