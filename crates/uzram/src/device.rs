//! The device: byte ranges in, pages out. Splits requests into pages, takes a stream once for a request, keeps
//! the counters, and gives memory back after discards.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossbeam_utils::CachePadded;
use uzram_compress::Registry;
use uzram_pool::{Pool, Region, current_cpu};

use crate::agent::AgentShared;
use crate::apis::{JobsApi, SwapApi, ZramApi};
use crate::backing::BackingSlot;
use crate::builder::{Builder, refused_swap};
use crate::codec::{Codec, Codecs, Contexts};
use crate::counters::{Counters, Stats};
use crate::dedup::Dedup;
use crate::idle::Ages;
use crate::latency::Latencies;
use crate::layout::{ImageGeometry, state};
use crate::remote::{Access, Remote};
use crate::snapshot::CutSlot;
use crate::stream::{PerCpu, Stream, StreamTotals, Tally};
use crate::table::SlotTable;
use crate::word::Content;
use crate::{Error, PAGE_SIZE};

/// Discarded bytes after which the pages inside spans are given back, too: this many, or
/// 1/[`TRIM_FRACTION`] of the memory in use where that is more.
const TRIM_BYTES: u64 = 1 << 20;
const TRIM_FRACTION: u64 = 32;
/// The table is looked through for empty pages after a page's worth of slots became empty, or this part of those in use
/// where that is more: a look at a page of the table costs about as much as clearing a few slots.
const SWEEP_FRACTION: u64 = 8;

/// What [`Device::write_zeroes`] leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Zeroes {
    /// Whole pages become holes, as kernel zram does it.
    Deallocate,
    /// Whole pages become same-filled: they still take no pool memory but count as written.
    Allocate,
}

/// A compressed RAM block device. Shared between threads as `Arc<Device>`; every call takes `&self`.
///
/// Requests on different pages run in parallel. Of two requests on one page each is atomic for that page, in
/// some order; a request over several pages is not atomic as a whole, as on any disk.
pub struct Device {
    pub(crate) table: SlotTable,
    pub(crate) pool: Pool,
    /// Each stream's encoder is of the primary codec, or of the one before while that is being changed.
    pub(crate) streams: PerCpu<Stream>,
    /// What the streams' encoders made.
    pub(crate) tallies: Vec<Arc<CachePadded<Tally>>>,
    pub(crate) codecs: Codecs,
    pub(crate) counters: Counters,
    /// Object bytes discarded since the last trim.
    pub(crate) discarded_bytes: AtomicU64,
    /// Slots that became empty since the table was last looked through for pages to give back.
    pub(crate) emptied_slots: AtomicU64,
    /// Memory of the streams' encoders.
    pub(crate) encoder_bytes: AtomicU64,
    /// Algorithms to choose from.
    pub(crate) registry: Registry,
    pub(crate) logical_block_size: u32,
    /// Whether there is a limit on all memory: what each write asks, in a line that nobody else writes.
    pub(crate) limits_all: AtomicBool,
    /// Whether any page may be remote: what each request asks, in the same line.
    pub(crate) is_lazy: AtomicBool,
    pub(crate) region: Arc<Region>,
    pub(crate) geometry: ImageGeometry,
    pub(crate) dedup: Dedup,
    pub(crate) ages: Ages,
    /// When tracking of ages began, in seconds of their clock.
    pub(crate) ages_since: AtomicU32,
    pub(crate) backing: BackingSlot,
    /// Serialises slices of recompression, writeback and promotion.
    pub(crate) post: Mutex<()>,
    /// Serialises changes of the size.
    pub(crate) resizing: Mutex<()>,
    pub(crate) policy: AgentShared,
    /// What a snapshot is being taken from.
    pub(crate) cut: CutSlot,
    /// Where pages are that are not here.
    pub(crate) remote: Remote,
}

/// The part of a request that lies in one page: the page, where in it the part begins, how long it is.
#[derive(Clone, Copy)]
struct Part {
    page: u64,
    offset: usize,
    len: usize,
}

fn parts(offset: u64, len: u64) -> impl Iterator<Item = Part> {
    let (mut at, end) = (offset, offset + len);
    std::iter::from_fn(move || {
        let within = (at % PAGE_SIZE as u64) as usize;
        let len = (end - at).min((PAGE_SIZE - within) as u64) as usize;
        let part = Part {
            page: at / PAGE_SIZE as u64,
            offset: within,
            len,
        };
        at += len as u64;
        (len > 0).then_some(part)
    })
}

impl Device {
    /// Returns a builder for a device of `size_bytes`, rounded up to whole pages.
    pub fn builder(size_bytes: u64) -> Builder {
        Builder::new(size_bytes)
    }

    /// What zram does beside serving requests: idle pages, recompression, writeback, listings.
    pub fn zram(&self) -> ZramApi<'_> {
        ZramApi(self)
    }

    /// What a device with a reserve needs, so that the machine can swap to it.
    pub fn swap(&self) -> SwapApi<'_> {
        SwapApi(self)
    }

    /// What is done beside requests, by policy or by hand: compaction, training, the agent's settings and its plan.
    pub fn jobs(&self) -> JobsApi<'_> {
        JobsApi(self)
    }

    pub(crate) fn region(&self) -> &Region {
        &self.region
    }

    /// The words of the image that change while the device lives.
    pub(crate) fn state(&self) -> &[AtomicU64] {
        self.region.words(state::OFFSET, state::WORDS)
    }

    /// How many processes attached to this device's image after the one that made it.
    pub fn attached_count(&self) -> u64 {
        self.state()[state::ATTACHED].load(Relaxed)
    }

    /// The device's size, a multiple of 4096.
    pub fn size_bytes(&self) -> u64 {
        self.table.pages() * PAGE_SIZE as u64
    }

    /// What frontends announce as logical block size: 512 or 4096.
    pub fn logical_block_size(&self) -> u32 {
        self.logical_block_size
    }

    /// Name of the primary's algorithm. [`Device::codecs`] lists all codecs.
    pub fn algorithm(&self) -> &'static str {
        self.primary().algorithm.name()
    }

    /// Name of the driver that implements it.
    pub fn driver(&self) -> &'static str {
        self.primary().algorithm.driver_name()
    }

    pub(crate) fn primary(&self) -> Arc<Codec> {
        let primary = self.codecs.by_priority(0);
        primary
            .expect("a device has a primary codec from the first to the last")
            .1
    }

    /// What was compressed since the present primary is the primary.
    pub(crate) fn written(&self) -> StreamTotals {
        Tally::sum(&self.tallies)
    }

    /// Number of compression streams.
    pub fn streams(&self) -> usize {
        self.streams.count()
    }

    /// Fills `buf` from byte `offset`, of any alignment. After an error the buffer's content is undefined.
    ///
    /// [`Error::OutOfRange`], [`Error::Corrupt`] where a stored object does not decompress, or [`Error::Remote`] where a page
    /// is [remote](Device::remote_pages) and does not come in time.
    pub fn read_at(&self, mut buf: &mut [u8], offset: u64) -> Result<(), Error> {
        self.check_range(offset, buf.len() as u64)?;
        let bytes = buf.len();
        let cpu = current_cpu();
        let counters = self.counters.shard(cpu);
        let begin = counters.begin_read();
        if self.is_lazy.load(Relaxed) {
            let brought = self.bring(Access::Read, offset, buf.len() as u64);
            brought.inspect_err(|_| self.count_failed_read(cpu))?;
        }
        let brought = match self.backing.is_far() {
            true => self.bring_backed(Access::Read, offset, buf.len() as u64),
            false => Ok(None),
        };
        let brought = brought.inspect_err(|_| self.count_failed_read(cpu))?;
        let mut contexts = Contexts::new(&self.codecs, cpu, self.ages.now());
        contexts.brought = brought.as_deref();
        let end = (offset + buf.len() as u64).div_ceil(PAGE_SIZE as u64);
        let mut expected = offset / PAGE_SIZE as u64;
        for part in parts(offset, buf.len() as u64) {
            // The first page, and always the next one.
            while expected < end.min(part.page + 2) {
                self.prefetch_read(expected);
                expected += 1;
            }
            let (piece, rest) = buf.split_at_mut(part.len);
            buf = rest;
            let result = match <&mut [u8; PAGE_SIZE]>::try_from(&mut *piece) {
                Ok(page) => self.read_page(part.page, page, &mut contexts),
                Err(_) => {
                    let mut page = [0; PAGE_SIZE];
                    let result = self.read_page(part.page, &mut page, &mut contexts);
                    piece.copy_from_slice(&page[part.offset..part.offset + part.len]);
                    result
                }
            };
            result.inspect_err(|_| self.count_failed_read(cpu))?;
        }
        counters.read(bytes, begin);
        Ok(())
    }

    /// Stores `buf` at byte `offset`, of any alignment.
    ///
    /// [`Error::OutOfRange`] with no effect; [`Error::NoSpace`] and [`Error::ArenaFull`] name the page that did
    /// not fit: it and the pages after it keep their old contents, those before it are written. [`Error::Remote`] with no effect
    /// where part of a page is written that is remote and does not come in time.
    pub fn write_at(&self, mut buf: &[u8], offset: u64) -> Result<(), Error> {
        let bytes = buf.len();
        self.pool.ease_off((buf.len() / PAGE_SIZE) as u32);
        let cpu = current_cpu();
        let counters = self.counters.shard(cpu);
        let begin = counters.begin_write();
        // Before the stream: what a page is patched with is not waited for under it.
        if self.is_lazy.load(Relaxed) {
            let brought = self.bring(Access::Write, offset, buf.len() as u64);
            brought.inspect_err(|_| self.count_failed_write(cpu))?;
        }
        let brought = match self.backing.is_far() {
            true => self.bring_backed(Access::Write, offset, buf.len() as u64),
            false => Ok(None),
        };
        let brought = brought.inspect_err(|_| self.count_failed_write(cpu))?;
        let mut stream = self
            .stream_for_change(cpu)
            .inspect_err(|_| self.count_failed_write(cpu))?;
        // Under the stream: shrinking takes each stream once, after which no write is in flight that saw the old
        // size.
        self.check_range(offset, buf.len() as u64)?;
        let now = self.ages.now();
        for part in parts(offset, buf.len() as u64) {
            let (piece, rest) = buf.split_at(part.len);
            buf = rest;
            let result = match <&[u8; PAGE_SIZE]>::try_from(piece) {
                Ok(page) => self.write_page(part.page, page, &mut stream, cpu),
                Err(_) => {
                    let contexts = &mut Contexts::unnoticed(&self.codecs, cpu);
                    contexts.brought = brought.as_deref();
                    self.write_part(part.page, part.offset, piece, &mut stream, contexts, cpu)
                }
            };
            result.inspect_err(|_| self.count_failed_write(cpu))?;
            if let Some(now) = now {
                self.ages.note(part.page, now);
            }
        }
        counters.written(bytes, begin);
        Ok(())
    }

    /// Takes a stream to change contents with. Waits while nothing may change: see [`CutOptions::freeze`](crate::CutOptions::freeze).
    #[inline]
    fn stream_for_change(&self, cpu: usize) -> Result<MutexGuard<'_, Stream>, Error> {
        let stream = self.streams.get(cpu);
        match &stream.watch {
            None => Ok(stream),
            Some(_) => self.pass_gate(stream, cpu),
        }
    }

    #[cold]
    fn pass_gate<'a>(
        &'a self,
        mut stream: MutexGuard<'a, Stream>,
        cpu: usize,
    ) -> Result<MutexGuard<'a, Stream>, Error> {
        loop {
            let gate = stream
                .watch
                .as_ref()
                .and_then(|watch| watch.cut.as_ref()?.gate());
            let Some(gate) = gate.cloned() else {
                return Ok(stream);
            };
            // Not held meanwhile: others need it, and who opens the gate takes each once.
            drop(stream);
            gate.pass()?;
            stream = self.streams.get(cpu);
        }
    }

    /// Waits for the current slice of recompression, writeback or promotion, and excludes the next.
    pub(crate) fn post_processing(&self) -> MutexGuard<'_, ()> {
        self.post.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Frees every page that lies wholly in the range; a partial page at either end stays as it is. Their
    /// memory goes back to the system before the call returns, except for pages that share a page of the arena
    /// with live ones and a remainder of at most 1 MiB or 3 % of the memory in use. A device of which nothing is left
    /// keeps nothing, the table included.
    pub fn discard(&self, offset: u64, len: u64) -> Result<(), Error> {
        self.check_range(offset, len)?;
        self.clear(offset, len, Zeroes::Deallocate)
    }

    /// Makes the range read as zeros, partial pages included. Fails as [`Device::write_at`] does, and only for
    /// partial pages.
    pub fn write_zeroes(&self, offset: u64, len: u64, how: Zeroes) -> Result<(), Error> {
        self.check_range(offset, len)?;
        self.clear(offset, len, how)?;
        let ends = [parts(offset, len).next(), last_part(offset, len)];
        let same = ends[0].map(|p| p.page) == ends[1].map(|p| p.page);
        for part in ends.into_iter().flatten().take(if same { 1 } else { 2 }) {
            // A part of a hole is zero already.
            if part.len < PAGE_SIZE && (how == Zeroes::Allocate || self.holds_data(part.page)) {
                let at = part.page * PAGE_SIZE as u64 + part.offset as u64;
                self.write_at(&[0; PAGE_SIZE][..part.len], at)?;
            }
        }
        Ok(())
    }

    fn holds_data(&self, page: u64) -> bool {
        self.table.peek(page) != Content::Empty
    }

    /// Clears the whole pages of a range. [`Error::HandedOver`], in the middle of it.
    pub(crate) fn clear(&self, offset: u64, len: u64, how: Zeroes) -> Result<(), Error> {
        let page = PAGE_SIZE as u64;
        let cpu = current_cpu();
        let (first, end) = (offset.div_ceil(page), (offset + len) / page);
        let (mut freed, mut emptied) = (0, 0);
        let mut at = first;
        // Under a stream, as every change of contents: who takes all streams finds none in the middle. For some slots at a
        // time, so that he waits for no discard of terabytes.
        let mut stream = None;
        while at < end {
            let slots = crate::table::SLOTS_PER_PAGE;
            if at.is_multiple_of(slots) {
                stream = None;
            }
            if how == Zeroes::Deallocate && !self.table.is_touched(at) {
                // A discard of terabytes that were never written costs nothing.
                at = (at / slots + 1) * slots;
                continue;
            }
            let stream = match &mut stream {
                Some(stream) => stream,
                None => stream.insert(self.stream_for_change(cpu)?),
            };
            // At a limit on all memory a page of zeros that has no slot becomes a hole.
            let how = match how {
                Zeroes::Allocate if self.admit_slot(at).is_err() => Zeroes::Deallocate,
                how => how,
            };
            let (old, object_bytes) = self.clear_page(at, how, stream, cpu);
            freed += object_bytes;
            emptied += u64::from(how == Zeroes::Deallocate && old != Content::Empty);
            at += 1;
        }
        drop(stream);
        let count = i64::try_from(end.saturating_sub(first)).unwrap_or(i64::MAX);
        self.counters
            .shard(cpu)
            .notify_free
            .fetch_add(count, Relaxed);
        // A write that failed may have left a page of the table, also where nothing is stored.
        let held = || self.pool.used_bytes() + self.table.used_bytes() > 0;
        if freed + emptied > 0 || self.counters.stored_pages() == 0 && held() {
            self.give_back(freed, emptied);
        }
        Ok(())
    }

    /// Returns memory to the system after `freed` object bytes were discarded and `emptied` slots became empty.
    pub(crate) fn give_back(&self, freed: u64, emptied: u64) {
        self.discarded_bytes.fetch_add(freed, Relaxed);
        self.emptied_slots.fetch_add(emptied, Relaxed);
        if self.pool.has_stock() {
            // A request makes no system call: `maintain` gives the memory back.
            return;
        }
        if self.counters.stored_pages() == 0 {
            // What overwrites freed goes, too. A discard of everything may come in pieces: the last one comes here.
            self.give_all_back();
            return;
        }
        self.pool.release_free_spans();
        self.trim_if_due();
        if self.emptied_slots.load(Relaxed) >= self.sweep_from() {
            self.release_table();
        }
        self.drop_unused_codecs();
    }

    /// Slots that became empty for which a look through the table pays.
    fn sweep_from(&self) -> u64 {
        let slots = self.table.used_bytes() / 8;
        (slots / SWEEP_FRACTION).max(crate::table::SLOTS_PER_PAGE)
    }

    /// Gives back what a job over many pages freed, at its end.
    pub(crate) fn give_all_back(&self) {
        if !self.pool.has_stock() {
            self.discarded_bytes.store(0, Relaxed);
            self.pool.trim();
            self.dedup.trim();
            self.release_table();
        }
        self.drop_unused_codecs();
    }

    /// Gives back the pages of the table, and of the ages, that hold nothing. Those of a device with a reserve stay:
    /// its requests must not ask for them again.
    pub(crate) fn release_table(&self) {
        if self.pool.has_stock() {
            return;
        }
        self.emptied_slots.store(0, Relaxed);
        self.table
            .release(|first, slots| self.ages.forget(first, slots));
        self.tell_books();
    }

    pub(crate) fn trim_if_due(&self) {
        let due = self.discarded_bytes.load(Relaxed);
        if due > 0 && due >= TRIM_BYTES.max(self.pool.used_bytes() / TRIM_FRACTION) {
            self.discarded_bytes.store(0, Relaxed);
            self.pool.trim();
            self.dedup.trim();
        }
    }

    /// Makes resident everything that a request may touch, except for objects.
    pub(crate) fn populate(&self) -> std::io::Result<()> {
        self.table.populate(0)?;
        self.tell_books();
        // Codecs' contexts touched their memory when they were made: the device has a reserve.
        self.pool.populate_books()
    }

    /// Makes acknowledged writes durable as far as the device can. Memory is all there is, so it does nothing;
    /// frontends call it all the same.
    pub fn flush(&self) -> Result<(), Error> {
        Ok(())
    }

    /// The counters now. Never waits, not even for I/O. Drops unused codecs first.
    pub fn stats(&self) -> Stats {
        self.drop_unused_codecs();
        let pool = self.pool.stats();
        self.tell_books();
        let (all, limit) = (self.pool.limits_all(), self.pool.limit_bytes());
        let mut stats = Stats {
            mem_used_total_bytes: pool.used_bytes,
            mem_used_max_bytes: pool.peak_bytes,
            mem_limit_bytes: if all { 0 } else { limit },
            total_limit_bytes: if all { limit } else { 0 },
            table_bytes: self.table_bytes(),
            metadata_bytes: pool.metadata_bytes + self.book_bytes(),
            dedup_index_bytes: self.dedup.memory_bytes(),
            snapshot_bytes: self.cut.book_bytes(),
            dictionary_bytes: self.codecs.dictionary_bytes(),
            ..Stats::default()
        };
        self.counters.add_to(&mut stats);
        stats
    }

    /// How long requests took since the device was made or reset. Never waits.
    pub fn latencies(&self) -> Latencies {
        self.counters.latencies()
    }

    /// The largest size that [`Device::resize`] accepts, in bytes.
    pub fn max_size_bytes(&self) -> u64 {
        self.table.capacity() * PAGE_SIZE as u64
    }

    /// Resizes the device, rounded up to whole pages. What is beyond the old end reads as zeros. Refuses a smaller
    /// size while anything is stored beyond it. The size is part of the image.
    ///
    /// [`Error::Invalid`] for 0 or more than [`Device::max_size_bytes`], [`Error::TailInUse`], [`Error::Reserve`] where
    /// the system refuses memory to a swap device; nothing is changed then.
    pub fn resize(&self, size_bytes: u64) -> Result<(), Error> {
        let _alone = self.resizing.lock().unwrap_or_else(PoisonError::into_inner);
        let (old, pages) = (self.table.pages(), size_bytes.div_ceil(PAGE_SIZE as u64));
        if pages == 0 || pages > self.table.capacity() {
            let most = self.max_size_bytes();
            return Err(Error::Invalid {
                what: "a size of",
                given: format!("{size_bytes} bytes"),
                accepted: format!("1 to {most} bytes; the maximum is chosen when a device is made"),
            });
        }
        if pages != old && self.is_frozen() {
            return Err(Error::Snapshot);
        }
        if pages < old {
            self.shrink(old, pages)?;
        } else if pages > old {
            self.grow(old, pages)?;
        }
        self.state()[state::PAGES].store(pages, Relaxed);
        Ok(())
    }

    fn grow(&self, old: u64, pages: u64) -> Result<(), Error> {
        self.table.set_pages(pages);
        if self.pool.has_stock() {
            let populated = self.table.populate(old);
            populated.map_err(|error| {
                self.table.set_pages(old);
                refused_swap((pages - old) * 8)(error)
            })?;
        }
        Ok(())
    }

    /// Shrinks first, so that no new write begins beyond the end, and undoes it if a write came before.
    fn shrink(&self, old: u64, pages: u64) -> Result<(), Error> {
        self.check_tail(pages, old)?;
        self.table.set_pages(pages);
        // A write takes its stream before it checks the size.
        self.streams.for_each(|_| {});
        self.check_tail(pages, old)
            .inspect_err(|_| self.table.set_pages(old))?;
        // A request that saw the old size may have left pages of zeros: nothing is lost with them.
        let page = PAGE_SIZE as u64;
        self.clear(pages * page, (old - pages) * page, Zeroes::Deallocate)?;
        Ok(())
    }

    /// Whether the slots from `first` to before `end` hold nothing but zeros.
    fn check_tail(&self, first: u64, end: u64) -> Result<(), Error> {
        let zero = |page: &u64| matches!(self.table.peek(*page), Content::Empty | Content::Same(0));
        let used = self.table.touched_in(first, end).filter(|page| !zero(page));
        used.last().map_or(Ok(()), |page| {
            Err(Error::TailInUse {
                size_bytes: (page + 1) * PAGE_SIZE as u64,
            })
        })
    }

    /// Drops all contents and statistics and gives the pool's memory back. Size, algorithms and limit stay. A page
    /// that is written meanwhile may survive or be dropped.
    pub fn reset(&self) {
        // Of another host's there is nothing to free here.
        let _ = self.clear(0, self.size_bytes(), Zeroes::Deallocate);
        self.pool.trim();
        self.dedup.trim();
        self.release_table();
        self.pool.reset_peak();
        self.counters.reset_totals();
    }

    pub(crate) fn check_range(&self, offset: u64, len: u64) -> Result<(), Error> {
        let size_bytes = self.size_bytes();
        match offset.checked_add(len) {
            Some(end) if end <= size_bytes => Ok(()),
            _ => Err(Error::OutOfRange {
                offset,
                len,
                size_bytes,
            }),
        }
    }
}

/// The part of a range that lies in its last page.
fn last_part(offset: u64, len: u64) -> Option<Part> {
    let last = (offset + len).checked_sub(1)? / PAGE_SIZE as u64 * PAGE_SIZE as u64;
    let begin = last.max(offset);
    parts(begin, offset + len - begin).next()
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Device")
            .field("size_bytes", &self.size_bytes())
            .field("algorithm", &self.driver())
            .finish_non_exhaustive()
    }
}
