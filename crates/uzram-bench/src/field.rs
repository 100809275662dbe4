//! Stores of pages beside each other: all hold the same pages, and take turns in writing and reading them.

use std::hint::black_box;

use anyhow::{Context, Result, ensure};

use crate::corpus::PAGE;
use crate::holder::{Holder, Pages};
use crate::lab::Amount;
use crate::measure::{Rounds, turn};

/// Same-filled pages on a device of the kernel's: the block layer alone.
pub(crate) const BLOCK_LAYER: &str = "kernel, same-filled pages";

/// All contestants, holding the pages of a corpus.
pub(crate) struct Field<'a> {
    corpus: &'a str,
    pub(crate) pages: &'a Pages,
    /// Only contestants whose name contains this.
    only: &'a str,
    /// Everybody's name, also of those who are not wanted.
    names: Vec<String>,
    holders: Vec<(String, Box<dyn Holder>)>,
    /// Ratios of data to objects and to all memory, of large devices.
    ratios: Vec<(String, [f64; 2])>,
    /// Who cannot take part, and why.
    pub(crate) left_out: Vec<String>,
}

impl<'a> Field<'a> {
    /// A field without contestants.
    pub(crate) fn new(corpus: &'a str, pages: &'a Pages, only: &'a str) -> Field<'a> {
        Field {
            corpus,
            pages,
            only,
            names: Vec::new(),
            holders: Vec::new(),
            ratios: Vec::new(),
            left_out: Vec::new(),
        }
    }

    /// Fills a contestant and adds it. One that cannot be made is left out.
    pub(crate) fn add<H: Holder + 'static>(
        &mut self,
        name: String,
        make: impl FnOnce() -> Result<H>,
    ) -> Result<()> {
        self.names.push(name.clone());
        if !name.contains(self.only) {
            return Ok(());
        }
        match make() {
            Ok(mut holder) => {
                let filled = fill(&mut holder, self.pages, self.pages.pages().len());
                filled.with_context(|| format!("{name}, {}", self.corpus))?;
                holder.filled();
                self.holders.push((name, Box::new(holder)));
            }
            Err(error) => self.left_out.push(format!("{name}: {error:#}")),
        }
        Ok(())
    }

    /// Adds a contestant that holds the pages already, `count` with those that come again.
    pub(crate) fn add_filled(
        &mut self,
        name: &str,
        count: usize,
        holder: impl Holder + 'static,
    ) -> Result<()> {
        self.ratios.push((name.into(), ratios(count, &holder)?));
        self.holders.push((name.into(), Box::new(holder)));
        Ok(())
    }

    /// Fills a large device to measure its memory.
    pub(crate) fn weigh(
        &mut self,
        name: &str,
        count: usize,
        mut holder: impl Holder,
    ) -> Result<()> {
        fill(&mut holder, self.pages, count)?;
        self.ratios.push((name.into(), ratios(count, &holder)?));
        Ok(())
    }

    /// Reads all pages back, and leaves out whoever loses one. Somebody has to be left.
    pub(crate) fn check(&mut self) -> Result<()> {
        let (corpus, pages, left_out) = (self.corpus, self.pages, &mut self.left_out);
        self.holders.retain_mut(|(name, holder)| {
            if name == BLOCK_LAYER {
                return true;
            }
            let lost = lost(&mut **holder, pages);
            if lost > 0 {
                let of = pages.pages().len();
                left_out.push(format!("{name}: loses {lost} of {of} pages, {corpus}"));
            }
            lost == 0
        });
        ensure!(
            !self.holders.is_empty(),
            "no contestant's name contains '{}'; there are: {}",
            self.only,
            self.names.join(", ")
        );
        Ok(())
    }

    /// What does not depend on the rounds, of a contestant.
    fn participant(&self, name: &str, holder: &dyn Holder) -> Result<Participant> {
        let of_large = self.ratios.iter().find(|(of, _)| of == name);
        let count = self.pages.pages().len();
        let [ratio, memory_ratio] = match of_large {
            Some((_, ratios)) => *ratios,
            None => ratios(count, holder)?,
        };
        let by_kernel = (count * PAGE) as f64 / holder.object_bytes_by_kernel()?;
        let finite = |ratio: f64| Some(ratio).filter(|ratio| ratio.is_finite());
        Ok(Participant {
            name: name.into(),
            write: None,
            read: 0,
            ratio: finite(ratio),
            kernel_ratio: finite(by_kernel),
            memory_ratio: finite(memory_ratio),
            context_bytes: holder.context_bytes(),
        })
    }

    /// Lets those of whom `takes_part` says so take turns, with requests of so many pages, whose numbers are `order`: a
    /// batch of them in a turn.
    pub(crate) fn turns(
        &mut self,
        request: usize,
        (order, stride): (&[usize], usize),
        amount: Amount,
        takes_part: impl Fn(&str) -> bool,
    ) -> Result<Turns<'a>> {
        let pages = self.pages;
        // Batches end where requests do.
        let batch = (amount.batch / request).min(order.len());
        ensure!(batch > 0, "{} has too few pages", self.corpus);
        let turn = |round: usize| {
            let numbers = &order[turn(round, stride, batch, order.len())];
            numbers.iter().map(|number| number * request)
        };
        let (mut written, mut who) = (0, Vec::new());
        let here = self.holders.iter().filter(|(name, _)| takes_part(name));
        for (read, (name, holder)) in here.enumerate() {
            let write = (!holder.is_read_only()).then_some(written);
            written += usize::from(write.is_some());
            let participant = self.participant(name, &**holder)?;
            who.push(Participant {
                write,
                read,
                ..participant
            });
        }
        let here = self.holders.iter_mut();
        let mut here: Vec<_> = here.filter(|(name, _)| takes_part(name)).collect();
        let writable = here.iter_mut().filter(|(_, holder)| !holder.is_read_only());
        let mut writable: Vec<_> = writable.collect();
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
        Ok(Turns {
            corpus: self.corpus,
            who,
            request,
            batch_bytes: batch * request * PAGE,
            write,
            read,
        })
    }
}

/// The rounds of all contestants with requests of one size.
pub(crate) struct Turns<'a> {
    pub(crate) corpus: &'a str,
    pub(crate) who: Vec<Participant>,
    /// Pages of a request.
    pub(crate) request: usize,
    batch_bytes: usize,
    pub(crate) write: Rounds,
    pub(crate) read: Rounds,
}

/// A contestant's index in the rounds, and its ratios. Read-only ones have no index for writing.
pub(crate) struct Participant {
    pub(crate) name: String,
    pub(crate) write: Option<usize>,
    pub(crate) read: usize,
    pub(crate) ratio: Option<f64>,
    /// The ratio by the kernel's rule for huge pages.
    pub(crate) kernel_ratio: Option<f64>,
    pub(crate) memory_ratio: Option<f64>,
    pub(crate) context_bytes: Option<usize>,
}

impl Turns<'_> {
    pub(crate) fn find(&self, name: &str) -> Option<&Participant> {
        self.who.iter().find(|place| place.name == name)
    }

    /// Write and read speed of one over another's. A read-only contestant was written with lz4.
    pub(crate) fn speeds(&self, one: &Participant, other: &Participant) -> Option<[f64; 2]> {
        let written = one.write.or_else(|| self.find("uzram lz4")?.write)?;
        Some([
            self.write.ratio(other.write?, written),
            self.read.ratio(other.read, one.read),
        ])
    }

    /// Write throughput in megabytes a second; `None` for a read-only contestant.
    pub(crate) fn write_mb_s(&self, place: &Participant) -> Option<f64> {
        let rate = |at| self.write.mb_s(at, self.batch_bytes);
        place.write.map(rate)
    }

    /// Read throughput in megabytes a second.
    pub(crate) fn read_mb_s(&self, place: &Participant) -> f64 {
        self.read.mb_s(place.read, self.batch_bytes)
    }
}

/// Writes `count` pages, repeating them as needed.
fn fill(holder: &mut dyn Holder, pages: &Pages, count: usize) -> Result<()> {
    let mut pages = pages.pages().iter().cycle().take(count).enumerate();
    pages.try_for_each(|(number, page)| holder.write(number, page))
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
