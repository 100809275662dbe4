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

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::corpus::stored::{self, Source};
use crate::corpus::{self, Corpus, PAGE};
use crate::field::{BLOCK_LAYER, Field, Participant, Turns};
use crate::holder::{Bare, KernelHolder, LibraryHolder, Pages};
use crate::lab::{self, Amount, Experiment, How, Progress};
use crate::measure::shuffled;
use crate::output::{Figure, FigureRecord, maybe, number};
use crate::report::Report;
use crate::rival::Raw;

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
const LIBRARY: [&str; 7] = [
    "lz4",
    "lz4-uzram",
    "wk64",
    "lzo-rle",
    "lzhs",
    "zstd(level=1)",
    "zstd",
];
/// What it is measured with once more when it has trained itself on the pages.
const TRAINED: [&str; 1] = ["lzhs"];
/// What the kernel's zram is measured with: what it takes unless it is told otherwise comes first.
const KERNEL: [&str; 3] = ["lzo-rle", "lzo", "lz4"];
/// The codecs that are called directly; null is a copy.
const RAW: [&str; 6] = ["null", "lz4", "lz4_flex", "snap", "zstd-1", "zstd"];
const AUTO: &str = "uzram lz4, --policy auto, settled";
/// What an agent has made dense, all of it or only its larger objects (the least bytes of one).
const SETTLED: [(&str, u16); 2] = [
    (AUTO, 0),
    ("uzram lz4, --policy auto,least=1216, settled", 1216),
];

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
        let mut field = Field::new(&corpus.name, &pages, "");
        add_all(&mut field, fill_bytes)?;
        field.check()?;
        for request in REQUESTS {
            let kib = request * PAGE / 1024;
            progress(&format!("{}: requests of {kib} KiB", corpus.name));
            let order = shuffled(pages.pages().len() / request);
            let takes_part = |name: &str| request == 1 || !name.starts_with("raw");
            let turns = field.turns(request, (&order, 1), amount, takes_part)?;
            figures.extend(turns.who.iter().map(|place| figure(&turns, place)));
            goals::speed(&turns, &mut report);
            if request == 1 {
                goals::density(&turns, &mut report);
            }
        }
        left_out.append(&mut field.left_out);
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

/// Adds everybody, and measures the memory of devices of so many bytes.
fn add_all(field: &mut Field<'_>, fill_bytes: usize) -> Result<()> {
    let count = field.pages.pages().len();
    for name in RAW {
        field.add(format!("raw {name}"), || {
            let raw = Raw::new(name).context(NOT_BUILT)?;
            Ok(Bare::new(Box::new(raw), count, false))
        })?;
    }
    // All pages equally often: the same ratio as that of the pages.
    let fill = (fill_bytes / PAGE / count).max(1) * count;
    for algorithm in LIBRARY {
        let name = format!("uzram {algorithm}");
        field.weigh(&name, fill, LibraryHolder::new(algorithm, fill)?)?;
        field.add(name, || LibraryHolder::new(algorithm, count))?;
    }
    for algorithm in TRAINED {
        let name = format!("uzram {algorithm}, trained");
        let trained = |count| LibraryHolder::trained(algorithm, field.pages, count);
        let (large, small) = (trained(fill)?, trained(count)?);
        field.weigh(&name, fill, large)?;
        field.add(name, || Ok(small))?;
    }
    let all = field.pages.pages().iter().cycle();
    let all: Vec<_> = all.take(fill).collect();
    for (name, least) in SETTLED {
        field.add_filled(name, fill, LibraryHolder::settled(&all, least)?)?;
    }
    trueno(field)?;
    for algorithm in KERNEL {
        let name = format!("kernel {algorithm}");
        if let Ok(kernel) = KernelHolder::new(algorithm, fill) {
            field.weigh(&name, fill, kernel)?;
        }
        field.add(name, || KernelHolder::new(algorithm, count))?;
    }
    let largest = REQUESTS[REQUESTS.len() - 1];
    let layer = || KernelHolder::block_layer(count, largest);
    field.add(BLOCK_LAYER.into(), layer)
}

const NOT_BUILT: &str = "this program was built without the feature \"rivals\"";

#[cfg(feature = "rivals")]
fn trueno(field: &mut Field<'_>) -> Result<()> {
    use crate::holder::Trueno;
    use trueno_zram_core::Algorithm::{Lz4, Zstd};
    let count = field.pages.pages().len();
    for (name, algorithm) in [("lz4", Lz4), ("zstd-1", Zstd { level: 1 })] {
        field.add(format!("trueno {name}"), || Trueno::new(algorithm, count))?;
    }
    Ok(())
}

#[cfg(not(feature = "rivals"))]
fn trueno(field: &mut Field<'_>) -> Result<()> {
    field.left_out.push(format!("trueno: {NOT_BUILT}"));
    Ok(())
}

fn figure(turns: &Turns<'_>, place: &Participant) -> RivalFigure {
    RivalFigure {
        corpus: turns.corpus.into(),
        contestant: place.name.clone(),
        request_bytes: turns.request * PAGE,
        write_mb_s: turns.write_mb_s(place),
        read_mb_s: turns.read_mb_s(place),
        ratio: place.ratio,
        memory_ratio: place.memory_ratio,
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
