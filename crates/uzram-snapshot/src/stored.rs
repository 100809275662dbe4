//! A snapshot in a store, where each thing lies by itself and is found by its kind and name.
//!
//! [`StoredManifest`] says what a snapshot needs: what a store must have, and must not collect. With a [`Source`] it is
//! opened as a [`Snapshot`], which reads a store as it reads a file: a file is laid out in thought, whose bytes are fetched as
//! they are asked for. So a snapshot of a store never needs its parents, as its manifest describes all of the disk.
//!
//! **Memory bound**: the manifest, 64 bytes for each thing, and what a source keeps.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use crate::contents::{Contents, Directory, END_BYTES, FOOTER_BYTES, end_mark, parse_footer};
use crate::disk::{CodecSource, DictionarySource, DiskSource};
use crate::format::{Digest, HEADER, Kind, Record, SUM, Stream};
use crate::head::{DictionaryName, Head};
use crate::index::IndexBlock;
use crate::manifest::{Manifest, SegmentSummary, Totals};
use crate::page::Page;
use crate::snapshot::{ReadAt, Snapshot};
use crate::source::Source;
use crate::writer::{SnapshotSummary, SnapshotWriter};
use crate::{Error, FRAME_PAGES};

/// A thing that a snapshot needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NamedPart {
    /// A dictionary, a segment, an index block or a manifest.
    pub kind: Kind,
    /// Its name.
    pub name: Digest,
    /// All its bytes.
    pub bytes: u64,
    /// Of them, those that the snapshot uses: of a segment those of objects, of anything else all.
    pub live_bytes: u64,
}

/// The manifest of a snapshot in a store.
#[derive(Debug, Clone)]
pub struct StoredManifest {
    manifest: Manifest,
    name: Digest,
    record: Arc<[u8]>,
}

impl StoredManifest {
    /// Reads the record of a manifest that is called `name`.
    pub fn parse(name: Digest, record: &[u8]) -> Result<StoredManifest, Error> {
        let mut stream = Stream::new(record, 0);
        let (body, found) = stream.record(Kind::Manifest)?;
        let damaged = Error::damaged(Kind::Manifest, 0);
        if found != name {
            return Err(damaged("it is another one than its name says"));
        }
        if stream.at() != record.len() as u64 {
            return Err(damaged("something follows its end"));
        }
        let manifest = Manifest::parse(&body).map_err(damaged)?;
        Ok(StoredManifest {
            manifest,
            name,
            record: record.into(),
        })
    }

    /// The snapshot's name.
    pub fn name(&self) -> Digest {
        self.name
    }

    /// All bytes of its record.
    pub fn record(&self) -> &[u8] {
        &self.record
    }

    /// What the snapshot says of itself.
    pub fn head(&self) -> &Head {
        &self.manifest.head
    }

    /// What its pages come to.
    pub fn totals(&self) -> Totals {
        self.manifest.totals
    }

    /// All segments that it lists, needed or not.
    pub fn segments(&self) -> &[SegmentSummary] {
        &self.manifest.segments
    }

    /// Everything that is needed to read the snapshot, but for the manifest: dictionaries, index blocks, segments of which
    /// something is used. In the order of a file, as far as the manifest alone tells.
    pub fn parts(&self) -> Vec<NamedPart> {
        let whole = |kind, name, bytes| NamedPart {
            kind,
            name,
            bytes,
            live_bytes: bytes,
        };
        let mut parts: Vec<NamedPart> = Vec::new();
        for DictionaryName { name, bytes } in self.dictionaries() {
            let bytes = u64::from(bytes) + (HEADER + SUM) as u64;
            let part = whole(Kind::Dictionary, name, bytes);
            if !parts.contains(&part) {
                parts.push(part);
            }
        }
        let blocks = self.manifest.blocks.values();
        parts.extend(blocks.map(|of| whole(Kind::Index, of.name, of.bytes.into())));
        let segments = self.manifest.segments.iter();
        let needed = segments.filter(|segment| segment.live_bytes > 0);
        parts.extend(needed.map(|segment| NamedPart {
            kind: Kind::Segment,
            name: segment.name,
            bytes: segment.bytes,
            live_bytes: segment.live_bytes,
        }));
        parts
    }

    fn dictionaries(&self) -> impl Iterator<Item = DictionaryName> + '_ {
        let codecs = self.manifest.head.codecs.iter();
        codecs.filter_map(|codec| codec.dictionary)
    }

    /// Checks an index block that the manifest lists, by its record.
    pub fn check_block(&self, part: &NamedPart, record: &[u8]) -> Result<(), Error> {
        let mut stream = Stream::new(record, 0);
        let (body, name) = stream.record(Kind::Index)?;
        let damaged = Error::damaged(Kind::Index, 0);
        if name != part.name || stream.at() != record.len() as u64 {
            return Err(damaged("it is another one than its name says"));
        }
        let block = IndexBlock::parse(&body).map_err(&damaged)?;
        self.manifest.check_block(&block).map_err(damaged)
    }

    /// Opens the snapshot, which fetches what it reads from `source`.
    pub fn open(&self, source: Arc<dyn Source>) -> Result<Snapshot, Error> {
        let fetching = Fetching {
            source,
            last: Mutex::new(None),
        };
        Snapshot::open_basis(self.lay_out(&self.parts(), fetching))
    }

    /// Writes a file that has the index of the snapshot, and neither segments nor dictionaries. It is good as the parent of
    /// the next one ([`SnapshotWriter::since`]) and for nothing else. `block` fetches the record of an index block.
    pub fn write_index(
        &self,
        to: &mut impl Write,
        mut block: impl FnMut(&NamedPart) -> Result<Vec<u8>, Error>,
    ) -> Result<(), Error> {
        let mut parts = self.parts();
        parts.retain(|part| part.kind == Kind::Index);
        let file = self.lay_out(&parts, ());
        for piece in &file.pieces {
            let own;
            let bytes = match &piece.of {
                Of::Bytes(bytes) => &bytes[..],
                Of::Part(part) => {
                    own = block(part)?;
                    self.check_block(part, &own)?;
                    &own[..]
                }
            };
            to.write_all(bytes).map_err(Error::write)?;
        }
        Ok(())
    }

    fn lay_out<S>(&self, parts: &[NamedPart], source: S) -> LaidOut<S> {
        let mut file = LaidOut {
            pieces: Vec::with_capacity(parts.len() + 4),
            bytes: 0,
            source,
        };
        let head = Record::new(Kind::Head, &self.manifest.head.encode());
        file.push(head.bytes.len() as u64, Of::Bytes(head.bytes.into()));
        let mut contents = Contents::default();
        for part in parts {
            contents.push(part.kind, file.bytes, part.bytes, part.name);
            file.push(part.bytes, Of::Part(*part));
        }
        let len = self.record.len() as u64;
        contents.push(Kind::Manifest, file.bytes, len, self.name);
        file.push(len, Of::Bytes(self.record.clone()));
        let (at, contents) = (file.bytes, contents.record());
        let len = contents.bytes.len() as u64;
        file.push(len, Of::Bytes(contents.bytes.into()));
        file.push(END_BYTES, Of::Bytes(end_mark(at, len).bytes.into()));
        file
    }
}

/// Checks a dictionary's record, and returns the dictionary.
pub fn check_dictionary(name: Digest, record: &[u8]) -> Result<Vec<u8>, Error> {
    let (body, found) = Stream::new(record, 0).record(Kind::Dictionary)?;
    match found == name {
        true => Ok(body),
        false => Err(Error::damaged(Kind::Dictionary, 0)(
            "it is another one than its name says",
        )),
    }
}

/// Bytes of a segment's end that [`segment_directory`] asks for.
pub const SEGMENT_FOOTER_BYTES: u64 = FOOTER_BYTES;

/// Reads the footer of a segment of so many bytes: offset and bytes of its directory.
pub fn segment_directory(bytes: u64, footer: &[u8]) -> Result<(u64, u64), Error> {
    let at = bytes.saturating_sub(FOOTER_BYTES);
    let damaged = Error::damaged(Kind::Footer, at);
    let (body, _) = Stream::new(footer, at).record(Kind::Footer)?;
    let (offset, len) = parse_footer(&body).map_err(&damaged)?;
    match offset.checked_add(len) == Some(at) {
        true => Ok((offset, len)),
        false => Err(damaged("it points elsewhere")),
    }
}

/// Checks the record of a segment's directory, which begins at `offset`.
pub fn check_directory(name: Digest, offset: u64, record: &[u8]) -> Result<(), Error> {
    let (body, found) = Stream::new(record, offset).record(Kind::Directory)?;
    let damaged = Error::damaged(Kind::Directory, offset);
    if found != name {
        return Err(damaged("it is another one than its name says"));
    }
    let directory = Directory::parse(&body).map_err(&damaged)?;
    match directory.end() == offset {
        true => Ok(()),
        false => Err(damaged("it lists other frames than there are")),
    }
}

impl Snapshot {
    /// Writes it as one that is complete, whatever it was made since: objects as they are, in new frames and segments.
    /// Everything is checked on the way.
    pub fn write_complete<W: Write>(&mut self, to: W) -> Result<(W, SnapshotSummary), Error> {
        let head = self.head().clone();
        let mut dictionaries = Vec::new();
        for codec in &head.codecs {
            dictionaries.push(self.dictionary(codec.number)?);
        }
        let codecs = head.codecs.iter().zip(&dictionaries);
        let codecs: Vec<CodecSource<'_>> = codecs
            .map(|(codec, dictionary)| CodecSource {
                number: codec.number,
                algorithm: &codec.algorithm,
                driver: &codec.driver,
                params: &codec.params,
                dictionary: dictionary.as_deref().map(DictionarySource::Bytes),
            })
            .collect();
        let disk = DiskSource {
            pages: head.pages,
            taken_at_seconds: head.taken_at_seconds,
            is_basis: false,
            codecs: &codecs,
            notes: &head.notes,
        };
        let mut writer = SnapshotWriter::new(to, &disk)?;
        for frame in self.frames()? {
            let contents = self.frame(frame)?;
            let mut pages = [Page::Zero; FRAME_PAGES];
            let mut count = 0;
            for (page, found) in pages.iter_mut().zip(contents.pages()) {
                *page = found;
                count += 1;
            }
            writer.frame(frame, &pages[..count])?;
        }
        let (to, written) = writer.finish()?;
        match written.totals == self.totals() {
            true => Ok((to, written)),
            false => Err(Error::damaged(Kind::Manifest, 0)("its totals are wrong")),
        }
    }
}

/// What a piece of the file consists of.
#[derive(Debug)]
enum Of {
    Bytes(Arc<[u8]>),
    Part(NamedPart),
}

#[derive(Debug)]
struct Piece {
    offset: u64,
    bytes: u64,
    of: Of,
}

/// A file in thought.
#[derive(Debug)]
struct LaidOut<S> {
    pieces: Vec<Piece>,
    bytes: u64,
    source: S,
}

impl<S> LaidOut<S> {
    fn push(&mut self, bytes: u64, of: Of) {
        let offset = self.bytes;
        self.pieces.push(Piece { offset, bytes, of });
        self.bytes += bytes;
    }
}

/// A source, and the record that was fetched last: a reader takes its header, its body and its hash one after another.
struct Fetching {
    source: Arc<dyn Source>,
    last: Mutex<Option<(NamedPart, Vec<u8>)>>,
}

impl Fetching {
    fn read(&self, part: &NamedPart, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset + buffer.len() as u64;
        if part.kind == Kind::Segment {
            let bytes = self.source.get_range(part.kind, part.name, offset..end)?;
            return copy(buffer, &bytes, 0);
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.as_ref().is_none_or(|(of, _)| of != part) {
            let bytes = self.source.get_range(part.kind, part.name, 0..part.bytes)?;
            *last = Some((*part, bytes));
        }
        match &*last {
            Some((_, bytes)) => copy(buffer, bytes, offset),
            None => Ok(()),
        }
    }
}

/// Copies what is at `offset`, as much as the buffer takes.
fn copy(buffer: &mut [u8], bytes: &[u8], offset: u64) -> io::Result<()> {
    let from = bytes.get(offset as usize..).unwrap_or_default();
    let from = from
        .get(..buffer.len())
        .ok_or(io::ErrorKind::UnexpectedEof)?;
    buffer.copy_from_slice(from);
    Ok(())
}

impl ReadAt for LaidOut<Fetching> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let after = self.pieces.partition_point(|piece| piece.offset <= offset);
        let Some(piece) = self.pieces.get(after.wrapping_sub(1)) else {
            return Ok(0);
        };
        let within = offset - piece.offset;
        let left = piece.bytes.saturating_sub(within);
        let count = left.min(buffer.len() as u64) as usize;
        let buffer = &mut buffer[..count];
        match &piece.of {
            Of::Bytes(bytes) => buffer.copy_from_slice(&bytes[within as usize..][..count]),
            Of::Part(part) if count > 0 => self.source.read(part, buffer, within)?,
            Of::Part(_) => {}
        }
        Ok(count)
    }

    fn size_bytes(&self) -> io::Result<u64> {
        Ok(self.bytes)
    }
}
