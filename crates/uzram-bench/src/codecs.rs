//! `bench codecs`: every algorithm of the registry, at its default and a few other levels, on several kinds of pages:
//! ratio, speed of one thread in both directions, memory. The raw libraries and the kernel's zram take turns on the same
//! pages.
//!
//! The kernel's figures include the block layer. Its cost is measured as well, on a device that is given only same-filled
//! pages, which it scans or fills and does not store. The difference is taken as the time of codec and pool.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use uzram::compress::{
    Algorithm, DictionaryForm, DictionarySpec, ParamKind, Settings, Tfm, dictionary,
};
use uzram_control::zram::algorithms;

use crate::corpus::{self, Corpus, PAGE};
use crate::field::{BLOCK_LAYER, Field, Participant, Turns};
use crate::holder::{Bare, KernelHolder, Pages};
use crate::lab::{self, Experiment, How, LabResult, Progress};
use crate::output::{Chart, Figure, FigureRecord, Look, Series, distinct, maybe, number};
use crate::report::Report;
use crate::rival::Raw;

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

/// Levels beside the default, where an algorithm has them.
const LEVELS: [i64; 3] = [1, 3, 9];
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
    let (mut figures, mut left_out) = (Vec::new(), Vec::new());
    let mut over_level_1 = Vec::new();
    let all = in_turn(&corpora);
    for corpus in corpora.iter().chain([&all]) {
        progress(&corpus.name);
        let pages = Pages::from_pages(corpus.pages());
        let mut field = Field::new(&corpus.name, &pages, &how.only);
        add_all(&mut field)?;
        field.check()?;
        let order: Vec<usize> = (0..pages.pages().len()).collect();
        // Far apart, so that few rounds see all of the corpus.
        let turns = field.turns(1, (&order, 7), amount, |_| true)?;
        left_out.append(&mut field.left_out);
        let quotients = beside_level_1(&turns, &mut report);
        if corpus.name == IN_TURN {
            continue;
        }
        over_level_1.extend(quotients);
        figures.extend(turns.who.iter().map(|place| figure(&turns, place)));
        beside_kernel(&turns, &mut report);
        beside_libraries(&turns, &mut report);
        beside_drivers(&turns, &mut report);
    }
    means(&over_level_1, &mut report);
    left_out.sort();
    left_out.dedup();
    Ok(Box::new(FigureRecord {
        report,
        note: NOTE.into(),
        figures,
        left_out,
    }))
}

/// A corpus of pages of all others, which takes their tables out of the processor's caches.
const IN_TURN: &str = "all in turn";

/// A page of each corpus in turn, as many in all as a corpus has.
fn in_turn(corpora: &[Corpus]) -> Corpus {
    let pages = corpora.iter().map(|corpus| corpus.pages());
    let mut pages: Vec<_> = pages.map(|of| of.iter().step_by(corpora.len())).collect();
    let mut bytes = Vec::new();
    loop {
        let before = bytes.len();
        for page in pages.iter_mut().filter_map(Iterator::next) {
            bytes.extend_from_slice(page);
        }
        if bytes.len() == before {
            return Corpus::new(IN_TURN, bytes);
        }
    }
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

/// Adds every driver of the registry, at its default level and others, the libraries and the kernel.
fn add_all(field: &mut Field<'_>) -> Result<()> {
    let count = field.pages.pages().len();
    for algorithm in algorithms().iter() {
        let driver = algorithm.driver_name();
        for level in levels(&**algorithm) {
            let name = level.map_or(String::new(), |level| format!(" level={level}"));
            let params = level.map(|level| ("level", level.to_string()));
            field.add(format!("uzram {driver}{name}"), || {
                let tfm = algorithms().prepare(driver, PAGE, params)?.tfm()?;
                Ok(Bare::new(tfm, count, true))
            })?;
        }
        if let Some(spec) = algorithm.dictionary()
            && spec.form == DictionaryForm::Collection
        {
            let pages = field.pages;
            field.add(format!("uzram {driver} trained"), || {
                Ok(Bare::new(trained(&**algorithm, spec, pages)?, count, true))
            })?;
        }
    }
    for library in RAW {
        field.add(format!("raw {library}"), || {
            let raw = Raw::new(library).context("the library is missing")?;
            Ok(Bare::new(Box::new(raw), count, true))
        })?;
    }
    field.add(BLOCK_LAYER.into(), || KernelHolder::block_layer(count, 1))?;
    for algorithm in KERNEL {
        let name = format!("kernel {algorithm}");
        field.add(name, || KernelHolder::new(algorithm, count))?;
    }
    Ok(())
}

/// Pages of a run that a collection is trained on, or not.
const RUN: usize = 128;

/// A tfm with a collection of every second run of pages.
fn trained(algorithm: &dyn Algorithm, spec: DictionarySpec, pages: &Pages) -> Result<Box<dyn Tfm>> {
    let samples = pages.pages().chunks(RUN).step_by(2).flatten();
    let samples: Vec<&[u8]> = samples.map(|page| &page[..]).collect();
    let collection = dictionary::train(spec, 0, &samples, dictionary::DEFAULT_BYTES)?;
    let settings = Settings::new(algorithm, PAGE, [("", ""); 0])?;
    let settings = settings.with_dictionary(algorithm, collection.into())?;
    Ok(algorithm.prepare(&settings)?.tfm()?)
}

/// The levels to measure; `None` is the default.
fn levels(algorithm: &dyn Algorithm) -> Vec<Option<i64>> {
    let level = algorithm.params().iter().find(|spec| spec.name == "level");
    let others = LEVELS.into_iter().filter(|level_of| {
        level.is_some_and(|spec| match spec.kind {
            ParamKind::Int { min, max, default } => {
                (min..=max).contains(level_of) && *level_of != default
            }
            _ => false,
        })
    });
    std::iter::once(None).chain(others.map(Some)).collect()
}

fn figure(turns: &Turns<'_>, place: &Participant) -> CodecFigure {
    CodecFigure {
        corpus: turns.corpus.into(),
        contestant: place.name.clone(),
        ratio: place.ratio,
        compress_mb_s: turns.write_mb_s(place).unwrap_or_default(),
        decompress_mb_s: turns.read_mb_s(place),
        context_bytes: place.context_bytes,
    }
}

/// The contestant that is an algorithm's default driver at its default level.
fn ours<'a>(turns: &'a Turns<'_>, algorithm: &str) -> Option<&'a Participant> {
    let ours = algorithms().find(algorithm).ok()?;
    turns.find(&format!("uzram {}", ours.driver_name()))
}

const WAYS: [&str; 2] = ["compress", "decompress"];

/// Adds rows beside the kernel's zram. lzo and lzo-rle must be faster than the kernel's whole path, at no lower ratio.
fn beside_kernel(turns: &Turns<'_>, report: &mut Report) {
    for algorithm in KERNEL {
        let kernel = turns.find(&format!("kernel {algorithm}"));
        let (Some(ours), Some(kernel), Some(floor)) =
            (ours(turns, algorithm), kernel, turns.find(BLOCK_LAYER))
        else {
            continue;
        };
        let name = format!("{}: {algorithm}", turns.corpus);
        let mut goal = |label: String, value: f64| match algorithm {
            "lzo" | "lzo-rle" => report.at_least(label, value, 1.0),
            _ => report.add(label, value),
        };
        let speeds = turns.speeds(ours, kernel).into_iter().flatten();
        for (way, speed) in WAYS.into_iter().zip(speeds) {
            goal(format!("{name} {way}, speed over kernel zram's"), speed);
        }
        if let (Some(ours), Some(kernel)) = (ours.kernel_ratio, kernel.kernel_ratio) {
            goal(format!("{name} ratio over kernel zram's"), ours / kernel);
        }
        // All of them are written and read, in the same order.
        let [ours, kernel, floor] = [ours, kernel, floor].map(|place| place.read);
        for (way, rounds) in WAYS.into_iter().zip([&turns.write, &turns.read]) {
            let label = format!("{name} {way}, speed over kernel zram's less the block layer");
            let less = rounds.median(|at, n| (at(kernel, n) - at(floor, n)) / at(ours, n));
            report.add(label, less);
        }
    }
}

/// Adds rows of the other drivers over the default driver, at the default level.
fn beside_drivers(turns: &Turns<'_>, report: &mut Report) {
    for algorithm in algorithms().iter() {
        let driver = algorithm.driver_name();
        let other = turns.find(&format!("uzram {driver}"));
        if let (Some(other), Some(ours)) = (other, ours(turns, algorithm.name()))
            && other.name != ours.name
        {
            over(turns, driver, other, ours, "the default driver's", report);
        }
    }
}

/// What a page codec with shared tables is measured by.
const LEVEL_1: &str = "uzram zstd-libzstd level=1";
const BUILT_IN: &str = "uzram lzhs-uzram";
const PAGE_CODECS: [&str; 2] = [BUILT_IN, "uzram lzhs-uzram trained"];
const QUOTIENTS: [&str; 3] = ["density", "compress", "decompress"];

/// What a quotient over libzstd's level 1 is to reach: reading while pages of all corpora press the caches, and the density of
/// what is built in, on every corpus.
fn least(corpus: &str, place: usize, what: &str) -> Option<f64> {
    match (corpus, PAGE_CODECS[place], what) {
        (IN_TURN, _, "decompress") => Some(1.6),
        (_, BUILT_IN, "density") => Some(0.97),
        _ => None,
    }
}

/// Adds rows of the page codec over libzstd's level 1. Its place among them, and density and both speeds as quotients.
fn beside_level_1(turns: &Turns<'_>, report: &mut Report) -> Vec<(usize, [f64; 3])> {
    let mut all = Vec::new();
    let base = turns.find(LEVEL_1);
    for (place, name) in PAGE_CODECS.into_iter().enumerate() {
        let (Some(ours), Some(base)) = (turns.find(name), base) else {
            continue;
        };
        let (Some(ratio), Some(base_ratio)) = (ours.ratio, base.ratio) else {
            continue;
        };
        let Some([write, read]) = turns.speeds(ours, base) else {
            continue;
        };
        let quotients = [ratio / base_ratio, write, read];
        for (what, quotient) in QUOTIENTS.into_iter().zip(quotients) {
            let label = format!("{}: {name} {what}, over libzstd's level 1", turns.corpus);
            match least(turns.corpus, place, what) {
                Some(goal) => report.at_least(label, quotient, goal),
                None => report.add(label, quotient),
            }
        }
        all.push((place, quotients));
    }
    all
}

/// Adds the geometric means of what [`beside_level_1`] found.
fn means(all: &[(usize, [f64; 3])], report: &mut Report) {
    for (place, name) in PAGE_CODECS.into_iter().enumerate() {
        let of: Vec<_> = all.iter().filter(|(of, _)| *of == place).collect();
        if of.is_empty() {
            continue;
        }
        for (at, (what, least)) in QUOTIENTS.into_iter().zip([1.07, 2.0, 2.0]).enumerate() {
            let logarithms: f64 = of.iter().map(|(_, quotients)| quotients[at].ln()).sum();
            let mean = (logarithms / of.len() as f64).exp();
            let label = format!("{name} {what}, over libzstd's level 1, geometric mean");
            // Goals are for what a device trains.
            match place {
                0 => report.add(label, mean),
                _ => report.at_least(label, mean, least),
            }
        }
    }
}

/// Adds rows of the default drivers over the libraries.
fn beside_libraries(turns: &Turns<'_>, report: &mut Report) {
    for library in RAW {
        let raw = turns.find(&format!("raw {library}"));
        if let (Some(ours), Some(raw)) = (ours(turns, library), raw) {
            over(turns, library, ours, raw, "the library's", report);
        }
    }
}

/// Adds speeds and ratio of one contestant over those of another.
fn over(
    turns: &Turns<'_>,
    name: &str,
    one: &Participant,
    base: &Participant,
    whose: &str,
    report: &mut Report,
) {
    let name = format!("{}: {name}", turns.corpus);
    let speeds = turns.speeds(one, base).into_iter().flatten();
    for (way, speed) in WAYS.into_iter().zip(speeds) {
        report.add(format!("{name} {way}, speed over {whose}"), speed);
    }
    if let (Some(ours), Some(base)) = (one.ratio, base.ratio) {
        report.add(format!("{name} ratio over {whose}"), ours / base);
    }
}

impl Figure for CodecFigure {
    const CAPTION: &'static str = "Every contestant on every kind of pages";
    const HEAD: &'static str = "pages,contestant,ratio,write MB/s,read MB/s,context bytes";
    const BY_FIRST: bool = true;
    /// Writing and reading.
    const PANELS: usize = 2;

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
