//! How fast a new process takes over what a dead one left: the whole of `Builder::attach`, on a device that is full of
//! objects (every slot read, every object entered into the books), after random overwrites.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Instant;

use anyhow::{Result, ensure};
use uzram::Device;

use crate::corpus;
use crate::measure::median;
use crate::report::Report;

const PAGE: u64 = 4096;

/// What to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Size of the device, which is filled.
    pub fill_bytes: u64,
    /// How often it is attached to.
    pub rounds: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            fill_bytes: 8 << 30,
            rounds: 9,
        }
    }
}

impl Options {
    /// A smoke test: its figures mean little.
    pub fn quick() -> Options {
        Options {
            fill_bytes: 512 << 20,
            ..Options::default()
        }
    }
}

/// Runs it; `progress` hears what is being done.
pub fn run(options: &Options, progress: &mut dyn FnMut(&str)) -> Result<Report> {
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
        let mut random = 1u64;
        for _ in 0..count / 4 {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let page = (random >> 33) % count;
            device.write_at(&pages[(random >> 20) as usize % pages.len()], page * PAGE)?;
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

/// The same memory as another process would open it.
fn reopen(image: &OwnedFd) -> std::io::Result<File> {
    let path = format!("/proc/self/fd/{}", image.as_fd().as_raw_fd());
    OpenOptions::new().read(true).write(true).open(path)
}
