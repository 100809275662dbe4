//! The slot table: one atomic word for each page, its lock, and parking of waiters.
//!
//! The table is reserved memory. A table page of which no slot was ever written is not touched, not even by
//! reads (reading a hole of a shared mapping would allocate it): a bitmap says which ones were.
//!
//! [`SlotTable::release`] gives back pages of which every slot is empty. It locks all slots of such a page first, so
//! that nobody publishes a word there; the punched page is then unlocked and empty. Hence a bit of the bitmap is set
//! only after a slot was locked or its word exchanged: one that was set before may have been cleared meanwhile.

use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicU32, AtomicU64};

use rustix::thread::futex;
use uzram_pool::Region;
use uzram_pool::contention::{self, Lock};

use crate::PAGE_SIZE;
use crate::layout::ImageGeometry;
use crate::word::{CONTROL, Content, FLAGS, IDLE, LOCKED, POST, WAITERS, WRITING};

/// Slots in a page of the table.
pub(crate) const SLOTS_PER_PAGE: u64 = (PAGE_SIZE / 8) as u64;
/// Futexes to park on. Slots share them; a spurious wake-up costs one look.
const PARKING_PLACES: usize = 64;
/// Spins on a held lock before parking: about as long as a page takes to decompress.
const SPINS: u32 = 200;
/// Pages of the table that are locked and given back at a time: for some tens of microseconds.
const RELEASE_PAGES: u64 = 16;

pub(crate) struct SlotTable {
    region: Arc<Region>,
    offset: u64,
    /// Slots of the device now, and at its largest size.
    pages: AtomicU64,
    capacity: u64,
    /// One bit for each page of the table that was touched.
    touched: Region,
    touched_pages: AtomicU64,
    parking: [AtomicU32; PARKING_PLACES],
    /// Threads that park, or are about to.
    parked: AtomicU32,
}

/// A locked slot. Dropping it unlocks the slot with its content unchanged.
pub(crate) struct SlotGuard<'a> {
    table: &'a SlotTable,
    page: u64,
    /// The word without `LOCKED` and `WAITERS`.
    word: u64,
}

/// The sole right to write a slot, held while others may still read it.
pub(crate) struct WriteGuard<'a> {
    table: &'a SlotTable,
    page: u64,
}

impl SlotTable {
    pub(crate) fn new(region: Arc<Region>, geometry: &ImageGeometry) -> std::io::Result<SlotTable> {
        let table_pages = geometry.table_bytes / PAGE_SIZE as u64;
        Ok(SlotTable {
            region,
            offset: geometry.table_offset,
            pages: AtomicU64::new(geometry.pages),
            capacity: geometry.pages,
            touched: Region::private(table_pages.div_ceil(64) * 8)?,
            touched_pages: AtomicU64::new(0),
            parking: [const { AtomicU32::new(0) }; PARKING_PLACES],
            parked: AtomicU32::new(0),
        })
    }

    /// Where the table begins in the image, in bytes.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// The runs of slots for which there is memory, as (first page, number of pages): all that may hold anything.
    pub(crate) fn resident(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let end = self.offset + self.capacity * 8;
        let ranges = self.region.data_ranges(self.offset, end);
        ranges.map(|(at, len)| ((at - self.offset) / 8, len / 8))
    }

    /// Takes over a slot of a dead process: clears its control bits and *under post-processing*, and returns the
    /// rest. Only before the device is in use.
    pub(crate) fn take_over(&self, page: u64) -> u64 {
        self.touch(page);
        let slot = self.word(page);
        let word = slot.load(Relaxed);
        if word & (CONTROL | POST) != 0 {
            slot.store(word & !(CONTROL | POST), Relaxed);
        }
        word & !(CONTROL | POST)
    }

    /// Makes the empty ones of these slots remote, and returns how many they are. Only before the device is in use.
    pub(crate) fn make_remote(&self, first: u64, end: u64) -> u64 {
        let Some(remote) = Content::Remote.encode() else {
            return 0;
        };
        let mut made = 0;
        for page in first..end {
            let slot = self.word(page);
            if slot.load(Relaxed) == 0 {
                slot.store(remote, Relaxed);
                made += 1;
            }
        }
        if first < end {
            self.touch(first);
        }
        made
    }

    /// Makes the slots from `first` to the last of the device resident.
    pub(crate) fn populate(&self, first: u64) -> std::io::Result<()> {
        let first = first / SLOTS_PER_PAGE * SLOTS_PER_PAGE;
        let len = ((self.pages() - first) * 8).next_multiple_of(PAGE_SIZE as u64);
        self.region.populate(self.offset + first * 8, len)?;
        self.touched.populate(0, self.touched.len())?;
        (first..self.pages())
            .step_by(SLOTS_PER_PAGE as usize)
            .for_each(|page| self.touch(page));
        Ok(())
    }

    /// Number of slots that the device has.
    pub(crate) fn pages(&self) -> u64 {
        self.pages.load(Acquire)
    }

    /// Number of slots that it may have.
    pub(crate) fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Sets the number of slots, at most the capacity.
    pub(crate) fn set_pages(&self, pages: u64) {
        assert!(pages <= self.capacity, "{pages} of {} slots", self.capacity);
        self.pages.store(pages, Release);
    }

    /// Memory of the table in use, in bytes.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.touched_pages.load(Relaxed) * PAGE_SIZE as u64
    }

    /// What a page holds at this moment, without its lock. The object may be gone already.
    pub(crate) fn peek(&self, page: u64) -> Content {
        Content::decode(self.load(page))
    }

    /// As [`SlotTable::peek`], with the flags.
    pub(crate) fn peek_flags(&self, page: u64) -> (Content, u64) {
        let word = self.load(page);
        (Content::decode(word), word & FLAGS)
    }

    /// A slot's word at this moment, without its lock; 0 where the table was not touched.
    fn load(&self, page: u64) -> u64 {
        if !self.is_touched(page) {
            return 0;
        }
        let word = self.word(page).load(Acquire);
        if word == 0 && !self.is_touched(page) {
            // It was given back in between: this look has allocated it again.
            self.touch(page);
        }
        word
    }

    /// The slots that may hold anything, in order, from `first` to before `end`.
    pub(crate) fn touched(&self, first: u64, end: u64) -> impl Iterator<Item = u64> + '_ {
        self.touched_in(first, end.min(self.pages()))
    }

    /// As [`SlotTable::touched`], beyond the end of the device, too.
    pub(crate) fn touched_in(&self, first: u64, end: u64) -> impl Iterator<Item = u64> + '_ {
        let end = end.min(self.capacity);
        let mut at = first;
        std::iter::from_fn(move || {
            while at < end && !self.is_touched(at) {
                at = (at / SLOTS_PER_PAGE + 1) * SLOTS_PER_PAGE;
            }
            at += 1;
            (at <= end).then(|| at - 1)
        })
    }

    /// Marks a slot idle if it is unlocked at this moment and holds what `suits`. Returns whether it is marked.
    pub(crate) fn mark_idle(&self, page: u64, suits: impl Fn(Content) -> bool) -> bool {
        let (slot, word) = (self.word(page), self.load(page));
        let marked = |word| slot.compare_exchange(word, word | IDLE, AcqRel, Relaxed);
        word & LOCKED == 0 && suits(Content::decode(word)) && marked(word).is_ok()
    }

    /// Clears the idle mark of a slot that is unlocked at this moment.
    pub(crate) fn unmark_idle(&self, page: u64) {
        let (slot, word) = (self.word(page), self.load(page));
        if word & LOCKED == 0 && word & IDLE != 0 {
            let _ = slot.compare_exchange(word, word & !IDLE, AcqRel, Relaxed);
        }
    }

    /// Starts post-processing of a slot that `suits`, which is asked under the lock. The caller works alone, with the
    /// slot unlocked, until new contents are published or [`SlotTable::end_post`] is called.
    pub(crate) fn begin_post(
        &self,
        page: u64,
        suits: impl Fn(Content, u64) -> bool,
    ) -> Option<SlotGuard<'_>> {
        let mut slot = self.lock(page);
        let free = slot.word & (POST | WRITING) == 0;
        if !free || !suits(slot.content(), slot.word & FLAGS) {
            return None;
        }
        slot.word |= POST;
        Some(slot)
    }

    /// Locks a slot to publish another form of its content; `None` if the content changed since `begin_post`.
    pub(crate) fn lock_post(&self, page: u64) -> Option<SlotGuard<'_>> {
        // A partial write in flight will publish something else in a moment.
        let slot = self.lock(page);
        let marked = slot.word & (POST | WRITING) == POST;
        marked.then_some(slot)
    }

    /// Ends post-processing without new content, and adds the flags `set`.
    pub(crate) fn end_post(&self, page: u64, set: u64) {
        let mut slot = self.lock(page);
        if slot.word & POST != 0 {
            slot.word = slot.word & !POST | set;
        }
    }

    /// Whether any slot in this page's part of the table was ever written.
    pub(crate) fn is_touched(&self, page: u64) -> bool {
        let (word, bit) = self.touched_bit(page);
        word.load(Relaxed) >> bit & 1 == 1
    }

    /// Locks a slot to read it, or to publish under a [`WriteGuard`].
    pub(crate) fn lock(&self, page: u64) -> SlotGuard<'_> {
        self.lock_when_clear(page, LOCKED)
    }

    /// Locks a slot to change it: waits also for a partial write that is under way.
    pub(crate) fn lock_to_write(&self, page: u64) -> SlotGuard<'_> {
        self.lock_when_clear(page, LOCKED | WRITING)
    }

    /// Publishes new contents (an encoded word) as [`SlotTable::lock_to_write`] and [`SlotGuard::publish`] do, in one step where
    /// nobody has the slot. Returns what was there: its object, if any, is the caller's to free.
    pub(crate) fn replace(&self, page: u64, word: u64) -> Content {
        let slot = self.word(page);
        let old = slot.load(Relaxed);
        // Acquire: sees the object that was published before; Release: this one is complete before its word can be seen.
        if old & CONTROL == 0
            && slot
                .compare_exchange(old, old & KEPT | word, AcqRel, Relaxed)
                .is_ok()
        {
            contention::note(Lock::Slot, false);
            self.touch(page);
            return Content::decode(old);
        }
        self.lock_to_write(page).publish(word)
    }

    /// Prefetches a slot that is about to be written.
    pub(crate) fn prefetch(&self, page: u64) {
        self.region.prefetch(self.offset + page * 8, 8);
    }

    fn lock_when_clear(&self, page: u64, blockers: u64) -> SlotGuard<'_> {
        let slot = self.word(page);
        let mut spins = 0;
        let mut taken = false;
        loop {
            let word = slot.load(Relaxed);
            if word & blockers == 0 {
                // Acquire: sees the object that the last holder published.
                if slot
                    .compare_exchange_weak(word, word | LOCKED, Acquire, Relaxed)
                    .is_ok()
                {
                    contention::note(Lock::Slot, taken);
                    self.touch(page);
                    return SlotGuard {
                        table: self,
                        page,
                        word: word & !WAITERS,
                    };
                }
                taken = true;
                continue;
            }
            taken = true;
            if spins < SPINS {
                spins += 1;
                std::hint::spin_loop();
            } else {
                self.park(page, slot, word);
            }
        }
    }

    /// Sleeps until the slot is unlocked, if its value is still `word`. May return early.
    fn park(&self, page: u64, slot: &AtomicU64, word: u64) {
        let place = self.parking_place(page);
        // SeqCst: who gives back a page of the table sees this, or the exchange below sees the page gone.
        self.parked.fetch_add(1, SeqCst);
        // Read before the bit is set: an unlock after that changes it, and the wait returns at once.
        let ticket = place.load(Acquire);
        if slot
            .compare_exchange(word, word | WAITERS, AcqRel, Relaxed)
            .is_ok()
        {
            let _ = futex::wait(place, futex::Flags::PRIVATE, ticket, None);
        }
        self.parked.fetch_sub(1, SeqCst);
    }

    /// Gives back the memory of those pages of the table in which every slot is empty and nobody's at this moment.
    /// Tells `gone` of the slots (first, and how many) after each batch. Takes no lock that waits.
    pub(crate) fn release(&self, mut gone: impl FnMut(u64, u64)) {
        let end = self.capacity.div_ceil(SLOTS_PER_PAGE);
        let mut at = 0;
        while at < end {
            let bits = self.touched.words(at / 64 * 8, 1)[0].load(Relaxed) >> (at % 64);
            if bits == 0 {
                at = (at / 64 + 1) * 64;
                continue;
            }
            at += u64::from(bits.trailing_zeros());
            let most = (end - at).min(RELEASE_PAGES);
            let sealed = (at..at + most).take_while(|page| self.seal(*page)).count() as u64;
            if sealed == 0 {
                at += 1;
                continue;
            }
            self.release_sealed(at, sealed);
            gone(at * SLOTS_PER_PAGE, sealed * SLOTS_PER_PAGE);
            at += sealed;
        }
    }

    /// Locks all slots of a page of the table, if each is empty and free; else none.
    fn seal(&self, table_page: u64) -> bool {
        let first = table_page * SLOTS_PER_PAGE;
        if !self.is_touched(first) {
            return false;
        }
        let slots = self
            .region
            .words(self.offset + first * 8, SLOTS_PER_PAGE as usize);
        if slots.iter().any(|slot| slot.load(Relaxed) != 0) {
            return false;
        }
        let lock = |slot: &AtomicU64| slot.compare_exchange(0, LOCKED, Acquire, Relaxed).is_err();
        let Some(taken) = slots.iter().position(lock) else {
            return true;
        };
        for (page, slot) in (first..).zip(&slots[..taken]) {
            self.unlock_slot(page, slot, 0);
        }
        false
    }

    /// Gives back sealed pages of the table: they are empty and unlocked then. Wakes who waited for them.
    fn release_sealed(&self, first: u64, count: u64) {
        for table_page in first..first + count {
            let (word, bit) = self.touched_bit(table_page * SLOTS_PER_PAGE);
            if word.fetch_and(!(1 << bit), AcqRel) >> bit & 1 == 1 {
                self.touched_pages.fetch_sub(1, Relaxed);
            }
        }
        let page = PAGE_SIZE as u64;
        self.region
            .release(self.offset + first * page, count * page);
        if self.parked.load(SeqCst) > 0 {
            for place in &self.parking {
                place.fetch_add(1, AcqRel);
                let _ = futex::wake(place, futex::Flags::PRIVATE, i32::MAX as u32);
            }
        }
    }

    /// Stores a slot's new value, unlocked, and wakes its waiters.
    fn unlock(&self, page: u64, word: u64) {
        self.unlock_slot(page, self.word(page), word);
    }

    fn unlock_slot(&self, page: u64, slot: &AtomicU64, word: u64) {
        // Release: the object is complete before its word can be seen.
        let before = slot.swap(word, AcqRel);
        if before & WAITERS != 0 {
            let place = self.parking_place(page);
            place.fetch_add(1, AcqRel);
            let _ = futex::wake(place, futex::Flags::PRIVATE, i32::MAX as u32);
        }
    }

    fn word(&self, page: u64) -> &AtomicU64 {
        assert!(page < self.capacity, "page {page} of {}", self.capacity);
        &self.region.words(self.offset + page * 8, 1)[0]
    }

    fn parking_place(&self, page: u64) -> &AtomicU32 {
        &self.parking[page as usize % PARKING_PLACES]
    }

    fn touched_bit(&self, page: u64) -> (&AtomicU64, u64) {
        let table_page = page / SLOTS_PER_PAGE;
        (
            &self.touched.words(table_page / 64 * 8, 1)[0],
            table_page % 64,
        )
    }

    fn touch(&self, page: u64) {
        let (word, bit) = self.touched_bit(page);
        if word.load(Relaxed) >> bit & 1 == 0 && word.fetch_or(1 << bit, Relaxed) >> bit & 1 == 0 {
            self.touched_pages.fetch_add(1, Relaxed);
        }
    }
}

/// The bits of a slot that stay when new contents are published.
const KEPT: u64 = WRITING;

impl<'a> SlotGuard<'a> {
    /// What the slot holds. It stays so, and its object stays in place, while the guard lives.
    pub(crate) fn content(&self) -> Content {
        Content::decode(self.word)
    }

    /// Clears the idle mark: the slot was read.
    pub(crate) fn accessed(&mut self) {
        self.word &= !IDLE;
    }

    /// Publishes new contents (an encoded word) and unlocks. Returns what was there: its object, if any, is
    /// the caller's to free.
    pub(crate) fn publish(self, word: u64) -> Content {
        let old = self.content();
        let this = std::mem::ManuallyDrop::new(self);
        this.table.unlock(this.page, this.word & KEPT | word);
        old
    }

    /// Replaces the handle of the slot's object. The rest of the word stays.
    pub(crate) fn relocate(mut self, handle: u64) {
        self.word = crate::word::relocated(self.word, handle);
    }

    /// Downgrades the lock to *writing*: admits readers and excludes writers until the guard publishes or is dropped.
    pub(crate) fn keep_writing(self) -> WriteGuard<'a> {
        let this = std::mem::ManuallyDrop::new(self);
        this.table.unlock(this.page, this.word | WRITING);
        WriteGuard {
            table: this.table,
            page: this.page,
        }
    }
}

impl Drop for SlotGuard<'_> {
    fn drop(&mut self) {
        self.table.unlock(self.page, self.word);
    }
}

impl<'a> WriteGuard<'a> {
    /// Publishes new contents and lets other writers in. Returns what was there, as [`SlotGuard::publish`].
    pub(crate) fn publish(self, word: u64) -> Content {
        self.into_slot().publish(word)
    }

    /// Locks the slot; unlocked, it lets other writers in.
    pub(crate) fn into_slot(self) -> SlotGuard<'a> {
        let this = std::mem::ManuallyDrop::new(self);
        let mut slot = this.table.lock(this.page);
        slot.word &= !WRITING;
        slot
    }
}

impl Drop for WriteGuard<'_> {
    fn drop(&mut self) {
        let mut slot = self.table.lock(self.page);
        slot.word &= !WRITING;
    }
}

const _: () = assert!(CONTROL == LOCKED | WAITERS | WRITING);

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    fn table(pages: u64) -> SlotTable {
        let geometry = ImageGeometry::new(pages, 1);
        let region = Arc::new(Region::memfd("uzram-table-test", geometry.image_bytes()).unwrap());
        SlotTable::new(region, &geometry).unwrap()
    }

    #[test]
    fn reading_untouched_slots_takes_no_memory() {
        let table = table(1 << 20);
        assert!(
            (0..1 << 20)
                .step_by(100)
                .all(|page| table.peek(page) == Content::Empty)
        );
        assert_eq!((table.used_bytes(), table.region.resident_bytes()), (0, 0));
        drop(table.lock_to_write(77));
        assert_eq!(
            (table.used_bytes(), table.region.resident_bytes()),
            (4096, 4096)
        );
    }

    /// Writers meet a thread that gives the table back all the time: no word is lost, and no page is left in memory.
    #[test]
    fn words_survive_who_gives_the_table_back() {
        const SLOTS: u64 = 4 * SLOTS_PER_PAGE;
        let table = table(SLOTS);
        let stop = std::sync::atomic::AtomicBool::new(false);
        let given = AtomicU64::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let end = std::time::Instant::now() + std::time::Duration::from_secs(30);
                while given.load(Relaxed) < 200 * SLOTS_PER_PAGE && std::time::Instant::now() < end
                {
                    table.release(|_, slots| {
                        given.fetch_add(slots, Relaxed);
                    });
                }
                stop.store(true, Relaxed);
            });
            for thread in 0..3u64 {
                let (table, stop) = (&table, &stop);
                scope.spawn(move || {
                    for round in (0u64..).take_while(|_| !stop.load(Relaxed)) {
                        // Each thread has slots of its own, in every page of the table.
                        let page = round * 37 % (SLOTS / 3) * 3 + thread;
                        let word = Content::Same(round + 1).encode().unwrap();
                        match round % 3 {
                            0 => drop(table.replace(page, word)),
                            1 => drop(table.lock_to_write(page).publish(word)),
                            _ => drop(table.lock_to_write(page).keep_writing().publish(word)),
                        }
                        assert_eq!(table.peek(page), Content::Same(round + 1), "page {page}");
                        assert_eq!(table.replace(page, 0), Content::Same(round + 1));
                    }
                });
            }
        });
        assert!(given.load(Relaxed) > 0);
        table.release(|_, _| {});
        assert_eq!((table.used_bytes(), table.region.resident_bytes()), (0, 0));
    }

    /// The lock excludes; holders that sleep make the others park.
    #[test]
    fn the_lock_excludes_and_parks() {
        let table = table(4);
        let inside = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for round in 0..300u64 {
                        let slot = table.lock_to_write(1);
                        assert_eq!(inside.fetch_add(1, Relaxed), 0);
                        if round % 50 == 0 {
                            std::thread::sleep(std::time::Duration::from_millis(1));
                        }
                        assert_eq!(inside.fetch_sub(1, Relaxed), 1);
                        let Content::Same(n) = slot.content() else {
                            slot.publish(Content::Same(1).encode().unwrap());
                            continue;
                        };
                        slot.publish(Content::Same(n + 1).encode().unwrap());
                    }
                });
            }
        });
        assert_eq!(table.peek(1), Content::Same(8 * 300));
    }

    /// While a partial write is under way readers get in and writers do not.
    #[test]
    fn writing_keeps_writers_out_and_lets_readers_in() {
        let table = table(4);
        let writing = table.lock_to_write(2).keep_writing();
        assert_eq!(table.lock(2).content(), Content::Empty);
        let published = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let old = table.replace(2, Content::Same(6).encode().unwrap());
                assert_eq!(published.load(Relaxed), 1, "a writer got in too early");
                assert_eq!(old, Content::Same(5));
            });
            std::thread::sleep(std::time::Duration::from_millis(20));
            published.store(1, Relaxed);
            writing.publish(Content::Same(5).encode().unwrap());
        });
        assert_eq!(table.peek(2), Content::Same(6));
        let in_one_step = table.replace(2, Content::Same(7).encode().unwrap());
        assert_eq!(in_one_step, Content::Same(6));
        assert_eq!(table.peek(2), Content::Same(7));
        drop(table.lock_to_write(2).keep_writing());
        assert_eq!(table.lock_to_write(2).content(), Content::Same(7));
    }
}
