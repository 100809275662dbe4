//! Compaction of the device's memory: finds the slot of each object that the pool wants to move, and moves it under
//! the slot's lock. The pool decides what moves, and where to.
//!
//! A call moves a limited number of bytes, so that the caller sets the pace and can stop between two calls. A request
//! waits at most for one object to be copied under its slot's lock; at the memory limit also for one span's tail to
//! be given back.

use std::sync::atomic::Ordering::Relaxed;

use uzram_pool::{Destination, Mover, Object, current_cpu};

use crate::apis::JobsApi;
use crate::device::Device;

/// What [`JobsApi::compact`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct CompactReport {
    /// Objects that were moved.
    pub objects_moved: u64,
    /// Their bytes.
    pub bytes_moved: u64,
    /// Pages that went back to the system.
    pub pages_freed: u64,
    /// Whether nothing more is to be gained for now; `false`: the limit ended it.
    pub finished: bool,
}

impl JobsApi<'_> {
    /// Moves objects together and gives back the pages that become free, until nothing more is to be gained or objects of
    /// `max_bytes` (at least those of one page) were moved. Requests go on meanwhile. A second caller waits for the first.
    /// Objects that several pages share stay where they are.
    pub fn compact(self, max_bytes: u64) -> CompactReport {
        self.0.adopt();
        let done = self.0.pool.compact(max_bytes, &Slots(self.0));
        let shard = self.0.counters.shard(current_cpu());
        shard.pages_compacted.fetch_add(done.pages as i64, Relaxed);
        if done.finished && self.0.emptied_slots.load(Relaxed) > 0 {
            self.0.release_table();
        }
        CompactReport {
            objects_moved: done.objects,
            bytes_moved: done.bytes,
            pages_freed: done.pages,
            finished: done.finished,
        }
    }

    /// An estimate of the memory that [`JobsApi::compact`] would give back, in bytes. Rather too high: where a compaction gave
    /// back little of it, another at once will not give back more. Cheap enough to be asked a few times a second: it reads
    /// 64 bytes for each MiB of memory in use.
    pub fn compaction_gain_bytes(self) -> u64 {
        self.0.pool.compaction_gain_bytes()
    }
}

/// The slots as the pool sees them.
struct Slots<'a>(&'a Device);

impl Mover for Slots<'_> {
    fn relocate(&self, owner: u32, from: u64, to: Destination) -> Result<Object, Destination> {
        let table = &self.0.table;
        let page = u64::from(owner);
        // An owner that the arena made up must neither panic nor touch a page of the table.
        if page >= table.pages() || !table.is_touched(page) {
            return Err(to);
        }
        let slot = table.lock(page);
        let names = slot.content().object();
        if names.is_none_or(|(handle, _)| handle != from) {
            return Err(to);
        }
        let (copy, old) = self.0.move_object(slot.content(), to)?;
        slot.relocate(copy.handle());
        Ok(old)
    }
}
