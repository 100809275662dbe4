//! `bench fio`: zram-perf-test's table, and other shapes of request, for any set of targets: the kernel's zram, devices of
//! this program, nbdkit, tmpfs, any path. fio does the requests and its own JSON is what is read.
//!
//! In a round every target takes its turn in every setting (a buffer, a request's size and depth, a number of jobs), in
//! the order of [`measure::order`](crate::measure::order). A target is made for its turn, goes through all cells, and is gone. One that fails is
//! reported and left out from there on; the others go on.

mod cell;
mod curve;
mod fit;
mod job;
mod perf;
mod pictures;
mod record;
mod series;
mod targets;
mod text;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};

pub use cell::{BufferContents, CELLS, Cell, Setting, Shape};
pub use job::{Length, Side};
pub(crate) use record::NAME;
pub use record::{About, CellFigure, Curve, FioRecord, Missing, Taken, Total};
pub use series::{TargetColumn, compare};
pub use targets::{DEFAULT as DEFAULT_TARGETS, TargetMemory, TargetSpec};

use crate::measure::order;
use crate::program::fio::Args as FioOptions;
use crate::program::uzram;
use crate::report::Report;
use curve::Sampler;
use job::Job;
use perf::Perf;
use record::TargetRuns;
use targets::{Means, Target};

/// Is told before each run of fio: how many are done, of how many, and which comes.
pub(crate) type FioProgress<'a> = &'a mut dyn FnMut(usize, usize, &str);

const NOTE: &str = "Every round measures every target, in a changing order; figures are medians over rounds, ratios \
    medians of the ratio within a round. sync on block devices and files at depth 1, fio's nbd engine on sockets. TargetMemory is \
    that after every block was written once. perf counts fio itself, not a server. MB are 10^6 bytes.";

/// Measures all targets. `skipped` are those that were left out already, and why.
pub(crate) fn run(
    options: &FioOptions,
    targets: &[TargetSpec],
    skipped: Vec<Missing>,
    progress: FioProgress<'_>,
) -> Result<FioRecord> {
    let fio = job::version()?;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, stop.clone()).context("catching signals")?;
    }
    let perf = Perf::probe();
    let buffers: Vec<String> = options
        .buffers
        .iter()
        .map(BufferContents::to_string)
        .collect();
    let corpus = format!("fio's buffers: {}", buffers.join(", "));
    let mut record = FioRecord {
        report: Report::new(record::NAME, corpus),
        note: NOTE.into(),
        fio,
        size_bytes: options.size_bytes(),
        length: options.length(),
        rounds: options.rounds(),
        load_average: load_average(),
        targets: Vec::new(),
        skipped,
        failed: Vec::new(),
        figures: Vec::new(),
        totals: Vec::new(),
        memory: Vec::new(),
        curves: Vec::new(),
    };
    if !perf.missing.is_empty() {
        let missing = Missing::new("perf stat", &perf.missing);
        record.skipped.push(missing);
    }
    let mut bench = FioSession {
        settings: options.settings(),
        cells: options.cells(),
        program: uzram(),
        options,
        targets,
        perf,
        dir: tempfile::Builder::new().prefix("uzram-bench").tempdir()?,
        stop,
        out: vec![false; targets.len()],
        runs: Vec::new(),
        done: 0,
        record,
    };
    bench.rounds(progress);
    Ok(bench.finish())
}

/// The load average of the last minute.
fn load_average() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let first = text.split_whitespace().next();
    first.and_then(|load| load.parse().ok()).unwrap_or(0.0)
}

struct FioSession<'a> {
    options: &'a FioOptions,
    targets: &'a [TargetSpec],
    settings: Vec<Setting>,
    cells: Vec<Cell>,
    /// The uzram program, which devices are made with.
    program: PathBuf,
    perf: Perf,
    dir: tempfile::TempDir,
    stop: Arc<AtomicBool>,
    /// Which targets have failed and are left out.
    out: Vec<bool>,
    runs: Vec<TargetRuns>,
    done: usize,
    record: FioRecord,
}

impl FioSession<'_> {
    fn rounds(&mut self, progress: FioProgress<'_>) {
        for round in 0..self.options.rounds() {
            for setting in self.settings.clone() {
                for who in order(round, self.targets.len()) {
                    self.turn(who, &setting, round, progress);
                    if self.stop.load(Ordering::Relaxed) {
                        // What was measured is handed out.
                        let why = "interrupted; the targets were taken away";
                        self.record.failed.push(Missing::new(record::THE_RUN, why));
                        return;
                    }
                }
            }
        }
    }

    /// Runs a target's turn in a setting.
    fn turn(&mut self, who: usize, setting: &Setting, round: usize, progress: FioProgress<'_>) {
        let cells = self.cells.len();
        if self.out[who] {
            self.done += cells;
            return;
        }
        let spec = &self.targets[who];
        let of = self.options.rounds() * self.settings.len() * self.targets.len() * cells;
        let before = self.done;
        let mut tell = |what: &str| {
            progress(self.done, of, what);
            self.done += 1;
        };
        let means = Means {
            size_bytes: self.options.size_bytes(),
            program: &self.program,
            dir: self.dir.path(),
            overwrite: self.options.overwrite,
        };
        let known = |runs: &TargetRuns| runs.target == spec.name && runs.setting == *setting;
        let mut runs_of = match self.runs.iter().position(known) {
            Some(at) => self.runs.swap_remove(at),
            None => TargetRuns::new(&spec.name, *setting),
        };
        let failed = |why: &anyhow::Error| Missing::new(&spec.name, format!("{why:#}"));
        match spec.open(&means) {
            Err(error) => {
                self.out[who] = true;
                let known = self.record.names().contains(&&*spec.name);
                match self.options.targets.is_some() || known {
                    true => self.record.failed.push(failed(&error)),
                    false => self.record.skipped.push(failed(&error)),
                }
            }
            Ok(mut target) => {
                if !self.record.names().contains(&&*spec.name) {
                    let note = target.note();
                    self.record.targets.push(About {
                        target: spec.name.clone(),
                        note,
                    });
                }
                let sampler = (round == 0).then(|| Sampler::start(target.probe()));
                let work = TurnWork {
                    options: self.options,
                    cells: &self.cells,
                    perf: &self.perf,
                    dir: self.dir.path(),
                    stop: &self.stop,
                };
                let what = format!("{spec}: {setting}");
                let mut result = work.cells(&*target, setting, &mut runs_of, &mut |cell| {
                    tell(&format!("{what}, {cell}"));
                });
                if result.is_ok() {
                    runs_of.after.extend(target.probe().read());
                }
                if let Some(sampler) = sampler {
                    runs_of.points = sampler.stop();
                }
                let closed = target.close().context("taking it away");
                if closed.is_err() {
                    // Something may still be mounted below.
                    self.dir.disable_cleanup(true);
                }
                result = result.and(closed);
                if let Err(error) = result.with_context(|| setting.to_string()) {
                    self.out[who] = true;
                    self.record.failed.push(failed(&error));
                }
            }
        }
        self.done = before + cells;
        self.runs.push(runs_of);
    }

    /// Orders the results by target and setting, and adds ratios and goals.
    fn finish(mut self) -> FioRecord {
        let place = |name: &str| self.targets.iter().position(|spec| spec.name == name);
        self.record
            .targets
            .sort_by_key(|about| place(&about.target));
        for setting in self.settings {
            let all = self.runs.iter().filter(|runs| runs.setting == setting);
            let mut all: Vec<&TargetRuns> = all.collect();
            all.sort_by_key(|runs| place(&runs.target));
            for runs in &all {
                runs.add_to(&mut self.record);
            }
            let wanted = |runs: &&&TargetRuns| self.options.beside.contains(&runs.target);
            let first = all.first();
            let others = all.iter().skip(1).filter(wanted);
            let bases: Vec<&&TargetRuns> = first.into_iter().chain(others).collect();
            for (at, base) in bases.iter().enumerate() {
                // Of two bases the earlier one is the base.
                let earlier =
                    |runs: &&&TargetRuns| bases[..=at].iter().any(|b| b.target == runs.target);
                for runs in all.iter().filter(|runs| !earlier(runs)) {
                    runs.add_over(base, &mut self.record);
                }
            }
        }
        for goal in &self.options.goal {
            if self.record.report.demand(goal) == 0 {
                let why = "no row has this in its text";
                let missing = Missing::new(format!("goal '{goal}'"), why);
                self.record.failed.push(missing);
            }
        }
        self.record
    }
}

/// What all cells of a turn have in common.
struct TurnWork<'a> {
    options: &'a FioOptions,
    cells: &'a [Cell],
    perf: &'a Perf,
    dir: &'a std::path::Path,
    stop: &'a AtomicBool,
}

impl TurnWork<'_> {
    /// Fills the target unless the first cell does, then runs all cells.
    fn cells(
        &self,
        target: &dyn Target,
        setting: &Setting,
        runs: &mut TargetRuns,
        tell: &mut dyn FnMut(Cell),
    ) -> Result<()> {
        let (place, length) = (target.place(), self.options.length());
        let mut filled = false;
        let whole = matches!(length, Length::Loops(_));
        if !(whole && self.cells[0] == Cell::SeqWrite) {
            // In large requests: it is not measured.
            let shape = Shape {
                block_bytes: 128 << 10,
                depth: 1,
            };
            let setting = Setting {
                shape,
                jobs: 1,
                ..*setting
            };
            let fill = self.job(&place, Cell::SeqWrite, setting, Length::Loops(1), &NOTHING);
            fill.run(&job::engine(&place, 1, &self.options.engine))
                .context("filling it")?;
            runs.memory.extend(target.probe().read());
            filled = true;
        }
        for cell in self.cells {
            tell(*cell);
            let engine = job::engine(&place, setting.shape.depth, &self.options.engine);
            let job = self.job(&place, *cell, *setting, length, self.perf);
            let run = job.run(&engine).with_context(|| cell.name())?;
            if !std::mem::replace(&mut filled, true) {
                runs.memory.extend(target.probe().read());
            }
            match runs.cells.iter_mut().find(|(known, ..)| known == cell) {
                Some((.., known)) => known.push(run),
                None => runs.cells.push((*cell, engine, vec![run])),
            }
        }
        Ok(())
    }

    fn job<'b>(
        &'b self,
        place: &'b targets::TargetPath,
        cell: Cell,
        setting: Setting,
        length: Length,
        perf: &'b Perf,
    ) -> Job<'b> {
        Job {
            place,
            cell,
            setting,
            size_bytes: self.options.size_bytes(),
            length,
            perf,
            dir: self.dir,
            stop: self.stop,
        }
    }
}

static NOTHING: Perf = Perf::nothing();
