//! The device's counters: one padded set for each shard, so that CPUs do not share cache lines, added up when
//! somebody looks. Looking never waits for I/O.
//!
//! The table in `counters!` declares each counter once. Shards, sums, reset, [`Stats`], its serialised form and
//! [`Stats::COUNTERS`], which printers and exporters iterate, are made of it. A new counter is one line there and one
//! where it is counted: `device.counters.shard(cpu).NAME.fetch_add(1, Relaxed)`.

use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::Instant;

use crossbeam_utils::CachePadded;

use crate::PAGE_SIZE;
use crate::codec::CODECS;
use crate::latency::{Latencies, Latency, Times};
use crate::word::Content;

/// What a counter counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CounterKind {
    /// Events since the device was made or reset: only grows between two resets.
    Total,
    /// What is there now: grows and falls with the contents, and a reset does not touch it.
    Gauge,
}

/// What a counter's value is a number of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Pages of 4096 bytes.
    Pages,
    /// Calls of [`Device::read_at`](crate::Device::read_at) or [`Device::write_at`](crate::Device::write_at), which are
    /// requests of whoever uses the device.
    Requests,
}

/// One counter of a device: see [`Stats::COUNTERS`].
#[derive(Debug, Clone, Copy)]
pub struct Counter {
    /// Its name in JSON, zram's where zram has it.
    pub name: &'static str,
    /// Total or gauge.
    pub kind: CounterKind,
    /// What it is a number of.
    pub unit: Unit,
    /// What it counts, in a sentence.
    pub doc: &'static str,
    /// Its value.
    pub get: fn(&Stats) -> u64,
}

/// Declares the counters. A line: field of [`Stats`], name in JSON, kind, unit, doc. Those under `counted` are also
/// fields of [`Shard`], added up by [`Counters::add_to`] and, if totals, zeroed by [`Counters::reset_totals`]; those
/// under `derived` are filled in by [`Counters::add_to`] or `Device::stats` from something else.
macro_rules! counters {
    (
        counted { $($field:ident $name:literal $kind:ident $unit:ident $doc:literal)* }
        derived { $($derived:ident $dname:literal $dkind:ident $dunit:ident $ddoc:literal)* }
    ) => {
        /// The device's counters at one moment, in the terms of zram's `mm_stat` and `io_stat`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
        // A process of another version may lack some.
        #[cfg_attr(feature = "serde", serde(default))]
        #[non_exhaustive]
        pub struct Stats {
            $(#[doc = $ddoc] #[cfg_attr(feature = "serde", serde(rename = $dname))] pub $derived: u64,)*
            $(#[doc = $doc] #[cfg_attr(feature = "serde", serde(rename = $name))] pub $field: u64,)*
        }

        impl Stats {
            /// Every counter, for whoever prints or exports all of them.
            pub const COUNTERS: &'static [Counter] = &[
                $(Counter {
                    name: $dname,
                    kind: CounterKind::$dkind,
                    unit: Unit::$dunit,
                    doc: $ddoc,
                    get: |stats| stats.$derived,
                },)*
                $(Counter {
                    name: $name,
                    kind: CounterKind::$kind,
                    unit: Unit::$unit,
                    doc: $doc,
                    get: |stats| stats.$field,
                },)*
            ];
        }

        /// One CPU's share of the counters. A gauge's may be negative: what one CPU stored another may drop.
        #[derive(Debug, Default)]
        pub(crate) struct Shard {
            stored_pages: AtomicI64,
            $(pub(crate) $field: AtomicI64,)*
            /// Those of each codec; the last are remote pages.
            codecs: [OfCodec; CODECS + 1],
            read_times: Times,
            write_times: Times,
        }

        impl Shard {
            fn reset_totals(&self) {
                $(if CounterKind::$kind == CounterKind::Total {
                    self.$field.store(0, Relaxed);
                })*
                self.read_times.reset();
                self.write_times.reset();
            }
        }

        impl Counters {
            fn add_counted(&self, stats: &mut Stats) {
                $(stats.$field = self.sum(|shard| &shard.$field);)*
            }
        }
    };
}

counters! {
    counted {
        read_requests "read_requests" Total Requests "Reads that were answered."
        read_bytes "read_bytes" Total Bytes "Bytes of these."
        write_requests "write_requests" Total Requests "Writes that were carried out. Discards and zeroes are no writes."
        write_bytes "write_bytes" Total Bytes "Bytes of these."
        same_pages "same_pages" Gauge Pages "Pages that hold one repeated word (mm_stat 6)."
        huge_pages "huge_pages" Gauge Pages "Pages stored uncompressed (mm_stat 8)."
        huge_pages_since "huge_pages_since" Total Pages "Huge pages stored since the device was made or reset (mm_stat 9)."
        failed_reads "failed_reads" Total Pages "Pages that could not be read (io_stat 1)."
        failed_writes "failed_writes" Total Pages "Pages that could not be written (io_stat 2)."
        notify_free "notify_free" Total Pages "Pages discarded (io_stat 4)."
        backed_pages "backed_pages" Gauge Pages "Pages whose objects are on the backing."
        backed_data_size_bytes "backed_data_size" Gauge Bytes "Bytes of the objects on the backing."
        backed_reads "backed_reads" Total Pages "Pages read from the backing since the device was made or reset."
        backed_writes "backed_writes" Total Pages "Pages written back since the device was made or reset."
        fetched_pages "fetched_pages" Total Pages "Pages of a clone fetched from its source since the device was made or reset."
        failed_fetches "failed_fetches" Total Pages "Pages of frames that did not come when they were fetched, each try counted."
        failed_writebacks "failed_writebacks" Total Pages "Pages that could not be written back and stayed in memory."
        recompressed_pages "recompressed_pages" Total Pages "Pages that recompression made smaller."
        pages_compacted "pages_compacted" Total Pages "Pages freed by compaction (mm_stat 7)."
        dup_pages "dup_pages" Gauge Pages "Pages that share another page's object (dedup)."
        dup_data_size_bytes "dup_data_size" Gauge Bytes "Bytes of the objects that these pages would have."
    }
    derived {
        orig_data_size_bytes "orig_data_size" Gauge Bytes "Bytes of all written pages (mm_stat 1)."
        compr_data_size_bytes "compr_data_size" Gauge Bytes "Bytes of the stored objects, shared ones once (mm_stat 2)."
        remote_pages "remote_pages" Gauge Pages "Pages of a clone that were not fetched yet; some may prove to be zeros."
        mem_used_total_bytes "mem_used_total" Gauge Bytes "Pool memory in use (mm_stat 3)."
        mem_limit_bytes "mem_limit" Gauge Bytes "Limit on pool memory, 0 for none (mm_stat 4)."
        total_limit_bytes "mem_limit_total" Gauge Bytes "Limit on all memory (pool, table and books), 0 for none."
        mem_used_max_bytes "mem_used_max" Gauge Bytes "Most pool memory in use so far (mm_stat 5)."
        table_bytes "table_bytes" Gauge Bytes "Memory of the slot table that is in use."
        metadata_bytes "metadata_bytes" Gauge Bytes "Memory of the pool's books, dedup index, streams, contexts and dictionaries."
        dictionary_bytes "dictionary_bytes" Gauge Bytes "Bytes of the dictionaries in the image."
        dedup_index_bytes "dedup_index_bytes" Gauge Bytes "Memory of the dedup index; part of metadata_bytes."
        snapshot_bytes "snapshot_bytes" Gauge Bytes "Memory of the books of a snapshot that is being taken, beside what it keeps of what is overwritten; part of metadata_bytes."
    }
}

impl Stats {
    /// All memory of the device: pool, slot table, books, streams and dictionaries.
    pub fn all_memory_bytes(&self) -> u64 {
        self.mem_used_total_bytes + self.table_bytes + self.metadata_bytes
    }
}

/// Objects of one codec, wherever they are, and the bytes of those in the pool. A shared object counts for each page that
/// has it: the first rule of codecs is that their count is 0 only when no word names them.
#[derive(Debug, Default)]
struct OfCodec {
    objects: AtomicI64,
    bytes: AtomicI64,
}

/// What one page contributes to the counters that follow the contents.
#[derive(Clone, Copy, Default)]
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
        codec: content.codec().map(usize::from),
        ..Weight::default()
    };
    match content {
        Content::Empty => weight.stored = 0,
        // Whatever codec it has elsewhere: counted as if it were one more.
        Content::Remote => (weight.stored, weight.codec) = (0, Some(CODECS)),
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
    /// Begins to time a read, if it is one of those that are.
    #[inline]
    pub(crate) fn begin_read(&self) -> Option<Instant> {
        Times::begin(self.read_requests.load(Relaxed) as u64)
    }

    /// Begins to time a write, likewise.
    #[inline]
    pub(crate) fn begin_write(&self) -> Option<Instant> {
        Times::begin(self.write_requests.load(Relaxed) as u64)
    }

    /// Notes a read that was answered.
    #[inline]
    pub(crate) fn read(&self, bytes: usize, begin: Option<Instant>) {
        self.read_requests.fetch_add(1, Relaxed);
        self.read_bytes.fetch_add(bytes as i64, Relaxed);
        if let Some(begin) = begin {
            self.read_times.end(begin);
        }
    }

    /// Notes a write that was carried out.
    #[inline]
    pub(crate) fn written(&self, bytes: usize, begin: Option<Instant>) {
        self.write_requests.fetch_add(1, Relaxed);
        self.write_bytes.fetch_add(bytes as i64, Relaxed);
        if let Some(begin) = begin {
            self.write_times.end(begin);
        }
    }

    /// Notes that pages more (or fewer) share an object of `len` bytes with another.
    pub(crate) fn shared(&self, pages: i64, len: usize) {
        self.dup_pages.fetch_add(pages, Relaxed);
        self.dup_data_size_bytes
            .fetch_add(pages * len as i64, Relaxed);
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
            (
                &self.backed_data_size_bytes,
                new.backed_bytes - old.backed_bytes,
            ),
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
}

impl Counters {
    pub(crate) fn new(shards: usize) -> Counters {
        Counters {
            shards: (0..shards.max(1)).map(|_| CachePadded::default()).collect(),
        }
    }

    /// The set for a shard number of any size.
    pub(crate) fn shard(&self, number: usize) -> &Shard {
        &self.shards[number % self.shards.len()]
    }

    /// Adds one counter up over the shards. A page counted in one and dropped in another can make the sum negative for
    /// a moment, which reads as 0.
    ///
    /// Acquire, with the Release of [`Shard::moved`]: who sees 0 also sees what was done before the last decrement.
    fn sum(&self, pick: impl Fn(&Shard) -> &AtomicI64) -> u64 {
        let shards = self.shards.iter();
        let total: i64 = shards.map(|shard| pick(shard).load(Acquire)).sum();
        total.max(0) as u64
    }

    /// Fills in what is counted here.
    pub(crate) fn add_to(&self, stats: &mut Stats) {
        self.add_counted(stats);
        stats.orig_data_size_bytes = self.sum(|shard| &shard.stored_pages) * PAGE_SIZE as u64;
        let compressed: u64 = (0..CODECS).map(|index| self.codec_totals(index).1).sum();
        stats.remote_pages = self.remote_pages();
        let all = compressed + stats.huge_pages * PAGE_SIZE as u64;
        stats.compr_data_size_bytes = all.saturating_sub(stats.dup_data_size_bytes);
    }

    /// Objects of a codec and their bytes. Once no more are made, 0 objects are none: then the sets only fall, and
    /// what a look at one after the other adds up to is never less than what is left.
    pub(crate) fn codec_totals(&self, index: usize) -> (u64, u64) {
        let objects = self.sum(|shard| &shard.codecs[index].objects);
        (objects, self.sum(|shard| &shard.codecs[index].bytes))
    }

    /// Remote pages. Never less than there are: they only become fewer.
    pub(crate) fn remote_pages(&self) -> u64 {
        self.sum(|shard| &shard.codecs[CODECS].objects)
    }

    /// Notes that pages became remote that were empty.
    pub(crate) fn became_remote(&self, pages: u64) {
        let remote = &self.shard(0).codecs[CODECS].objects;
        remote.fetch_add(pages as i64, Relaxed);
    }

    /// Pages that hold something.
    pub(crate) fn stored_pages(&self) -> u64 {
        self.sum(|shard| &shard.stored_pages)
    }

    /// Pages whose objects are on the backing.
    pub(crate) fn backed_pages(&self) -> u64 {
        self.sum(|shard| &shard.backed_pages)
    }

    /// Times of requests.
    pub(crate) fn latencies(&self) -> Latencies {
        let shards = || self.shards.iter();
        Latencies {
            read: Latency::sum(shards().map(|shard| &shard.read_times)),
            write: Latency::sum(shards().map(|shard| &shard.write_times)),
        }
    }

    /// Zeroes the totals; gauges follow the contents.
    pub(crate) fn reset_totals(&self) {
        self.shards.iter().for_each(|shard| shard.reset_totals());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is counted in any shard is in the sum, under its name; a reset zeroes the totals and nothing else.
    #[test]
    fn every_counter_is_added_up_and_every_total_reset() {
        let counters = Counters::new(3);
        counters.shard(0).failed_reads.fetch_add(2, Relaxed);
        counters.shard(2).failed_reads.fetch_add(3, Relaxed);
        counters.shard(1).same_pages.fetch_add(-1, Relaxed);
        counters.shard(5).same_pages.fetch_add(8, Relaxed);
        let value = |name: &str| {
            let mut stats = Stats::default();
            counters.add_to(&mut stats);
            let counter = Stats::COUNTERS.iter().find(|c| c.name == name);
            counter.map(|counter| (counter.get)(&stats))
        };
        assert_eq!(value("failed_reads"), Some(5));
        assert_eq!(value("same_pages"), Some(7));
        counters.reset_totals();
        assert_eq!(value("failed_reads"), Some(0));
        assert_eq!(value("same_pages"), Some(7));
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<&str> = Stats::COUNTERS.iter().map(|c| c.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Stats::COUNTERS.len());
    }
}
