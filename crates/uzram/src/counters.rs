//! The device's counters: one padded set for each shard, so that CPUs do not share cache lines, added up when
//! somebody looks. Looking never waits for I/O.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicI64, AtomicU64};

use crossbeam_utils::CachePadded;

use crate::PAGE_SIZE;
use crate::codec::CODECS;
use crate::word::Content;

/// The device's counters at one moment, in the terms of zram's `mm_stat` and `io_stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Bytes of all written pages (mm_stat 1).
    pub orig_data_size_bytes: u64,
    /// Bytes of the stored objects (mm_stat 2), shared ones once. Same-filled pages have none.
    pub compr_data_size_bytes: u64,
    /// Pool memory in use (mm_stat 3).
    pub mem_used_total_bytes: u64,
    /// The limit on it, 0 for none (mm_stat 4).
    pub mem_limit_bytes: u64,
    /// The most it ever was (mm_stat 5).
    pub mem_used_max_bytes: u64,
    /// Pages that hold one repeated word (mm_stat 6).
    pub same_pages: u64,
    /// Pages freed by compaction (mm_stat 7): see [`crate::Device::compact`].
    pub pages_compacted: u64,
    /// Pages stored uncompressed (mm_stat 8).
    pub huge_pages: u64,
    /// Huge pages stored since the device was made or reset (mm_stat 9).
    pub huge_pages_since: u64,
    /// Pages that could not be read (io_stat 1).
    pub failed_reads: u64,
    /// Pages that could not be written (io_stat 2).
    pub failed_writes: u64,
    /// Pages discarded (io_stat 4).
    pub notify_free: u64,
    /// Pages whose objects are on the backing device.
    pub backed_pages: u64,
    /// Bytes of these objects.
    pub backed_data_size_bytes: u64,
    /// Pages read from the backing device since the device was made or reset.
    pub backed_reads: u64,
    /// Pages written back since.
    pub backed_writes: u64,
    /// Pages that could not be written back since: they stayed in memory.
    pub failed_writebacks: u64,
    /// Pages that recompression made smaller since.
    pub recompressed_pages: u64,
    /// Pages that have no object of their own, since they share another page's: see [`crate::Device::set_dedup`].
    pub dup_pages: u64,
    /// Bytes of the objects that these would have.
    pub dup_data_size_bytes: u64,
    /// Memory of the dedup index; part of `metadata_bytes`.
    pub dedup_index_bytes: u64,
    /// Memory of the slot table that is in use.
    pub table_bytes: u64,
    /// Memory of the pool's books and of the dedup index, and of streams, contexts and dictionaries as far as the
    /// algorithms' libraries tell.
    pub metadata_bytes: u64,
    /// Bytes of the dictionaries in the image.
    pub dictionary_bytes: u64,
}

/// Objects of one codec, wherever they are, and the bytes of those in the pool. A shared object counts for each page that
/// has it: the first rule of codecs is that their count is 0 only when no word names them.
#[derive(Debug, Default)]
struct OfCodec {
    objects: AtomicI64,
    bytes: AtomicI64,
}

#[derive(Debug, Default)]
pub(crate) struct Shard {
    stored_pages: AtomicI64,
    same_pages: AtomicI64,
    huge_pages: AtomicI64,
    huge_pages_since: AtomicI64,
    pub(crate) failed_reads: AtomicI64,
    pub(crate) failed_writes: AtomicI64,
    pub(crate) notify_free: AtomicI64,
    backed_pages: AtomicI64,
    backed_bytes: AtomicI64,
    pub(crate) backed_reads: AtomicI64,
    pub(crate) backed_writes: AtomicI64,
    pub(crate) failed_writebacks: AtomicI64,
    pub(crate) recompressed_pages: AtomicI64,
    dup_pages: AtomicI64,
    dup_bytes: AtomicI64,
    codecs: [OfCodec; CODECS],
}

/// What one page contributes to the counters that follow the contents.
#[derive(Clone, Copy)]
struct Weight {
    stored: i64,
    same: i64,
    huge: i64,
    backed: i64,
    backed_bytes: i64,
    /// The index of its codec.
    codec: Option<usize>,
    /// The length of its compressed object in the pool.
    bytes: i64,
}

fn weight(content: Content) -> Weight {
    let mut weight = Weight {
        stored: 1,
        same: 0,
        huge: 0,
        backed: 0,
        backed_bytes: 0,
        codec: content.codec().map(usize::from),
        bytes: 0,
    };
    match content {
        Content::Empty => weight.stored = 0,
        Content::Same(_) | Content::SameObject { .. } => weight.same = 1,
        Content::Compressed { len, .. } => weight.bytes = len.into(),
        Content::Huge { .. } => weight.huge = 1,
        Content::Shared { .. } if content.is_huge() => weight.huge = 1,
        Content::Shared { len, .. } => weight.bytes = len.into(),
        Content::Backed(backed) => {
            weight.backed = 1;
            weight.backed_bytes = backed.len.into();
        }
    }
    weight
}

impl Shard {
    /// Notes that pages more (or fewer) share an object of `len` bytes with another.
    pub(crate) fn shared(&self, pages: i64, len: usize) {
        self.dup_pages.fetch_add(pages, Relaxed);
        self.dup_bytes.fetch_add(pages * len as i64, Relaxed);
    }

    /// Notes that a page was written or discarded, after the new word was published.
    pub(crate) fn replaced(&self, old: Content, new: Content) {
        if new.is_huge() {
            self.huge_pages_since.fetch_add(1, Relaxed);
        }
        self.moved(old, new);
    }

    /// Notes that a page is kept in another way than before, likewise.
    pub(crate) fn moved(&self, old: Content, new: Content) {
        let (old, new) = (weight(old), weight(new));
        for (counter, change) in [
            (&self.stored_pages, new.stored - old.stored),
            (&self.same_pages, new.same - old.same),
            (&self.huge_pages, new.huge - old.huge),
            (&self.backed_pages, new.backed - old.backed),
            (&self.backed_bytes, new.backed_bytes - old.backed_bytes),
        ] {
            if change != 0 {
                // Release: who sees the last page off the backing sees that nobody frees its place any more.
                counter.fetch_add(change, Release);
            }
        }
        if old.codec == new.codec {
            if let Some(index) = new.codec
                && old.bytes != new.bytes
            {
                let bytes = &self.codecs[index].bytes;
                bytes.fetch_add(new.bytes - old.bytes, Relaxed);
            }
            return;
        }
        if let Some(index) = new.codec {
            self.codecs[index].bytes.fetch_add(new.bytes, Relaxed);
            self.codecs[index].objects.fetch_add(1, Relaxed);
        }
        if let Some(index) = old.codec {
            self.codecs[index].bytes.fetch_sub(old.bytes, Relaxed);
            // Release: who sees the last object gone sees that nobody decompresses it any more. See
            // `codec/table.rs`.
            self.codecs[index].objects.fetch_sub(1, Release);
        }
    }
}

/// One set of counters for each shard.
pub(crate) struct Counters {
    shards: Box<[CachePadded<Shard>]>,
    pub(crate) pages_compacted: AtomicU64,
}

impl Counters {
    pub(crate) fn new(shards: usize) -> Counters {
        Counters {
            shards: (0..shards.max(1)).map(|_| CachePadded::default()).collect(),
            pages_compacted: AtomicU64::new(0),
        }
    }

    /// The set for a shard number of any size.
    pub(crate) fn shard(&self, number: usize) -> &Shard {
        &self.shards[number % self.shards.len()]
    }

    /// Adds the sets up. A page counted in one shard and dropped in another gives a sum that is never negative
    /// for long; it is shown as 0 while it is.
    pub(crate) fn add_to(&self, stats: &mut Stats) {
        let sum = |pick: fn(&Shard) -> &AtomicI64| {
            let total: i64 = self
                .shards
                .iter()
                .map(|shard| pick(shard).load(Relaxed))
                .sum();
            total.max(0) as u64
        };
        stats.orig_data_size_bytes = sum(|s| &s.stored_pages) * PAGE_SIZE as u64;
        let compressed: u64 = (0..CODECS).map(|index| self.of_codec(index).1).sum();
        stats.same_pages = sum(|s| &s.same_pages);
        stats.huge_pages = sum(|s| &s.huge_pages);
        stats.dup_pages = sum(|s| &s.dup_pages);
        stats.dup_data_size_bytes = sum(|s| &s.dup_bytes);
        let all = compressed + stats.huge_pages * PAGE_SIZE as u64;
        stats.compr_data_size_bytes = all.saturating_sub(stats.dup_data_size_bytes);
        stats.huge_pages_since = sum(|s| &s.huge_pages_since);
        stats.failed_reads = sum(|s| &s.failed_reads);
        stats.failed_writes = sum(|s| &s.failed_writes);
        stats.notify_free = sum(|s| &s.notify_free);
        stats.backed_pages = self.backed_pages();
        stats.backed_data_size_bytes = sum(|s| &s.backed_bytes);
        stats.backed_reads = sum(|s| &s.backed_reads);
        stats.backed_writes = sum(|s| &s.backed_writes);
        stats.failed_writebacks = sum(|s| &s.failed_writebacks);
        stats.recompressed_pages = sum(|s| &s.recompressed_pages);
        stats.pages_compacted = self.pages_compacted.load(Relaxed);
    }

    /// Objects of a codec and their bytes. Once no more are made, 0 objects are none: then the sets only fall, and
    /// what a look at one after the other adds up to is never less than what is left.
    pub(crate) fn of_codec(&self, index: usize) -> (u64, u64) {
        let sum = |pick: fn(&OfCodec) -> &AtomicI64| {
            let of_shard = |shard: &CachePadded<Shard>| pick(&shard.codecs[index]).load(Acquire);
            self.shards.iter().map(of_shard).sum::<i64>().max(0) as u64
        };
        (sum(|codec| &codec.objects), sum(|codec| &codec.bytes))
    }

    /// Pages whose objects are on the backing device.
    pub(crate) fn backed_pages(&self) -> u64 {
        let of_shard = |shard: &CachePadded<Shard>| shard.backed_pages.load(Acquire);
        self.shards.iter().map(of_shard).sum::<i64>().max(0) as u64
    }

    /// Zeroes the counters that only ever grow; the others follow the contents.
    pub(crate) fn reset_totals(&self) {
        self.pages_compacted.store(0, Relaxed);
        for shard in &self.shards {
            for counter in [
                &shard.huge_pages_since,
                &shard.failed_reads,
                &shard.failed_writes,
                &shard.notify_free,
                &shard.backed_reads,
                &shard.backed_writes,
                &shard.failed_writebacks,
                &shard.recompressed_pages,
            ] {
                counter.store(0, Relaxed);
            }
        }
    }
}
