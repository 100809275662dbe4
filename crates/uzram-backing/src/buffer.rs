//! Memory that begins and ends at a block, as direct I/O needs it: safe code, since a block is a type with that alignment.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::BLOCK;
use crate::dumps::in_dumps;
use crate::format::{MAX_OBJECT, SEGMENT_BYTES, UNIT, entry_bytes};

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy)]
#[repr(C, align(4096))]
struct Block([u8; BLOCK]);

const _: () = assert!(size_of::<Block>() == BLOCK && align_of::<Block>() == BLOCK);

/// Whole blocks of memory, aligned to blocks, in no core dump. Its bytes do not move when the value does.
pub struct Buffer(Box<[Block]>);

impl Drop for Buffer {
    fn drop(&mut self) {
        in_dumps(&*self.0, true);
    }
}

impl Buffer {
    /// Of `blocks` blocks of zeros.
    pub fn new(blocks: usize) -> Buffer {
        let buffer = Buffer(vec![Block([0; BLOCK]); blocks].into());
        in_dumps(&*buffer.0, false);
        buffer
    }

    /// All of it.
    pub fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// All of it.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.0.as_mut_bytes()
    }
}

/// Blocks that an object can touch: the largest, from the last place in a block on.
const READ_BLOCKS: usize = (BLOCK - UNIT + entry_bytes(MAX_OBJECT)).div_ceil(BLOCK);

/// What [`Backing::read`](crate::Backing::read) reads into: 12 KiB. One for each thread that reads.
pub struct ReadBuffer(pub(crate) Buffer);

impl ReadBuffer {
    /// The only allocation that a read needs, made ahead of it.
    pub fn new() -> ReadBuffer {
        ReadBuffer(Buffer::new(READ_BLOCKS))
    }
}

impl Default for ReadBuffer {
    fn default() -> ReadBuffer {
        ReadBuffer::new()
    }
}

/// What [`Victim::objects`](crate::Victim::objects) reads a segment into: 256 KiB, or as much as the disk's segments have.
pub struct SegmentBuffer(pub(crate) Buffer);

impl SegmentBuffer {
    /// One for each thread that compacts.
    pub fn new() -> SegmentBuffer {
        SegmentBuffer(segment_buffer(SEGMENT_BYTES))
    }
}

impl Default for SegmentBuffer {
    fn default() -> SegmentBuffer {
        SegmentBuffer::new()
    }
}

impl SegmentBuffer {
    /// So many bytes of it, which become its size if it is smaller.
    pub(crate) fn bytes_mut(&mut self, len: usize) -> &mut [u8] {
        if self.0.bytes().len() < len {
            self.0 = segment_buffer(len as u64);
        }
        &mut self.0.bytes_mut()[..len]
    }
}

pub(crate) fn segment_buffer(segment_bytes: u64) -> Buffer {
    Buffer::new(segment_bytes.div_ceil(BLOCK as u64) as usize)
}
