//! The record as tables and pictures: throughput against jobs, percentiles of latency, ratio against speed, memory over
//! time.

use super::record::{CellFigure, FioRecord};
use super::{BufferContents, CELLS, Cell, Length, Setting, Shape};
use crate::output::{self, Chart, Look, Outcome, Series, Table, distinct, number};
use crate::report::{Report, Row};

const HEAD: &str = "target,buffer,block_bytes,depth,jobs,cell,engine,direction,mb_s,iops,mean_us,\
    p50_us,p90_us,p99_us,p999_us,p9999_us,least_both_mb_s,most_both_mb_s,memory_bytes";

impl Outcome for FioRecord {
    fn report(&self) -> &Report {
        &self.report
    }

    fn json(&self) -> anyhow::Result<String> {
        output::json(self)
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        let length = match self.length {
            Length::Loops(loops) => format!("{loops} x the whole by each job"),
            Length::Seconds(seconds) => format!("{seconds} s a cell"),
        };
        let (megabytes, rounds) = (self.size_bytes >> 20, self.rounds);
        vec![
            (
                "work",
                format!("{megabytes} MiB, {length}, {rounds} rounds"),
            ),
            ("load before", self.load_average.to_string()),
            ("fio", self.fio.clone()),
        ]
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = vec![self.note.clone()];
        let targets = self.targets.iter().filter(|about| !about.note.is_empty());
        notes.extend(targets.map(|about| format!("{}: {}", about.target, about.note)));
        for (title, list) in [("left out", &self.skipped), ("FAILED", &self.failed)] {
            notes.extend(list.iter().map(|one| format!("{title}: {one}")));
        }
        notes
    }

    fn tables(&self) -> Vec<Table> {
        vec![self.figures_table(), self.memory_table()]
    }

    fn summary(&self) -> Vec<Table> {
        self.pivot()
    }

    /// The rows that have a goal; there is a row for every pair of targets and every cell.
    fn rows(&self) -> Vec<&Row> {
        let all = self.report.rows.iter();
        all.filter(|row| row.met.is_some()).collect()
    }

    fn charts(&self) -> Vec<Chart> {
        let settings = self.settings();
        let blocks = distinct(settings.iter().map(|one| (one.buffer, one.shape)));
        let mut charts = Vec::new();
        for block in blocks {
            charts.push(self.throughput(block));
            let here = |one: &&Setting| (one.buffer, one.shape) == block;
            charts.extend(settings.iter().filter(here).map(|one| self.latency(one)));
        }
        charts.push(self.ratio());
        charts.extend(settings.iter().map(|one| self.memory_over_time(one)));
        charts
    }
}

impl FioRecord {
    fn figures_table(&self) -> Table {
        let mut table = Table::new("Medians", HEAD);
        for figure in &self.figures {
            let CellFigure {
                target,
                cell,
                setting,
                engine,
                ..
            } = figure;
            let memory = self
                .memory
                .iter()
                .find(|t| t.target == *target && t.setting == *setting);
            for (direction, side) in figure.sides() {
                let mut row = vec![
                    target.clone(),
                    setting.buffer.to_string(),
                    setting.shape.block_bytes.to_string(),
                    setting.shape.depth.to_string(),
                    setting.jobs.to_string(),
                    cell.to_string(),
                    engine.clone(),
                    direction.into(),
                ];
                let figures = [side.mb_s, side.iops, side.mean_us];
                row.extend(figures.map(number));
                row.extend(side.percentiles().map(|(_, us)| number(us)));
                row.extend([figure.least_mb_s, figure.most_mb_s].map(number));
                row.push(memory.map_or(String::new(), |m| m.memory.used_bytes.to_string()));
                table.rows.push(row);
            }
        }
        table
    }

    fn memory_table(&self) -> Table {
        let head = "target,setting,written bytes,memory bytes,ratio,memory bytes after all cells";
        let mut table = Table::new("Memory after every block was written once", head);
        for taken in &self.memory {
            table.rows.push(vec![
                taken.target.clone(),
                taken.setting.to_string(),
                self.size_bytes.to_string(),
                taken.memory.used_bytes.to_string(),
                format!("{:.3}", taken.ratio),
                taken
                    .after_bytes
                    .map_or(String::new(), |bytes| bytes.to_string()),
            ]);
        }
        table
    }

    /// A line for each target and cell, over the numbers of jobs of a buffer and shape.
    fn throughput(&self, (buffer, shape): (BufferContents, Shape)) -> Chart {
        let here = |one: &Setting| (one.buffer, one.shape) == (buffer, shape);
        let settings = self.settings().into_iter().filter(here);
        let mut jobs: Vec<u32> = settings.map(|one| one.jobs).collect();
        jobs.sort_unstable();
        let mut series = Vec::new();
        for (group, target) in self.names().into_iter().enumerate() {
            for (member, cell) in self.simple_cells().into_iter().enumerate() {
                let its =
                    |f: &&CellFigure| f.target == target && f.cell == cell && here(&f.setting);
                let place = |figure: &CellFigure| {
                    let at = jobs.iter().position(|jobs| *jobs == figure.setting.jobs);
                    (at.unwrap_or(0) as f64, figure.mb_s())
                };
                series.push(Series::new(
                    format!("{target} {cell}"),
                    Look::new(group, member),
                    self.figures.iter().filter(its).map(place).collect(),
                ));
            }
        }
        Chart {
            title: format!("Throughput against jobs: buffer {buffer}, {shape}"),
            x: "jobs".into(),
            y: "MB/s".into(),
            x_names: jobs.iter().map(u32::to_string).collect(),
            log_y: true,
            lines: true,
            series,
            ..Chart::default()
        }
    }

    /// The random cells if there are any, at most two: a chart has a line for each target and cell.
    fn simple_cells(&self) -> Vec<Cell> {
        let has = |cell: &Cell| self.figures.iter().any(|figure| figure.cell == *cell);
        let random: Vec<_> = [Cell::RandWrite, Cell::RandRead]
            .into_iter()
            .filter(has)
            .collect();
        match random.is_empty() {
            true => CELLS.into_iter().filter(has).take(2).collect(),
            false => random,
        }
    }

    fn latency(&self, setting: &Setting) -> Chart {
        let mut series = Vec::new();
        let mut names = Vec::new();
        for (group, target) in self.names().into_iter().enumerate() {
            let wanted = |figure: &&CellFigure| self.simple_cells().contains(&figure.cell);
            let sides = self.of(target, setting).filter(wanted).flat_map(|figure| {
                let sides = figure.sides().map(|(_, side)| side);
                sides.map(|side| (figure.cell, side))
            });
            for (member, (cell, side)) in sides.enumerate() {
                let percentiles = side.percentiles();
                names = percentiles.map(|(name, _)| format!("{name} %")).into();
                // fio rounds what is below a nanosecond to none.
                let points = (0..)
                    .zip(percentiles)
                    .map(|(n, (_, us))| (f64::from(n), us.max(1e-3)));
                series.push(Series::new(
                    format!("{target} {cell}"),
                    Look::new(group, member),
                    points.collect(),
                ));
            }
        }
        Chart {
            title: format!("Latency percentiles: {setting}"),
            x: "share of the requests".into(),
            y: "us".into(),
            x_names: names,
            log_y: true,
            lines: true,
            series,
            ..Chart::default()
        }
    }

    /// A point for each setting, of the first cell that writes.
    fn ratio(&self) -> Chart {
        let series = |(group, target): (usize, &str)| {
            let its = self.memory.iter().filter(|taken| taken.target == target);
            let point = |taken: &super::Taken| {
                let mut figures = self.of(target, &taken.setting);
                let write = figures.find_map(|figure| figure.write)?;
                Some((write.mb_s, taken.ratio))
            };
            let points = its.filter_map(point).collect();
            Series::new(target, Look::new(group, 0), points)
        };
        Chart {
            title: "Ratio against speed, a point for each setting".into(),
            x: "written, MB/s".into(),
            y: "bytes written for each byte of memory".into(),
            log_y: true,
            series: self.names().into_iter().enumerate().map(series).collect(),
            ..Chart::default()
        }
    }

    fn memory_over_time(&self, setting: &Setting) -> Chart {
        let curves = self.curves.iter().filter(|curve| curve.setting == *setting);
        let megabytes = |(seconds, bytes): &(f64, u64)| (*seconds, *bytes as f64 / 1e6);
        let names = self.names();
        let series = curves.map(|curve| {
            let group = names.iter().position(|name| *name == curve.target);
            let points = curve.points.iter().map(megabytes).collect();
            Series::new(&*curve.target, Look::new(group.unwrap_or(0), 0), points)
        });
        Chart {
            title: format!("Memory over time, all cells in turn: {setting}"),
            x: "seconds".into(),
            y: "MB".into(),
            lines: true,
            series: series.collect(),
            ..Chart::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fio::record::tests::sample;
    use crate::output::Files;

    #[test]
    fn the_files_are_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| Some(dir.path().join(name));
        let files = Files {
            json: path("json"),
            csv: path("csv"),
            html: path("html"),
        };
        files.check().unwrap();
        files.write(&sample()).unwrap();
        let text = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        let html = text("html");
        assert!(html.ends_with("</html>\n"));
        // Throughput, latency, ratio, memory.
        assert_eq!(
            (html.matches("<svg").count(), html.matches("</svg>").count()),
            (4, 4)
        );
        assert!(
            html.contains("&lt;with&gt; &quot;marks&quot; &amp; such"),
            "escaped"
        );
        for word in ["http://", "https://", "<script", "<link"] {
            let rest = html.replace("http://www.w3.org/2000/svg", "");
            assert!(!rest.contains(word), "{word}");
        }
        let csv = text("csv");
        let lines: Vec<_> = csv.lines().collect();
        // Per target: a write, and a mixed cell's two.
        assert_eq!(lines.len(), 1 + 2 * 3);
        assert!(
            lines
                .iter()
                .all(|line| line.split(',').count() == HEAD.split(',').count()),
            "{csv}"
        );
        let json: serde_json::Value = serde_json::from_str(&text("json")).unwrap();
        assert_eq!(json["benchmark"], "bench fio");
        assert!(json["machine"].is_string() && json["commit"].is_string());
    }

    #[test]
    fn a_folder_that_is_not_there_is_said_before_the_work() {
        let html = Some("/nowhere/at/all.html".into());
        let files = Files {
            html,
            ..Files::default()
        };
        assert!(files.check().unwrap_err().to_string().contains("/nowhere"));
    }
}
