//! `bench attach`: how fast a new process takes over what a dead one left. Times `Builder::attach` on a full device after
//! random overwrites: every slot is read, every object accounted.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Instant;

use anyhow::{Result, ensure};
use uzram::Device;

use crate::corpus;
use crate::lab::{Card, Experiment, How};
use crate::measure::{Random, median};
use crate::output::Outcome;
use crate::report::Report;

const PAGE: u64 = 4096;

/// `bench attach`.
pub struct Attach;

impl Experiment for Attach {
    fn card(&self) -> Card {
        Card::new("attach", "How fast a new process takes a device over")
    }

    fn run(&self, how: &How, progress: &mut dyn FnMut(&str)) -> Result<Box<dyn Outcome>> {
        Ok(Box::new(run(&Options::new(how), progress)?))
    }
}

/// How much to do.
struct Options {
    /// Size of the device, which is filled.
    fill_bytes: u64,
    /// How often it is attached to.
    rounds: usize,
}

impl Options {
    fn new(how: &How) -> Options {
        Options {
            fill_bytes: how.size(8 << 30, 512 << 20),
            rounds: how.rounds(9, 9),
        }
    }
}

/// Measures everything. Calls `progress` before each step.
fn run(options: &Options, progress: &mut dyn FnMut(&str)) -> Result<Report> {
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
        let image: OwnedFd =
            rustix::fs::memfd_create("uzram-bench", rustix::fs::MemfdFlags::CLOEXEC)
                .map_err(std::io::Error::from)?;
        let builder = Device::builder(options.fill_bytes).algorithm(algorithm);
        let device = builder.build_in(reopen(&image)?.into())?;
        let count = device.size_bytes() / PAGE;
        for page in 0..count {
            device.write_at(&pages[page as usize % pages.len()], page * PAGE)?;
        }
        let mut random = Random::new(1);
        for _ in 0..count / 4 {
            let page = random.next() % count;
            device.write_at(&pages[random.below(pages.len())], page * PAGE)?;
        }
        let before = device.stats();
        drop(device);
        progress(&format!("attaching with {algorithm}"));
        let mut seconds = Vec::new();
        for _ in 0..options.rounds {
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
        let gib = options.fill_bytes as f64 / (1u64 << 30) as f64;
        let rate = gib / median(seconds);
        report.at_least(
            format!("{algorithm}: disksize attached to, GiB/s"),
            rate,
            20.0,
        );
        let per_page = 1e9 * PAGE as f64 / (1u64 << 30) as f64 / rate;
        report.add(format!("{algorithm}: time for each page, ns"), per_page);
        report.add(
            format!("{algorithm}: memory of the device, MiB"),
            before.mem_used_total_bytes as f64 / f64::from(1 << 20),
        );
    }
    Ok(report)
}

/// Opens the same memory as another process would.
fn reopen(image: &OwnedFd) -> std::io::Result<File> {
    let path = format!("/proc/self/fd/{}", image.as_fd().as_raw_fd());
    OpenOptions::new().read(true).write(true).open(path)
}
