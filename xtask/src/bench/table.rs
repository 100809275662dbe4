//! A record as text: Markdown tables, the formula, and which cells miss the goal.

use std::fmt::Write;

use super::record::{Comparison, Record};
use super::runs::{Cell, Run};

/// Rows of cells as a Markdown table; the first column is of text, the others of figures.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        for (column, cell) in row.iter().enumerate() {
            let width = width(column);
            let _ = match column {
                0 => write!(text, "| {cell:width$} "),
                _ => write!(text, "| {cell:>width$} "),
            };
        }
        text.push_str("|\n");
        if number == 0 {
            for column in 0..row.len() {
                let dashes = "-".repeat(width(column));
                let _ = match column {
                    0 => write!(text, "| {dashes} "),
                    _ => write!(text, "| {dashes}:"),
                };
            }
            text.push_str("|\n");
        }
    }
    text
}

/// A row of a table.
pub(crate) fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

/// Requests a second, or for large ones what is more usual.
pub(crate) fn rate(cell: &Cell, run: &Run) -> String {
    if cell.block == "4k" {
        format!("{:.0} IOPS", run.iops)
    } else {
        format!("{:.0} MiB/s", run.iops * cell.pages() / 256.0)
    }
}

/// Figures of several devices, in their order.
fn each(runs: &[&Run], figure: impl Fn(&Run) -> String) -> String {
    let figures: Vec<String> = runs.iter().map(|run| figure(run)).collect();
    figures.join(" / ")
}

/// Everything that a reader wants to see.
pub(crate) fn text(record: &Record) -> String {
    let machine = &record.machine;
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{}, {} rounds, data: {}",
        record.benchmark, record.rounds, record.corpus
    );
    let _ = writeln!(
        text,
        "{}, Linux {}, {}",
        machine.machine, machine.kernel, machine.compiler
    );
    let _ = writeln!(text, "guest: {}, {}", machine.guest_kernel, machine.guest);
    let _ = writeln!(
        text,
        "commit {}; CPUs busy with others' work meanwhile: {}\n\n{}\n",
        machine.commit, machine.others_busy_cpus, record.note
    );
    text += "Kernel's zram / uzram / uzram's null device, the floor; latencies in us:\n\n";
    text += &speed(record);
    text += "\nThe goal; t in us:\n\n";
    text += &goal(record);
    let _ = writeln!(text, "\n{}\n", record.formula);
    text += &verdict(&record.comparisons);
    text += "\nMemory, MiB:\n\n";
    text += &memory(record);
    let _ = writeln!(text, "\n{}", record.memory_note);
    text
}

fn speed(record: &Record) -> String {
    let mut rows = vec![row([
        "cell",
        "algorithm",
        "throughput",
        "over kernel's",
        "over floor",
        "p50",
        "p99",
        "CPUs busy",
    ])];
    for comparison in &record.comparisons {
        let (cell, algorithm) = (&comparison.cell, &comparison.algorithm);
        let devices = [
            format!("zram-{algorithm}"),
            format!("uzram-{algorithm}"),
            "uzram-null".into(),
        ];
        let found = devices
            .iter()
            .filter_map(|device| record.figures(device, cell));
        let runs: Vec<&Run> = found.collect();
        rows.push(vec![
            cell.to_string(),
            algorithm.clone(),
            each(&runs, |run| rate(cell, run)),
            format!("{:.2}", comparison.over_kernel),
            format!("{:.2}", comparison.over_floor),
            each(&runs, |run| format!("{:.0}", run.p50_us)),
            each(&runs, |run| format!("{:.0}", run.p99_us)),
            each(&runs, |run| format!("{:.1}", run.cpus_busy)),
        ]);
    }
    table(&rows)
}

fn goal(record: &Record) -> String {
    let mut rows = vec![row([
        "cell",
        "algorithm",
        "t",
        "codec",
        "floor + codec",
        "ratio",
        "<= 1.10",
    ])];
    for comparison in &record.comparisons {
        rows.push(vec![
            comparison.cell.to_string(),
            comparison.algorithm.clone(),
            format!("{:.0}", comparison.time_us),
            format!("{:.0}", comparison.codec_us),
            format!("{:.0}", comparison.floor_and_codec_us),
            format!("{:.2}", comparison.cost),
            if comparison.met { "met" } else { "MISSED" }.into(),
        ]);
    }
    table(&rows)
}

fn verdict(comparisons: &[Comparison]) -> String {
    let missed: Vec<&Comparison> = comparisons.iter().filter(|c| !c.met).collect();
    let mut text = format!(
        "The goal is met in {} of {} cells.\n",
        comparisons.len() - missed.len(),
        comparisons.len()
    );
    for comparison in missed {
        let Comparison {
            algorithm,
            cell,
            cost,
            ..
        } = comparison;
        let _ = writeln!(text, "MISSED: {algorithm} {cell}: {cost:.2}");
    }
    text
}

fn memory(record: &Record) -> String {
    let mebibytes = |bytes: u64| format!("{:.1}", bytes as f64 / f64::from(1 << 20));
    let mut rows = vec![row([
        "device",
        "when",
        "data",
        "mem_used_total",
        "all",
        "data / all",
    ])];
    for memory in &record.memory {
        rows.push(vec![
            memory.device.clone(),
            memory.when.clone(),
            mebibytes(memory.data),
            mebibytes(memory.mem_used_total),
            mebibytes(memory.all),
            format!("{:.2}", memory.data as f64 / memory.all as f64),
        ]);
    }
    table(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned() {
        let text = table(&[row(["a", "bcd"]), row(["efg", "1"])]);
        assert_eq!(text, "| a   | bcd |\n| --- | ---:|\n| efg |   1 |\n");
    }
}
