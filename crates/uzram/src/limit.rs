//! Limits on memory: the kernel's, on the pool alone, or one on all that the device takes: pool, table, books, streams
//! and dictionaries.
//!
//! The pool compares, since it alone sees every page that is taken. It is told what lies outside of it whenever the table
//! is about to grow, which is at most once for 512 pages that are written.

use std::sync::atomic::Ordering::Relaxed;

use crate::device::Device;
use crate::layout::state;
use crate::page::LIMIT_MET;
use crate::{Error, PAGE_SIZE};

/// In the image: the limit is on all memory.
const ALL: u64 = 1 << 63;

impl Device {
    /// Sets the limit on pool memory in bytes, rounded up to whole pages; 0 for none. Replaces a limit on all memory.
    /// Stored pages stay. Part of the image.
    pub fn set_mem_limit_bytes(&self, bytes: u64) {
        self.set_limit_word(bytes & !ALL);
    }

    /// Sets a limit on all memory of the device in bytes, rounded up to whole pages; 0 for none: pool, slot table, books,
    /// streams and dictionaries ([`crate::Stats::all_memory_bytes`]). Replaces a limit on pool memory. Pages of zeros are
    /// refused, too, where the table has no room for their slots. Stored pages stay. Part of the image.
    ///
    /// A limit that is lower than what the device takes now lets nothing new in; one in which an empty device would have no
    /// room for a page is refused.
    pub fn set_total_limit_bytes(&self, bytes: u64) -> Result<(), Error> {
        let page = PAGE_SIZE as u64;
        let books = self.table.offset() + self.dirty_map_bytes() + self.book_bytes();
        // Two pages of the table and the bitmap, two of an object.
        let least = self.pool.limited_bytes_when_empty(books) + 4 * page;
        if bytes == 0 || bytes >= least {
            self.set_limit_word(bytes | ALL);
            return Ok(());
        }
        Err(Error::Invalid {
            what: "a limit on all memory of",
            given: format!("{bytes} bytes"),
            accepted: format!("0 for none, or at least {least}: the empty device and one page"),
        })
    }

    /// Sets the limit as the image has it.
    pub(crate) fn set_limit_word(&self, word: u64) {
        self.state()[state::MEM_LIMIT].store(word, Relaxed);
        let bytes = word & !ALL;
        if word & ALL == 0 {
            self.pool.set_limit_bytes(bytes);
        } else {
            self.pool.set_total_limit_bytes(bytes);
            self.tell_books();
        }
        self.limits_all.store(self.pool.limits_all(), Relaxed);
    }

    /// Memory of the device's books beside the pool's: codecs, dedup index, ages, and those of a snapshot that is taken.
    pub(crate) fn book_bytes(&self) -> u64 {
        let ages = self.ages.memory_bytes(self.table.used_bytes());
        self.codec_bytes() + self.dedup.memory_bytes() + ages + self.cut.book_bytes()
    }

    /// Memory of the slot table, with header and state before it, and of the bitmaps behind the arena.
    pub(crate) fn table_bytes(&self) -> u64 {
        self.table.used_bytes() + self.table.offset() + self.dirty_map_bytes()
    }

    /// Tells the pool what a limit on all memory counts outside of it.
    pub(crate) fn tell_books(&self) {
        if self.pool.limits_all() {
            let outside = self.table_bytes() + self.book_bytes();
            self.pool.set_outside_bytes(outside);
        }
    }

    /// Whether a limit on all memory has room for the slot of a page. A new page of the table is charged in advance.
    #[inline]
    pub(crate) fn admit_slot(&self, page: u64) -> Result<(), Error> {
        if !self.limits_all.load(Relaxed) || self.table.is_touched(page) {
            return Ok(());
        }
        self.admit_table_page(page)
    }

    #[cold]
    fn admit_table_page(&self, page: u64) -> Result<(), Error> {
        let outside = self.table_bytes() + self.book_bytes() + PAGE_SIZE as u64;
        self.pool.set_outside_bytes(outside);
        let limit_bytes = self.pool.limit_bytes();
        if self.pool.limited_bytes() > limit_bytes && !self.pool.has_stock() {
            self.pool.trim();
        }
        if self.pool.limited_bytes() > limit_bytes && self.give_up_cut(LIMIT_MET) {
            self.pool.trim();
        }
        let used_bytes = self.pool.limited_bytes();
        if used_bytes <= limit_bytes {
            return Ok(());
        }
        self.tell_books();
        Err(Error::NoSpace {
            page,
            used_bytes,
            limit_bytes,
        })
    }
}
