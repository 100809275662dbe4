//! The two-column format of zram-perf-test's comparison: a row for each figure, a column for each run, so that runs can be
//! laid side by side, those of the series' own scripts too.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Result, ensure};
use uzram_spec::size::thousands;

use super::cell::{CELLS, Setting};
use super::job::Side;
use super::record::{FioRecord, Total};
use crate::output::distinct;

/// A target of a run.
#[derive(Debug, Clone)]
pub struct TargetColumn {
    /// The name that the heading gives it.
    pub heading: String,
    target: String,
    record: FioRecord,
}

/// The columns of a record: all targets, or only the named one.
fn columns(record: &FioRecord, of: &str, only: Option<&str>) -> Vec<TargetColumn> {
    let names = record.names().into_iter();
    let wanted = names.filter(|name| only.is_none_or(|only| only == *name));
    let column = |target: &str| TargetColumn {
        heading: format!("{of}{target}"),
        target: target.to_owned(),
        record: record.clone(),
    };
    wanted.map(column).collect()
}

impl FioRecord {
    /// Prints all targets in the series' format.
    pub fn series(&self) -> String {
        print(&columns(self, "", None))
    }
}

/// Prints kept records side by side in the series' format: all targets, or only the named one.
pub fn compare(paths: &[impl AsRef<Path>], target: Option<&str>) -> Result<String> {
    let mut all = Vec::new();
    let mut known = Vec::new();
    for path in paths {
        let record = FioRecord::read(path.as_ref())?;
        let name = format!("{}: ", path.as_ref().display());
        all.extend(columns(&record, &name, target));
        known.extend(record.names().into_iter().map(str::to_owned));
    }
    known.sort();
    known.dedup();
    ensure!(
        !all.is_empty(),
        "no record has the target '{}'; they have: {}",
        target.unwrap_or_default(),
        known.join(", ")
    );
    Ok(print(&all))
}

fn print(columns: &[TargetColumn]) -> String {
    let mut text = String::new();
    for column in columns {
        let _ = writeln!(text, "Processing {}", column.heading);
    }
    let settings = distinct(columns.iter().flat_map(|column| column.record.settings()));
    for (buffer, shape) in distinct(settings.iter().map(|one| (one.buffer, one.shape))) {
        let here = |one: &&Setting| (one.buffer, one.shape) == (buffer, shape);
        let here: Vec<_> = settings.iter().filter(here).collect();
        let _ = writeln!(text, "\nbuffer {buffer}, {shape}");
        for setting in &here {
            throughput(&mut text, columns, setting);
        }
        for setting in &here {
            counts(&mut text, columns, setting);
        }
        for setting in &here {
            let seconds = |total: &Total| format!("{:.9}", total.seconds);
            row(&mut text, "seconds elapsed", (22, 9), columns, &|column| {
                total(column, setting).map(seconds)
            });
        }
    }
    text
}

fn row(
    text: &mut String,
    label: &str,
    (first, width): (usize, usize),
    columns: &[TargetColumn],
    value: &dyn Fn(&TargetColumn) -> Option<String>,
) {
    let values = columns
        .iter()
        .map(|column| value(column).unwrap_or_else(|| "-".into()));
    let values: Vec<_> = values.map(|value| format!("{value:>width$}")).collect();
    let line = format!("{label:first$} {}", values.join("\t"));
    *text += line.trim_end();
    text.push('\n');
}

fn throughput(text: &mut String, columns: &[TargetColumn], setting: &Setting) {
    let name = format!("#jobs{}", setting.jobs);
    row(text, &name, (15, 15), columns, &|_| Some(String::new()));
    for cell in CELLS {
        let sides: [(&str, fn(&super::CellFigure) -> Option<Side>); 2] =
            [("READ:", |f| f.read), ("WRITE:", |f| f.write)];
        for (label, side) in sides {
            let value = |column: &TargetColumn| {
                let figure = column.record.figure(&column.target, setting, cell)?;
                Some(format!("{:.1}MB/s", side(figure)?.mb_s))
            };
            if columns.iter().any(|column| value(column).is_some()) {
                row(text, label, (15, 15), columns, &value);
            }
        }
    }
}

fn total<'a>(column: &'a TargetColumn, setting: &Setting) -> Option<&'a Total> {
    let mut totals = column.record.totals.iter();
    totals.find(|total| total.target == column.target && total.setting == *setting)
}

/// Adds perf's counts, if there are any.
fn counts(text: &mut String, columns: &[TargetColumn], setting: &Setting) {
    let totals = columns.iter().filter_map(|column| total(column, setting));
    let events = distinct(totals.flat_map(|total| &total.perf).map(|(event, _)| event));
    if events.is_empty() {
        return;
    }
    let name = format!("jobs{}", setting.jobs);
    row(text, &name, (25, 17), columns, &|_| Some("perfstat".into()));
    for event in events {
        row(text, event, (25, 17), columns, &|column| {
            let perf = &total(column, setting)?.perf;
            let (_, count) = perf.iter().find(|(name, _)| name == event)?;
            Some(thousands(*count as u64))
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fio::record::tests::sample;

    #[test]
    fn runs_lie_side_by_side_in_the_series_format() {
        let record = sample();
        let text = record.series();
        let expected = "Processing kernel-zram\nProcessing uzram\n\nbuffer static, 4 KiB, depth 1\n#jobs1\n\
            WRITE:                200.0MB/s\t      100.0MB/s\n\
            READ:                  20.0MB/s\t       10.0MB/s\n\
            WRITE:                 20.0MB/s\t       10.0MB/s\n\
            jobs1                              perfstat\t         perfstat\n\
            instructions                      1,234,567\t        1,234,567\n\
            seconds elapsed        1.500000000\t1.500000000\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn records_are_compared_and_others_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        std::fs::write(&path, serde_json::to_string(&sample()).unwrap()).unwrap();
        let text = compare(&[&path, &path], Some("uzram")).unwrap();
        assert_eq!(text.matches("Processing").count(), 2);
        assert!(text.contains("100.0MB/s\t      100.0MB/s"), "{text}");
        let error = compare(&[&path], Some("tmpfs")).unwrap_err().to_string();
        assert!(error.contains("kernel-zram, uzram"), "{error}");
        std::fs::write(&path, "{\"benchmark\": \"bench core\"}").unwrap();
        let error = compare(&[&path], None).unwrap_err().to_string();
        assert!(
            error.contains("bench core") && error.contains("bench fio"),
            "{error}"
        );
    }
}
