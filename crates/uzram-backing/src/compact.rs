//! Empties segments: chooses them, walks their objects, and holds them meanwhile.
//!
//! The caller reads a segment, asks its table which objects live, pushes those to a writer of
//! [`Purpose::Compaction`](crate::Purpose::Compaction), and, once they are written, publishes each new location if
//! the table still names the old one. Then it frees the old location, or else the new one. All of that happens under
//! the segment's hold: without it the segment could be reused, and the table name the old place again, for other
//! bytes.

use std::collections::BinaryHeap;
use std::sync::Arc;

use crate::BLOCK;
use crate::buffer::SegmentBuffer;
use crate::error::ReadError;
use crate::format::{ENTRY_HEADER, Location, ParsedEntry, UNIT, entry_bytes, read_entry};
use crate::segment::HOLD;
use crate::shared::BackingShared;

/// Keeps a segment from reuse. Objects in it may still be freed; its space comes back afterwards.
pub struct Hold {
    shared: Arc<BackingShared>,
    segment: u32,
}

impl Hold {
    pub(crate) fn new(shared: &Arc<BackingShared>, segment: u32, settled: bool) -> Option<Hold> {
        let held = shared.segments.hold(segment, settled);
        held.then(|| Hold {
            shared: shared.clone(),
            segment,
        })
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let held = self.shared.segments.remove(self.segment, HOLD);
        debug_assert!(held, "a hold counts until it is dropped");
    }
}

/// A segment to be emptied. It must live until the new locations of what was in it are published.
pub struct Victim {
    hold: Hold,
    live_bytes: u32,
}

/// Up to `n` of the emptiest segments, emptiest first.
pub(crate) fn victims(shared: &Arc<BackingShared>, n: usize) -> Vec<Victim> {
    // The fullest candidate is on top, to be replaced.
    let mut heap = BinaryHeap::new();
    for (segment, live_bytes) in shared.segments.settled() {
        if heap.len() < n {
            heap.push((live_bytes, segment));
        } else if heap.peek().is_some_and(|top| live_bytes < top.0) {
            heap.pop();
            heap.push((live_bytes, segment));
        }
    }
    let victim = |(live_bytes, segment)| {
        let hold = Hold::new(shared, segment, true)?;
        Some(Victim { hold, live_bytes })
    };
    let sorted = heap.into_sorted_vec();
    sorted.into_iter().filter_map(victim).collect()
}

impl Victim {
    /// Which segment.
    pub fn segment(&self) -> u32 {
        self.hold.segment
    }

    /// Bytes that lived in it when it was chosen, headers included.
    pub fn live_bytes(&self) -> u64 {
        self.live_bytes.into()
    }

    /// Bytes that can live in it.
    pub fn capacity_bytes(&self) -> u64 {
        let range = self.hold.shared.segments.geometry.range(self.hold.segment);
        range.end - range.start
    }

    /// Reads it, with one request, and walks what is in it: see [`Objects`].
    ///
    /// If the request fails, block by block, leaving out those that cannot be read. An error: none can. Where segments are
    /// written once, one that cannot be read whole is such an error.
    pub fn objects<'b>(&self, buffer: &'b mut SegmentBuffer) -> Result<Objects<'b>, ReadError> {
        let shared = &*self.hold.shared;
        let range = shared.segments.geometry.range(self.hold.segment);
        let len = (range.end - range.start) as usize;
        let bytes = buffer.bytes_mut(len);
        if let Err(error) = shared.fill(bytes, range.start) {
            if shared.disk.layout().written_once {
                // Each block would be waited for as long as all of them.
                return Err(error);
            }
            let mut lost = 0;
            for (index, block) in bytes.chunks_mut(BLOCK).enumerate() {
                if shared
                    .fill(block, range.start + (index * BLOCK) as u64)
                    .is_err()
                {
                    block.fill(0);
                    lost += 1;
                }
            }
            if lost == len / BLOCK {
                return Err(error);
            }
        }
        Ok(Objects {
            seed: shared.seed,
            base: range.start,
            bytes: &buffer.0.bytes()[..len],
            at: 0,
        })
    }
}

/// An object found in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredObject<'b> {
    /// Its owner.
    pub owner: u32,
    /// Where it is.
    pub location: Location,
    /// Its bytes, which match their checksum.
    pub bytes: &'b [u8],
}

/// The whole objects in a segment, dead ones and remains of what the segment held before among them: the caller's table
/// knows which live. One whose table entry names exactly this location and length is that entry's.
///
/// Damaged ones are left out, and are still the caller's, to be found when they are read: their segment is not emptied.
pub struct Objects<'b> {
    seed: u32,
    base: u64,
    bytes: &'b [u8],
    at: usize,
}

impl<'b> Iterator for Objects<'b> {
    type Item = StoredObject<'b>;

    fn next(&mut self) -> Option<StoredObject<'b>> {
        // Between the requests that filled the segment, and after damage, headers are looked for at every place where
        // one can be. What has a right checksum is whole, so nothing that is whole begins inside of it.
        while self.at + ENTRY_HEADER < self.bytes.len() {
            let location = Location::at(self.base + self.at as u64);
            let rest = &self.bytes[self.at..];
            if let ParsedEntry::Whole { owner, len } = read_entry(self.seed, location, rest) {
                self.at += entry_bytes(len);
                let bytes = &rest[ENTRY_HEADER..ENTRY_HEADER + len];
                return Some(StoredObject {
                    owner,
                    location,
                    bytes,
                });
            }
            self.at += UNIT;
        }
        None
    }
}
