//! The pool: allocation, freeing and memory accounting.
//!
//! An [`Object`] is the right to one object's bytes: the pool hands out exactly one for each allocation, it can
//! neither be copied nor forged without `unsafe` ([`Pool::object`]), and so reading, writing and freeing are
//! safe calls. Dropping it leaks the object until someone who kept its raw handle makes it anew.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard};

use crossbeam_utils::CachePadded;

use crate::PAGE;
use crate::bin::{Bin, FreeStack};
use crate::class::{CLASS_COUNT, SPAN_BYTES};
use crate::contention::{self, Lock};
use crate::object::{Error, Object};
use crate::region::Region;
use crate::span::{HIDDEN, LISTED, PageSet, Span, SpanMeta};
use crate::stock::Stock;

/// Bits in a handle: an arena of 4 TiB.
const HANDLE_BITS: u32 = 39;
/// Pages for each shard that a limit on the sum leaves free: what callers may take beside each other, and what books
/// grow before their owner tells.
const SPARE_PAGES: u64 = 4;

/// A pool in one arena. All calls take `&self` and may come from any thread.
pub struct Pool {
    pub(crate) region: Arc<Region>,
    /// Where the arena begins in the region.
    base: u64,
    pub(crate) spans: u32,
    /// `SpanMeta` for each span, untouched ones costing nothing.
    metas: Region,
    pub(crate) bins: Box<[CachePadded<Mutex<Bin>>]>,
    pub(crate) shards: usize,
    /// Free spans whose pages are still in use, and those that were given back.
    pub(crate) dirty: FreeStack,
    pub(crate) clean: FreeStack,
    /// Spans from this number on were never used.
    pub(crate) fresh: AtomicU32,
    pub(crate) used_pages: AtomicU64,
    pub(crate) peak_pages: AtomicU64,
    limit_pages: AtomicU64,
    /// Whether the limit is on all memory of the pool's owner, and what of that lies outside of the arena and the pool's
    /// books.
    limits_all: AtomicBool,
    outside_bytes: AtomicU64,
    /// Whether anything was freed since the last trim.
    pub(crate) freed: AtomicBool,
    /// Whether objects are erased as they are freed.
    pub(crate) erase: AtomicBool,
    /// Held by whoever trims, or brings memory into the stock.
    pub(crate) trimming: Mutex<()>,
    /// Held by whoever compacts.
    pub(crate) compacting: Mutex<()>,
    /// The stock; `None`: allocations take memory from the system.
    pub(crate) stock: Option<Stock>,
    /// Distinguishes this pool's objects from another's.
    pub(crate) id: u32,
}

static NEXT_ID: AtomicU32 = AtomicU32::new(1);

impl Pool {
    /// Makes an empty pool in `len` bytes of `region` from `base`, both multiples of a page, the bytes being
    /// zero. `shards` (at least 1) is the number of CPUs that are to allocate without meeting. The error is the
    /// system's refusal of memory for the books.
    ///
    /// # Panics
    /// If the range is not inside the region.
    pub fn new(region: Arc<Region>, base: u64, len: u64, shards: usize) -> std::io::Result<Pool> {
        assert!(
            base.is_multiple_of(PAGE as u64),
            "the arena begins at a page"
        );
        assert!(
            base.checked_add(len).is_some_and(|end| end <= region.len()),
            "inside the region"
        );
        let spans = (len.min(8 << HANDLE_BITS) / SPAN_BYTES as u64) as u32;
        let shards = shards.max(1);
        Ok(Pool {
            region,
            base,
            spans,
            metas: Region::private(u64::from(spans) * size_of::<SpanMeta>() as u64)?,
            bins: (0..shards * CLASS_COUNT)
                .map(|_| CachePadded::default())
                .collect(),
            shards,
            dirty: FreeStack::default(),
            clean: FreeStack::default(),
            fresh: AtomicU32::new(0),
            used_pages: AtomicU64::new(0),
            peak_pages: AtomicU64::new(0),
            limit_pages: AtomicU64::new(0),
            limits_all: AtomicBool::new(false),
            outside_bytes: AtomicU64::new(0),
            freed: AtomicBool::new(false),
            erase: AtomicBool::new(false),
            trimming: Mutex::new(()),
            compacting: Mutex::new(()),
            stock: None,
            id: NEXT_ID.fetch_add(1, Relaxed),
        })
    }

    /// Marks a free object, whose pages are accounted for, as used.
    pub(crate) fn take_object(
        &self,
        bin: &mut Bin,
        span: &Span<'_>,
        number: u32,
        object: u32,
        len: usize,
        owner: u32,
    ) -> Object {
        // Releasing the bin's lock waits for the owner entry's cache line. A line that is prefetched by then does not
        // cost a second wait when the caller publishes what it writes there.
        span.prefetch(object, len);
        let before = span.meta.used.load(Relaxed);
        span.mark_used(object, owner);
        bin.relink(self.metas(), number, before, span.class.objects);
        let offset = u64::from(span.offset_of(object));
        let handle = (u64::from(number) * SPAN_BYTES as u64 + offset) / 8;
        Object {
            handle,
            len: len as u32,
            pool: self.id,
        }
    }

    /// A span for a bin: one that was used before (its pages are there already), one that was given back, or a
    /// new one.
    pub(crate) fn take_span(&self) -> Result<u32, Error> {
        let metas = self.metas();
        let again = || self.dirty.pop(metas).or_else(|| self.clean.pop(metas));
        again()
            .or_else(|| {
                let more = |fresh: u32| (fresh < self.spans).then_some(fresh + 1);
                self.fresh.fetch_update(Relaxed, Relaxed, more).ok()
            })
            .or_else(again)
            .ok_or(Error::ArenaFull { spans: self.spans })
    }

    /// Makes a free span the bin's own.
    pub(crate) fn adopt(
        &self,
        bin: &mut Bin,
        index: usize,
        number: u32,
        past_limit: bool,
    ) -> Result<(), Error> {
        let span = self.span(number, index % CLASS_COUNT);
        if let Err(error) = self.account(&span, span.pages_of_bitmap(), past_limit) {
            self.push_free(number, span.meta);
            return Err(error);
        }
        span.format(index % CLASS_COUNT);
        span.meta.bin.store(index as u32 + 1, Relaxed);
        bin.link(self.metas(), number, span.class.objects);
        Ok(())
    }

    /// Takes an empty span from its bin.
    pub(crate) fn retire(&self, bin: &mut Bin, number: u32, span: &Span<'_>, before: u32) {
        bin.unlink(self.metas(), number, before, span.class.objects);
        span.meta.state.store(LISTED, Relaxed);
        span.meta.bin.store(0, Relaxed);
        self.push_free(number, span.meta);
    }

    pub(crate) fn push_free(&self, number: u32, meta: &SpanMeta) {
        let untouched = meta.pages.iter().all(|word| word.load(Relaxed) == 0);
        let stack = if untouched {
            &self.clean
        } else {
            self.note_freed();
            &self.dirty
        };
        stack.push(self.metas(), number);
    }

    /// Accounts for those of the `wanted` pages of a span that are not in use yet.
    pub(crate) fn account(
        &self,
        span: &Span<'_>,
        mut wanted: PageSet,
        past_limit: bool,
    ) -> Result<(), Error> {
        let mut new = 0;
        for (want, have) in wanted.iter_mut().zip(&span.meta.pages) {
            *want &= !have.load(Relaxed);
            new += u64::from(want.count_ones());
        }
        if new == 0 {
            return Ok(());
        }
        let limit = self.limit_pages.load(Relaxed);
        let unlimited = limit == 0 || past_limit;
        let outside = if unlimited { 0 } else { self.outside_pages() };
        let fits = |used: u64| (unlimited || used + outside + new <= limit).then_some(used + new);
        let page = PAGE as u64;
        let used = self
            .used_pages
            .fetch_update(Relaxed, Relaxed, fits)
            .map_err(|used| Error::Limit {
                limit_bytes: limit * page,
                used_bytes: (used + outside) * page,
            })?;
        self.peak_pages.fetch_max(used + new, Relaxed);
        for (want, have) in wanted.iter().zip(&span.meta.pages) {
            have.store(have.load(Relaxed) | want, Relaxed);
        }
        Ok(())
    }

    /// Frees an object. Makes no system call: see [`Pool::release_free_spans`] and [`Pool::trim`].
    ///
    /// # Panics
    /// If the object is another pool's.
    pub fn free(&self, object: Object) {
        let (number, offset) = self.locate(&object);
        let index = self.metas()[number as usize].bin.load(Relaxed) as usize;
        let index = index
            .checked_sub(1)
            .expect("a live object's span has a bin");
        let mut bin = self.lock(index);
        let span = self.span(number, index % CLASS_COUNT);
        let slot = span
            .object_at(offset)
            .expect("a handle points at an object");
        if self.erase.load(Relaxed) {
            span.erase_object(slot);
        }
        let before = span.meta.used.load(Relaxed);
        // With a stock an empty span is stock, and trimming decides. A hidden one belongs to the compaction that hid
        // it.
        let stays = self.stock.is_some() || span.meta.state.load(Relaxed) == HIDDEN;
        if span.mark_free(slot) == 0 && !stays {
            self.retire(&mut bin, number, &span, before);
        } else {
            span.meta.freed.store(1, Relaxed);
            bin.relink(self.metas(), number, before, span.class.objects);
        }
        self.note_freed();
    }

    /// Marks that the next trim has work. Reads first: the flag is shared by all CPUs and mostly set already.
    fn note_freed(&self) {
        if !self.freed.load(Relaxed) {
            self.freed.store(true, Relaxed);
        }
    }

    /// The object's bytes.
    ///
    /// # Panics
    /// If the object is another pool's.
    pub fn bytes<'a>(&'a self, object: &'a Object) -> &'a [u8] {
        self.locate(object);
        #[expect(unsafe_code, reason = "the Object is the right to its bytes")]
        // SAFETY: writing needs `&mut Object`, of which there is one for these bytes.
        unsafe {
            self.region
                .bytes(self.base + object.handle * 8, object.len())
        }
    }

    /// The object's bytes, for writing.
    ///
    /// # Panics
    /// If the object is another pool's.
    pub fn bytes_mut<'a>(&'a self, object: &'a mut Object) -> &'a mut [u8] {
        self.locate(object);
        #[expect(unsafe_code, reason = "the Object is the right to its bytes")]
        // SAFETY: the borrow of the only Object for these bytes is exclusive.
        unsafe {
            self.region
                .bytes_mut(self.base + object.handle * 8, object.len())
        }
    }

    /// The bytes of an object that nobody writes, which several may look at the same time.
    ///
    /// # Safety
    /// `handle` and `len` are those of an object of this pool that was allocated, dropped (not freed), and that nobody
    /// writes or frees as long as the slice lives.
    ///
    /// # Panics
    /// If the range is not inside the region.
    #[expect(unsafe_code, reason = "declares the duty that the safe calls rest on")]
    pub unsafe fn shared_bytes(&self, handle: u64, len: usize) -> &[u8] {
        // SAFETY: the caller excludes writers.
        unsafe { self.region.bytes(self.base + handle * 8, len) }
    }

    /// Prefetches an object that will be read soon. Harmless if it is gone by then.
    #[inline]
    pub fn prefetch(&self, handle: u64, len: usize) {
        self.region.prefetch(self.base + handle * 8, len);
    }

    /// Prefetches what freeing the object at a handle will touch. Harmless if it is gone by then.
    pub fn prefetch_free(&self, handle: u64) {
        let Some((number, index, offset)) = self.place_of(handle) else {
            return;
        };
        self.span(number, index % CLASS_COUNT).prefetch_mark(offset);
    }

    /// Span, bin, and offset in the span of a handle; `None` where no bin has the span.
    pub(crate) fn place_of(&self, handle: u64) -> Option<(u32, usize, u32)> {
        let offset = handle * 8;
        let number = u32::try_from(offset / SPAN_BYTES as u64).ok()?;
        let index = self.metas().get(number as usize)?.bin.load(Relaxed) as usize;
        let offset = (offset % SPAN_BYTES as u64) as u32;
        Some((number, index.checked_sub(1)?, offset))
    }

    /// The owner of the object at a handle, which the caller keeps from being freed; `None` if there is none.
    pub fn owner_at(&self, handle: u64) -> Option<u32> {
        self.owner_word(handle, |word| word.load(Relaxed))
    }

    /// Gives the object at a handle, which the caller keeps from being freed, to another who refers to it.
    pub fn set_owner(&self, handle: u64, owner: u32) {
        self.owner_word(handle, |word| word.store(owner, Relaxed));
    }

    fn owner_word<R>(&self, handle: u64, work: impl FnOnce(&AtomicU32) -> R) -> Option<R> {
        let (number, index, offset) = self.place_of(handle)?;
        let span = self.span(number, index % CLASS_COUNT);
        let object = span.object_at(offset)?;
        Some(work(&span.owners()[object as usize]))
    }

    /// Makes the [`Object`] of a handle and length that were kept elsewhere.
    ///
    /// # Safety
    /// `handle` and `len` are those of an object of this pool that was allocated, dropped (not freed), and of
    /// which no other `Object` exists as long as this one does.
    #[expect(unsafe_code, reason = "declares the duty that the safe calls rest on")]
    pub unsafe fn object(&self, handle: u64, len: usize) -> Object {
        Object {
            handle,
            len: len as u32,
            pool: self.id,
        }
    }

    /// The owner that was given with the object.
    ///
    /// # Panics
    /// If the object is another pool's.
    pub fn owner(&self, object: &Object) -> u32 {
        let (number, offset) = self.locate(object);
        let index = self.metas()[number as usize].bin.load(Relaxed) as usize;
        let index = index
            .checked_sub(1)
            .expect("a live object's span has a bin");
        let span = self.span(number, index % CLASS_COUNT);
        let slot = span
            .object_at(offset)
            .expect("a handle points at an object");
        span.owners()[slot as usize].load(Relaxed)
    }

    /// Sets the limit on memory in use, rounded up to pages; 0 for none. What is stored already stays.
    pub fn set_limit_bytes(&self, bytes: u64) {
        self.limits_all.store(false, Relaxed);
        self.limit_pages.store(bytes.div_ceil(PAGE as u64), Relaxed);
    }

    /// As [`Pool::set_limit_bytes`], on the sum of that memory, the pool's books, and what [`Pool::set_outside_bytes`]
    /// told. Concurrent callers and books that grow are allowed for in advance, so that the sum stays below.
    pub fn set_total_limit_bytes(&self, bytes: u64) {
        self.limits_all.store(true, Relaxed);
        self.limit_pages.store(bytes.div_ceil(PAGE as u64), Relaxed);
    }

    /// Whether there is a limit, and it is on the sum.
    pub fn limits_all(&self) -> bool {
        self.limits_all.load(Relaxed) && self.limit_pages.load(Relaxed) > 0
    }

    /// Tells the memory of the pool's owner that a limit on the sum counts as well.
    pub fn set_outside_bytes(&self, bytes: u64) {
        self.outside_bytes.store(bytes, Relaxed);
    }

    /// What the limit is compared with, in bytes.
    pub fn limited_bytes(&self) -> u64 {
        (self.used_pages.load(Relaxed) + self.outside_pages()) * PAGE as u64
    }

    /// Pages besides those of the arena that count.
    fn outside_pages(&self) -> u64 {
        if !self.limits_all.load(Relaxed) {
            return 0;
        }
        self.outside_pages_of(self.outside_bytes.load(Relaxed))
    }

    fn outside_pages_of(&self, bytes: u64) -> u64 {
        let bytes = bytes + self.metadata_bytes();
        bytes.div_ceil(PAGE as u64) + SPARE_PAGES * self.shards as u64
    }

    /// What a limit on the sum would be compared with, in bytes, if nothing were stored and so much lay outside.
    pub fn limited_bytes_when_empty(&self, outside_bytes: u64) -> u64 {
        self.outside_pages_of(outside_bytes) * PAGE as u64
    }

    /// The limit, 0 for none.
    pub fn limit_bytes(&self) -> u64 {
        self.limit_pages.load(Relaxed) * PAGE as u64
    }

    /// Forgets the peak: it becomes what is in use now.
    pub fn reset_peak(&self) {
        self.peak_pages
            .store(self.used_pages.load(Relaxed), Relaxed);
    }

    /// Memory in use, in bytes.
    pub fn used_bytes(&self) -> u64 {
        self.used_pages.load(Relaxed) * PAGE as u64
    }

    pub(crate) fn touched_spans(&self) -> usize {
        self.fresh.load(Relaxed) as usize
    }

    pub(crate) fn metas_region(&self) -> &Region {
        &self.metas
    }

    pub(crate) fn metas(&self) -> &[SpanMeta] {
        self.metas.view(0, self.spans as usize)
    }

    pub(crate) fn span_base(&self, number: u32) -> u64 {
        self.base + u64::from(number) * SPAN_BYTES as u64
    }

    pub(crate) fn span(&self, number: u32, class: usize) -> Span<'_> {
        let meta = &self.metas()[number as usize];
        Span::new(&self.region, self.span_base(number), meta, class)
    }

    /// The object's span, and its offset in there.
    fn locate(&self, object: &Object) -> (u32, u32) {
        assert_eq!(object.pool, self.id, "the object is another pool's");
        let offset = object.handle * 8;
        (
            (offset / SPAN_BYTES as u64) as u32,
            (offset % SPAN_BYTES as u64) as u32,
        )
    }

    pub(crate) fn lock(&self, index: usize) -> MutexGuard<'_, Bin> {
        // A panic under it is a bug in this crate; the lists are as good as they were.
        contention::lock(&self.bins[index], Lock::Bin)
    }
}
