//! A snapshot in a file that can be read anywhere: opened by its end, its index fetched by the block, its frames one by one.
//!
//! **Memory bound**: the manifest and the table of contents, one index block, and what a call returns.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::Error;
use crate::contents::{Contents, END_BYTES, Item, parse_end_mark};
use crate::format::{
    BLOCK_FRAMES, Digest, FRAME_PAGES, HEADER, Kind, MAX_CHAIN, SUM, Stream, check_header,
};
use crate::head::Head;
use crate::index::{FrameEntry, IndexBlock, Place};
use crate::manifest::{Manifest, SegmentSummary, Totals};
use crate::page::{Frame, Page, ones};
use crate::reader::{Restored, SnapshotReader};

/// What a snapshot can be read from at any place.
pub trait ReadAt: Send + Sync {
    /// Reads up to `buffer.len()` bytes at an offset. 0 means that the end is there.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// All bytes.
    fn size_bytes(&self) -> io::Result<u64>;
}

impl ReadAt for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, buffer, offset)
    }

    fn size_bytes(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

impl ReadAt for Box<dyn ReadAt> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        (**self).read_at(buffer, offset)
    }

    fn size_bytes(&self) -> io::Result<u64> {
        (**self).size_bytes()
    }
}

impl ReadAt for Vec<u8> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let from = self.get(offset..).unwrap_or_default();
        let len = from.len().min(buffer.len());
        buffer[..len].copy_from_slice(&from[..len]);
        Ok(len)
    }

    fn size_bytes(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }
}

/// Reads forward from some place on.
struct ForwardFrom<'a> {
    source: &'a dyn ReadAt,
    at: u64,
}

impl Read for ForwardFrom<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read_at(buffer, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

/// A snapshot, and its parents as far as they were given.
pub struct Snapshot {
    source: Arc<dyn ReadAt>,
    /// Where in the file the snapshot begins.
    begin: u64,
    /// And where it ends.
    end: u64,
    contents: Contents,
    /// The same by name.
    items: HashMap<(Kind, Digest), Item>,
    manifest: Manifest,
    name: Digest,
    parent: Option<Box<Snapshot>>,
    /// The block that was read last.
    block: Option<IndexBlock>,
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Snapshot");
        out.field("name", &self.name).field("parent", &self.parent);
        out.finish_non_exhaustive()
    }
}

/// What [`Snapshot::verify`] found to be good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified {
    /// Bytes of the file.
    pub bytes: u64,
    /// Frames in the file.
    pub frames: u64,
    /// Places in the parents' files that were read and are good.
    pub carried_frames: u64,
    /// Whether nothing is left to check: the snapshot has no parent, or its parents were given.
    pub is_complete: bool,
}

/// The pages of one frame.
#[derive(Debug, Clone)]
pub struct FrameContents {
    number: u32,
    pages: usize,
    entry: FrameEntry,
    frames: Vec<Frame>,
}

impl FrameContents {
    pub(crate) fn new(
        number: u32,
        pages: usize,
        entry: FrameEntry,
        frames: Vec<Frame>,
    ) -> FrameContents {
        FrameContents {
            number,
            pages,
            entry,
            frames,
        }
    }

    /// The number of its first page.
    pub fn first_page(&self) -> u64 {
        u64::from(self.number) * FRAME_PAGES as u64
    }

    /// Its pages: 64, or as many as the disk has of the last frame.
    pub fn pages(&self) -> impl Iterator<Item = Page<'_>> {
        (0..self.pages).map(|page| self.page(page))
    }

    fn page(&self, page: usize) -> Page<'_> {
        if let Some(word) = self.entry.word(page) {
            return Page::Same(word);
        }
        let mut places = self.entry.places.iter().zip(&self.frames);
        let found = places.find(|(place, _)| place.mask >> page & 1 != 0);
        found.map_or(Page::Zero, |(_, frame)| frame.page(page))
    }
}

impl Snapshot {
    /// Opens a file. Reads its end mark, table of contents, manifest and head; and those of the snapshots before it, if the
    /// file has several, each of which must be the parent of the next.
    pub fn open(source: impl ReadAt + 'static) -> Result<Snapshot, Error> {
        let snapshot = Snapshot::open_basis(source)?;
        match snapshot.manifest.head.is_basis {
            true => Err(Error::Cut { at: snapshot.end }),
            false => Ok(snapshot),
        }
    }

    /// Opens a file that so far has only the basis of a snapshot, to write that one [since](crate::SnapshotWriter::since) it.
    pub fn open_basis(source: impl ReadAt + 'static) -> Result<Snapshot, Error> {
        let source: Arc<dyn ReadAt> = Arc::new(source);
        let size = source.size_bytes();
        let size = size.map_err(|source| Error::Io {
            what: "read",
            source,
        })?;
        let mut chain = vec![Snapshot::open_before(&source, size)?];
        while let Some(last) = chain.last()
            && last.begin > 0
        {
            let damaged = Error::damaged(Kind::Head, last.begin);
            if chain.len() >= MAX_CHAIN {
                return Err(damaged(
                    "there are more snapshots before it than a file can have",
                ));
            }
            let before = Snapshot::open_before(&source, last.begin)?;
            if last.manifest.head.parent != Some(before.name) {
                return Err(damaged("the snapshot before it is not its parent"));
            }
            chain.push(before);
        }
        let mut opened = chain.pop().ok_or(Error::Foreign)?;
        while let Some(mut child) = chain.pop() {
            child.link(opened)?;
            opened = child;
        }
        Ok(opened)
    }

    /// Opens the snapshot that ends at `size`.
    fn open_before(source: &Arc<dyn ReadAt>, size: u64) -> Result<Snapshot, Error> {
        let source = source.clone();
        let stream = |at| {
            let from = ForwardFrom {
                source: &*source,
                at,
            };
            Stream::new(from, at)
        };
        // A foreign file is told first.
        stream(0).record(Kind::Head)?;
        let Some(end) = size.checked_sub(END_BYTES) else {
            return Err(Error::Cut { at: size });
        };
        let mut tail = stream(end);
        let header: [u8; HEADER] = tail.array()?;
        if !header.starts_with(Kind::End.magic()) {
            return Err(Error::Cut { at: size });
        }
        let damaged = Error::damaged(Kind::End, end);
        if check_header(Kind::End, &header, end)? != END_BYTES - (HEADER + SUM) as u64 {
            return Err(damaged("its length is wrong"));
        }
        let (body, _) = tail.rest_of_record(Kind::End, header, end)?;
        let (at, bytes) = parse_end_mark(&body).map_err(&damaged)?;
        let begin = end.checked_sub(at + bytes);
        let begin = begin.ok_or_else(|| damaged("it points before the file"))?;

        let (body, _) = stream(begin).record(Kind::Head)?;
        let head = Head::parse(&body).map_err(Error::damaged(Kind::Head, begin))?;
        let mut from = stream(begin + at);
        let (body, _) = from.record(Kind::Contents)?;
        let damaged = Error::damaged(Kind::Contents, begin + at);
        if from.at() != end {
            return Err(damaged("its length is wrong"));
        }
        let contents = Contents::parse(&body, at).map_err(&damaged)?;
        let last = contents.0.last().copied();
        let last = last.ok_or_else(|| damaged("it does not end with one manifest"))?;
        let (body, name) = read_item(&*source, begin, last)?;
        let damaged = Error::damaged(Kind::Manifest, begin + last.offset);
        let manifest = Manifest::parse(&body).map_err(&damaged)?;
        if manifest.head != head {
            return Err(damaged("it has another head than the file"));
        }
        let items = contents.0.iter();
        let items = items.map(|item| ((item.kind, item.name), *item)).collect();
        Ok(Snapshot {
            source,
            begin,
            end: size,
            contents,
            items,
            manifest,
            name,
            parent: None,
            block: None,
        })
    }

    /// Gives an incremental snapshot the parent that is [missing](Snapshot::missing_parent), from which it takes what its
    /// file does not hold.
    pub fn with_parent(mut self, parent: Snapshot) -> Result<Snapshot, Error> {
        self.adopt(parent)?;
        Ok(self)
    }

    fn adopt(&mut self, parent: Snapshot) -> Result<(), Error> {
        if let Some(before) = &mut self.parent {
            return before.adopt(parent);
        }
        let expected = self.manifest.head.parent.ok_or(Error::NoParent)?;
        let found = parent.name;
        if expected != found {
            return Err(Error::OtherParent { expected, found });
        }
        self.link(parent)
    }

    /// Takes its parent, whose segments and codecs it must have under the same numbers.
    fn link(&mut self, parent: Snapshot) -> Result<(), Error> {
        let at = self.begin + self.contents.0.last().map_or(0, |last| last.offset);
        let damaged = Error::damaged(Kind::Manifest, at);
        let (own, before) = (&self.manifest, &parent.manifest);
        let of = |segment: &SegmentSummary| (segment.name, segment.bytes);
        let is_same = own.head.segments_before as usize == before.segments.len()
            && (own.segments.iter().zip(&before.segments))
                .all(|(own, of_parent)| of(own) == of(of_parent));
        if !is_same {
            return Err(damaged("it lists other segments than its parent"));
        }
        let mut codecs = before.head.codecs.iter();
        if !codecs.all(|codec| own.head.codecs.contains(codec)) {
            return Err(damaged("it lists other codecs than its parent"));
        }
        self.parent = Some(Box::new(parent));
        Ok(())
    }

    /// Its name: the hash of its manifest.
    pub fn name(&self) -> Digest {
        self.name
    }

    /// What it says of itself.
    pub fn head(&self) -> &Head {
        &self.manifest.head
    }

    /// What its pages come to, those of its parents included.
    pub fn totals(&self) -> Totals {
        self.manifest.totals
    }

    /// Its segments, those of its parents first.
    pub fn segments(&self) -> &[SegmentSummary] {
        &self.manifest.segments
    }

    /// What the file holds, in its order.
    pub fn items(&self) -> &[Item] {
        &self.contents.0
    }

    /// The parent that is missing: of this snapshot, or of one of its parents. `None`: all is there.
    pub fn missing_parent(&self) -> Option<Digest> {
        match &self.parent {
            Some(parent) => parent.missing_parent(),
            None => self.manifest.head.parent,
        }
    }

    /// The snapshot that it was made since, if that is in the same file or was given.
    pub fn parent(&self) -> Option<&Snapshot> {
        self.parent.as_deref()
    }

    /// Bytes of this snapshot alone, without those before it in the file.
    pub fn bytes(&self) -> u64 {
        self.end - self.begin
    }

    /// Whether other snapshots are before it in the file, the last of which is its parent.
    pub fn has_one_before(&self) -> bool {
        self.begin > 0
    }

    pub(crate) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The dictionary of a codec. `None`: it has none.
    pub fn dictionary(&self, codec: u8) -> Result<Option<Vec<u8>>, Error> {
        let Some(named) = self.head().codec(codec).and_then(|codec| codec.dictionary) else {
            return Ok(None);
        };
        let (of, item) = self.find(Kind::Dictionary, named.name)?;
        let (bytes, _) = read_item(&*of.source, of.begin, item)?;
        if bytes.len() != named.bytes as usize {
            let damaged = Error::damaged(Kind::Dictionary, of.begin + item.offset);
            return Err(damaged("its length is not what its codec says"));
        }
        Ok(Some(bytes))
    }

    /// Which file has something, and where.
    fn find(&self, kind: Kind, name: Digest) -> Result<(&Snapshot, Item), Error> {
        let mut of = self;
        loop {
            if let Some(item) = of.items.get(&(kind, name)) {
                return Ok((of, *item));
            }
            of = match (&of.parent, of.manifest.head.parent) {
                (Some(parent), _) => parent,
                (None, Some(parent)) => return Err(Error::MissingParent { parent }),
                (None, None) => return Err(Error::Missing { kind, name }),
            };
        }
    }

    /// An index block, if the snapshot has it.
    pub(crate) fn block(&mut self, number: u32) -> Result<Option<&IndexBlock>, Error> {
        let Some(summary) = self.manifest.blocks.get(&number) else {
            return Ok(None);
        };
        let is_there = |block: &IndexBlock| block.number == number;
        if !self.block.as_ref().is_some_and(is_there) {
            let (of, item) = self.find(Kind::Index, summary.name)?;
            let (body, _) = read_item(&*of.source, of.begin, item)?;
            let damaged = Error::damaged(Kind::Index, of.begin + item.offset);
            if item.bytes != u64::from(summary.bytes) {
                return Err(damaged("it is another block than the manifest says"));
            }
            self.block = Some(self.manifest.parse_block(number, &body).map_err(damaged)?);
        }
        Ok(self.block.as_ref())
    }

    /// What the index says of a frame.
    fn entry(&mut self, frame: u32) -> Result<FrameEntry, Error> {
        let block = self.block(frame / BLOCK_FRAMES as u32)?;
        let entry = block.and_then(|block| block.entry(frame).cloned());
        Ok(entry.unwrap_or_else(FrameEntry::empty))
    }

    /// Reads one frame: at most three places.
    pub fn frame(&mut self, frame: u32) -> Result<FrameContents, Error> {
        let pages = self.head().mask(frame).count_ones() as usize;
        if pages == 0 {
            let frames = self.head().frames();
            return Err(Error::Order { frame, frames });
        }
        let entry = self.entry(frame)?;
        let places = entry.places.iter();
        let frames = places.map(|place| self.read_place(frame, place, &entry));
        Ok(FrameContents {
            number: frame,
            pages,
            frames: frames.collect::<Result<_, Error>>()?,
            entry,
        })
    }

    fn read_place(&self, number: u32, place: &Place, entry: &FrameEntry) -> Result<Frame, Error> {
        // `check_block` has seen that the number is listed.
        let segment = self.manifest.segments[place.segment as usize];
        let (of, item) = self.find(Kind::Segment, segment.name)?;
        let at = of.begin + item.offset + u64::from(place.offset);
        let damaged = Error::damaged(Kind::Frame, at);
        if u64::from(place.offset) + u64::from(place.bytes) > item.bytes {
            return Err(damaged("it is beyond its segment's end"));
        }
        let mut stream = Stream::new(
            ForwardFrom {
                source: &*of.source,
                at,
            },
            at,
        );
        let mut bytes = Vec::new();
        stream.append(&mut bytes, place.bytes.into())?;
        check_place(bytes, number, place, entry, at)
    }

    /// Which file has something, where in it, and how many bytes that is.
    pub(crate) fn locate(&self, kind: Kind, name: Digest) -> io::Result<(&dyn ReadAt, u64, u64)> {
        let found = self.find(kind, name);
        let (of, item) = found.map_err(|error| io::Error::new(io::ErrorKind::NotFound, error))?;
        Ok((&*of.source, of.begin + item.offset, item.bytes))
    }

    /// Hands each page that is not zeros to `target`, in ascending order, whichever file it is in.
    pub fn restore(
        &mut self,
        mut target: impl FnMut(u64, Page<'_>) -> io::Result<()>,
    ) -> Result<(), Error> {
        for frame in self.frames()? {
            let contents = self.frame(frame)?;
            for (page, content) in contents.pages().enumerate() {
                if content != Page::Zero {
                    let page = contents.first_page() + page as u64;
                    target(page, content).map_err(|source| Error::Target { page, source })?;
                }
            }
        }
        Ok(())
    }

    /// The numbers of all frames that are not zeros.
    pub fn frames(&mut self) -> Result<Vec<u32>, Error> {
        let numbers: Vec<u32> = self.manifest.blocks.keys().copied().collect();
        let mut frames = Vec::new();
        for number in numbers {
            let Some(block) = self.block(number)? else {
                continue;
            };
            let first = block.first_frame();
            frames.extend(block.entries.keys().map(|frame| first + u32::from(*frame)));
        }
        Ok(frames)
    }

    /// Reads all of it forward, but for others in the file.
    fn read_through(&self) -> Result<Restored, Error> {
        let from = ForwardFrom {
            source: &*self.source,
            at: self.begin,
        };
        let read = SnapshotReader::new(from)?.restore(|_, _| Ok(()))?;
        match read.name == self.name {
            true => Ok(read),
            false => {
                let damaged = Error::damaged(Kind::End, self.begin + read.bytes);
                Err(damaged("another snapshot is before it"))
            }
        }
    }

    /// Reads and checks everything: each byte of the file, and what is carried over from the parents, if they were given.
    pub fn verify(&mut self) -> Result<Verified, Error> {
        let mut verified = Verified {
            bytes: 0,
            frames: 0,
            carried_frames: 0,
            is_complete: self.missing_parent().is_none(),
        };
        let mut of = &*self;
        loop {
            let read = of.read_through()?;
            verified.bytes += read.bytes;
            verified.frames += read.frames;
            match &of.parent {
                Some(before) if of.begin > 0 => of = before,
                _ => break,
            }
        }
        if self.manifest.head.parent.is_none() || !verified.is_complete {
            return Ok(verified);
        }
        // The forward pass knew the totals of its own frames alone.
        let mut counted = self.manifest.clone();
        counted.totals = Totals::default();
        let segments = &mut counted.segments;
        segments
            .iter_mut()
            .for_each(|segment| segment.live_bytes = 0);
        let before = self.manifest.head.segments_before;
        for frame in self.frames()? {
            let contents = self.frame(frame)?;
            let places = contents.entry.places.iter();
            let carried = places.filter(|place| place.segment < before).count();
            verified.carried_frames += carried as u64;
            counted.count(&contents.entry, true);
        }
        if counted.totals != self.manifest.totals || counted.segments != self.manifest.segments {
            let at = self.begin + self.contents.0.last().map_or(0, |last| last.offset);
            return Err(Error::damaged(Kind::Manifest, at)("its totals are wrong"));
        }
        Ok(verified)
    }
}

/// Checks that bytes are the frame that an entry's place names. `at`: where they begin, for errors.
pub(crate) fn check_place(
    bytes: Vec<u8>,
    number: u32,
    place: &Place,
    entry: &FrameEntry,
    at: u64,
) -> Result<Frame, Error> {
    let damaged = Error::damaged(Kind::Frame, at);
    let frame = Frame::parse(bytes).map_err(&damaged)?;
    if frame.number != number || frame.sum().short() != place.hash {
        return Err(damaged("it is another frame than the index says"));
    }
    let is_same =
        |page: usize| frame.mask >> page & 1 != 0 && frame.descriptor(page) == entry.pages[page];
    match ones(place.mask).all(is_same) {
        true => Ok(frame),
        false => Err(damaged("its pages are others than the index says")),
    }
}

/// Reads what a table of contents lists.
fn read_item(source: &dyn ReadAt, begin: u64, item: Item) -> Result<(Vec<u8>, Digest), Error> {
    let Item {
        kind,
        offset,
        bytes,
        name,
    } = item;
    let at = begin + offset;
    let mut stream = Stream::new(ForwardFrom { source, at }, at);
    let (body, found) = stream.record(kind)?;
    if found != name || stream.at() - at != bytes {
        return Err(Error::damaged(kind, at)(
            "it is not what the table of contents says",
        ));
    }
    Ok((body, found))
}
