//! Everything that leaves a benchmark: text on stdout, its record as JSON, its figures as CSV, one page of HTML and single
//! pictures, all rendered from an [`Outcome`]. A record that was kept is read back and rendered the same way.

mod chart;
pub mod file;
mod html;
mod text;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

pub use chart::{Chart, Series};
pub use text::text;
pub use uzram_palette::Look;

use crate::report::{Report, Row};
use crate::{fio, lab};

/// Where results go beside stdout: options of most benchmarks.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Files {
    /// Write the record: every figure with machine, commit and compiler
    #[arg(long, visible_alias = "record", value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the figures, a line each
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// Write one page with tables and pictures, which needs no network
    #[arg(long, value_name = "FILE")]
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

/// What a benchmark came to, typed as its figures need. It says what there is to show, the renderers how.
pub trait Outcome {
    /// Machine, commit, compiler and the rows that have goals.
    fn report(&self) -> &Report;

    /// The record, as it is kept: usually [`json`].
    fn json(&self) -> Result<String>;

    /// More facts about the run beside the machine, the kernel, the commit and the compiler.
    fn facts(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// Sentences on how to read it, and on what is missing.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }

    /// The figures as tables, the report's rows aside. The first is what becomes CSV.
    fn tables(&self) -> Vec<Table> {
        Vec::new()
    }

    /// The tables for stdout, where those for files are too wide.
    fn summary(&self) -> Vec<Table> {
        self.tables()
    }

    /// The report's rows that are for stdout.
    fn rows(&self) -> Vec<&Row> {
        self.report().rows.iter().collect()
    }

    /// Pictures of them.
    fn charts(&self) -> Vec<Chart> {
        Vec::new()
    }

    /// How many of the charts make the one picture for documents, from the first one on.
    fn panels(&self) -> usize {
        1
    }
}

impl Outcome for Report {
    fn report(&self) -> &Report {
        self
    }

    fn json(&self) -> Result<String> {
        json(self)
    }
}

/// A record with figures of a kind of its own beside the report.
#[derive(Debug, Serialize, Deserialize)]
pub struct FigureRecord<F> {
    /// Goals, machine, commit.
    #[serde(flatten)]
    pub report: Report,
    /// How to read it.
    pub note: String,
    /// Everything measured.
    pub figures: Vec<F>,
    /// What could not take part, and why.
    #[serde(default, alias = "skipped")]
    pub left_out: Vec<String>,
}

/// A figure of a [`FigureRecord`]: a row of its table.
pub trait Figure: Serialize + Sized {
    /// The table's caption.
    const CAPTION: &'static str;
    /// The table's headings.
    const HEAD: &'static str;
    /// Whether stdout has a table for each text in the first column.
    const BY_FIRST: bool;

    /// The row.
    fn cells(&self) -> Vec<String>;

    /// How many of the charts make the one picture for documents, from the first one on.
    const PANELS: usize = 1;

    /// Pictures of all figures.
    fn charts(_figures: &[Self]) -> Vec<Chart> {
        Vec::new()
    }
}

impl<F: Figure> Outcome for FigureRecord<F> {
    fn report(&self) -> &Report {
        &self.report
    }

    fn json(&self) -> Result<String> {
        json(self)
    }

    fn notes(&self) -> Vec<String> {
        let left_out = self.left_out.iter().map(|what| format!("left out: {what}"));
        std::iter::once(self.note.clone()).chain(left_out).collect()
    }

    fn tables(&self) -> Vec<Table> {
        let mut table = Table::new(F::CAPTION, F::HEAD);
        table.rows = self.figures.iter().map(F::cells).collect();
        vec![table]
    }

    fn summary(&self) -> Vec<Table> {
        let tables = self.tables().into_iter();
        match F::BY_FIRST {
            true => tables.flat_map(Table::by_first).collect(),
            false => tables.collect(),
        }
    }

    fn charts(&self) -> Vec<Chart> {
        F::charts(&self.figures)
    }

    fn panels(&self) -> usize {
        F::PANELS
    }
}

/// A record as text.
pub fn json(record: &impl Serialize) -> Result<String> {
    Ok(serde_json::to_string_pretty(record)? + "\n")
}

/// Reads a file of JSON.
pub(crate) fn parse(path: &Path) -> Result<serde_json::Value> {
    let shown = path.display();
    let text = std::fs::read(path).with_context(|| format!("reading {shown}"))?;
    serde_json::from_slice(&text).with_context(|| format!("{shown} is no record"))
}

/// Each value once, in the order of the first ones.
pub(crate) fn distinct<T: PartialEq>(all: impl Iterator<Item = T>) -> Vec<T> {
    let mut distinct = Vec::new();
    for one in all {
        if !distinct.contains(&one) {
            distinct.push(one);
        }
    }
    distinct
}

/// Reads a record that was kept, whatever benchmark made it. Of one that is no longer known the rows remain.
pub fn read(path: &Path) -> Result<Box<dyn Outcome>> {
    let (shown, any) = (path.display(), parse(path)?);
    let name = any["benchmark"].as_str();
    let name = name.with_context(|| format!("{shown} is no record of a benchmark"))?;
    let of = |one: &&lab::Experiment| name.strip_prefix("bench ") == Some(one.name);
    let read = match lab::EXPERIMENTS.iter().find(of) {
        Some(experiment) => experiment.read,
        None if name == fio::NAME => lab::read::<fio::FioRecord>,
        None => lab::read::<Report>,
    };
    read(any).with_context(|| format!("{shown} is of another version"))
}

impl Files {
    /// Writes those that are wanted.
    pub fn write(&self, outcome: &dyn Outcome) -> Result<()> {
        if let Some(path) = &self.json {
            file::write(path, &outcome.json()?)?;
        }
        if let Some(path) = &self.csv {
            let first = outcome.tables().into_iter().next();
            let table = first.unwrap_or_else(|| outcome.report().table());
            file::write(path, &table.csv())?;
        }
        if let Some(path) = &self.html {
            file::write(path, &html::page(outcome)?)?;
        }
        Ok(())
    }

    /// Names beside the given ones, for results of an interrupted run.
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

    /// Checks that they can be written, before hours of measuring are lost to a mistyped folder.
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
    /// A table without rows; its headings are separated by commas.
    pub fn new(caption: impl Into<String>, head: &str) -> Table {
        Table {
            caption: caption.into(),
            head: head.split(',').map(str::to_owned).collect(),
            rows: Vec::new(),
        }
    }

    /// Its caption, and its columns aligned.
    pub fn text(&self) -> String {
        let mut text = format!("{}\n", self.caption);
        text::columns(&mut text, self);
        text
    }

    /// A table for each text in the first column, in the order of their first rows.
    pub fn by_first(self) -> Vec<Table> {
        let mut tables: Vec<Table> = Vec::new();
        for mut row in self.rows {
            let caption = row.remove(0);
            match tables.iter_mut().find(|table| table.caption == caption) {
                Some(table) => table.rows.push(row),
                None => tables.push(Table {
                    caption,
                    head: self.head[1..].to_vec(),
                    rows: vec![row],
                }),
            }
        }
        tables
    }

    /// The table as CSV (RFC 4180, but with plain newlines).
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
    /// The report's rows as a table.
    pub fn table(&self) -> Table {
        // Nobody needs two empty columns.
        let goals = self.has_goals();
        let head = if goals {
            "what,value,goal,met"
        } else {
            "what,value"
        };
        let mut table = Table::new("Figures", head);
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

/// Formats a figure that may be missing.
pub(crate) fn maybe(value: Option<f64>) -> String {
    value.map_or(String::new(), number)
}

/// Formats a figure with its significant digits.
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
        let mut table = Table::new("", "a,b");
        table.rows.push(vec!["zstd(level=1,x)".into(), "1".into()]);
        table.rows.push(vec!["say \"no\"".into(), String::new()]);
        assert_eq!(
            table.csv(),
            "a,b\n\"zstd(level=1,x)\",1\n\"say \"\"no\"\"\",\n"
        );
    }

    #[test]
    fn tables_are_parted_by_their_first_column() {
        let mut table = Table::new("all", "kind,value");
        for (kind, value) in [("a", "1"), ("b", "2"), ("a", "3")] {
            table.rows.push(vec![kind.into(), value.into()]);
        }
        let parts = table.by_first();
        let shown = parts
            .iter()
            .map(|part| (part.caption.as_str(), part.rows.concat()));
        let shown: Vec<_> = shown.collect();
        assert_eq!(shown[0], ("a", vec!["1".to_owned(), "3".to_owned()]));
        assert_eq!((shown[1].0, parts[1].head.len()), ("b", 1));
    }

    #[test]
    fn every_record_that_is_kept_is_rendered_and_no_two_series_look_alike() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bench/record");
        let mut charts = 0;
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let outcome = read(&path).unwrap();
            for chart in outcome.charts().iter().filter(|chart| !chart.is_empty()) {
                charts += 1;
                assert_eq!(chart.alike(), None, "{}: {}", path.display(), chart.title);
            }
            let page = html::page(&*outcome).unwrap();
            assert!(page.ends_with("</html>\n"));
            assert!(text(&*outcome).contains(&outcome.report().machine));
        }
        assert!(charts > 20, "{charts}");
    }

    #[test]
    fn figures_keep_three_digits_or_more() {
        let texts = [0.0, 0.01234, 1.0571, 85.36, 12345.6].map(number);
        assert_eq!(texts, ["0", "0.012", "1.057", "85.4", "12346"]);
    }
}
