//! What a backing, its writers, its holds and its restoring share: the disk, the segments and the counters.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::BLOCK;
use crate::counters::{BackingCounters, count, worth_a_line};
use crate::disk::{Disk, read_full};
use crate::error::{OpenError, ReadError, errno};
use crate::format::{Location, SegmentGeometry, entry_bytes, seed};
use crate::segment::{MAX_SEGMENT_BYTES, Segments, live};

/// What the backing, its writers and its holds share.
pub(crate) struct BackingShared {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) seed: u32,
    pub(crate) segments: Segments,
    pub(crate) counters: BackingCounters,
}

impl BackingShared {
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        geometry: SegmentGeometry,
        id: [u8; 16],
    ) -> BackingShared {
        let mut segments = Segments::new(geometry);
        if disk.layout().written_once {
            segments.tell(&disk);
        }
        BackingShared {
            disk,
            seed: seed(id),
            segments,
            counters: BackingCounters::default(),
        }
    }

    /// Takes an object out of the accounts, and frees its space.
    pub(crate) fn release(&self, location: Location, len: usize) {
        let bytes = entry_bytes(len);
        let segment = self.segments.geometry.segment_of(location);
        if !self.segments.remove(segment, live(bytes)) {
            debug_assert!(false, "{location:?} was freed twice");
            return;
        }
        self.counters.live_bytes.fetch_sub(bytes as u64, Relaxed);
        self.counters.live_objects.fetch_sub(1, Relaxed);
    }

    /// Fills whole blocks from `offset` on, counts, and logs what fails.
    pub(crate) fn fill(&self, bytes: &mut [u8], offset: u64) -> Result<(), ReadError> {
        let wanted = bytes.len();
        let result = match read_full(&*self.disk, bytes, offset) {
            Ok(got) if got == wanted => Ok(()),
            Ok(got) => Err(ReadError::Short {
                end: offset + got as u64,
            }),
            // What came is not what was written, as the disk itself can tell.
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                count(&self.counters.corrupt, 1);
                Err(ReadError::Checksum)
            }
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

/// The geometry of a backing of that size on a disk.
pub(crate) fn geometry(disk: &dyn Disk, size_bytes: u64) -> Result<SegmentGeometry, OpenError> {
    let segment_bytes = disk.layout().segment_bytes;
    debug_assert!(segment_bytes <= MAX_SEGMENT_BYTES && segment_bytes.is_multiple_of(BLOCK as u64));
    SegmentGeometry::new(size_bytes, segment_bytes)
}

/// Refuses a disk that is shorter than the backing.
pub(crate) fn check_size(disk: &dyn Disk, geometry: SegmentGeometry) -> Result<(), OpenError> {
    let has = disk.size_bytes();
    let has = has.map_err(OpenError::io("find the size of"))?;
    let needs = geometry.size_bytes;
    if has < needs {
        return Err(OpenError::Short { has, needs });
    }
    Ok(())
}
