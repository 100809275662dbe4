//! A backing: creates it, reads and frees objects. `restore.rs` opens one, `writer.rs` writes, `compact.rs` moves.

use std::sync::Arc;

use crate::BLOCK;
use crate::buffer::{Buffer, ReadBuffer};
use crate::compact::{Hold, Victim, victims};
use crate::counters::{BackingStats, count, worth_a_line};
use crate::disk::{Disk, DiskLayout, write_now};
use crate::error::{OpenError, ReadError};
use crate::format::{BackingHeader, Location, ParsedEntry, entry_bytes, read_entry};
use crate::shared::{BackingShared, check_size, geometry};
use crate::store::StoreStats;
use crate::writer::{Purpose, Writer};

/// Objects packed on a disk. A clone is the same backing.
#[derive(Clone)]
pub struct Backing {
    pub(crate) shared: Arc<BackingShared>,
}

impl Backing {
    /// Makes a new backing of the first `size_bytes` (four segments to 4 TiB, rounded down to blocks) of the disk. What was there
    /// is lost. `id` should be random; whoever opens the backing again must know it.
    ///
    /// Errors: the size is outside of that; the disk is smaller and cannot be made that large; it cannot be written.
    pub fn create(
        disk: Arc<dyn Disk>,
        size_bytes: u64,
        id: [u8; 16],
    ) -> Result<Backing, OpenError> {
        let geometry = geometry(&*disk, size_bytes)?;
        disk.reserve(geometry.size_bytes)
            .map_err(OpenError::io("reserve space in"))?;
        check_size(&*disk, geometry)?;
        let mut block = Buffer::new(1);
        let header = BackingHeader::new(geometry, id);
        zerocopy::IntoBytes::write_to_prefix(&header, block.bytes_mut())
            .expect("the header is smaller than a block");
        write_now(&*disk, block, 0).map_err(OpenError::io("write to"))?;
        let shared = Arc::new(BackingShared::new(disk, geometry, id));
        Ok(Backing { shared })
    }

    /// A writer with up to `depth` (1 to 64) writes in flight, each with a buffer of a segment's size. Each writer has an open
    /// segment of its own, which is half full on average.
    ///
    /// Errors: the system lacks resources.
    pub fn writer(&self, depth: usize, purpose: Purpose) -> std::io::Result<Writer> {
        Writer::new(self.shared.clone(), depth.clamp(1, 64), purpose)
    }

    /// Reads and checks the object of `len` bytes that `owner` has at `location`. Returns its bytes in `buffer`.
    ///
    /// The caller must be the only one who may free it, or have a [`Hold`] on it: otherwise [`Backing::read_while`].
    pub fn read<'b>(
        &self,
        location: Location,
        len: usize,
        owner: u32,
        buffer: &'b mut ReadBuffer,
    ) -> Result<&'b [u8], ReadError> {
        self.read_while(location, len, owner, buffer, || true)
    }

    /// As [`Backing::read`], for an object that may be freed meanwhile. `still` is asked after the read whether the
    /// caller's table still names this location; if not, the result is [`ReadError::Moved`]: look the object up
    /// again.
    ///
    /// A wrong checksum is believed, counted and logged only if a second read confirms it: the first may have raced
    /// with a free, a new write and a new name.
    pub fn read_while<'b>(
        &self,
        location: Location,
        len: usize,
        owner: u32,
        buffer: &'b mut ReadBuffer,
        mut still: impl FnMut() -> bool,
    ) -> Result<&'b [u8], ReadError> {
        let shared = &*self.shared;
        if !shared.segments.geometry.contains(location, len) {
            return Err(ReadError::Outside);
        }
        count(&shared.counters.reads, 1);
        let mut again = true;
        let error = loop {
            let result = self.read_once(location, len, owner, buffer);
            if !still() {
                return Err(ReadError::Moved);
            }
            match result {
                Ok(start) => return Ok(&buffer.0.bytes()[start..start + len]),
                Err(error) if error.is_corrupt() && again => again = false,
                Err(error) => break error,
            }
        };
        if error.is_corrupt() {
            let nth = count(&shared.counters.corrupt, 1);
            if worth_a_line(nth) {
                let offset = location.offset();
                tracing::error!(%error, owner, offset, nth, "an object on the backing is damaged");
            }
        }
        Err(error)
    }

    /// Where in the buffer the object's bytes begin.
    fn read_once(
        &self,
        location: Location,
        len: usize,
        owner: u32,
        buffer: &mut ReadBuffer,
    ) -> Result<usize, ReadError> {
        let from = (location.offset() % BLOCK as u64) as usize;
        let blocks = (from + entry_bytes(len)).next_multiple_of(BLOCK);
        let bytes = &mut buffer.0.bytes_mut()[..blocks];
        self.shared.fill(bytes, location.offset() - from as u64)?;
        match read_entry(self.shared.seed, location, &bytes[from..]) {
            ParsedEntry::Whole { owner: o, len: l } if (o, l) == (owner, len) => {
                Ok(from + crate::format::ENTRY_HEADER)
            }
            ParsedEntry::Damaged { owner: o, len: l } if (o, l) == (owner, len) => {
                Err(ReadError::Checksum)
            }
            _ => Err(ReadError::Header),
        }
    }

    /// Frees an object. Its location is invalid from now on. No system call, no lock.
    pub fn free(&self, location: Location, len: usize) {
        if self.shared.segments.geometry.contains(location, len) {
            self.shared.release(location, len);
        } else {
            debug_assert!(
                false,
                "{location:?} with {len} bytes is outside the backing"
            );
        }
    }

    /// Keeps the segment of `location` from reuse while the hold lives. `None`: the segment is free already, so the
    /// location is stale.
    ///
    /// Take the hold *before* checking that the table names the location: then a read there returns that object and
    /// no other, even if it is freed meanwhile.
    pub fn hold(&self, location: Location) -> Option<Hold> {
        Hold::new(&self.shared, self.segment_of(location), false)
    }

    /// Up to `n` segments with the fewest live bytes, the emptiest first, to be emptied: see [`Victim`]. Emptying one
    /// gains its dead bytes, which may be none. Visits every segment.
    pub fn victims(&self, n: usize) -> Vec<Victim> {
        victims(&self.shared, n)
    }

    /// The segment that a location lies in.
    pub fn segment_of(&self, location: Location) -> u32 {
        self.shared.segments.geometry.segment_of(location)
    }

    /// How the disk is written.
    pub fn layout(&self) -> DiskLayout {
        self.shared.disk.layout()
    }

    /// What the store of objects holds, where the disk is one.
    pub fn store(&self) -> Option<StoreStats> {
        self.shared.disk.store()
    }

    /// Says that nobody will read or write it any more: [`Disk::retire`].
    pub fn retire(&self) -> Option<String> {
        self.shared.disk.retire()
    }

    /// Contents and counters. Never waits.
    pub fn stats(&self) -> BackingStats {
        self.shared.counters.stats(&self.shared.segments)
    }

    /// How the disk is read and written, in a few words: "direct I/O, io_uring".
    pub fn describe(&self) -> String {
        self.shared.disk.describe()
    }
}
