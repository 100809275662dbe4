//! Dedup: pages with the same contents share one object, copy on write. Off unless asked for.
//!
//! Equal pages make equal objects with the same codec, so objects are compared, and nothing is decompressed. While
//! dedup is on, each object that a write makes is looked up in the index (`index.rs`) by a hash (`hash.rs`) and
//! compared byte by byte. Either it is stored already and gets a reference, or it is stored and entered. Both are
//! published as *shared* words. Writing such a page publishes another word, as ever; nothing is copied first.
//!
//! # What keeps a shared object
//!
//! The words are the truth, references are derived: attaching counts them again. An object has one reference for each
//! word that names it, one for each write between finding it and publishing its word, and one for each write that has
//! replaced such a word and not yet released it. So:
//!
//! * the holder of the lock of a slot whose word names the object may read it: the word's reference cannot go
//!   meanwhile;
//! * the holder of the lock of the object's index shard, who finds it there, may read it;
//! * the thread that drops the last reference, and with it the index entry, frees it;
//! * the holder of both locks, with one reference in the index, has it exclusively: compaction moves it then. An
//!   object with several references stays in place, since its other words are unknown.
//!
//! A shared word is only published for what is in the index. Object and word both name the codec. An entry may
//! outlive its codec's index by a moment, which is harmless: the bytes were compared, and the word names the codec
//! that made them.
//!
//! The owner that the pool keeps with an object is one of the pages that refer to it, or was. After many of those
//! have gone, compaction first assigns each object a current owner (`Device::adopt`).
//!
//! # The side channel
//!
//! Latency and memory use tell whether a write was shared. Who may write to a device and measure either can test a
//! guess about its contents. Users who do not trust each other should not share such a device.
//!
//! **Lock order**: a shard of the index after a slot, before a pool bin.

mod entry;
mod hash;
mod index;
#[cfg(test)]
mod tests;

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use uzram_pool::{Destination, Object, Pool, PoolRestore, current_cpu};

use crate::Error;
use crate::device::Device;
use crate::layout::state;
use crate::word::Content;
use entry::ObjectKey;
use hash::Hasher;
use index::{Index, Locked, Spot};

/// Dedup state of a device, whether it is on or not: words may be shared from before.
pub(crate) struct Dedup {
    on: AtomicBool,
    hasher: Hasher,
    index: Index,
}

impl Dedup {
    /// For a device of at most that many pages; takes no memory yet.
    pub(crate) fn new(pages: u64, on: bool) -> std::io::Result<Dedup> {
        Ok(Dedup {
            on: AtomicBool::new(on),
            hasher: Hasher::new()?,
            index: Index::new(pages)?,
        })
    }

    /// Memory of the index.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.index.bytes()
    }

    /// Gives back unused memory of the index.
    pub(crate) fn trim(&self) {
        self.index.trim();
    }

    fn key(&self, algorithm: u8, bytes: &[u8]) -> ObjectKey {
        ObjectKey {
            hash: self.hasher.hash(algorithm, bytes),
            algorithm,
            len: bytes.len(),
        }
    }

    /// Records a shared word of an image, and its object with the first word that names it. Returns whether it was
    /// not the first.
    pub(crate) fn take_over(
        &self,
        content: Content,
        restore: &PoolRestore,
    ) -> Result<bool, String> {
        let Some((algorithm, handle, len)) = parts(content) else {
            return Ok(false);
        };
        let bytes = restore.bytes(handle, len).map_err(|d| d.to_string())?;
        let key = self.key(algorithm, bytes);
        // A word that names the same object with another length or codec misses the entry, and gets the error of an
        // object with two owners.
        let mut shard = self.index.lock(key);
        if let Some(spot) = shard.find(key, handle) {
            return match shard.join(spot) {
                true => Ok(true),
                false => Err("too many words name its object".into()),
            };
        }
        restore.add(handle, len).map_err(|d| d.to_string())?;
        match shard.insert(key, handle, true) {
            true => Ok(false),
            false => Err("the dedup index has no room for its object".into()),
        }
    }
}

/// Codec, handle and length of a shared object.
fn parts(content: Content) -> Option<(u8, u64, usize)> {
    match content {
        Content::Shared {
            algorithm,
            handle,
            len,
        } => Some((algorithm, handle, len.into())),
        _ => None,
    }
}

/// An object in the index, its shard locked, to which one word refers: that of the slot whose lock the caller holds.
pub(crate) struct Sole<'a> {
    shard: Locked<'a>,
    spot: Spot,
}

impl Sole<'_> {
    /// Replaces the object's handle, after the copy is complete.
    pub(crate) fn relocate(mut self, handle: u64) {
        self.shard.relocate(self.spot, handle);
    }
}

/// The bytes of an object that is in the index.
fn indexed<'a>(pool: &'a Pool, _shard: &'a Locked<'_>, handle: u64, len: usize) -> &'a [u8] {
    #[expect(unsafe_code, reason = "an entry's object lives as long as it")]
    // SAFETY: the entry that names it was found in this shard, of this length, so that the object has references, and
    // nobody frees or moves it without this shard's lock. Shared objects are not written.
    unsafe {
        pool.shared_bytes(handle, len)
    }
}

impl Device {
    /// Whether dedup is on.
    pub fn dedup(&self) -> bool {
        self.dedup.on.load(Relaxed)
    }

    /// Turns dedup on or off. While it is on, a written page shares the object of an equal page that was written
    /// while it was on. What is shared stays so until it is rewritten. Part of the image. Costs some 20 bytes for
    /// each page and a look at each object. Not for users who do not trust each other: see [the crate's
    /// documentation](crate#dedup).
    ///
    /// [`Error::DedupWithReserve`] for a device with a reserve ([`crate::Builder::reserve_bytes`]): the index takes
    /// memory from the system as it grows.
    pub fn set_dedup(&self, on: bool) -> Result<(), Error> {
        if on && self.pool.has_stock() {
            return Err(Error::DedupWithReserve);
        }
        self.state()[state::DEDUP].store(on.into(), Relaxed);
        self.dedup.on.store(on, Relaxed);
        Ok(())
    }

    /// Stores a page's object, or finds it stored. The codec of an uncompressed page is 0.
    pub(crate) fn place_object(
        &self,
        page: u64,
        algorithm: u8,
        bytes: &[u8],
        cpu: usize,
    ) -> Result<Content, Error> {
        let len = bytes.len();
        if !self.dedup.on.load(Relaxed) {
            let handle = self.store(page, bytes, cpu)?;
            return Ok(plain(algorithm, handle, len));
        }
        let key = self.dedup.key(algorithm, bytes);
        let shared = |handle| Content::Shared {
            algorithm,
            handle,
            len: len as u16,
        };
        if let Some(handle) = self.join(key, bytes, cpu) {
            return Ok(shared(handle));
        }
        // Outside of the shard's lock: it may wait for memory.
        let object = self.store(page, bytes, cpu)?;
        let mut shard = self.dedup.index.lock(key);
        // Another write may have stored the same meanwhile.
        if let Some(handle) = self.join_in(&mut shard, key, bytes, cpu) {
            drop(shard);
            self.free(plain(algorithm, object, len));
            return Ok(shared(handle));
        }
        Ok(match shard.insert(key, object, false) {
            true => shared(object),
            false => plain(algorithm, object, len),
        })
    }

    fn join(&self, key: ObjectKey, bytes: &[u8], cpu: usize) -> Option<u64> {
        self.join_in(&mut self.dedup.index.lock(key), key, bytes, cpu)
    }

    /// Takes a reference to an object of these bytes, if there is one that counts another.
    fn join_in(
        &self,
        shard: &mut Locked<'_>,
        key: ObjectKey,
        bytes: &[u8],
        cpu: usize,
    ) -> Option<u64> {
        let spot = {
            let shard = &*shard;
            shard.find_open(key, |handle| {
                indexed(&self.pool, shard, handle, key.len) == bytes
            })?
        };
        if !shard.join(spot) {
            return None;
        }
        self.counters.shard(cpu).shared(1, key.len);
        Some(shard.handle(spot))
    }

    /// Finds the entry of a shared object to which the caller has a reference.
    fn entry_of(&self, content: Content) -> Option<(Locked<'_>, Spot)> {
        let (algorithm, handle, len) = parts(content)?;
        #[expect(unsafe_code, reason = "a reference keeps the object")]
        // SAFETY: the caller's reference keeps it from being freed; who moves an object needs its only reference, under
        // the lock of the slot that has it. Shared objects are not written.
        let bytes = unsafe { self.pool.shared_bytes(handle, len) };
        let key = self.dedup.key(algorithm, bytes);
        let shard = self.dedup.index.lock(key);
        let spot = shard.find(key, handle)?;
        Some((shard, spot))
    }

    /// Drops the reference of a word that was replaced or not published.
    pub(crate) fn part(&self, content: Content) {
        let Some((mut shard, spot)) = self.entry_of(content) else {
            // Only what is in the index is published as shared.
            debug_assert!(false, "{content:?} is not in the index");
            return;
        };
        let left = shard.part(spot);
        drop(shard);
        let Some((_, handle, len)) = parts(content) else {
            return;
        };
        if left > 0 {
            self.counters.shard(current_cpu()).shared(-1, len);
            return;
        }
        #[expect(unsafe_code, reason = "who takes the last reference owns the object")]
        // SAFETY: the last reference is gone and the entry with it: no word names it, and no write can find it any
        // more.
        let object: Object = unsafe { self.pool.object(handle, len) };
        self.pool.free(object);
    }

    /// Whether a locked slot's object has no other reference.
    pub(crate) fn is_sole(&self, content: Content) -> bool {
        parts(content).is_none() || self.sole(content).is_some()
    }

    /// The shared object of a locked slot, if it has no other reference.
    pub(crate) fn sole(&self, content: Content) -> Option<Sole<'_>> {
        let (shard, spot) = self.entry_of(content)?;
        (shard.refs(spot) == 1).then_some(Sole { shard, spot })
    }

    /// Assigns shared objects a current owner, once many of the pages that stored them are gone: compaction finds
    /// slots by the owner that the pool keeps.
    pub(crate) fn adopt(&self) {
        if !self.dedup.index.many_parted() {
            return;
        }
        for page in self.table.touched(0, u64::MAX) {
            if parts(self.table.peek(page)).is_none() {
                continue;
            }
            let slot = self.table.lock(page);
            let Some((_, handle, _)) = parts(slot.content()) else {
                continue;
            };
            // Its reference keeps the object there.
            let Some(owner) = self.pool.owner_at(handle).map(u64::from) else {
                continue;
            };
            let has = |(of_owner, _)| of_owner == handle;
            if owner != page
                && !(owner < self.table.capacity()
                    && self.table.peek(owner).object().is_some_and(has))
            {
                self.pool.set_owner(handle, page as u32);
            }
        }
    }

    /// Copies the object of a locked slot to `to`, and updates the index where it is shared. Returns the copy, for
    /// the caller to publish, and the object without a reference. Returns `to` if there are other references.
    pub(crate) fn move_object(
        &self,
        content: Content,
        to: Destination,
    ) -> Result<(Object, Object), Destination> {
        let shared = parts(content).is_some();
        let sole = self.sole(content);
        let Some((handle, len)) = content.object().filter(|_| !shared || sole.is_some()) else {
            return Err(to);
        };
        let mut copy = to.into_object(len)?;
        let pool = &self.pool;
        #[expect(unsafe_code, reason = "the slot's lock is the right to its object")]
        // SAFETY: the word names this object, so that it was stored and not freed, and stays so while the caller holds the
        // slot's lock; `Object`s of it are made under that lock only, except by who has replaced the word: from here on that
        // is the caller. A shared one has no other reference, and those who might look at it for one need the lock of its
        // shard, which we hold until the index names the copy.
        let old = unsafe { pool.object(handle, len) };
        pool.bytes_mut(&mut copy).copy_from_slice(pool.bytes(&old));
        if let Some(sole) = sole {
            sole.relocate(copy.handle());
        }
        Ok((copy, old))
    }
}

/// A page's unshared object.
fn plain(algorithm: u8, handle: u64, len: usize) -> Content {
    match len {
        crate::PAGE_SIZE => Content::Huge { handle },
        len => Content::Compressed {
            algorithm,
            handle,
            len: len as u16,
        },
    }
}
