//! `bench guest`: ublk beside the kernel's zram in a virtual machine. `cargo xtask bench guest` measures and saves files; here
//! they become medians, ratios and the verdict on ublk's goal.

mod runs;

use std::fs;
use std::path::Path;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use self::runs::{GuestCell, GuestMemory, GuestRun, GuestRuns};
use crate::measure::median;
use crate::output::{self, Outcome, Table};
use crate::report::{Report, Row, first_line};

/// The name in the records.
pub(crate) const NAME: &str = "bench guest";

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

/// A device in a cell: medians over the rounds.
#[derive(Debug, Serialize, Deserialize)]
struct Figures {
    device: String,
    #[serde(flatten)]
    cell: GuestCell,
    #[serde(flatten)]
    median: GuestRun,
}

/// An algorithm in a cell, ours beside the kernel's.
#[derive(Debug, Serialize, Deserialize)]
struct Comparison {
    algorithm: String,
    #[serde(flatten)]
    cell: GuestCell,
    /// Our throughput over that of the kernel's zram.
    over_kernel: f64,
    /// Our throughput over the floor's.
    over_floor: f64,
    /// Microseconds of a request: t of the algorithm, what of it the codec took, and t of null plus that.
    time_us: f64,
    codec_us: f64,
    floor_and_codec_us: f64,
    /// The first over the second, which the goal is on.
    cost: f64,
    met: bool,
}

/// Everything.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct GuestRecord {
    /// Goals, machine, commit.
    #[serde(flatten)]
    report: Report,
    guest: String,
    guest_kernel: String,
    /// CPUs of this machine that were busy with others' work meanwhile, on average: what disturbs.
    others_busy_cpus: String,
    note: String,
    formula: String,
    memory_note: String,
    rounds: usize,
    memory: Vec<GuestMemory>,
    figures: Vec<Figures>,
    comparisons: Vec<Comparison>,
}

impl GuestRecord {
    /// Makes a record of what a run saved.
    pub(crate) fn read(saved: &Path) -> Result<GuestRecord> {
        let said = |file| {
            let text = fs::read_to_string(saved.join(file));
            text.map_or("unknown".into(), |text| text.trim().to_owned())
        };
        let mut record = GuestRecord::new(&GuestRuns::read(saved)?)?;
        let guest = said("guest");
        let mut guest = guest.lines();
        record.guest_kernel = guest.next().unwrap_or("unknown").into();
        let qemu = first_line("qemu-system-x86_64", &["--version"]);
        record.guest = format!("{qemu}, TCG, {}", guest.next().unwrap_or("unknown"));
        record.others_busy_cpus = said("others");
        record.report.commit = said("commit");
        Ok(record)
    }

    fn new(runs: &GuestRuns) -> Result<GuestRecord> {
        let mut report = Report::new(NAME, runs.data.clone());
        let mut figures = Vec::new();
        let mut comparisons = Vec::new();
        let mut rounds = 0;
        for cell in &runs.cells {
            for device in &runs.devices {
                rounds = runs.of(device, cell)?.len();
                figures.push(medians(runs, device, cell)?);
            }
            for algorithm in ALGORITHMS {
                let one = compare(runs, cell, algorithm)?;
                let what = format!("{algorithm} {cell}, time over floor and codec");
                report.at_most(what, one.cost, GOAL);
                comparisons.push(one);
            }
        }
        Ok(GuestRecord {
            report,
            guest: String::new(),
            guest_kernel: String::new(),
            others_busy_cpus: String::new(),
            note: NOTE.into(),
            formula: FORMULA.into(),
            memory_note: MEMORY.into(),
            rounds,
            memory: runs.memory.clone(),
            figures,
            comparisons,
        })
    }

    /// Figures of several devices in a cell, in their order.
    fn each(
        &self,
        devices: &[String],
        cell: &GuestCell,
        show: impl Fn(&GuestRun) -> String,
    ) -> String {
        let found = devices.iter().filter_map(|device| {
            let mut all = self.figures.iter();
            all.find(|f| f.device == *device && f.cell == *cell)
        });
        let shown: Vec<String> = found.map(|figures| show(&figures.median)).collect();
        shown.join(" / ")
    }

    fn speed(&self) -> Table {
        let caption = "Kernel's zram / uzram / uzram's null device, the floor; latencies in us";
        let head = "cell,algorithm,throughput,over kernel's,over floor,p50,p99,CPUs busy";
        let mut table = Table::new(caption, head);
        for one in &self.comparisons {
            let (cell, algorithm) = (&one.cell, &one.algorithm);
            let ours = format!("uzram-{algorithm}");
            let devices = [format!("zram-{algorithm}"), ours, "uzram-null".into()];
            table.rows.push(vec![
                cell.to_string(),
                algorithm.clone(),
                self.each(&devices, cell, |run| cell.rate(run)),
                format!("{:.2}", one.over_kernel),
                format!("{:.2}", one.over_floor),
                self.each(&devices, cell, |run| format!("{:.0}", run.p50_us)),
                self.each(&devices, cell, |run| format!("{:.0}", run.p99_us)),
                self.each(&devices, cell, |run| format!("{:.1}", run.cpus_busy)),
            ]);
        }
        table
    }

    fn goal(&self) -> Table {
        let head = "cell,algorithm,t,codec,floor + codec,ratio,<= 1.10";
        let mut table = Table::new("The goal; t in us", head);
        for one in &self.comparisons {
            table.rows.push(vec![
                one.cell.to_string(),
                one.algorithm.clone(),
                format!("{:.0}", one.time_us),
                format!("{:.0}", one.codec_us),
                format!("{:.0}", one.floor_and_codec_us),
                format!("{:.2}", one.cost),
                if one.met { "met" } else { "MISSED" }.into(),
            ]);
        }
        table
    }

    fn memory(&self) -> Table {
        let mebibytes = |bytes: u64| format!("{:.1}", bytes as f64 / f64::from(1 << 20));
        let head = "device,when,data,mem_used_total,all,data / all";
        let mut table = Table::new("GuestMemory, MiB", head);
        for memory in &self.memory {
            table.rows.push(vec![
                memory.device.clone(),
                memory.when.clone(),
                mebibytes(memory.data),
                mebibytes(memory.mem_used_total),
                mebibytes(memory.all),
                format!("{:.2}", memory.data as f64 / memory.all as f64),
            ]);
        }
        table
    }
}

impl Outcome for GuestRecord {
    fn report(&self) -> &Report {
        &self.report
    }

    fn json(&self) -> Result<String> {
        output::json(self)
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        vec![
            ("guest", format!("{}, {}", self.guest_kernel, self.guest)),
            ("rounds", self.rounds.to_string()),
            ("CPUs busy with others' work", self.others_busy_cpus.clone()),
        ]
    }

    fn notes(&self) -> Vec<String> {
        let met = self.comparisons.iter().filter(|one| one.met).count();
        let of = self.comparisons.len();
        vec![
            format!("The goal is met in {met} of {of} cells."),
            self.note.clone(),
            self.formula.clone(),
            self.memory_note.clone(),
        ]
    }

    fn tables(&self) -> Vec<Table> {
        vec![self.speed(), self.goal(), self.memory()]
    }

    /// Those that are missed: the others are in a table.
    fn rows(&self) -> Vec<&Row> {
        let all = self.report.rows.iter();
        all.filter(|row| row.met == Some(false)).collect()
    }
}

fn medians(runs: &GuestRuns, device: &str, cell: &GuestCell) -> Result<Figures> {
    let of = |figure| runs.figure(device, cell, figure);
    Ok(Figures {
        device: device.into(),
        cell: cell.clone(),
        median: GuestRun {
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
fn time(cell: &GuestCell) -> fn(&GuestRun) -> f64 {
    match cell.depth {
        1 => |run| run.p50_us,
        _ => |run| run.cpu_us,
    }
}

fn compare(runs: &GuestRuns, cell: &GuestCell, algorithm: &str) -> Result<Comparison> {
    let (ours, kernels) = (format!("uzram-{algorithm}"), format!("zram-{algorithm}"));
    let floor = "uzram-null";
    let time = time(cell);
    let (times, floors) = (runs.of(&ours, cell)?, runs.of(floor, cell)?);
    if floors.len() != times.len() {
        bail!("{cell}: some rounds are not whole");
    }
    let codec =
        |(run, floor): (&GuestRun, &GuestRun)| cell.pages() * (run.codec_ns - floor.codec_ns) / 1e3;
    let codec: Vec<f64> = times.iter().zip(floors).map(codec).collect();
    let allowed = floors.iter().zip(&codec).map(|(f, c)| time(f) + c);
    let allowed: Vec<f64> = allowed.collect();
    let costs = times.iter().zip(&allowed);
    let costs = costs.map(|(run, allowed)| time(run) / allowed);
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
    use crate::guest::runs::tests::sample;

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
        assert!(GuestRecord::new(&runs).is_err());
    }
}
