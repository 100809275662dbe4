//! Takes a snapshot apart as it comes by a stream: each dictionary, segment, index block and the manifest, with its name. A
//! store keeps them by these.
//!
//! Everything is checked on the way as [`SnapshotReader`](crate::SnapshotReader) checks it, but for what only the index can
//! tell of a frame.
//!
//! **Memory bound**: the part that is handed over, which is at most a segment of 64 MiB; and 52 bytes for each part.

use std::io::Read;

use crate::Error;
use crate::contents::{Contents, Directory, DirectoryEntry, parse_footer};
use crate::format::{
    Digest, HEADER, Kind, MAX_SEGMENT_BYTES, MAX_SEGMENT_FRAMES, SUM, Stream, check_header, header,
};
use crate::head::Head;
use crate::page::{FRAME_HEADER, FRAME_MAGIC, frame_bytes};
use crate::reader::read_end;

/// One of the things that a snapshot consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// A dictionary, a segment, an index block or the manifest.
    pub kind: Kind,
    /// Its name.
    pub name: Digest,
    /// All of it.
    pub bytes: Vec<u8>,
}

/// Takes a snapshot apart.
#[derive(Debug)]
pub struct PartsReader<R> {
    stream: Stream<R>,
    head: Head,
    contents: Contents,
    is_done: bool,
}

impl<R: Read> PartsReader<R> {
    /// Reads the head. It never reads past the snapshot's end, so `from` may go on after it.
    pub fn new(from: R) -> Result<PartsReader<R>, Error> {
        let mut stream = Stream::new(from, 0);
        let (body, _) = stream.record(Kind::Head)?;
        let head = Head::parse(&body).map_err(Error::damaged(Kind::Head, 0))?;
        Ok(PartsReader {
            stream,
            head,
            contents: Contents::default(),
            is_done: false,
        })
    }

    /// What the snapshot says of itself.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The next part, in the order of the stream. The manifest is the last one, and is handed over when the end mark was
    /// found good; `None` after it.
    pub fn next_part(&mut self) -> Result<Option<Part>, Error> {
        if self.is_done {
            return Ok(None);
        }
        let at = self.stream.at();
        let first: [u8; HEADER] = self.stream.array()?;
        let kinds = [Kind::Dictionary, Kind::Segment, Kind::Index, Kind::Manifest];
        let kind = kinds
            .into_iter()
            .find(|kind| first.starts_with(kind.magic()));
        let kind = kind.ok_or(Error::Damaged {
            kind: Kind::Segment,
            at,
            why: "no segment, index block or manifest begins here",
        })?;
        let part = match kind {
            Kind::Segment => self.segment(first, at)?,
            _ => {
                let (body, name) = self.stream.rest_of_record(kind, first, at)?;
                let bytes = [&first[..], &body, &name.0].concat();
                Part { kind, name, bytes }
            }
        };
        let len = part.bytes.len() as u64;
        self.contents.push(kind, at, len, part.name);
        if kind == Kind::Manifest {
            read_end(&mut self.stream, &self.contents)?;
            self.is_done = true;
        }
        Ok(Some(part))
    }

    fn segment(&mut self, first: [u8; HEADER], begin: u64) -> Result<Part, Error> {
        check_header(Kind::Segment, &first, begin)?;
        let mut bytes = first.to_vec();
        let mut directory = Directory::default();
        loop {
            let at = self.stream.at();
            let magic: [u8; 4] = self.stream.array()?;
            if magic != FRAME_MAGIC {
                let name = self.end_of_segment(magic, begin, at, &directory, &mut bytes)?;
                let kind = Kind::Segment;
                return Ok(Part { kind, name, bytes });
            }
            let damaged = Error::damaged(Kind::Frame, at);
            let mut start = [0; FRAME_HEADER];
            start[..4].copy_from_slice(&magic);
            self.stream.fill(&mut start[4..])?;
            let len = frame_bytes(&start).map_err(&damaged)?;
            let is_full = directory.0.len() >= MAX_SEGMENT_FRAMES;
            if is_full || (bytes.len() + len) as u64 > MAX_SEGMENT_BYTES {
                return Err(damaged("its segment is too long"));
            }
            let offset = bytes.len();
            bytes.extend_from_slice(&start);
            self.stream
                .append(&mut bytes, (len - FRAME_HEADER) as u64)?;
            let (body, sum) = bytes[offset..].split_at(len - SUM);
            let hash = Digest::of(body);
            if hash.0 != *sum {
                return Err(damaged("its checksum is wrong"));
            }
            let number = start[4..8].first_chunk().copied().unwrap_or_default();
            directory.0.push(DirectoryEntry {
                frame: u32::from_le_bytes(number),
                offset: offset as u32,
                bytes: len as u32,
                hash,
            });
        }
    }

    /// Reads the directory, of which four bytes were read, and the footer.
    fn end_of_segment(
        &mut self,
        magic: [u8; 4],
        begin: u64,
        at: u64,
        directory: &Directory,
        bytes: &mut Vec<u8>,
    ) -> Result<Digest, Error> {
        let mut first = [0; HEADER];
        first[..4].copy_from_slice(&magic);
        self.stream.fill(&mut first[4..])?;
        let (body, name) = self.stream.rest_of_record(Kind::Directory, first, at)?;
        let damaged = Error::damaged(Kind::Directory, at);
        if Directory::parse(&body).map_err(&damaged)? != *directory {
            return Err(damaged("it lists other frames than there are"));
        }
        bytes.extend_from_slice(&first);
        bytes.extend_from_slice(&body);
        bytes.extend_from_slice(&name.0);
        let end = self.stream.at();
        let (body, sum) = self.stream.record(Kind::Footer)?;
        let damaged = Error::damaged(Kind::Footer, end);
        if parse_footer(&body).map_err(&damaged)? != (at - begin, end - at) {
            return Err(damaged("it points elsewhere"));
        }
        bytes.extend_from_slice(&header(Kind::Footer, body.len() as u64));
        bytes.extend_from_slice(&body);
        bytes.extend_from_slice(&sum.0);
        match bytes.len() as u64 <= MAX_SEGMENT_BYTES {
            true => Ok(name),
            false => Err(damaged("its segment is too long")),
        }
    }
}

/// Checks all of a segment, and that it is the one of this name.
pub fn check_segment(name: Digest, bytes: &[u8]) -> Result<(), Error> {
    let mut stream = Stream::new(bytes, 0);
    let first: [u8; HEADER] = stream.array()?;
    let head = Head {
        pages: 1,
        taken_at_seconds: 0,
        is_basis: false,
        parent: None,
        segments_before: 0,
        codecs: Vec::new(),
        notes: Vec::new(),
    };
    let mut reader = PartsReader {
        stream,
        head,
        contents: Contents::default(),
        is_done: false,
    };
    let part = reader.segment(first, 0)?;
    let damaged = Error::damaged(Kind::Segment, 0);
    if part.name != name {
        return Err(damaged("it is another one than its name says"));
    }
    match part.bytes.len() == bytes.len() {
        true => Ok(()),
        false => Err(damaged("something follows its end")),
    }
}
