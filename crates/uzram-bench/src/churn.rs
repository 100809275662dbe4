//! `bench churn`: how random overwrites fragment a device's memory, with and without the compaction that is on by default.
//! Measures what compaction costs the writer, in speed and in its slowest writes, and what erasing costs.
//!
//! Three devices are filled with the same pages and then overwritten at random, many times over, with the same pages in the
//! same order, in turns. The second has the agent with the default policy, which rests while another device is written to,
//! so that it takes nothing from that. The third erases what it frees. Every half disksize the kind of most pages changes,
//! and with it the sizes of objects: classes fill up and drain.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, ensure};
use uzram::{Agent, Device, PolicySettings};

use crate::corpus::{self, Corpus, PAGE};
use crate::lab::{Experiment, How, LabResult, Progress};
use crate::measure::{Random, all_memory, fill, median, order};
use crate::report::Report;

/// `bench churn`.
pub(crate) const EXPERIMENT: Experiment = Experiment {
    rounds: false,
    ..Experiment::new(
        "churn",
        "What random overwrites make of memory, with and without compaction",
        run,
    )
};

const ALGORITHMS: [&str; 3] = ["lz4", "zstd", "lzhs"];
/// Turns of each device in half a disksize.
const TURNS: usize = 4;
/// The devices.
const PLAIN: usize = 0;
const COMPACTED: usize = 1;
const ERASING: usize = 2;

/// Measures everything. Calls `progress` before each step.
fn run(how: &How, progress: Progress<'_>) -> LabResult {
    let megabytes = how.size(64, 16);
    let disk_bytes: u64 = how.size(1 << 30, 128 << 20);
    // Half disksizes that are overwritten.
    let steps = how.size(20, 4);
    progress("collecting process memory");
    let mut kinds = corpus::heaps(megabytes)?;
    kinds.push(corpus::zeros_and_noise(megabytes / 4));
    ensure!(kinds.iter().all(|kind| !kind.is_empty()), "an empty corpus");
    let mut report = Report::new(
        "bench churn",
        "process memory (python3: syntax trees, JSON, SQLite; perl: hashes) and noise, in changing parts".into(),
    );
    report.add("disksize, MB", disk_bytes as f64 / 1e6);
    for algorithm in ALGORITHMS {
        progress(&format!("{algorithm}: overwriting"));
        churn(algorithm, &kinds, disk_bytes, steps, &mut report)?;
    }
    Ok(Box::new(report))
}

/// A page to write, and where.
type Write<'a> = (u64, &'a [u8; PAGE]);

/// A turn's writes, at random places: half of the pages are of the step's kind, the others of any.
fn writes<'a>(
    kinds: &'a [Corpus],
    step: usize,
    pages: usize,
    random: &mut Random,
) -> Vec<Write<'a>> {
    (0..pages / 2 / TURNS)
        .map(|_| {
            let kind = match random.below(2) {
                0 => step % kinds.len(),
                _ => random.below(kinds.len()),
            };
            let all = kinds[kind].pages();
            let page = &all[random.below(all.len())];
            ((random.below(pages) * PAGE) as u64, page)
        })
        .collect()
}

/// What one turn of a device took.
#[derive(Clone, Copy, Default)]
struct TurnTook {
    seconds: f64,
    /// Of one write.
    p99_ns: f64,
}

/// Writes a turn's pages.
fn write(device: &Device, batch: &[Write<'_>], latencies: &mut Vec<u32>) -> TurnTook {
    latencies.clear();
    let begin = Instant::now();
    for (at, page) in batch {
        let one = Instant::now();
        let written = device.write_at(*page, *at);
        written.expect("the device is large enough");
        latencies.push(one.elapsed().as_nanos().min(u32::MAX.into()) as u32);
    }
    let seconds = begin.elapsed().as_secs_f64();
    let at = latencies.len() * 99 / 100;
    let (_, p99, _) = latencies.select_nth_unstable(at);
    TurnTook {
        seconds,
        p99_ns: f64::from(*p99),
    }
}

fn churn(
    algorithm: &str,
    kinds: &[Corpus],
    disk_bytes: u64,
    steps: usize,
    report: &mut Report,
) -> Result<()> {
    let pages = disk_bytes as usize / PAGE;
    let device = |erase: bool| {
        let device = Device::builder(disk_bytes)
            .algorithm(algorithm)
            .erase_on_free(erase)
            .build()?;
        let mut random = Random::new(1);
        let any = |_| {
            let all = kinds[random.below(kinds.len())].pages();
            &all[random.below(all.len())]
        };
        fill(&device, (0..pages).map(any))?;
        Ok::<_, uzram::Error>(Arc::new(device))
    };
    let devices = [device(false)?, device(false)?, device(true)?];
    let agent = Agent::start(devices[COMPACTED].clone())?;
    let overheads = || [PLAIN, COMPACTED].map(|who| overhead(&devices[who]));
    let mut curve = vec![overheads()];
    let (mut took, mut latencies) = (Vec::new(), Vec::new());
    let mut random = Random::new(7);
    for step in 0..steps {
        for turn in 0..TURNS {
            let batch = writes(kinds, step, pages, &mut random);
            let mut times = [TurnTook::default(); 3];
            for who in order(step * TURNS + turn, devices.len()) {
                let policy = match who {
                    COMPACTED => PolicySettings::standard(),
                    _ => PolicySettings::default(),
                };
                devices[COMPACTED].jobs().set_policy(policy)?;
                times[who] = write(&devices[who], &batch, &mut latencies);
            }
            took.push(times);
        }
        curve.push(overheads());
    }
    devices[COMPACTED]
        .jobs()
        .set_policy(PolicySettings::default())?;
    agent.stop();
    for (step, [without, with]) in curve.iter().enumerate() {
        let written = step as f64 / 2.0;
        let at = format!("{algorithm}: all memory over compressed bytes, {written:.1} x written");
        report.add(format!("{at}, without"), *without);
        report.at_most(format!("{at}, with compaction"), *with, 1.10);
    }
    cost(algorithm, &devices[COMPACTED], &took, report);
    afterwards(algorithm, &devices[PLAIN], report);
    Ok(())
}

/// Adds the cost to the writer and to the machine.
fn cost(algorithm: &str, compacted: &Device, took: &[[TurnTook; 3]], report: &mut Report) {
    let agent = compacted.jobs().agent_stats();
    let batch = compacted.size_bytes() as f64 / 2.0 / TURNS as f64;
    let seconds = took.iter().map(|times| times[PLAIN].seconds).collect();
    let rate = batch / 1e6 / median(seconds);
    report.add(format!("{algorithm}: write without, MB/s"), rate);
    for (who, what) in [(COMPACTED, "with compaction"), (ERASING, "erasing")] {
        let ratios = took.iter().map(|t| t[PLAIN].seconds / t[who].seconds);
        let name = format!("{algorithm}: write speed {what} over without");
        report.add(name, median(ratios.collect()));
        let ratios = took.iter().map(|t| t[who].p99_ns / t[PLAIN].p99_ns);
        let name = format!("{algorithm}: p99 of a write {what} over without");
        match who {
            COMPACTED => report.at_most(name, median(ratios.collect()), 1.10),
            _ => report.add(name, median(ratios.collect())),
        }
    }
    let p99 = took.iter().map(|times| times[PLAIN].p99_ns).collect();
    report.add(
        format!("{algorithm}: p99 of a write without, us"),
        median(p99) / 1e3,
    );
    let freed = (agent.pages_compacted * PAGE as u64) as f64;
    let name = format!("{algorithm}: bytes given back by the agent over bytes written, %");
    report.add(name, 100.0 * freed / (batch * took.len() as f64));
    let all: f64 = took.iter().map(|times| times[COMPACTED].seconds).sum();
    let busy = 100.0 * agent.cpu_seconds / all;
    report.add(format!("{algorithm}: of one CPU for compaction, %"), busy);
}

/// Compacts a device that never was, once.
fn afterwards(algorithm: &str, device: &Device, report: &mut Report) {
    let begin = Instant::now();
    let done = device.jobs().compact(u64::MAX);
    let seconds = begin.elapsed().as_secs_f64();
    let left = "all memory over compressed bytes, without, then compacted once";
    let rate = done.bytes_moved as f64 / seconds / 1e6;
    let rows = [
        (left, overhead(device)),
        ("that compaction moves, MB/s", rate),
        ("and takes, ms", seconds * 1e3),
    ];
    report.add_all(&format!("{algorithm}: "), rows);
}

fn overhead(device: &Device) -> f64 {
    let stats = device.stats();
    all_memory(&stats) / stats.compr_data_size_bytes as f64
}
