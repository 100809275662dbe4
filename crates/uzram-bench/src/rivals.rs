//! `bench rivals`: the library, on one thread, beside other stores of compressed pages, on the same pages in the same
//! rounds: the kernel's zram, trueno-zram-core, and codecs called directly.
//!
//! Requests have 4 KiB, in a random order, or 128 KiB, in a random order of these. The kernel's zram is written and read
//! with direct I/O, as the file systems and programs on it do, so that its figures hold the way through the block layer;
//! what that is shows in the row of a device that is given same-filled pages only. The codecs take part at 4 KiB. Their
//! store is a place for each page's object, without table, lock or allocation.
//!
//! Memory is that of devices of 1 GiB that are filled with the pages, over and over: all that the library takes, and of
//! the kernel's what it says, which leaves its table out. What the library takes after overwrites `bench churn` measures,
//! and what requests lose while an agent works `bench policy`.

mod goals;
pub(crate) mod holder;

use std::hint::black_box;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use self::holder::{Bare, Holder, KernelHolder, LibraryHolder, Pages};
use crate::corpus::stored::{self, Source};
use crate::corpus::{self, Corpus, PAGE};
use crate::lab::{self, Amount, Experiment, How, Progress};
use crate::measure::{Rounds, shuffled, turn};
use crate::output::{Figure, FigureRecord, maybe, number};
use crate::report::Report;

/// `bench rivals`.
pub(crate) const EXPERIMENT: Experiment = Experiment {
    corpus: true,
    read: lab::read::<FigureRecord<RivalFigure>>,
    ..Experiment::new(
        "rivals",
        "The library beside the kernel's zram, trueno-zram-core and bare codecs: speed and memory",
        |how, progress| {
            let amount = how.amount([160, 21, 2048], [16, 3, 512]);
            let rivals = run(how, amount, how.size(1 << 30, 64 << 20), progress)?;
            Ok(Box::new(rivals))
        },
    )
};

/// The sizes of requests in pages.
const REQUESTS: [usize; 2] = [1, 32];
/// What the library is measured with: what it takes unless it is told otherwise comes first.
const LIBRARY: [&str; 6] = [
    "lz4",
    "lz4-uzram",
    "wk64",
    "lzo-rle",
    "zstd(level=1)",
    "zstd",
];
/// What the kernel's zram is measured with: what it takes unless it is told otherwise comes first.
const KERNEL: [&str; 3] = ["lzo-rle", "lzo", "lz4"];
/// The codecs that are called directly; null is a copy.
const RAW: [&str; 6] = ["null", "lz4", "lz4_flex", "snap", "zstd-1", "zstd"];
/// What an agent has made dense, all of it or only its larger objects (the least bytes of one).
const SETTLED: [(&str, u16); 2] = [
    ("uzram lz4, --policy auto, settled", 0),
    ("uzram lz4, --policy auto,least=1216, settled", 1216),
];
const BLOCK_LAYER: &str = "kernel, same-filled pages";

/// A contestant's figures on a corpus, with requests of one size.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RivalFigure {
    /// The kind of pages.
    pub corpus: String,
    /// `uzram ALGORITHM`, `kernel ALGORITHM`, `raw LIBRARY`, `trueno ALGORITHM`, or the block layer alone.
    pub contestant: String,
    /// Bytes of a request.
    pub request_bytes: usize,
    /// Write throughput of one thread; `None` for a read-only contestant.
    pub write_mb_s: Option<f64>,
    /// Read throughput of one thread.
    pub read_mb_s: f64,
    /// Bytes of pages over bytes of objects.
    pub ratio: Option<f64>,
    /// Bytes of pages over all memory.
    pub memory_ratio: Option<f64>,
}

const NOTE: &str = "One thread. kernel: direct I/O, queue depth 1; its memory is mem_used_total, without its table; \
    uzram's is all it takes. raw: a codec called directly, with a place for each object; null is a copy. trueno: \
    trueno-zram-core's pages in a vector. Requests of 4 KiB in random order, of 128 KiB likewise. Medians of rounds in \
    which all take turns; figures over others are medians of the quotient within a round.";

/// Measures everything; a round's batch is a multiple of 32 pages. Devices of `fill_bytes` are filled for the memory
/// figures. Calls `progress` before each step.
pub fn run(
    how: &How,
    amount: Amount,
    fill_bytes: usize,
    progress: Progress<'_>,
) -> Result<FigureRecord<RivalFigure>> {
    let largest = REQUESTS[REQUESTS.len() - 1];
    ensure!(
        amount.batch > 0 && amount.batch.is_multiple_of(largest),
        "a round has a multiple of {largest} pages"
    );
    progress("collecting pages");
    let corpora = match &how.corpus {
        Some(dir) => kept(dir, amount.megabytes)?,
        None => made(amount.megabytes)?,
    };
    let names: Vec<_> = corpora.iter().map(|corpus| corpus.name.as_str()).collect();
    let mut report = Report::new("bench rivals", names.join("; "));
    let (mut figures, mut left_out) = (Vec::new(), Vec::new());
    for corpus in &corpora {
        progress(&format!("{}: filling", corpus.name));
        let pages = Pages::from_pages(corpus.without_same_filled().pages());
        let mut field = Field::new(&corpus.name, &pages, fill_bytes, &mut left_out)?;
        field.leave_out_who_loses(&mut left_out);
        for request in REQUESTS {
            let kib = request * PAGE / 1024;
            progress(&format!("{}: requests of {kib} KiB", corpus.name));
            let turns = RivalRounds::run(&mut field, request, amount)?;
            figures.extend((0..turns.who.len()).map(|who| turns.figure(who)));
            turns.goals(&mut report);
            if request == 1 {
                turns.density(&mut report);
            }
        }
    }
    left_out.sort();
    left_out.dedup();
    for rival in &left_out {
        progress(&format!("left out: {rival}"));
    }
    Ok(FigureRecord {
        report,
        note: NOTE.into(),
        figures,
        left_out,
    })
}

/// Process memory, and files as the page cache has them.
fn made(megabytes: usize) -> Result<Vec<Corpus>> {
    let heap = corpus::process_memory(megabytes)?;
    let half = (megabytes / 2).max(1);
    let [libraries, text] = corpus::libraries_and_text(half)?;
    let files = [libraries.pages(), text.pages()].concat();
    Ok(vec![
        Corpus::new("process memory", heap.pages().as_flattened().to_vec()),
        Corpus::new("libraries and text", files.into_flattened()),
    ])
}

/// The same from a folder of stored corpora.
fn kept(dir: &Path, megabytes: usize) -> Result<Vec<Corpus>> {
    let sources = [Source::Process, Source::Files];
    sources
        .iter()
        .map(|source| stored::load_of(dir, *source, megabytes))
        .collect()
}

/// All contestants, holding the pages of a corpus.
struct Field<'a> {
    corpus: &'a str,
    pages: &'a Pages,
    holders: Vec<(String, Box<dyn Holder>)>,
    /// Ratios of data to objects and to all memory, of large devices.
    ratios: Vec<(String, [f64; 2])>,
}

impl<'a> Field<'a> {
    fn new(
        corpus: &'a str,
        pages: &'a Pages,
        fill_bytes: usize,
        left_out: &mut Vec<String>,
    ) -> Result<Field<'a>> {
        let count = pages.pages().len();
        let mut field = Field {
            corpus,
            pages,
            holders: Vec::new(),
            ratios: Vec::new(),
        };
        for name in RAW {
            match Bare::new(name, count) {
                Some(bare) => field.add(format!("raw {name}"), bare)?,
                None => left_out.push(format!("raw {name}: {NOT_BUILT}")),
            }
        }
        // All pages equally often: the same ratio as that of the pages.
        let fill = (fill_bytes / PAGE / count).max(1) * count;
        for algorithm in LIBRARY {
            let name = format!("uzram {algorithm}");
            field.weigh(&name, fill, LibraryHolder::new(algorithm, fill)?)?;
            field.add(name, LibraryHolder::new(algorithm, count)?)?;
        }
        let all = pages.pages().iter().cycle();
        let all: Vec<_> = all.take(fill).collect();
        for (name, least) in SETTLED {
            let settled = LibraryHolder::settled(&all, least)?;
            let ratios = ratios(all.len(), &settled)?;
            field.ratios.push((name.into(), ratios));
            field.holders.push((name.into(), Box::new(settled)));
        }
        trueno(&mut field, left_out)?;
        for algorithm in KERNEL {
            let name = format!("kernel {algorithm}");
            match KernelHolder::new(algorithm, fill) {
                Ok(kernel) => {
                    field.weigh(&name, fill, kernel)?;
                    field.add(name, KernelHolder::new(algorithm, count)?)?;
                }
                Err(error) => left_out.push(format!("{name}: {error:#}")),
            }
        }
        match KernelHolder::block_layer(count, REQUESTS[REQUESTS.len() - 1]) {
            Ok(layer) => field.add(BLOCK_LAYER.into(), layer)?,
            Err(error) => left_out.push(format!("{BLOCK_LAYER}: {error:#}")),
        }
        Ok(field)
    }

    /// Fills a contestant and adds it.
    fn add(&mut self, name: String, mut holder: impl Holder + 'static) -> Result<()> {
        let filled = fill(&mut holder, self.pages, self.pages.pages().len());
        filled.with_context(|| format!("{name}, {}", self.corpus))?;
        self.holders.push((name, Box::new(holder)));
        Ok(())
    }

    /// Fills a large device to measure its memory.
    fn weigh(&mut self, name: &str, count: usize, mut holder: impl Holder) -> Result<()> {
        fill(&mut holder, self.pages, count)?;
        self.ratios.push((name.into(), ratios(count, &holder)?));
        Ok(())
    }

    /// Ratios of data to objects, and to all memory if there is any.
    fn ratios(&self, name: &str, holder: &dyn Holder) -> Result<[Option<f64>; 2]> {
        if let Some((_, ratios)) = self.ratios.iter().find(|(of, _)| of == name) {
            return Ok(ratios.map(Some));
        }
        let ratios = ratios(self.pages.pages().len(), holder)?;
        Ok(ratios.map(|ratio| Some(ratio).filter(|ratio| ratio.is_finite())))
    }

    /// Reads all pages back, and leaves out whoever loses one.
    fn leave_out_who_loses(&mut self, left_out: &mut Vec<String>) {
        let (corpus, pages) = (self.corpus, self.pages);
        self.holders.retain_mut(|(name, holder)| {
            let lost = if name == BLOCK_LAYER {
                0
            } else {
                lost(&mut **holder, pages)
            };
            if lost > 0 {
                let of = pages.pages().len();
                left_out.push(format!("{name}: loses {lost} of {of} pages, {corpus}"));
            }
            lost == 0
        });
    }
}

const NOT_BUILT: &str = "this program was built without the feature \"rivals\"";

#[cfg(feature = "rivals")]
fn trueno(field: &mut Field<'_>, _: &mut Vec<String>) -> Result<()> {
    use trueno_zram_core::Algorithm::{Lz4, Zstd};
    let count = field.pages.pages().len();
    for (name, algorithm) in [("lz4", Lz4), ("zstd-1", Zstd { level: 1 })] {
        field.add(
            format!("trueno {name}"),
            holder::Trueno::new(algorithm, count)?,
        )?;
    }
    Ok(())
}

#[cfg(not(feature = "rivals"))]
fn trueno(_: &mut Field<'_>, left_out: &mut Vec<String>) -> Result<()> {
    left_out.push(format!("trueno: {NOT_BUILT}"));
    Ok(())
}

/// Writes `count` pages, repeating them as needed.
fn fill(holder: &mut dyn Holder, pages: &Pages, count: usize) -> Result<()> {
    let pages = pages.pages().iter().cycle().take(count);
    for (number, page) in pages.enumerate() {
        holder.write(number, page)?;
    }
    Ok(())
}

/// Bytes of pages over bytes of objects, and over all memory; infinite where there are none.
fn ratios(pages: usize, holder: &dyn Holder) -> Result<[f64; 2]> {
    let (objects, memory) = holder.memory()?;
    let data = (pages * PAGE) as f64;
    Ok([data / objects, data / memory.unwrap_or(0.0)])
}

/// How many pages are not what was written.
fn lost(holder: &mut dyn Holder, pages: &Pages) -> usize {
    let mut back = Pages::new(1);
    let numbered = pages.pages().iter().enumerate();
    let kept = numbered.filter(|(number, page)| {
        let read = holder.read(*number, back.bytes_mut());
        read.is_ok() && back.bytes() == &page[..]
    });
    pages.pages().len() - kept.count()
}

/// The rounds of all contestants with requests of one size.
struct RivalRounds<'a> {
    corpus: &'a str,
    who: Vec<Participant>,
    request: usize,
    batch_bytes: usize,
    write: Rounds,
    read: Rounds,
}

/// A contestant's index in the rounds, and its ratios. Read-only ones have no index for writing.
struct Participant {
    name: String,
    write: Option<usize>,
    read: usize,
    ratio: Option<f64>,
    memory_ratio: Option<f64>,
}

impl<'a> RivalRounds<'a> {
    fn run(field: &mut Field<'a>, request: usize, amount: Amount) -> Result<RivalRounds<'a>> {
        let pages = field.pages;
        // Batches end where requests do.
        let requests = pages.pages().len() / request;
        let batch = (amount.batch / request).min(requests);
        ensure!(batch > 0, "{} has too few pages", field.corpus);
        let order = shuffled(requests);
        let turn = |round: usize| {
            let numbers = &order[turn(round, 1, batch, requests)];
            numbers.iter().map(|number| number * request)
        };
        let takes_part = |name: &str| request == 1 || !name.starts_with("raw");
        let (mut written, mut who) = (0, Vec::new());
        let here = field.holders.iter().filter(|(name, _)| takes_part(name));
        for (read, (name, holder)) in here.enumerate() {
            let [ratio, memory_ratio] = field.ratios(name, &**holder)?;
            let write = (!holder.is_read_only()).then_some(written);
            written += usize::from(write.is_some());
            who.push(Participant {
                name: name.clone(),
                write,
                read,
                ratio,
                memory_ratio,
            });
        }
        let mut here: Vec<_> = field
            .holders
            .iter_mut()
            .filter(|(name, _)| takes_part(name))
            .collect();
        let mut writable: Vec<_> = here
            .iter_mut()
            .filter(|(_, holder)| !holder.is_read_only())
            .collect();
        let write = Rounds::of(amount.rounds, &mut writable, |(_, holder), round| {
            for first in turn(round) {
                let bytes = &pages.bytes()[first * PAGE..(first + request) * PAGE];
                holder.write(first, bytes).expect("it was written before");
            }
        });
        let mut back = Pages::new(request);
        let read = Rounds::of(amount.rounds, &mut here, |(_, holder), round| {
            for first in turn(round) {
                let read = holder.read(first, back.bytes_mut());
                read.expect("it was read before");
                black_box(back.bytes());
            }
        });
        Ok(RivalRounds {
            corpus: field.corpus,
            who,
            request,
            batch_bytes: batch * request * PAGE,
            write,
            read,
        })
    }

    fn figure(&self, who: usize) -> RivalFigure {
        let place = &self.who[who];
        RivalFigure {
            corpus: self.corpus.into(),
            contestant: place.name.clone(),
            request_bytes: self.request * PAGE,
            write_mb_s: place.write.map(|at| self.write.mb_s(at, self.batch_bytes)),
            read_mb_s: self.read.mb_s(place.read, self.batch_bytes),
            ratio: place.ratio,
            memory_ratio: place.memory_ratio,
        }
    }
}

impl Figure for RivalFigure {
    const CAPTION: &'static str = "Everybody, by pages and size of requests";
    const HEAD: &'static str =
        "pages and requests,contestant,write MB/s,read MB/s,ratio,over memory";
    const BY_FIRST: bool = true;

    fn cells(&self) -> Vec<String> {
        vec![
            format!("{}, {} KiB", self.corpus, self.request_bytes / 1024),
            self.contestant.clone(),
            maybe(self.write_mb_s),
            number(self.read_mb_s),
            maybe(self.ratio),
            maybe(self.memory_ratio),
        ]
    }
}
