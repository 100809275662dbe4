//! Compaction of the device's memory: finds the slot of each object that the pool wants elsewhere and moves it there under
//! the slot's lock. What to move, and where to, is the pool's business.
//!
//! A call moves a limited number of bytes, so that whoever calls it in the background decides on the pace, and can stop
//! between two calls. A request waits for it no longer than for one object to be copied, since it holds a slot's lock for
//! as long as that; in a device at its memory limit, or for the memory of one span's tail to go back to the system.

use std::sync::atomic::Ordering::Relaxed;

use uzram_pool::{Mover, Object, Place};

use crate::canary::{Canary, sings};
use crate::device::Device;

/// What [`Device::compact`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CompactReport {
    /// Objects that were moved.
    pub objects_moved: u64,
    /// Their bytes.
    pub bytes_moved: u64,
    /// Pages that went back to the system.
    pub pages_freed: u64,
    /// Whether it ended because nothing more is to be gained for now, and not because of the limit.
    pub finished: bool,
}

impl Device {
    /// Moves objects together and gives back the pages that become free, until nothing more is to be gained or objects of
    /// `max_bytes` (at least those of one page) were moved. Requests go on meanwhile. A second caller waits for the first.
    pub fn compact(&self, max_bytes: u64) -> CompactReport {
        let done = self.pool.compact(max_bytes, &Slots(self));
        self.counters.pages_compacted.fetch_add(done.pages, Relaxed);
        CompactReport {
            objects_moved: done.objects,
            bytes_moved: done.bytes,
            pages_freed: done.pages,
            finished: done.finished,
        }
    }

    /// An estimate of the memory that [`Device::compact`] would give back, in bytes. Rather too high: where a compaction gave
    /// back little of it, another at once will not give back more. Cheap enough to be asked a few times a second: it reads
    /// 64 bytes for each MiB of memory in use.
    pub fn compaction_gain_bytes(&self) -> u64 {
        self.pool.compaction_gain_bytes()
    }
}

/// The slots as the pool sees them.
struct Slots<'a>(&'a Device);

impl Mover for Slots<'_> {
    fn relocate(&self, owner: u32, from: u64, to: Place) -> Result<Object, Place> {
        let Device { table, pool, .. } = self.0;
        let page = u64::from(owner);
        // The arena's word alone is not worth a panic, or a page of the table.
        if page >= table.pages() || !table.is_touched(page) {
            return Err(to);
        }
        let slot = table.lock(page);
        let mut named = slot.content().object();
        if sings(Canary::RelocateAny) {
            named = named.map(|(_, len)| (from, len));
        }
        let Some((handle, len)) = named.filter(|(handle, _)| *handle == from) else {
            return Err(to);
        };
        let mut copy = to.into_object(len)?;
        #[expect(unsafe_code, reason = "the slot's lock is the right to its object")]
        // SAFETY: the word names this object, so that it was stored and not freed, and stays so while we hold the slot's
        // lock; `Object`s of it are made under that lock only, except by who has replaced the word: from `relocate` on
        // that is us.
        let old = unsafe { pool.object(handle, len) };
        if sings(Canary::RelocateEarly) {
            slot.relocate(copy.handle());
            std::thread::yield_now();
            pool.bytes_mut(&mut copy).copy_from_slice(pool.bytes(&old));
            return Ok(old);
        }
        pool.bytes_mut(&mut copy).copy_from_slice(pool.bytes(&old));
        slot.relocate(copy.handle());
        Ok(old)
    }
}
