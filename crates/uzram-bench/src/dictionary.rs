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
use crate::lab::{Card, Experiment, How};
use crate::measure::{Rounds, shuffle};
use crate::output::Outcome;
use crate::report::Report;

/// `bench dictionary`.
pub struct Dictionary;

impl Experiment for Dictionary {
    fn card(&self) -> Card {
        Card::new(
            "dictionary",
            "What a trained dictionary gains and costs, on process memory that it was not trained on",
        )
    }

    fn run(&self, how: &How, progress: &mut dyn FnMut(&str)) -> Result<Box<dyn Outcome>> {
        Ok(Box::new(run(&Options::new(how), progress)?))
    }
}

/// How much to do.
struct Options {
    /// Megabytes of each kind of process memory.
    megabytes: usize,
    /// Rounds of each measurement.
    rounds: usize,
    /// Pages a round.
    batch: usize,
    /// Pages that a dictionary is trained on.
    taught: usize,
}

impl Options {
    fn new(how: &How) -> Options {
        Options {
            megabytes: how.size(64, 24),
            rounds: how.rounds(21, 7),
            batch: how.size(1024, 256),
            taught: how.size(2048, 1024),
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

/// One kind of memory: its name, the program, its arguments.
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

/// Measures everything. Calls `progress` before each step.
fn run(options: &Options, progress: &mut dyn FnMut(&str)) -> Result<Report> {
    let registry = Registry::builtin();
    let what = "process memory, half to train on, half to judge by; same-filled pages left out";
    let mut report = Report::new("bench dictionary", what.into());
    let mut gains = Vec::new();
    for (name, program, args) in kinds() {
        progress(name);
        let corpus = match corpus::from_process(name, program, &args, options.megabytes) {
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

/// Splits the pages at random, alike in every run: up to `taught` to train on, half of all to judge by.
fn halves(corpus: &Corpus, taught: usize) -> (Vec<&[u8; PAGE]>, Vec<&[u8; PAGE]>) {
    let mut pages: Vec<&[u8; PAGE]> = corpus.pages().iter().collect();
    shuffle(&mut pages);
    let judged = pages.split_off(pages.len() / 2);
    pages.truncate(taught);
    (pages, judged)
}

/// Adds the rows of one algorithm on one kind of memory. Returns the gains in ratio and in speed.
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
    /// Bytes that a device would store; an object of a page or more is stored raw.
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
