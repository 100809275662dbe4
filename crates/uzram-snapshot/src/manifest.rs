//! The manifest: the head, totals, all segments and all index blocks. Its hash is the snapshot's name.
//!
//! It says nothing about where anything is: the same manifest stands in a file and in a store.

use std::collections::BTreeMap;

use crate::format::{
    BLOCK_FRAMES, Digest, FRAME_PAGES, Fields, HEADER, Kind, MAX_BLOCKS, MAX_SEGMENT_BYTES,
    MAX_SEGMENTS, Record, SUM,
};
use crate::head::Head;
use crate::index::{FrameEntry, IndexBlock};
use crate::page::Described;

/// What the pages of a snapshot come to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Pages that have an object.
    pub object_pages: u64,
    /// Pages that repeat a word other than zero.
    pub same_pages: u64,
    /// Bytes of the objects.
    pub object_bytes: u64,
}

/// A segment as a manifest lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentSummary {
    /// Its name: the hash of its directory.
    pub name: Digest,
    /// Its bytes.
    pub bytes: u64,
    /// Bytes of objects in it that the snapshot uses. 0: the segment is not needed any more.
    pub live_bytes: u64,
}

/// An index block as a manifest lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlockSummary {
    pub(crate) name: Digest,
    /// Bytes of its record.
    pub(crate) bytes: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) head: Head,
    pub(crate) totals: Totals,
    pub(crate) segments: Vec<SegmentSummary>,
    pub(crate) blocks: BTreeMap<u32, BlockSummary>,
}

impl Manifest {
    pub(crate) fn record(&self) -> Record {
        let head = self.head.encode();
        let mut body = (head.len() as u32).to_le_bytes().to_vec();
        body.extend_from_slice(&head);
        let totals = [
            self.totals.object_pages,
            self.totals.same_pages,
            self.totals.object_bytes,
        ];
        for total in totals {
            body.extend_from_slice(&total.to_le_bytes());
        }
        body.extend_from_slice(&(self.segments.len() as u32).to_le_bytes());
        body.extend_from_slice(&(self.blocks.len() as u32).to_le_bytes());
        for segment in &self.segments {
            body.extend_from_slice(&segment.name.0);
            body.extend_from_slice(&segment.bytes.to_le_bytes());
            body.extend_from_slice(&segment.live_bytes.to_le_bytes());
        }
        for (number, block) in &self.blocks {
            body.extend_from_slice(&number.to_le_bytes());
            body.extend_from_slice(&block.bytes.to_le_bytes());
            body.extend_from_slice(&block.name.0);
        }
        Record::new(Kind::Manifest, &body)
    }

    pub(crate) fn parse(body: &[u8]) -> Result<Manifest, &'static str> {
        let mut fields = Fields(body);
        let head = fields.u32()? as usize;
        let head = Head::parse(fields.take(head)?)?;
        let totals = Totals {
            object_pages: fields.u64()?,
            same_pages: fields.u64()?,
            object_bytes: fields.u64()?,
        };
        let (segments, blocks) = (fields.u32()? as usize, fields.u32()? as usize);
        let last_block = (head.frames() - 1) / BLOCK_FRAMES as u32;
        if segments > MAX_SEGMENTS || blocks > MAX_BLOCKS {
            return Err("it has more segments or blocks than one can have");
        }
        if segments < head.segments_before as usize {
            return Err("it lacks segments of its parent");
        }
        // Before memory is taken for them.
        if fields.0.len() != segments * 48 + blocks * 40 {
            return Err("its length is wrong");
        }
        let mut manifest = Manifest {
            head,
            totals,
            segments: Vec::with_capacity(segments),
            blocks: BTreeMap::new(),
        };
        for _ in 0..segments {
            let segment = SegmentSummary {
                name: fields.digest()?,
                bytes: fields.u64()?,
                live_bytes: fields.u64()?,
            };
            if segment.bytes > MAX_SEGMENT_BYTES || segment.live_bytes > segment.bytes {
                return Err("a segment of it has another length than one can have");
            }
            manifest.segments.push(segment);
        }
        for _ in 0..blocks {
            let (number, bytes, name) = (fields.u32()?, fields.u32()?, fields.digest()?);
            let last = manifest.blocks.last_key_value();
            if number > last_block || last.is_some_and(|(last, _)| *last >= number) {
                return Err("its blocks are out of order");
            }
            if u64::from(bytes) > (HEADER + SUM) as u64 + Kind::Index.max_body() {
                return Err("a block of it has another length than one can have");
            }
            manifest.blocks.insert(number, BlockSummary { name, bytes });
        }
        Ok(manifest)
    }

    /// Counts an entry's pages in (or out).
    pub(crate) fn count(&mut self, entry: &FrameEntry, is_in: bool) {
        let Manifest {
            totals, segments, ..
        } = self;
        // Totals of a parent's file may be wrong: verify says so.
        let add = |total: &mut u64, count: u64| {
            *total = match is_in {
                true => total.saturating_add(count),
                false => total.saturating_sub(count),
            }
        };
        for (page, descriptor) in entry.pages.iter().enumerate() {
            let bytes = descriptor.frame_bytes() as u64;
            match descriptor.describe() {
                Described::Zero => {}
                Described::Inline(_) | Described::Word => add(&mut totals.same_pages, 1),
                Described::Raw | Described::Object { .. } => {
                    add(&mut totals.object_pages, 1);
                    add(&mut totals.object_bytes, bytes);
                }
            }
            let has_page = |place: &&crate::index::Place| place.mask >> page & 1 != 0;
            if let Some(place) = entry.places.iter().find(has_page)
                && let Some(segment) = segments.get_mut(place.segment as usize)
            {
                add(&mut segment.live_bytes, bytes);
            }
        }
    }

    /// The block of this number, which the manifest lists, from the body of its record. Checked.
    pub(crate) fn parse_block(&self, number: u32, body: &[u8]) -> Result<IndexBlock, &'static str> {
        let block = IndexBlock::parse(body)?;
        if block.number != number {
            return Err("it is another block than the manifest says");
        }
        self.check_block(&block)?;
        Ok(block)
    }

    /// Checks what only the manifest can know of a block: that its frames are on the disk, its segments and codecs listed.
    pub(crate) fn check_block(&self, block: &IndexBlock) -> Result<(), &'static str> {
        let head = &self.head;
        let codecs = head
            .codecs
            .iter()
            .fold(0u32, |mask, codec| mask | 1 << codec.number);
        for (frame, entry) in &block.entries {
            let mask = head.mask(block.first_frame() + u32::from(*frame));
            for page in 0..FRAME_PAGES {
                let descriptor = entry.pages[page];
                if mask >> page & 1 == 0 && descriptor.describe() != Described::Zero {
                    return Err("a page of it is beyond the disk's end");
                }
                if let Described::Object { codec } = descriptor.describe()
                    && codecs >> codec & 1 == 0
                {
                    return Err("a page of it has a codec that is not listed");
                }
            }
            if entry
                .places
                .iter()
                .any(|place| place.segment as usize >= self.segments.len())
            {
                return Err("a frame of it is in a segment that is not listed");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::SnapshotCodec;
    use crate::index::Place;
    use crate::page::Descriptor;

    /// A disk of 70,000 pages: two blocks, and a last frame of 48 pages.
    fn manifest() -> Manifest {
        let codec = SnapshotCodec {
            number: 5,
            algorithm: "lz4".into(),
            driver: String::new(),
            params: String::new(),
            dictionary: None,
        };
        let segment = SegmentSummary {
            name: Digest([1; 32]),
            bytes: 5000,
            live_bytes: 5000,
        };
        let block = BlockSummary {
            name: Digest([2; 32]),
            bytes: 500,
        };
        Manifest {
            head: Head {
                pages: 70_000,
                taken_at_seconds: 0,
                is_basis: false,
                parent: Some(Digest([3; 32])),
                segments_before: 1,
                codecs: vec![codec],
                notes: Vec::new(),
            },
            totals: Totals::default(),
            segments: vec![segment; 2],
            blocks: BTreeMap::from([(0, block), (1, block)]),
        }
    }

    fn parse(manifest: &Manifest) -> Result<Manifest, &'static str> {
        let record = manifest.record();
        Manifest::parse(&record.bytes[HEADER..record.bytes.len() - SUM])
    }

    #[test]
    fn what_a_manifest_lists_can_be() {
        type Change = fn(&mut Manifest);
        assert_eq!(parse(&manifest()), Ok(manifest()));
        let longest = (HEADER + SUM) as u32 + Kind::Index.max_body() as u32;
        let wrong: [Change; 6] = [
            |of| of.segments[1].bytes = MAX_SEGMENT_BYTES + 1,
            |of| of.segments[1].live_bytes = 5001,
            |of| of.segments.truncate(0),
            |of| of.head.segments_before = 3,
            |of| of.blocks = BTreeMap::from([(2, of.blocks[&0])]),
            |of| of.head.pages = 65_536,
        ];
        for (nth, change) in wrong.into_iter().enumerate() {
            let mut changed = manifest();
            change(&mut changed);
            assert!(parse(&changed).is_err(), "{nth}");
        }
        for (bytes, is_good) in [(longest, true), (longest + 1, false)] {
            let mut changed = manifest();
            changed.blocks.get_mut(&1).unwrap().bytes = bytes;
            assert_eq!(parse(&changed).is_ok(), is_good);
        }
        // The numbers of two blocks, exchanged.
        let record = manifest().record();
        let mut body = record.bytes[HEADER..record.bytes.len() - SUM].to_vec();
        let at = body.len() - 2 * 40;
        body.swap(at, at + 40);
        assert!(Manifest::parse(&body).is_err());
    }

    #[test]
    fn a_block_names_what_is_listed() {
        let block = |frame: u16, page: usize, codec: u8, segment: u32| {
            let mut entry = FrameEntry::empty();
            entry.pages[page] = Descriptor::object(codec, 9);
            entry.places.push(Place {
                mask: 1 << page,
                segment,
                offset: 24,
                bytes: 100,
                hash: [0; 16],
            });
            let mut block = IndexBlock::new(1);
            block.entries.insert(frame, entry);
            manifest().check_block(&block)
        };
        assert_eq!(block(0, 0, 5, 1), Ok(()));
        assert!(block(0, 0, 4, 1).is_err(), "another codec");
        assert!(block(0, 0, 5, 2).is_err(), "another segment");
        // 70,000 is page 48 of frame 1093, which is the 69th of block 1.
        assert_eq!(block(69, 47, 5, 1), Ok(()));
        assert!(block(69, 48, 5, 1).is_err(), "beyond the disk's end");
        assert!(block(70, 0, 5, 1).is_err(), "beyond the disk's end");
    }
}
