//! What the index is made of: keys, entries of 12 bytes, and buckets of five of them in a cache line.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU32, AtomicU64};

use crate::PAGE_SIZE;

/// Bits of the hash that choose the shard.
pub(super) const SHARD_BITS: u32 = 6;
/// Bits of the hash after these that an entry keeps.
pub(super) const TAG_BITS: u32 = 21;
/// Buckets in a page of the index,
pub(super) const BUCKETS: usize = PAGE_SIZE / 64;
/// and entries in a bucket.
pub(super) const WAYS: usize = 5;
/// References that an entry counts.
pub(super) const MAX_REFS: u32 = (1 << REF_BITS) - 1;

// An entry's key, 64 bits: handle (39), length less one (12), codec (4), lower tag (9).
const LEN: u32 = 39;
const ALGORITHM: u32 = 51;
const LOW_TAG: u32 = 55;
const LOW_TAG_BITS: u32 = 9;
pub(super) const HANDLE_MASK: u64 = (1 << LEN) - 1;
// Its other half, 32 bits: references (20; 0: no entry), upper tag (12).
const REF_BITS: u32 = 20;

/// What an object is looked up by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ObjectKey {
    pub(super) hash: u64,
    pub(super) algorithm: u8,
    /// 1 to 4096.
    pub(super) len: usize,
}

impl ObjectKey {
    pub(super) fn shard(self) -> usize {
        (self.hash >> (64 - SHARD_BITS)) as usize
    }

    fn tag(self) -> u32 {
        (self.hash << SHARD_BITS >> (64 - TAG_BITS)) as u32
    }

    /// What an entry for it has besides handle and references.
    pub(super) fn entry(self) -> IndexEntry {
        let tag = self.tag();
        let low = u64::from(tag) & ((1 << LOW_TAG_BITS) - 1);
        IndexEntry {
            key: low << LOW_TAG
                | u64::from(self.algorithm & 15) << ALGORITHM
                | (self.len as u64 - 1) << LEN,
            rest: tag >> LOW_TAG_BITS << REF_BITS,
        }
    }
}

/// An entry as it lies in a bucket.
#[derive(Clone, Copy)]
pub(super) struct IndexEntry {
    pub(super) key: u64,
    pub(super) rest: u32,
}

impl IndexEntry {
    pub(super) const NONE: IndexEntry = IndexEntry { key: 0, rest: 0 };

    pub(super) fn refs(self) -> u32 {
        self.rest & MAX_REFS
    }

    pub(super) fn tag(self) -> u32 {
        self.rest >> REF_BITS << LOW_TAG_BITS | (self.key >> LOW_TAG) as u32
    }

    /// The bucket that it is looked for first. Of tag and length, which every entry has: in the largest indexes the
    /// pages use up most of the tag.
    pub(super) fn home(self) -> usize {
        let len = (self.key >> LEN) as usize & 0xFFF;
        (self.tag() as usize ^ len ^ len >> 6) % BUCKETS
    }

    pub(super) fn is_like(self, wanted: IndexEntry) -> bool {
        self.refs() > 0
            && self.key & !HANDLE_MASK == wanted.key
            && self.rest & !MAX_REFS == wanted.rest
    }
}

/// One cache line of a page.
pub(super) struct Bucket<'a> {
    pub(super) keys: &'a [AtomicU64],
    /// The other halves of the entries; last, how many entries lie elsewhere that are looked for here.
    pub(super) rests: &'a [AtomicU32],
}

impl Bucket<'_> {
    pub(super) fn get(&self, way: usize) -> IndexEntry {
        IndexEntry {
            key: self.keys[way].load(Relaxed),
            rest: self.rests[way].load(Relaxed),
        }
    }

    pub(super) fn set(&self, way: usize, entry: IndexEntry) {
        self.keys[way].store(entry.key, Relaxed);
        self.rests[way].store(entry.rest, Relaxed);
    }

    pub(super) fn elsewhere(&self) -> u32 {
        self.rests[WAYS].load(Relaxed)
    }

    pub(super) fn add_elsewhere(&self, change: i32) {
        let count = self.elsewhere().wrapping_add_signed(change);
        self.rests[WAYS].store(count, Relaxed);
    }
}
