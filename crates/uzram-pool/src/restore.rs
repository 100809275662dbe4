//! Opens an arena that another process left: rebuilds bitmaps, counters, lists and accounts from the live objects.
//! Their owners name them one by one, from any number of threads.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use crate::PAGE;
use crate::class::{CLASS_COUNT, CLASSES, SPAN_BYTES};
use crate::pool::Pool;
use crate::region::Region;
use crate::span::{PageSet, SPAN_PAGES, Span, class_at};

/// `SpanMeta::bin` while a thread prepares the span, and of one that is none. Both are no bin's number.
const PREPARING: u32 = u32::MAX;
const NO_SPAN: u32 = u32::MAX - 1;

/// Why an object cannot be where its owner says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PoolDamage {
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
pub struct PoolRestore {
    pool: Pool,
}

impl Pool {
    /// Starts restoring the pool in `len` bytes of `region` from `base`. Arguments and error are those of
    /// [`Pool::new`].
    pub fn restore(
        region: Arc<Region>,
        base: u64,
        len: u64,
        shards: usize,
    ) -> std::io::Result<PoolRestore> {
        let pool = Pool::new(region, base, len, shards)?;
        Ok(PoolRestore { pool })
    }
}

impl PoolRestore {
    /// Records a live object, whose owner entry is still in place. Each must be named once.
    pub fn add(&self, handle: u64, len: usize) -> Result<(), PoolDamage> {
        let (span, object) = self.find(handle, len)?;
        if span.restore(object) {
            Ok(())
        } else {
            Err(PoolDamage::Twice)
        }
    }

    /// The bytes of an object, noted or not. Nobody writes objects before the pool is made.
    pub fn bytes(&self, handle: u64, len: usize) -> Result<&[u8], PoolDamage> {
        self.find(handle, len)?;
        let offset = self.pool.span_base(0) + handle * 8;
        #[expect(unsafe_code, reason = "a pool that is being made has no objects yet")]
        // SAFETY: `find` saw that the range lies in an object's place and not among a span's books. Objects are written
        // through `Object`s, which nobody has of this pool yet; whoever had the arena before is gone.
        Ok(unsafe { self.pool.region.bytes(offset, len) })
    }

    /// The place of an object of that length at a handle.
    fn find(&self, handle: u64, len: usize) -> Result<(Span<'_>, u32), PoolDamage> {
        let pool = &self.pool;
        let offset = handle * 8;
        let number = offset / SPAN_BYTES as u64;
        if number >= u64::from(pool.spans) {
            return Err(PoolDamage::Outside);
        }
        let number = number as u32;
        let class = self.prepare(number)?;
        let span = pool.span(number, class);
        let object = span.object_at((offset % SPAN_BYTES as u64) as u32);
        let fits = (1..=span.class.size as usize).contains(&len);
        let object = object.filter(|_| fits).ok_or(PoolDamage::Misplaced)?;
        Ok((span, object))
    }

    /// The span's class. The first caller clears its bitmap, which the last process may have left in any state.
    fn prepare(&self, number: u32) -> Result<usize, PoolDamage> {
        let pool = &self.pool;
        let bin = &pool.metas()[number as usize].bin;
        loop {
            match bin.load(Acquire) {
                0 => {}
                PREPARING => {
                    std::hint::spin_loop();
                    continue;
                }
                NO_SPAN => return Err(PoolDamage::NoSpan),
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

    /// As [`Pool::keep_stock`]: resident pages stay as stock, so that the pool works before the system has given any
    /// memory.
    pub fn keep_stock(&mut self, reserve_bytes: u64) {
        self.pool.keep_stock(reserve_bytes);
    }

    /// Ends restoring: everything that was not named is free, and its memory goes back to the system (or into the
    /// stock).
    pub fn finish(self) -> Pool {
        let pool = self.pool;
        let resident = pool.resident();
        // Backwards, so that the lowest spans are taken first.
        for number in (0..pool.fresh.load(Relaxed)).rev() {
            let meta = &pool.metas()[number as usize];
            let Some(index) = (meta.bin.load(Relaxed) as usize).checked_sub(1) else {
                continue;
            };
            let span = pool.span(number, index % CLASS_COUNT);
            span.recount();
            let mut keep = span.live_pages();
            if pool.has_stock() {
                let resident = resident.get(&number).copied().unwrap_or_default();
                keep.iter_mut()
                    .zip(resident)
                    .for_each(|(keep, more)| *keep |= more);
            }
            pool.note_pages(number, keep);
            let objects = CLASSES[index % CLASS_COUNT].objects;
            pool.lock(index).link(pool.metas(), number, objects);
        }
        for (number, pages) in resident.iter().rev() {
            let meta = &pool.metas()[*number as usize];
            if meta.bin.load(Relaxed) == 0 && *pages == ALL && pool.wants_stocked_span() {
                pool.note_pages(*number, ALL);
                pool.fresh.fetch_max(number + 1, Relaxed);
                pool.put_stocked_span(*number);
                continue;
            }
            pool.release_absent(*number, *pages);
        }
        for number in (0..pool.fresh.load(Relaxed)).rev() {
            let meta = &pool.metas()[number as usize];
            let empty = meta.pages.iter().all(|word| word.load(Relaxed) == 0);
            if meta.bin.load(Relaxed) == 0 && empty {
                pool.clean.push(pool.metas(), number);
            }
        }
        pool.reset_peak();
        pool
    }
}

/// All pages of a span.
const ALL: PageSet = [u64::MAX; _];

impl Pool {
    /// Enters pages that are in memory into the account.
    fn note_pages(&self, number: u32, pages: PageSet) {
        let meta = &self.metas()[number as usize];
        for (word, pages) in meta.pages.iter().zip(pages) {
            word.store(pages, Relaxed);
            self.used_pages
                .fetch_add(pages.count_ones().into(), Relaxed);
        }
    }

    /// Which pages of which spans are in memory.
    fn resident(&self) -> BTreeMap<u32, PageSet> {
        let mut spans: BTreeMap<u32, PageSet> = BTreeMap::new();
        let arena = self.span_base(0)..self.span_base(self.spans);
        let page = PAGE as u64;
        for (offset, len) in self.region.data_ranges(arena.start, arena.end) {
            for at in (offset - arena.start) / page..(offset - arena.start + len) / page {
                let (number, at) = (at / SPAN_PAGES as u64, at % SPAN_PAGES as u64);
                let pages = spans.entry(number as u32).or_default();
                pages[at as usize / 64] |= 1 << (at % 64);
            }
        }
        spans
    }
}
