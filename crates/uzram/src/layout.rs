//! The image: header, state, codecs, slot table, dictionaries and arena in one region of memory. Another process, or
//! a later version, reads this format, so it is little-endian, versioned and checksummed, and every offset is from
//! its own beginning.

use thiserror::Error;
use uzram_pool::{CLASS_COUNT, SPAN_BYTES};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::PAGE_SIZE;
use crate::codec::{AREA_BYTES, CODECS, RECORDS_BYTES};

/// First bytes of every image.
const MAGIC: [u8; 8] = *b"UZRAMIMG";
/// Changes with any change of the header, the state page, the codecs' records, the slot word, or the pool's class
/// table or span format.
const VERSION: u32 = 4;

/// Of the optional features: two bitmaps of pages that were written lie behind the arena. See `snapshot/dirty.rs`.
const DIRTY_BITMAPS: u64 = 1;

/// Of the required features: words may say *remote*. See `remote/mod.rs`. An older program would have no such word.
const REMOTE_PAGES: u64 = 1;

/// The first page of an image. All offsets and lengths in bytes.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    magic: [u8; 8],
    version: U32,
    /// CRC-32 of the whole header with this field zero.
    checksum: U32,
    /// Features that a reader must know to read the image: see [`REMOTE_PAGES`].
    features_required: U64,
    /// Features that a reader may ignore: see [`DIRTY_BITMAPS`].
    features_optional: U64,
    page_bytes: U32,
    span_bytes: U32,
    class_count: U32,
    logical_block_bytes: U32,
    /// The most pages that the device may have, which is also the number of words in the table.
    page_capacity: U64,
    table_offset: U64,
    table_bytes: U64,
    arena_offset: U64,
    arena_bytes: U64,
    /// The codecs' records, one page, which change while the device lives: see `codec/record.rs`.
    codecs_offset: U64,
    /// An area of 1 MiB for each record's dictionary.
    dictionaries_offset: U64,
    /// Zero.
    reserved: [u8; 3992],
}

const _: () = {
    assert!(size_of::<Header>() == PAGE_SIZE);
    assert!(std::mem::offset_of!(Header, page_capacity) == 48);
    assert!(std::mem::offset_of!(Header, codecs_offset) == 88);
    assert!(std::mem::offset_of!(Header, reserved) == 104);
};

/// Why bytes are not the header of an image that this version can use.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// Fewer bytes than a header has.
    #[error("{got} bytes are no image: a header has {PAGE_SIZE}")]
    Short {
        /// Bytes given.
        got: usize,
    },
    /// Something else altogether.
    #[error("not a uzram image: it does not begin with UZRAMIMG")]
    Foreign,
    /// Another version's layout.
    #[error("image layout version {found}, this program knows {VERSION}")]
    Version {
        /// The version found.
        found: u32,
    },
    /// The checksum is wrong.
    #[error("the image header is damaged (checksum)")]
    Damaged,
    /// The image needs a feature that this version does not have.
    #[error("the image needs features {bits:#x} that this program does not have")]
    Features {
        /// The unknown bits.
        bits: u64,
    },
    /// What the image says of one of its algorithms is wrong.
    #[error("the image is damaged: codec {index}: {what}")]
    Codec {
        /// Its index.
        index: usize,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The checksum is right but the fields contradict each other or this build.
    #[error("the image header is inconsistent: {what}")]
    Inconsistent {
        /// Which rule is broken.
        what: &'static str,
    },
}

/// The second page of an image: what changes while the device lives, as 64-bit words (native endian, as the table's).
/// Words that are not named are zero.
pub(crate) mod state {
    /// Offset of the page.
    pub(crate) const OFFSET: u64 = crate::PAGE_SIZE as u64;
    /// The limit on pool memory in bytes, 0 for none; with the highest bit set, on all memory. See `limit.rs`.
    pub(crate) const MEM_LIMIT: usize = 0;
    /// How often the image was attached to after it was made.
    pub(crate) const ATTACHED: usize = 1;
    /// Which codec has which priority: a byte for each priority from the lowest on, the codec's index and 1, or 0 for
    /// none.
    pub(crate) const ROLES: usize = 2;
    /// Pages of the device.
    pub(crate) const PAGES: usize = 3;
    /// The pages that may still be written back and 1, or 0 for no limit.
    pub(crate) const WRITEBACK_LIMIT: usize = 4;
    /// The policies: see `agent/settings.rs`.
    pub(crate) const POLICY: usize = 5;
    /// Whether dedup is on: 1, or 0.
    pub(crate) const DEDUP: usize = POLICY + crate::agent::PolicySettings::WORDS;
    /// Whether the caller, and not only a policy, wants the pages' ages to be kept: 1, or 0.
    pub(crate) const AGES: usize = DEDUP + 1;
    /// Whether objects are erased as they are freed: 1, or 0.
    pub(crate) const ERASE: usize = AGES + 1;
    /// Whether an algorithm that trains itself is not to: 1, or 0, which images of before this word have.
    pub(crate) const NO_SELF_TRAINING: usize = ERASE + 1;
    /// Whether changes are tracked, and how: see `snapshot/dirty.rs`, as for the next two.
    pub(crate) const TRACKING: usize = NO_SELF_TRAINING + 1;
    /// What they are tracked since: two words of a snapshot's name.
    pub(crate) const SINCE: usize = TRACKING + 1;
    /// The count of attaches when a program that tracks attached last.
    pub(crate) const TRACKED_BY: usize = SINCE + 2;
    /// Number of words of that kind.
    pub(crate) const WORDS: usize = TRACKED_BY + 1;
    /// Where the record of the backing device begins, in words. See `backing/record.rs`.
    pub(crate) const BACKING: usize = 16;
    const _: () = assert!(WORDS <= BACKING);
}

/// Where the parts of an image are, in bytes from its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ImageGeometry {
    /// The most pages that the device may have.
    pub(crate) pages: u64,
    pub(crate) table_offset: u64,
    pub(crate) table_bytes: u64,
    pub(crate) dictionaries_offset: u64,
    pub(crate) arena_offset: u64,
    pub(crate) arena_bytes: u64,
    /// Whether two bitmaps of pages that were written lie behind the arena.
    pub(crate) has_dirty: bool,
    /// Whether pages may be remote.
    pub(crate) has_remote: bool,
}

/// The records follow the state, the table follows the records.
const CODECS_OFFSET: u64 = state::OFFSET + PAGE_SIZE as u64;
const TABLE_OFFSET: u64 = CODECS_OFFSET + RECORDS_BYTES;

/// The largest arena that handles can address.
const MAX_ARENA: u64 = 4 << 40;

/// More than two bitmaps of 2^32 pages take.
const MAX_DIRTY: u64 = 2 << 30;

impl ImageGeometry {
    /// The parts of an image for at most `pages` pages and `shards` pool shards. The arena is reserved address space,
    /// so it is generous: four times the device, for spans that are sparsely used, and a span for each class and
    /// shard.
    pub(crate) fn new(pages: u64, shards: usize) -> ImageGeometry {
        let page = PAGE_SIZE as u64;
        let table_bytes = (pages * 8).next_multiple_of(page);
        let slack = (shards * CLASS_COUNT * SPAN_BYTES) as u64;
        let arena_bytes = (pages * page * 4 + slack)
            .next_multiple_of(SPAN_BYTES as u64)
            .min(MAX_ARENA);
        let table_offset = TABLE_OFFSET;
        let dictionaries_offset = (table_offset + table_bytes).next_multiple_of(AREA_BYTES);
        let dictionaries_end = dictionaries_offset + CODECS as u64 * AREA_BYTES;
        let arena_offset = dictionaries_end.next_multiple_of(SPAN_BYTES as u64);
        ImageGeometry {
            pages,
            table_offset,
            table_bytes,
            dictionaries_offset,
            arena_offset,
            arena_bytes,
            has_dirty: true,
            has_remote: false,
        }
    }

    /// Bytes of the whole image.
    pub(crate) fn image_bytes(&self) -> u64 {
        match self.has_dirty {
            true => self.dirty_offset(2),
            false => self.arena_offset + self.arena_bytes,
        }
    }

    /// Where a bitmap of pages that were written begins.
    pub(crate) fn dirty_offset(&self, which: usize) -> u64 {
        let end = self.arena_offset + self.arena_bytes;
        end.next_multiple_of(PAGE_SIZE as u64) + which as u64 * self.dirty_bytes()
    }

    /// Bytes of one of them: a bit a page, in whole pages.
    pub(crate) fn dirty_bytes(&self) -> u64 {
        (self.pages.div_ceil(64) * 8).next_multiple_of(PAGE_SIZE as u64)
    }

    /// Where the codecs' records begin.
    pub(crate) fn codecs_offset(&self) -> u64 {
        CODECS_OFFSET
    }

    /// Where the area for a codec's dictionary begins.
    pub(crate) fn dictionary_offset(&self, codec: usize) -> u64 {
        self.dictionaries_offset + codec as u64 * AREA_BYTES
    }
}

impl Header {
    /// A header for an image of this shape.
    pub(crate) fn new(geometry: &ImageGeometry, logical_block_bytes: u32) -> Header {
        let mut header = Header {
            magic: MAGIC,
            version: VERSION.into(),
            checksum: 0.into(),
            features_required: match geometry.has_remote {
                true => REMOTE_PAGES.into(),
                false => 0.into(),
            },
            features_optional: match geometry.has_dirty {
                true => DIRTY_BITMAPS.into(),
                false => 0.into(),
            },
            page_bytes: (PAGE_SIZE as u32).into(),
            span_bytes: (SPAN_BYTES as u32).into(),
            class_count: (CLASS_COUNT as u32).into(),
            logical_block_bytes: logical_block_bytes.into(),
            page_capacity: geometry.pages.into(),
            table_offset: geometry.table_offset.into(),
            table_bytes: geometry.table_bytes.into(),
            arena_offset: geometry.arena_offset.into(),
            arena_bytes: geometry.arena_bytes.into(),
            codecs_offset: CODECS_OFFSET.into(),
            dictionaries_offset: geometry.dictionaries_offset.into(),
            reserved: [0; 3992],
        };
        header.checksum = header.expected_checksum().into();
        header
    }

    fn expected_checksum(&self) -> u32 {
        let zeroed = Header {
            checksum: 0.into(),
            ..self.clone()
        };
        crc32fast::hash(zeroed.as_bytes())
    }

    /// Parses a header and refuses what this version could not use safely.
    pub fn parse(bytes: &[u8]) -> Result<Header, HeaderError> {
        let short = HeaderError::Short { got: bytes.len() };
        let (header, _) = Header::read_from_prefix(bytes).map_err(|_| short)?;
        if header.magic != MAGIC {
            return Err(HeaderError::Foreign);
        }
        if header.version.get() != VERSION {
            return Err(HeaderError::Version {
                found: header.version.get(),
            });
        }
        if header.checksum.get() != header.expected_checksum() {
            return Err(HeaderError::Damaged);
        }
        let unknown = header.features_required.get() & !REMOTE_PAGES;
        if unknown != 0 {
            return Err(HeaderError::Features { bits: unknown });
        }
        header
            .consistent()
            .map_err(|what| HeaderError::Inconsistent { what })?;
        Ok(header)
    }

    fn consistent(&self) -> Result<(), &'static str> {
        let rule = |holds: bool, what: &'static str| if holds { Ok(()) } else { Err(what) };
        let table_end = self.table_offset.get().checked_add(self.table_bytes.get());
        rule(
            self.page_bytes.get() == PAGE_SIZE as u32,
            "pages are not 4096 bytes",
        )?;
        rule(
            self.span_bytes.get() == SPAN_BYTES as u32,
            "spans are of another size",
        )?;
        rule(
            self.class_count.get() == CLASS_COUNT as u32,
            "the class table is another",
        )?;
        rule(
            matches!(self.logical_block_bytes.get(), 512 | 4096),
            "logical block size",
        )?;
        rule(
            self.codecs_offset.get() == CODECS_OFFSET && self.table_offset.get() == TABLE_OFFSET,
            "the table is not behind header, state and codecs",
        )?;
        let words = self.page_capacity.get().checked_mul(8);
        rule(
            words.is_some_and(|w| w > 0 && w <= self.table_bytes.get()),
            "the table is too short, or the device has no pages",
        )?;
        rule(
            self.page_capacity.get() <= 1 << 32
                && self.table_bytes.get().is_multiple_of(PAGE_SIZE as u64),
            "the device is too large",
        )?;
        rule(
            self.arena_offset.get().is_multiple_of(SPAN_BYTES as u64),
            "the arena does not begin at a span",
        )?;
        let dictionaries = self.dictionaries_offset.get();
        let dictionaries_end = dictionaries.checked_add(CODECS as u64 * AREA_BYTES);
        rule(
            table_end.is_some_and(|e| e <= dictionaries)
                && dictionaries_end.is_some_and(|e| e <= self.arena_offset.get())
                && dictionaries.is_multiple_of(AREA_BYTES),
            "table, dictionaries and arena overlap",
        )?;
        rule(self.arena_bytes.get() <= MAX_ARENA, "the arena is too long")?;
        let end = self.arena_offset.get().checked_add(self.arena_bytes.get());
        // With the bitmaps, whose length is bounded by the pages'.
        let end = end.and_then(|end| end.checked_add(MAX_DIRTY));
        rule(
            end.is_some_and(|end| end <= i64::MAX as u64),
            "the arena ends beyond any file",
        )
    }

    /// The most pages that the device may have.
    pub fn page_capacity(&self) -> u64 {
        self.page_capacity.get()
    }

    /// 512 or 4096.
    pub fn logical_block_size(&self) -> u32 {
        self.logical_block_bytes.get()
    }

    /// Bytes of the whole image.
    pub fn image_bytes(&self) -> u64 {
        self.geometry().image_bytes()
    }

    pub(crate) fn geometry(&self) -> ImageGeometry {
        ImageGeometry {
            pages: self.page_capacity.get(),
            table_offset: self.table_offset.get(),
            table_bytes: self.table_bytes.get(),
            dictionaries_offset: self.dictionaries_offset.get(),
            arena_offset: self.arena_offset.get(),
            arena_bytes: self.arena_bytes.get(),
            has_dirty: self.features_optional.get() & DIRTY_BITMAPS != 0,
            has_remote: self.features_required.get() & REMOTE_PAGES != 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header::new(&ImageGeometry::new(1000, 2), 4096)
    }

    #[test]
    fn a_header_reads_back() {
        let parsed = Header::parse(header().as_bytes()).unwrap();
        assert_eq!(parsed.page_capacity(), 1000);
        assert_eq!(parsed.geometry(), ImageGeometry::new(1000, 2));
    }

    /// An older program knows no required feature, and refuses the image by this bit.
    #[test]
    fn an_image_says_that_pages_may_be_remote() {
        let geometry = ImageGeometry {
            has_remote: true,
            ..ImageGeometry::new(1000, 2)
        };
        let mut header = Header::new(&geometry, 4096);
        assert_eq!(header.as_bytes()[16..24], 1u64.to_le_bytes());
        assert_eq!(
            Header::parse(header.as_bytes()).unwrap().geometry(),
            geometry
        );
        header.features_required = 3.into();
        header.checksum = header.expected_checksum().into();
        let refused = Header::parse(header.as_bytes()).unwrap_err();
        assert_eq!(refused, HeaderError::Features { bits: 2 });
    }

    #[test]
    fn first_bytes_are_the_documented_ones() {
        let header = header();
        let bytes = header.as_bytes();
        assert_eq!(&bytes[..12], b"UZRAMIMG\x04\0\0\0");
        assert_eq!(
            &bytes[32..56],
            b"\0\x10\0\0\0\0\x10\0\x2e\x01\0\0\0\x10\0\0\xe8\x03\0\0\0\0\0\0"
        );
    }

    #[test]
    fn damage_is_told_from_foreign_and_from_newer() {
        let good = header();
        assert_eq!(
            Header::parse(&[0; 100]).unwrap_err(),
            HeaderError::Short { got: 100 }
        );
        assert_eq!(Header::parse(&[0; 4096]).unwrap_err(), HeaderError::Foreign);
        for byte in [20, 48, 90, 700, 4095] {
            let mut bytes = good.as_bytes().to_vec();
            bytes[byte] ^= 4;
            assert_eq!(
                Header::parse(&bytes).unwrap_err(),
                HeaderError::Damaged,
                "{byte}"
            );
        }
        let sealed = |change: fn(&mut Header)| {
            let mut header = good.clone();
            change(&mut header);
            header.checksum = header.expected_checksum().into();
            Header::parse(header.as_bytes()).unwrap_err()
        };
        for (change, found) in [
            ((|h| h.version = 1.into()) as fn(&mut Header), 1),
            (|h| h.version = 5.into(), 5),
        ] {
            assert_eq!(sealed(change), HeaderError::Version { found });
        }
        let features = sealed(|h| h.features_required = 5.into());
        // The one that is known is not told.
        assert_eq!(features, HeaderError::Features { bits: 4 });
        for broken in [
            sealed(|h| h.page_capacity = u64::MAX.into()),
            sealed(|h| h.page_capacity = 1_000_000.into()),
            sealed(|h| h.arena_offset = 0.into()),
            sealed(|h| h.arena_offset = (h.arena_offset.get() + 4096).into()),
            sealed(|h| h.dictionaries_offset = (h.dictionaries_offset.get() + (1 << 20)).into()),
            sealed(|h| h.codecs_offset = 0.into()),
            sealed(|h| h.page_capacity = 0.into()),
            sealed(|h| h.table_bytes = u64::MAX.into()),
            sealed(|h| h.arena_offset = (u64::MAX - SPAN_BYTES as u64 + 1).into()),
            sealed(|h| h.arena_bytes = u64::MAX.into()),
        ] {
            assert!(
                matches!(broken, HeaderError::Inconsistent { .. }),
                "{broken}"
            );
        }
    }
}
