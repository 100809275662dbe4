//! The bytes on the disk: the header block, an object's header, and which offsets belong to which segment.
//!
//! All numbers are little-endian. Block 0 is the header block; segment 0 lacks it, and the last segment ends where the
//! backing does. An object's checksum begins with one that is made of the backing's id, and covers its location, so that
//! neither what an earlier backing left on the same disk nor a block that went to another place passes for an object.

use std::ops::Range;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::BLOCK;
use crate::error::OpenError;

/// Most bytes of an object.
pub const MAX_OBJECT: usize = 4096;

/// Bytes of a segment on a disk: one request, large enough for a disk, small enough to be emptied by moving a little.
pub const SEGMENT_BYTES: u64 = 256 * 1024;

/// The fewest segments: one to write, one to compact into, and two that hold something.
const MIN_SEGMENTS: u64 = 4;

/// The smallest backing on a disk.
pub const MIN_BACKING_BYTES: u64 = MIN_SEGMENTS * SEGMENT_BYTES;

/// The largest: what a location reaches.
pub(crate) const MAX_BACKING_BYTES: u64 = 8 << LOCATION_BITS;

/// The last segment must at least take the largest object.
const MIN_SEGMENT_BYTES: u64 = 2 * BLOCK as u64;

/// Objects begin at multiples of this.
pub(crate) const UNIT: usize = 8;

const LOCATION_BITS: u32 = 39;

/// Where an object is: the byte offset of its header on the disk, divided by 8. Less than 2^39.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Location(u64);

impl Location {
    /// `None`: more than 39 bits.
    pub fn from_raw(raw: u64) -> Option<Location> {
        (raw >> LOCATION_BITS == 0).then_some(Location(raw))
    }

    /// The number, as it may be kept in 39 bits.
    pub fn raw(self) -> u64 {
        self.0
    }

    pub(crate) fn at(offset: u64) -> Location {
        debug_assert!(offset.is_multiple_of(UNIT as u64) && offset < MAX_BACKING_BYTES);
        Location(offset / UNIT as u64)
    }

    pub(crate) fn offset(self) -> u64 {
        self.0 * UNIT as u64
    }
}

/// How a backing of some size is cut.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SegmentGeometry {
    pub(crate) size_bytes: u64,
    pub(crate) segments: u32,
    pub(crate) segment_bytes: u64,
}

impl SegmentGeometry {
    /// Of a backing of this size, rounded down to whole blocks, with segments of that size.
    pub(crate) fn new(size_bytes: u64, segment_bytes: u64) -> Result<SegmentGeometry, OpenError> {
        let min = MIN_SEGMENTS * segment_bytes;
        if !(min..=MAX_BACKING_BYTES).contains(&size_bytes) {
            return Err(OpenError::Size {
                size_bytes,
                min,
                max: MAX_BACKING_BYTES,
            });
        }
        let size_bytes = size_bytes / BLOCK as u64 * BLOCK as u64;
        let whole = (size_bytes / segment_bytes) as u32;
        let tail = size_bytes % segment_bytes >= MIN_SEGMENT_BYTES;
        Ok(SegmentGeometry {
            size_bytes,
            segments: whole + u32::from(tail),
            segment_bytes,
        })
    }

    /// The segment that a location lies in.
    pub(crate) fn segment_of(&self, location: Location) -> u32 {
        (location.offset() / self.segment_bytes) as u32
    }

    /// The offsets of the segment's objects; begins and ends at a block.
    pub(crate) fn range(&self, segment: u32) -> Range<u64> {
        let start = u64::from(segment) * self.segment_bytes;
        let end = (start + self.segment_bytes).min(self.size_bytes);
        start.max(BLOCK as u64)..end
    }

    /// Whether an object of this length may be there.
    pub(crate) fn contains(&self, location: Location, len: usize) -> bool {
        let segment = self.segment_of(location);
        if segment >= self.segments || !(1..=MAX_OBJECT).contains(&len) {
            return false;
        }
        let range = self.range(segment);
        location.offset() >= range.start && location.offset() + entry_bytes(len) as u64 <= range.end
    }
}

const MAGIC: [u8; 8] = *b"uzramBK\0";
const VERSION: u32 = 1;

/// The beginning of the header block; the rest of it is zero.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(crate) struct BackingHeader {
    magic: [u8; 8],
    version: U32,
    /// Bytes of a segment: those of the disk's layout.
    segment_bytes: U32,
    /// Bytes of the backing, this block included.
    size_bytes: U64,
    /// Which backing it is: random, and in the image that names its objects.
    id: [u8; 16],
    /// CRC-32 of everything before.
    checksum: U32,
}

const _: () = assert!(size_of::<BackingHeader>() == 44);

/// Whether a disk that begins with these bytes is, or was, a backing of any version.
pub fn is_backing(block: &[u8]) -> bool {
    block.starts_with(&MAGIC)
}

impl BackingHeader {
    pub(crate) fn new(geometry: SegmentGeometry, id: [u8; 16]) -> BackingHeader {
        let mut header = BackingHeader {
            magic: MAGIC,
            version: VERSION.into(),
            segment_bytes: (geometry.segment_bytes as u32).into(),
            size_bytes: geometry.size_bytes.into(),
            id,
            checksum: 0.into(),
        };
        header.checksum = header.sum().into();
        header
    }

    fn sum(&self) -> u32 {
        crc32fast::hash(&self.as_bytes()[..size_of::<BackingHeader>() - 4])
    }

    /// Checks a header block of a disk with segments of that size. The geometry is that of the backing which was formatted.
    pub(crate) fn check(
        block: &[u8],
        id: [u8; 16],
        segment_bytes: u64,
    ) -> Result<SegmentGeometry, OpenError> {
        let (header, _) = BackingHeader::ref_from_prefix(block).map_err(|_| OpenError::Foreign)?;
        if header.magic != MAGIC {
            return Err(OpenError::Foreign);
        }
        // Before the checksum, whose place another version may have moved.
        let found = header.version.get();
        if found != VERSION {
            let known = VERSION;
            return Err(OpenError::Version { found, known });
        }
        let whole = header.checksum.get() == header.sum();
        if !whole || u64::from(header.segment_bytes.get()) != segment_bytes {
            return Err(OpenError::Damaged);
        }
        if header.id != id {
            return Err(OpenError::OtherDevice);
        }
        SegmentGeometry::new(header.size_bytes.get(), segment_bytes).map_err(|_| OpenError::Damaged)
    }
}

/// What stands before an object's bytes.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(crate) struct EntryHeader {
    owner: U32,
    /// Bytes of the object less one.
    len: U16,
    /// Lets a walk over a damaged segment skip most of what is no header.
    magic: U16,
    /// CRC-32 of the location and of the fields and bytes other than this, begun with the backing's seed.
    checksum: U32,
}

/// Bytes of an object's header.
pub(crate) const ENTRY_HEADER: usize = size_of::<EntryHeader>();
const _: () = assert!(ENTRY_HEADER == 12);

const ENTRY_MAGIC: u16 = 0xB17E;

/// Bytes that an object of `len` bytes takes in the backing: its header, itself, and up to 7 to the next multiple of 8.
pub const fn entry_bytes(len: usize) -> usize {
    (ENTRY_HEADER + len).next_multiple_of(UNIT)
}

/// Where the checksums of a backing's objects begin.
pub(crate) fn seed(id: [u8; 16]) -> u32 {
    crc32fast::hash(&id)
}

fn checksum(seed: u32, location: Location, header: &EntryHeader, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(&location.raw().to_le_bytes());
    hasher.update(&header.as_bytes()[..8]);
    hasher.update(bytes);
    hasher.finalize()
}

/// Writes the entry, `entry_bytes` long, to the beginning of `out`.
pub(crate) fn write_entry(seed: u32, location: Location, owner: u32, bytes: &[u8], out: &mut [u8]) {
    let mut header = EntryHeader {
        owner: owner.into(),
        len: (bytes.len() as u16 - 1).into(),
        magic: ENTRY_MAGIC.into(),
        checksum: 0.into(),
    };
    header.checksum = checksum(seed, location, &header, bytes).into();
    let (head, rest) = out[..entry_bytes(bytes.len())].split_at_mut(ENTRY_HEADER);
    head.copy_from_slice(header.as_bytes());
    let (body, padding) = rest.split_at_mut(bytes.len());
    body.copy_from_slice(bytes);
    padding.fill(0);
}

/// What an entry at the beginning of some bytes is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ParsedEntry {
    /// Not one.
    None,
    /// Its header is whole, its checksum is wrong.
    Damaged { owner: u32, len: usize },
    /// Whole.
    Whole { owner: u32, len: usize },
}

/// Looks at the entry that begins `bytes`, which lie at `location`.
pub(crate) fn read_entry(seed: u32, location: Location, bytes: &[u8]) -> ParsedEntry {
    let Ok((header, body)) = EntryHeader::ref_from_prefix(bytes) else {
        return ParsedEntry::None;
    };
    let len = usize::from(header.len.get()) + 1;
    if header.magic.get() != ENTRY_MAGIC || len > MAX_OBJECT || len > body.len() {
        return ParsedEntry::None;
    }
    let owner = header.owner.get();
    if header.checksum.get() == checksum(seed, location, header, &body[..len]) {
        ParsedEntry::Whole { owner, len }
    } else {
        ParsedEntry::Damaged { owner, len }
    }
}
