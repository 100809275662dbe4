//! A block of the index: for each of 1024 frames where its objects are, and what each page is.
//!
//! An entry has at most 262 bytes, a thousandth of what its frame stands for. That is why it keeps 16 bytes of a frame's hash,
//! and why words for which there is no room go to the frame.

use std::collections::BTreeMap;

use crate::format::{
    BLOCK_FRAMES, FRAME_PAGES, Fields, MAX_BLOCKS, MAX_ENTRY_BYTES, MAX_PLACES, MAX_SEGMENT_BYTES,
    MAX_SEGMENTS,
};
use crate::format::{HEADER, Kind, Record};
use crate::page::{Described, Descriptor, MAX_FRAME_BYTES, MAX_WORDS, MIN_FRAME_BYTES, ones};

/// Bytes of an entry without places and words.
const ENTRY: usize = 4 + 2 * FRAME_PAGES;
/// Bytes of a place.
const PLACE: usize = 36;

/// A stored frame that some pages of an entry are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// The pages that are read from here.
    pub(crate) mask: u64,
    /// Number of the segment in the manifest.
    pub(crate) segment: u32,
    /// Offset of the frame in the segment.
    pub(crate) offset: u32,
    /// Bytes of the frame.
    pub(crate) bytes: u32,
    /// The beginning of its hash.
    pub(crate) hash: [u8; 16],
}

/// Where the pages of a frame are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FrameEntry {
    pub(crate) places: Vec<Place>,
    pub(crate) pages: [Descriptor; FRAME_PAGES],
    pub(crate) words: Vec<u64>,
}

/// Most words in an entry with so many places.
pub(crate) const fn max_words(places: usize) -> usize {
    let room = (MAX_ENTRY_BYTES - ENTRY - PLACE * places) / 8;
    if room < MAX_WORDS { room } else { MAX_WORDS }
}

const _: () = assert!(max_words(MAX_PLACES) == 2 && max_words(0) == MAX_WORDS);

impl FrameEntry {
    pub(crate) fn empty() -> FrameEntry {
        FrameEntry {
            places: Vec::new(),
            pages: [Descriptor::ZERO; FRAME_PAGES],
            words: Vec::new(),
        }
    }

    pub(crate) fn is_zero(&self) -> bool {
        self.pages.iter().all(|page| *page == Descriptor::ZERO)
    }

    /// The word that a page repeats, if it is here.
    pub(crate) fn word(&self, page: usize) -> Option<u64> {
        match self.pages[page].describe() {
            Described::Inline(word) => self.words.get(word).copied(),
            _ => None,
        }
    }

    /// Makes zeros of the pages that `mask` lacks.
    pub(crate) fn trim(&mut self, mask: u64) {
        for page in ones(!mask) {
            self.pages[page] = Descriptor::ZERO;
        }
        self.places.iter_mut().for_each(|place| place.mask &= mask);
        self.places.retain(|place| place.mask != 0);
    }

    fn encode(&self, frame: u16, out: &mut Vec<u8>) {
        debug_assert!(self.places.len() <= MAX_PLACES);
        debug_assert!(self.words.len() <= max_words(self.places.len()));
        out.extend_from_slice(&frame.to_le_bytes());
        out.extend([self.places.len() as u8, self.words.len() as u8]);
        for place in &self.places {
            out.extend_from_slice(&place.mask.to_le_bytes());
            for field in [place.segment, place.offset, place.bytes] {
                out.extend_from_slice(&field.to_le_bytes());
            }
            out.extend_from_slice(&place.hash);
        }
        for page in &self.pages {
            out.extend_from_slice(&page.0.to_le_bytes());
        }
        for word in &self.words {
            out.extend_from_slice(&word.to_le_bytes());
        }
    }

    fn parse(fields: &mut Fields<'_>) -> Result<(u16, FrameEntry), &'static str> {
        let frame = fields.u16()?;
        let [places, words] = fields.array()?.map(usize::from);
        if places > MAX_PLACES || words > max_words(places) {
            return Err("an entry has too many places or words");
        }
        let mut entry = FrameEntry::empty();
        let mut placed = 0;
        for _ in 0..places {
            let place = Place {
                mask: fields.u64()?,
                segment: fields.u32()?,
                offset: fields.u32()?,
                bytes: fields.u32()?,
                hash: fields.array()?,
            };
            let end = u64::from(place.offset) + u64::from(place.bytes);
            let is_frame = (MIN_FRAME_BYTES..=MAX_FRAME_BYTES).contains(&(place.bytes as usize));
            let is_inside = place.offset as usize >= HEADER && end <= MAX_SEGMENT_BYTES;
            let is_segment = (place.segment as usize) < MAX_SEGMENTS;
            if !is_frame || !is_inside || !is_segment {
                return Err("a frame cannot be where an entry says");
            }
            if place.mask == 0 || place.mask & placed != 0 {
                return Err("a page has two places, or a place no page");
            }
            placed |= place.mask;
            entry.places.push(place);
        }
        for page in &mut entry.pages {
            *page = Descriptor(fields.u16()?);
        }
        for _ in 0..words {
            entry.words.push(fields.u64()?);
        }
        let is_placed = |page: usize| entry.pages[page].frame_bytes() != 0;
        if !(0..FRAME_PAGES).all(|page| is_placed(page) == (placed >> page & 1 != 0)) {
            return Err("a page with an object has no place, or one without has");
        }
        let has_word = |page: &Descriptor| match page.describe() {
            Described::Inline(word) => word < words,
            _ => true,
        };
        if !entry.pages.iter().all(has_word) || entry.words.contains(&0) {
            return Err("a page repeats a word that is not there");
        }
        if entry.is_zero() {
            return Err("an entry has only zeros");
        }
        Ok((frame, entry))
    }
}

/// A block of the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IndexBlock {
    pub(crate) number: u32,
    /// Frames of which not all is zero, by their number in the block.
    pub(crate) entries: BTreeMap<u16, FrameEntry>,
}

impl IndexBlock {
    pub(crate) fn new(number: u32) -> IndexBlock {
        IndexBlock {
            number,
            entries: BTreeMap::new(),
        }
    }

    /// The number of a block's first frame.
    pub(crate) fn first_frame(&self) -> u32 {
        self.number * BLOCK_FRAMES as u32
    }

    /// A frame's number in its block.
    pub(crate) fn key(frame: u32) -> u16 {
        (frame as usize % BLOCK_FRAMES) as u16
    }

    /// The entry of a frame of this block. `None`: all of it is zeros.
    pub(crate) fn entry(&self, frame: u32) -> Option<&FrameEntry> {
        self.entries.get(&IndexBlock::key(frame))
    }

    pub(crate) fn record(&self) -> Record {
        let mut body = self.number.to_le_bytes().to_vec();
        body.extend_from_slice(&(self.entries.len() as u32).to_le_bytes());
        for (frame, entry) in &self.entries {
            entry.encode(*frame, &mut body);
        }
        Record::new(Kind::Index, &body)
    }

    pub(crate) fn parse(body: &[u8]) -> Result<IndexBlock, &'static str> {
        let mut fields = Fields(body);
        let (number, count) = (fields.u32()?, fields.u32()?);
        if number as usize >= MAX_BLOCKS || count as usize > BLOCK_FRAMES {
            return Err("it has another number or more frames than one can have");
        }
        let mut block = IndexBlock::new(number);
        for _ in 0..count {
            let (frame, entry) = FrameEntry::parse(&mut fields)?;
            let last = block.entries.last_key_value();
            if usize::from(frame) >= BLOCK_FRAMES || last.is_some_and(|(last, _)| *last >= frame) {
                return Err("its frames are out of order");
            }
            block.entries.insert(frame, entry);
        }
        fields.end()?;
        Ok(block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::HEADER;

    fn place(mask: u64) -> Place {
        Place {
            mask,
            segment: 0,
            offset: HEADER as u32,
            bytes: 200,
            hash: [7; 16],
        }
    }

    /// An entry of these places, each with one page, and so many words, each of which a page repeats.
    fn entry(places: usize, words: usize) -> FrameEntry {
        let mut entry = FrameEntry::empty();
        for at in 0..places {
            entry.places.push(place(1 << at));
            entry.pages[at] = Descriptor::object(1, 30);
        }
        for word in 0..words {
            entry.words.push(word as u64 + 1);
            entry.pages[20 + word] = Descriptor::inline(word % MAX_WORDS);
        }
        entry
    }

    /// As [`FrameEntry::encode`], of what it refuses to write, too.
    fn bytes(entry: &FrameEntry) -> Vec<u8> {
        let mut out = 0u16.to_le_bytes().to_vec();
        out.extend([entry.places.len() as u8, entry.words.len() as u8]);
        for place in &entry.places {
            out.extend_from_slice(&place.mask.to_le_bytes());
            for field in [place.segment, place.offset, place.bytes] {
                out.extend_from_slice(&field.to_le_bytes());
            }
            out.extend_from_slice(&place.hash);
        }
        entry
            .pages
            .iter()
            .for_each(|page| out.extend(page.0.to_le_bytes()));
        entry
            .words
            .iter()
            .for_each(|word| out.extend(word.to_le_bytes()));
        out
    }

    fn parse(entry: &FrameEntry) -> Result<FrameEntry, &'static str> {
        FrameEntry::parse(&mut Fields(&bytes(entry))).map(|(_, entry)| entry)
    }

    #[test]
    fn an_entry_has_as_many_words_and_places_as_it_has_room_for() {
        for (places, most) in [(0, 13), (1, 11), (2, 7), (3, 2)] {
            assert_eq!(max_words(places), most);
            let full = entry(places, most);
            assert_eq!(parse(&full), Ok(full.clone()));
            let mut written = Vec::new();
            full.encode(0, &mut written);
            assert_eq!(written, bytes(&full));
            assert!(written.len() <= MAX_ENTRY_BYTES);
            assert!(parse(&entry(places, most + 1)).is_err(), "{places} places");
        }
        assert!(parse(&entry(4, 0)).is_err());
    }

    #[test]
    fn a_place_is_within_a_segment_and_has_pages_of_its_own() {
        type Change = fn(&mut Place);
        let good: [Change; 3] = [
            |place| place.segment = MAX_SEGMENTS as u32 - 1,
            |place| place.bytes = MAX_FRAME_BYTES as u32,
            |place| place.offset = (MAX_SEGMENT_BYTES - 200) as u32,
        ];
        let wrong: [Change; 9] = [
            |place| place.segment = MAX_SEGMENTS as u32,
            |place| place.bytes = MAX_FRAME_BYTES as u32 + 1,
            |place| place.bytes = MIN_FRAME_BYTES as u32 - 1,
            |place| place.offset = HEADER as u32 - 1,
            |place| place.offset = (MAX_SEGMENT_BYTES - 199) as u32,
            |place| place.offset = u32::MAX,
            |place| place.mask = 0,
            |place| place.mask = 0b11,
            |place| place.mask = 0b101,
        ];
        let changed = |change: Change| {
            let mut entry = entry(2, 1);
            change(&mut entry.places[0]);
            parse(&entry)
        };
        assert!(good.into_iter().all(|change| changed(change).is_ok()));
        for (nth, change) in wrong.into_iter().enumerate() {
            assert!(changed(change).is_err(), "{nth}");
        }
    }

    #[test]
    fn pages_places_and_words_agree() {
        type Change = fn(&mut FrameEntry);
        let wrong: [Change; 6] = [
            |entry| entry.pages[0] = Descriptor::ZERO,
            |entry| entry.pages[9] = Descriptor::RAW,
            |entry| entry.pages[9] = Descriptor::WORD,
            |entry| entry.pages[9] = Descriptor::inline(1),
            |entry| entry.words[0] = 0,
            |entry| *entry = FrameEntry::empty(),
        ];
        for (nth, change) in wrong.into_iter().enumerate() {
            let mut entry = entry(1, 1);
            change(&mut entry);
            assert!(parse(&entry).is_err(), "{nth}");
        }
    }

    #[test]
    fn what_is_trimmed_is_zeros_and_has_no_place() {
        let mut entry = entry(3, 2);
        entry.places[1].mask |= 1 << 40;
        entry.pages[40] = Descriptor::RAW;
        entry.trim((1 << 21) - 1 - 1);
        assert_eq!(entry.pages[0], Descriptor::ZERO);
        assert_eq!(entry.pages[40], Descriptor::ZERO);
        assert_eq!(entry.pages[21], Descriptor::ZERO);
        assert_eq!(entry.word(20), Some(1));
        let masks: Vec<u64> = entry.places.iter().map(|place| place.mask).collect();
        assert_eq!(masks, [0b10, 0b100]);
        assert_eq!(parse(&entry), Ok(entry.clone()));
        entry.trim(0);
        assert!(entry.is_zero() && entry.places.is_empty());
    }

    #[test]
    fn frames_of_a_block_ascend() {
        let block = |frames: &[u16]| {
            let mut body = [0u32.to_le_bytes(), (frames.len() as u32).to_le_bytes()].concat();
            for frame in frames {
                let mut one = bytes(&entry(1, 0));
                one[..2].copy_from_slice(&frame.to_le_bytes());
                body.extend(one);
            }
            IndexBlock::parse(&body)
        };
        assert!(block(&[0, 1, 1023]).is_ok());
        for wrong in [&[1, 1][..], &[2, 1], &[1024]] {
            assert!(block(wrong).is_err(), "{wrong:?}");
        }
    }
}
