//! `bench api`: what the compress API costs. The same codec is called three ways: directly, through `Box<dyn Tfm>`, and
//! as an algorithm that was registered, looked up by its name and prepared once. All three run the very same code of the
//! same library, so that a difference is the API's; the driver that the program ships takes its turn beside them.
//!
//! lzo and zstd are liblzo2 and libzstd here, since the program's own have no door but the API; their drivers' rows are therefore
//! another codec.

use std::cell::RefCell;
use std::hint::black_box;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uzram::compress::{Algorithm, Error, KnownAnswer, Prepared, Registry, Settings, Tfm};

use crate::corpus::{self, Corpus, PAGE};
use crate::lab::{Card, Experiment, How};
use crate::measure::{Rounds, median};
use crate::output::{self, Chart, Look, Outcome, Series, Table, number};
use crate::report::Report;
use crate::rival::Raw;

/// `bench api`.
pub struct Api;

impl Experiment for Api {
    fn card(&self) -> Card {
        Card {
            corpus: true,
            ..Card::new(
                "api",
                "What the compress API costs over a direct call of the codec",
            )
        }
    }

    fn run(&self, how: &How, progress: &mut dyn FnMut(&str)) -> Result<Box<dyn Outcome>> {
        Ok(Box::new(run(&Options::new(how), progress)?))
    }

    fn read(&self, record: Value) -> Result<Box<dyn Outcome>> {
        Ok(Box::new(serde_json::from_value::<ApiRecord>(record)?))
    }
}

/// How much to do.
struct Options {
    /// Megabytes of pages.
    megabytes: usize,
    /// Rounds of each measurement.
    rounds: usize,
    /// Pages a round: a quarter of a megabyte stays in a core's own cache, so that it does not matter who comes first.
    batch: usize,
    /// A stored corpus to take the pages from; else they are made on the spot.
    corpus: Option<PathBuf>,
}

impl Options {
    fn new(how: &How) -> Options {
        Options {
            megabytes: how.size(32, 4),
            rounds: how.rounds(801, 11),
            batch: 64,
            corpus: how.corpus.clone(),
        }
    }
}

/// The codecs, with a vector for the registration's self-test: `uzram` as literals.
const CODECS: [(&str, &[KnownAnswer]); 4] = [
    ("lz4", &[known(b"\x50uzram")]),
    ("lzo", &[known(b"\x16uzram\x11\0\0")]),
    ("zstd", &[known(b"\0\x10\x29\0\0uzram")]),
    ("null", &[known(b"uzram")]),
];

const fn known(compressed: &'static [u8]) -> KnownAnswer {
    let plain = b"uzram";
    KnownAnswer { plain, compressed }
}

/// The ways, in the order of the contestants.
const WAYS: [&str; 4] = [
    "hard-wired",
    "Box<dyn Tfm>",
    "registry by name",
    "shipped driver",
];

/// A codec, called in one way.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ApiFigure {
    /// The codec.
    pub codec: String,
    /// How it was called.
    pub way: String,
    /// `compress` or `decompress`.
    pub what: String,
    /// Nanoseconds a page, median over the rounds.
    pub ns: f64,
    /// Nanoseconds a page beyond hard-wired: the median of the differences within a round.
    pub more_ns: f64,
    /// The same in percent of hard-wired.
    pub more_percent: f64,
    /// Bytes of pages over bytes of objects.
    pub ratio: f64,
    /// Bytes of a worker's context, 0 if unknown.
    pub context_bytes: usize,
}

/// The record of `bench api`.
#[derive(Debug, Serialize, Deserialize)]
pub struct ApiRecord {
    /// Goals, machine, commit.
    #[serde(flatten)]
    pub report: Report,
    /// How to read it.
    pub note: String,
    /// Rounds of each measurement.
    pub rounds: usize,
    /// Pages a round.
    pub batch: usize,
    /// Codecs whose library is missing.
    pub skipped: Vec<String>,
    /// Everything measured.
    pub figures: Vec<ApiFigure>,
}

const NOTE: &str = "Hard-wired, boxed and registered run the same code of the same library (lzo: liblzo2), so that a \
    difference is the API's. The shipped driver is what the program has by that name: for lzo and zstd another codec. Each turn is \
    done twice and the second time counts: caches and branch predictors know the pages, and a device's codec is slower. \
    Medians over rounds in which all take turns; differences are medians of the difference within a round.";

/// Measures everything. Calls `progress` before each step.
fn run(options: &Options, progress: &mut dyn FnMut(&str)) -> Result<ApiRecord> {
    progress("collecting pages");
    let pages = match &options.corpus {
        Some(dir) => corpus::stored::load(dir, options.megabytes)?,
        None => corpus::process_memory(options.megabytes)?,
    };
    let pages = pages.without_same_filled();
    ensure!(
        pages.len() >= options.batch,
        "{} pages are too few: a round takes {}",
        pages.len(),
        options.batch
    );
    let mut api = ApiRecord {
        report: Report::new("bench api", pages.name.clone()),
        note: NOTE.into(),
        rounds: options.rounds,
        batch: options.batch,
        skipped: Vec::new(),
        figures: Vec::new(),
    };
    for (codec, known) in CODECS {
        progress(codec);
        if Raw::new(codec).is_none() {
            api.skipped
                .push(format!("{codec}: its library is not installed"));
            continue;
        }
        measure(codec, known, &pages, options, &mut api)?;
    }
    Ok(api)
}

/// A library's codec behind the API's trait.
struct Boxed(Raw);

impl Tfm for Boxed {
    fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, Error> {
        let got = dst.len();
        match self.0.compress(src, dst) {
            0 => Err(Error::OutputTooSmall { got }),
            len => Ok(len),
        }
    }
    fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, Error> {
        match self.0.decompress(src, dst) {
            true => Ok(dst.len()),
            false => Err(Error::Corrupt {
                algorithm: "library",
            }),
        }
    }
}

/// The same as an algorithm, for a registry.
struct Library {
    codec: &'static str,
    known: &'static [KnownAnswer],
}

impl Algorithm for Library {
    fn name(&self) -> &'static str {
        self.codec
    }
    fn driver_name(&self) -> &'static str {
        "library"
    }
    fn priority(&self) -> i32 {
        0
    }
    fn summary(&self) -> &'static str {
        "a library, to be measured"
    }
    fn known_answers(&self) -> &'static [KnownAnswer] {
        self.known
    }
    fn prepare(&self, _settings: &Settings) -> Result<Arc<dyn Prepared>, Error> {
        Ok(Arc::new(Workers(self.codec)))
    }
}

struct Workers(&'static str);

impl Prepared for Workers {
    fn tfm(&self) -> Result<Box<dyn Tfm>, Error> {
        Raw::new(self.0)
            .map(|raw| Box::new(Boxed(raw)) as Box<dyn Tfm>)
            .ok_or_else(|| Error::Setup {
                algorithm: self.0,
                source: uzram::compress::LibraryError::new(self.0, "the library is missing"),
            })
    }
}

fn measure(
    codec: &'static str,
    known: &'static [KnownAnswer],
    pages: &Corpus,
    options: &Options,
    api: &mut ApiRecord,
) -> Result<()> {
    let mut raw = Raw::new(codec).context("the library is gone")?;
    let mut boxed: Box<dyn Tfm> = black_box(Box::new(Boxed(
        Raw::new(codec).context("the library is gone")?,
    )));
    let mut registry = Registry::empty();
    registry.register(Arc::new(Library { codec, known }))?;
    let none: [(&str, &str); 0] = [];
    let mut by_name = registry.prepare(codec, PAGE, none)?.tfm()?;
    let mut shipped = Registry::builtin().prepare(codec, PAGE, none)?.tfm()?;
    let all = pages.pages();
    let objects = objects(all, &mut |page, out| raw.compress(page, out));
    let own = self::objects(all, &mut |page, out| {
        shipped.compress(page, out).unwrap_or(0)
    });
    let bytes = |objects: &[Vec<u8>]| objects.iter().map(Vec::len).sum::<usize>().max(1);
    let ratio = |objects: &[Vec<u8>]| (all.len() * PAGE) as f64 / bytes(objects) as f64;
    let ratios = [
        ratio(&objects),
        ratio(&objects),
        ratio(&objects),
        ratio(&own),
    ];
    let contexts = [
        0,
        boxed.memory_bytes(),
        by_name.memory_bytes(),
        shipped.memory_bytes(),
    ];
    let batch = |round: usize| {
        let at = round * 7 % (all.len() / options.batch) * options.batch;
        at..at + options.batch
    };
    // The same buffers for all: where one lies can cost more than what is measured here.
    let out = RefCell::new(Aligned([0u8; 2 * PAGE]));
    let back = RefCell::new(Aligned([0u8; PAGE]));
    let compress = Rounds::run_warmed(
        options.rounds,
        &mut [
            &mut |round| {
                let out = &mut out.borrow_mut().0;
                for page in &all[batch(round)] {
                    black_box(raw.compress(page, out));
                }
            },
            &mut |round| through(&mut *boxed, &all[batch(round)], &mut out.borrow_mut().0),
            &mut |round| through(&mut *by_name, &all[batch(round)], &mut out.borrow_mut().0),
            &mut |round| through(&mut *shipped, &all[batch(round)], &mut out.borrow_mut().0),
        ],
    );
    let mut failed = 0;
    let decompress = Rounds::run_warmed(
        options.rounds,
        &mut [
            &mut |round| {
                let back = &mut back.borrow_mut().0;
                for object in &objects[batch(round)] {
                    failed += usize::from(!raw.decompress(object, back));
                    black_box(&back);
                }
            },
            &mut |round| {
                back_through(
                    &mut *boxed,
                    &objects[batch(round)],
                    &mut back.borrow_mut().0,
                )
            },
            &mut |round| {
                back_through(
                    &mut *by_name,
                    &objects[batch(round)],
                    &mut back.borrow_mut().0,
                )
            },
            &mut |round| back_through(&mut *shipped, &own[batch(round)], &mut back.borrow_mut().0),
        ],
    );
    ensure!(failed == 0, "{codec} lost {failed} pages");
    for (what, rounds) in [("compress", &compress), ("decompress", &decompress)] {
        for (who, way) in WAYS.iter().enumerate() {
            let page = 1e9 / options.batch as f64;
            let more = |round| (rounds.at(who, round) - rounds.at(0, round)) * page;
            let figure = ApiFigure {
                codec: codec.into(),
                way: (*way).into(),
                what: what.into(),
                ns: rounds.seconds(who) * page,
                more_ns: median((0..rounds.count()).map(more).collect()),
                more_percent: (rounds.ratio(who, 0) - 1.0) * 100.0,
                ratio: ratios[who],
                context_bytes: contexts[who],
            };
            if who > 0 {
                let name = format!("{codec} {what}, {way}: ns a page over hard-wired");
                api.report.add(name, figure.more_ns);
            }
            api.figures.push(figure);
        }
    }
    Ok(())
}

#[repr(align(4096))]
struct Aligned<const N: usize>([u8; N]);

/// Not inlined, so that the compiler cannot see which codec is behind the pointer.
#[inline(never)]
fn through(tfm: &mut dyn Tfm, pages: &[[u8; PAGE]], out: &mut [u8; 2 * PAGE]) {
    for page in pages {
        let _ = black_box(tfm.compress(page, out));
    }
}

#[inline(never)]
fn back_through(tfm: &mut dyn Tfm, objects: &[Vec<u8>], back: &mut [u8; PAGE]) {
    for object in objects {
        let whole = tfm.decompress(object, back);
        assert_eq!(whole, Ok(PAGE), "its own object");
        black_box(&back);
    }
}

fn objects(
    pages: &[[u8; PAGE]],
    compress: &mut dyn FnMut(&[u8; PAGE], &mut [u8; 2 * PAGE]) -> usize,
) -> Vec<Vec<u8>> {
    let mut out = [0; 2 * PAGE];
    let object = |page| {
        let len = compress(page, &mut out);
        out[..len].to_vec()
    };
    pages.iter().map(object).collect()
}

impl Outcome for ApiRecord {
    fn report(&self) -> &Report {
        &self.report
    }

    fn json(&self) -> Result<String> {
        output::json(self)
    }

    fn notes(&self) -> Vec<String> {
        let skipped = self.skipped.iter().map(|what| format!("left out: {what}"));
        std::iter::once(self.note.clone()).chain(skipped).collect()
    }

    fn tables(&self) -> Vec<Table> {
        let head = "codec,what,way,ns a page,more ns,more %,ratio,context bytes";
        let mut table = Table::new("Time of a page", head);
        for figure in &self.figures {
            table.rows.push(vec![
                figure.codec.clone(),
                figure.what.clone(),
                figure.way.clone(),
                number(figure.ns),
                number(figure.more_ns),
                format!("{:.2}", figure.more_percent),
                format!("{:.3}", figure.ratio),
                figure.context_bytes.to_string(),
            ]);
        }
        vec![table]
    }

    fn charts(&self) -> Vec<Chart> {
        let speed = |figure: &ApiFigure| (PAGE as f64 * 1e3 / figure.ns, figure.ratio);
        let series = |(group, (codec, _)): (usize, &(&str, &[KnownAnswer]))| {
            let its = |f: &&ApiFigure| f.codec == *codec && f.what == "compress";
            let points = self.figures.iter().filter(its).map(speed).collect();
            Series::new(*codec, Look::new(group, 0), points)
        };
        let of = |(group, way): (usize, &'static str)| {
            let its = self.figures.iter().filter(|f| f.way == way);
            let points = (0..).zip(its).map(|(n, f)| (f64::from(n), f.ns));
            Series::new(way, Look::new(group, 0), points.collect())
        };
        let hard_wired = self.figures.iter().filter(|f| f.way == WAYS[0]);
        vec![
            Chart {
                title: "Time of a page, each way".into(),
                y: "ns".into(),
                x_names: hard_wired
                    .map(|f| format!("{} {}", f.codec, f.what))
                    .collect(),
                log_y: true,
                lines: true,
                series: (0..).zip(WAYS).map(of).collect(),
                ..Chart::default()
            },
            Chart {
                title: "Ratio against speed of compression".into(),
                x: "MB/s on one thread".into(),
                y: "bytes of pages for each byte of object".into(),
                series: CODECS.iter().enumerate().map(series).collect(),
                ..Chart::default()
            },
        ]
    }
}
