//! `bench model`: what a served disk should cost where its driver cannot run, from what its parts cost here. ublk needs a
//! kernel that this machine may not have, and an emulated processor (`xtask bench guest`) prices system calls and switches
//! many times too high beside work. So the parts are measured, one by one, and added up as the path goes.
//!
//! One request of a job at a time:
//!
//! * ublk: the block layer, a wake-up of the server, a copy by a system call, the library, a wake-up of who waits;
//! * loop on FUSE: the block layer twice (the loop device's, and its file's), three wake-ups (loop's worker, the server, who
//!   waits), two system calls with a copy, the library. This can be measured on any machine (`bench fio`): the truth is between the ends.
//!
//! A wake-up costs a machine that lets its CPUs halt (a virtual one above all) ten times as much on another CPU as on the
//! same. A ublk queue's thread is pinned to the CPU that the queue's requests come from, so its wake-ups are the cheap kind;
//! where the scheduler puts loop's worker and a FUSE server it decides anew, so there both ends are given.
//!
//! Many at a time, ublk: whichever is slower, who submits (the block layer) or the server (a copy, the library, and its share
//! of a system call for several requests).

use std::fs::File;
use std::hint::black_box;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use rustix::event::{EventfdFlags, eventfd};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::corpus::{self, Corpus, PAGE};
use crate::measure::median;
use crate::report::Report;
use crate::rivals::holder::{BlockLayer, Holder, Kernel, Library, Pages};
use crate::zram::Zram;

/// Requests that the server of a ublk device answers with one system call, where there are so many.
const BATCH: f64 = 16.0;
/// Pages of a large request.
const RUN: usize = 32;

/// How much to do.
#[derive(Debug, Clone)]
pub struct Options {
    /// Megabytes of process memory.
    pub megabytes: usize,
    /// Rounds of each measurement.
    pub rounds: usize,
    /// Operations a round.
    pub batch: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            megabytes: 64,
            rounds: 21,
            batch: 2048,
        }
    }
}

impl Options {
    /// A smoke test: its figures mean little.
    pub fn quick() -> Options {
        Options {
            megabytes: 16,
            rounds: 5,
            batch: 512,
        }
    }
}

/// What the parts cost, in microseconds.
struct Parts {
    call: f64,
    /// Of a thread on the same CPU, and on another one.
    wake: [f64; 2],
    copy: [f64; 2],
    block: [f64; 2],
}

/// What a request of one page and one of [`RUN`] cost a device, in microseconds.
type Requests = [f64; 2];

/// Runs it; `progress` is told what is under way.
pub fn run(options: &Options, progress: &mut dyn FnMut(&str)) -> Result<Report> {
    progress("collecting process memory");
    let corpus = corpus::process_memory(options.megabytes)?.without_same_filled();
    ensure!(corpus.len() > RUN, "too little process memory");
    let mut report = Report::new("bench model", corpus.name.clone());
    let bench = Bench::new(options, &corpus)?;
    progress("system calls, copies, wake-ups");
    let parts = bench.parts(&mut report)?;
    for algorithm in ["lz4", "zstd", "null"] {
        progress(algorithm);
        let mut device = Library::new(algorithm, corpus.len())?;
        bench.fill(&mut device)?;
        // This kernel may not have the algorithm.
        let mut kernel = Zram::new(algorithm, corpus.len()).ok().map(Kernel);
        if let Some(zram) = &mut kernel {
            bench.fill(zram)?;
        }
        for write in [true, false] {
            let library = bench.requests(&mut device, write)?;
            let kernel = match &mut kernel {
                Some(zram) => Some(bench.requests(zram, write)?),
                None => None,
            };
            predict(algorithm, write, &parts, library, kernel, &mut report);
        }
    }
    Ok(report)
}

/// Adds the paths up.
fn predict(
    algorithm: &str,
    write: bool,
    parts: &Parts,
    library: Requests,
    kernel: Option<Requests>,
    report: &mut Report,
) {
    let op = if write { "write" } else { "read" };
    for (at, size) in ["4 KiB", "128 KiB"].iter().enumerate() {
        let what = format!("{algorithm} {op} {size}");
        let (block, copy, library) = (parts.block[at], parts.copy[at], library[at]);
        let ublk = parts.wake.map(|wake| block + 2.0 * wake + copy + library);
        let fuse = parts
            .wake
            .map(|wake| 2.0 * block + 3.0 * wake + 2.0 * copy + library);
        let server = copy + library + parts.call / BATCH;
        let many = block.max(server);
        report.add(format!("{what}, library, us"), library);
        for (disk, times) in [("ublk", ublk), ("loop on FUSE", fuse)] {
            for (where_, time) in ["the same CPU", "another CPU"].iter().zip(times) {
                let what = format!("{what}, one at a time, {disk} woken on {where_}, model, us");
                report.add(what, time);
            }
        }
        report.add(format!("{what}, many at a time, ublk, model, us"), many);
        if let Some(kernel) = kernel {
            let kernel = kernel[at];
            report.add(format!("{what}, kernel's zram, us"), kernel);
            report.add(
                format!("{what}, one at a time, throughput of ublk woken on the same CPU (model) over the kernel's zram"),
                kernel / ublk[0],
            );
            report.add(
                format!(
                    "{what}, many at a time, throughput of ublk (model) over the kernel's zram"
                ),
                kernel / many,
            );
        }
    }
}

struct Bench<'a> {
    options: &'a Options,
    pages: Pages,
    /// Where requests go, one after another.
    order: Vec<usize>,
}

impl<'a> Bench<'a> {
    fn new(options: &'a Options, corpus: &'a Corpus) -> Result<Bench<'a>> {
        let mut state = 1u64;
        let order = (0..options.batch * options.rounds).map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) as usize % (corpus.len() - RUN)
        });
        Ok(Bench {
            options,
            pages: Pages::of(corpus.pages()),
            order: order.collect(),
        })
    }

    /// Microseconds of an operation: the median over rounds.
    fn time(&self, batch: usize, mut operation: impl FnMut(usize) -> Result<()>) -> Result<f64> {
        let mut rounds = Vec::new();
        for round in 0..self.options.rounds {
            let begin = Instant::now();
            for number in 0..batch {
                operation(self.order[(round * batch + number) % self.order.len()])?;
            }
            rounds.push(begin.elapsed().as_secs_f64() * 1e6 / batch as f64);
        }
        Ok(median(rounds))
    }

    fn parts(&self, report: &mut Report) -> Result<Parts> {
        let batch = self.options.batch;
        let call = self.time(batch, |_| {
            black_box(rustix::process::getppid());
            Ok(())
        })?;
        report.add("a system call, us", call);
        let cpus = sched_getaffinity(None)?;
        let all: Vec<usize> = (0..CpuSet::MAX_CPU)
            .filter(|cpu| cpus.is_set(*cpu))
            .collect();
        ensure!(
            all.len() > 1,
            "the model is of a machine with two CPUs or more"
        );
        let (first, last) = (all.first(), all.last());
        let (first, last) = first.zip(last).context("no CPU")?;
        let apart = self.wake(*first, *last)?;
        let together = self.wake(*first, *first)?;
        sched_setaffinity(None, &cpus)?;
        report.add(
            "a wake-up of a thread on another CPU, both calls included, us",
            apart,
        );
        report.add(
            "a wake-up of a thread on the same CPU, both calls included, us",
            together,
        );
        let file: File =
            rustix::fs::memfd_create("uzram-bench", rustix::fs::MemfdFlags::CLOEXEC)?.into();
        file.write_all_at(self.pages.bytes(), 0)?;
        let mut buffer = vec![0; RUN * PAGE];
        let mut copy = [0.0; 2];
        for (copy, pages) in copy.iter_mut().zip([1, RUN]) {
            let buffer = &mut buffer[..pages * PAGE];
            *copy = self.time(batch / pages, |number| {
                file.read_exact_at(buffer, (number * PAGE) as u64)?;
                Ok(())
            })?;
        }
        report.add("4 KiB copied by a system call, us", copy[0]);
        report.add("128 KiB copied by a system call, us", copy[1]);
        let mut same = BlockLayer::new(self.pages.pages().len(), RUN)
            .context("the block layer is measured by the kernel's zram")?;
        let block = self.requests(&mut same, true)?;
        report.add(
            "the block layer, 4 KiB, us (the kernel's zram with same-filled pages)",
            block[0],
        );
        report.add("the block layer, 128 KiB, us (the same)", block[1]);
        Ok(Parts {
            call,
            wake: [together, apart],
            copy,
            block,
        })
    }

    /// Half of a ping-pong between two threads that wait in a system call.
    fn wake(&self, here: usize, there: usize) -> Result<f64> {
        let new = || eventfd(0, EventfdFlags::CLOEXEC);
        let (ping, pong) = (new()?, new()?);
        let pin = |cpu: usize| {
            let mut one = CpuSet::new();
            one.set(cpu);
            sched_setaffinity(None, &one)
        };
        let send = |to: &OwnedFd, word: u64| rustix::io::write(to, &word.to_ne_bytes());
        let wait = |from: &OwnedFd| {
            let mut word = [0; 8];
            rustix::io::read(from, &mut word).map(|_| u64::from_ne_bytes(word))
        };
        pin(here)?;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // A pair that cannot be pinned is not answered for: the figure would be of another pair.
                let pinned = pin(there).is_ok();
                // 2 ends it.
                while wait(&ping).is_ok_and(|word| word == 1)
                    && send(&pong, u64::from(!pinned) + 1).is_ok()
                {}
            });
            let took = self.time(self.options.batch, |_| {
                send(&ping, 1)?;
                ensure!(wait(&pong)? == 1, "a thread cannot be pinned to a CPU");
                Ok(())
            });
            send(&ping, 2)?;
            Ok(took? / 2.0)
        })
    }

    /// What requests cost a holder that is full.
    fn requests(&self, holder: &mut dyn Holder, write: bool) -> Result<Requests> {
        let mut buffer = Pages::new(RUN);
        let mut requests = [0.0; 2];
        for (request, count) in requests.iter_mut().zip([1, RUN]) {
            let len = count * PAGE;
            *request = self.time(self.options.batch / count, |number| match write {
                true => holder.write(number, &self.pages.bytes()[number * PAGE..][..len]),
                false => holder.read(number, &mut buffer.bytes_mut()[..len]),
            })?;
        }
        Ok(requests)
    }

    fn fill(&self, holder: &mut dyn Holder) -> Result<()> {
        for (number, page) in self.pages.pages().iter().enumerate() {
            holder.write(number, page)?;
        }
        Ok(())
    }
}
