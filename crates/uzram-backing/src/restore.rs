//! Making a store of what another process left on the backing: the caller names what lives.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::BLOCK;
use crate::buffer::Buffer;
use crate::error::{Damage, OpenError};
use crate::format::{Location, StoreHeader, entry_bytes};
use crate::shared::{Shared, check_size};
use crate::storage::{Storage, read_full};
use crate::store::Store;

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
    /// Begins with a store that another process made, for whoever has the names of its objects.
    ///
    /// Errors: the backing is shorter than the store, holds something else, another store, or a damaged header; it
    /// cannot be read.
    pub fn open(storage: Arc<dyn Storage>, id: [u8; 16]) -> Result<Restore, OpenError> {
        let mut block = Buffer::new(1);
        let got = read_full(&*storage, block.bytes_mut(), 0).map_err(OpenError::io("read from"))?;
        if got < BLOCK {
            return Err(OpenError::Foreign);
        }
        let geometry = StoreHeader::check(block.bytes(), id)?;
        check_size(&*storage, geometry)?;
        Ok(Restore {
            shared: Shared::new(storage, geometry, id),
        })
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
