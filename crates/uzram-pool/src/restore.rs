//! Making a pool of an arena that another process left: bitmaps, counters, lists and accounts are rebuilt from the
//! live objects, which whoever refers to them names one by one, from as many threads as it likes.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use crate::PAGE;
use crate::class::{CLASS_COUNT, CLASSES, SPAN_BYTES};
use crate::pool::Pool;
use crate::region::Region;
use crate::span::{PageSet, SPAN_PAGES, class_at, runs};

/// `SpanMeta::bin` while a thread prepares the span, and of one that is none. Both are no bin's number.
const PREPARING: u32 = u32::MAX;
const NO_SPAN: u32 = u32::MAX - 1;

/// Why an object cannot be where its owner says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// The handle is outside the arena.
    #[error("its object lies outside the arena")]
    Outside,
    /// The span that it lies in has no valid head.
    #[error("its object lies in no span")]
    NoSpan,
    /// No object of the span's class begins there, or none of that length.
    #[error("its object does not fit its span")]
    Misplaced,
    /// Another owner named the same object.
    #[error("its object is another page's, too")]
    Twice,
}

/// A pool that is being restored.
pub struct Restore {
    pool: Pool,
}

impl Pool {
    /// Begins to make a pool of `len` bytes of `region` from `base`, as they were left. The arguments and the error are
    /// those of [`Pool::new`].
    pub fn restore(
        region: Arc<Region>,
        base: u64,
        len: u64,
        shards: usize,
    ) -> std::io::Result<Restore> {
        let pool = Pool::new(region, base, len, shards)?;
        Ok(Restore { pool })
    }
}

impl Restore {
    /// Notes a live object, whose owner stands where it was put. Each must be named once.
    pub fn add(&self, handle: u64, len: usize) -> Result<(), Damage> {
        let pool = &self.pool;
        let offset = handle * 8;
        let number = offset / SPAN_BYTES as u64;
        if number >= u64::from(pool.spans) {
            return Err(Damage::Outside);
        }
        let number = number as u32;
        let class = self.prepare(number)?;
        let span = pool.span(number, class);
        let object = span.object_at((offset % SPAN_BYTES as u64) as u32);
        let fits = (1..=span.class.size as usize).contains(&len);
        let object = object.filter(|_| fits).ok_or(Damage::Misplaced)?;
        if span.restore(object) {
            Ok(())
        } else {
            Err(Damage::Twice)
        }
    }

    /// The span's class. Who comes first empties its bitmap, which the last process may have left in any state.
    fn prepare(&self, number: u32) -> Result<usize, Damage> {
        let pool = &self.pool;
        let bin = &pool.metas()[number as usize].bin;
        loop {
            match bin.load(Acquire) {
                0 => {}
                PREPARING => {
                    std::hint::spin_loop();
                    continue;
                }
                NO_SPAN => return Err(Damage::NoSpan),
                index => return Ok((index as usize - 1) % CLASS_COUNT),
            }
            if bin
                .compare_exchange(0, PREPARING, Acquire, Relaxed)
                .is_err()
            {
                continue;
            }
            let Some(class) = class_at(&pool.region, pool.span_base(number)) else {
                bin.store(NO_SPAN, Release);
                continue;
            };
            pool.span(number, class).format(class);
            pool.fresh.fetch_max(number + 1, Relaxed);
            let index = number as usize % pool.shards * CLASS_COUNT + class;
            // Release: who sees the bin sees the empty bitmap.
            bin.store(index as u32 + 1, Release);
        }
    }

    /// All live objects were named: everything else is free, and its memory goes back to the system.
    pub fn finish(self) -> Pool {
        let pool = self.pool;
        let mut used = 0;
        for number in (0..pool.fresh.load(Relaxed)).rev() {
            let meta = &pool.metas()[number as usize];
            let Some(index) = (meta.bin.load(Relaxed) as usize).checked_sub(1) else {
                pool.clean.push(pool.metas(), number);
                continue;
            };
            let span = pool.span(number, index % CLASS_COUNT);
            span.recount();
            for (word, live) in meta.pages.iter().zip(span.live_pages()) {
                word.store(live, Relaxed);
                used += u64::from(live.count_ones());
            }
            let objects = CLASSES[index % CLASS_COUNT].objects;
            pool.lock(index).link(pool.metas(), number, objects);
        }
        pool.used_pages.store(used, Relaxed);
        pool.reset_peak();
        pool.release_garbage();
        pool
    }
}

impl Pool {
    /// Gives back the memory of the arena that is not accounted for.
    fn release_garbage(&self) {
        let arena = self.span_base(0)..self.span_base(self.spans);
        let page = PAGE as u64;
        for (offset, len) in self.region.data_ranges(arena.start, arena.end) {
            let pages = (offset - arena.start) / page..(offset - arena.start + len) / page;
            let per_span = SPAN_PAGES as u64;
            for number in pages.start / per_span..pages.end.div_ceil(per_span) {
                let meta = &self.metas()[number as usize];
                let first = pages.start.max(number * per_span) % per_span;
                let last = pages.end.min((number + 1) * per_span) - number * per_span;
                let mut gone = PageSet::default();
                for at in first..last {
                    let live = meta.pages[at as usize / 64].load(Relaxed) >> (at % 64) & 1;
                    gone[at as usize / 64] |= (1 - live) << (at % 64);
                }
                for (first, len) in runs(&gone) {
                    let at = self.span_base(number as u32) + (first * PAGE) as u64;
                    self.region.release(at, (len * PAGE) as u64);
                }
            }
        }
    }
}
