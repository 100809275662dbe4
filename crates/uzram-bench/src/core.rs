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
use crate::lab::{Amount, Experiment, How, LabResult, Progress};
use crate::measure::{Rounds, all_memory, fill, shuffled, turn};
use crate::report::Report;
use crate::rival::Raw;

/// `bench core`.
pub(crate) const EXPERIMENT: Experiment = Experiment::new(
    "core",
    "The library against its codecs on process memory: cost, scaling, memory",
    run,
);

const ALGORITHMS: [&str; 4] = ["lz4", "zstd", "deflate", "lzhs"];

/// Measures everything. Calls `progress` before each step.
fn run(how: &How, progress: Progress<'_>) -> LabResult {
    let amount = how.amount([512, 21, 4096], [64, 5, 1024]);
    progress("collecting process memory");
    let all = corpus::process_memory(amount.megabytes)?;
    let pages = all.without_same_filled();
    let mut report = Report::new("bench core", all.name.clone());
    let same_filled = 1.0 - pages.len() as f64 / all.len() as f64;
    report.add("pages collected", all.len() as f64);
    report.add("of them same-filled, %", 100.0 * same_filled);
    for algorithm in ALGORITHMS {
        progress(&format!("{algorithm}: cost over the codec"));
        cost(algorithm, &pages, amount, &mut report)?;
        progress(&format!("{algorithm}: two threads"));
        scaling(algorithm, &pages, amount, &mut report)?;
    }
    for algorithm in ALGORITHMS {
        progress(&format!("{algorithm}: memory"));
        memory(algorithm, &all, how.size(1 << 30, 64 << 20), &mut report)?;
    }
    Ok(Box::new(report))
}

/// The driver with the same codec as [`Raw`]: the library's, where our own is the default.
fn driver(algorithm: &str) -> &str {
    match algorithm {
        "zstd" => "zstd-libzstd",
        other => other,
    }
}

/// A device that holds the corpus, written and read in pages.
struct Filled<'a> {
    device: Device,
    pages: &'a [[u8; PAGE]],
}

impl Filled<'_> {
    fn new<'a>(algorithm: &str, corpus: &'a Corpus) -> Result<Filled<'a>> {
        let pages = corpus.pages();
        let builder = Device::builder((pages.len() * PAGE) as u64);
        let device = builder.algorithm(driver(algorithm)).build()?;
        fill(&device, pages)?;
        Ok(Filled { device, pages })
    }

    fn write(&self, numbers: &[usize]) {
        for number in numbers {
            let page = &self.pages[*number];
            let written = self.device.write_at(page, (number * PAGE) as u64);
            written.expect("the device is large enough");
        }
    }

    fn read(&self, numbers: &[usize]) {
        let mut page = [0u8; PAGE];
        for number in numbers {
            let read = self.device.read_at(&mut page, (number * PAGE) as u64);
            read.expect("what was written can be read");
            black_box(&page);
        }
    }
}

fn cost(algorithm: &str, corpus: &Corpus, amount: Amount, report: &mut Report) -> Result<()> {
    let device = Filled::new(algorithm, corpus)?;
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
    let batch = |round: usize| &order[turn(round, 1, amount.batch, order.len())];
    let mut floor = |round| {
        for number in batch(round) {
            let len = raw.compress(&pages[*number], &mut out);
            let (at, _) = places[*number];
            store[at..at + len].copy_from_slice(&out[..len]);
        }
    };
    let mut write = |round| device.write(batch(round));
    let written = Rounds::run(amount.rounds, &mut [&mut floor, &mut write]);

    let mut page = [0u8; PAGE];
    let mut floor = |round| {
        for number in batch(round) {
            let (at, len) = places[*number];
            assert!(raw.decompress(&store[at..at + len], &mut page));
            black_box(&page);
        }
    };
    let mut read = |round| device.read(batch(round));
    let read = Rounds::run(amount.rounds, &mut [&mut floor, &mut read]);

    for (what, rounds) in [("write", written), ("read", read)] {
        let floor = rounds.mb_s(0, amount.batch * PAGE);
        report.add(format!("{algorithm} {what}, floor, MB/s"), floor);
        let what = format!("{algorithm} {what}, device time over floor");
        report.at_most(what, rounds.ratio(1, 0), 1.05);
    }
    Ok(())
}

/// Throughput of two threads over that of one, measured in the same round. The raw codec's figure shows what the machine
/// allows.
fn scaling(algorithm: &str, corpus: &Corpus, amount: Amount, report: &mut Report) -> Result<()> {
    let device = Filled::new(algorithm, corpus)?;
    let pages = corpus.pages();
    let order = shuffled(pages.len());
    let raw = |half: &[usize]| {
        let mut raw = Raw::new(algorithm).expect("it was made before");
        let mut out = [0u8; 8192];
        for number in half {
            black_box(raw.compress(&pages[*number], &mut out));
        }
    };
    let works: [(&str, &(dyn Fn(&[usize]) + Sync)); 3] = [
        ("raw compress", &raw),
        ("write", &|half| device.write(half)),
        ("read", &|half| device.read(half)),
    ];
    for (name, work) in works {
        let halves = |round: usize| {
            // Long enough that starting a thread does not show: four batches a thread.
            let len = (amount.batch * 4).min(order.len() / 2);
            let at = (round * len) % (order.len() - 2 * len + 1);
            order[at..at + 2 * len].split_at(len)
        };
        let mut one = |round| work(halves(round).0);
        let mut two = |round| {
            let (first, second) = halves(round);
            std::thread::scope(|scope| {
                scope.spawn(|| work(first));
                work(second);
            });
        };
        let rounds = Rounds::run(amount.rounds, &mut [&mut one, &mut two]);
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
    let pages = corpus.pages().iter().cycle();
    fill(&device, pages.take(fill_bytes as usize / PAGE))?;
    let stats = device.stats();
    let (total, compressed) = (all_memory(&stats), stats.compr_data_size_bytes as f64);
    let rows = [
        ("ratio, data over all memory", fill_bytes as f64 / total),
        ("compressed, MB", compressed / 1e6),
        ("table, MB", stats.table_bytes as f64 / 1e6),
        ("books and streams, MB", stats.metadata_bytes as f64 / 1e6),
    ];
    report.add_all(&format!("{algorithm} "), rows);
    let what = format!("{algorithm} all memory over compressed bytes");
    report.at_most(what, total / compressed, 1.04);
    Ok(())
}
