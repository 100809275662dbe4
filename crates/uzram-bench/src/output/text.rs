//! What stands on stdout: what the figures belong to, tables in columns, rows with their goals, notes.

use std::fmt::Write;

use super::{Outcome, Table};
use crate::report::Row;

/// The outcome as text.
pub fn text(outcome: &dyn Outcome) -> String {
    let report = outcome.report();
    let mut text = format!(
        "{} on {}\n{}, Linux {}, {}\ncommit {}\n",
        report.benchmark,
        report.corpus,
        report.machine,
        report.kernel,
        report.compiler,
        report.commit
    );
    for (name, value) in outcome.facts() {
        let _ = writeln!(text, "{name}: {value}");
    }
    for table in outcome.summary().iter().filter(|t| !t.rows.is_empty()) {
        text.push('\n');
        text += &table.text();
    }
    let shown = outcome.rows();
    if !shown.is_empty() {
        text.push('\n');
        rows(&mut text, &shown);
    }
    let notes = outcome.notes();
    if !notes.is_empty() {
        text.push('\n');
    }
    for note in notes {
        text += &note;
        text.push('\n');
    }
    text
}

/// A table with its columns aligned: text to the left, numbers to the right.
pub(super) fn columns(text: &mut String, table: &Table) {
    let lines = || std::iter::once(&table.head).chain(&table.rows);
    let count = table.head.len();
    let width = |column: usize| lines().map(|line| line[column].chars().count()).max();
    let widths: Vec<usize> = (0..count)
        .map(|column| width(column).unwrap_or(0))
        .collect();
    let number = |cell: &String| {
        cell.is_empty() || cell.starts_with(|c: char| c.is_ascii_digit() || c == '-')
    };
    let right: Vec<bool> = (0..count)
        .map(|column| table.rows.iter().all(|row| number(&row[column])))
        .collect();
    for line in lines() {
        let mut cells = String::new();
        for (column, cell) in line.iter().enumerate() {
            let width = widths[column];
            let _ = match right[column] {
                true => write!(cells, "  {cell:>width$}"),
                false => write!(cells, "  {cell:width$}"),
            };
        }
        text.push_str(cells.trim_end());
        text.push('\n');
    }
}

/// A line for each row: what, value, goal, verdict.
fn rows(text: &mut String, rows: &[&Row]) {
    let width = rows.iter().map(|row| row.what.len()).max().unwrap_or(0);
    for row in rows {
        let Row {
            what, value, goal, ..
        } = row;
        let verdict = match row.met {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "",
        };
        let line = format!("{what:width$} {value:>12.3}  {goal:9}  {verdict}");
        text.push_str(line.trim_end());
        text.push('\n');
    }
}
