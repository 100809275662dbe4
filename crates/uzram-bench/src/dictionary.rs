//! `bench dictionary`: what a trained dictionary gains and costs, for zstd at level 1 and for lz4.
//!
//! For each kind of process memory a dictionary is trained on one half of the pages, chosen at random, as
//! `Device::train` does it, and judged on the other half: the compressed size, and compression and decompression speed
//! taking turns with the same algorithm without one, on the same pages. Memory stands beside: what the dictionary
//! takes for all workers together, and a worker's context.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use uzram::compress::{Algorithm, Prepared, Registry, Settings, Tfm, dictionary};

use crate::corpus::{self, Corpus, PAGE};
use crate::measure::Rounds;
use crate::report::Report;

/// How much to do.
#[derive(Debug, Clone)]
pub struct Options {
    /// Megabytes of each kind of process memory.
    pub megabytes: usize,
    /// Rounds of each measurement.
    pub rounds: usize,
    /// Pages a round.
    pub batch: usize,
    /// Pages that a dictionary is trained on.
    pub taught: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            megabytes: 64,
            rounds: 21,
            batch: 1024,
            taught: 2048,
        }
    }
}

impl Options {
    /// A smoke test: its figures mean little.
    pub fn quick() -> Options {
        Options {
            megabytes: 24,
            rounds: 7,
            batch: 256,
            taught: 1024,
        }
    }
}

/// Algorithm, level, dictionary's length, whether its goal counts.
const CONTESTANTS: [(&str, &str, usize, bool); 4] = [
    ("zstd", "1", 16 << 10, true),
    ("zstd", "1", 64 << 10, false),
    ("zstd", "-1", 16 << 10, false),
    ("lz4", "1", 16 << 10, false),
];

const NODE: &str = "const keep = [], used = () => process.memoryUsage().rss;
let i = 0;
while (i % 1000 || used() < LIMIT) {
    i++;
    keep.push({ id: i, name: 'user' + (i * 7919 % 100003), tags: ['red', 'green', 'blue'].slice(i % 3),
        nested: { at: new Date(i * 1e6), score: Math.sin(i), text: 'lorem ipsum '.repeat(1 + i % 5) + i } });
}
process.stdout.write('ready\\n'); process.stdin.resume();";

/// One kind of memory: what it is called, the program, its arguments.
type Kind = (&'static str, &'static str, [&'static str; 2]);

fn kinds() -> Vec<Kind> {
    let of = |name, number| {
        let (program, args) = corpus::work(number);
        (name, program, args)
    };
    vec![
        of("python3 syntax trees", 0),
        of("python3 JSON", 1),
        of("python3 SQLite", 2),
        of("perl hashes", 3),
        ("node objects", "node", ["-e", NODE]),
    ]
}

/// Runs it all; `progress` is told what is under way.
pub fn run(options: &Options, progress: &mut dyn FnMut(&str)) -> Result<Report> {
    let registry = Registry::builtin();
    let what = "process memory, half to train on, half to judge by; same-filled pages left out";
    let mut report = Report::new("bench dictionary", what.into());
    let mut gains = Vec::new();
    for (name, program, args) in kinds() {
        progress(name);
        let corpus = match corpus::of_process(name, program, &args, options.megabytes) {
            Ok(corpus) => corpus.without_same_filled(),
            // Python and Perl are there wherever the project is built.
            Err(error) if program == "node" => {
                progress(&format!("{name} left out: {error:#}"));
                continue;
            }
            Err(error) => return Err(error),
        };
        let halves = halves(&corpus, options.taught);
        ensure!(halves.1.len() >= options.batch, "{name}: too little memory");
        for (algorithm, level, bytes, counts) in CONTESTANTS {
            let algorithm = &**registry.find(algorithm)?;
            let row = format!(
                "{name}, {} level {level}, {}K",
                algorithm.name(),
                bytes >> 10
            );
            let gain = contest(algorithm, level, bytes, &halves, options, &row, &mut report)
                .with_context(|| row.clone())?;
            if counts {
                gains.push(gain);
            }
        }
    }
    let good = gains
        .iter()
        .filter(|(size, speed)| *size >= 1.08 || *speed >= 1.2)
        .count();
    let share = good as f64 / gains.len() as f64;
    let what = "share of memory kinds with 8 % better ratio or 1.2 x the speed, zstd level 1, 16K";
    report.at_least(what, share, 0.66);
    Ok(report)
}

/// Pages in a random order that is the same in every run: some to train on, others to judge by.
fn halves(corpus: &Corpus, taught: usize) -> (Vec<&[u8; PAGE]>, Vec<&[u8; PAGE]>) {
    let mut pages: Vec<&[u8; PAGE]> = corpus.pages().iter().collect();
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    for at in (1..pages.len()).rev() {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        pages.swap(at, (state >> 33) as usize % (at + 1));
    }
    let judged = pages.split_off(pages.len() / 2);
    pages.truncate(taught);
    (pages, judged)
}

/// Adds the rows of one algorithm on one kind of memory. Returns ratio and speed with the dictionary over those without.
fn contest(
    algorithm: &dyn Algorithm,
    level: &str,
    dictionary_bytes: usize,
    (taught, judged): &(Vec<&[u8; PAGE]>, Vec<&[u8; PAGE]>),
    options: &Options,
    row: &str,
    report: &mut Report,
) -> Result<(f64, f64)> {
    let alone = Settings::new(algorithm, PAGE, [("level", level)])?;
    let samples: Vec<&[u8]> = taught.iter().map(|page| &page[..]).collect();
    let spec = algorithm.dictionary().context("it takes no dictionary")?;
    let trained = dictionary::train(spec, alone.c_int("level"), &samples, dictionary_bytes)?;
    let with = alone
        .clone()
        .with_dictionary(algorithm, Arc::from(trained))?;
    let prepared = [algorithm.prepare(&alone)?, algorithm.prepare(&with)?];
    let mut sides: Vec<Side> = prepared
        .iter()
        .map(|prepared| Side::new(&**prepared, judged))
        .collect::<Result<_>>()?;
    let batches = judged.len() / options.batch;
    let batch =
        |round: usize| round % batches * options.batch..(round % batches + 1) * options.batch;
    let [alone, with] = sides.as_mut_slice() else {
        return Ok((0.0, 0.0));
    };
    let write = Rounds::run(
        options.rounds,
        &mut [
            &mut |round| alone.compress(&judged[batch(round)]),
            &mut |round| with.compress(&judged[batch(round)]),
        ],
    );
    let read = Rounds::run(
        options.rounds,
        &mut [&mut |round| alone.decompress(batch(round)), &mut |round| {
            with.decompress(batch(round))
        }],
    );
    let plain = (judged.len() * PAGE) as f64;
    let (ratio, size_gain) = (plain / alone.stored, alone.stored / with.stored);
    let speed_gain = write.ratio(0, 1);
    report.add(format!("{row}: ratio without"), ratio);
    report.add(format!("{row}: ratio with"), plain / with.stored);
    report.add(format!("{row}: ratio gain"), size_gain);
    report.add(format!("{row}: compress speed gain"), speed_gain);
    report.add(format!("{row}: decompress speed gain"), read.ratio(0, 1));
    report.add(
        format!("{row}: memory shared, KiB"),
        prepared[1].memory_bytes() as f64 / 1024.0,
    );
    report.add(
        format!("{row}: memory of a worker, KiB"),
        with.tfm.memory_bytes() as f64 / 1024.0,
    );
    Ok((size_gain, speed_gain))
}

/// An algorithm with its objects of all judged pages.
struct Side {
    tfm: Box<dyn Tfm>,
    objects: Vec<Vec<u8>>,
    /// Bytes that a device would store; what does not pay is stored as it is.
    stored: f64,
    out: Vec<u8>,
}

impl Side {
    fn new(prepared: &dyn Prepared, pages: &[&[u8; PAGE]]) -> Result<Side> {
        let mut side = Side {
            tfm: prepared.tfm()?,
            objects: Vec::with_capacity(pages.len()),
            stored: 0.0,
            out: vec![0; 2 * PAGE],
        };
        for page in pages {
            let len = side.tfm.compress(&page[..], &mut side.out)?;
            side.objects.push(side.out[..len].to_vec());
            side.stored += len.min(PAGE) as f64;
        }
        Ok(side)
    }

    fn compress(&mut self, pages: &[&[u8; PAGE]]) {
        for page in pages {
            let len = self.tfm.compress(&page[..], &mut self.out);
            std::hint::black_box(len.expect("it fitted before"));
        }
    }

    fn decompress(&mut self, which: std::ops::Range<usize>) {
        for object in &self.objects[which] {
            let len = self.tfm.decompress(object, &mut self.out[..PAGE]);
            assert_eq!(len, Ok(PAGE));
        }
    }
}
