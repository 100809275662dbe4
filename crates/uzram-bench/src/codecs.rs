//! `bench codecs`: every algorithm of the registry, at its default and a few other levels, on several kinds of
//! pages: ratio, speed both ways on one thread, memory. In the same rounds on the same pages: the raw libraries and the
//! kernel's own zram.
//!
//! The kernel's figures hold the way of a page through the block layer. What that costs is measured beside them: a
//! device that is given same-filled pages only scans (or fills) them and keeps none. Its time less that is taken for
//! the codec's and the store's own.

use std::hint::black_box;
use std::path::Path;

use anyhow::Result;
use serde::Serialize;
use uzram::compress::{ParamKind, Registry, Tfm};

use crate::corpus::{self, Corpus, PAGE};
use crate::measure::{Rounds, median};
use crate::report::Report;
use crate::rival::Raw;
use crate::zram::{Aligned, Zram};

/// How much to do.
#[derive(Debug, Clone)]
pub struct Options {
    /// Megabytes of each corpus.
    pub megabytes: usize,
    /// Rounds of each measurement.
    pub rounds: usize,
    /// Pages a round.
    pub batch: usize,
    /// Only contestants whose name contains this.
    pub only: String,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            megabytes: 24,
            rounds: 11,
            batch: 512,
            only: String::new(),
        }
    }
}

/// Levels beside the default, where an algorithm has them.
const LEVELS: [i64; 3] = [1, 3, 9];
/// The libraries behind the algorithms.
const RAW: [&str; 3] = ["lzo", "lz4", "zstd"];
/// What the kernel's zram is measured with, where it has it.
const KERNEL: [&str; 3] = ["lzo-rle", "lzo", "lz4"];
/// The kernel stores what compresses to no less than this as a whole page (zsmalloc's classes of chains of 8).
const HUGE: usize = 3625;

/// A contestant on a corpus.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    /// The kind of pages.
    pub corpus: String,
    /// `uzram DRIVER [PARAMETERS]`, `raw LIBRARY` or `kernel ALGORITHM`.
    pub contestant: String,
    /// Bytes of pages over bytes of objects, none of which counts as more than a page.
    pub ratio: f64,
    /// Throughput of one thread.
    pub compress_mb_s: f64,
    /// The same of reading.
    pub decompress_mb_s: f64,
    /// A worker's context; 0 where it does not tell.
    pub context_bytes: usize,
}

/// All of it.
#[derive(Debug, Serialize)]
pub struct Codecs {
    /// Goals, machine, commit.
    #[serde(flatten)]
    pub report: Report,
    /// How the block layer's cost was estimated.
    pub note: &'static str,
    /// Everything measured.
    pub figures: Vec<Figure>,
}

const NOTE: &str = "Ratios: no object counts as more than a page. kernel: pages of 4 KiB, direct I/O, queue depth 1; \
    its time less the block layer's is its time less that of the same I/O on a device of the same kind that is given \
    same-filled pages. Ratios beside the kernel's count objects of 3625 bytes and more as a page, as it does. Medians of \
    rounds in which all take turns; figures over others are medians of the quotient within a round.";

/// One codec with its state.
enum Codec {
    Ours(Box<dyn Tfm>),
    Raw(Raw),
}

impl Codec {
    fn compress(&mut self, page: &[u8; PAGE], out: &mut [u8; 2 * PAGE]) -> usize {
        match self {
            Codec::Ours(tfm) => tfm.compress(page, out).unwrap_or(0),
            Codec::Raw(raw) => raw.compress(page, out),
        }
    }

    fn decompress(&mut self, object: &[u8], page: &mut [u8; PAGE]) -> bool {
        match self {
            Codec::Ours(tfm) => tfm.decompress(object, page) == Ok(PAGE),
            Codec::Raw(raw) => raw.decompress(object, page),
        }
    }
}

/// A contestant, with the objects that it made of all pages.
struct Contestant {
    name: String,
    codec: Codec,
    store: Vec<u8>,
    places: Vec<(usize, usize)>,
    context_bytes: usize,
}

impl Contestant {
    fn new(name: String, codec: Codec) -> Contestant {
        let context_bytes = match &codec {
            Codec::Ours(tfm) => tfm.memory_bytes(),
            Codec::Raw(_) => 0,
        };
        Contestant {
            name,
            codec,
            store: Vec::new(),
            places: Vec::new(),
            context_bytes,
        }
    }

    /// Compresses all pages once, and checks that they come back.
    fn fill(&mut self, pages: &[Aligned]) -> Result<()> {
        (self.store, self.places) = (Vec::new(), Vec::with_capacity(pages.len()));
        let (mut out, mut back) = ([0; 2 * PAGE], [0; PAGE]);
        for page in pages {
            let len = self.codec.compress(&page.0, &mut out);
            let whole = self.codec.decompress(&out[..len], &mut back) && back == page.0;
            anyhow::ensure!(whole, "{} loses a page", self.name);
            self.places.push((self.store.len(), len));
            self.store.extend_from_slice(&out[..len]);
        }
        Ok(())
    }

    /// Ratio where objects from `huge` bytes on are stored as pages.
    fn ratio(&self, huge: usize) -> f64 {
        let bytes = |(_, len): &(usize, usize)| if *len >= huge { PAGE } else { *len };
        (self.places.len() * PAGE) as f64 / self.places.iter().map(bytes).sum::<usize>() as f64
    }
}

/// Runs it all; `progress` is told what is under way.
pub fn run(options: &Options, progress: &mut dyn FnMut(&str)) -> Result<Codecs> {
    progress("collecting pages");
    let corpora = corpora(options.megabytes)?;
    let names: Vec<_> = corpora.iter().map(|corpus| corpus.name.as_str()).collect();
    let mut report = Report::new("bench codecs", names.join("; "));
    let mut contestants = contestants(progress)?;
    contestants.retain(|contestant| contestant.name.contains(&options.only));
    let mut figures = Vec::new();
    for corpus in &corpora {
        progress(&corpus.name);
        let pages: Vec<Aligned> = corpus.pages().iter().map(|page| Aligned(*page)).collect();
        for contestant in &mut contestants {
            contestant.fill(&pages)?;
        }
        let mut kernel = Kernel::new(&pages)
            .inspect_err(|e| progress(&format!("no kernel zram: {e:#}")))
            .ok();
        measure(
            corpus,
            &pages,
            &mut contestants,
            kernel.as_mut(),
            options,
            &mut figures,
            &mut report,
        )?;
    }
    Ok(Codecs {
        report,
        note: NOTE,
        figures,
    })
}

/// Pages of each kind, without the same-filled ones, which no codec gets to see.
fn corpora(megabytes: usize) -> Result<Vec<Corpus>> {
    let mut corpora = corpus::heaps(megabytes)?;
    corpora.push(corpus::compiler_heap(megabytes)?);
    let libraries = Path::new("/usr/lib/x86_64-linux-gnu");
    let library = |path: &Path| path.to_string_lossy().contains(".so");
    corpora.push(corpus::files(
        "shared libraries",
        libraries,
        megabytes,
        &library,
    )?);
    let python = |path: &Path| path.extension().is_some_and(|e| e == "py");
    corpora.push(
        corpus::files(
            "source text",
            Path::new("/usr/lib/python3"),
            megabytes,
            &python,
        )
        .or_else(|_| corpus::files("source text", Path::new("/usr/lib"), megabytes, &python))?,
    );
    corpora.push(corpus::zeros_and_noise(megabytes));
    let named = |corpus: &Corpus| {
        let mut pages = corpus.without_same_filled();
        pages.name.clone_from(&corpus.name);
        pages
    };
    Ok(corpora.iter().map(named).collect())
}

/// Every driver of the registry, and the libraries.
fn contestants(progress: &mut dyn FnMut(&str)) -> Result<Vec<Contestant>> {
    let registry = Registry::builtin();
    let mut all = Vec::new();
    for algorithm in registry.iter() {
        let driver = algorithm.driver_name();
        let mut choices = vec![None];
        for spec in algorithm
            .params()
            .iter()
            .filter(|spec| spec.name == "level")
        {
            if let ParamKind::Int { min, max, default } = spec.kind {
                let others = LEVELS
                    .iter()
                    .filter(|n| (min..=max).contains(n) && **n != default);
                choices.extend(others.map(|level| Some(level.to_string())));
            }
        }
        for level in choices {
            let name = match &level {
                Some(level) => format!("uzram {driver} level={level}"),
                None => format!("uzram {driver}"),
            };
            let params = level.iter().map(|level| ("level", level));
            let tfm = registry.prepare(driver, PAGE, params)?.tfm()?;
            all.push(Contestant::new(name, Codec::Ours(tfm)));
        }
    }
    for library in RAW {
        match Raw::new(library) {
            Some(raw) => all.push(Contestant::new(format!("raw {library}"), Codec::Raw(raw))),
            None => progress(&format!(
                "left out: raw {library}, whose library is missing"
            )),
        }
    }
    Ok(all)
}

/// The kernel's devices: one for each algorithm, and one for the block layer alone.
struct Kernel {
    devices: Vec<(&'static str, Zram)>,
    floor: Zram,
    same: Aligned,
}

impl Kernel {
    /// Devices that hold the pages.
    fn new(pages: &[Aligned]) -> Result<Kernel> {
        let mut devices = Vec::new();
        for algorithm in KERNEL {
            let zram = Zram::new(algorithm, pages.len())?;
            for (number, page) in pages.iter().enumerate() {
                zram.write(number, page)?;
            }
            devices.push((algorithm, zram));
        }
        let (floor, same) = (Zram::new(KERNEL[0], pages.len())?, Aligned([1; PAGE]));
        for number in 0..pages.len() {
            floor.write(number, &same)?;
        }
        Ok(Kernel {
            devices,
            floor,
            same,
        })
    }
}

fn measure(
    corpus: &Corpus,
    pages: &[Aligned],
    contestants: &mut [Contestant],
    kernel: Option<&mut Kernel>,
    options: &Options,
    figures: &mut Vec<Figure>,
    report: &mut Report,
) -> Result<()> {
    let names: Vec<String> = contestants.iter().map(|c| c.name.clone()).collect();
    let batches = (pages.len() / options.batch).max(1);
    let batch = |round: usize| {
        let at = round * 7 % batches * options.batch;
        at..(at + options.batch).min(pages.len())
    };
    let ratios: Vec<(f64, f64, usize)> = contestants
        .iter()
        .map(|c| (c.ratio(PAGE), c.ratio(HUGE), c.context_bytes))
        .collect();
    let cells: Vec<_> = contestants
        .iter_mut()
        .map(std::cell::RefCell::new)
        .collect();
    let mut writes: Vec<Box<dyn FnMut(usize) + '_>> = Vec::new();
    let mut reads: Vec<Box<dyn FnMut(usize) + '_>> = Vec::new();
    for cell in &cells {
        writes.push(Box::new(|round| {
            let (mut contestant, mut out) = (cell.borrow_mut(), [0; 2 * PAGE]);
            for page in &pages[batch(round)] {
                black_box(contestant.codec.compress(&page.0, &mut out));
                black_box(&out);
            }
        }));
        reads.push(Box::new(|round| {
            let (contestant, mut page) = (&mut **cell.borrow_mut(), [0; PAGE]);
            for (at, len) in &contestant.places[batch(round)] {
                black_box(
                    contestant
                        .codec
                        .decompress(&contestant.store[*at..at + len], &mut page),
                );
                black_box(&page);
            }
        }));
    }
    let kernel = kernel.as_deref();
    for (zram, same) in kernel.iter().flat_map(|k| {
        let floor = std::iter::once((&k.floor, Some(&k.same)));
        floor.chain(k.devices.iter().map(|(_, zram)| (zram, None)))
    }) {
        writes.push(Box::new(move |round| {
            for number in batch(round) {
                zram.write(number, same.unwrap_or(&pages[number]))
                    .expect("the device has room");
            }
        }));
        reads.push(Box::new(move |round| {
            let mut page = Aligned([0; PAGE]);
            for number in batch(round) {
                zram.read(number, &mut page).expect("it was written");
                black_box(&page.0);
            }
        }));
    }
    let turns = |all: &mut [Box<dyn FnMut(usize) + '_>]| {
        let mut all: Vec<&mut dyn FnMut(usize)> = all.iter_mut().map(|f| &mut **f as _).collect();
        Rounds::run(options.rounds, &mut all)
    };
    let times = Times {
        write: turns(&mut writes),
        read: turns(&mut reads),
        bytes: options.batch.min(pages.len()) * PAGE,
    };
    for (who, name) in names.iter().enumerate() {
        let (ratio, _, context_bytes) = ratios[who];
        figures.push(times.figure(corpus, name.clone(), who, ratio, context_bytes));
    }
    if let Some(kernel) = kernel {
        let floor = names.len();
        figures.push(times.figure(
            corpus,
            "kernel, same-filled pages".into(),
            floor,
            f64::NAN,
            0,
        ));
        for (place, (algorithm, zram)) in kernel.devices.iter().enumerate() {
            let who = floor + 1 + place;
            let ratio = (pages.len() * PAGE) as f64 / zram.compressed_bytes()? as f64;
            figures.push(times.figure(corpus, format!("kernel {algorithm}"), who, ratio, 0));
            let prefix = format!("uzram {algorithm}-");
            let Some(ours) = names.iter().position(|n| n.starts_with(&prefix)) else {
                continue;
            };
            goals(
                corpus,
                algorithm,
                &times,
                [ours, who, floor],
                [ratios[ours].1, ratio],
                report,
            );
        }
    }
    beside_raw(corpus, &names, &times, &ratios, report);
    Ok(())
}

/// The rounds of a corpus.
struct Times {
    write: Rounds,
    read: Rounds,
    bytes: usize,
}

impl Times {
    fn figure(
        &self,
        corpus: &Corpus,
        contestant: String,
        who: usize,
        ratio: f64,
        context_bytes: usize,
    ) -> Figure {
        let rate = |rounds: &Rounds| self.bytes as f64 / rounds.seconds(who) / 1e6;
        Figure {
            corpus: corpus.name.clone(),
            contestant,
            ratio,
            compress_mb_s: rate(&self.write),
            decompress_mb_s: rate(&self.read),
            context_bytes,
        }
    }
}

/// Ours beside the kernel's: lzo and lzo-rle have to be faster than its whole way, at no lower ratio.
fn goals(
    corpus: &Corpus,
    algorithm: &str,
    times: &Times,
    [ours, kernel, floor]: [usize; 3],
    ratios: [f64; 2],
    report: &mut Report,
) {
    let name = format!("{}: {algorithm}", corpus.name);
    let lzo = algorithm.starts_with("lzo");
    for (what, rounds) in [("compress", &times.write), ("decompress", &times.read)] {
        let speed = rounds.ratio(kernel, ours);
        let label = format!("{name} {what}, speed over kernel zram's");
        if lzo {
            report.at_least(label, speed, 1.0)
        } else {
            report.add(label, speed)
        }
        let less: Vec<f64> = (0..rounds.count())
            .map(|n| (rounds.at(kernel, n) - rounds.at(floor, n)) / rounds.at(ours, n))
            .collect();
        report.add(
            format!("{name} {what}, the same less the block layer"),
            median(less),
        );
    }
    let label = format!("{name} ratio over kernel zram's");
    let ratio = ratios[0] / ratios[1];
    if lzo {
        report.at_least(label, ratio, 1.0)
    } else {
        report.add(label, ratio)
    }
}

/// Ours beside the libraries.
fn beside_raw(
    corpus: &Corpus,
    names: &[String],
    times: &Times,
    ratios: &[(f64, f64, usize)],
    report: &mut Report,
) {
    for library in RAW {
        let find = |prefix: String| names.iter().position(|n| n.starts_with(&prefix));
        let raw = names
            .iter()
            .position(|name| *name == format!("raw {library}"));
        let (Some(ours), Some(raw)) = (find(format!("uzram {library}-")), raw) else {
            continue;
        };
        let name = format!("{}: {library}", corpus.name);
        report.add(
            format!("{name} compress, speed over the library's"),
            times.write.ratio(raw, ours),
        );
        report.add(
            format!("{name} decompress, speed over the library's"),
            times.read.ratio(raw, ours),
        );
        report.add(
            format!("{name} ratio over the library's"),
            ratios[ours].0 / ratios[raw].0,
        );
    }
}

impl std::fmt::Display for Codecs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut corpus = "";
        for figure in &self.figures {
            if figure.corpus != corpus {
                corpus = &figure.corpus;
                writeln!(
                    f,
                    "\n{corpus:34} {:>7} {:>10} {:>12} {:>9}",
                    "ratio", "write MB/s", "read MB/s", "context"
                )?;
            }
            writeln!(
                f,
                "  {:32} {:>7.3} {:>10.0} {:>12.0} {:>9}",
                figure.contestant,
                figure.ratio,
                figure.compress_mb_s,
                figure.decompress_mb_s,
                figure.context_bytes
            )?;
        }
        writeln!(f, "\n{}", self.report)
    }
}
