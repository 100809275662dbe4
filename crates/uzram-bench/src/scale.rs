//! `bench scale`: what a device of 1 GiB to 4 TiB costs whoever looks at it, works on it or takes it over.
//!
//! A quarter of each device is in use, in four stretches. Of 64 pages there, 63 are same-filled and one has an object of
//! some ten bytes: so slot table and books are those of a device of that size, and its contents fit into a laboratory's
//! memory. Costs are for each slot in use. What grows with the size alone grows for each as well.

use std::hint::black_box;
use std::os::fd::OwnedFd;
use std::time::Instant;

use anyhow::{Result, ensure};
use uzram::{Device, Writeback};

use crate::attach::reopen;
use crate::corpus::PAGE;
use crate::lab::{Experiment, How, LabResult, Progress};
use crate::measure::{all_memory, median};
use crate::report::Report;

/// `bench scale`.
pub(crate) const EXPERIMENT: Experiment = Experiment::new(
    "scale",
    "What devices of 1 GiB to 4 TiB cost to fill, look at, work on and attach to",
    run,
);

const GIB: u64 = 1 << 30;
/// One of so many pages has an object.
const WITH_OBJECT: u64 = 64;
/// Pages of a write.
const BATCH: u64 = 256;
/// What a slot of the largest device may cost over one of the second smallest, whose table is larger than a cache: nothing
/// grows faster than the size does.
const LINEAR: f64 = 1.25;
/// Costs below this, for each slot, are of calls that take microseconds whatever the size.
const NOTHING: f64 = 0.1;

/// What is measured, each for a slot in use and in nanoseconds.
const COSTS: [&str; 6] = [
    "fill",
    "statistics",
    "selection for writeback",
    "marking idle",
    "compaction with nothing to gain",
    "attach",
];

fn run(how: &How, progress: Progress<'_>) -> LabResult {
    let sizes: &[u64] = how.size(&[1, 16, 256, 4096], &[1, 4]);
    let mut report = Report::new(
        "bench scale",
        "same-filled pages, and an object of some ten bytes for every 64th".into(),
    );
    let mut each = Vec::new();
    for gib in sizes {
        progress(&format!("a device of {gib} GiB"));
        let slots = gib * GIB / PAGE as u64 / 4;
        let (device, image, fill) = filled(gib * GIB)?;
        let rounds = how.rounds.unwrap_or(5);
        let stats = device.stats();
        let mut costs = [fill, 0.0, 0.0, 0.0, 0.0, 0.0];
        costs[1] = times(rounds, || Ok(device.stats()))?;
        costs[2] = times(rounds, || {
            let found = device.zram().writable_back(&Writeback::default());
            ensure!(found.candidates == slots / WITH_OBJECT, "{found:?}");
            Ok(())
        })?;
        costs[3] = times(rounds, || Ok(device.zram().mark_idle(None)?))?;
        // The first has something to gain.
        device.jobs().compact(u64::MAX);
        costs[4] = times(rounds, || Ok(device.jobs().compact(u64::MAX)))?;
        drop(device);
        costs[5] = times(rounds, || {
            let again = Device::builder(0).attach(reopen(&image)?.into())?;
            ensure!(again.stats().same_pages == stats.same_pages, "another one");
            Ok(())
        })?;
        let costs = costs.map(|seconds| 1e9 * seconds / slots as f64);
        for (what, cost) in COSTS.iter().zip(costs) {
            report.add(format!("{gib} GiB: {what}, ns for each slot in use"), cost);
        }
        let rate = 1e9 * PAGE as f64 / GIB as f64 / costs[5];
        let what = format!("{gib} GiB: attach, GiB/s of what is in use");
        report.at_least(what, rate, 20.0);
        let bytes = all_memory(&stats);
        report.add_all(
            &format!("{gib} GiB: "),
            [
                ("all memory, MB", bytes / 1e6),
                ("of that table, MB", stats.table_bytes as f64 / 1e6),
                ("of that books, MB", stats.metadata_bytes as f64 / 1e6),
                (
                    "all memory, bytes for each slot in use",
                    bytes / slots as f64,
                ),
            ],
        );
        each.push(costs);
    }
    let (small, large) = (each[1], each[each.len() - 1]);
    for ((what, small), large) in COSTS.iter().zip(small).zip(large) {
        let what = format!("{what}: a slot of the largest over one of the second smallest");
        report.at_most(what, large.max(NOTHING) / small.max(NOTHING), LINEAR);
    }
    Ok(Box::new(report))
}

/// A device, the memory that it is in, and the seconds that its contents took.
fn filled(bytes: u64) -> Result<(Device, OwnedFd, f64)> {
    let image = rustix::fs::memfd_create("uzram-bench", rustix::fs::MemfdFlags::CLOEXEC)?;
    let device = Device::builder(bytes)
        .algorithm("lz4")
        .build_in(reopen(&image)?.into())?;
    let mut batch = vec![7u8; BATCH as usize * PAGE];
    for page in (0..BATCH).step_by(WITH_OBJECT as usize) {
        let at = page as usize * PAGE;
        batch[at..at + 8].copy_from_slice(&(page + 1).to_ne_bytes());
    }
    let begin = Instant::now();
    let stretch = bytes / 16;
    for start in (0..4).map(|quarter| quarter * (bytes / 4)) {
        for at in (start..start + stretch).step_by(batch.len()) {
            device.write_at(&batch, at)?;
        }
    }
    Ok((device, image, begin.elapsed().as_secs_f64()))
}

/// Median seconds of a call.
fn times<T>(rounds: usize, mut call: impl FnMut() -> Result<T>) -> Result<f64> {
    let mut seconds = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let begin = Instant::now();
        black_box(call()?);
        seconds.push(begin.elapsed().as_secs_f64());
    }
    Ok(median(seconds))
}
