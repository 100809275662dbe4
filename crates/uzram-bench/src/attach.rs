//! `bench attach`: how fast a new process takes over what a dead one left. Times `Builder::attach` on a full device after
//! random overwrites: every slot is read, every object accounted.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Instant;

use anyhow::ensure;
use uzram::Device;

use crate::corpus::{self, PAGE};
use crate::lab::{Experiment, How, LabResult, Progress};
use crate::measure::{Random, fill, median};
use crate::report::Report;

/// `bench attach`.
pub(crate) const EXPERIMENT: Experiment =
    Experiment::new("attach", "How fast a new process takes a device over", run);

/// Measures everything. Calls `progress` before each step.
fn run(how: &How, progress: Progress<'_>) -> LabResult {
    let size_bytes: u64 = how.size(8 << 30, 512 << 20);
    progress("collecting process memory");
    let corpus = corpus::process_memory(128)?.without_same_filled();
    let pages = corpus.pages();
    ensure!(!pages.is_empty(), "no process memory was found");
    let mut report = Report::new(
        "bench attach",
        "process memory, over and over, and a quarter of the pages overwritten at random".into(),
    );
    for algorithm in ["lz4", "null"] {
        progress(&format!("filling a device with {algorithm}"));
        let image = rustix::fs::memfd_create("uzram-bench", rustix::fs::MemfdFlags::CLOEXEC)?;
        let builder = Device::builder(size_bytes).algorithm(algorithm);
        let device = builder.build_in(reopen(&image)?.into())?;
        let count = size_bytes as usize / PAGE;
        fill(&device, pages.iter().cycle().take(count))?;
        let mut random = Random::new(1);
        for _ in 0..count / 4 {
            let slot = random.below(count);
            device.write_at(&pages[random.below(pages.len())], (slot * PAGE) as u64)?;
        }
        let before = device.stats();
        drop(device);
        progress(&format!("attaching with {algorithm}"));
        let mut seconds = Vec::new();
        for _ in 0..how.rounds.unwrap_or(9) {
            let file = reopen(&image)?;
            let begin = Instant::now();
            let device = Device::builder(0).attach(file.into())?;
            seconds.push(begin.elapsed().as_secs_f64());
            let after = device.stats();
            ensure!(
                after.compr_data_size_bytes == before.compr_data_size_bytes,
                "the device is another one: {after:?}, {before:?}"
            );
        }
        let seconds = median(seconds);
        let rate = size_bytes as f64 / f64::from(1 << 30) / seconds;
        let used = before.mem_used_total_bytes as f64 / f64::from(1 << 20);
        let what = format!("{algorithm}: disksize attached to, GiB/s");
        report.at_least(what, rate, 20.0);
        let rows = [
            ("time for each page, ns", 1e9 * seconds / count as f64),
            ("memory of the device, MiB", used),
        ];
        report.add_all(&format!("{algorithm}: "), rows);
    }
    Ok(Box::new(report))
}

/// Opens the same memory as another process would.
pub(crate) fn reopen(image: &OwnedFd) -> std::io::Result<File> {
    let path = format!("/proc/self/fd/{}", image.as_fd().as_raw_fd());
    OpenOptions::new().read(true).write(true).open(path)
}
