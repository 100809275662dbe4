//! What a store, its writers, its holds and its restoring share: the disk, the segments and the counters.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::counters::{Counters, count, worth_a_line};
use crate::error::{OpenError, ReadError, errno};
use crate::format::{Geometry, Location, entry_bytes, seed};
use crate::segment::{Segments, live};
use crate::storage::{Storage, read_full};

/// What the store, its writers and its holds share.
pub(crate) struct Shared {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) seed: u32,
    pub(crate) segments: Segments,
    pub(crate) counters: Counters,
}

impl Shared {
    pub(crate) fn new(storage: Arc<dyn Storage>, geometry: Geometry, id: [u8; 16]) -> Shared {
        Shared {
            storage,
            seed: seed(id),
            segments: Segments::new(geometry),
            counters: Counters::default(),
        }
    }

    /// Takes an object out of the accounts, and frees its space.
    pub(crate) fn release(&self, location: Location, len: usize) {
        let bytes = entry_bytes(len);
        if !self.segments.remove(location.segment(), live(bytes)) {
            debug_assert!(false, "{location:?} was freed twice");
            return;
        }
        self.counters.live_bytes.fetch_sub(bytes as u64, Relaxed);
        self.counters.live_objects.fetch_sub(1, Relaxed);
    }

    /// Fills whole blocks from `offset` on, counts, and logs what fails.
    pub(crate) fn fill(&self, bytes: &mut [u8], offset: u64) -> Result<(), ReadError> {
        let wanted = bytes.len();
        let result = match read_full(&*self.storage, bytes, offset) {
            Ok(got) if got == wanted => Ok(()),
            Ok(got) => Err(ReadError::Short {
                end: offset + got as u64,
            }),
            Err(error) => Err(ReadError::Io(errno(&error))),
        };
        match &result {
            Ok(()) => {
                count(&self.counters.bytes_read, wanted as u64);
            }
            Err(error) => {
                let nth = count(&self.counters.read_errors, 1);
                if worth_a_line(nth) {
                    tracing::error!(%error, offset, nth, "cannot read from the backing");
                }
            }
        }
        result
    }
}

/// Refuses a disk that is shorter than the store.
pub(crate) fn check_size(storage: &dyn Storage, geometry: Geometry) -> Result<(), OpenError> {
    let has = storage.size_bytes();
    let has = has.map_err(OpenError::io("find the size of"))?;
    let needs = geometry.size_bytes;
    if has < needs {
        return Err(OpenError::Short { has, needs });
    }
    Ok(())
}
