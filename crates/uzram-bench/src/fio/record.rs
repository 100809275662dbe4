//! The record of a run: medians over the rounds, memory, and the machine and build that the figures belong to.

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::cell::{Cell, Setting};
use super::job::{JobRun, Length, Side};
use super::targets::TargetMemory;
use crate::measure::median;
use crate::output::{self, distinct};
use crate::report::Report;

/// The name in the records.
pub(crate) const NAME: &str = "bench fio";
/// Named in the list of failures if the run was interrupted.
pub(super) const THE_RUN: &str = "the run";

/// A target's cell: medians over the rounds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CellFigure {
    /// The target.
    pub target: String,
    /// Which cell.
    pub cell: Cell,
    /// Buffer, size, depth, jobs.
    #[serde(flatten)]
    pub setting: Setting,
    /// fio's engine.
    pub engine: String,
    /// Reads, if the cell has any.
    pub read: Option<Side>,
    /// Writes, if the cell has any.
    pub write: Option<Side>,
    /// The slowest round, both directions together.
    pub least_mb_s: f64,
    /// The fastest round: the spread says how far to trust the median.
    pub most_mb_s: f64,
    /// Rounds that were measured.
    pub rounds: usize,
}

impl CellFigure {
    /// Throughput of both directions together.
    pub fn mb_s(&self) -> f64 {
        self.sides().map(|(_, side)| side.mb_s).sum()
    }

    /// The directions that the cell has, by name.
    pub fn sides(&self) -> impl Iterator<Item = (&'static str, Side)> {
        let both = [("read", self.read), ("write", self.write)];
        both.into_iter()
            .filter_map(|(name, side)| Some((name, side?)))
    }
}

/// A target's run of all cells.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Total {
    /// The target.
    pub target: String,
    /// Buffer, size, depth, jobs.
    #[serde(flatten)]
    pub setting: Setting,
    /// Wall time of all cells, fio's starts included: `seconds elapsed` of the series.
    pub seconds: f64,
    /// What perf counted in fio (not in a server), by event; without those that it cannot count here.
    pub perf: Vec<(String, f64)>,
}

/// Memory after the fill.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Taken {
    /// The target.
    pub target: String,
    /// Buffer, size, depth, jobs.
    #[serde(flatten)]
    pub setting: Setting,
    /// Data and memory: the medians.
    #[serde(flatten)]
    pub memory: TargetMemory,
    /// Bytes that were written over bytes of memory.
    pub ratio: f64,
    /// Bytes of memory after all cells, including what overwrites left behind.
    #[serde(default)]
    pub after_bytes: Option<u64>,
}

/// Memory over time, in the first round.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Curve {
    /// The target.
    pub target: String,
    /// Buffer, size, depth, jobs.
    #[serde(flatten)]
    pub setting: Setting,
    /// Seconds, and bytes.
    pub points: Vec<(f64, u64)>,
}

/// A target, with a note on its figures.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct About {
    /// Its name.
    pub target: String,
    /// The note; may be empty.
    pub note: String,
}

/// Something that failed or was left out.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Missing {
    /// The target or other subject.
    pub what: String,
    /// Why.
    pub why: String,
}

/// The record of a run of `bench fio`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FioRecord {
    /// Machine, commit, compiler, and each target's throughput over the first one's.
    #[serde(flatten)]
    pub report: Report,
    /// How to read it.
    pub note: String,
    /// fio's version.
    pub fio: String,
    /// Bytes of a target.
    pub size_bytes: u64,
    /// How long a cell ran.
    pub length: Length,
    /// Rounds that were asked for.
    pub rounds: usize,
    /// The load average before the run: other processes that disturb.
    pub load_average: f64,
    /// The targets that were measured.
    pub targets: Vec<About>,
    /// What was left out because this machine does not have it.
    pub skipped: Vec<Missing>,
    /// What failed.
    pub failed: Vec<Missing>,
    /// Medians.
    pub figures: Vec<CellFigure>,
    /// Totals of all cells.
    pub totals: Vec<Total>,
    /// Memory.
    pub memory: Vec<Taken>,
    /// Memory over time.
    pub curves: Vec<Curve>,
}

impl Missing {
    pub(crate) fn new(what: impl Into<String>, why: impl Into<String>) -> Missing {
        let (what, why) = (what.into(), why.into());
        Missing { what, why }
    }
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.what, self.why)
    }
}

impl FioRecord {
    /// Whether the run was interrupted.
    pub fn is_interrupted(&self) -> bool {
        self.failed.iter().any(|one| one.what == THE_RUN)
    }

    /// Reads a kept record.
    pub fn read(path: &std::path::Path) -> Result<FioRecord> {
        let (shown, any) = (path.display(), output::parse(path)?);
        let name = any["benchmark"].as_str().unwrap_or("nothing");
        ensure!(
            name == NAME,
            "{shown} is a record of {name}; it takes what uzram bench fio --json wrote"
        );
        serde_json::from_value(any).with_context(|| format!("{shown} is of another version"))
    }

    /// The settings, in the order of the run.
    pub fn settings(&self) -> Vec<Setting> {
        distinct(self.figures.iter().map(|figure| figure.setting))
    }

    /// A target's figures in a setting.
    pub fn of<'a>(
        &'a self,
        target: &'a str,
        setting: &'a Setting,
    ) -> impl Iterator<Item = &'a CellFigure> {
        let figures = self.figures.iter();
        figures.filter(move |figure| figure.target == target && figure.setting == *setting)
    }

    /// A target's figure of one cell in a setting.
    pub fn figure(&self, target: &str, setting: &Setting, cell: Cell) -> Option<&CellFigure> {
        let mut figures = self.figures.iter();
        figures.find(|f| f.target == target && f.setting == *setting && f.cell == cell)
    }

    /// The names of the targets that have figures.
    pub fn names(&self) -> Vec<&str> {
        let names = self.targets.iter().map(|about| about.target.as_str());
        names.collect()
    }
}

/// The runs of a target in a setting, from which medians are taken.
#[derive(Debug, Clone)]
pub(super) struct TargetRuns {
    pub(super) target: String,
    pub(super) setting: Setting,
    /// By cell, in the order of the run; of each the engine, and a run for each round.
    pub(super) cells: Vec<(Cell, String, Vec<JobRun>)>,
    pub(super) memory: Vec<TargetMemory>,
    /// After all cells.
    pub(super) after: Vec<TargetMemory>,
    pub(super) points: Vec<(f64, u64)>,
}

impl TargetRuns {
    pub(super) fn new(target: &str, setting: Setting) -> TargetRuns {
        TargetRuns {
            target: target.into(),
            setting,
            cells: Vec::new(),
            memory: Vec::new(),
            after: Vec::new(),
            points: Vec::new(),
        }
    }

    /// Adds the medians to the record. Totals count complete rounds only.
    pub(super) fn add_to(&self, record: &mut FioRecord) {
        let (target, setting) = (self.target.clone(), self.setting);
        for (cell, engine, runs) in &self.cells {
            let sides = |of: fn(&JobRun) -> Option<Side>| {
                let sides: Vec<_> = runs.iter().filter_map(of).collect();
                Side::median(&sides)
            };
            record.figures.push(CellFigure {
                target: target.clone(),
                cell: *cell,
                setting,
                engine: engine.clone(),
                read: sides(|run| run.read),
                write: sides(|run| run.write),
                least_mb_s: runs.iter().map(JobRun::mb_s).fold(f64::MAX, f64::min),
                most_mb_s: runs.iter().map(JobRun::mb_s).fold(0.0, f64::max),
                rounds: runs.len(),
            });
        }
        record.totals.extend(self.total());
        if !self.memory.is_empty() {
            let used = used(&self.memory).unwrap_or_default();
            let data = self.memory.iter().filter_map(|m| m.data_bytes);
            let data: Vec<f64> = data.map(|bytes| bytes as f64).collect();
            let data_bytes = (!data.is_empty()).then(|| median(data) as u64);
            let memory = TargetMemory {
                data_bytes,
                used_bytes: used as u64,
            };
            let ratio = record.size_bytes as f64 / used.max(1.0);
            let used_after = self::used(&self.after);
            record.memory.push(Taken {
                target: target.clone(),
                setting,
                memory,
                ratio,
                after_bytes: used_after.map(|bytes| bytes as u64),
            });
        }
        if !self.points.is_empty() {
            let points = self.points.clone();
            record.curves.push(Curve {
                target,
                setting,
                points,
            });
        }
    }

    /// Adds rows of its throughput and memory over those of `base`.
    pub(super) fn add_over(&self, base: &TargetRuns, record: &mut FioRecord) {
        let (setting, names) = (
            self.setting,
            format!("{} over {}", self.target, base.target),
        );
        for (cell, ..) in &self.cells {
            if let Some(ratio) = self.over(base, *cell) {
                let what = format!("{cell}, {setting}: {names}, throughput");
                record.report.add(what, ratio);
            }
        }
        for (when, ours, theirs) in [
            ("the fill", &self.memory, &base.memory),
            ("all cells", &self.after, &base.after),
        ] {
            if let (Some(ours), Some(theirs)) = (used(ours), used(theirs)) {
                let what = format!("{setting}: {names}, memory after {when}");
                record.report.add(what, ours / theirs.max(1.0));
            }
        }
    }

    fn total(&self) -> Option<Total> {
        let whole = self.cells.iter().map(|(.., runs)| runs.len()).min()?;
        let sum = |of: &dyn Fn(&JobRun) -> f64| {
            let round = |n: usize| self.cells.iter().map(|(.., runs)| of(&runs[n])).sum();
            median((0..whole).map(round).collect())
        };
        let first = self.cells.first()?.2.first()?;
        let event = |(event, _): &(String, f64)| {
            let count = |run: &JobRun| {
                let found = run.perf.iter().find(|(name, _)| name == event);
                found.map_or(0.0, |(_, count)| *count)
            };
            (event.clone(), sum(&count))
        };
        (whole > 0).then(|| Total {
            target: self.target.clone(),
            setting: self.setting,
            seconds: sum(&|run| run.seconds),
            perf: first.perf.iter().map(event).collect(),
        })
    }

    /// The median over the rounds of its throughput over that of `base` in a cell.
    fn over<'a>(&'a self, base: &'a TargetRuns, cell: Cell) -> Option<f64> {
        let of =
            |runs: &'a TargetRuns| Some(&runs.cells.iter().find(|(name, ..)| *name == cell)?.2);
        let (ours, theirs) = (of(self)?, of(base)?);
        let pairs = ours.iter().zip(theirs);
        let ratios: Vec<f64> = pairs.map(|(a, b)| a.mb_s() / b.mb_s()).collect();
        (!ratios.is_empty()).then(|| median(ratios))
    }
}

/// The median of the memory in use.
fn used(memory: &[TargetMemory]) -> Option<f64> {
    let used: Vec<f64> = memory.iter().map(|m| m.used_bytes as f64).collect();
    (!used.is_empty()).then(|| median(used))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::fio::{BufferContents, Shape};

    fn run(mb_s: f64, mixed: bool) -> JobRun {
        let side = Side {
            mb_s,
            iops: mb_s * 244.0,
            mean_us: 11.0,
            p50_us: 10.0,
            p90_us: 20.0,
            p99_us: 30.0,
            p999_us: 40.0,
            p9999_us: 50.0,
        };
        JobRun {
            read: mixed.then_some(side),
            write: Some(side),
            seconds: 0.75,
            perf: vec![("instructions".into(), 617_283.5)],
        }
    }

    fn runs(target: &str, factor: f64) -> TargetRuns {
        let shape = Shape {
            block_bytes: 4096,
            depth: 1,
        };
        let memory = |used_bytes| TargetMemory {
            data_bytes: Some(1 << 20),
            used_bytes,
        };
        let writes = [90.0, 100.0, 300.0].map(|mb_s| run(mb_s * factor, false));
        let mixed = [9.0, 10.0, 11.0].map(|mb_s| run(mb_s * factor, true));
        TargetRuns {
            target: target.into(),
            setting: Setting {
                buffer: BufferContents::Static,
                shape,
                jobs: 1,
            },
            cells: vec![
                (Cell::SeqWrite, "sync".into(), writes.into()),
                (Cell::MixedSeq, "sync".into(), mixed.into()),
            ],
            memory: vec![memory(1 << 18), memory(1 << 19), memory(1 << 18)],
            after: vec![memory(1 << 20)],
            points: vec![(0.0, 0), (1.0, 1 << 18)],
        }
    }

    /// Two targets, the first twice as fast.
    pub(in crate::fio) fn sample() -> FioRecord {
        let about = |target: &str| About {
            target: target.into(),
            note: String::new(),
        };
        let mut record = FioRecord {
            report: Report::new(NAME, "fio's buffers: static".into()),
            note: "a note <with> \"marks\" & such".into(),
            fio: "fio-3.33".into(),
            size_bytes: 1 << 20,
            length: Length::Loops(1),
            rounds: 3,
            load_average: 0.5,
            targets: vec![about("kernel-zram"), about("uzram")],
            skipped: Vec::new(),
            failed: Vec::new(),
            figures: Vec::new(),
            totals: Vec::new(),
            memory: Vec::new(),
            curves: Vec::new(),
        };
        runs("kernel-zram", 2.0).add_to(&mut record);
        runs("uzram", 1.0).add_to(&mut record);
        runs("uzram", 1.0).add_over(&runs("kernel-zram", 2.0), &mut record);
        record
    }

    #[test]
    fn medians_are_kept_with_the_spread_and_memory() {
        let record = sample();
        let setting = record.settings()[0];
        let figure = record.figure("uzram", &setting, Cell::SeqWrite).unwrap();
        assert_eq!(
            (figure.mb_s(), figure.least_mb_s, figure.most_mb_s),
            (100.0, 90.0, 300.0)
        );
        let mixed = record.figure("uzram", &setting, Cell::MixedSeq).unwrap();
        assert_eq!(mixed.mb_s(), 20.0);
        assert_eq!(
            (record.memory[1].memory.used_bytes, record.memory[1].ratio),
            (1 << 18, 4.0)
        );
        assert_eq!(record.totals[1].seconds, 1.5);
        let (fast, slow) = (runs("kernel-zram", 2.0), runs("uzram", 1.0));
        assert_eq!(slow.over(&fast, Cell::MixedSeq), Some(0.5));
        assert_eq!(slow.over(&fast, Cell::RandRead), None);
        assert_eq!(record.memory[1].after_bytes, Some(1 << 20));
        let rows = record.report.rows.iter();
        let rows: Vec<_> = rows.map(|row| (row.what.as_str(), row.value)).collect();
        let setting = "buffer static, 4 KiB, depth 1, jobs 1: uzram over kernel-zram";
        assert_eq!(
            rows[0],
            (&*format!("seq-write, {setting}, throughput"), 0.5)
        );
        assert_eq!(
            rows[2],
            (&*format!("{setting}, memory after the fill"), 1.0)
        );
        assert_eq!(
            rows[3],
            (&*format!("{setting}, memory after all cells"), 1.0)
        );
    }

    #[test]
    fn a_record_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record.json");
        std::fs::write(&path, serde_json::to_string(&sample()).unwrap()).unwrap();
        let record = FioRecord::read(&path).unwrap();
        assert_eq!(record.figures.len(), 4);
        assert_eq!(record.series(), sample().series());
    }
}
