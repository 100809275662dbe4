//! What a device can do besides serving requests, by who asks for it. Each is a borrow of the device and costs nothing.
//!
//! Their calls stand with their subjects: [`ZramApi`]'s in `idle`, `recompress`, `slots` and `backing`, [`JobsApi`]'s in
//! `compact`, `train` and `agent`; [`SwapApi`]'s are here.

use std::time::Duration;

use uzram_pool::Gate;

use crate::device::Device;

/// zram's attributes beyond those of every disk: see [`Device::zram`].
#[derive(Debug, Clone, Copy)]
pub struct ZramApi<'a>(pub(crate) &'a Device);

/// Compaction, training and policies: see [`Device::jobs`].
#[derive(Debug, Clone, Copy)]
pub struct JobsApi<'a>(pub(crate) &'a Device);

/// Keeping memory ready for a device that is swapped to: see [`Device::swap`].
#[derive(Debug, Clone, Copy)]
pub struct SwapApi<'a>(pub(crate) &'a Device);

impl SwapApi<'_> {
    /// What a device with a reserve ([`crate::Builder::reserve_bytes`]) has to have done all the time: brings memory into the
    /// stock that requests take from, and gives back what is too much. Returns whether requests took any since the last
    /// call: then call it again within some milliseconds, else when [`SwapApi::wait_for_demand`] returns. May wait for
    /// the system to find memory, so no request may wait for the caller. Does nothing for other devices.
    ///
    /// `gate` is asked before each few pages whether the system has them to give; where it says no, the rest is left
    /// for the next call, and `true` is returned.
    pub fn maintain(self, gate: Gate<'_>) -> bool {
        let restocked = self.0.pool.restock(gate);
        let busy = restocked.taken > 0 || !restocked.whole;
        if self.0.pool.has_stock() {
            if busy {
                self.0.trim_if_due();
            } else {
                self.0.pool.trim();
                self.0.drop_unused_codecs();
            }
        }
        busy
    }

    /// Waits until a request finds its size of object out of stock, or for that long.
    pub fn wait_for_demand(self, patience: Duration) {
        self.0.pool.wait_for_demand(patience);
    }
}
