//! What a device does besides serving requests, by subject. Each type borrows the device and costs nothing.
//!
//! The calls are defined beside their implementation: [`ZramApi`]'s in `idle`, `recompress`, `slots` and `backing`,
//! [`JobsApi`]'s in `compact`, `train`, `remote` and `agent`; [`SwapApi`]'s here.

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
    /// Refills the stock of a device with a reserve ([`crate::Builder::reserve_bytes`]), and gives back what exceeds
    /// it. Does nothing for other devices. May block on reclaim, so never call it on a path that a request waits for.
    ///
    /// Returns whether requests took memory since the last call. If so, call it again within some milliseconds,
    /// otherwise when [`SwapApi::wait_for_demand`] returns.
    ///
    /// `gate` is asked before each batch of pages whether the system has them to give. Where it refuses, the rest is
    /// left for the next call, and `true` is returned.
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

    /// Waits until a request misses its size class in the stock, at most for `patience`.
    pub fn wait_for_demand(self, patience: Duration) {
        self.0.pool.wait_for_demand(patience);
    }
}
