//! The bounds of the format, and records: what everything but frames is wrapped in.
//!
//! A record is a header of 24 bytes (magic, version, length of the body), the body, and the BLAKE3 hash of both. That hash is
//! the record's name. No length is believed before it was compared with the bound of its kind, and no more memory is taken
//! than bytes came. `docs/reference/snapshot-format.md` has every field.

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use crate::Error;

/// Version of everything that this program writes.
pub const VERSION: u32 = 1;
/// Version of what begins a sealed file, and of a sealed manifest. A program that cannot unseal refuses it as newer.
pub const SEALED_VERSION: u32 = 2;
/// Bytes in a page.
pub const PAGE_BYTES: usize = 4096;
/// Pages in a frame, the unit of fetching and checking.
pub const FRAME_PAGES: usize = 64;
/// Frames that an index block describes: 256 MiB of the disk.
pub const BLOCK_FRAMES: usize = 1024;
/// Most pages of a disk: 16 TiB.
pub const MAX_PAGES: u64 = 1 << 32;
/// Most codecs of a snapshot, those of its parents included.
pub const MAX_CODECS: usize = 16;
/// Most bytes of a dictionary.
pub const MAX_DICTIONARY_BYTES: usize = 4 << 20;
/// Most bytes of what the caller keeps with a snapshot.
pub const MAX_NOTES_BYTES: usize = 64 << 10;
/// Most places that one read of a frame fetches from.
pub const MAX_PLACES: usize = 3;
/// Most pages that are written without the rest of their frame.
pub const MAX_DELTA_PAGES: u32 = 16;
/// Most bytes of a segment.
pub const MAX_SEGMENT_BYTES: u64 = 64 << 20;
/// Bytes after which a segment is closed, if nothing else is asked for.
pub const SEGMENT_BYTES: u64 = 32 << 20;

/// Most snapshots in one file.
pub const MAX_CHAIN: usize = 1024;

/// Most segments of a snapshot and its parents.
pub(crate) const MAX_SEGMENTS: usize = 1 << 20;
/// Most frames of a segment.
pub(crate) const MAX_SEGMENT_FRAMES: usize = 1 << 16;
/// Most bytes of a frame's entry in the index: 0.1 % of what the frame stands for.
pub(crate) const MAX_ENTRY_BYTES: usize = FRAME_PAGES * PAGE_BYTES / 1000;
/// Most index blocks.
pub(crate) const MAX_BLOCKS: usize = (MAX_PAGES / (FRAME_PAGES * BLOCK_FRAMES) as u64) as usize;
/// Most bytes of a codec's parameters.
pub(crate) const MAX_PARAMS_BYTES: usize = 1024;
/// Most bytes of the name of an algorithm or a driver.
pub(crate) const MAX_NAME_BYTES: usize = 32;

/// Bytes of a record's header.
pub(crate) const HEADER: usize = 24;
/// Bytes of a hash.
pub(crate) const SUM: usize = 32;

/// What a snapshot consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// What the disk and its codecs are; a file begins with it.
    Head,
    /// A dictionary of a codec.
    Dictionary,
    /// Frames, a directory and a footer.
    Segment,
    /// Objects of up to 64 pages.
    Frame,
    /// The frames of a segment.
    Directory,
    /// Where a segment's directory is.
    Footer,
    /// Where the pages of 1024 frames are.
    Index,
    /// All segments and index blocks: the snapshot's name is its hash.
    Manifest,
    /// Where everything is in a file.
    Contents,
    /// The end of a file.
    End,
}

impl Kind {
    pub(crate) fn magic(self) -> &'static [u8; 8] {
        match self {
            Kind::Head => b"uzramSN\0",
            Kind::Dictionary => b"uzramDC\0",
            Kind::Segment => b"uzramSG\0",
            // Frames have a magic of their own, of 4 bytes.
            Kind::Frame => b"uzFR\0\0\0\0",
            Kind::Directory => b"uzramDI\0",
            Kind::Footer => b"uzramSE\0",
            Kind::Index => b"uzramIX\0",
            Kind::Manifest => b"uzramMA\0",
            Kind::Contents => b"uzramTC\0",
            Kind::End => b"uzramEN\0",
        }
    }

    /// Most bytes of its body.
    pub(crate) fn max_body(self) -> u64 {
        let head = 128 << 10;
        match self {
            Kind::Head => head,
            Kind::Dictionary => MAX_DICTIONARY_BYTES as u64,
            Kind::Segment | Kind::Frame => 0,
            Kind::Directory => 4 + MAX_SEGMENT_FRAMES as u64 * 44,
            Kind::Footer => 16,
            Kind::End => 24,
            Kind::Index => 8 + (BLOCK_FRAMES * MAX_ENTRY_BYTES) as u64,
            Kind::Manifest => head + 64 + MAX_SEGMENTS as u64 * 48 + MAX_BLOCKS as u64 * 40,
            Kind::Contents => 4 + (MAX_CODECS + MAX_SEGMENTS + MAX_BLOCKS + 1) as u64 * 52,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Head => "head",
            Kind::Dictionary => "dictionary",
            Kind::Segment => "segment",
            Kind::Frame => "frame",
            Kind::Directory => "segment's directory",
            Kind::Footer => "segment's footer",
            Kind::Index => "block of the index",
            Kind::Manifest => "manifest",
            Kind::Contents => "table of contents",
            Kind::End => "end mark",
        })
    }
}

/// A BLAKE3 hash: what a snapshot and its parts are called. Printed and parsed as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    pub(crate) const NONE: Digest = Digest([0; 32]);

    /// The hash of these bytes.
    pub fn of(bytes: &[u8]) -> Digest {
        Digest(*blake3::hash(bytes).as_bytes())
    }

    /// What the index keeps of a frame's hash.
    pub(crate) fn short(&self) -> [u8; 16] {
        let mut short = [0; 16];
        short.copy_from_slice(&self.0[..16]);
        short
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is no [`Digest`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a snapshot's name has 64 hexadecimal digits")]
pub struct ParseDigestError;

impl FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Digest, ParseDigestError> {
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(ParseDigestError);
        }
        let mut bytes = [0; 32];
        for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| ParseDigestError)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| ParseDigestError)?;
        }
        Ok(Digest(bytes))
    }
}

/// A whole record and its name.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) bytes: Vec<u8>,
    pub(crate) name: Digest,
}

impl Record {
    pub(crate) fn new(kind: Kind, body: &[u8]) -> Record {
        debug_assert!(body.len() as u64 <= kind.max_body());
        let mut bytes = header(kind, body.len() as u64).to_vec();
        bytes.extend_from_slice(body);
        let name = Digest::of(&bytes);
        bytes.extend_from_slice(&name.0);
        Record { bytes, name }
    }
}

pub(crate) fn header(kind: Kind, body_bytes: u64) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(kind.magic());
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[16..].copy_from_slice(&body_bytes.to_le_bytes());
    header
}

/// Checks a header, and returns the length of the body.
pub(crate) fn check_header(kind: Kind, header: &[u8; HEADER], at: u64) -> Result<u64, Error> {
    let mut fields = Fields(header);
    let damaged = Error::damaged(kind, at);
    if fields.array() != Ok(*kind.magic()) {
        return Err(match kind {
            Kind::Head => Error::Foreign,
            _ => damaged("it does not begin as one"),
        });
    }
    let version = fields.u32().map_err(&damaged)?;
    if version == SEALED_VERSION && matches!(kind, Kind::Head | Kind::Manifest) {
        return Err(Error::Sealed);
    }
    if version > VERSION {
        let (found, known) = (version, VERSION);
        return Err(Error::Newer { kind, found, known });
    }
    let reserved = fields.u32().map_err(&damaged)?;
    let body = fields.u64().map_err(&damaged)?;
    if version == 0 || reserved != 0 {
        return Err(damaged("its header is wrong"));
    }
    if body > kind.max_body() {
        return Err(damaged("it is longer than one can be"));
    }
    Ok(body)
}

/// Bytes that are read forward, and how many there were.
#[derive(Debug)]
pub(crate) struct Stream<R> {
    from: R,
    at: u64,
}

impl<R: Read> Stream<R> {
    /// `at`: the offset of the first byte, for errors.
    pub(crate) fn new(from: R, at: u64) -> Stream<R> {
        Stream { from, at }
    }

    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    pub(crate) fn fill(&mut self, buffer: &mut [u8]) -> Result<(), Error> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.from.read(&mut buffer[filled..]) {
                Ok(0) => return Err(Error::Cut { at: self.at }),
                Ok(count) => {
                    filled += count;
                    self.at += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    let what = "read";
                    return Err(Error::Io { what, source });
                }
            }
        }
        Ok(())
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let mut array = [0; N];
        self.fill(&mut array)?;
        Ok(array)
    }

    /// Appends `count` bytes. Takes memory as they come.
    pub(crate) fn append(&mut self, out: &mut Vec<u8>, count: u64) -> Result<(), Error> {
        const STEP: u64 = 256 << 10;
        let mut left = count;
        while left > 0 {
            let step = left.min(STEP) as usize;
            let begin = out.len();
            out.resize(begin + step, 0);
            self.fill(&mut out[begin..])?;
            left -= step as u64;
        }
        Ok(())
    }

    /// Reads a record of this kind: its body and its name.
    pub(crate) fn record(&mut self, kind: Kind) -> Result<(Vec<u8>, Digest), Error> {
        let at = self.at;
        let header = self.array()?;
        self.rest_of_record(kind, header, at)
    }

    /// Reads the record whose header, at `at`, was read.
    pub(crate) fn rest_of_record(
        &mut self,
        kind: Kind,
        header: [u8; HEADER],
        at: u64,
    ) -> Result<(Vec<u8>, Digest), Error> {
        let len = check_header(kind, &header, at)?;
        let mut body = Vec::new();
        self.append(&mut body, len)?;
        let sum = Digest(self.array()?);
        let mut hasher = blake3::Hasher::new();
        hasher.update(&header).update(&body);
        if *hasher.finalize().as_bytes() != sum.0 {
            return Err(Error::damaged(kind, at)("its checksum is wrong"));
        }
        Ok((body, sum))
    }
}

/// Takes fields from the front of bytes that are all there.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

type Field<T> = Result<T, &'static str>;

impl<'a> Fields<'a> {
    pub(crate) fn take(&mut self, count: usize) -> Field<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(count).ok_or("it is too short")?;
        self.0 = tail;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Field<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk().ok_or("it is too short")?;
        self.0 = tail;
        Ok(*head)
    }

    pub(crate) fn u16(&mut self) -> Field<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Field<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Field<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn digest(&mut self) -> Field<Digest> {
        self.array().map(Digest)
    }

    pub(crate) fn end(&self) -> Field<()> {
        self.0.is_empty().then_some(()).ok_or("it is too long")
    }
}
