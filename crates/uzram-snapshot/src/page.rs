//! What a page is in a snapshot, and the 16 bits that say so.

use crate::format::{Digest, FRAME_PAGES, Fields, PAGE_BYTES, SUM};

/// The contents of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page<'a> {
    /// Zeros: never written, or discarded.
    Zero,
    /// It repeats this word, as 8 bytes of which the first is the lowest.
    Same(u64),
    /// Its 4096 bytes, stored as they are.
    Raw(&'a [u8]),
    /// An object of 1 to 4095 bytes that a codec made of it.
    Object {
        /// Number of the codec.
        codec: u8,
        /// What the codec made.
        bytes: &'a [u8],
    },
    /// As in the parent; only for [`SnapshotWriter::frame`](crate::SnapshotWriter::frame).
    Unchanged,
}

/// A page in 16 bits: bits 0 to 11 the length of its object, bits 12 to 15 the codec. Where the length is 0, bits 12 to 15 say
/// what the page is without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Descriptor(pub(crate) u16);

const ZERO: u16 = 0;
const RAW: u16 = 1;
const WORD: u16 = 2;
/// The first of the words in the entry.
const INLINE: u16 = 3;
/// Most words in an entry: what 16 bits have left.
pub(crate) const MAX_WORDS: usize = 16 - INLINE as usize;

/// What a descriptor says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Described {
    /// Zeros.
    Zero,
    /// Repeats the entry's word of this number.
    Inline(usize),
    /// Repeats a word that is in the frame.
    Word,
    /// In the frame as it is.
    Raw,
    /// In the frame as this codec's object.
    Object { codec: u8 },
}

impl Descriptor {
    pub(crate) const ZERO: Descriptor = Descriptor(ZERO << 12);
    pub(crate) const RAW: Descriptor = Descriptor(RAW << 12);
    pub(crate) const WORD: Descriptor = Descriptor(WORD << 12);

    pub(crate) fn inline(word: usize) -> Descriptor {
        debug_assert!(word < MAX_WORDS);
        Descriptor((INLINE + word as u16) << 12)
    }

    pub(crate) fn object(codec: u8, bytes: usize) -> Descriptor {
        debug_assert!(codec < 16 && (1..PAGE_BYTES).contains(&bytes));
        Descriptor(u16::from(codec) << 12 | bytes as u16)
    }

    pub(crate) fn describe(self) -> Described {
        let high = self.0 >> 12;
        match (self.0 & 0xFFF, high) {
            (0, ZERO) => Described::Zero,
            (0, RAW) => Described::Raw,
            (0, WORD) => Described::Word,
            (0, inline) => Described::Inline(usize::from(inline - INLINE)),
            _ => Described::Object { codec: high as u8 },
        }
    }

    /// Bytes that a frame holds of the page; 0 if none.
    pub(crate) fn frame_bytes(self) -> usize {
        match self.describe() {
            Described::Zero | Described::Inline(_) => 0,
            Described::Word => 8,
            Described::Raw => PAGE_BYTES,
            Described::Object { .. } => usize::from(self.0 & 0xFFF),
        }
    }
}

pub(crate) const FRAME_MAGIC: [u8; 4] = *b"uzFR";
/// Bytes of a frame before its descriptors.
pub(crate) const FRAME_HEADER: usize = 20;
/// The shortest frame: a page of one byte.
pub(crate) const MIN_FRAME_BYTES: usize = FRAME_HEADER + 2 + 1 + SUM;
/// The longest: 64 pages as they are.
pub(crate) const MAX_FRAME_BYTES: usize = FRAME_HEADER + FRAME_PAGES * (2 + PAGE_BYTES) + SUM;

/// A frame as it is stored: the objects of up to 64 pages, checked.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    bytes: Vec<u8>,
    pub(crate) number: u32,
    /// The pages that it has.
    pub(crate) mask: u64,
    pages: [(u32, Descriptor); FRAME_PAGES],
}

/// Bytes of the frame that begins with these.
pub(crate) fn frame_bytes(header: &[u8; FRAME_HEADER]) -> Result<usize, &'static str> {
    let mut fields = Fields(header);
    if fields.array()? != FRAME_MAGIC {
        return Err("it does not begin as one");
    }
    let (_, mask, objects) = (fields.u32()?, fields.u64()?, fields.u32()? as usize);
    let pages = mask.count_ones() as usize;
    if pages == 0 || objects < pages || objects > pages * PAGE_BYTES {
        return Err("its header is wrong");
    }
    Ok(FRAME_HEADER + 2 * pages + objects + SUM)
}

impl Frame {
    /// Writes a frame to `out`, which is cleared; returns its hash. Each page's descriptor goes with the bytes in the frame.
    pub(crate) fn encode<'a>(
        number: u32,
        pages: impl Iterator<Item = (usize, Descriptor, &'a [u8])> + Clone,
        out: &mut Vec<u8>,
    ) -> Digest {
        out.clear();
        let mask = pages
            .clone()
            .fold(0, |mask, (page, ..)| mask | 1u64 << page);
        let objects: usize = pages.clone().map(|(.., bytes)| bytes.len()).sum();
        out.extend_from_slice(&FRAME_MAGIC);
        out.extend_from_slice(&number.to_le_bytes());
        out.extend_from_slice(&mask.to_le_bytes());
        out.extend_from_slice(&(objects as u32).to_le_bytes());
        for (_, descriptor, bytes) in pages.clone() {
            debug_assert_eq!(descriptor.frame_bytes(), bytes.len());
            out.extend_from_slice(&descriptor.0.to_le_bytes());
        }
        pages.for_each(|(.., bytes)| out.extend_from_slice(bytes));
        let sum = Digest::of(out);
        out.extend_from_slice(&sum.0);
        sum
    }

    /// Checks a whole frame. `bytes` is as long as [`frame_bytes`] says.
    pub(crate) fn parse(bytes: Vec<u8>) -> Result<Frame, &'static str> {
        let header = bytes.first_chunk().ok_or("it is too short")?;
        if frame_bytes(header)? != bytes.len() {
            return Err("its length is wrong");
        }
        let (body, sum) = bytes.split_at(bytes.len() - SUM);
        if Digest::of(body).0 != *sum {
            return Err("its checksum is wrong");
        }
        let mut fields = Fields(&body[4..]);
        let (number, mask, objects) = (fields.u32()?, fields.u64()?, fields.u32()?);
        let mut at = FRAME_HEADER as u32 + 2 * mask.count_ones();
        let end = at + objects;
        let mut pages = [(0, Descriptor::ZERO); FRAME_PAGES];
        for page in ones(mask) {
            let descriptor = Descriptor(fields.u16()?);
            let len = descriptor.frame_bytes() as u32;
            if len == 0 {
                return Err("it has a page without an object");
            }
            pages[page] = (at, descriptor);
            at += len;
        }
        if at != end {
            return Err("its objects have other lengths");
        }
        Ok(Frame {
            bytes,
            number,
            mask,
            pages,
        })
    }

    pub(crate) fn sum(&self) -> Digest {
        let mut sum = [0; SUM];
        sum.copy_from_slice(&self.bytes[self.bytes.len() - SUM..]);
        Digest(sum)
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn descriptor(&self, page: usize) -> Descriptor {
        self.pages[page].1
    }

    /// The buffer, to be filled again.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// A page that the mask has.
    pub(crate) fn page(&self, page: usize) -> Page<'_> {
        let (at, descriptor) = self.pages[page];
        let bytes = &self.bytes[at as usize..][..descriptor.frame_bytes()];
        match descriptor.describe() {
            Described::Object { codec } => Page::Object { codec, bytes },
            Described::Raw => Page::Raw(bytes),
            Described::Word => {
                let word = bytes.first_chunk().copied().unwrap_or_default();
                Page::Same(u64::from_le_bytes(word))
            }
            Described::Zero | Described::Inline(_) => Page::Zero,
        }
    }
}

/// The numbers of the bits that are set, from the lowest.
pub(crate) fn ones(mut mask: u64) -> impl Iterator<Item = usize> + Clone {
    std::iter::from_fn(move || {
        let bit = mask.trailing_zeros();
        mask &= mask.wrapping_sub(1);
        (bit < 64).then_some(bit as usize)
    })
}
