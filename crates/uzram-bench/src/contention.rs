//! `bench contention`: how often a request finds a lock taken, by the number of threads that ask.
//!
//! Counts and no times: the share does not depend on how fast the machine is, so that two CPUs can tell what more of them
//! would meet. Where there are more threads than CPUs, a lock is found taken because its holder was descheduled with it.

use std::thread;

use anyhow::Result;
use uzram::Device;
use uzram::contention::{self, Lock};

use crate::corpus::{self, PAGE};
use crate::lab::{Experiment, How, LabResult, Progress};
use crate::measure::{Random, fill};
use crate::report::Report;

/// `bench contention`.
pub(crate) const EXPERIMENT: Experiment = Experiment {
    rounds: false,
    ..Experiment::new(
        "contention",
        "How often requests find a bin, a slot or a stream taken, with 2, 16 and 64 threads",
        run,
    )
};

const THREADS: [usize; 3] = [2, 16, 64];
/// The most that a lock may be found taken, in percent, with 16 threads on two CPUs.
const GOAL: f64 = 0.5;

/// What a thread does: a name, writes of ten requests, and the part of the device that all requests fall on.
const WORKLOADS: [(&str, u64, usize); 4] = [
    ("random writes", 10, 1),
    ("random reads", 0, 1),
    ("3 writes in 10", 3, 1),
    ("3 writes in 10, on 1/100 of the pages", 3, 100),
];

fn run(how: &How, progress: Progress<'_>) -> LabResult {
    let requests = how.size(2_000_000, 20_000);
    let corpus = corpus::process_memory(how.size(256, 32))?.without_same_filled();
    let mut report = Report::new("bench contention", corpus.name.clone());
    for algorithm in ["lz4", "zstd", "lzhs"] {
        let size = (corpus.len() * PAGE) as u64;
        let device = Device::builder(size).algorithm(algorithm).build()?;
        fill(&device, corpus.pages())?;
        for (name, writes, part) in WORKLOADS {
            for threads in THREADS {
                progress(&format!("{algorithm}, {name}, {threads} threads"));
                contention::settle();
                contention::take();
                let pages = &corpus.pages()[..corpus.len() / part];
                ask(&device, pages, writes, threads, requests / threads)?;
                for (lock, found) in Lock::ALL.iter().zip(contention::take()) {
                    let taken = 100.0 * found.taken as f64 / found.asked.max(1) as f64;
                    let what =
                        format!("{algorithm}, {name}, {threads} threads: {lock:?} found taken, %");
                    match threads == 16 && part == 1 {
                        true => report.at_most(what, taken, GOAL),
                        false => report.add(what, taken),
                    }
                }
            }
        }
    }
    Ok(Box::new(report))
}

/// Lets threads ask at once, each for pages at random.
fn ask(
    device: &Device,
    pages: &[[u8; PAGE]],
    writes: u64,
    threads: usize,
    requests: usize,
) -> Result<()> {
    thread::scope(|scope| {
        let asking: Vec<_> = (0..threads as u64)
            .map(|seed| {
                scope.spawn(move || {
                    let mut random = Random::new(seed);
                    let mut page = [0; PAGE];
                    for _ in 0..requests {
                        let (to, from) = (random.below(pages.len()), random.below(pages.len()));
                        let at = (to * PAGE) as u64;
                        match random.below(10) < writes as usize {
                            true => device.write_at(&pages[from], at)?,
                            false => device.read_at(&mut page, at)?,
                        }
                    }
                    contention::settle();
                    Ok(())
                })
            })
            .collect();
        asking
            .into_iter()
            .try_for_each(|thread| thread.join().expect("no thread panics"))
    })
}
