//! `bench codecs`: every algorithm of the registry, at its default and a few other levels, on several kinds of pages:
//! ratio, speed of one thread in both directions, memory. The raw libraries and the kernel's zram take turns on the same
//! pages.
//!
//! The kernel's figures include the block layer. Its cost is measured as well, on a device that is given only same-filled
//! pages, which it scans or fills and does not store. The difference is taken as the time of codec and pool.

mod contestant;

use std::hint::black_box;

use anyhow::{Result, ensure};
use contestant::{Contestant, FLOOR, HUGE};
use serde::{Deserialize, Serialize};
use uzram_control::zram::algorithms;

use crate::corpus::{self, Corpus, PAGE};
use crate::lab::{self, Amount, Experiment, How, LabResult, Progress};
use crate::measure::{Rounds, turn};
use crate::output::{Chart, Figure, FigureRecord, Look, Series, distinct, maybe, number};
use crate::report::Report;
use crate::zram::Aligned;

/// `bench codecs`.
pub(crate) const EXPERIMENT: Experiment = Experiment {
    only: true,
    read: lab::read::<FigureRecord<CodecFigure>>,
    ..Experiment::new(
        "codecs",
        "Every algorithm and its rivals on several kinds of pages: ratio, speed",
        run,
    )
};

/// The libraries behind the algorithms.
const RAW: [&str; 3] = ["lzo", "lz4", "zstd"];
/// What the kernel's zram is measured with.
const KERNEL: [&str; 3] = ["lzo-rle", "lzo", "lz4"];

/// A contestant on a corpus.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CodecFigure {
    /// The kind of pages.
    pub corpus: String,
    /// `uzram DRIVER [LEVEL]`, `raw LIBRARY`, `kernel ALGORITHM`, or the block layer alone.
    pub contestant: String,
    /// Bytes of pages over bytes of objects, none of which counts as more than a page.
    pub ratio: Option<f64>,
    /// Throughput of one thread, compressing.
    pub compress_mb_s: f64,
    /// Throughput of one thread, decompressing.
    pub decompress_mb_s: f64,
    /// Bytes of a worker's context, if the codec reports them.
    pub context_bytes: Option<usize>,
}

const NOTE: &str = "Ratios: no object counts as more than a page. trained: with a collection of every second run of 128 \
    pages. kernel: pages of 4 KiB, direct I/O, queue depth 1; \
    its time less the block layer's is its time less that of the same I/O on a device of the same kind that is given \
    same-filled pages. Ratios beside the kernel's count objects of 3625 bytes and more as a page, as it does. Medians of \
    rounds in which all take turns; figures over others are medians of the quotient within a round.";

/// Measures everything. Calls `progress` before each step.
fn run(how: &How, progress: Progress<'_>) -> LabResult {
    let amount = how.amount([24, 11, 512], [4, 3, 256]);
    progress("collecting pages");
    let corpora = corpora(amount.megabytes)?;
    let names: Vec<_> = corpora.iter().map(|corpus| corpus.name.as_str()).collect();
    let mut report = Report::new("bench codecs", names.join("; "));
    let mut contestants = contestants(progress)?;
    let names: Vec<_> = contestants.iter().map(|one| one.name.clone()).collect();
    contestants.retain(|contestant| contestant.name.contains(&how.only));
    ensure!(
        !contestants.is_empty(),
        "no contestant's name contains '{}'; there are: {}",
        how.only,
        names.join(", ")
    );
    let mut figures = Vec::new();
    for corpus in &corpora {
        progress(&corpus.name);
        let turns = CodecRounds::run(corpus, &mut contestants, amount)?;
        figures.extend((0..turns.names.len()).map(|who| turns.figure(who)));
        turns.beside_kernel(&mut report);
        turns.beside_libraries(&mut report);
        turns.beside_drivers(&mut report);
    }
    Ok(Box::new(FigureRecord {
        report,
        note: NOTE.into(),
        figures,
        left_out: Vec::new(),
    }))
}

/// Pages of each kind without the same-filled ones, which no codec sees.
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
fn contestants(progress: Progress<'_>) -> Result<Vec<Contestant>> {
    let registry = algorithms();
    let mut all = Vec::new();
    for algorithm in registry.iter() {
        all.extend(Contestant::from_driver(registry, &**algorithm)?);
        all.extend(Contestant::from_trained(algorithm)?);
    }
    for library in RAW {
        match Contestant::from_library(library) {
            Some(contestant) => all.push(contestant),
            None => progress(&format!(
                "left out: raw {library}, whose library is missing"
            )),
        }
    }
    let kernel = KERNEL.map(Contestant::from_kernel);
    for mut contestant in std::iter::once(Contestant::floor()).chain(kernel) {
        match contestant.fill(&[Aligned([0; PAGE])]) {
            Ok(()) => all.push(contestant),
            Err(error) => progress(&format!("left out: {}: {error:#}", contestant.name)),
        }
    }
    Ok(all)
}

/// The rounds on a corpus.
struct CodecRounds<'a> {
    corpus: &'a Corpus,
    names: Vec<String>,
    /// The ratio, and the ratio by the kernel's rule for huge pages.
    ratios: Vec<[Option<f64>; 2]>,
    context_bytes: Vec<Option<usize>>,
    compress: Rounds,
    decompress: Rounds,
    batch_bytes: usize,
}

impl CodecRounds<'_> {
    fn run<'a>(
        corpus: &'a Corpus,
        contestants: &mut [Contestant],
        amount: Amount,
    ) -> Result<CodecRounds<'a>> {
        let pages: Vec<Aligned> = corpus.pages().iter().map(|page| Aligned(*page)).collect();
        let batch_pages = amount.batch.min(pages.len());
        // Far apart, so that few rounds see all of the corpus.
        let batch = |round| turn(round, 7, batch_pages, pages.len());
        let mut ratios = Vec::new();
        for contestant in &mut *contestants {
            contestant.fill(&pages)?;
            let ratio = |huge| contestant.ratio(pages.len(), huge);
            ratios.push([ratio(PAGE)?, ratio(HUGE)?]);
        }
        let compress = Rounds::of(amount.rounds, contestants, |contestant, round| {
            contestant.compress(&pages, batch(round));
        });
        let decompress = Rounds::of(amount.rounds, contestants, |contestant, round| {
            contestant.decompress(batch(round), |page| {
                black_box(page);
            });
        });
        Ok(CodecRounds {
            corpus,
            names: contestants.iter().map(|c| c.name.clone()).collect(),
            ratios,
            context_bytes: contestants.iter().map(Contestant::context_bytes).collect(),
            compress,
            decompress,
            batch_bytes: batch_pages * PAGE,
        })
    }

    fn figure(&self, who: usize) -> CodecFigure {
        CodecFigure {
            corpus: self.corpus.name.clone(),
            contestant: self.names[who].clone(),
            ratio: self.ratios[who][0],
            compress_mb_s: self.compress.mb_s(who, self.batch_bytes),
            decompress_mb_s: self.decompress.mb_s(who, self.batch_bytes),
            context_bytes: self.context_bytes[who],
        }
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|other| other == name)
    }

    /// The contestant that is an algorithm's default driver at its default level.
    fn ours(&self, algorithm: &str) -> Option<usize> {
        let ours = algorithms().find(algorithm).ok()?;
        self.find(&format!("uzram {}", ours.driver_name()))
    }

    /// Adds rows beside the kernel's zram. lzo and lzo-rle must be faster than the kernel's whole path, at no lower ratio.
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
            for (what, rounds) in self.both() {
                let label = format!("{name} {what}, speed over kernel zram's");
                goal(label, rounds.ratio(kernel, ours));
            }
            if let (Some(ours), Some(kernel)) = (self.ratios[ours][1], self.ratios[kernel][1]) {
                goal(format!("{name} ratio over kernel zram's"), ours / kernel);
            }
            for (what, rounds) in self.both() {
                let label = format!("{name} {what}, speed over kernel zram's less the block layer");
                let less = rounds.median(|at, n| (at(kernel, n) - at(floor, n)) / at(ours, n));
                report.add(label, less);
            }
        }
    }

    fn both(&self) -> [(&'static str, &Rounds); 2] {
        [
            ("compress", &self.compress),
            ("decompress", &self.decompress),
        ]
    }

    /// Adds rows of the other drivers over the default driver, at the default level.
    fn beside_drivers(&self, report: &mut Report) {
        for algorithm in algorithms().iter() {
            let driver = algorithm.driver_name();
            let other = self.find(&format!("uzram {driver}"));
            let ours = self.ours(algorithm.name());
            if let (Some(other), Some(ours)) = (other, ours)
                && other != ours
            {
                self.over(driver, other, ours, "the default driver's", report);
            }
        }
    }

    /// Adds rows of the default drivers over the libraries.
    fn beside_libraries(&self, report: &mut Report) {
        for library in RAW {
            let raw = self.find(&format!("raw {library}"));
            if let (Some(ours), Some(raw)) = (self.ours(library), raw) {
                self.over(library, ours, raw, "the library's", report);
            }
        }
    }

    /// Adds speeds and ratio of one contestant over those of another.
    fn over(&self, name: &str, one: usize, base: usize, whose: &str, report: &mut Report) {
        let name = format!("{}: {name}", self.corpus.name);
        for (what, rounds) in self.both() {
            let label = format!("{name} {what}, speed over {whose}");
            report.add(label, rounds.ratio(base, one));
        }
        if let (Some(ours), Some(base)) = (self.ratios[one][0], self.ratios[base][0]) {
            report.add(format!("{name} ratio over {whose}"), ours / base);
        }
    }
}

impl Figure for CodecFigure {
    const CAPTION: &'static str = "Every contestant on every kind of pages";
    const HEAD: &'static str = "pages,contestant,ratio,write MB/s,read MB/s,context bytes";
    const BY_FIRST: bool = true;

    fn cells(&self) -> Vec<String> {
        let context = self.context_bytes.map(|bytes| bytes.to_string());
        vec![
            self.corpus.clone(),
            self.contestant.clone(),
            maybe(self.ratio),
            number(self.compress_mb_s),
            number(self.decompress_mb_s),
            context.unwrap_or_default(),
        ]
    }

    fn charts(figures: &[CodecFigure]) -> Vec<Chart> {
        vec![
            ratio_against(figures, "compression", |figure| figure.compress_mb_s),
            ratio_against(figures, "decompression", |figure| figure.decompress_mb_s),
        ]
    }
}

type Speed = fn(&CodecFigure) -> f64;

/// Ratio and speed of a contestant over all kinds of pages, of each as many bytes.
fn over_all(figures: &[CodecFigure], contestant: &str, speed: Speed) -> Option<(f64, f64)> {
    let its = || figures.iter().filter(|f| f.contestant == contestant);
    let count = its().count() as f64;
    let objects: Option<Vec<f64>> = its().map(|f| Some(1.0 / f.ratio?)).collect();
    let seconds: f64 = its().map(|f| 1.0 / speed(f)).sum();
    let ratio = count / objects?.iter().sum::<f64>();
    (count > 0.0).then_some((ratio, count / seconds))
}

/// Draws ratio against one of the speeds: a line through the levels of each algorithm's default driver, and a point for
/// the kernel's zram.
fn ratio_against(figures: &[CodecFigure], what: &str, speed: Speed) -> Chart {
    let names = distinct(figures.iter().map(|figure| figure.contestant.as_str()));
    let mut series = Vec::new();
    for (group, name) in algorithms().names().into_iter().enumerate() {
        let Ok(algorithm) = algorithms().find(name) else {
            continue;
        };
        let ours = format!("uzram {}", algorithm.driver_name());
        let variants = names.iter().filter(|c| {
            let level = c.strip_prefix(&*ours);
            level.is_some_and(|rest| {
                rest.is_empty() || rest.starts_with(" level") || rest == " trained"
            })
        });
        let place = |c: &&str| {
            let label = if *c == ours { name } else { "" };
            Some((over_all(figures, c, speed)?, label.to_owned()))
        };
        // A copy would take half of the picture.
        let compresses = |((ratio, _), _): &((f64, f64), String)| *ratio > 1.01;
        let mut points: Vec<_> = variants.filter_map(place).filter(compresses).collect();
        points.sort_by(|(a, _), (b, _)| a.0.total_cmp(&b.0));
        series.push(labelled(Look::new(group, 0), points));
        if let Some(point) = over_all(figures, &format!("kernel {name}"), speed) {
            let label = format!("kernel's {name}");
            series.push(labelled(Look::new(group, 1), vec![(point, label)]));
        }
    }
    Chart {
        title: format!("Compression ratio against {what} speed, one thread, pages of 4 KiB"),
        note: "filled: uzram, smaller at other levels; hollow: the kernel's zram with its block layer; \
            eight kinds of pages; null, a copy, is left out"
            .into(),
        x: "compression ratio".into(),
        y: format!("{what}, MB/s"),
        log_y: true,
        lines: true,
        series,
        ..Chart::default()
    }
}

/// A series with labelled points and no entry in the legend.
fn labelled(look: Look, points: Vec<((f64, f64), String)>) -> Series {
    let (points, labels) = points.into_iter().unzip();
    Series {
        labels,
        ..Series::new("", look, points)
    }
}
