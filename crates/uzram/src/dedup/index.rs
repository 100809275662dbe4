//! The index: finds objects by hash and counts the words that name them. Derived, in private memory, never on the
//! heap.
//!
//! It has up to 64 *shards* with a lock each, by the highest bits of the hash. A shard is an extendible hash table: a
//! directory by the leading bits of a hash, which names *pages* of 4096 bytes. A page that is nearly full is split in
//! two, and the directory is doubled when only one of its entries named the page. So the table grows by a page at a
//! time: a split moves some 300 entries, and no write ever waits for a rehash of the whole. Directory and pages lie
//! in reserved address space and are not touched before they are needed.
//!
//! A page has 64 *buckets*, a cache line each: five entries of 12 bytes, and the number of entries that overflowed
//! from here into one of the following buckets. A miss mostly reads one line.
//!
//! An entry has the object's handle, length and codec, 21 more bits of its hash, and its references. The caller compares
//! the bytes. An index that has no room refuses an entry; then the object is simply not shared.
//!
//! Memory: 14 to 28 bytes an object (a page is 90 % full before it is split), 4096 a shard at least. It is given back
//! when a shard is empty.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crossbeam_utils::CachePadded;
use uzram_pool::Region;

use super::entry::{
    BUCKETS, Bucket, HANDLE_MASK, IndexEntry, MAX_REFS, ObjectKey, SHARD_BITS, TAG_BITS, WAYS,
};
use crate::PAGE_SIZE;

/// The most shards,
const SHARDS: u64 = 1 << SHARD_BITS;
/// and objects for which one more pays: a small index has fewer, for each takes a page at least.
const OBJECTS_PER_SHARD: u64 = 4096;
/// Entries that a page may have,
const FULL: u32 = (BUCKETS * WAYS) as u32;
/// and with which it is split.
const SPLIT: u32 = FULL * 9 / 10;
/// Objects for each page of the largest index: less than half of what it is split at, for the hash is not even and
/// objects have more than one entry where their references ran out.
const OBJECTS_PER_PAGE: u64 = 128;

/// Where an entry is: bucket and way in a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spot {
    page: u32,
    bucket: usize,
    way: usize,
    home: usize,
}

pub(super) struct Index {
    region: Region,
    /// The directory of a shard has at most 2 to the power of this many entries, and the shard as many pages.
    max_depth: u32,
    shards: Box<[CachePadded<Mutex<IndexShard>>]>,
    /// References that an entry counts; fewer in tests.
    pub(super) most_refs: u32,
    /// Pages in use.
    pages: AtomicU64,
}

#[derive(Default)]
struct IndexShard {
    /// The directory has 2 to the power of this many entries.
    depth: u32,
    /// Pages in use; 0 before the first entry.
    pages: u32,
    entries: u64,
    /// References dropped while others stayed, since the last question.
    parted: u64,
}

/// A shard that is locked.
pub(super) struct Locked<'a> {
    index: &'a Index,
    number: usize,
    shard: MutexGuard<'a, IndexShard>,
}

impl Index {
    /// An index for that many objects; takes no memory yet.
    pub(super) fn new(objects: u64) -> std::io::Result<Index> {
        let shards = (objects / OBJECTS_PER_SHARD)
            .next_power_of_two()
            .min(SHARDS);
        let pages = objects.div_ceil(shards * OBJECTS_PER_PAGE);
        let max_depth = pages.next_power_of_two().trailing_zeros().min(TAG_BITS - 1);
        Ok(Index {
            region: Region::private(shards * shard_bytes(max_depth))?,
            max_depth,
            most_refs: MAX_REFS,
            shards: (0..shards).map(|_| CachePadded::default()).collect(),
            pages: AtomicU64::new(0),
        })
    }

    /// Memory in use.
    pub(super) fn bytes(&self) -> u64 {
        self.pages.load(Relaxed) * (PAGE_SIZE + 8) as u64
    }

    /// The shard of a key.
    pub(super) fn lock(&self, key: ObjectKey) -> Locked<'_> {
        self.lock_shard(key.shard() * self.shards.len() / SHARDS as usize)
    }

    fn lock_shard(&self, number: usize) -> Locked<'_> {
        // A panic under the lock is a bug in this file; the entries are as good as they were.
        let lock = &self.shards[number];
        Locked {
            index: self,
            number,
            shard: lock.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// Gives the memory of empty shards back to the system.
    pub(super) fn trim(&self) {
        for number in 0..self.shards.len() {
            let mut locked = self.lock_shard(number);
            if locked.shard.entries > 0 || locked.shard.pages == 0 {
                continue;
            }
            let bytes = shard_bytes(self.max_depth);
            self.region.release(number as u64 * bytes, bytes);
            self.pages.fetch_sub(locked.shard.pages.into(), Relaxed);
            *locked.shard = IndexShard::default();
        }
    }

    /// Whether enough references were dropped while others stayed, in proportion to the entries, since the last time
    /// that this was so.
    pub(super) fn many_parted(&self) -> bool {
        let (mut parted, mut entries) = (0, 0);
        for number in 0..self.shards.len() {
            let locked = self.lock_shard(number);
            parted += locked.shard.parted;
            entries += locked.shard.entries;
        }
        let many = parted > 0 && parted >= entries / 64;
        if many {
            (0..self.shards.len()).for_each(|number| self.lock_shard(number).shard.parted = 0);
        }
        many
    }
}

/// Address space of a shard: the directory, each page's depth and number of entries, the pages.
fn shard_bytes(max_depth: u32) -> u64 {
    2 * side_bytes(max_depth) + ((PAGE_SIZE as u64) << max_depth)
}

/// Of the directory, and of what is known of the pages.
fn side_bytes(max_depth: u32) -> u64 {
    (4u64 << max_depth).next_multiple_of(PAGE_SIZE as u64)
}

impl Locked<'_> {
    fn base(&self) -> u64 {
        self.number as u64 * shard_bytes(self.index.max_depth)
    }

    fn directory(&self) -> &[AtomicU32] {
        let count = 1 << self.index.max_depth;
        self.index.region.halves(self.base(), count)
    }

    /// A page's depth (the bits of the tag that its entries have in common) in the upper half, its entries in the lower.
    fn about(&self, page: u32) -> &AtomicU32 {
        let at = self.base() + side_bytes(self.index.max_depth) + u64::from(page) * 4;
        &self.index.region.halves(at, 1)[0]
    }

    fn depth_and_count(&self, page: u32) -> (u32, u32) {
        let about = self.about(page).load(Relaxed);
        (about >> 16, about & 0xFFFF)
    }

    fn bucket(&self, page: u32, bucket: usize) -> Bucket<'_> {
        let pages = self.base() + 2 * side_bytes(self.index.max_depth);
        let at = pages + u64::from(page) * PAGE_SIZE as u64 + bucket as u64 * 64;
        Bucket {
            keys: self.index.region.words(at, WAYS),
            rests: self.index.region.halves(at + 40, WAYS + 1),
        }
    }

    fn page_of(&self, tag: u32) -> u32 {
        let at = tag >> (TAG_BITS - self.shard.depth);
        self.directory()[at as usize].load(Relaxed)
    }

    /// The entry for the object at this handle.
    pub(super) fn find(&self, key: ObjectKey, handle: u64) -> Option<Spot> {
        self.find_where(key, |h, _| h == handle)
    }

    /// An entry for an object with this key that counts another reference and `is` the one wanted, by its handle.
    pub(super) fn find_open(&self, key: ObjectKey, is: impl Fn(u64) -> bool) -> Option<Spot> {
        self.find_where(key, |handle, refs| {
            refs < self.index.most_refs && is(handle)
        })
    }

    fn find_where(&self, key: ObjectKey, is: impl Fn(u64, u32) -> bool) -> Option<Spot> {
        if self.shard.pages == 0 {
            return None;
        }
        let wanted = key.entry();
        let (page, home) = (self.page_of(wanted.tag()), wanted.home());
        let mut elsewhere = self.bucket(page, home).elsewhere();
        for distance in 0..BUCKETS {
            let number = (home + distance) % BUCKETS;
            let bucket = self.bucket(page, number);
            for way in 0..WAYS {
                let entry = bucket.get(way);
                if entry.is_like(wanted) && is(entry.key & HANDLE_MASK, entry.refs()) {
                    return Some(Spot {
                        page,
                        bucket: number,
                        way,
                        home,
                    });
                }
                let guest = distance > 0 && entry.refs() > 0 && entry.home() == home;
                elsewhere -= u32::from(guest);
            }
            if elsewhere == 0 {
                return None;
            }
        }
        None
    }

    pub(super) fn handle(&self, spot: Spot) -> u64 {
        self.bucket(spot.page, spot.bucket).get(spot.way).key & HANDLE_MASK
    }

    pub(super) fn refs(&self, spot: Spot) -> u32 {
        self.bucket(spot.page, spot.bucket).get(spot.way).refs()
    }

    /// Replaces the object's handle.
    pub(super) fn relocate(&mut self, spot: Spot, handle: u64) {
        let bucket = self.bucket(spot.page, spot.bucket);
        let mut entry = bucket.get(spot.way);
        entry.key = entry.key & !HANDLE_MASK | handle;
        bucket.set(spot.way, entry);
    }

    /// Adds a reference; `false` if the entry counts no more.
    pub(super) fn join(&mut self, spot: Spot) -> bool {
        let bucket = self.bucket(spot.page, spot.bucket);
        let mut entry = bucket.get(spot.way);
        let room = entry.refs() < self.index.most_refs;
        entry.rest += u32::from(room);
        bucket.set(spot.way, entry);
        room
    }

    /// Drops a reference and returns how many are left. The entry goes with the last one.
    pub(super) fn part(&mut self, spot: Spot) -> u32 {
        let bucket = self.bucket(spot.page, spot.bucket);
        let mut entry = bucket.get(spot.way);
        let left = entry.refs() - 1;
        if left > 0 {
            entry.rest -= 1;
            bucket.set(spot.way, entry);
            self.shard.parted += 1;
            return left;
        }
        bucket.set(spot.way, IndexEntry::NONE);
        if spot.bucket != spot.home {
            self.bucket(spot.page, spot.home).add_elsewhere(-1);
        }
        self.about(spot.page).fetch_sub(1, Relaxed);
        self.shard.entries -= 1;
        0
    }

    /// Adds an object with one reference; `false` if there is no room. `hard`: uses the last room, for an object that
    /// must be entered.
    pub(super) fn insert(&mut self, key: ObjectKey, handle: u64, hard: bool) -> bool {
        debug_assert!(handle <= HANDLE_MASK && (1..=PAGE_SIZE).contains(&key.len));
        if self.shard.pages == 0 {
            self.take_page();
        }
        let mut entry = key.entry();
        entry.key |= handle;
        entry.rest |= 1;
        let mut page = self.page_of(entry.tag());
        while self.depth_and_count(page).1 >= SPLIT && self.split(page, entry.tag()) {
            page = self.page_of(entry.tag());
        }
        let most = if hard { FULL } else { SPLIT };
        if self.depth_and_count(page).1 >= most {
            return false;
        }
        self.put(page, entry);
        self.shard.entries += 1;
        true
    }

    /// Adds an entry to a page that has room.
    fn put(&self, page: u32, entry: IndexEntry) {
        let home = entry.home();
        for distance in 0..BUCKETS {
            let bucket = self.bucket(page, (home + distance) % BUCKETS);
            let Some(way) = (0..WAYS).find(|way| bucket.get(*way).refs() == 0) else {
                continue;
            };
            bucket.set(way, entry);
            if distance > 0 {
                self.bucket(page, home).add_elsewhere(1);
            }
            self.about(page).fetch_add(1, Relaxed);
            return;
        }
        unreachable!("the page has room");
    }

    fn take_page(&mut self) -> u32 {
        self.shard.pages += 1;
        self.index.pages.fetch_add(1, Relaxed);
        self.shard.pages - 1
    }

    /// Splits the page that entries of this tag are in; `false` if it holds all that the tags tell apart.
    fn split(&mut self, page: u32, tag: u32) -> bool {
        let (depth, _) = self.depth_and_count(page);
        if depth == self.index.max_depth {
            return false;
        }
        if depth == self.shard.depth {
            self.double();
        }
        // Of the directory's entries for the page the upper half is the new one's.
        let new = self.take_page();
        let each = 1usize << (self.shard.depth - depth);
        let first = ((tag >> (TAG_BITS - depth)) as usize) * each;
        for entry in &self.directory()[first + each / 2..first + each] {
            entry.store(new, Relaxed);
        }
        let mut entries = [IndexEntry::NONE; FULL as usize];
        for (at, entry) in entries.iter_mut().enumerate() {
            let bucket = self.bucket(page, at / WAYS);
            *entry = bucket.get(at % WAYS);
            bucket.set(at % WAYS, IndexEntry::NONE);
            bucket.rests[WAYS].store(0, Relaxed);
        }
        for page in [page, new] {
            self.about(page).store((depth + 1) << 16, Relaxed);
        }
        for entry in entries.into_iter().filter(|entry| entry.refs() > 0) {
            let upper = entry.tag() >> (TAG_BITS - 1 - depth) & 1 == 1;
            self.put(if upper { new } else { page }, entry);
        }
        true
    }

    /// Doubles the directory: each entry becomes two.
    fn double(&mut self) {
        let directory = self.directory();
        for at in (0..1 << self.shard.depth).rev() {
            let page = directory[at].load(Relaxed);
            directory[2 * at].store(page, Relaxed);
            directory[2 * at + 1].store(page, Relaxed);
        }
        self.shard.depth += 1;
    }
}

#[cfg(test)]
mod tests;
