//! The tables on stdout: a line for each cell and number of jobs, a column for each target.

use super::record::{CellFigure, FioRecord};
use super::{BufferContents, CELLS, Cell, Setting, Shape};
use crate::output::Table;

impl FioRecord {
    /// Speeds for each buffer and shape of request, and memory.
    pub(super) fn pivot(&self) -> Vec<Table> {
        let mut tables: Vec<((BufferContents, Shape), Table)> = Vec::new();
        for setting in self.settings() {
            let block = (setting.buffer, setting.shape);
            let rows = CELLS
                .into_iter()
                .flat_map(|cell| self.rows_of(&setting, cell));
            match tables.last_mut().filter(|(last, _)| *last == block) {
                Some((_, table)) => table.rows.extend(rows),
                None => {
                    let (buffer, shape) = block;
                    let caption = format!(
                        "buffer {buffer}, {shape}: MB/s, and the 99th percentile of latency in us"
                    );
                    let mut table = self.by_target(caption, "cell");
                    table.rows.extend(rows);
                    tables.push((block, table));
                }
            }
        }
        let memory = self.memory_by_target();
        tables
            .into_iter()
            .map(|(_, table)| table)
            .chain([memory])
            .collect()
    }

    fn by_target(&self, caption: impl Into<String>, first: &str) -> Table {
        let mut table = Table::new(caption, first);
        table.head.push("jobs".into());
        table
            .head
            .extend(self.names().into_iter().map(str::to_owned));
        table
    }

    /// A line for each direction of a cell.
    fn rows_of(&self, setting: &Setting, cell: Cell) -> Vec<Vec<String>> {
        let names = self.names().into_iter();
        let figures: Vec<Option<&CellFigure>> =
            names.map(|name| self.figure(name, setting, cell)).collect();
        let row = |side: &str| {
            let of = |figure: &Option<&CellFigure>| {
                let (_, side) = (*figure)?.sides().find(|(name, _)| *name == side)?;
                Some(format!("{:.1} {:>8.1}", side.mb_s, side.p99_us))
            };
            // Only mixed cells have two.
            let name = match cell.name().starts_with("mixed") {
                true => format!("{cell} {side}"),
                false => cell.to_string(),
            };
            let texts: Vec<Option<String>> = figures.iter().map(of).collect();
            let any = texts.iter().any(Option::is_some);
            let texts = texts
                .into_iter()
                .map(|text| text.unwrap_or_else(|| "-".into()));
            any.then(|| {
                [name, setting.jobs.to_string()]
                    .into_iter()
                    .chain(texts)
                    .collect()
            })
        };
        ["read", "write"].into_iter().filter_map(row).collect()
    }

    fn memory_by_target(&self) -> Table {
        let caption = "memory after every block was written once: MB used, and bytes written for each byte of it";
        let mut table = self.by_target(caption, "buffer");
        if self.memory.is_empty() {
            return table;
        }
        for setting in self.settings() {
            let text = |name: &str| {
                let mut all = self.memory.iter();
                let taken = all.find(|taken| taken.target == name && taken.setting == setting)?;
                let used = taken.memory.used_bytes as f64 / 1e6;
                Some(format!("{used:.1} {:>8.2}", taken.ratio))
            };
            let texts = self.names().into_iter().map(text);
            let texts = texts.map(|text| text.unwrap_or_else(|| "-".into()));
            let first = format!("{}, {}", setting.buffer, setting.shape);
            let row = [first, setting.jobs.to_string()].into_iter().chain(texts);
            table.rows.push(row.collect());
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use crate::fio::record::tests::sample;
    use crate::output::text;

    #[test]
    fn a_line_for_each_cell_and_what_failed_last() {
        let mut record = sample();
        record.report.demand(&"throughput >= 1".parse().unwrap());
        let why = "fio: it hangs".into();
        record.failed.push(crate::fio::Missing {
            what: "tmpfs".into(),
            why,
        });
        let text = text(&record);
        for part in [
            "seq-write           1",
            "mixed-seq read      1",
            "200.0     30.0",
            "4.00",
            "uzram over kernel-zram, throughput        0.500  >= 1       MISSED",
        ] {
            assert!(text.contains(part), "{part}:\n{text}");
        }
        assert!(
            !text.contains("memory after the fill"),
            "a row without a goal:\n{text}"
        );
        assert!(text.ends_with("FAILED: tmpfs: fio: it hangs\n"), "{text}");
    }
}
