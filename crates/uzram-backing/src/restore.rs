//! Opening what another process left on a disk: the caller names what lives.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::BLOCK;
use crate::backing::Backing;
use crate::buffer::Buffer;
use crate::disk::{Disk, read_full};
use crate::error::{BackingDamage, OpenError};
use crate::format::{BackingHeader, Location, entry_bytes};
use crate::shared::{BackingShared, check_size, geometry};

/// A backing that is being restored.
///
/// The process that wrote it must be gone with all of its writes: [`FileDisk::lock`](crate::FileDisk::lock).
///
/// Nothing is read but the header: an object that is not what its owner says is found when it is read,
/// by the owner and the checksum in its header. So two names of one place are never each other's data; they count twice
/// until both are freed.
pub struct BackingRestore {
    shared: BackingShared,
}

impl BackingRestore {
    /// Begins with a backing that another process made, for whoever has the names of its objects.
    ///
    /// Errors: the disk is shorter than the backing, holds something else, another backing, or a damaged header; it
    /// cannot be read.
    pub fn open(disk: Arc<dyn Disk>, id: [u8; 16]) -> Result<BackingRestore, OpenError> {
        let mut block = Buffer::new(1);
        let got = read_full(&*disk, block.bytes_mut(), 0).map_err(OpenError::io("read from"))?;
        if got < BLOCK {
            return Err(OpenError::Foreign);
        }
        let geometry = BackingHeader::check(block.bytes(), id, disk.layout().segment_bytes)?;
        check_size(&*disk, geometry)?;
        Ok(BackingRestore {
            shared: BackingShared::new(disk, geometry, id),
        })
    }

    /// Begins with a backing that cannot be opened: its file is gone, or shorter than it was. `disk` stands in its place, and has
    /// its layout: it answers what can still be read, and refuses the rest. `size_bytes` is what [`Backing::create`] was given.
    ///
    /// Errors: no backing has that size.
    pub fn without_header(
        disk: Arc<dyn Disk>,
        size_bytes: u64,
        id: [u8; 16],
    ) -> Result<BackingRestore, OpenError> {
        let geometry = geometry(&*disk, size_bytes)?;
        Ok(BackingRestore {
            shared: BackingShared::new(disk, geometry, id),
        })
    }

    /// Bytes of the backing, as it was made.
    pub fn size_bytes(&self) -> u64 {
        self.shared.segments.geometry.size_bytes
    }

    /// Notes a live object. Each must be named once; any threads may do so at a time.
    ///
    /// Errors: the backing has no such place; more was named in its segment than fits there.
    pub fn add(&self, location: Location, len: usize) -> Result<(), BackingDamage> {
        let BackingShared {
            segments, counters, ..
        } = &self.shared;
        if !segments.geometry.contains(location, len) {
            return Err(BackingDamage::Outside);
        }
        let bytes = entry_bytes(len);
        let segment = segments.geometry.segment_of(location);
        if !segments.enter(segment, bytes) {
            return Err(BackingDamage::Crowded);
        }
        counters.live_bytes.fetch_add(bytes as u64, Relaxed);
        counters.live_objects.fetch_add(1, Relaxed);
        Ok(())
    }

    /// All live objects were named: everything else is free.
    pub fn finish(mut self) -> Backing {
        self.shared.segments.settle();
        let shared = Arc::new(self.shared);
        Backing { shared }
    }
}
