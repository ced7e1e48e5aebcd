//! What was measured, beside what was wanted: as a table for people, as JSON for programs.

#![forbid(unsafe_code)]

use crate::measure::Series;
use serde_json::{Value, json};
use std::fmt::Write;

/// How a goal is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Want {
    AtMost,
    AtLeast,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Goal {
    pub(crate) words: String,
    pub(crate) want: Want,
    pub(crate) limit: f64,
    pub(crate) reached: f64,
}

impl Goal {
    pub(crate) fn met(&self) -> bool {
        match self.want {
            Want::AtMost => self.reached <= self.limit,
            Want::AtLeast => self.reached >= self.limit,
        }
    }

    pub(crate) fn sentence(&self) -> String {
        let sign = if self.want == Want::AtMost { "≤" } else { "≥" };
        let verdict = if self.met() { "met" } else { "MISSED" };
        format!("{} {sign} {}: {}, {verdict}", self.words, short(self.limit), short(self.reached))
    }
}

/// Which way is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Better {
    Less,
    More,
}

/// One thing that was measured, and by whom.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    pub(crate) title: String,
    pub(crate) unit: &'static str,
    pub(crate) better: Better,
    pub(crate) series: Vec<Series>,
    pub(crate) goals: Vec<Goal>,
}

impl Row {
    pub(crate) fn times(title: impl Into<String>, series: Vec<Series>) -> Self {
        Self { title: title.into(), unit: "ms", better: Better::Less, series, goals: Vec::new() }
    }

    pub(crate) fn find(&self, name: &str) -> Option<&Series> {
        self.series.iter().find(|series| series.name == name)
    }

    /// A goal that compares two of this row; none where one of them could not be had.
    pub(crate) fn ratio(mut self, name: &str, want: Want, limit: f64, other: &str) -> Self {
        if let (Some(own), Some(base)) = (self.find(name), self.find(other)) {
            let goal = Goal { words: format!("{name} / {other}"), want, limit, reached: own.ratio_to(base) };
            self.goals.push(goal);
        }
        self
    }

    pub(crate) fn goal(mut self, words: &str, want: Want, limit: f64, reached: f64) -> Self {
        self.goals.push(Goal { words: words.to_owned(), want, limit, reached });
        self
    }

    pub(crate) fn table(&self) -> String {
        let mut text = format!("\n{}, {}\n", self.title, self.unit);
        let first = self.series.first();
        let _ = writeln!(text, "  {:<34}{:>9}{:>9}{:>9}{:>9}{:>10}", "", "median", "least", "p90", "p99", "× first");
        for series in &self.series {
            let ratio = first.filter(|_| self.series.len() > 1).map(|first| short(series.ratio_to(first)));
            let _ = writeln!(
                text,
                "  {:<34}{:>9}{:>9}{:>9}{:>9}{:>10}",
                series.name,
                short(series.median()),
                short(series.quantile(0.0)),
                short(series.quantile(0.9)),
                short(series.quantile(0.99)),
                ratio.unwrap_or_default()
            );
        }
        for goal in &self.goals {
            let _ = writeln!(text, "  goal: {}", goal.sentence());
        }
        text
    }

    fn json(&self) -> Value {
        let series = self.series.iter().map(|series| {
            json!({"name": series.name, "median": series.median(), "min": series.quantile(0.0), "p90": series.quantile(0.9),
                "p99": series.quantile(0.99), "values": series.values})
        });
        let goals = self.goals.iter().map(
            |goal| json!({"words": goal.sentence(), "limit": goal.limit, "reached": goal.reached, "met": goal.met()}),
        );
        json!({"title": self.title, "unit": self.unit, "series": series.collect::<Vec<_>>(), "goals": goals.collect::<Vec<_>>()})
    }
}

/// Three digits that matter.
pub(crate) fn short(value: f64) -> String {
    match value.abs() {
        size if !size.is_finite() => "-".to_owned(),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// All of it, and on what it was measured.
pub(crate) fn json(rows: &[Row], facts: &[(String, String)], left_out: &[String]) -> Value {
    let facts: serde_json::Map<String, Value> = facts.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
    json!({"machine": facts, "rows": rows.iter().map(Row::json).collect::<Vec<_>>(), "leftOut": left_out})
}

/// The goals once more, for whoever reads only the end.
pub(crate) fn summary(rows: &[Row]) -> String {
    let all: Vec<(&Row, &Goal)> = rows.iter().flat_map(|row| row.goals.iter().map(move |goal| (row, goal))).collect();
    let met = all.iter().filter(|(_, goal)| goal.met()).count();
    let mut text = format!("\n{met} of {} goals met", all.len());
    for (row, goal) in all.iter().filter(|(_, goal)| !goal.met()) {
        let _ = write!(text, "\n  {}: {}", row.title, goal.sentence());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_met_at_its_limit() {
        let row = Row::times("run", vec![Series::of("podrun", vec![2.0]), Series::of("crun", vec![4.0])]);
        let row = row.ratio("podrun", Want::AtMost, 0.5, "crun").goal("pods a second", Want::AtLeast, 100.0, 99.0);
        assert_eq!(row.goals.iter().map(Goal::met).collect::<Vec<_>>(), [true, false]);
        assert!(summary(&[row]).starts_with("\n1 of 2 goals met\n  run: pods a second ≥ 100: 99.0, MISSED"));
    }

    #[test]
    fn whoever_could_not_be_had_sets_no_goal() {
        let row = Row::times("run", vec![Series::of("podrun", vec![2.0])]).ratio("podrun", Want::AtMost, 0.5, "crun");
        assert!(row.goals.is_empty());
    }
}
