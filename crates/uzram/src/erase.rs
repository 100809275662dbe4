//! Erasing on free: what a device does not hold any more is overwritten in memory, on each overwrite, discard, move and
//! recompression. Off by default: it writes as many bytes as it frees.
//!
//! It is about the image. A stream's buffers keep the last pages that went through them, and a backing keeps what was
//! written to it.

use std::sync::atomic::Ordering::Relaxed;

use crate::device::Device;
use crate::layout::state;

impl Device {
    /// Whether objects are erased as they are freed.
    pub fn erase_on_free(&self) -> bool {
        self.pool.erases()
    }

    /// Erases objects from now on as they are freed, or no more. Part of the image. Turning it on erases what was freed
    /// before, which takes about as long as writing all of the memory in use; requests go on meanwhile.
    pub fn set_erase_on_free(&self, on: bool) {
        // First in the image: who attaches after a death in between does the rest.
        self.state()[state::ERASE].store(on.into(), Relaxed);
        self.pool.set_erase(on);
        if on {
            self.erase_leftovers();
        }
    }

    /// Clears what was freed before erasing was on, or by a process that died: free memory, and what an object before
    /// left behind the end of a shorter one.
    pub(crate) fn erase_leftovers(&self) {
        self.pool.erase_free();
        for page in self.table.touched_in(0, u64::MAX) {
            if self.table.peek(page).object().is_none() {
                continue;
            }
            let slot = self.table.lock(page);
            let Some((handle, len)) = slot.content().object() else {
                continue;
            };
            #[expect(unsafe_code, reason = "the slot's lock keeps the object")]
            // SAFETY: the word names the object, and whoever frees it replaces the word first, for which he needs the lock
            // that we hold. Of a shared one this word's reference stays.
            unsafe {
                self.pool.erase_behind(handle, len);
            }
        }
    }
}
