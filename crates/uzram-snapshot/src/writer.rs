//! Writes a snapshot, strictly forward: to a file, a pipe, or the parts of an upload.
//!
//! **Memory bound**: one index block, index blocks of at most 4 MiB that wait for the segment's end, the directory of one
//! segment (2.8 MiB), one frame; and 48 bytes a segment, 40 and 52 an index block: 2 MiB for each TiB of the disk.

use std::collections::BTreeSet;
use std::io::Write;

use crate::Error;
use crate::contents::{Contents, Directory, DirectoryEntry, FOOTER_BYTES, end_mark, footer};
use crate::disk::{DictionarySource, DiskSource, merge};
use crate::format::{
    BLOCK_FRAMES, Digest, FRAME_PAGES, HEADER, Kind, MAX_CODECS, MAX_DELTA_PAGES,
    MAX_SEGMENT_BYTES, MAX_SEGMENT_FRAMES, MAX_SEGMENTS, PAGE_BYTES, Record, SEGMENT_BYTES, SUM,
    header,
};
use crate::head::Head;
use crate::index::{FrameEntry, IndexBlock, Place};
use crate::manifest::{BlockSummary, Manifest, SegmentSummary, Totals};
use crate::page::{Frame, MAX_FRAME_BYTES, Page};
use crate::plan::{Own, fits, plan, with_smallest_places};
use crate::snapshot::Snapshot;

/// Index blocks that wait for the end of a segment: then it is ended.
const MAX_WAITING_BYTES: usize = 4 << 20;

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotSummary {
    /// The snapshot's name.
    pub name: Digest,
    /// All bytes.
    pub bytes: u64,
    /// Bytes of its index blocks.
    pub index_bytes: u64,
    /// What the pages come to, those of the parent included.
    pub totals: Totals,
}

/// The sink, and how many bytes it took.
#[derive(Debug)]
struct Sink<W> {
    to: W,
    at: u64,
}

impl<W: Write> Sink<W> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.to.write_all(bytes).map_err(Error::write)?;
        self.at += bytes.len() as u64;
        Ok(())
    }
}

/// A segment that is being written.
#[derive(Debug)]
struct OpenSegment {
    begin: u64,
    directory: Directory,
}

/// Writes a snapshot.
#[derive(Debug)]
pub struct SnapshotWriter<W> {
    sink: Sink<W>,
    manifest: Manifest,
    contents: Contents,
    /// The snapshot's number of each of the disk's codecs.
    codecs: [Option<u8>; MAX_CODECS],
    segment_bytes: u64,
    segment: Option<OpenSegment>,
    block: Option<IndexBlock>,
    /// Blocks whose frames are written but for the segment's end.
    waiting: Vec<(u32, Record)>,
    waiting_bytes: usize,
    index_bytes: u64,
    /// Blocks that were written, or will be.
    done: BTreeSet<u32>,
    parent: Option<Snapshot>,
    /// The least frame that may come.
    next: u32,
    buffer: Vec<u8>,
}

impl<W: Write> SnapshotWriter<W> {
    /// Begins a snapshot that is complete in itself. Pages that it is not told of are zeros.
    pub fn new(to: W, disk: &DiskSource<'_>) -> Result<SnapshotWriter<W>, Error> {
        SnapshotWriter::begin(to, disk, None)
    }

    /// Begins a snapshot of what changed since `parent`. Frames that it is not told of are as in the parent, but for what a
    /// smaller disk cuts off.
    pub fn since(
        to: W,
        disk: &DiskSource<'_>,
        parent: Snapshot,
    ) -> Result<SnapshotWriter<W>, Error> {
        SnapshotWriter::begin(to, disk, Some(parent))
    }

    fn begin(
        to: W,
        disk: &DiskSource<'_>,
        parent: Option<Snapshot>,
    ) -> Result<SnapshotWriter<W>, Error> {
        let before = parent.as_ref().map(Snapshot::manifest);
        let mut head = Head {
            pages: disk.pages,
            taken_at_seconds: disk.taken_at_seconds,
            is_basis: disk.is_basis,
            parent: parent.as_ref().map(Snapshot::name),
            segments_before: before.map_or(0, |before| before.segments.len() as u32),
            codecs: before.map_or(Vec::new(), |before| before.head.codecs.clone()),
            notes: disk.notes.to_vec(),
        };
        let codecs = merge(&mut head.codecs, disk.codecs)?;
        head.check()?;
        let first = Record::new(Kind::Head, &head.encode());
        let mut writer = SnapshotWriter {
            sink: Sink { to, at: 0 },
            manifest: Manifest {
                head,
                totals: before.map_or(Totals::default(), |before| before.totals),
                segments: before.map_or(Vec::new(), |before| before.segments.clone()),
                blocks: before.map_or(Default::default(), |before| before.blocks.clone()),
            },
            contents: Contents::default(),
            codecs,
            segment_bytes: SEGMENT_BYTES,
            segment: None,
            block: None,
            waiting: Vec::new(),
            waiting_bytes: 0,
            index_bytes: 0,
            done: BTreeSet::new(),
            parent,
            next: 0,
            buffer: Vec::new(),
        };
        writer.sink.write(&first.bytes)?;
        for codec in disk.codecs {
            if let Some(DictionarySource::Bytes(bytes)) = codec.dictionary {
                let record = Record::new(Kind::Dictionary, bytes);
                if writer
                    .contents
                    .find(Kind::Dictionary, record.name)
                    .is_none()
                {
                    writer.record(Kind::Dictionary, &record)?;
                }
            }
        }
        Ok(writer)
    }

    /// Ends segments after this many bytes, 64 KiB to 48 MiB. Smaller ones serve tests.
    pub fn with_segment_bytes(mut self, bytes: u64) -> SnapshotWriter<W> {
        self.segment_bytes = bytes.clamp(64 << 10, 48 << 20);
        self
    }

    /// What the head says.
    pub fn head(&self) -> &Head {
        &self.manifest.head
    }

    /// The pages of a frame that [`frame`](SnapshotWriter::frame) must be given, if those of `changed` changed: these, with
    /// them those of places that there would be too many of, or all.
    pub fn needs(&mut self, frame: u32, changed: u64) -> Result<u64, Error> {
        self.expect(frame)?;
        self.enter(frame)?;
        let mask = self.manifest.head.mask(frame);
        let changed = changed & mask;
        Ok(match self.old(frame) {
            _ if self.parent.is_none() => mask,
            // The parent has zeros there.
            None => changed,
            Some(old) => {
                let needed = with_smallest_places(&old, changed);
                let is_delta = needed.count_ones() <= MAX_DELTA_PAGES;
                if is_delta { needed } else { mask }
            }
        })
    }

    /// Writes a frame. Frames come in ascending order. `pages` are the frame's, or as many as the disk has of them;
    /// [`Page::Unchanged`] is for those that [`needs`](SnapshotWriter::needs) does not ask for.
    ///
    /// After an error the snapshot is not good for anything.
    pub fn frame(&mut self, frame: u32, pages: &[Page<'_>]) -> Result<(), Error> {
        self.expect(frame)?;
        self.check(frame, pages)?;
        self.enter(frame)?;
        let old = self.old(frame);
        let changed = (0..pages.len())
            .filter(|page| pages[*page] != Page::Unchanged)
            .fold(0, |mask, page| mask | 1u64 << page);
        if changed != self.manifest.head.mask(frame)
            && let Some(old) = &old
            && !fits(old, changed)
        {
            let page = first_page(frame);
            let why = "its frame must be given whole: ask for what it needs";
            return Err(Error::Page { page, why });
        }
        let (mut entry, own) = plan(&self.codecs, pages, old.as_ref(), changed);
        if !own.is_empty() {
            entry.places.push(self.store(frame, &own)?);
        }
        if let Some(old) = &old {
            self.manifest.count(old, false);
        }
        self.manifest.count(&entry, true);
        if let Some(block) = &mut self.block {
            let key = IndexBlock::key(frame);
            block.entries.remove(&key);
            if !entry.is_zero() {
                block.entries.insert(key, entry);
            }
        }
        self.next = frame + 1;
        self.end_full_segment()
    }

    /// Writes what is left: index, manifest, table of contents, end mark. Does not flush or sync the sink.
    pub fn finish(mut self) -> Result<(W, SnapshotSummary), Error> {
        self.leave()?;
        self.end_segment()?;
        self.cut_parent()?;
        let manifest = self.manifest.record();
        self.record(Kind::Manifest, &manifest)?;
        let contents = self.contents.record();
        let at = self.sink.at;
        self.sink.write(&contents.bytes)?;
        let end = end_mark(at, contents.bytes.len() as u64);
        self.sink.write(&end.bytes)?;
        let written = SnapshotSummary {
            name: manifest.name,
            bytes: self.sink.at,
            index_bytes: self.index_bytes,
            totals: self.manifest.totals,
        };
        Ok((self.sink.to, written))
    }

    fn expect(&self, frame: u32) -> Result<(), Error> {
        let frames = self.manifest.head.frames();
        let is_next = frame >= self.next && frame < frames;
        is_next.then_some(()).ok_or(Error::Order { frame, frames })
    }

    fn check(&self, frame: u32, pages: &[Page<'_>]) -> Result<(), Error> {
        let refuse = |page: usize, why| {
            let page = first_page(frame) + page as u64;
            Err(Error::Page { page, why })
        };
        if pages.len() != self.manifest.head.mask(frame).count_ones() as usize {
            return refuse(0, "its frame has another number of pages");
        }
        for (at, page) in pages.iter().enumerate() {
            match *page {
                Page::Unchanged if self.parent.is_none() => {
                    return refuse(at, "a complete snapshot has no unchanged pages");
                }
                Page::Raw(bytes) if bytes.len() != PAGE_BYTES => {
                    return refuse(at, "a page has 4096 bytes");
                }
                Page::Object { bytes, .. } if !(1..PAGE_BYTES).contains(&bytes.len()) => {
                    return refuse(at, "an object has 1 to 4095 bytes");
                }
                Page::Object { codec, .. }
                    if self
                        .codecs
                        .get(usize::from(codec))
                        .copied()
                        .flatten()
                        .is_none() =>
                {
                    return refuse(at, "its codec is not listed");
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// What the parent has of a frame.
    fn old(&self, frame: u32) -> Option<FrameEntry> {
        self.block.as_ref()?.entry(frame).cloned()
    }

    /// Goes to the block that a frame is in.
    fn enter(&mut self, frame: u32) -> Result<(), Error> {
        let number = frame / BLOCK_FRAMES as u32;
        if self
            .block
            .as_ref()
            .is_some_and(|block| block.number == number)
        {
            return Ok(());
        }
        self.leave()?;
        self.block = Some(self.parents_block(number)?);
        Ok(())
    }

    /// The parent's block, or an empty one. What a smaller disk lacks is taken out of it.
    fn parents_block(&mut self, number: u32) -> Result<IndexBlock, Error> {
        let found = match &mut self.parent {
            Some(parent) => parent.block(number)?.cloned(),
            None => None,
        };
        let mut block = found.unwrap_or_else(|| IndexBlock::new(number));
        let first = block.first_frame();
        let manifest = &mut self.manifest;
        block.entries.retain(|frame, entry| {
            let mask = manifest.head.mask(first + u32::from(*frame));
            if mask != u64::MAX {
                manifest.count(entry, false);
                entry.trim(mask);
                manifest.count(entry, true);
            }
            !entry.is_zero()
        });
        Ok(block)
    }

    /// Ends the current block.
    fn leave(&mut self) -> Result<(), Error> {
        let Some(block) = self.block.take() else {
            return Ok(());
        };
        // An empty one says that what the parent had is gone.
        let had = self.manifest.blocks.get(&block.number);
        if block.entries.is_empty() && had.is_none() {
            return Ok(());
        }
        let record = block.record();
        let is_as_before = had.is_some_and(|had| had.name == record.name);
        self.done.insert(block.number);
        if is_as_before {
            return Ok(());
        }
        self.waiting_bytes += record.bytes.len();
        self.waiting.push((block.number, record));
        match self.segment {
            Some(_) if self.waiting_bytes < MAX_WAITING_BYTES => Ok(()),
            Some(_) => self.end_segment(),
            None => self.write_waiting(),
        }
    }

    fn write_waiting(&mut self) -> Result<(), Error> {
        self.waiting_bytes = 0;
        for (number, record) in std::mem::take(&mut self.waiting) {
            let bytes = record.bytes.len() as u32;
            let name = record.name;
            self.index_bytes += u64::from(bytes);
            self.manifest
                .blocks
                .insert(number, BlockSummary { name, bytes });
            self.record(Kind::Index, &record)?;
        }
        Ok(())
    }

    /// Takes out of the parent's blocks what a smaller disk lacks.
    fn cut_parent(&mut self) -> Result<(), Error> {
        let pages = self.manifest.head.pages;
        let Some(parent) = &mut self.parent else {
            return Ok(());
        };
        if pages >= parent.manifest().head.pages {
            return Ok(());
        }
        let numbers: Vec<u32> = parent.manifest().blocks.keys().copied().collect();
        let frames = self.manifest.head.frames();
        for number in numbers {
            let begin = number * BLOCK_FRAMES as u32;
            let end = u64::from(begin) + BLOCK_FRAMES as u64;
            if end * FRAME_PAGES as u64 <= pages || self.done.contains(&number) {
                continue;
            }
            let block = self.parents_block(number)?;
            if begin < frames {
                self.block = Some(block);
                self.leave()?;
            } else {
                self.manifest.blocks.remove(&number);
            }
        }
        Ok(())
    }

    fn record(&mut self, kind: Kind, record: &Record) -> Result<(), Error> {
        let bytes = record.bytes.len() as u64;
        self.contents.push(kind, self.sink.at, bytes, record.name);
        self.sink.write(&record.bytes)
    }

    /// Writes a frame of these pages.
    fn store(&mut self, frame: u32, own: &[(usize, Own<'_>)]) -> Result<Place, Error> {
        if self.segment.is_none() {
            if self.manifest.segments.len() >= MAX_SEGMENTS {
                let max = MAX_SEGMENTS;
                return Err(Error::TooManySegments { max });
            }
            let begin = self.sink.at;
            self.sink.write(&header(Kind::Segment, 0))?;
            // Counts its live bytes from here on.
            self.manifest.segments.push(SegmentSummary {
                name: Digest::NONE,
                bytes: 0,
                live_bytes: 0,
            });
            let directory = Directory::default();
            self.segment = Some(OpenSegment { begin, directory });
        }
        let pages = own.iter();
        let pages = pages.map(|(at, page)| (*at, page.descriptor(), page.bytes()));
        let hash = Frame::encode(frame, pages, &mut self.buffer);
        let place = Place {
            mask: own.iter().fold(0, |mask, (at, _)| mask | 1 << at),
            segment: self.manifest.segments.len() as u32 - 1,
            offset: self.segment.as_ref().map_or(0, |of| of.directory.end()) as u32,
            bytes: self.buffer.len() as u32,
            hash: hash.short(),
        };
        if let Some(segment) = &mut self.segment {
            segment.directory.0.push(DirectoryEntry {
                frame,
                offset: place.offset,
                bytes: place.bytes,
                hash,
            });
        }
        self.sink.write(&self.buffer)?;
        Ok(place)
    }

    /// Ends the segment if the next frame may not fit.
    fn end_full_segment(&mut self) -> Result<(), Error> {
        let Some(OpenSegment { directory, .. }) = &self.segment else {
            return Ok(());
        };
        if directory.end() < self.segment_bytes && directory.0.len() < MAX_SEGMENT_FRAMES {
            return Ok(());
        }
        self.end_segment()
    }

    fn end_segment(&mut self) -> Result<(), Error> {
        if let Some(OpenSegment { begin, directory }) = self.segment.take() {
            let end = directory.end();
            let record = directory.record();
            self.sink.write(&record.bytes)?;
            let footer = footer(end, record.bytes.len() as u64);
            self.sink.write(&footer.bytes)?;
            let bytes = self.sink.at - begin;
            self.contents.push(Kind::Segment, begin, bytes, record.name);
            if let Some(summary) = self.manifest.segments.last_mut() {
                summary.name = record.name;
                summary.bytes = bytes;
            }
        }
        self.write_waiting()
    }
}

// A segment of 48 MiB, the frame that ends it, its directory and its footer are one.
const _: () = assert!(
    (48 << 20)
        + (MAX_FRAME_BYTES + HEADER + 4 + MAX_SEGMENT_FRAMES * 44 + SUM) as u64
        + FOOTER_BYTES
        <= MAX_SEGMENT_BYTES
);

fn first_page(frame: u32) -> u64 {
    u64::from(frame) * FRAME_PAGES as u64
}
