//! A benchmark's result: a table to read, and a record to keep, with the machine, the commit and the compiler
//! that the figures belong to.

use std::fmt;
use std::process::Command;

use serde::{Deserialize, Serialize};

/// One figure.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Row {
    /// What was measured, with its unit.
    pub what: String,
    /// The figure.
    pub value: f64,
    /// The goal as text, such as `<= 1.08`; empty where there is none.
    pub goal: String,
    /// Whether the goal is met.
    pub met: Option<bool>,
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

    /// Adds a figure that should be at most `goal`.
    pub fn at_most(&mut self, what: impl Into<String>, value: f64, goal: f64) {
        let (goal, met) = (format!("<= {goal}"), Some(value <= goal));
        self.rows.push(Row {
            what: what.into(),
            value,
            goal,
            met,
        });
    }

    /// Adds a figure that should be at least `goal`.
    pub fn at_least(&mut self, what: impl Into<String>, value: f64, goal: f64) {
        let (goal, met) = (format!(">= {goal}"), Some(value >= goal));
        self.rows.push(Row {
            what: what.into(),
            value,
            goal,
            met,
        });
    }
}

fn first_line(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    let text = output
        .map(|o| String::from_utf8_lossy(&o.stdout).into_owned())
        .unwrap_or_default();
    text.lines().next().unwrap_or("unknown").into()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} on {}", self.benchmark, self.corpus)?;
        writeln!(
            f,
            "{}, Linux {}, {}",
            self.machine, self.kernel, self.compiler
        )?;
        writeln!(f, "commit {}\n", self.commit)?;
        let width = self
            .rows
            .iter()
            .map(|row| row.what.len())
            .max()
            .unwrap_or(0);
        for Row {
            what,
            value,
            goal,
            met,
        } in &self.rows
        {
            let verdict = match met {
                Some(true) => "met",
                Some(false) => "MISSED",
                None => "",
            };
            let line = format!("{what:width$} {value:>12.3}  {goal:9}  {verdict}");
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}
