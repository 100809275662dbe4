//! A snapshot of which nothing is here but its manifest: the rest is fetched from a [`Source`] when it is needed.
//!
//! What comes is checked before it is used: a record by its name, a frame by the hash that its index block has of it.
//!
//! **Memory bound**: the manifest, at most 16 index blocks (about 5 MiB), and what a call returns.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use crate::Error;
use crate::format::{
    BLOCK_FRAMES, Digest, FRAME_PAGES, HEADER, Kind, MAX_SEGMENT_BYTES, SUM, Stream,
};
use crate::head::Head;
use crate::index::{FrameEntry, IndexBlock, Place};
use crate::manifest::{Manifest, Totals};
use crate::page::Frame;
use crate::snapshot::{FrameContents, check_place};
use crate::source::Source;

/// Most bytes that are fetched at once.
pub const PIECE_BYTES: u64 = 2 << 20;
/// Bytes between two frames that are fetched with them rather than by two calls.
const GAP_BYTES: u64 = 32 << 10;
/// Locks for index blocks. A block is fetched once, and others than those of its lock do not wait for it.
const SHELVES: usize = 8;
/// Blocks that a lock keeps.
const SHELF_BLOCKS: usize = 2;

/// A snapshot in a [`Source`]. Its calls may come from several threads.
pub struct RemoteSnapshot {
    source: Arc<dyn Source>,
    name: Digest,
    manifest: Manifest,
    blocks: [Mutex<Vec<Arc<IndexBlock>>>; SHELVES],
}

impl fmt::Debug for RemoteSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("RemoteSnapshot");
        out.field("name", &self.name).finish_non_exhaustive()
    }
}

/// A place of a frame that is to be fetched.
struct Wanted<'a> {
    /// Which of the frames it is of.
    frame: usize,
    number: u32,
    entry: &'a FrameEntry,
    place: &'a Place,
}

impl Wanted<'_> {
    fn range(&self) -> Range<u64> {
        let begin = u64::from(self.place.offset);
        begin..begin + u64::from(self.place.bytes)
    }
}

impl RemoteSnapshot {
    /// Opens the snapshot of this name: fetches its manifest, and nothing else.
    ///
    /// [`Error::Missing`] where the source does not have it.
    pub fn open(source: Arc<dyn Source>, name: Digest) -> Result<RemoteSnapshot, Error> {
        let body = record(&*source, Kind::Manifest, name, None)?;
        let manifest = Manifest::parse(&body).map_err(Error::damaged(Kind::Manifest, 0))?;
        if manifest.head.is_basis {
            return Err(Error::damaged(Kind::Manifest, 0)("it is of no one moment"));
        }
        Ok(RemoteSnapshot {
            source,
            name,
            manifest,
            blocks: [const { Mutex::new(Vec::new()) }; SHELVES],
        })
    }

    /// Its name: the hash of its manifest.
    pub fn name(&self) -> Digest {
        self.name
    }

    /// What it says of itself.
    pub fn head(&self) -> &Head {
        &self.manifest.head
    }

    /// What its pages come to.
    pub fn totals(&self) -> Totals {
        self.manifest.totals
    }

    /// The frames that may have something: those of each index block that there is. All others are zeros.
    pub fn frame_ranges(&self) -> impl Iterator<Item = Range<u32>> + '_ {
        let end = self.head().frames();
        let numbers = self.manifest.blocks.keys();
        numbers.map(move |number| {
            let first = number * BLOCK_FRAMES as u32;
            first..end.min(first.saturating_add(BLOCK_FRAMES as u32))
        })
    }

    /// The dictionary of a codec. `None`: it has none.
    pub fn dictionary(&self, codec: u8) -> Result<Option<Vec<u8>>, Error> {
        let Some(named) = self.head().codec(codec).and_then(|codec| codec.dictionary) else {
            return Ok(None);
        };
        let size = (HEADER + SUM) as u64 + u64::from(named.bytes);
        let bytes = record(&*self.source, Kind::Dictionary, named.name, Some(size))?;
        Ok(Some(bytes))
    }

    /// An index block, fetched unless it is among those that were needed last.
    fn block(&self, number: u32) -> Result<Option<Arc<IndexBlock>>, Error> {
        let Some(summary) = self.manifest.blocks.get(&number) else {
            return Ok(None);
        };
        let shelf = &self.blocks[number as usize % SHELVES];
        let mut shelf = shelf.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = shelf.iter().position(|block| block.number == number) {
            let block = shelf.remove(at);
            shelf.push(block.clone());
            return Ok(Some(block));
        }
        let size = Some(u64::from(summary.bytes));
        let body = record(&*self.source, Kind::Index, summary.name, size)?;
        let block = self.manifest.parse_block(number, &body);
        let block = Arc::new(block.map_err(Error::damaged(Kind::Index, 0))?);
        if shelf.len() == SHELF_BLOCKS {
            shelf.remove(0);
        }
        shelf.push(block.clone());
        Ok(Some(block))
    }

    fn entry(&self, frame: u32) -> Result<FrameEntry, Error> {
        let block = self.block(frame / BLOCK_FRAMES as u32)?;
        let entry = block.and_then(|block| block.entry(frame).cloned());
        Ok(entry.unwrap_or_else(FrameEntry::empty))
    }

    /// Fetches frames. Those that lie together in a segment come by one call, of at most [`PIECE_BYTES`].
    pub fn frames(&self, numbers: &[u32]) -> Result<Vec<FrameContents>, Error> {
        let mut entries = Vec::with_capacity(numbers.len());
        for &number in numbers {
            let pages = self.head().mask(number).count_ones() as usize;
            if pages == 0 {
                let (frame, frames) = (number, self.head().frames());
                return Err(Error::Order { frame, frames });
            }
            entries.push((number, pages, self.entry(number)?));
        }
        let mut wanted: Vec<Wanted<'_>> = Vec::new();
        for (frame, (number, _, entry)) in entries.iter().enumerate() {
            let number = *number;
            wanted.extend(entry.places.iter().map(|place| Wanted {
                frame,
                number,
                entry,
                place,
            }));
        }
        wanted.sort_by_key(|wanted| (wanted.place.segment, wanted.place.offset));
        let mut fetched: BTreeMap<(usize, u32, u32), Frame> = BTreeMap::new();
        let mut rest = &wanted[..];
        while let Some(first) = rest.first() {
            let mut range = first.range();
            let mut count = 1;
            for next in &rest[1..] {
                let own = next.range();
                if next.place.segment != first.place.segment
                    || own.start > range.end + GAP_BYTES
                    || own.end.max(range.end) - range.start > PIECE_BYTES
                {
                    break;
                }
                range.end = range.end.max(own.end);
                count += 1;
            }
            let (now, later) = rest.split_at(count);
            self.fetch_piece(range, now, &mut fetched)?;
            rest = later;
        }
        let mut contents = Vec::with_capacity(entries.len());
        for (frame, (number, pages, entry)) in entries.iter().enumerate() {
            let places = entry.places.iter();
            let frames = places.map(|place| fetched.remove(&(frame, place.segment, place.offset)));
            let frames: Option<Vec<Frame>> = frames.collect();
            let frames = frames.ok_or(Error::Foreign)?;
            contents.push(FrameContents::new(*number, *pages, entry.clone(), frames));
        }
        Ok(contents)
    }

    /// Fetches a range of a segment, and checks the frames in it.
    fn fetch_piece(
        &self,
        range: Range<u64>,
        wanted: &[Wanted<'_>],
        fetched: &mut BTreeMap<(usize, u32, u32), Frame>,
    ) -> Result<(), Error> {
        let Some(first) = wanted.first() else {
            return Ok(());
        };
        // `check_block` has seen that the number is listed.
        let segment = self.manifest.segments[first.place.segment as usize];
        let damaged = Error::damaged(Kind::Frame, range.start);
        if range.end > segment.bytes || segment.bytes > MAX_SEGMENT_BYTES {
            return Err(damaged("it is beyond its segment's end"));
        }
        let bytes = get(&*self.source, Kind::Segment, segment.name, range.clone())?;
        for one in wanted {
            let own = one.range();
            let own = (own.start - range.start) as usize..(own.end - range.start) as usize;
            let at = u64::from(one.place.offset);
            let frame = check_place(bytes[own].to_vec(), one.number, one.place, one.entry, at)?;
            fetched.insert((one.frame, one.place.segment, one.place.offset), frame);
        }
        Ok(())
    }
}

const _: () = assert!(FRAME_PAGES * 4096 * 2 <= PIECE_BYTES as usize);

/// Fetches a record, and checks that it is what its name says. `size`: of all of it, if that is known.
fn record(
    source: &dyn Source,
    kind: Kind,
    name: Digest,
    size: Option<u64>,
) -> Result<Vec<u8>, Error> {
    let size = match size {
        Some(size) => size,
        None => {
            let size = source.size_bytes(kind, name);
            size.map_err(|error| refused(kind, name, error))?
        }
    };
    if size > (HEADER + SUM) as u64 + kind.max_body() {
        return Err(Error::damaged(kind, 0)("it is longer than one can be"));
    }
    let bytes = get(source, kind, name, 0..size)?;
    let mut stream = Stream::new(&bytes[..], 0);
    let (body, found) = stream.record(kind)?;
    match found == name && stream.at() == size {
        true => Ok(body),
        false => Err(Error::damaged(kind, 0)(
            "it is another one than its name says",
        )),
    }
}

fn get(source: &dyn Source, kind: Kind, name: Digest, range: Range<u64>) -> Result<Vec<u8>, Error> {
    let wanted = range.end - range.start;
    let bytes = source.get_range(kind, name, range.clone());
    let bytes = bytes.map_err(|error| refused(kind, name, error))?;
    match bytes.len() as u64 == wanted {
        true => Ok(bytes),
        false => Err(Error::Cut {
            at: range.start + bytes.len() as u64,
        }),
    }
}

fn refused(kind: Kind, name: Digest, source: io::Error) -> Error {
    match source.kind() {
        io::ErrorKind::NotFound => Error::Missing { kind, name },
        _ => {
            let what = "fetch";
            Error::Io { what, source }
        }
    }
}
