//! What a run comes to: medians, ratios and the verdict on ublk's goal. Kept as JSON in the manner of `bench core`.

use anyhow::{Result, bail};
use serde::Serialize;

use super::machine::Machine;
use super::runs::{Cell, Memory, Run, Runs, median};

/// The most that ublk may take, over the floor plus the codec's own time.
const GOAL: f64 = 1.10;

/// What the figures are and are not.
const NOTE: &str = "An emulated processor (QEMU's TCG): only ratios mean anything, and rough ones. System calls and \
    switches of process cost it many times what they cost a real one, beside the same work. Every round measures every \
    cell on every device, one after the other, another one first each time; figures are medians over rounds, ratios \
    medians of the ratios in a round.";

/// How the goal is checked.
const FORMULA: &str = "t(algorithm) <= 1.10 x (t(null) + pages x codec), all in the same round. t at depth 1: \
    median latency (pauses of the host, of milliseconds, are most of the mean). t at depth 32: CPU time of a request, fio's and the server's (which is wall time \
    x CPUs busy / requests), since two CPUs may share the work. codec: what a call of the algorithm took inside the \
    server in that very run, by the processor's time stamps, less that of null; calls that were interrupted are left \
    out (see crates/uzram-cli/examples/stopwatch.rs). The pool, the table, and everything else count as uzram's.";

/// What both have a device of.
const ALGORITHMS: [&str; 3] = ["lz4", "zstd", "deflate"];

const MEMORY: &str = "data: written and there. mem_used_total: the pool. all: resident memory of the server and its \
    keeper, with the image (table and pool) counted once; of the kernel's zram, which does not tell its table (16 bytes a \
    page), mem_used_total.";

/// One claim, as in the records of `bench core`.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) value: f64,
    pub(crate) goal: String,
    pub(crate) met: Option<bool>,
}

/// A device in a cell: medians over the rounds.
#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    pub(crate) device: String,
    #[serde(flatten)]
    pub(crate) cell: Cell,
    #[serde(flatten)]
    pub(crate) median: Run,
}

/// An algorithm in a cell, ours beside the kernel's.
#[derive(Debug, Serialize)]
pub(crate) struct Comparison {
    pub(crate) algorithm: String,
    #[serde(flatten)]
    pub(crate) cell: Cell,
    /// Our throughput over that of the kernel's zram.
    pub(crate) over_kernel: f64,
    /// Our throughput over the floor's.
    pub(crate) over_floor: f64,
    /// Microseconds of a request: t of the algorithm, what of it the codec took, and t of null plus that.
    pub(crate) time_us: f64,
    pub(crate) codec_us: f64,
    pub(crate) floor_and_codec_us: f64,
    /// The first over the second, which the goal is on.
    pub(crate) cost: f64,
    pub(crate) met: bool,
}

/// Everything.
#[derive(Debug, Serialize)]
pub(crate) struct Record {
    pub(crate) benchmark: &'static str,
    pub(crate) corpus: String,
    #[serde(flatten)]
    pub(crate) machine: Machine,
    pub(crate) note: &'static str,
    pub(crate) formula: &'static str,
    pub(crate) memory_note: &'static str,
    pub(crate) rounds: usize,
    pub(crate) memory: Vec<Memory>,
    pub(crate) figures: Vec<Figures>,
    pub(crate) comparisons: Vec<Comparison>,
    pub(crate) rows: Vec<Row>,
}

impl Record {
    pub(crate) fn new(machine: Machine, runs: &Runs) -> Result<Record> {
        let mut figures = Vec::new();
        let mut comparisons = Vec::new();
        let mut rounds = 0;
        for cell in &runs.cells {
            for device in &runs.devices {
                rounds = runs.of(device, cell)?.len();
                figures.push(medians(runs, device, cell)?);
            }
            for algorithm in ALGORITHMS {
                comparisons.push(compare(runs, cell, algorithm)?);
            }
        }
        let rows = comparisons.iter().map(|c| Row {
            what: format!("{} {}, time over floor and codec", c.algorithm, c.cell),
            value: c.cost,
            goal: format!("<= {GOAL}"),
            met: Some(c.met),
        });
        Ok(Record {
            benchmark: "bench guest",
            corpus: runs.data.clone(),
            machine,
            note: NOTE,
            formula: FORMULA,
            memory_note: MEMORY,
            rounds,
            rows: rows.collect(),
            memory: runs.memory.clone(),
            figures,
            comparisons,
        })
    }

    /// A device's figures in a cell.
    pub(crate) fn figures(&self, device: &str, cell: &Cell) -> Option<&Run> {
        let found = self
            .figures
            .iter()
            .find(|f| f.device == device && f.cell == *cell);
        found.map(|figures| &figures.median)
    }
}

fn medians(runs: &Runs, device: &str, cell: &Cell) -> Result<Figures> {
    let of = |figure| runs.figure(device, cell, figure);
    Ok(Figures {
        device: device.into(),
        cell: cell.clone(),
        median: Run {
            iops: of(|run| run.iops)?,
            p50_us: of(|run| run.p50_us)?,
            p99_us: of(|run| run.p99_us)?,
            wall_us: of(|run| run.wall_us)?,
            cpu_us: of(|run| run.cpu_us)?,
            cpus_busy: of(|run| run.cpus_busy)?,
            switches: of(|run| run.switches)?,
            codec_ns: of(|run| run.codec_ns)?,
        },
    })
}

/// What `t` is in the formula.
fn time(cell: &Cell) -> fn(&Run) -> f64 {
    match cell.depth {
        1 => |run| run.p50_us,
        _ => |run| run.cpu_us,
    }
}

fn compare(runs: &Runs, cell: &Cell, algorithm: &str) -> Result<Comparison> {
    let (ours, kernels) = (format!("uzram-{algorithm}"), format!("zram-{algorithm}"));
    let floor = "uzram-null";
    let time = time(cell);
    let (times, floors) = (runs.of(&ours, cell)?, runs.of(floor, cell)?);
    if floors.len() != times.len() {
        bail!("{cell}: some rounds are not whole");
    }
    let codec = |(run, floor): (&Run, &Run)| cell.pages() * (run.codec_ns - floor.codec_ns) / 1e3;
    let codec: Vec<f64> = times.iter().zip(floors).map(codec).collect();
    let allowed: Vec<f64> = floors
        .iter()
        .zip(&codec)
        .map(|(f, c)| time(f) + c)
        .collect();
    let costs = times
        .iter()
        .zip(&allowed)
        .map(|(run, allowed)| time(run) / allowed);
    let cost = median(costs.collect());
    Ok(Comparison {
        algorithm: algorithm.into(),
        cell: cell.clone(),
        over_kernel: runs.ratio(cell, &ours, &kernels, |run| run.iops)?,
        over_floor: runs.ratio(cell, &ours, floor, |run| run.iops)?,
        time_us: runs.figure(&ours, cell, time)?,
        codec_us: median(codec),
        floor_and_codec_us: median(allowed),
        cost,
        met: cost <= GOAL,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::runs::tests::sample;

    #[test]
    fn the_goal_is_on_the_time_over_floor_and_codec() {
        // 200 us without a codec, 250 and 400 us with one of 50 us.
        let devices = [
            ("zram-lz4", 10_000),
            ("zram-zstd", 8_000),
            ("uzram-lz4", 4_000),
            ("uzram-zstd", 2_500),
            ("uzram-null", 5_000),
        ];
        let runs = sample(1, &devices);
        let lz4 = compare(&runs, &runs.cells[0], "lz4").unwrap();
        assert_eq!((lz4.cost, lz4.met), (1.0, true));
        assert_eq!((lz4.over_kernel, lz4.over_floor), (0.4, 0.8));
        let zstd = compare(&runs, &runs.cells[0], "zstd").unwrap();
        assert_eq!((zstd.cost, zstd.met), (1.6, false));
        assert!(compare(&runs, &runs.cells[0], "deflate").is_err());
    }
}
