//! `bench dedup`: what dedup costs a device without identical pages, and what it gains one that has some.
//!
//! Cost: two devices, one with dedup, take turns on the same pages in the same random order. No page is on a device when it
//! is written: it replaces one that returns only after all others. Reads use the same order. Gain: two devices are filled
//! with pages of a kind, in turns of a few megabytes; all their memory, index included, and the time are compared.

use std::collections::HashSet;
use std::hint::black_box;
use std::path::Path;

use anyhow::{Result, ensure};
use uzram::{Device, Stats};

use crate::corpus::{self, Corpus, PAGE};
use crate::lab::{Card, Experiment, How};
use crate::measure::{Rounds, shuffle};
use crate::output::Outcome;
use crate::report::Report;

/// `bench dedup`.
pub struct Dedup;

impl Experiment for Dedup {
    fn card(&self) -> Card {
        Card::new(
            "dedup",
            "What sharing identical pages costs where there are none, and gains where there are",
        )
    }

    fn run(&self, how: &How, progress: &mut dyn FnMut(&str)) -> Result<Box<dyn Outcome>> {
        Ok(Box::new(run(&Options::new(how), progress)?))
    }
}

/// How much to do.
struct Options {
    /// Megabytes of each kind of pages.
    megabytes: usize,
    /// Rounds of each measurement.
    rounds: usize,
    /// Pages a round.
    batch: usize,
}

impl Options {
    fn new(how: &How) -> Options {
        Options {
            megabytes: how.size(256, 32),
            rounds: how.rounds(41, 7),
            batch: how.size(4096, 1024),
        }
    }
}

const ALGORITHMS: [&str; 2] = ["lz4", "zstd"];

/// Measures everything. Calls `progress` before each step.
fn run(options: &Options, progress: &mut dyn FnMut(&str)) -> Result<Report> {
    progress("collecting process memory");
    let memory = corpus::process_memory(options.megabytes)?;
    let mut report = Report::new("bench dedup", memory.name.clone());
    let distinct = distinct(&memory);
    for algorithm in ALGORITHMS {
        progress(&format!("{algorithm}: cost where nothing is shared"));
        cost(algorithm, &distinct, options, &mut report)?;
    }
    progress("collecting what may be shared");
    for kind in kinds(memory, options.megabytes)? {
        for algorithm in ALGORITHMS {
            progress(&format!("{algorithm}: gain on {}", kind.name));
            gain(algorithm, &kind, options, &mut report)?;
        }
    }
    Ok(report)
}

/// The distinct pages that are not same-filled, in random order.
fn distinct(corpus: &Corpus) -> Vec<[u8; PAGE]> {
    let mut seen = HashSet::new();
    let all = corpus.without_same_filled();
    let new = all.pages().iter().filter(|page| seen.insert(**page));
    let mut pages: Vec<[u8; PAGE]> = new.copied().collect();
    shuffle(&mut pages);
    pages
}

/// Pages that may have duplicates: of one process of each kind, of two with the same work, of files, and of two copies of
/// the files, as in two guests of one image.
fn kinds(memory: Corpus, megabytes: usize) -> Result<Vec<Corpus>> {
    let (program, args) = corpus::work(0);
    let twin = || {
        let args = args.map(str::as_ref);
        corpus::from_process("", program, &args, megabytes / 2)
    };
    let named = |name: &str, parts: [&Corpus; 2]| {
        let bytes = parts.map(|part| part.pages().as_flattened());
        Corpus::new(name, bytes.concat())
    };
    let twins = named(
        "two python3 processes of the same work",
        [&twin()?, &twin()?],
    );
    let files = corpus::files(
        "files below /usr/lib",
        Path::new("/usr/lib"),
        megabytes,
        &|_| true,
    )?;
    let copies = named("the same files twice", [&files, &files]);
    Ok(vec![memory, twins, files, copies])
}

fn pair(algorithm: &str, pages: usize) -> Result<[Device; 2]> {
    let device = |dedup| {
        Device::builder((pages * PAGE) as u64)
            .algorithm(algorithm)
            .dedup(dedup)
            .build()
    };
    Ok([device(false)?, device(true)?])
}

fn total(stats: &Stats) -> f64 {
    (stats.mem_used_total_bytes + stats.table_bytes + stats.metadata_bytes) as f64
}

fn cost(
    algorithm: &str,
    pages: &[[u8; PAGE]],
    options: &Options,
    report: &mut Report,
) -> Result<()> {
    // A slot is written anew when all the others were: half of the pages are on the device, the other half come next.
    let slots = pages.len() / 2;
    ensure!(slots > options.batch, "too few pages");
    let devices = pair(algorithm, slots)?;
    let write = |device: &Device, at: usize| {
        let (page, slot) = (&pages[at % pages.len()], at % slots);
        let written = device.write_at(page, (slot * PAGE) as u64);
        written.expect("the device is large enough");
    };
    for device in &devices {
        (0..slots).for_each(|at| write(device, at));
    }
    let batch = |round: usize| slots + round * options.batch..slots + (round + 1) * options.batch;
    let write_batch = |who: usize| {
        let device = &devices[who];
        move |round| batch(round).for_each(|at| write(device, at))
    };
    let rounds = Rounds::run(
        options.rounds,
        &mut [&mut write_batch(0), &mut write_batch(1)],
    );
    let rate = options.batch as f64 * PAGE as f64 / 1e6;
    let what = |what: &str| format!("{algorithm}, nothing shared: {what}");
    report.add(what("write without, MB/s"), rate / rounds.seconds(0));
    report.add(
        what("write speed with dedup over without"),
        rounds.ratio(0, 1),
    );
    let read_batch = |who: usize| {
        let device = &devices[who];
        let mut page = [0; PAGE];
        move |round| {
            for at in batch(round) {
                let read = device.read_at(&mut page, (at % slots * PAGE) as u64);
                read.expect("what was written can be read");
                black_box(&page);
            }
        }
    };
    let rounds = Rounds::run(
        options.rounds,
        &mut [&mut read_batch(0), &mut read_batch(1)],
    );
    report.add(
        what("read speed with dedup over without"),
        rounds.ratio(0, 1),
    );
    let [without, with] = devices.each_ref().map(Device::stats);
    ensure!(with.dup_pages * 1000 < slots as u64, "pages are shared");
    report.add(
        what("index, bytes an object"),
        with.dedup_index_bytes as f64 / slots as f64,
    );
    report.at_most(
        what("all memory with dedup over without"),
        total(&with) / total(&without),
        1.03,
    );
    Ok(())
}

fn gain(algorithm: &str, corpus: &Corpus, options: &Options, report: &mut Report) -> Result<()> {
    let pages = corpus.pages();
    let devices = pair(algorithm, pages.len())?;
    let count = pages.len().div_ceil(options.batch);
    let fill = |who: usize| {
        let device = &devices[who];
        move |round: usize| {
            let first = round * options.batch;
            for (at, page) in pages.iter().enumerate().skip(first).take(options.batch) {
                let written = device.write_at(page, (at * PAGE) as u64);
                written.expect("the device is large enough");
            }
        }
    };
    let rounds = Rounds::run(count, &mut [&mut fill(0), &mut fill(1)]);
    let [without, with] = devices.each_ref().map(Device::stats);
    let what = |what: &str| format!("{algorithm}, {}: {what}", corpus.name);
    let written = pages.len() as f64 - with.same_pages as f64;
    report.add(
        what("pages that share, % of those with an object"),
        100.0 * with.dup_pages as f64 / written,
    );
    report.add(
        what("all memory with dedup over without"),
        total(&with) / total(&without),
    );
    report.add(
        what("fill speed with dedup over without"),
        rounds.ratio(0, 1),
    );
    Ok(())
}
