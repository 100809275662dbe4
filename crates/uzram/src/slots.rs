//! Lists slots, as zram's `block_state` does.

use std::time::Duration;

use crate::apis::ZramApi;
use crate::codec::PRIORITIES;
use crate::word::{Content, IDLE, INCOMPRESSIBLE};

/// A page that holds anything, at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// Its number.
    pub page: u64,
    /// Same-filled.
    pub same: bool,
    /// On the backing.
    pub backed: bool,
    /// Stored uncompressed.
    pub huge: bool,
    /// Marked idle.
    pub idle: bool,
    /// Compressed by a secondary algorithm that is not the primary as well.
    pub recompressed: bool,
    /// No secondary made it smaller.
    pub incompressible: bool,
    /// When it was last used, since the machine was started; `None` where that is not known.
    pub accessed: Option<Duration>,
}

impl<'a> ZramApi<'a> {
    /// The pages from `first` on that hold anything, in order. Takes no lock; each is as it was at some moment during the
    /// iteration.
    pub fn slots(self, first: u64) -> impl Iterator<Item = Slot> + 'a {
        let of = |priority| self.0.codecs.by_priority(priority).map(|(index, _)| index);
        let primary = of(0);
        let secondaries: Vec<u8> = (1..PRIORITIES)
            .filter_map(of)
            .filter(|index| Some(*index) != primary)
            .collect();
        self.0
            .table
            .touched(first, u64::MAX)
            .filter_map(move |page| {
                let (content, flags) = self.0.table.peek_flags(page);
                let backed = match content {
                    Content::Empty | Content::Remote => return None,
                    Content::Backed(backed) => Some(backed),
                    _ => None,
                };
                Some(Slot {
                    page,
                    same: matches!(content, Content::Same(_) | Content::SameObject { .. }),
                    backed: backed.is_some(),
                    huge: content.is_huge() || backed.is_some_and(|backed| backed.is_huge()),
                    idle: flags & IDLE != 0,
                    recompressed: content
                        .codec()
                        .is_some_and(|index| secondaries.contains(&index)),
                    incompressible: flags & INCOMPRESSIBLE != 0,
                    accessed: self.0.ages.accessed(page),
                })
            })
    }

    /// How the size classes of the pool are used; those that are not are left out. Each class is counted at some moment
    /// during the call. Takes each bin's lock for as long as its spans are looked at.
    pub fn pool_classes(self) -> Vec<uzram_pool::ClassStats> {
        self.0.pool.class_stats()
    }

    /// Resets the maximum of memory in use (zram's `mem_used_max`).
    pub fn reset_mem_used_max(self) {
        self.0.pool.reset_peak();
    }
}
