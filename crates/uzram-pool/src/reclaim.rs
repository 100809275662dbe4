//! Gives memory back to the system, and reports statistics. No request comes here.

use std::sync::PoisonError;
use std::sync::atomic::Ordering::Relaxed;

use crate::PAGE;
use crate::class::{CLASS_COUNT, CLASSES};
use crate::object::PoolStats;
use crate::pool::Pool;
use crate::span::{PageSet, SpanMeta, runs};

impl Pool {
    /// Gives the memory of all free spans back to the system. Returns the number of bytes.
    pub fn release_free_spans(&self) -> u64 {
        if self.dirty.is_empty() {
            return 0;
        }
        let mut bytes = 0;
        while let Some(number) = self.dirty.pop(self.metas()) {
            bytes += self.release_pages(number, PageSet::default());
            self.clean.push(self.metas(), number);
        }
        bytes
    }

    /// Gives every page without a live object back to the system: free spans, and the holes in others. Each
    /// bin that has such holes is held for the time of a few system calls. Waits for a trim that is under way, and
    /// does nothing if nothing was freed since the last. Returns the number of bytes.
    pub fn trim(&self) -> u64 {
        let _trimming = self.trimming.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.freed.swap(false, Relaxed) {
            return 0;
        }
        let mut bytes = self.release_free_spans();
        if self.stock.is_some() {
            return bytes + self.trim_to_stock();
        }
        for (number, meta) in self.metas().iter().enumerate().take(self.touched_spans()) {
            if meta.freed.load(Relaxed) == 0 {
                continue;
            }
            let Some(index) = (meta.bin.load(Relaxed) as usize).checked_sub(1) else {
                continue;
            };
            // The lock keeps objects from being placed in the pages that are on their way out.
            let _bin = self.lock(index);
            if meta.bin.load(Relaxed) as usize == index + 1 {
                meta.freed.store(0, Relaxed);
                let live = self.span(number as u32, index % CLASS_COUNT).live_pages();
                bytes += self.release_pages(number as u32, live);
            }
        }
        bytes
    }

    /// Gives back the pages of a span that are in use but not in `keep`. The caller owns the span, or holds
    /// its bin.
    fn release_pages(&self, number: u32, keep: PageSet) -> u64 {
        let gone = self.forget_pages(number, keep);
        self.release_forgotten(number, gone)
    }

    /// Removes the pages of a span that are not in `keep` from the account, so that no object is placed there. The
    /// caller owns the span, or holds its bin.
    pub(crate) fn forget_pages(&self, number: u32, keep: PageSet) -> PageSet {
        let meta = &self.metas()[number as usize];
        let mut gone = PageSet::default();
        for (word, (keep, pages)) in keep.iter().zip(&meta.pages).enumerate() {
            gone[word] = pages.load(Relaxed) & !keep;
            pages.store(pages.load(Relaxed) & keep, Relaxed);
        }
        gone
    }

    /// Gives back pages that are out of the account and cannot have been taken again. Returns the bytes.
    pub(crate) fn release_forgotten(&self, number: u32, gone: PageSet) -> u64 {
        let mut count = 0;
        for (first, len) in runs(&gone) {
            let at = self.span_base(number) + (first * PAGE) as u64;
            self.region.release(at, (len * PAGE) as u64);
            count += len as u64;
        }
        self.used_pages.fetch_sub(count, Relaxed);
        count * PAGE as u64
    }

    /// The statistics. Counts objects by walking the spans and waits for nobody: under I/O the parts are of slightly
    /// different moments.
    pub fn stats(&self) -> PoolStats {
        let page = PAGE as u64;
        let mut stats = PoolStats {
            used_bytes: self.used_pages.load(Relaxed) * page,
            peak_bytes: self.peak_pages.load(Relaxed) * page,
            metadata_bytes: self.metadata_bytes(),
            ..PoolStats::default()
        };
        for meta in &self.metas()[..self.touched_spans()] {
            if let Some(bin) = (meta.bin.load(Relaxed) as usize).checked_sub(1) {
                let used = u64::from(meta.used.load(Relaxed));
                stats.spans += 1;
                stats.objects += used;
                stats.object_bytes += used * u64::from(CLASSES[bin % CLASS_COUNT].size);
            }
        }
        stats
    }

    /// The pool's own books outside the arena, in bytes.
    pub fn metadata_bytes(&self) -> u64 {
        let metas = (self.touched_spans() * size_of::<SpanMeta>()).next_multiple_of(PAGE);
        (metas + size_of_val(&*self.bins)) as u64
    }
}
