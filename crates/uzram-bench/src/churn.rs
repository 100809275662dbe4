//! `bench churn`: how random overwrites fragment a device's memory, with and without background compaction, and what
//! compaction costs the writer.
//!
//! Two devices are filled with the same pages and then overwritten at random, many times over, with the same pages in the
//! same order, in turns of a few megabytes. Beside the second one a thread compacts in slices while it is written to, and
//! only then, so that it takes nothing from the first. Every half disksize the kind of most pages changes, and with it the
//! sizes of objects: classes fill up and drain.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use uzram::Device;

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

const ALGORITHMS: [&str; 2] = ["lz4", "zstd"];
/// Pages written in one turn of a device.
const TURN: usize = 4096;
/// Bytes that the background thread moves in a call.
const SLICE: u64 = 1 << 20;
/// It works only where at least this part of the memory can be gained,
const WORTH: u64 = 64;
/// and rests for so many times the time that it worked.
const REST: u32 = 3;

/// The work of the background thread.
#[derive(Default)]
struct CompactionWork {
    bytes_moved: u64,
    pages_freed: u64,
    busy: Duration,
}

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
    (0..TURN)
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

fn churn(
    algorithm: &str,
    kinds: &[Corpus],
    disk_bytes: u64,
    steps: usize,
    report: &mut Report,
) -> Result<()> {
    let pages = disk_bytes as usize / PAGE;
    let device = || {
        let device = Device::builder(disk_bytes).algorithm(algorithm).build()?;
        let mut random = Random::new(1);
        let any = |_| {
            let all = kinds[random.below(kinds.len())].pages();
            &all[random.below(all.len())]
        };
        fill(&device, (0..pages).map(any))?;
        Ok::<Device, uzram::Error>(device)
    };
    let (plain, compacted) = (device()?, device()?);
    let (on, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    let mut curve = vec![[overhead(&plain), overhead(&compacted)]];
    let mut seconds = Vec::new();
    let work = std::thread::scope(|scope| {
        let background = scope.spawn(|| compact(&compacted, &on, &stop));
        let mut random = Random::new(7);
        let turns = pages / 2 / TURN;
        for step in 0..steps {
            for turn in 0..turns {
                let batch = writes(kinds, step, pages, &mut random);
                let mut time = [0.0; 2];
                for who in order(turn, 2) {
                    let device = [&plain, &compacted][who];
                    on.store(who == 1, Relaxed);
                    let begin = Instant::now();
                    for (at, page) in &batch {
                        let written = device.write_at(*page, *at);
                        written.expect("the device is large enough");
                    }
                    time[who] = begin.elapsed().as_secs_f64();
                }
                on.store(false, Relaxed);
                seconds.push(time);
            }
            curve.push([overhead(&plain), overhead(&compacted)]);
        }
        stop.store(true, Relaxed);
        background.join().expect("compaction does not panic")
    });
    for (step, [without, with]) in curve.iter().enumerate() {
        let written = step as f64 / 2.0;
        let at = format!("{algorithm}: all memory over compressed bytes, {written:.1} x written");
        report.add(format!("{at}, without"), *without);
        let at = format!("{at}, with compaction");
        match step + 1 == curve.len() {
            true => report.at_most(at, *with, 1.10),
            false => report.add(at, *with),
        }
    }
    cost(algorithm, &seconds, &work, report);
    afterwards(algorithm, &plain, report);
    Ok(())
}

/// Adds the cost to the writer and to the machine.
fn cost(algorithm: &str, seconds: &[[f64; 2]], work: &CompactionWork, report: &mut Report) {
    let bytes = (TURN * PAGE) as f64;
    let speed = bytes / 1e6 / median(seconds.iter().map(|[a, _]| *a).collect());
    let ratio = median(seconds.iter().map(|[a, b]| a / b).collect());
    let (written, moved) = (bytes * seconds.len() as f64, work.bytes_moved as f64);
    let freed = (work.pages_freed * PAGE as u64) as f64;
    let all: f64 = seconds.iter().map(|s| s[1]).sum();
    let busy = 100.0 * work.busy.as_secs_f64() / all;
    let rows = [
        ("write without, MB/s", speed),
        ("write speed with compaction over without", ratio),
        ("bytes moved over bytes written, %", 100.0 * moved / written),
        ("bytes given back over bytes moved", freed / moved),
        ("of one CPU for compaction, %", busy),
    ];
    report.add_all(&format!("{algorithm}: "), rows);
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

/// Compacts in slices while `on`, until `stop`.
fn compact(device: &Device, on: &AtomicBool, stop: &AtomicBool) -> CompactionWork {
    let mut work = CompactionWork::default();
    while !stop.load(Relaxed) {
        let used = device.stats().mem_used_total_bytes;
        if !on.load(Relaxed) || device.jobs().compaction_gain_bytes() < used / WORTH {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        }
        let begin = Instant::now();
        let done = device.jobs().compact(SLICE);
        let took = begin.elapsed();
        work.busy += took;
        work.bytes_moved += done.bytes_moved;
        work.pages_freed += done.pages_freed;
        // Where nothing came of it, not again at once.
        let rest = if done.pages_freed == 0 { 20 } else { REST };
        std::thread::sleep(took * rest);
    }
    work
}
