//! `bench api`: what the compress API costs. The same codec is called three ways: directly, through `Box<dyn Tfm>`, and
//! as an algorithm that was registered, looked up by its name and prepared once. All three run the very same code of the
//! same library, so that a difference is the API's; the driver that the program ships takes its turn beside them.
//!
//! lzo and zstd are liblzo2 and libzstd here, since the program's own have no door but the API; their drivers' rows are therefore
//! another codec.

use std::cell::RefCell;
use std::hint::black_box;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use uzram::compress::Tfm;
use uzram::compress::{Algorithm, Error, KnownAnswer, LibraryError, Prepared, Registry, Settings};

use crate::corpus::{self, Corpus, PAGE};
use crate::lab::{self, Amount, Experiment, How, LabResult, Progress};
use crate::measure::{Rounds, turn};
use crate::output::{Chart, Figure, FigureRecord, Look, Series, number};
use crate::report::Report;
use crate::rival::Raw;

/// `bench api`. A quarter of a megabyte stays in a core's own cache, so that it does not matter who comes first.
pub(crate) const EXPERIMENT: Experiment = Experiment {
    corpus: true,
    read: lab::read::<FigureRecord<ApiFigure>>,
    ..Experiment::new(
        "api",
        "What the compress API costs over a direct call of the codec",
        run,
    )
};

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

const NOTE: &str = "Hard-wired, boxed and registered run the same code of the same library (lzo: liblzo2), so that a \
    difference is the API's. The shipped driver is what the program has by that name: for lzo and zstd another codec. Each turn is \
    done twice and the second time counts: caches and branch predictors know the pages, and a device's codec is slower. \
    Medians over rounds in which all take turns; differences are medians of the difference within a round.";

/// Measures everything. Calls `progress` before each step.
fn run(how: &How, progress: Progress<'_>) -> LabResult {
    let amount = how.amount([32, 801, 64], [4, 11, 64]);
    progress("collecting pages");
    let pages = match &how.corpus {
        Some(dir) => corpus::stored::load(dir, amount.megabytes)?,
        None => corpus::process_memory(amount.megabytes)?,
    };
    let pages = pages.without_same_filled();
    ensure!(
        pages.len() >= amount.batch,
        "{} pages are too few: a round takes {}",
        pages.len(),
        amount.batch
    );
    let Amount { rounds, batch, .. } = amount;
    let mut api = FigureRecord {
        report: Report::new("bench api", pages.name.clone()),
        note: format!("{NOTE} {rounds} rounds of {batch} pages."),
        figures: Vec::new(),
        left_out: Vec::new(),
    };
    for (codec, known) in CODECS {
        progress(codec);
        match Raw::new(codec) {
            Some(raw) => measure(codec, known, raw, &pages, amount, &mut api)?,
            None => api.left_out.push(format!("{codec}: {MISSING}")),
        }
    }
    Ok(Box::new(api))
}

const MISSING: &str = "its library is not installed";

/// A library's codec behind the API's trait.
impl Tfm for Raw {
    fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, Error> {
        let got = dst.len();
        match Raw::compress(self, src, dst) {
            0 => Err(Error::OutputTooSmall { got }),
            len => Ok(len),
        }
    }
    fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, Error> {
        match Raw::decompress(self, src, dst) {
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
        let missing = || Error::Setup {
            algorithm: self.0,
            source: LibraryError::new(self.0, MISSING),
        };
        Ok(Box::new(Raw::new(self.0).ok_or_else(missing)?))
    }
}

fn measure(
    codec: &'static str,
    known: &'static [KnownAnswer],
    mut raw: Raw,
    pages: &Corpus,
    amount: Amount,
    api: &mut FigureRecord<ApiFigure>,
) -> Result<()> {
    let boxed = Raw::new(codec).context(MISSING)?;
    let mut boxed: Box<dyn Tfm> = black_box(Box::new(boxed));
    let mut registry = Registry::empty();
    registry.register(Arc::new(Library { codec, known }))?;
    let none: [(&str, &str); 0] = [];
    let mut by_name = registry.prepare(codec, PAGE, none)?.tfm()?;
    let mut shipped = Registry::builtin().prepare(codec, PAGE, none)?.tfm()?;
    let all = pages.pages();
    let (theirs, own) = (objects(all, &mut raw), objects(all, &mut *shipped));
    let bytes = |objects: &[Vec<u8>]| objects.iter().map(Vec::len).sum::<usize>().max(1);
    let ratio = |objects: &[Vec<u8>]| (all.len() * PAGE) as f64 / bytes(objects) as f64;
    let ratios = [&theirs, &theirs, &theirs, &own].map(|objects| ratio(objects));
    let contexts = [
        0,
        boxed.memory_bytes(),
        by_name.memory_bytes(),
        shipped.memory_bytes(),
    ];
    let whole = all.len() / amount.batch * amount.batch;
    let batch = |round| turn(round, 7, amount.batch, whole);
    // The same buffers for all: where one lies can cost more than what is measured here.
    let out = RefCell::new(AlignedBuffer([0u8; 2 * PAGE]));
    let back = RefCell::new(AlignedBuffer([0u8; PAGE]));
    let compress = Rounds::run_warmed(
        amount.rounds,
        &mut [
            &mut |round| through(&mut raw, &all[batch(round)], &out),
            &mut |round| through(&mut *boxed, &all[batch(round)], &out),
            &mut |round| through(&mut *by_name, &all[batch(round)], &out),
            &mut |round| through(&mut *shipped, &all[batch(round)], &out),
        ],
    );
    let decompress = Rounds::run_warmed(
        amount.rounds,
        &mut [
            &mut |round| back_through(&mut raw, &theirs[batch(round)], &back),
            &mut |round| back_through(&mut *boxed, &theirs[batch(round)], &back),
            &mut |round| back_through(&mut *by_name, &theirs[batch(round)], &back),
            &mut |round| back_through(&mut *shipped, &own[batch(round)], &back),
        ],
    );
    for (what, rounds) in [("compress", &compress), ("decompress", &decompress)] {
        for (who, way) in WAYS.iter().enumerate() {
            let page = 1e9 / amount.batch as f64;
            let figure = ApiFigure {
                codec: codec.into(),
                way: (*way).into(),
                what: what.into(),
                ns: rounds.seconds(who) * page,
                more_ns: rounds.median(|at, round| (at(who, round) - at(0, round)) * page),
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
struct AlignedBuffer<const N: usize>([u8; N]);

/// Not inlined, so that the compiler cannot see which codec is behind a pointer. Of [`Raw`] it is the direct call.
#[inline(never)]
fn through<T: Tfm + ?Sized>(
    tfm: &mut T,
    pages: &[[u8; PAGE]],
    out: &RefCell<AlignedBuffer<{ 2 * PAGE }>>,
) {
    let out = &mut out.borrow_mut().0;
    for page in pages {
        let _ = black_box(tfm.compress(page, out));
    }
}

#[inline(never)]
fn back_through<T: Tfm + ?Sized>(
    tfm: &mut T,
    objects: &[Vec<u8>],
    back: &RefCell<AlignedBuffer<PAGE>>,
) {
    let back = &mut back.borrow_mut().0;
    for object in objects {
        let whole = tfm.decompress(object, back);
        assert_eq!(whole, Ok(PAGE), "its own object");
        black_box(&back);
    }
}

/// Compresses every page.
fn objects(pages: &[[u8; PAGE]], tfm: &mut dyn Tfm) -> Vec<Vec<u8>> {
    let mut out = [0; 2 * PAGE];
    let object = |page: &[u8; PAGE]| {
        let len = tfm.compress(page, &mut out).unwrap_or(0);
        out[..len].to_vec()
    };
    pages.iter().map(object).collect()
}

impl Figure for ApiFigure {
    const CAPTION: &'static str = "Time of a page";
    const HEAD: &'static str = "codec,what,way,ns a page,more ns,more %,ratio,context bytes";
    const BY_FIRST: bool = false;

    fn cells(&self) -> Vec<String> {
        vec![
            self.codec.clone(),
            self.what.clone(),
            self.way.clone(),
            number(self.ns),
            number(self.more_ns),
            format!("{:.2}", self.more_percent),
            format!("{:.3}", self.ratio),
            self.context_bytes.to_string(),
        ]
    }

    fn charts(figures: &[ApiFigure]) -> Vec<Chart> {
        let speed = |figure: &ApiFigure| (PAGE as f64 * 1e3 / figure.ns, figure.ratio);
        let series = |(group, (codec, _)): (usize, &(&str, &[KnownAnswer]))| {
            let its = |f: &&ApiFigure| f.codec == *codec && f.what == "compress";
            let points = figures.iter().filter(its).map(speed).collect();
            Series::new(*codec, Look::new(group, 0), points)
        };
        let of = |(group, way): (usize, &'static str)| {
            let its = figures.iter().filter(|f| f.way == way);
            let points = (0..).zip(its).map(|(n, f)| (f64::from(n), f.ns));
            Series::new(way, Look::new(group, 0), points.collect())
        };
        let hard_wired = figures.iter().filter(|f| f.way == WAYS[0]);
        let names = hard_wired.map(|f| format!("{} {}", f.codec, f.what));
        vec![
            Chart {
                title: "Time of a page, each way".into(),
                y: "ns".into(),
                x_names: names.collect(),
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
