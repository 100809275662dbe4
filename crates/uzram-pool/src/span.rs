//! A span's state: what is kept beside the arena ([`SpanMeta`]) and the side table inside it.
//!
//! Everything here is changed under the lock of the bin that owns the span; the fields are atomics because they
//! lie in shared memory that is viewed, not owned, and all accesses are relaxed. Two exceptions: `bin` is read
//! without the lock by `free` (it cannot change while an object of the span lives), and `next` links free
//! spans in the lock-free stacks.
//!
//! In the arena a span begins with a head of 8 bytes (a magic number and its class, so that the arena describes
//! itself), the bitmap of used objects, and the owner of each object.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU32, AtomicU64};

use crate::PAGE;
use crate::class::{CLASS_COUNT, CLASSES, Class, HEAD_BYTES, SPAN_BYTES};
use crate::region::Region;

/// Pages in a span.
pub(crate) const SPAN_PAGES: usize = SPAN_BYTES / PAGE;
/// Words of a bitmap of a span's pages.
const PAGE_WORDS: usize = SPAN_PAGES / 64;
/// A set of a span's pages, one bit each.
pub(crate) type PageSet = [u64; PAGE_WORDS];

/// What is known of a span. All zeros: never used. Links are span number + 1, 0 for none.
#[repr(C)]
pub(crate) struct SpanMeta {
    /// The bin that owns it + 1; 0 while it is free.
    pub(crate) bin: AtomicU32,
    /// Objects in use.
    pub(crate) used: AtomicU32,
    /// Neighbours in the bin's list, or in a stack of free spans.
    pub(crate) next: AtomicU32,
    pub(crate) prev: AtomicU32,
    /// No bitmap word below this one has a free object.
    hint: AtomicU32,
    /// Not 0 once an object was freed since the last trim.
    pub(crate) freed: AtomicU32,
    /// Which pages are accounted as in use.
    pub(crate) pages: [AtomicU64; PAGE_WORDS],
    /// [`LISTED`], [`DRAINING`] or [`HIDDEN`].
    pub(crate) state: AtomicU32,
    reserved: AtomicU32,
}

const _: () = assert!(size_of::<SpanMeta>() == 64, "one cache line");

impl SpanMeta {
    /// How many pages are accounted as in use.
    pub(crate) fn page_count(&self) -> u64 {
        let count = |word: &AtomicU64| u64::from(word.load(Relaxed).count_ones());
        self.pages.iter().map(count).sum()
    }
}

/// A span of a bin that is in the list of its fullness.
pub(crate) const LISTED: u32 = 0;
/// A span that is being emptied: allocation takes it last.
pub(crate) const DRAINING: u32 = 1;
/// A span in no list, which stays with its bin even when it becomes empty: nothing is allocated in it, so its pages
/// can be given back without the bin's lock.
pub(crate) const HIDDEN: u32 = 2;

/// Upper half of a span's head.
const MAGIC: u32 = u32::from_be_bytes(*b"SPAN");

/// The class in the head of the span at `base`.
pub(crate) fn class_at(region: &Region, base: u64) -> Option<usize> {
    let head = region.view::<AtomicU64>(base, 1)[0].load(Relaxed);
    let class = head as u32 as usize;
    ((head >> 32) as u32 == MAGIC && class < CLASS_COUNT).then_some(class)
}

/// A span with its class: the view through which its objects are handed out.
#[derive(Clone, Copy)]
pub(crate) struct Span<'a> {
    pub(crate) meta: &'a SpanMeta,
    pub(crate) class: &'static Class,
    region: &'a Region,
    /// The span's offset in the region.
    base: u64,
}

impl<'a> Span<'a> {
    pub(crate) fn new(region: &'a Region, base: u64, meta: &'a SpanMeta, class: usize) -> Span<'a> {
        Span {
            meta,
            class: &CLASSES[class],
            region,
            base,
        }
    }

    fn head(&self) -> &'a AtomicU64 {
        &self.region.view::<AtomicU64>(self.base, 1)[0]
    }

    fn bitmap(&self) -> &'a [AtomicU64] {
        let at = self.base + HEAD_BYTES as u64;
        self.region.view(at, self.class.bitmap_words())
    }

    pub(crate) fn owners(&self) -> &'a [AtomicU32] {
        let at = self.base + u64::from(self.class.owners);
        self.region.view(at, self.class.objects as usize)
    }

    /// The pages that an empty span needs: its bitmap's.
    pub(crate) fn pages_of_bitmap(&self) -> PageSet {
        let mut pages = PageSet::default();
        add_range(&mut pages, 0, self.class.owners as usize);
        pages
    }

    /// Adds the pages that an object needs: its own and that of its owner.
    pub(crate) fn add_pages_of(&self, pages: &mut PageSet, object: u32) {
        add_range(pages, (self.class.owners + object * 4) as usize, 4);
        add_range(
            pages,
            self.offset_of(object) as usize,
            self.class.size as usize,
        );
    }

    /// Makes an empty span of this class: all objects free. The bitmap's surplus bits are set for good.
    pub(crate) fn format(&self, class: usize) {
        self.head()
            .store(u64::from(MAGIC) << 32 | class as u64, Relaxed);
        let bitmap = self.bitmap();
        bitmap.iter().for_each(|word| word.store(0, Relaxed));
        let surplus = bitmap.len() * 64 - self.class.objects as usize;
        if surplus > 0 {
            bitmap[bitmap.len() - 1].store(u64::MAX << (64 - surplus), Relaxed);
        }
        self.meta.used.store(0, Relaxed);
        self.meta.hint.store(0, Relaxed);
    }

    /// The lowest free object of a span that is not full.
    pub(crate) fn find_free(&self) -> u32 {
        let hint = self.meta.hint.load(Relaxed);
        let words = &self.bitmap()[hint as usize..];
        let found = words.iter().position(|word| word.load(Relaxed) != u64::MAX);
        let word = found.expect("a span in a list has a free object");
        let bit = words[word].load(Relaxed).trailing_ones();
        self.meta.hint.store(hint + word as u32, Relaxed);
        (hint + word as u32) * 64 + bit
    }

    /// The free objects, lowest first.
    pub(crate) fn free_objects(&self) -> impl Iterator<Item = u32> + 'a {
        self.bitmap().iter().enumerate().flat_map(|(index, word)| {
            let mut free = !word.load(Relaxed);
            std::iter::from_fn(move || {
                let bit = (free != 0).then(|| free.trailing_zeros())?;
                free &= free - 1;
                Some(index as u32 * 64 + bit)
            })
        })
    }

    /// Whether an object lies, with its owner's entry, in pages that are accounted for.
    pub(crate) fn is_in_used_pages(&self, object: u32) -> bool {
        let mut pages = PageSet::default();
        self.add_pages_of(&mut pages, object);
        let have = self.meta.pages.iter().map(|word| word.load(Relaxed));
        pages.iter().zip(have).all(|(want, have)| want & !have == 0)
    }

    /// A free object that lies, with its owner's entry, in pages that are accounted for.
    pub(crate) fn find_free_in_used_pages(&self) -> Option<u32> {
        self.free_objects()
            .find(|object| self.is_in_used_pages(*object))
    }

    /// The lowest free object of `from..end` that lies, with its owner's entry, in pages that are accounted for.
    pub(crate) fn first_hole(&self, from: u32, end: u32) -> Option<u32> {
        let words = self.bitmap();
        (from / 64..end.div_ceil(64)).find_map(|index| {
            let mut free = !words[index as usize].load(Relaxed);
            if index == from / 64 {
                free &= u64::MAX << (from % 64);
            }
            std::iter::from_fn(|| {
                let bit = (free != 0).then(|| free.trailing_zeros())?;
                free &= free - 1;
                Some(index * 64 + bit)
            })
            .take_while(|object| *object < end)
            .find(|object| self.is_in_used_pages(*object))
        })
    }

    /// The highest object in use below `end`.
    pub(crate) fn last_used(&self, end: u32) -> Option<u32> {
        let end = end.min(self.class.objects);
        let words = self.bitmap();
        (0..end.div_ceil(64)).rev().find_map(|index| {
            let mut used = words[index as usize].load(Relaxed);
            if index == end / 64 {
                used &= (1 << (end % 64)) - 1;
            }
            let top = used.checked_ilog2()?;
            Some(index * 64 + top)
        })
    }

    /// The pages up to the last that an object in use, or the bitmap, lies in.
    pub(crate) fn pages_to_last_used(&self) -> PageSet {
        let end = match self.last_used(u32::MAX) {
            Some(object) => self.offset_of(object) + self.class.size,
            None => self.class.owners,
        };
        let mut pages = PageSet::default();
        add_range(&mut pages, 0, end as usize);
        pages
    }

    pub(crate) fn mark_used(&self, object: u32, owner: u32) {
        let word = &self.bitmap()[object as usize / 64];
        word.store(word.load(Relaxed) | 1 << (object % 64), Relaxed);
        self.owners()[object as usize].store(owner, Relaxed);
        self.meta
            .used
            .store(self.meta.used.load(Relaxed) + 1, Relaxed);
    }

    /// Marks an object as used, from several threads at once and with no bin: only while the pool is restored. Its owner is
    /// there. `false` if the object was marked already.
    pub(crate) fn restore(&self, object: u32) -> bool {
        let word = &self.bitmap()[object as usize / 64];
        word.fetch_or(1 << (object % 64), Relaxed) >> (object % 64) & 1 == 0
    }

    /// Counts the used objects again, from the bitmap.
    pub(crate) fn recount(&self) {
        let marked: u32 = self
            .bitmap()
            .iter()
            .map(|word| word.load(Relaxed).count_ones())
            .sum();
        let surplus = self.bitmap().len() as u32 * 64 - self.class.objects;
        self.meta.used.store(marked - surplus, Relaxed);
    }

    /// Returns the number of objects still in use.
    ///
    /// # Panics
    /// If the object is not in use: the caller's books are wrong, and to go on would hand one object to two.
    pub(crate) fn mark_free(&self, object: u32) -> u32 {
        let word = &self.bitmap()[object as usize / 64];
        let bits = word.load(Relaxed);
        assert!(
            bits >> (object % 64) & 1 == 1,
            "object {object} is not in use"
        );
        word.store(bits & !(1 << (object % 64)), Relaxed);
        let hint = self.meta.hint.load(Relaxed).min(object / 64);
        self.meta.hint.store(hint, Relaxed);
        let used = self.meta.used.load(Relaxed) - 1;
        self.meta.used.store(used, Relaxed);
        used
    }

    /// Clears bytes that nobody refers to.
    pub(crate) fn erase(&self, offset: usize, len: usize) {
        debug_assert!(offset + len <= SPAN_BYTES);
        self.region.clear(self.base + offset as u64, len);
    }

    /// Prefetches an object's owner entry and the bytes of the object that will be written.
    pub(crate) fn prefetch(&self, object: u32, len: usize) {
        let owner = self.class.owners + object * 4;
        self.region.prefetch(self.base + u64::from(owner), 4);
        let at = self.offset_of(object);
        self.region.prefetch(self.base + u64::from(at), len);
    }

    /// Prefetches the bitmap word of the object at `offset`.
    pub(crate) fn prefetch_mark(&self, offset: u32) {
        let object = offset.saturating_sub(self.class.first) / self.class.size;
        let word = HEAD_BYTES as u64 + u64::from(object / 64) * 8;
        self.region.prefetch(self.base + word, 8);
    }

    /// Offset of an object from the span's start.
    pub(crate) fn offset_of(&self, object: u32) -> u32 {
        self.class.first + object * self.class.size
    }

    /// The object that begins at `offset`, if one does.
    pub(crate) fn object_at(&self, offset: u32) -> Option<u32> {
        let past = offset.checked_sub(self.class.first)?;
        let object = past / self.class.size;
        (past % self.class.size == 0 && object < self.class.objects).then_some(object)
    }

    /// The pages, as a bitmap, that hold live objects or the side table.
    pub(crate) fn live_pages(&self) -> PageSet {
        let mut live = self.pages_of_bitmap();
        for (index, word) in self.bitmap().iter().enumerate() {
            let mut bits = word.load(Relaxed);
            while bits != 0 {
                let object = index as u32 * 64 + bits.trailing_zeros();
                if object < self.class.objects {
                    self.add_pages_of(&mut live, object);
                }
                bits &= bits - 1;
            }
        }
        live
    }
}

/// Adds the pages that `len` bytes at `offset` touch.
fn add_range(pages: &mut PageSet, offset: usize, len: usize) {
    for page in offset / PAGE..=(offset + len - 1) / PAGE {
        pages[page / 64] |= 1 << (page % 64);
    }
}

/// The runs of set bits, as (first page, number of pages).
pub(crate) fn runs(pages: &PageSet) -> impl Iterator<Item = (usize, usize)> + '_ {
    let is_set = |page: usize| pages[page / 64] >> (page % 64) & 1 == 1;
    let mut at = 0;
    std::iter::from_fn(move || {
        let first = (at..SPAN_PAGES).find(|p| is_set(*p))?;
        at = (first..SPAN_PAGES)
            .find(|p| !is_set(*p))
            .unwrap_or(SPAN_PAGES);
        Some((first, at - first))
    })
}
