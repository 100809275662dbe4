//! Erasing: objects are overwritten with zeros as they are freed, so that what was stored does not stay readable in
//! the arena. Off unless [`Pool::set_erase`] turns it on.
//!
//! An object is erased over all of its class's bytes, under its bin's lock and before it counts as free, so that every
//! free byte of a page in use is zero from then on. Whoever turns erasing on clears once what was freed before
//! ([`Pool::erase_free`], and [`Pool::erase_behind`] for what lies behind live objects). A process that dies leaves at
//! most objects that nobody names: who restores the pool clears them in the same way.

use std::sync::PoisonError;
use std::sync::atomic::Ordering::Relaxed;

use crate::PAGE;
use crate::class::{CLASS_COUNT, SPAN_BYTES};
use crate::pool::Pool;
use crate::span::Span;

impl Pool {
    /// Whether objects are erased from now on as they are freed.
    pub fn set_erase(&self, on: bool) {
        self.erase.store(on, Relaxed);
    }

    /// Whether objects are erased as they are freed.
    pub fn erases(&self) -> bool {
        self.erase.load(Relaxed)
    }

    /// Clears every byte of pages in use that belongs neither to a live object nor to the pool's books. Holds each bin
    /// with such bytes for as long as one span takes, some tens of microseconds.
    pub fn erase_free(&self) {
        let _trimming = self.trimming.lock().unwrap_or_else(PoisonError::into_inner);
        self.release_free_spans();
        for (number, meta) in self.metas().iter().enumerate().take(self.touched_spans()) {
            let Some(index) = (meta.bin.load(Relaxed) as usize).checked_sub(1) else {
                continue;
            };
            let Some(_bin) = self.bins.get(index).map(|_| self.lock(index)) else {
                continue;
            };
            if meta.bin.load(Relaxed) as usize == index + 1 {
                self.span(number as u32, index % CLASS_COUNT).erase_free();
            }
        }
        self.erase_stock();
    }

    /// Clears what lies between the end of a live object of `len` bytes and that of its class.
    ///
    /// # Safety
    /// `handle` is that of a live object of this pool, and the caller keeps it from being freed meanwhile.
    #[expect(unsafe_code, reason = "declares the duty that erasing rests on")]
    pub unsafe fn erase_behind(&self, handle: u64, len: usize) {
        let Some((number, index, offset)) = self.place_of(handle) else {
            return;
        };
        let span = self.span(number, index % CLASS_COUNT);
        let rest = (span.class.size as usize).saturating_sub(len);
        span.erase(offset as usize + len, rest);
    }
}

impl Span<'_> {
    /// Clears an object that is about to be free. The caller owns it, and holds the bin.
    pub(crate) fn erase_object(&self, object: u32) {
        self.erase(self.offset_of(object) as usize, self.class.size as usize);
    }

    /// Clears what is neither in use nor books, in pages that are accounted for. The caller holds the bin.
    fn erase_free(&self) {
        let class = self.class;
        let (owners, first) = (class.owners + class.objects * 4, class.first);
        self.erase_in_used_pages(owners as usize, (first - owners) as usize);
        for object in self.free_objects() {
            self.erase_in_used_pages(self.offset_of(object) as usize, class.size as usize);
            // A span of another class may have had an object where the owners are now.
            self.erase_in_used_pages((class.owners + object * 4) as usize, 4);
        }
        let end = (class.first + class.objects * class.size) as usize;
        self.erase_in_used_pages(end, SPAN_BYTES - end);
    }

    /// Clears that part of a range that lies in pages that are accounted for: others are not in memory.
    fn erase_in_used_pages(&self, offset: usize, len: usize) {
        let (mut at, end) = (offset, offset + len);
        while at < end {
            let page = at / PAGE;
            let next = end.min((page + 1) * PAGE);
            if self.meta.pages[page / 64].load(Relaxed) >> (page % 64) & 1 == 1 {
                self.erase(at, next - at);
            }
            at = next;
        }
    }
}
