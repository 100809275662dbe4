//! `bench codecs`: every algorithm of the registry, at its default and a few other levels, on several kinds of
//! pages: ratio, speed both ways on one thread, memory. In the same rounds on the same pages: the raw libraries and the
//! kernel's own zram.
//!
//! The kernel's figures hold the way of a page through the block layer. What that costs is measured beside them: a
//! device that is given same-filled pages only scans (or fills) them and keeps none. Its time less that is taken for
//! the codec's and the store's own.

mod contestant;

use std::hint::black_box;

use anyhow::{Result, ensure};
use contestant::{Contestant, FLOOR, HUGE};
use serde::Serialize;
use uzram::compress::Registry;

use crate::corpus::{self, Corpus, PAGE};
use crate::measure::{Rounds, median};
use crate::report::Report;
use crate::zram::Aligned;

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

impl Options {
    /// A smoke test: its figures mean little.
    pub fn quick() -> Options {
        Options {
            megabytes: 4,
            rounds: 3,
            batch: 256,
            only: String::new(),
        }
    }
}

/// The libraries behind the algorithms.
const RAW: [&str; 3] = ["lzo", "lz4", "zstd"];
/// What the kernel's zram is measured with.
const KERNEL: [&str; 3] = ["lzo-rle", "lzo", "lz4"];

/// A contestant on a corpus.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    /// The kind of pages.
    pub corpus: String,
    /// `uzram DRIVER [LEVEL]`, `raw LIBRARY`, `kernel ALGORITHM`, or the block layer alone.
    pub contestant: String,
    /// Bytes of pages over bytes of objects, none of which counts as more than a page.
    pub ratio: Option<f64>,
    /// Throughput of one thread.
    pub compress_mb_s: f64,
    /// The same of reading.
    pub decompress_mb_s: f64,
    /// A worker's context, where it tells.
    pub context_bytes: Option<usize>,
}

/// All of it.
#[derive(Debug, Serialize)]
pub struct Codecs {
    /// Goals, machine, commit.
    #[serde(flatten)]
    pub report: Report,
    /// How to read it.
    pub note: &'static str,
    /// Everything measured.
    pub figures: Vec<Figure>,
}

const NOTE: &str = "Ratios: no object counts as more than a page. kernel: pages of 4 KiB, direct I/O, queue depth 1; \
    its time less the block layer's is its time less that of the same I/O on a device of the same kind that is given \
    same-filled pages. Ratios beside the kernel's count objects of 3625 bytes and more as a page, as it does. Medians of \
    rounds in which all take turns; figures over others are medians of the quotient within a round.";

/// Runs it all; `progress` is told what is under way.
pub fn run(options: &Options, progress: &mut dyn FnMut(&str)) -> Result<Codecs> {
    progress("collecting pages");
    let corpora = corpora(options.megabytes)?;
    let names: Vec<_> = corpora.iter().map(|corpus| corpus.name.as_str()).collect();
    let mut report = Report::new("bench codecs", names.join("; "));
    let mut contestants = contestants(progress)?;
    let names: Vec<_> = contestants.iter().map(|one| one.name.clone()).collect();
    contestants.retain(|contestant| contestant.name.contains(&options.only));
    ensure!(
        !contestants.is_empty(),
        "no contestant's name contains '{}'; there are: {}",
        options.only,
        names.join(", ")
    );
    let mut figures = Vec::new();
    for corpus in &corpora {
        progress(&corpus.name);
        let turns = Turns::run(corpus, &mut contestants, options)?;
        figures.extend((0..turns.names.len()).map(|who| turns.figure(who)));
        turns.beside_kernel(&mut report);
        turns.beside_libraries(&mut report);
        turns.beside_drivers(&mut report);
    }
    let note = NOTE;
    Ok(Codecs {
        report,
        note,
        figures,
    })
}

/// Pages of each kind, without the same-filled ones, which no codec gets to see.
pub(crate) fn corpora(megabytes: usize) -> Result<Vec<Corpus>> {
    let mut corpora = corpus::heaps(megabytes)?;
    corpora.push(corpus::compiler_heap(megabytes)?);
    corpora.extend(corpus::libraries_and_text(megabytes)?);
    corpora.push(corpus::zeros_and_noise(megabytes));
    let named = |corpus: &Corpus| {
        let mut pages = corpus.without_same_filled();
        pages.name.clone_from(&corpus.name);
        pages
    };
    Ok(corpora.iter().map(named).collect())
}

/// Every driver of the registry, the libraries and the kernel.
fn contestants(progress: &mut dyn FnMut(&str)) -> Result<Vec<Contestant>> {
    let registry = Registry::builtin();
    let mut all = Vec::new();
    for algorithm in registry.iter() {
        all.extend(Contestant::of_driver(&registry, &**algorithm)?);
    }
    for library in RAW {
        match Contestant::of_library(library) {
            Some(contestant) => all.push(contestant),
            None => progress(&format!(
                "left out: raw {library}, whose library is missing"
            )),
        }
    }
    let kernel = KERNEL.map(Contestant::of_kernel);
    for mut contestant in std::iter::once(Contestant::floor()).chain(kernel) {
        match contestant.fill(&[Aligned([0; PAGE])]) {
            Ok(()) => all.push(contestant),
            Err(error) => progress(&format!("left out: {}: {error:#}", contestant.name)),
        }
    }
    Ok(all)
}

/// The rounds on a corpus.
struct Turns<'a> {
    corpus: &'a Corpus,
    names: Vec<String>,
    /// As it is, and with the kernel's rule for huge pages.
    ratios: Vec<[Option<f64>; 2]>,
    context_bytes: Vec<Option<usize>>,
    compress: Rounds,
    decompress: Rounds,
    batch_bytes: usize,
}

impl Turns<'_> {
    fn run<'a>(
        corpus: &'a Corpus,
        contestants: &mut [Contestant],
        options: &Options,
    ) -> Result<Turns<'a>> {
        let pages: Vec<Aligned> = corpus.pages().iter().map(|page| Aligned(*page)).collect();
        let batch_pages = options.batch.min(pages.len());
        let batch = |round: usize| {
            // Far apart, so that few rounds see all of the corpus.
            let at = round * 7 % (pages.len() / batch_pages) * batch_pages;
            at..at + batch_pages
        };
        let mut ratios = Vec::new();
        for contestant in &mut *contestants {
            contestant.fill(&pages)?;
            let ratio = |huge| contestant.ratio(pages.len(), huge);
            ratios.push([ratio(PAGE)?, ratio(HUGE)?]);
        }
        let compress = turns(contestants, options.rounds, |contestant, round| {
            contestant.compress(&pages, batch(round));
        });
        let decompress = turns(contestants, options.rounds, |contestant, round| {
            contestant.decompress(batch(round), |page| {
                black_box(page);
            });
        });
        Ok(Turns {
            corpus,
            names: contestants.iter().map(|c| c.name.clone()).collect(),
            ratios,
            context_bytes: contestants.iter().map(Contestant::context_bytes).collect(),
            compress,
            decompress,
            batch_bytes: batch_pages * PAGE,
        })
    }

    fn figure(&self, who: usize) -> Figure {
        let rate = |rounds: &Rounds| self.batch_bytes as f64 / rounds.seconds(who) / 1e6;
        Figure {
            corpus: self.corpus.name.clone(),
            contestant: self.names[who].clone(),
            ratio: self.ratios[who][0],
            compress_mb_s: rate(&self.compress),
            decompress_mb_s: rate(&self.decompress),
            context_bytes: self.context_bytes[who],
        }
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|other| other == name)
    }

    /// Our driver of an algorithm: the one of highest priority.
    fn ours(&self, algorithm: &str) -> Option<usize> {
        let registry = Registry::builtin();
        self.find(&format!(
            "uzram {}",
            registry.find(algorithm).ok()?.driver_name()
        ))
    }

    /// lzo and lzo-rle have to be faster than the kernel's whole way, at no lower ratio.
    fn beside_kernel(&self, report: &mut Report) {
        for algorithm in KERNEL {
            let kernel = self.find(&format!("kernel {algorithm}"));
            let (Some(ours), Some(kernel), Some(floor)) =
                (self.ours(algorithm), kernel, self.find(FLOOR))
            else {
                continue;
            };
            let name = format!("{}: {algorithm}", self.corpus.name);
            let mut goal = |label: String, value: f64| match algorithm {
                "lzo" | "lzo-rle" => report.at_least(label, value, 1.0),
                _ => report.add(label, value),
            };
            let both = [
                ("compress", &self.compress),
                ("decompress", &self.decompress),
            ];
            for (what, rounds) in both {
                let label = format!("{name} {what}, speed over kernel zram's");
                goal(label, rounds.ratio(kernel, ours));
            }
            if let (Some(ours), Some(kernel)) = (self.ratios[ours][1], self.ratios[kernel][1]) {
                goal(format!("{name} ratio over kernel zram's"), ours / kernel);
            }
            for (what, rounds) in both {
                let less = |round| {
                    let codec = rounds.at(kernel, round) - rounds.at(floor, round);
                    codec / rounds.at(ours, round)
                };
                let label = format!("{name} {what}, speed over kernel zram's less the block layer");
                report.add(label, median((0..rounds.count()).map(less).collect()));
            }
        }
    }

    /// An algorithm's other drivers over the one that its name takes, at the default level.
    fn beside_drivers(&self, report: &mut Report) {
        for algorithm in Registry::builtin().iter() {
            let driver = algorithm.driver_name();
            let other = self.find(&format!("uzram {driver}"));
            let (Some(other), Some(ours)) = (other, self.ours(algorithm.name())) else {
                continue;
            };
            if other == ours {
                continue;
            }
            let name = format!("{}: {driver}", self.corpus.name);
            for (what, rounds) in [
                ("compress", &self.compress),
                ("decompress", &self.decompress),
            ] {
                let label = format!("{name} {what}, speed over the default driver's");
                report.add(label, rounds.ratio(ours, other));
            }
            if let (Some(other), Some(ours)) = (self.ratios[other][0], self.ratios[ours][0]) {
                report.add(
                    format!("{name} ratio over the default driver's"),
                    other / ours,
                );
            }
        }
    }

    fn beside_libraries(&self, report: &mut Report) {
        for library in RAW {
            let raw = self.find(&format!("raw {library}"));
            let (Some(ours), Some(raw)) = (self.ours(library), raw) else {
                continue;
            };
            let name = format!("{}: {library}", self.corpus.name);
            for (what, rounds) in [
                ("compress", &self.compress),
                ("decompress", &self.decompress),
            ] {
                let label = format!("{name} {what}, speed over the library's");
                report.add(label, rounds.ratio(raw, ours));
            }
            if let (Some(ours), Some(raw)) = (self.ratios[ours][0], self.ratios[raw][0]) {
                report.add(format!("{name} ratio over the library's"), ours / raw);
            }
        }
    }
}

/// Lets all take turns.
fn turns(
    contestants: &mut [Contestant],
    rounds: usize,
    turn: impl Fn(&mut Contestant, usize),
) -> Rounds {
    let turn = &turn;
    let turns = contestants
        .iter_mut()
        .map(|contestant| move |round| turn(contestant, round));
    let mut turns: Vec<_> = turns.collect();
    let mut turns: Vec<&mut dyn FnMut(usize)> = turns
        .iter_mut()
        .map(|turn| turn as &mut dyn FnMut(usize))
        .collect();
    Rounds::run(rounds, &mut turns)
}

impl std::fmt::Display for Codecs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut corpus = "";
        for figure in &self.figures {
            if figure.corpus != corpus {
                corpus = &figure.corpus;
                let heads = ["ratio", "write MB/s", "read MB/s", "context"];
                let [ratio, write, read, context] = heads;
                writeln!(
                    f,
                    "\n{corpus:34} {ratio:>7} {write:>10} {read:>10} {context:>9}"
                )?;
            }
            let ratio = figure
                .ratio
                .map_or(String::new(), |ratio| format!("{ratio:.3}"));
            let context = figure
                .context_bytes
                .map_or(String::new(), |bytes| bytes.to_string());
            let (write, read) = (figure.compress_mb_s, figure.decompress_mb_s);
            let name = &figure.contestant;
            writeln!(
                f,
                "  {name:32} {ratio:>7} {write:>10.0} {read:>10.0} {context:>9}"
            )?;
        }
        writeln!(f, "\n{}", self.report)
    }
}
