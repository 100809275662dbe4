//! Reads a snapshot strictly forward, from a pipe or a file, and hands each page on as soon as its frame was checked.
//!
//! What was handed on is good only once [`SnapshotReader::restore`] has returned: only the manifest tells that all of it
//! belongs together.
//!
//! **Memory bound**: the dictionaries, one frame, one index block, and about 200 bytes for each frame whose index block has
//! not come yet, of which a file has no more than a segment and a block have.

use std::collections::BTreeMap;
use std::io::{self, Read};

use crate::Error;
use crate::contents::{
    Contents, Directory, DirectoryEntry, FOOTER_BYTES, parse_end_mark, parse_footer,
};
use crate::format::{
    BLOCK_FRAMES, Digest, FRAME_PAGES, HEADER, Kind, MAX_SEGMENT_BYTES, MAX_SEGMENT_FRAMES,
    MAX_SEGMENTS, SUM, Stream, check_header,
};
use crate::head::Head;
use crate::index::{FrameEntry, IndexBlock, Place};
use crate::manifest::{BlockSummary, Manifest, SegmentSummary, Totals};
use crate::page::{
    Described, Descriptor, FRAME_HEADER, FRAME_MAGIC, Frame, Page, frame_bytes, ones,
};

/// What was restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restored {
    /// The snapshot's name.
    pub name: Digest,
    /// All bytes that were read.
    pub bytes: u64,
    /// Frames among them.
    pub frames: u64,
    /// Whether what was restored is not of one moment: another snapshot follows, and must be restored, too.
    pub is_basis: bool,
    /// What the pages come to, those of the parent included.
    pub totals: Totals,
}

/// A frame whose entry in the index has not come yet.
struct Awaited {
    place: Place,
    pages: Vec<(usize, Descriptor)>,
}

/// Reads a snapshot forward.
#[derive(Debug)]
pub struct SnapshotReader<R> {
    stream: Stream<R>,
    head: Head,
    dictionaries: Vec<(Digest, Vec<u8>)>,
    /// The header after the last dictionary, and where it was.
    next: Option<([u8; HEADER], u64)>,
    contents: Contents,
}

impl<R: Read> SnapshotReader<R> {
    /// Reads the head and the dictionaries. It never reads past the snapshot's end, so `from` may go on after it: with the
    /// snapshot that this one is the basis of ([`Restored::is_basis`]), or with anything else.
    pub fn new(from: R) -> Result<SnapshotReader<R>, Error> {
        let mut stream = Stream::new(from, 0);
        let (body, _) = stream.record(Kind::Head)?;
        let head = Head::parse(&body).map_err(Error::damaged(Kind::Head, 0))?;
        let mut reader = SnapshotReader {
            stream,
            head,
            dictionaries: Vec::new(),
            next: None,
            contents: Contents::default(),
        };
        reader.read_dictionaries()?;
        Ok(reader)
    }

    fn read_dictionaries(&mut self) -> Result<(), Error> {
        loop {
            let at = self.stream.at();
            let header: [u8; HEADER] = self.stream.array()?;
            if !header.starts_with(Kind::Dictionary.magic()) {
                self.next = Some((header, at));
                return Ok(());
            }
            let (bytes, name) = self.stream.rest_of_record(Kind::Dictionary, header, at)?;
            let mut codecs = self.head.codecs.iter();
            let is_listed = codecs.any(|codec| {
                let named = codec.dictionary;
                named.is_some_and(|of| of.name == name && of.bytes as usize == bytes.len())
            });
            if !is_listed || self.dictionaries.iter().any(|(other, _)| *other == name) {
                return Err(Error::damaged(Kind::Dictionary, at)("no codec needs it"));
            }
            let len = self.stream.at() - at;
            self.contents.push(Kind::Dictionary, at, len, name);
            self.dictionaries.push((name, bytes));
        }
    }

    /// What the snapshot says of itself.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The dictionary of a codec, if the snapshot has it.
    pub fn dictionary(&self, codec: u8) -> Option<&[u8]> {
        let named = self.head.codec(codec)?.dictionary?;
        let mut all = self.dictionaries.iter();
        let (_, bytes) = all.find(|(name, _)| *name == named.name)?;
        Some(bytes)
    }

    /// Reads the rest, and hands each page to `target`. Of a complete snapshot these are the pages that are not zeros. Of an
    /// incremental one they are those that may have changed since its parent, so `target` must hold what the parent holds.
    ///
    /// No page comes twice, and those with objects come before their block's others. The pages are good only if this
    /// returns no error.
    pub fn restore(
        mut self,
        target: impl FnMut(u64, Page<'_>) -> io::Result<()>,
    ) -> Result<Restored, Error> {
        let mut pass = Pass {
            manifest: Manifest {
                head: self.head,
                totals: Totals::default(),
                segments: Vec::new(),
                blocks: BTreeMap::new(),
            },
            target,
            awaited: BTreeMap::new(),
            next_frame: 0,
            next_block: 0,
            frames: 0,
            buffer: Vec::new(),
        };
        let before = pass.manifest.head.segments_before as usize;
        let unknown = SegmentSummary {
            name: Digest::NONE,
            bytes: 0,
            live_bytes: 0,
        };
        pass.manifest.segments.resize(before, unknown);
        loop {
            let (header, at) = match self.next.take() {
                Some(next) => next,
                None => {
                    let at = self.stream.at();
                    (self.stream.array()?, at)
                }
            };
            let (kind, name) = if header.starts_with(Kind::Segment.magic()) {
                check_header(Kind::Segment, &header, at)?;
                (Kind::Segment, pass.segment(&mut self.stream, at)?)
            } else if header.starts_with(Kind::Index.magic()) {
                let (body, name) = self.stream.rest_of_record(Kind::Index, header, at)?;
                let bytes = (HEADER + body.len() + SUM) as u32;
                let summary = BlockSummary { name, bytes };
                pass.block(&body, summary).map_err(pass_error(at))?;
                (Kind::Index, name)
            } else if header.starts_with(Kind::Manifest.magic()) {
                let (body, name) = self.stream.rest_of_record(Kind::Manifest, header, at)?;
                let manifest = pass
                    .end(&body)
                    .map_err(Error::damaged(Kind::Manifest, at))?;
                let len = self.stream.at() - at;
                self.contents.push(Kind::Manifest, at, len, name);
                read_end(&mut self.stream, &self.contents)?;
                return Ok(Restored {
                    name,
                    bytes: self.stream.at(),
                    frames: pass.frames,
                    is_basis: manifest.head.is_basis,
                    totals: manifest.totals,
                });
            } else {
                let why = "no segment, index block or manifest begins here";
                return Err(Error::damaged(Kind::Segment, at)(why));
            };
            self.contents.push(kind, at, self.stream.at() - at, name);
        }
    }
}

/// Reads the table of contents, which must say what was read, and the end mark.
pub(crate) fn read_end<R: Read>(stream: &mut Stream<R>, contents: &Contents) -> Result<(), Error> {
    let at = stream.at();
    let (body, _) = stream.record(Kind::Contents)?;
    let damaged = Error::damaged(Kind::Contents, at);
    if Contents::parse(&body, at).map_err(&damaged)? != *contents {
        return Err(damaged("it lists other things than there are"));
    }
    let end = stream.at();
    let (body, _) = stream.record(Kind::End)?;
    let damaged = Error::damaged(Kind::End, end);
    let pointer = parse_end_mark(&body).map_err(&damaged)?;
    match pointer == (at, end - at) {
        true => Ok(()),
        false => Err(damaged("it points elsewhere")),
    }
}

/// Why an index block was not taken.
enum BlockError {
    Damaged(&'static str),
    Target(u64, io::Error),
}

impl From<&'static str> for BlockError {
    fn from(why: &'static str) -> BlockError {
        BlockError::Damaged(why)
    }
}

fn target_error(page: u64) -> impl Fn(io::Error) -> Error {
    move |source| Error::Target { page, source }
}

fn pass_error(at: u64) -> impl Fn(BlockError) -> Error {
    move |error| match error {
        BlockError::Damaged(why) => Error::damaged(Kind::Index, at)(why),
        BlockError::Target(page, source) => Error::Target { page, source },
    }
}

/// A pass over a snapshot: what it has read so far.
struct Pass<T> {
    /// As it will have to be.
    manifest: Manifest,
    target: T,
    awaited: BTreeMap<u32, Awaited>,
    next_frame: u32,
    next_block: u32,
    frames: u64,
    buffer: Vec<u8>,
}

impl<T: FnMut(u64, Page<'_>) -> io::Result<()>> Pass<T> {
    /// Reads a segment after its header; returns its name.
    fn segment<R: Read>(&mut self, stream: &mut Stream<R>, begin: u64) -> Result<Digest, Error> {
        if self.manifest.segments.len() >= MAX_SEGMENTS {
            return Err(Error::damaged(Kind::Segment, begin)("there are too many"));
        }
        let number = self.manifest.segments.len() as u32;
        let mut directory = Directory::default();
        loop {
            let at = stream.at();
            let magic: [u8; 4] = stream.array()?;
            if magic == FRAME_MAGIC {
                let frame = self.read_frame(stream, at)?;
                let entry = DirectoryEntry {
                    frame: frame.number,
                    offset: (at - begin) as u32,
                    bytes: frame.len() as u32,
                    hash: frame.sum(),
                };
                let is_full = directory.0.len() >= MAX_SEGMENT_FRAMES;
                if is_full || stream.at() - begin > MAX_SEGMENT_BYTES {
                    return Err(Error::damaged(Kind::Frame, at)("its segment is too long"));
                }
                directory.0.push(entry);
                self.take_frame(frame, number, &entry, at)?;
                continue;
            }
            let mut header = [0; HEADER];
            header[..4].copy_from_slice(&magic);
            stream.fill(&mut header[4..])?;
            let (body, name) = stream.rest_of_record(Kind::Directory, header, at)?;
            let damaged = Error::damaged(Kind::Directory, at);
            if Directory::parse(&body).map_err(&damaged)? != directory {
                return Err(damaged("it lists other frames than there are"));
            }
            let end = stream.at();
            let (body, _) = stream.record(Kind::Footer)?;
            let damaged = Error::damaged(Kind::Footer, end);
            if parse_footer(&body).map_err(&damaged)? != (at - begin, end - at) {
                return Err(damaged("it points elsewhere"));
            }
            debug_assert_eq!(stream.at() - end, FOOTER_BYTES);
            let bytes = stream.at() - begin;
            if bytes > MAX_SEGMENT_BYTES {
                return Err(damaged("its segment is too long"));
            }
            self.manifest.segments.push(SegmentSummary {
                name,
                bytes,
                live_bytes: 0,
            });
            return Ok(name);
        }
    }

    /// Reads a frame after its magic.
    fn read_frame<R: Read>(&mut self, stream: &mut Stream<R>, at: u64) -> Result<Frame, Error> {
        let damaged = Error::damaged(Kind::Frame, at);
        let mut header = [0; FRAME_HEADER];
        header[..4].copy_from_slice(&FRAME_MAGIC);
        stream.fill(&mut header[4..])?;
        let len = frame_bytes(&header).map_err(&damaged)?;
        let mut bytes = std::mem::take(&mut self.buffer);
        bytes.clear();
        bytes.extend_from_slice(&header);
        stream.append(&mut bytes, (len - FRAME_HEADER) as u64)?;
        Frame::parse(bytes).map_err(damaged)
    }

    /// Hands a frame's pages on, and keeps in mind what the index must say of it.
    fn take_frame(
        &mut self,
        frame: Frame,
        segment: u32,
        entry: &DirectoryEntry,
        at: u64,
    ) -> Result<(), Error> {
        let damaged = Error::damaged(Kind::Frame, at);
        let head = &self.manifest.head;
        let number = frame.number;
        if number < self.next_frame || number / (BLOCK_FRAMES as u32) < self.next_block {
            return Err(damaged("it is out of order"));
        }
        if frame.mask & !head.mask(number) != 0 {
            return Err(damaged("it is beyond the disk's end"));
        }
        let block_of = |frame: u32| frame / BLOCK_FRAMES as u32;
        let begins_segment = entry.offset as usize == HEADER;
        if let Some((first, _)) = self.awaited.first_key_value()
            && begins_segment
            && block_of(*first) != block_of(number)
        {
            return Err(damaged("the index of frames before it is missing"));
        }
        let mut pages = Vec::with_capacity(frame.mask.count_ones() as usize);
        for page in ones(frame.mask) {
            let descriptor = frame.descriptor(page);
            if let Described::Object { codec } = descriptor.describe()
                && head.codec(codec).is_none()
            {
                return Err(damaged("a page of it has a codec that is not listed"));
            }
            pages.push((page, descriptor));
            let number = u64::from(number) * FRAME_PAGES as u64 + page as u64;
            (self.target)(number, frame.page(page)).map_err(target_error(number))?;
        }
        let place = Place {
            mask: frame.mask,
            segment,
            offset: entry.offset,
            bytes: entry.bytes,
            hash: entry.hash.short(),
        };
        self.awaited.insert(number, Awaited { place, pages });
        self.next_frame = number + 1;
        self.frames += 1;
        self.buffer = frame.into_bytes();
        Ok(())
    }

    fn block(&mut self, body: &[u8], summary: BlockSummary) -> Result<(), BlockError> {
        let block = IndexBlock::parse(body)?;
        self.manifest.check_block(&block)?;
        let head = &self.manifest.head;
        let blocks = head.frames().div_ceil(BLOCK_FRAMES as u32);
        if block.number < self.next_block || block.number >= blocks {
            return Err("it is out of order, or beyond the disk's end".into());
        }
        if block.entries.is_empty() && head.parent.is_none() {
            return Err("it has no frames".into());
        }
        self.next_block = block.number + 1;
        for (frame, entry) in &block.entries {
            self.check_own(block.first_frame() + u32::from(*frame), entry)?;
        }
        let first = self.awaited.first_key_value();
        let end = u64::from(block.first_frame()) + BLOCK_FRAMES as u64;
        if first.is_some_and(|(frame, _)| u64::from(*frame) < end) {
            return Err("it lacks a frame that was written".into());
        }
        self.hand_on(&block)?;
        for entry in block.entries.values() {
            self.manifest.count(entry, true);
        }
        self.manifest.blocks.insert(block.number, summary);
        Ok(())
    }

    /// Compares what an entry says of a frame with the frame that was read.
    fn check_own(&mut self, frame: u32, entry: &FrameEntry) -> Result<(), &'static str> {
        let before = self.manifest.head.segments_before;
        for place in entry.places.iter().filter(|place| place.segment >= before) {
            let awaited = self.awaited.remove(&frame);
            let awaited = awaited.ok_or("it has a frame that was not written")?;
            let mut pages = awaited.pages.iter();
            if awaited.place != *place || !pages.all(|(at, page)| entry.pages[*at] == *page) {
                return Err("it describes a frame otherwise than the frame itself");
            }
        }
        Ok(())
    }

    /// Hands on the pages of a block that have no object.
    fn hand_on(&mut self, block: &IndexBlock) -> Result<(), BlockError> {
        let head = &self.manifest.head;
        let is_incremental = head.parent.is_some();
        let zeros = FrameEntry::empty();
        for at in 0..BLOCK_FRAMES as u16 {
            let frame = block.first_frame() + u32::from(at);
            let entry = match block.entries.get(&at) {
                Some(entry) => entry,
                None if is_incremental => &zeros,
                None => continue,
            };
            let placed = entry.places.iter().fold(0, |mask, place| mask | place.mask);
            for page in ones(head.mask(frame) & !placed) {
                let content = match entry.word(page) {
                    Some(word) => Page::Same(word),
                    None if is_incremental => Page::Zero,
                    None => continue,
                };
                let number = u64::from(frame) * FRAME_PAGES as u64 + page as u64;
                (self.target)(number, content)
                    .map_err(|error| BlockError::Target(number, error))?;
            }
        }
        Ok(())
    }

    /// Compares the manifest with what was read.
    fn end(&self, body: &[u8]) -> Result<Manifest, &'static str> {
        let manifest = Manifest::parse(body)?;
        let read = &self.manifest;
        if manifest.head != read.head {
            return Err("it has another head than the file");
        }
        if !self.awaited.is_empty() {
            return Err("a frame before it is not in the index");
        }
        let before = read.head.segments_before as usize;
        let is_incremental = read.head.parent.is_some();
        let is_same = |(listed, read): (&SegmentSummary, &SegmentSummary)| {
            listed.name == read.name && listed.bytes == read.bytes
        };
        let mut pairs = manifest.segments.iter().zip(&read.segments).skip(before);
        if manifest.segments.len() != read.segments.len() || !pairs.all(is_same) {
            return Err("it lists other segments than there are");
        }
        let mut blocks = read.blocks.iter();
        if !blocks.all(|(number, block)| manifest.blocks.get(number) == Some(block)) {
            return Err("it lists other blocks of the index than there are");
        }
        if is_incremental {
            return Ok(manifest);
        }
        if manifest.blocks.len() != read.blocks.len() {
            return Err("it lists blocks of the index that are not there");
        }
        if manifest.totals != read.totals || manifest.segments != read.segments {
            return Err("its totals are wrong");
        }
        Ok(manifest)
    }
}
