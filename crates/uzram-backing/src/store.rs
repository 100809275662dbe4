//! A store: made, read from, freed from. Opening one is `restore.rs`, writing `writer.rs`, moving `compact.rs`.

use std::sync::Arc;

use crate::BLOCK;
use crate::buffer::{Buffer, ReadBuffer};
use crate::compact::{Hold, Victim, victims};
use crate::counters::{StoreStats, count, worth_a_line};
use crate::error::{OpenError, ReadError};
use crate::format::{Entry, Geometry, Location, StoreHeader, entry_bytes, read_entry};
use crate::shared::{Shared, check_size};
use crate::storage::{Storage, write_now};
use crate::writer::{Purpose, Writer};

/// A store of objects on a backing. A clone is the same store.
#[derive(Clone)]
pub struct Store {
    pub(crate) shared: Arc<Shared>,
}

impl Store {
    /// Makes a new store in the first `size_bytes` (1 MiB to 4 TiB, rounded down to blocks) of the backing. What was there
    /// is lost. `id` should be random; whoever opens the store again must know it.
    ///
    /// Errors: the size is outside of that; the backing is, and cannot be made, that large; it cannot be written.
    pub fn create(
        storage: Arc<dyn Storage>,
        size_bytes: u64,
        id: [u8; 16],
    ) -> Result<Store, OpenError> {
        let geometry = Geometry::new(size_bytes)?;
        storage
            .reserve(geometry.size_bytes)
            .map_err(OpenError::io("reserve space in"))?;
        check_size(&*storage, geometry)?;
        let mut block = Buffer::new(1);
        let header = StoreHeader::new(geometry.size_bytes, id);
        zerocopy::IntoBytes::write_to_prefix(&header, block.bytes_mut())
            .expect("the header is smaller than a block");
        write_now(&*storage, block, 0).map_err(OpenError::io("write to"))?;
        let shared = Arc::new(Shared::new(storage, geometry, id));
        Ok(Store { shared })
    }

    /// A writer with up to `depth` (1 to 64) writes in flight, each with a buffer of 256 KiB. A writer appends to a
    /// segment of its own, so several of them cost as many segments half full.
    ///
    /// Errors: the kernel or the machine has no resources for it.
    pub fn writer(&self, depth: usize, purpose: Purpose) -> std::io::Result<Writer> {
        Writer::new(self.shared.clone(), depth.clamp(1, 64), purpose)
    }

    /// Reads the object of `len` bytes that `owner` has at `location`, checked, and says where in `buffer` it is.
    ///
    /// The caller must be the only one who may free it, or have a [`Hold`] on it: otherwise [`Store::read_while`].
    pub fn read<'b>(
        &self,
        location: Location,
        len: usize,
        owner: u32,
        buffer: &'b mut ReadBuffer,
    ) -> Result<&'b [u8], ReadError> {
        self.read_while(location, len, owner, buffer, || true)
    }

    /// As [`Store::read`], when the object may be freed meanwhile: `still` says whether the caller's table names this
    /// location yet, and is asked after the bytes have come. [`ReadError::Moved`]: it does not, look the object up again.
    ///
    /// A wrong checksum is believed, counted and logged only when a second read finds it too, since the first one may
    /// have met the space while it was freed, written anew and named again.
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
            Entry::Whole { owner: o, len: l } if (o, l) == (owner, len) => {
                Ok(from + crate::format::ENTRY_HEADER)
            }
            Entry::Damaged { owner: o, len: l } if (o, l) == (owner, len) => {
                Err(ReadError::Checksum)
            }
            _ => Err(ReadError::Header),
        }
    }

    /// Gives up an object. Its location means nothing from now on. No system call, no lock.
    pub fn free(&self, location: Location, len: usize) {
        if self.shared.segments.geometry.contains(location, len) {
            self.shared.release(location, len);
        } else {
            debug_assert!(false, "{location:?} with {len} bytes is outside the store");
        }
    }

    /// Keeps the segment of `location` from being written anew while the hold lives. `None`: it is free already, so the
    /// location is stale.
    ///
    /// With a hold that was taken *before* the caller's table was seen to name the location, what is read there is that
    /// object and no other, whoever frees it meanwhile.
    pub fn hold(&self, location: Location) -> Option<Hold> {
        Hold::new(&self.shared, location.segment(), false)
    }

    /// Up to `n` segments with the fewest live bytes, the emptiest first, to be emptied: see [`Victim`]. Emptying one
    /// gains what does not live in it, which may be nothing. Looks at every segment.
    pub fn victims(&self, n: usize) -> Vec<Victim> {
        victims(&self.shared, n)
    }

    /// What it holds, and what has happened. Waits for nothing.
    pub fn stats(&self) -> StoreStats {
        self.shared.counters.stats(&self.shared.segments)
    }

    /// How the backing is read and written, in a few words: "direct I/O, io_uring".
    pub fn describe(&self) -> String {
        self.shared.storage.describe()
    }
}
