//! Figures, ratios and their spread.
//!
//! A ratio is made within a round, where both systems were measured one after the other; the report gives the median of the rounds
//! with the smallest and largest, never a mean over different minutes.

use std::{collections::BTreeMap, fmt::Write as _};

use serde::Serialize;

use super::{Metric, Plan, System};

/// Everything measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Seconds of one measurement.
    seconds: f64,
    /// Data workers of each gateway.
    workers: u16,
    /// Figures by metric and system, one a round.
    figures: BTreeMap<Metric, BTreeMap<System, Vec<f64>>>,
    /// Strait over rival, filled by [`Report::finish`].
    ratios: BTreeMap<Metric, Spread>,
}

/// Median with its range.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// Median.
    pub median: f64,
    /// Smallest.
    pub least: f64,
    /// Largest.
    pub most: f64,
}

impl Spread {
    /// Of at least one value.
    #[must_use]
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (least, most) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len().is_multiple_of(2) {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        } else {
            sorted[middle]
        };
        Some(Self { median, least, most })
    }
}

impl Report {
    pub(super) fn new(plan: &Plan) -> Self {
        Self {
            seconds: plan.length.as_secs_f64(),
            workers: plan.workers,
            figures: BTreeMap::new(),
            ratios: BTreeMap::new(),
        }
    }

    pub(super) fn add(&mut self, system: System, metric: Metric, figure: f64) {
        self.figures
            .entry(metric)
            .or_default()
            .entry(system)
            .or_default()
            .push(figure);
        if let Some(ratio) = self.ratio(metric) {
            self.ratios.insert(metric, ratio);
        }
    }

    /// Strait over Envoy, round by round; `None` unless both were measured.
    #[must_use]
    pub fn ratio(&self, metric: Metric) -> Option<Spread> {
        let figures = self.figures.get(&metric)?;
        let (ours, theirs) = (figures.get(&System::Strait)?, figures.get(&System::Envoy)?);
        let ratios: Vec<f64> = ours
            .iter()
            .zip(theirs)
            .filter(|(_, b)| **b > 0.0)
            .map(|(a, b)| a / b)
            .collect();
        Spread::of(&ratios)
    }

    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = format!(
            "{} s a measurement, {} workers a gateway; median (smallest to largest)\n",
            self.seconds, self.workers
        );
        for (metric, systems) in &self.figures {
            let _ = writeln!(out, "{}", metric.title());
            for (system, figures) in systems {
                if let Some(spread) = Spread::of(figures) {
                    let _ = writeln!(out, "  {:<8}{}", format!("{system:?}"), show(spread));
                }
            }
            if let Some(ratio) = self.ratios.get(metric) {
                let better = if metric.less_is_better() {
                    "less is better"
                } else {
                    "more is better"
                };
                let _ = writeln!(out, "  ratio   {} Strait/Envoy, {better}", show(*ratio));
            }
        }
        out
    }
}

fn show(spread: Spread) -> String {
    let digits = if spread.median.abs() < 100.0 { 2 } else { 0 };
    let Spread { median, least, most } = spread;
    format!("{median:.digits$} ({least:.digits$} to {most:.digits$})")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn ratios_are_made_within_a_round() {
        let plan = Plan {
            systems: vec![System::Strait, System::Envoy],
            metrics: vec![Metric::Bulk1],
            rounds: 3,
            length: Duration::from_secs(1),
            workers: 2,
        };
        let mut report = Report::new(&plan);
        // The machine halves its speed in the second round: the ratio does not care.
        for (ours, theirs) in [(4.0, 2.0), (2.0, 1.0), (9.0, 3.0)] {
            report.add(System::Strait, Metric::Bulk1, ours);
            report.add(System::Envoy, Metric::Bulk1, theirs);
        }
        assert_eq!(
            report.ratio(Metric::Bulk1),
            Some(Spread {
                median: 2.0,
                least: 2.0,
                most: 3.0
            })
        );
        assert_eq!(report.ratio(Metric::Bulk8), None);
        assert!(
            report
                .text()
                .contains("2.00 (2.00 to 3.00) Strait/Envoy, more is better"),
            "{}",
            report.text()
        );
    }

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        assert_eq!(Spread::of(&[4.0, 1.0]).map(|s| s.median), Some(2.5));
        assert_eq!(Spread::of(&[]), None);
    }
}
