//! `bench units`: what it would gain and cost to compress neighbouring pages together. An experiment: no device does it.
//!
//! Two ways are measured beside a page on its own. *Together*: the pages of a group are one object, and whoever wants one
//! of them decompresses all. *By the first*: each page of a group is an object, compressed with the group's first page as
//! what it may refer to, so that a read takes two pages and never more.

use std::hint::black_box;

use anyhow::{Result, ensure};
use serde::Serialize;
use uzram::compress::{Registry, Tfm};
use zstd_safe::{CCtx, CParameter, DCtx};

use crate::codecs;
use crate::corpus::{Corpus, PAGE};
use crate::measure::{Rounds, median};
use crate::report::Report;

/// How much to do.
#[derive(Debug, Clone)]
pub struct Options {
    /// Megabytes of each corpus.
    pub megabytes: usize,
    /// Rounds of each measurement.
    pub rounds: usize,
    /// Pages a round.
    pub batch: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            megabytes: 16,
            rounds: 21,
            batch: 256,
        }
    }
}

impl Options {
    /// A smoke test: its figures mean little.
    pub fn quick() -> Options {
        Options {
            megabytes: 4,
            rounds: 5,
            batch: 64,
        }
    }
}

/// Algorithms whose groups are one object.
const ALGORITHMS: [&str; 2] = ["lz4", "zstd"];
/// Pages of a group.
const GROUPS: [usize; 3] = [2, 4, 16];
/// zstd's level: the driver's default.
const LEVEL: i32 = 3;
/// What a verdict asks of a way: so much denser, and a page read in at most so many times the time.
const DENSER: f64 = 1.1;
const SLOWER: f64 = 2.0;

/// A way on a corpus.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    /// The kind of pages.
    pub corpus: String,
    /// The way.
    pub way: String,
    /// Bytes of pages over bytes of objects; a group that does not become smaller is stored as it is.
    pub density: f64,
    /// The same over that of single pages.
    pub density_gain: f64,
    /// Time to read one page at random, over that of single pages.
    pub read_one: f64,
    /// Time to overwrite one page at random, likewise.
    pub overwrite_one: f64,
    /// Time a page to write a whole group, likewise.
    pub write_all: f64,
    /// Whether it is at least 1.1 times as dense and reads one page in at most twice the time.
    pub worth_it: bool,
}

/// All of it.
#[derive(Debug, Serialize)]
pub struct Units {
    /// Machine, commit.
    #[serde(flatten)]
    pub report: Report,
    /// How to read it.
    pub note: &'static str,
    /// Everything measured.
    pub figures: Vec<Figure>,
}

const NOTE: &str = "Times are medians of quotients within a round, of a page's over those of the same algorithm on \
    single pages. together: a group is one object. by the first: the group's first page is what the others refer to; to \
    overwrite it is to write all of them anew. worth it: at least 1.1 x as dense, and one page read in at most twice \
    the time.";

/// Runs it all; `progress` is told what is under way.
pub fn run(options: &Options, progress: &mut dyn FnMut(&str)) -> Result<Units> {
    progress("collecting pages");
    let corpora = codecs::corpora(options.megabytes)?;
    let names: Vec<_> = corpora.iter().map(|corpus| corpus.name.as_str()).collect();
    let report = Report::new("bench units", names.join("; "));
    let mut figures = Vec::new();
    for corpus in &corpora {
        progress(&corpus.name);
        for algorithm in ALGORITHMS {
            let mut ways = vec![Way::together(algorithm, 1)?];
            for pages in GROUPS {
                ways.push(Way::together(algorithm, pages)?);
                if algorithm == "zstd" {
                    ways.push(Way::by_the_first(pages)?);
                }
            }
            figures.extend(compare(corpus, &mut ways, options)?);
        }
    }
    let note = NOTE;
    Ok(Units {
        report,
        note,
        figures,
    })
}

/// How the pages of a group are stored.
enum Codec<'a> {
    Together(Box<dyn Tfm>),
    ByTheFirst(CCtx<'a>, DCtx<'a>),
}

/// A way of storing groups, and what it stored.
struct Way<'a> {
    name: String,
    pages: usize,
    codec: Codec<'a>,
    /// Objects of all groups, in order: one for each group, or for each page.
    objects: Vec<Vec<u8>>,
    out: Vec<u8>,
    back: Vec<u8>,
}

impl<'a> Way<'a> {
    fn new(name: String, pages: usize, codec: Codec<'a>) -> Way<'a> {
        Way {
            name,
            pages,
            codec,
            objects: Vec::new(),
            out: vec![0; 2 * pages * PAGE],
            back: vec![0; pages * PAGE],
        }
    }

    fn together(algorithm: &str, pages: usize) -> Result<Way<'a>> {
        let none: [(&str, &str); 0] = [];
        let tfm = Registry::builtin()
            .prepare(algorithm, pages * PAGE, none)?
            .tfm()?;
        let name = match pages {
            1 => format!("{algorithm}, single pages"),
            pages => format!("{algorithm}, {pages} together"),
        };
        Ok(Way::new(name, pages, Codec::Together(tfm)))
    }

    fn by_the_first(pages: usize) -> Result<Way<'a>> {
        let mut compress = CCtx::create();
        for parameter in [
            CParameter::CompressionLevel(LEVEL),
            CParameter::ContentSizeFlag(false),
            CParameter::ChecksumFlag(false),
        ] {
            let set = compress.set_parameter(parameter);
            ensure!(set.is_ok(), "zstd refuses {parameter:?}");
        }
        let codec = Codec::ByTheFirst(compress, DCtx::create());
        Ok(Way::new(
            format!("zstd, {pages} by the first"),
            pages,
            codec,
        ))
    }

    /// Bytes that a page takes beyond what our zstd's would: the magic, which other contexts cannot be told to leave out.
    fn overhead(&self) -> usize {
        match self.codec {
            Codec::Together(_) => 0,
            Codec::ByTheFirst(..) => 4,
        }
    }

    /// Compresses a page of a group, or the whole group, into `out`; its length.
    fn compress(&mut self, group: &'a [u8], page: usize) -> usize {
        match &mut self.codec {
            Codec::Together(tfm) => tfm.compress(group, &mut self.out).unwrap_or(usize::MAX),
            Codec::ByTheFirst(context, _) => {
                if page > 0 {
                    context
                        .ref_prefix(&group[..PAGE])
                        .expect("a prefix between frames");
                }
                let page = &group[page * PAGE..][..PAGE];
                context.compress2(&mut self.out[..], page).expect("room")
            }
        }
    }

    /// Reads a page of a group into `back`; where it lies there.
    fn read(&mut self, group: &'a [u8], number: usize, page: usize) -> usize {
        match &mut self.codec {
            Codec::Together(tfm) => {
                let object = &self.objects[number];
                let whole = tfm.decompress(object, &mut self.back);
                assert_eq!(whole, Ok(self.pages * PAGE), "its own object");
                page * PAGE
            }
            Codec::ByTheFirst(_, context) => {
                let object = |page| &self.objects[number * self.pages + page];
                let first = context.decompress(&mut self.back[..PAGE], object(0));
                assert_eq!(first, Ok(PAGE), "its own object");
                if page > 0 {
                    // The same bytes as those that were just decompressed, but of a lifetime that the context can hold.
                    context
                        .ref_prefix(&group[..PAGE])
                        .expect("a prefix between frames");
                    let read = context.decompress(&mut self.back[PAGE..2 * PAGE], object(page));
                    assert_eq!(read, Ok(PAGE), "its own object");
                    return PAGE;
                }
                0
            }
        }
    }

    /// Overwrites a page by itself: the work of it without the copying.
    fn overwrite(&mut self, group: &'a [u8], number: usize, page: usize) {
        let anew = match &self.codec {
            Codec::Together(_) if self.pages == 1 => 0..1,
            Codec::Together(_) => {
                self.read(group, number, page);
                0..1
            }
            Codec::ByTheFirst(..) if page > 0 => page..page + 1,
            // The others refer to it.
            Codec::ByTheFirst(..) => {
                for other in 1..self.pages {
                    self.read(group, number, other);
                }
                0..self.pages
            }
        };
        for page in anew {
            black_box(self.compress(group, page));
        }
    }

    /// Stores all groups. Checks that each page comes back.
    fn fill(&mut self, bytes: &'a [u8]) -> Result<f64> {
        self.objects.clear();
        let mut stored = 0;
        let size = self.pages * PAGE;
        for (number, group) in bytes.chunks_exact(size).enumerate() {
            let objects = match self.codec {
                Codec::Together(_) => 1,
                Codec::ByTheFirst(..) => self.pages,
            };
            for page in 0..objects {
                let len = self.compress(group, page);
                stored += (len - self.overhead()).min(size / objects);
                self.objects.push(self.out[..len].to_vec());
            }
            for page in 0..self.pages {
                let at = self.read(group, number, page);
                let same = self.back[at..][..PAGE] == group[page * PAGE..][..PAGE];
                ensure!(same, "{} loses a page", self.name);
            }
        }
        Ok(bytes.len() as f64 / stored as f64)
    }
}

/// Lets the ways take turns on a corpus; the first is what the others are measured by.
fn compare<'a>(corpus: &'a Corpus, ways: &mut [Way<'a>], options: &Options) -> Result<Vec<Figure>> {
    let largest = GROUPS[GROUPS.len() - 1];
    let bytes = corpus.pages().as_flattened();
    let bytes = &bytes[..bytes.len() / (largest * PAGE) * (largest * PAGE)];
    let pages = bytes.len() / PAGE;
    ensure!(pages > 0, "{} has too few pages", corpus.name);
    let density: Vec<f64> = ways
        .iter_mut()
        .map(|way| way.fill(bytes))
        .collect::<Result<_>>()?;
    // Pages far apart, the same for all.
    let place = |round: usize, n: usize| (round * options.batch + n) * 7919 % pages;
    let batch = options.batch;
    let read_one = turns(ways, options.rounds, |way, round| {
        for n in 0..batch {
            let (number, page, group) = find(bytes, way.pages, place(round, n));
            black_box(way.read(group, number, page));
        }
    });
    let overwrite_one = turns(ways, options.rounds, |way, round| {
        for n in 0..batch {
            let (number, page, group) = find(bytes, way.pages, place(round, n));
            way.overwrite(group, number, page);
        }
    });
    let write_all = turns(ways, options.rounds, |way, round| {
        for n in 0..batch.div_ceil(largest) {
            let at = place(round, n) / largest * largest;
            for first in (at..at + largest).step_by(way.pages) {
                let (_, _, group) = find(bytes, way.pages, first);
                let objects = match way.codec {
                    Codec::Together(_) => 1,
                    Codec::ByTheFirst(..) => way.pages,
                };
                for page in 0..objects {
                    black_box(way.compress(group, page));
                }
            }
        }
    });
    let figure = |(who, way): (usize, &Way<'_>)| {
        let gain = density[who] / density[0];
        let read = read_one.ratio(who, 0);
        Figure {
            corpus: corpus.name.clone(),
            way: way.name.clone(),
            density: density[who],
            density_gain: gain,
            read_one: read,
            overwrite_one: overwrite_one.ratio(who, 0),
            write_all: write_all.ratio(who, 0),
            worth_it: who > 0 && gain >= DENSER && read <= SLOWER,
        }
    };
    Ok(ways.iter().enumerate().map(figure).collect())
}

/// Number, place in it and bytes of the group that a page is in.
fn find(bytes: &[u8], pages: usize, page: usize) -> (usize, usize, &[u8]) {
    let number = page / pages;
    let size = pages * PAGE;
    (number, page % pages, &bytes[number * size..][..size])
}

fn turns<'a>(ways: &mut [Way<'a>], rounds: usize, turn: impl Fn(&mut Way<'a>, usize)) -> Rounds {
    let turn = &turn;
    let mut turns: Vec<_> = ways
        .iter_mut()
        .map(|way| move |round| turn(way, round))
        .collect();
    let mut turns: Vec<&mut dyn FnMut(usize)> = turns
        .iter_mut()
        .map(|turn| turn as &mut dyn FnMut(usize))
        .collect();
    Rounds::run(rounds, &mut turns)
}

impl std::fmt::Display for Units {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut corpus = "";
        for figure in &self.figures {
            if figure.corpus != corpus {
                corpus = &figure.corpus;
                writeln!(
                    f,
                    "\n{corpus:34} {:>8} {:>7} {:>9} {:>10} {:>10}",
                    "density", "gain", "read one", "overwrite", "write all"
                )?;
            }
            writeln!(
                f,
                "  {:32} {:>8.3} {:>7.3} {:>9.2} {:>10.2} {:>10.2}{}",
                figure.way,
                figure.density,
                figure.density_gain,
                figure.read_one,
                figure.overwrite_one,
                figure.write_all,
                if figure.worth_it { "  worth it" } else { "" }
            )?;
        }
        let ways: Vec<&str> = self
            .figures
            .iter()
            .map(|figure| figure.way.as_str())
            .collect();
        writeln!(f, "\nOver all corpora, medians:")?;
        for (at, way) in ways.iter().enumerate() {
            if ways[..at].contains(way) {
                continue;
            }
            let of = |value: fn(&Figure) -> f64| {
                let all = self.figures.iter().filter(|figure| figure.way == *way);
                median(all.map(value).collect())
            };
            writeln!(
                f,
                "  {way:32} gain {:.3}, read one {:.2}, overwrite {:.2}, write all {:.2}",
                of(|x| x.density_gain),
                of(|x| x.read_one),
                of(|x| x.overwrite_one),
                of(|x| x.write_all)
            )?;
        }
        writeln!(f, "\n{}", self.note)
    }
}
