//! A benchmark's result: a table to read, and a record to keep, with the machine, the commit and the compiler
//! that the figures belong to.

use std::fmt;
use std::process::Command;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One figure.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Row {
    /// What was measured, with its unit.
    pub what: String,
    /// The figure.
    pub value: f64,
    /// The goal as text, such as `<= 1.08`; empty where there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub goal: String,
    /// Whether the goal is met.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub met: Option<bool>,
}

/// A goal for every row whose text contains the goal's.
#[derive(Debug, Clone, PartialEq)]
pub struct Goal {
    text: String,
    at_least: bool,
    bound: f64,
}

impl FromStr for Goal {
    type Err = String;

    fn from_str(given: &str) -> Result<Goal, String> {
        let parts = [(">=", true), ("<=", false)];
        let parts = parts.into_iter().find_map(|(sign, at_least)| {
            let (text, bound) = given.rsplit_once(sign)?;
            Some((text.trim(), at_least, bound.trim().parse::<f64>().ok()?))
        });
        match parts {
            Some((text, at_least, bound)) if !text.is_empty() && bound.is_finite() => Ok(Goal {
                text: text.into(),
                at_least,
                bound,
            }),
            _ => Err(format!(
                "'{given}' is no goal: it takes a part of a row's text, >= or <=, and a number, as in 'rand-read >= 0.9'"
            )),
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.at_least { ">=" } else { "<=" };
        write!(f, "{} {sign} {}", self.text, self.bound)
    }
}

/// All figures of one run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// The benchmark's name.
    pub benchmark: String,
    /// What was measured on.
    pub corpus: String,
    /// Processor and number of CPUs.
    pub machine: String,
    /// The running kernel's release.
    pub kernel: String,
    /// What was checked out when this was built.
    pub commit: String,
    /// The compiler that built it.
    pub compiler: String,
    /// The figures.
    pub rows: Vec<Row>,
}

impl Report {
    /// An empty report of this machine, commit and compiler.
    pub fn new(benchmark: &str, corpus: String) -> Report {
        let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let cpu = cpu
            .lines()
            .find_map(|l| l.strip_prefix("model name"))
            .unwrap_or("unknown CPU");
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let cpu = cpu.trim_start_matches([' ', '\t', ':']);
        Report {
            benchmark: benchmark.into(),
            corpus,
            machine: format!("{cpu}, {cores} cores"),
            kernel: first_line("uname", &["-r"]),
            commit: env!("UZRAM_COMMIT").into(),
            compiler: env!("UZRAM_COMPILER").into(),
            rows: Vec::new(),
        }
    }

    /// Adds a figure without a goal.
    pub fn add(&mut self, what: impl Into<String>, value: f64) {
        self.rows.push(Row {
            what: what.into(),
            value,
            goal: String::new(),
            met: None,
        });
    }

    /// Adds figures without goals, all of the same subject.
    pub fn add_all<const N: usize>(&mut self, of: &str, rows: [(&str, f64); N]) {
        for (what, value) in rows {
            self.add(format!("{of}{what}"), value);
        }
    }

    /// Adds a figure that should be at most `goal`.
    pub fn at_most(&mut self, what: impl Into<String>, value: f64, goal: f64) {
        self.add(what, value);
        self.judge("<=", goal, value <= goal);
    }

    /// Adds a figure that should be at least `goal`.
    pub fn at_least(&mut self, what: impl Into<String>, value: f64, goal: f64) {
        self.add(what, value);
        self.judge(">=", goal, value >= goal);
    }

    /// Gives the last figure a goal.
    fn judge(&mut self, sign: &str, goal: f64, met: bool) {
        let row = self.rows.last_mut().expect("one was just added");
        (row.goal, row.met) = (format!("{sign} {goal}"), Some(met));
    }

    /// Sets a goal on every row that it fits and returns how many there were. The last goal of a row counts.
    pub fn demand(&mut self, goal: &Goal) -> usize {
        let mut found = 0;
        for row in &mut self.rows {
            if !row.what.contains(&goal.text) {
                continue;
            }
            let (sign, met) = match goal.at_least {
                true => (">=", row.value >= goal.bound),
                false => ("<=", row.value <= goal.bound),
            };
            row.goal = format!("{sign} {}", goal.bound);
            row.met = Some(met);
            found += 1;
        }
        found
    }

    /// Whether a row has a goal.
    pub fn has_goals(&self) -> bool {
        self.rows.iter().any(|row| row.met.is_some())
    }
}

/// What a program says first, or `unknown`.
pub(crate) fn first_line(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    let text = output
        .map(|o| String::from_utf8_lossy(&o.stdout).into_owned())
        .unwrap_or_default();
    text.lines().next().unwrap_or("unknown").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_are_read_and_others_refused() {
        for text in ["a, b: c over d >= 1.5", "memory <= 0.7"] {
            assert_eq!(text.parse::<Goal>().unwrap().to_string(), text);
        }
        for text in ["", "rand-read", ">= 1", "a >= x", "a >= NaN", "a = 1"] {
            let error = text.parse::<Goal>().unwrap_err();
            assert!(error.contains(">= or <="), "{text}: {error}");
        }
    }

    #[test]
    fn rows_have_the_goals_that_fit_them_and_no_others() {
        let mut report = Report::new("a test", String::new());
        report.add("read, depth 1: ours over theirs", 0.5);
        report.add("read, depth 32: ours over theirs", 2.0);
        report.add("memory", 0.5);
        let goal: Goal = "ours over theirs >= 1".parse().unwrap();
        assert_eq!(report.demand(&goal), 2);
        assert_eq!(report.demand(&"write >= 1".parse().unwrap()), 0);
        let met: Vec<_> = report.rows.iter().map(|row| row.met).collect();
        assert_eq!(met, [Some(false), Some(true), None]);
        assert!(report.has_goals());
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["rows"][0]["goal"], ">= 1");
        assert_eq!(json["rows"][1]["met"], true);
        assert_eq!(json["rows"][2].as_object().unwrap().len(), 2);
        let back: Report = serde_json::from_value(json).unwrap();
        assert!(back.rows[2].goal.is_empty() && back.rows[2].met.is_none());
        let text = crate::output::text(&report);
        assert!(text.contains("MISSED") && text.contains(" met\n"), "{text}");
    }
}
