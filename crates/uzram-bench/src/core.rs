//! `bench core`: what the library costs beyond its codec, how it scales to a second thread, and what memory it
//! takes, on pages of real process memory.
//!
//! The floor for a write is the raw codec plus one copy of the object to memory; for a read, the raw decode of
//! objects that lie in memory one after another. Device and floor take the same pages in the same random order.
//! Same-filled pages are left out of the speed figures: the device does not compress them, the floor would.

use std::hint::black_box;

use anyhow::{Context, Result};
use uzram::Device;

use crate::corpus::{self, Corpus, PAGE};
use crate::lab::{Card, Experiment, How};
use crate::measure::{Rounds, shuffled};
use crate::output::Outcome;
use crate::report::Report;
use crate::rival::Raw;

/// `bench core`.
pub struct Core;

impl Experiment for Core {
    fn card(&self) -> Card {
        Card::new(
            "core",
            "The library against its codecs on process memory: cost, scaling, memory",
        )
    }

    fn run(&self, how: &How, progress: &mut dyn FnMut(&str)) -> Result<Box<dyn Outcome>> {
        Ok(Box::new(run(&Options::new(how), progress)?))
    }
}

/// How much to do.
struct Options {
    /// Megabytes of process memory to collect.
    megabytes: usize,
    /// Rounds of each measurement.
    rounds: usize,
    /// Pages a round.
    batch: usize,
    /// Bytes of the device that is filled for the memory figures.
    fill_bytes: u64,
}

impl Options {
    fn new(how: &How) -> Options {
        Options {
            megabytes: how.size(512, 64),
            rounds: how.rounds(21, 5),
            batch: how.size(4096, 1024),
            fill_bytes: how.size(1 << 30, 64 << 20),
        }
    }
}

const ALGORITHMS: [&str; 3] = ["lz4", "zstd", "deflate"];

/// Measures everything. Calls `progress` before each step.
fn run(options: &Options, progress: &mut dyn FnMut(&str)) -> Result<Report> {
    progress("collecting process memory");
    let all = corpus::process_memory(options.megabytes)?;
    let pages = all.without_same_filled();
    let mut report = Report::new("bench core", all.name.clone());
    report.add("pages collected", all.len() as f64);
    report.add(
        "of them same-filled, %",
        100.0 * (1.0 - pages.len() as f64 / all.len() as f64),
    );
    for algorithm in ALGORITHMS {
        progress(&format!("{algorithm}: cost over the codec"));
        cost(algorithm, &pages, options, &mut report)?;
        progress(&format!("{algorithm}: two threads"));
        scaling(algorithm, &pages, options, &mut report)?;
    }
    for algorithm in ALGORITHMS {
        progress(&format!("{algorithm}: memory"));
        memory(algorithm, &all, options.fill_bytes, &mut report)?;
    }
    Ok(report)
}

/// The driver with the same codec as [`Raw`]: the library's, where our own is the default.
fn driver(algorithm: &str) -> &str {
    match algorithm {
        "zstd" => "zstd-libzstd",
        other => other,
    }
}

/// Creates a device that holds the corpus.
fn filled(algorithm: &str, pages: &Corpus) -> Result<Device> {
    let device = Device::builder((pages.len() * PAGE) as u64)
        .algorithm(driver(algorithm))
        .build()?;
    for (number, page) in pages.pages().iter().enumerate() {
        device.write_at(page, (number * PAGE) as u64)?;
    }
    Ok(device)
}

fn cost(algorithm: &str, corpus: &Corpus, options: &Options, report: &mut Report) -> Result<()> {
    let device = filled(algorithm, corpus)?;
    let pages = corpus.pages();
    let order = shuffled(pages.len());
    let mut raw = Raw::new(algorithm).context("no raw codec")?;
    // The floor's store: objects one after another. A write goes to the place of the page's own object.
    let mut out = [0u8; 8192];
    let mut places = Vec::with_capacity(pages.len());
    let mut store: Vec<u8> = Vec::new();
    for page in pages {
        let len = raw.compress(page, &mut out);
        places.push((store.len(), len));
        store.extend_from_slice(&out[..len]);
    }
    let batch = |round: usize| {
        let batches = (pages.len() / options.batch).max(1);
        let at = round % batches * options.batch;
        &order[at..(at + options.batch).min(order.len())]
    };
    let rounds = Rounds::run(
        options.rounds,
        &mut [
            &mut |round| {
                for number in batch(round) {
                    let len = raw.compress(&pages[*number], &mut out);
                    let (at, _) = places[*number];
                    store[at..at + len].copy_from_slice(&out[..len]);
                }
            },
            &mut |round| {
                for number in batch(round) {
                    let written = device.write_at(&pages[*number], (*number * PAGE) as u64);
                    written.expect("the device is large enough");
                }
            },
        ],
    );
    let rate = |seconds: f64| options.batch as f64 * PAGE as f64 / seconds / 1e6;
    report.add(
        format!("{algorithm} write, floor, MB/s"),
        rate(rounds.seconds(0)),
    );
    let what = format!("{algorithm} write, device time over floor");
    report.at_most(what, rounds.ratio(1, 0), 1.05);

    let mut page = [0u8; PAGE];
    let mut back = [0u8; PAGE];
    let rounds = Rounds::run(
        options.rounds,
        &mut [
            &mut |round| {
                for number in batch(round) {
                    let (at, len) = places[*number];
                    assert!(raw.decompress(&store[at..at + len], &mut page));
                    black_box(&page);
                }
            },
            &mut |round| {
                for number in batch(round) {
                    let read = device.read_at(&mut back, (*number * PAGE) as u64);
                    read.expect("what was written can be read");
                    black_box(&back);
                }
            },
        ],
    );
    report.add(
        format!("{algorithm} read, floor, MB/s"),
        rate(rounds.seconds(0)),
    );
    let what = format!("{algorithm} read, device time over floor");
    report.at_most(what, rounds.ratio(1, 0), 1.05);
    Ok(())
}

/// Throughput of two threads over that of one, measured in the same round. The raw codec's figure shows what the machine
/// allows.
fn scaling(algorithm: &str, corpus: &Corpus, options: &Options, report: &mut Report) -> Result<()> {
    let device = filled(algorithm, corpus)?;
    let pages = corpus.pages();
    let order = shuffled(pages.len());
    let write = |half: &[usize]| {
        for number in half {
            let written = device.write_at(&pages[*number], (*number * PAGE) as u64);
            written.expect("the device is large enough");
        }
    };
    let read = |half: &[usize]| {
        let mut page = [0u8; PAGE];
        for number in half {
            device
                .read_at(&mut page, (*number * PAGE) as u64)
                .expect("what was written can be read");
            black_box(&page);
        }
    };
    let raw = |half: &[usize]| {
        let mut raw = Raw::new(algorithm).expect("it was made before");
        let mut out = [0u8; 8192];
        for number in half {
            black_box(raw.compress(&pages[*number], &mut out));
        }
    };
    let works: [(&str, &(dyn Fn(&[usize]) + Sync)); 3] =
        [("raw compress", &raw), ("write", &write), ("read", &read)];
    for (name, work) in works {
        let halves = |round: usize| {
            // Long enough that starting a thread does not show: four batches a thread.
            let len = (options.batch * 4).min(order.len() / 2);
            let at = (round * len) % (order.len() - 2 * len + 1);
            order[at..at + 2 * len].split_at(len)
        };
        let rounds = Rounds::run(
            options.rounds,
            &mut [&mut |round| work(halves(round).0), &mut |round| {
                let (first, second) = halves(round);
                std::thread::scope(|scope| {
                    scope.spawn(|| work(first));
                    work(second);
                });
            }],
        );
        let gain = 2.0 * rounds.ratio(0, 1);
        let what = format!("{algorithm} {name}, 2 threads over 1");
        match name {
            "raw compress" => report.add(what, gain),
            _ => report.at_least(what, gain, 1.9),
        }
    }
    Ok(())
}

/// Fills a device and compares all its memory with the bytes of its objects.
fn memory(algorithm: &str, corpus: &Corpus, fill_bytes: u64, report: &mut Report) -> Result<()> {
    let device = Device::builder(fill_bytes).algorithm(algorithm).build()?;
    let pages = corpus.pages();
    for number in 0..fill_bytes as usize / PAGE {
        device.write_at(&pages[number % pages.len()], (number * PAGE) as u64)?;
    }
    let stats = device.stats();
    let total = stats.mem_used_total_bytes + stats.table_bytes + stats.metadata_bytes;
    let compressed = stats.compr_data_size_bytes as f64;
    report.add(
        format!("{algorithm} ratio, data over all memory"),
        fill_bytes as f64 / total as f64,
    );
    report.add(format!("{algorithm} compressed, MB"), compressed / 1e6);
    report.add(
        format!("{algorithm} table, MB"),
        stats.table_bytes as f64 / 1e6,
    );
    report.add(
        format!("{algorithm} books and streams, MB"),
        stats.metadata_bytes as f64 / 1e6,
    );
    let what = format!("{algorithm} all memory over compressed bytes");
    report.at_most(what, total as f64 / compressed, 1.04);
    Ok(())
}
