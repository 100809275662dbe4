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

    /// Checks what only the manifest can know of a block: that its frames are on the disk, its segments and codecs listed.
    pub(crate) fn check_block(&self, block: &IndexBlock) -> Result<(), &'static str> {
        check_block(&self.head, self.segments.len(), block)
    }
}

/// As [`Manifest::check_block`], where there is no manifest yet.
pub(crate) fn check_block(
    head: &Head,
    segments: usize,
    block: &IndexBlock,
) -> Result<(), &'static str> {
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
            .any(|place| place.segment as usize >= segments)
        {
            return Err("a frame of it is in a segment that is not listed");
        }
    }
    Ok(())
}
