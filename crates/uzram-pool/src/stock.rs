//! Keeps memory in stock for devices that serve as swap. There an allocation that asks the system for memory can
//! deadlock: the system may swap out to make room, and swapping out waits for the allocation. With a stock an
//! allocation takes an object whose pages are resident, or fails at once. A thread that no request waits for refills
//! the stock ([`Pool::restock`]).
//!
//! Each bin keeps some free objects resident, more of them the faster they were taken lately. A reserve absorbs
//! bursts. Three quarters of it are whole spans; a class in demand takes one, since a span of small objects stores
//! many times its size of swapped pages. The rest is objects of the whole-page class, which fit any object.
//!
//! Pages in stock count as memory in use: they are exactly the accounted pages that no object touches.
//!
//! An allocation that finds nothing may wait a moment for the refill ([`Pool::wait_for_stock`]), but only once while
//! no progress is made: a pool that gets no memory refuses at once.

use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::thread::futex;

use crate::PAGE;
use crate::alloc::Want;
use crate::bin::FreeStack;
use crate::class::{CLASS_COUNT, CLASSES, SPAN_BYTES};
use crate::object::{Error, Object};
use crate::pool::Pool;
use crate::span::{LISTED, PageSet, SPAN_PAGES, runs};

/// The class that takes any object.
const ANY: usize = CLASS_COUNT - 1;
/// Most memory that is brought in ahead for a bin other than the reserve's, in bytes.
const MAX_AHEAD: u64 = 4 << 20;
/// Longest wait of a request while the stock is low.
const MAX_PAUSE: Duration = Duration::from_millis(100);
/// Pages that are brought in at a time.
const CHUNK_PAGES: usize = 16;
/// Spans that an allocation looks at before it takes from the reserve.
const LOOKS: usize = 32;
/// Objects that a class takes from the reserve's pages before it gets one of its spans.
const IN_DEMAND: u32 = 16;

/// What a pool with a stock keeps.
#[derive(Default)]
pub(crate) struct Stock {
    /// Free objects of the whole-page class, for each shard.
    pages: u32,
    /// Free spans whose pages are all resident, and the target number of them.
    spans: FreeStack,
    spans_in_stock: AtomicU32,
    spans_wanted: u32,
    /// A span that is resident in part.
    begun: Mutex<Option<u32>>,
    /// A futex: not 0, and woken, once an allocation missed its own class.
    bell: AtomicU32,
    /// Incremented whenever memory was brought in.
    progress: AtomicU32,
    /// The value of `progress` at which the last wait was in vain.
    in_vain: AtomicU32,
}

/// What [`Pool::restock`] found and did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Restocked {
    /// Objects allocated since the last call.
    pub taken: u64,
    /// Whether the stock reached its targets; `false` where the limit, the arena or the system refused memory.
    pub whole: bool,
}

/// Asked before each batch of pages: can the system give them without reclaiming first?
pub type Gate<'a> = &'a dyn Fn() -> bool;

/// What a bin lacks.
struct StockWork {
    /// `None`: a new span.
    span: Option<u32>,
    pages: PageSet,
    /// Objects still missing.
    missing: u32,
}

impl Pool {
    /// Makes allocations take memory from a stock from now on. `reserve_bytes` of it, rounded up to a page for each
    /// shard, serve any object. The stock is empty until the first [`Pool::restock`].
    pub fn keep_stock(&mut self, reserve_bytes: u64) {
        let spans = reserve_bytes / 4 * 3 / SPAN_BYTES as u64;
        let rest = reserve_bytes - spans * SPAN_BYTES as u64;
        let pages = rest.div_ceil(PAGE as u64).div_ceil(self.shards as u64);
        self.stock = Some(Stock {
            pages: pages.clamp(1, u64::from(u32::MAX)) as u32,
            spans_wanted: spans.min(u64::from(u32::MAX)) as u32,
            in_vain: AtomicU32::new(u32::MAX),
            ..Stock::default()
        });
    }

    /// Whether allocations take memory from a stock.
    pub fn has_stock(&self) -> bool {
        self.stock.is_some()
    }

    /// Takes a resident object: of its own class, or of the reserve.
    pub(crate) fn alloc_from_stock(
        &self,
        stock: &Stock,
        own: usize,
        want: Want,
    ) -> Result<Object, Error> {
        let Want {
            class, len, owner, ..
        } = want;
        if let Some(object) = self.take_in_memory(own, len, owner) {
            return Ok(object);
        }
        stock.ring();
        let from_pages = || {
            (0..self.shards).find_map(|distance| {
                let shard = (own / CLASS_COUNT + distance) % self.shards;
                self.take_in_memory(shard * CLASS_COUNT + ANY, len, owner)
            })
        };
        let from_spans = || {
            let number = self.take_stocked_span(stock)?;
            // Its pages are all accounted for: nothing is refused.
            self.adopt(&mut self.lock(own), own, number, false).ok()?;
            self.take_in_memory(own, len, owner)
        };
        let in_demand = class == ANY || self.lock(own).taken > IN_DEMAND;
        let object = if in_demand {
            from_spans().or_else(from_pages)
        } else {
            from_pages().or_else(from_spans)
        };
        object.ok_or_else(|| Error::OutOfStock {
            used_bytes: self.used_bytes(),
        })
    }

    fn take_stocked_span(&self, stock: &Stock) -> Option<u32> {
        let number = stock.spans.pop(self.metas())?;
        stock.spans_in_stock.fetch_sub(1, Relaxed);
        Some(number)
    }

    fn take_in_memory(&self, index: usize, len: usize, owner: u32) -> Option<Object> {
        let class = index % CLASS_COUNT;
        let mut bin = self.lock(index);
        bin.taken = bin.taken.saturating_add(1);
        let (number, object) = bin.spans(self.metas()).take(LOOKS).find_map(|number| {
            let span = self.span(number, class);
            let first = span.find_free();
            let object = if span.is_in_used_pages(first) {
                Some(first)
            } else {
                span.find_free_in_used_pages()
            };
            Some((number, object?))
        })?;
        let span = self.span(number, class);
        Some(self.take_object(&mut bin, &span, number, object, len, owner))
    }

    /// Refills the stock as far as `gate` allows. May block on reclaim, so never on a path that a request waits for.
    pub fn restock(&self, gate: Gate<'_>) -> Restocked {
        let mut result = Restocked {
            taken: 0,
            whole: true,
        };
        let Some(stock) = &self.stock else {
            return result;
        };
        let _trimming = self.trimming.lock().unwrap_or_else(PoisonError::into_inner);
        while stock.spans_in_stock.load(Relaxed) < stock.spans_wanted {
            if !self.stock_span(stock, gate) {
                result.whole = false;
                break;
            }
        }
        for index in 0..self.bins.len() {
            let target = {
                let mut bin = self.lock(index);
                let taken = std::mem::take(&mut bin.taken);
                result.taken += u64::from(taken);
                bin.target = stock.target(index % CLASS_COUNT, taken, bin.target);
                bin.target
            };
            while let Some(work) = self.missing(index, target) {
                if !self.bring_in(index, work, gate) {
                    result.whole = false;
                    break;
                }
                stock.note_progress();
            }
        }
        result
    }

    /// Makes a whole span resident and accounts for it; continues where the last call stopped.
    fn stock_span(&self, stock: &Stock, gate: Gate<'_>) -> bool {
        let mut begun = stock.begun.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(number) = begun.take().or_else(|| self.take_span().ok()) else {
            return false;
        };
        let span = self.span(number, ANY);
        let all: PageSet = [u64::MAX; _];
        let got = self.populate(number, all, gate);
        if self.account(&span, got, false).is_err() {
            self.release_absent(number, got);
            self.push_free(number, span.meta);
            return false;
        }
        if got != all {
            *begun = Some(number);
            return false;
        }
        self.put_stocked_span(number);
        stock.note_progress();
        true
    }

    /// Clears the spans in stock: they may have held objects before. The caller holds `trimming`.
    pub(crate) fn erase_stock(&self) {
        let Some(stock) = &self.stock else {
            return;
        };
        let mut begun = stock.begun.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = std::iter::from_fn(|| self.take_stocked_span(stock));
        let numbers: Vec<u32> = taken.collect();
        let erase = |number: u32| {
            let meta = &self.metas()[number as usize];
            let pages = std::array::from_fn(|word| meta.pages[word].load(Relaxed));
            for (first, len) in runs(&pages) {
                let at = self.span_base(number) + (first * PAGE) as u64;
                self.region.clear(at, len * PAGE);
            }
        };
        begun.iter_mut().for_each(|number| erase(*number));
        for number in numbers {
            erase(number);
            self.put_stocked_span(number);
        }
    }

    /// Whether the stock lacks a resident span.
    pub(crate) fn wants_stocked_span(&self) -> bool {
        let wants = |stock: &Stock| stock.spans_in_stock.load(Relaxed) < stock.spans_wanted;
        self.stock.as_ref().is_some_and(wants)
    }

    /// Puts a free span into the stock, whose pages are all resident and accounted for.
    pub(crate) fn put_stocked_span(&self, number: u32) {
        if let Some(stock) = &self.stock {
            stock.spans.push(self.metas(), number);
            stock.spans_in_stock.fetch_add(1, Relaxed);
        }
    }

    /// Makes pages resident as far as the gate and the system allow; returns those that are.
    fn populate(&self, number: u32, pages: PageSet, gate: Gate<'_>) -> PageSet {
        let meta = &self.metas()[number as usize];
        let mut got = PageSet::default();
        for ((got, wanted), have) in got.iter_mut().zip(pages).zip(&meta.pages) {
            *got = wanted & have.load(Relaxed);
        }
        for chunk in 0..SPAN_PAGES / CHUNK_PAGES {
            let (word, shift) = (chunk * CHUNK_PAGES / 64, chunk * CHUNK_PAGES % 64);
            let mut missing = PageSet::default();
            missing[word] = pages[word] & !got[word] & ((1 << CHUNK_PAGES) - 1) << shift;
            if missing[word] == 0 {
                continue;
            }
            let brought = gate()
                && runs(&missing).all(|(first, len)| {
                    let at = self.span_base(number) + (first * PAGE) as u64;
                    self.region.populate(at, (len * PAGE) as u64).is_ok()
                });
            if !brought {
                break;
            }
            got[word] |= missing[word];
        }
        got
    }

    /// What the bin's next span with free objects lacks, if fewer than `target` free objects are resident.
    fn missing(&self, index: usize, target: u32) -> Option<StockWork> {
        let class = index % CLASS_COUNT;
        let bin = self.lock(index);
        let mut missing = target;
        for number in bin.spans(self.metas()) {
            if missing == 0 {
                break;
            }
            let span = self.span(number, class);
            let mut pages = PageSet::default();
            let mut absent = false;
            for object in span.free_objects().take(missing as usize) {
                missing -= 1;
                if !span.is_in_used_pages(object) {
                    absent = true;
                    span.add_pages_of(&mut pages, object);
                }
            }
            if absent {
                return Some(StockWork {
                    span: Some(number),
                    pages,
                    missing,
                });
            }
        }
        (missing > 0).then(|| StockWork {
            span: None,
            pages: PageSet::default(),
            missing,
        })
    }

    /// Makes pages resident and then, under the bin's lock, accounts for them. `false`: not all of them.
    fn bring_in(&self, index: usize, work: StockWork, gate: Gate<'_>) -> bool {
        let class = index % CLASS_COUNT;
        let Some(number) = work.span.or_else(|| self.take_span().ok()) else {
            return false;
        };
        let span = self.span(number, class);
        let mut pages = work.pages;
        if work.span.is_none() {
            pages = span.pages_of_bitmap();
            (0..work.missing.min(span.class.objects))
                .for_each(|object| span.add_pages_of(&mut pages, object));
        }
        let got = self.populate(number, pages, gate);
        let mut bin = self.lock(index);
        let owned = match work.span {
            // A span goes only when it is trimmed, and trimming waits.
            Some(_) => true,
            None => {
                let bitmap = span.pages_of_bitmap();
                let ready = bitmap.iter().zip(got).all(|(want, got)| want & !got == 0);
                if !ready {
                    self.push_free(number, span.meta);
                }
                // Puts the span back itself if the account has no room.
                ready && self.adopt(&mut bin, index, number, false).is_ok()
            }
        };
        if owned && self.account(&span, got, false).is_ok() {
            return got == pages;
        }
        drop(bin);
        self.release_absent(number, got);
        false
    }

    /// Gives back pages that are resident but in no account. The caller holds `trimming`, so that nobody else brings
    /// any in, or has the pool to itself.
    pub(crate) fn release_absent(&self, number: u32, pages: PageSet) {
        let meta = &self.metas()[number as usize];
        let mut gone = pages;
        for (gone, pages) in gone.iter_mut().zip(&meta.pages) {
            *gone &= !pages.load(Relaxed);
        }
        for (first, len) in runs(&gone) {
            let at = self.span_base(number) + (first * PAGE) as u64;
            self.region.release(at, (len * PAGE) as u64);
        }
    }

    /// Gives back free memory beyond the stock's targets. The caller holds `trimming`.
    pub(crate) fn trim_to_stock(&self) -> u64 {
        let mut left: Vec<u32> = (0..self.bins.len())
            .map(|index| self.lock(index).target)
            .collect();
        let mut bytes = 0;
        for (number, meta) in self.metas().iter().enumerate().take(self.touched_spans()) {
            let Some(index) = (meta.bin.load(Relaxed) as usize).checked_sub(1) else {
                continue;
            };
            let mut bin = self.lock(index);
            if meta.bin.load(Relaxed) as usize != index + 1 {
                continue;
            }
            let span = self.span(number as u32, index % CLASS_COUNT);
            let mut keep = span.live_pages();
            let before = left[index];
            let stocked = span
                .free_objects()
                .filter(|object| span.is_in_used_pages(*object));
            for object in stocked.take(before as usize) {
                left[index] -= 1;
                span.add_pages_of(&mut keep, object);
            }
            let empty = meta.used.load(Relaxed) == 0 && left[index] == before;
            if empty {
                bin.unlink(self.metas(), number as u32, 0, span.class.objects);
                meta.state.store(LISTED, Relaxed);
                meta.bin.store(0, Relaxed);
                keep = PageSet::default();
            }
            let gone = self.forget_pages(number as u32, keep);
            drop(bin);
            // No allocation waits for the system here: the pages are in no account, and only the holder of `trimming`
            // brings pages in.
            bytes += self.release_forgotten(number as u32, gone);
            if empty {
                self.clean.push(self.metas(), number as u32);
            }
        }
        bytes
    }

    /// Waits until an allocation misses its class in the stock, at most for `patience`.
    pub fn wait_for_demand(&self, patience: Duration) {
        let Some(stock) = &self.stock else {
            std::thread::sleep(patience);
            return;
        };
        let limit = futex::Timespec::try_from(patience).ok();
        let _ = futex::wait(&stock.bell, futex::Flags::PRIVATE, 0, limit.as_ref());
        stock.bell.store(0, Relaxed);
    }

    /// Throttles a request that is about to store `pages` pages: while the stock is low it waits a moment for each,
    /// but not past the next refill.
    ///
    /// Without it swapping can stop for good. Memory becomes free as swapping goes on; if the stock runs out before
    /// the refilling thread gets some of it, every write fails, nothing becomes free, and that thread waits for ever.
    /// Slow writes still free memory, many pages for each page of stock.
    pub fn ease_off(&self, pages: u32) {
        let Some(stock) = &self.stock else {
            return;
        };
        let have = stock.spans_in_stock.load(Relaxed);
        if have.saturating_mul(4) >= stock.spans_wanted {
            return;
        }
        let pause = Duration::from_micros(if have == 0 { 1000 } else { 100 }) * pages;
        let seen = stock.progress.load(Acquire);
        stock.ring();
        stock.wait_for_progress(seen, pause.min(MAX_PAUSE));
    }

    /// Waits after [`Error::OutOfStock`] until memory was brought in, for a bounded time, and not at all if a wait
    /// was in vain since the last refill. Returns whether to try again.
    pub fn wait_for_stock(&self, patience: Duration) -> bool {
        let Some(stock) = &self.stock else {
            return false;
        };
        let seen = stock.progress.load(Acquire);
        if stock.in_vain.load(Relaxed) == seen {
            return false;
        }
        stock.ring();
        stock.wait_for_progress(seen, patience);
        let progress = stock.progress.load(Acquire) != seen;
        if !progress {
            stock.in_vain.store(seen, Relaxed);
        }
        progress
    }

    /// Makes the pool's own metadata resident, so that no request has to.
    pub fn populate_books(&self) -> std::io::Result<()> {
        self.metas_region().populate(0, self.metas_region().len())
    }
}

impl Stock {
    /// The target of resident free objects for a bin that gave out `taken` since the last look. A class in use keeps
    /// at least a page ahead; the target halves from look to look.
    fn target(&self, class: usize, taken: u32, before: u32) -> u32 {
        let size = CLASSES[class].size;
        let reserve = if class == ANY { self.pages } else { 0 };
        let used = taken > 0 || before > reserve;
        let least = if used { (PAGE as u32 / size).max(1) } else { 0 };
        let most = (MAX_AHEAD / u64::from(size)) as u32;
        let ahead = taken
            .saturating_mul(2)
            .max((before - reserve.min(before)) / 2);
        reserve + ahead.clamp(least, most.max(least))
    }

    /// Wakes the refilling thread, once.
    fn ring(&self) {
        if self.bell.swap(1, Relaxed) == 0 {
            let _ = futex::wake(&self.bell, futex::Flags::PRIVATE, 1);
        }
    }

    /// Waits for progress since `seen`, at most for `patience`.
    fn wait_for_progress(&self, seen: u32, patience: Duration) {
        let limit = futex::Timespec::try_from(patience).ok();
        let _ = futex::wait(&self.progress, futex::Flags::PRIVATE, seen, limit.as_ref());
    }

    /// Wakes requests that wait for memory.
    fn note_progress(&self) {
        self.progress.fetch_add(1, AcqRel);
        let _ = futex::wake(&self.progress, futex::Flags::PRIVATE, i32::MAX as u32);
    }
}

const _: () = assert!(SPAN_BYTES as u64 <= MAX_AHEAD);
