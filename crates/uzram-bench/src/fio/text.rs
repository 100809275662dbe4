//! The table on stdout: a line for each cell and number of jobs, a column for each target.

use std::fmt;

use super::record::{Figure, Record};
use super::{Buffer, CELLS, Length, Setting, Shape};
use crate::report::{Report, lines};

/// The least width of a column: `12345.6 123456.7`.
const COLUMN: usize = 20;

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report {
            corpus,
            machine,
            kernel,
            commit,
            compiler,
            ..
        } = &self.report;
        writeln!(
            f,
            "bench fio on {corpus}\n{machine}, Linux {kernel}, {}, {compiler}",
            self.fio
        )?;
        let length = match self.length {
            Length::Loops(loops) => format!("{loops} x the whole by each job"),
            Length::Seconds(seconds) => format!("{seconds} s a cell"),
        };
        let (megabytes, rounds) = (self.size_bytes >> 20, self.rounds);
        let load = self.load_average;
        writeln!(
            f,
            "commit {commit}; {megabytes} MiB, {length}, {rounds} rounds; load average before {load}\n"
        )?;
        for about in self.targets.iter().filter(|about| !about.note.is_empty()) {
            writeln!(f, "{}: {}", about.target, about.note)?;
        }
        let mut block: Option<(Buffer, Shape)> = None;
        for setting in self.settings() {
            if block != Some((setting.buffer, setting.shape)) {
                block = Some((setting.buffer, setting.shape));
                let (buffer, shape) = (setting.buffer, setting.shape);
                writeln!(
                    f,
                    "\nbuffer {buffer}, {shape}: MB/s, and the 99th percentile of latency in us"
                )?;
                self.head(f, "CELL              JOBS")?;
            }
            self.setting(f, &setting)?;
        }
        self.memory(f)?;
        let demanded = self.report.demanded();
        if !demanded.is_empty() {
            writeln!(f, "goals")?;
            lines(f, &demanded)?;
            writeln!(f)?;
        }
        for (title, list) in [("left out", &self.skipped), ("FAILED", &self.failed)] {
            for missing in list {
                writeln!(f, "{title}: {}: {}", missing.what, missing.why)?;
            }
        }
        Ok(())
    }
}

impl Record {
    fn head(&self, f: &mut fmt::Formatter<'_>, first: &str) -> fmt::Result {
        write!(f, "{first}")?;
        for name in self.names() {
            write!(f, "  {name:>width$}", width = width(name))?;
        }
        writeln!(f)
    }

    fn setting(&self, f: &mut fmt::Formatter<'_>, setting: &Setting) -> fmt::Result {
        for cell in CELLS {
            let figures: Vec<Option<&Figure>> = self
                .names()
                .into_iter()
                .map(|name| self.figure(name, setting, cell))
                .collect();
            for side in ["read", "write"] {
                let of = |figure: &Option<&Figure>| {
                    let figure = (*figure)?;
                    figure.sides().find(|(name, _)| *name == side)
                };
                if figures.iter().all(|figure| of(figure).is_none()) {
                    continue;
                }
                // Only mixed cells have two.
                let mixed = cell.name().starts_with("mixed");
                let name = if mixed {
                    format!("{cell} {side}")
                } else {
                    cell.to_string()
                };
                write!(f, "{name:17} {:>4}", setting.jobs)?;
                for (figure, target) in figures.iter().zip(self.names()) {
                    let width = width(target);
                    let text = of(figure)
                        .map(|(_, side)| format!("{:.1} {:>8.1}", side.mb_s, side.p99_us));
                    write!(f, "  {:>width$}", text.unwrap_or_else(|| "-".into()))?;
                }
                writeln!(f)?;
            }
        }
        Ok(())
    }

    fn memory(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.memory.is_empty() {
            return Ok(());
        }
        writeln!(
            f,
            "\nmemory after every block was written once: MB used, and bytes written for each byte of it"
        )?;
        self.head(f, "BUFFER            JOBS")?;
        for setting in self.settings() {
            write!(
                f,
                "{:17} {:>4}",
                format!("{}, {}", setting.buffer, setting.shape),
                setting.jobs
            )?;
            for name in self.names() {
                let mut all = self.memory.iter();
                let taken = all.find(|taken| taken.target == name && taken.setting == setting);
                let text = taken.map(|taken| {
                    let used = taken.memory.used_bytes as f64 / 1e6;
                    format!("{used:.1} {:>8.2}", taken.ratio)
                });
                let width = width(name);
                write!(f, "  {:>width$}", text.unwrap_or_else(|| "-".into()))?;
            }
            writeln!(f)?;
        }
        writeln!(f)
    }
}

/// Of a target's column.
fn width(target: &str) -> usize {
    COLUMN.max(target.len())
}

#[cfg(test)]
mod tests {
    use crate::fio::record::tests::sample;

    #[test]
    fn a_line_for_each_cell_and_what_failed_last() {
        let mut record = sample();
        record.report.demand(&"throughput >= 1".parse().unwrap());
        let why = "fio: it hangs".into();
        record.failed.push(crate::fio::Missing {
            what: "tmpfs".into(),
            why,
        });
        let text = record.to_string();
        for part in [
            "seq-write            1",
            "mixed-seq read       1",
            "200.0     30.0",
            "4.00",
            "uzram over kernel-zram, throughput        0.500  >= 1       MISSED",
        ] {
            assert!(text.contains(part), "{part}:\n{text}");
        }
        assert!(text.ends_with("FAILED: tmpfs: fio: it hangs\n"), "{text}");
    }
}
