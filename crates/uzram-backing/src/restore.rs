//! Making a store of what another process left on the backing: the caller names what lives.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::error::Damage;
use crate::format::{Location, entry_bytes};
use crate::store::{Shared, Store};

/// A store that is being restored.
///
/// The process that wrote it must be gone with all of its writes: [`FileStorage::lock`](crate::FileStorage::lock).
///
/// Nothing is read of the backing but its header: an object that is not what its owner says is found when it is read,
/// by the owner and the checksum in its header. So two names of one place are never each other's data; they count twice
/// until both are freed.
pub struct Restore {
    shared: Shared,
}

impl Restore {
    pub(crate) fn new(shared: Shared) -> Restore {
        Restore { shared }
    }

    /// Bytes of the store, as it was made.
    pub fn size_bytes(&self) -> u64 {
        self.shared.segments.geometry.size_bytes
    }

    /// Notes a live object. Each must be named once; any threads may do so at a time.
    ///
    /// Errors: the store has no such place; more was named in its segment than fits there.
    pub fn add(&self, location: Location, len: usize) -> Result<(), Damage> {
        let Shared {
            segments, counters, ..
        } = &self.shared;
        if !segments.geometry.contains(location, len) {
            return Err(Damage::Outside);
        }
        let bytes = entry_bytes(len);
        if !segments.enter(location.segment(), bytes) {
            return Err(Damage::Crowded);
        }
        counters.live_bytes.fetch_add(bytes as u64, Relaxed);
        counters.live_objects.fetch_add(1, Relaxed);
        Ok(())
    }

    /// All live objects were named: everything else is free.
    pub fn finish(mut self) -> Store {
        self.shared.segments.settle();
        let shared = Arc::new(self.shared);
        Store { shared }
    }
}
