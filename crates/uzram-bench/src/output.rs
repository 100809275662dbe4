//! What a benchmark hands out beside its table on stdout: its record as JSON, its figures as CSV, and one page of HTML
//! with pictures that needs nothing else.

mod chart;
pub mod file;
mod html;

use std::path::PathBuf;

use anyhow::{Result, ensure};
use serde::Serialize;

pub use chart::{Chart, Series};

use crate::report::Report;

/// Which files to write.
#[derive(Debug, Clone, Default)]
pub struct Files {
    /// The record.
    pub json: Option<PathBuf>,
    /// The figures, a line each.
    pub csv: Option<PathBuf>,
    /// The page with pictures.
    pub html: Option<PathBuf>,
}

/// Figures under headings.
#[derive(Debug, Clone, Default)]
pub struct Table {
    /// What it is of.
    pub caption: String,
    /// The headings.
    pub head: Vec<String>,
    /// As many cells as there are headings, in each row.
    pub rows: Vec<Vec<String>>,
}

/// A result that can be handed out. Its `Display` is the table on stdout.
pub trait Outcome: Serialize {
    /// Machine, commit, compiler and the rows that have goals.
    fn report(&self) -> &Report;

    /// Sentences on how to read it.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }

    /// The figures as tables. The first is what becomes CSV.
    fn tables(&self) -> Vec<Table> {
        vec![self.report().table()]
    }

    /// Pictures of them.
    fn charts(&self) -> Vec<Chart> {
        Vec::new()
    }
}

impl Outcome for Report {
    fn report(&self) -> &Report {
        self
    }
}

impl Files {
    /// Writes those that are wanted.
    pub fn write(&self, outcome: &impl Outcome) -> Result<()> {
        if let Some(path) = &self.json {
            file::write(path, &(serde_json::to_string_pretty(outcome)? + "\n"))?;
        }
        if let Some(path) = &self.csv {
            let tables = outcome.tables();
            file::write(path, &tables.first().map(Table::csv).unwrap_or_default())?;
        }
        if let Some(path) = &self.html {
            file::write(path, &html::page(outcome)?)?;
        }
        Ok(())
    }

    /// Beside those that are meant, for what is not whole.
    pub fn partial(self) -> Files {
        let beside = |path: PathBuf| {
            let mut path = path.into_os_string();
            path.push(".partial");
            PathBuf::from(path)
        };
        Files {
            json: self.json.map(beside),
            csv: self.csv.map(beside),
            html: self.html.map(beside),
        }
    }

    /// Tries whether they can be written, before hours of measuring are lost to a mistyped folder.
    pub fn check(&self) -> Result<()> {
        let paths: Vec<_> = [&self.json, &self.csv, &self.html]
            .into_iter()
            .flatten()
            .collect();
        for (at, path) in paths.iter().enumerate() {
            ensure!(
                !paths[..at].contains(path) || path.starts_with("/dev"),
                "{} is given for two outputs: each takes a file of its own",
                path.display()
            );
            file::check(path)?;
        }
        Ok(())
    }
}

impl Table {
    /// An empty one.
    pub fn new(caption: impl Into<String>, head: &[&str]) -> Table {
        Table {
            caption: caption.into(),
            head: head.iter().map(ToString::to_string).collect(),
            rows: Vec::new(),
        }
    }

    /// As RFC 4180 has it, but with plain newlines.
    fn csv(&self) -> String {
        let field = |text: &String| match text.contains([',', '"', '\n']) {
            true => format!("\"{}\"", text.replace('"', "\"\"")),
            false => text.clone(),
        };
        let line = |cells: &Vec<String>| {
            let cells: Vec<String> = cells.iter().map(field).collect();
            cells.join(",") + "\n"
        };
        std::iter::once(&self.head)
            .chain(&self.rows)
            .map(line)
            .collect()
    }
}

impl Report {
    /// Its rows.
    pub fn table(&self) -> Table {
        // Nobody needs two empty columns.
        let goals = !self.demanded().is_empty();
        let head = ["what", "value", "goal", "met"];
        let mut table = Table::new("Figures", if goals { &head } else { &head[..2] });
        for row in &self.rows {
            let met = row.met.map_or("", |met| if met { "met" } else { "missed" });
            let mut cells = vec![row.what.clone(), number(row.value)];
            if goals {
                cells.extend([row.goal.clone(), met.into()]);
            }
            table.rows.push(cells);
        }
        table
    }
}

/// As many digits as mean something.
pub fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        size if size >= 1000.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_quotes_what_needs_it() {
        let mut table = Table::new("", &["a", "b"]);
        table.rows.push(vec!["zstd(level=1,x)".into(), "1".into()]);
        table.rows.push(vec!["say \"no\"".into(), String::new()]);
        assert_eq!(
            table.csv(),
            "a,b\n\"zstd(level=1,x)\",1\n\"say \"\"no\"\"\",\n"
        );
    }

    #[test]
    fn figures_keep_three_digits_or_more() {
        let texts = [0.0, 0.01234, 1.0571, 85.36, 12345.6].map(number);
        assert_eq!(texts, ["0", "0.012", "1.057", "85.4", "12346"]);
    }
}
