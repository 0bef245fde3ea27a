//! Recorded requests and what is judged from them.
//!
//! Owns the judgement of the demo as pure functions over values: no clock, no socket. Times are since the demo's start. Called by
//! the steps.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

/// How one request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Answered by this cluster with this line.
    Answered {
        /// The cluster.
        cluster: String,
        /// The greeting.
        line: String,
    },
    /// The proxy refused before a byte was sent (SOCKS reply code).
    Refused(u8),
    /// The connection broke after the request was sent.
    Reset(String),
    /// Nothing came in time.
    TimedOut,
    /// An answer that is no greeting.
    Wrong(String),
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    /// Unique within the demo.
    pub(crate) id: u64,
    /// When it started.
    pub(crate) started: Duration,
    /// When it ended.
    pub(crate) ended: Duration,
    /// How.
    pub(crate) outcome: Outcome,
}

impl Record {
    fn answered_by(&self) -> Option<&str> {
        match &self.outcome {
            Outcome::Answered { cluster, .. } => Some(cluster),
            _ => None,
        }
    }

    fn failed(&self) -> bool {
        self.answered_by().is_none()
    }
}

/// The figures of a stretch of time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Requests started in it.
    pub(crate) total: u64,
    /// Of those, not answered.
    pub(crate) failed: u64,
    /// Answers by cluster.
    pub(crate) by_cluster: BTreeMap<String, u64>,
}

/// Counts the requests that started in `from..to`.
pub(crate) fn tally(records: &[Record], from: Duration, to: Duration) -> Tally {
    let mut tally = Tally::default();
    for record in started(records, from, to) {
        tally.total += 1;
        match record.answered_by() {
            Some(cluster) => *tally.by_cluster.entry(cluster.to_owned()).or_default() += 1,
            None => tally.failed += 1,
        }
    }
    tally
}

/// What came of killing the cluster that served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failover {
    /// Requests started from the kill on.
    pub(crate) total: u64,
    /// In flight at the kill, and reset.
    pub(crate) reset: u64,
    /// Started after the kill, before `early`, and failed.
    pub(crate) failed_early: u64,
    /// Started after `early`, before `late`, and failed.
    pub(crate) failed_middle: u64,
    /// Started after `late` and failed.
    pub(crate) failed_late: u64,
    /// Time from the kill to the start of the first request another cluster answered.
    pub(crate) moved_after: Option<Duration>,
    /// Time from the kill to the start of the last request that failed.
    pub(crate) last_failure: Option<Duration>,
}

/// After this no request may fail by the promise of the design.
pub(crate) const EARLY: Duration = Duration::from_millis(300);
/// After this a failed request fails the demo: a loaded machine gets that much grace over [`EARLY`].
pub(crate) const LATE: Duration = Duration::from_secs(1);

/// Judges the requests around a kill at `at`, up to those started before `to`.
pub(crate) fn failover(records: &[Record], at: Duration, to: Duration, killed: &str) -> Failover {
    let reset = records
        .iter()
        .filter(|r| r.started < at && r.ended >= at && r.failed())
        .count() as u64;
    let after: Vec<&Record> = started(records, at, to).collect();
    let failed = |from: Duration, to: Duration| {
        after
            .iter()
            .filter(|r| r.failed() && (from..to).contains(&(r.started - at)))
            .count() as u64
    };
    let elsewhere = |r: &&&Record| r.answered_by().is_some_and(|cluster| cluster != killed);
    Failover {
        total: after.len() as u64,
        reset,
        failed_early: failed(Duration::ZERO, EARLY),
        failed_middle: failed(EARLY, LATE),
        failed_late: failed(LATE, Duration::MAX),
        moved_after: after.iter().filter(elsewhere).map(|r| r.started - at).min(),
        last_failure: after.iter().filter(|r| r.failed()).map(|r| r.started - at).max(),
    }
}

/// Whether, among requests started in `from..to`, every one was answered by `cluster`, and there were at least `least`.
pub(crate) fn all_from(records: &[Record], from: Duration, to: Duration, cluster: &str, least: u64) -> bool {
    let tally = tally(records, from, to);
    tally.total >= least && tally.by_cluster.get(cluster) == Some(&tally.total)
}

/// Whether every request started in `from..to` was refused before anything was sent, and there were at least `least`.
pub(crate) fn all_refused(records: &[Record], from: Duration, to: Duration, least: u64) -> bool {
    let refused = |r: &Record| matches!(r.outcome, Outcome::Refused(_));
    let mut total = 0;
    started(records, from, to).all(|r| {
        total += 1;
        refused(r)
    }) && total >= least
}

/// Ids that were seen more than once, or that nobody sent, over what every greeter wrote down.
pub(crate) fn sent_twice<'a>(seen: impl IntoIterator<Item = &'a str>) -> Vec<u64> {
    let mut times: HashMap<u64, u32> = HashMap::new();
    for id in seen
        .into_iter()
        .flat_map(str::lines)
        .filter_map(|line| line.parse().ok())
    {
        *times.entry(id).or_default() += 1;
    }
    let mut twice: Vec<u64> = times
        .into_iter()
        .filter(|&(_, n)| n > 1)
        .map(|(id, _)| id)
        .collect();
    twice.sort_unstable();
    twice
}

/// Answered requests among `records` whose id no greeter wrote down: an answer nobody gave.
pub(crate) fn unseen<'a>(records: &[Record], seen: impl IntoIterator<Item = &'a str>) -> u64 {
    let ids: std::collections::HashSet<u64> = seen
        .into_iter()
        .flat_map(str::lines)
        .filter_map(|line| line.parse().ok())
        .collect();
    records
        .iter()
        .filter(|r| r.answered_by().is_some() && !ids.contains(&r.id))
        .count() as u64
}

/// When the first request started that was answered, among those started in `from..to`.
pub(crate) fn first_answer(records: &[Record], from: Duration, to: Duration) -> Option<Duration> {
    started(records, from, to)
        .filter(|r| !r.failed())
        .map(|r| r.started)
        .min()
}

/// The first failure started in `from..to`, in words.
pub(crate) fn first_failure(records: &[Record], from: Duration, to: Duration) -> Option<String> {
    let record = started(records, from, to)
        .filter(|r| r.failed())
        .min_by_key(|r| r.started)?;
    let what = match &record.outcome {
        Outcome::Answered { .. } => return None,
        Outcome::Refused(code) => format!("refused by the proxy, SOCKS code {code}"),
        Outcome::Reset(why) => format!("reset: {why}"),
        Outcome::TimedOut => "timed out".to_owned(),
        Outcome::Wrong(why) => format!("wrong answer: {why}"),
    };
    let took = (record.ended - record.started).as_millis();
    Some(format!(
        "request {} started {} ms into this step: {what}, after {took} ms",
        record.id,
        (record.started - from).as_millis()
    ))
}

fn started(records: &[Record], from: Duration, to: Duration) -> impl Iterator<Item = &Record> {
    records.iter().filter(move |r| (from..to).contains(&r.started))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn answered(id: u64, at: u64, cluster: &str) -> Record {
        let outcome = Outcome::Answered {
            cluster: cluster.into(),
            line: "Hello".into(),
        };
        Record {
            id,
            started: ms(at),
            ended: ms(at + 5),
            outcome,
        }
    }

    fn failed(id: u64, at: u64, took: u64, outcome: Outcome) -> Record {
        Record {
            id,
            started: ms(at),
            ended: ms(at + took),
            outcome,
        }
    }

    #[test]
    fn a_tally_counts_by_start() {
        let records = [
            answered(1, 10, "west"),
            answered(2, 20, "north"),
            failed(3, 29, 1, Outcome::TimedOut),
            answered(4, 30, "west"),
        ];
        let tally = tally(&records, ms(10), ms(30));
        assert_eq!((tally.total, tally.failed), (3, 1));
        assert_eq!(
            tally.by_cluster,
            BTreeMap::from([("west".into(), 1), ("north".into(), 1)])
        );
    }

    #[test]
    fn a_failover_keeps_in_flight_early_and_late_apart() {
        let reset = || Outcome::Reset("x".into());
        let records = [
            answered(1, 900, "west"),
            failed(2, 995, 10, reset()),
            failed(3, 1_000, 1, Outcome::Refused(1)),
            failed(4, 1_299, 1, Outcome::Refused(1)),
            failed(5, 1_300, 1, Outcome::Refused(1)),
            answered(6, 1_400, "west"), // answered by what is being killed: not moved yet
            answered(7, 1_500, "north"),
            failed(8, 2_000, 1, Outcome::TimedOut),
            failed(9, 9_000, 1, Outcome::TimedOut),
        ];
        let seen = failover(&records, ms(1_000), ms(3_000), "west");
        assert_eq!(
            seen,
            Failover {
                total: 6,
                reset: 1,
                failed_early: 2,
                failed_middle: 1,
                failed_late: 1,
                moved_after: Some(ms(500)),
                last_failure: Some(ms(1_000)),
            }
        );
    }

    #[test]
    fn nobody_answering_is_not_moved() {
        let seen = failover(
            &[failed(1, 1_001, 1, Outcome::TimedOut)],
            ms(1_000),
            ms(2_000),
            "west",
        );
        assert_eq!((seen.moved_after, seen.failed_early), (None, 1));
    }

    #[test]
    fn all_from_needs_enough_and_no_other() {
        let records = [
            answered(1, 10, "north"),
            answered(2, 20, "north"),
            answered(3, 30, "west"),
        ];
        assert!(all_from(&records, ms(0), ms(30), "north", 2));
        assert!(!all_from(&records, ms(0), ms(30), "north", 3));
        assert!(!all_from(&records, ms(0), ms(40), "north", 2));
        assert!(!all_from(&[], ms(0), ms(40), "north", 0));
    }

    #[test]
    fn all_refused_means_by_the_proxy() {
        let refused = |id, at| failed(id, at, 1, Outcome::Refused(2));
        assert!(all_refused(&[refused(1, 1), refused(2, 2)], ms(0), ms(9), 2));
        assert!(!all_refused(&[refused(1, 1)], ms(0), ms(9), 2));
        assert!(!all_refused(
            &[refused(1, 1), failed(2, 2, 1, Outcome::Reset("x".into()))],
            ms(0),
            ms(9),
            1
        ));
        assert!(!all_refused(
            &[refused(1, 1), answered(2, 2, "west")],
            ms(0),
            ms(9),
            1
        ));
    }

    #[test]
    fn what_greeters_wrote_is_compared_across_them() {
        assert_eq!(sent_twice(["1\n2\n", "3\n"]), Vec::<u64>::new());
        assert_eq!(sent_twice(["1\n2\n", "2\n3\n3\n"]), [2, 3]);
        assert_eq!(
            unseen(&[answered(1, 1, "west"), answered(9, 2, "west")], ["1\n2\n"]),
            1
        );
        assert_eq!(unseen(&[failed(9, 2, 1, Outcome::TimedOut)], ["1\n"]), 0);
    }

    #[test]
    fn the_first_failure_is_told_with_its_time() {
        let records = [
            failed(2, 70, 5, Outcome::TimedOut),
            failed(1, 60, 5, Outcome::Refused(4)),
        ];
        let told = first_failure(&records, ms(50), ms(100)).unwrap();
        assert!(
            told.contains("request 1 started 10 ms into this step: refused"),
            "{told}"
        );
        assert_eq!(first_failure(&records, ms(80), ms(100)), None);
    }
}
