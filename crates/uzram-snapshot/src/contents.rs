//! What says where things are: the directory and the footer of a segment, the table of contents and the end mark of a file.

use crate::format::{
    Digest, Fields, HEADER, Kind, MAX_BLOCKS, MAX_CODECS, MAX_SEGMENT_BYTES, MAX_SEGMENT_FRAMES,
    MAX_SEGMENTS, Record, SUM, Stream,
};
use crate::page::{MAX_FRAME_BYTES, MIN_FRAME_BYTES};

/// A frame in a segment's directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DirectoryEntry {
    pub(crate) frame: u32,
    pub(crate) offset: u32,
    pub(crate) bytes: u32,
    pub(crate) hash: Digest,
}

/// The frames of a segment, in its order. They lie one after another, and the directory after them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Directory(pub(crate) Vec<DirectoryEntry>);

/// Bytes of a footer.
pub(crate) const FOOTER_BYTES: u64 = (HEADER + 16 + SUM) as u64;
/// Bytes of an end mark.
pub(crate) const END_BYTES: u64 = (HEADER + 24 + SUM) as u64;

impl Directory {
    /// Where the frames end.
    pub(crate) fn end(&self) -> u64 {
        let last = self.0.last();
        last.map_or(HEADER as u64, |last| {
            u64::from(last.offset) + u64::from(last.bytes)
        })
    }

    pub(crate) fn record(&self) -> Record {
        let mut body = (self.0.len() as u32).to_le_bytes().to_vec();
        for entry in &self.0 {
            for field in [entry.frame, entry.offset, entry.bytes] {
                body.extend_from_slice(&field.to_le_bytes());
            }
            body.extend_from_slice(&entry.hash.0);
        }
        Record::new(Kind::Directory, &body)
    }

    pub(crate) fn parse(body: &[u8]) -> Result<Directory, &'static str> {
        let mut fields = Fields(body);
        let count = fields.u32()? as usize;
        if !(1..=MAX_SEGMENT_FRAMES).contains(&count) || fields.0.len() != count * 44 {
            return Err("its length is wrong");
        }
        let mut directory = Directory(Vec::with_capacity(count));
        for _ in 0..count {
            let entry = DirectoryEntry {
                frame: fields.u32()?,
                offset: fields.u32()?,
                bytes: fields.u32()?,
                hash: fields.digest()?,
            };
            let last = directory.0.last();
            if last.is_some_and(|last| last.frame >= entry.frame) {
                return Err("its frames are out of order");
            }
            let is_frame = (MIN_FRAME_BYTES..=MAX_FRAME_BYTES).contains(&(entry.bytes as usize));
            if !is_frame || u64::from(entry.offset) != directory.end() {
                return Err("a frame cannot be where it says");
            }
            directory.0.push(entry);
            if directory.end() > MAX_SEGMENT_BYTES {
                return Err("a frame cannot be where it says");
            }
        }
        Ok(directory)
    }
}

/// A footer: where the directory lies, and how long it is.
pub(crate) fn footer(offset: u64, bytes: u64) -> Record {
    let body: Vec<u8> = [offset, bytes]
        .into_iter()
        .flat_map(u64::to_le_bytes)
        .collect();
    Record::new(Kind::Footer, &body)
}

/// The mark at the end of a snapshot whose table of contents is at `offset`.
pub(crate) fn end_mark(offset: u64, bytes: u64) -> Record {
    let body = [offset, bytes, offset + bytes + END_BYTES];
    let body: Vec<u8> = body.into_iter().flat_map(u64::to_le_bytes).collect();
    Record::new(Kind::End, &body)
}

/// Reads the body of an end mark: offset and bytes of the table of contents.
pub(crate) fn parse_end_mark(body: &[u8]) -> Result<(u64, u64), &'static str> {
    let mut fields = Fields(body);
    let (offset, bytes, all) = (fields.u64()?, fields.u64()?, fields.u64()?);
    fields.end()?;
    let end = offset
        .checked_add(bytes)
        .and_then(|end| end.checked_add(END_BYTES));
    match end == Some(all) {
        true => Ok((offset, bytes)),
        false => Err("its lengths contradict each other"),
    }
}

/// Bytes of the mark that every snapshot ends with.
pub const END_MARK_BYTES: usize = END_BYTES as usize;

/// Whether a stream of so many bytes, which ended with these, was a snapshot to its end. Who passes one on without reading it
/// asks this before it calls it whole; what it holds is not looked at.
pub fn is_end(bytes: u64, last: &[u8; END_MARK_BYTES]) -> bool {
    let found = Stream::new(&last[..], 0).record(Kind::End);
    let marked = found
        .map_err(drop)
        .and_then(|(body, _)| parse_end_mark(&body).map_err(drop));
    marked.is_ok_and(|(offset, len)| offset + len + END_BYTES == bytes)
}

/// Reads the body of a footer.
pub(crate) fn parse_footer(body: &[u8]) -> Result<(u64, u64), &'static str> {
    let mut fields = Fields(body);
    let pointer = (fields.u64()?, fields.u64()?);
    fields.end()?;
    Ok(pointer)
}

/// One thing in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    /// What it is: a dictionary, a segment, an index block or the manifest.
    pub kind: Kind,
    /// Offset from the snapshot's beginning.
    pub offset: u64,
    /// Its bytes.
    pub bytes: u64,
    /// Its name.
    pub name: Digest,
}

/// What a file has, in its order; the manifest comes last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Contents(pub(crate) Vec<Item>);

impl Contents {
    pub(crate) fn push(&mut self, kind: Kind, offset: u64, bytes: u64, name: Digest) {
        self.0.push(Item {
            kind,
            offset,
            bytes,
            name,
        });
    }

    pub(crate) fn find(&self, kind: Kind, name: Digest) -> Option<Item> {
        let found = self
            .0
            .iter()
            .find(|item| item.kind == kind && item.name == name);
        found.copied()
    }

    pub(crate) fn record(&self) -> Record {
        let mut body = (self.0.len() as u32).to_le_bytes().to_vec();
        for item in &self.0 {
            let kind: u32 = match item.kind {
                Kind::Dictionary => 1,
                Kind::Segment => 2,
                Kind::Index => 3,
                _ => 4,
            };
            body.extend_from_slice(&kind.to_le_bytes());
            body.extend_from_slice(&item.offset.to_le_bytes());
            body.extend_from_slice(&item.bytes.to_le_bytes());
            body.extend_from_slice(&item.name.0);
        }
        Record::new(Kind::Contents, &body)
    }

    /// `at`: where the table begins, and what it lists ends.
    pub(crate) fn parse(body: &[u8], at: u64) -> Result<Contents, &'static str> {
        let mut fields = Fields(body);
        let count = fields.u32()? as usize;
        if count > MAX_CODECS + MAX_SEGMENTS + MAX_BLOCKS + 1 || fields.0.len() != count * 52 {
            return Err("its length is wrong");
        }
        let mut contents = Contents(Vec::with_capacity(count));
        // The head comes first, and is not listed.
        let mut end = HEADER as u64;
        for _ in 0..count {
            let kind = match fields.u32()? {
                1 => Kind::Dictionary,
                2 => Kind::Segment,
                3 => Kind::Index,
                4 => Kind::Manifest,
                _ => return Err("it lists what no snapshot has"),
            };
            let (offset, bytes, name) = (fields.u64()?, fields.u64()?, fields.digest()?);
            let is_good = offset >= end && bytes >= HEADER as u64;
            end = match offset.checked_add(bytes) {
                Some(end) if end <= at && is_good => end,
                _ => return Err("it lists things where they cannot be"),
            };
            contents.push(kind, offset, bytes, name);
        }
        let manifests = contents.0.iter().filter(|item| item.kind == Kind::Manifest);
        if manifests.count() != 1 || contents.0.last().map(|last| last.kind) != Some(Kind::Manifest)
        {
            return Err("it does not end with one manifest");
        }
        Ok(contents)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(frame: u32, offset: u32, bytes: u32) -> DirectoryEntry {
        DirectoryEntry {
            frame,
            offset,
            bytes,
            hash: Digest([1; 32]),
        }
    }

    /// The body of a record.
    fn body(record: &Record) -> &[u8] {
        &record.bytes[HEADER..record.bytes.len() - SUM]
    }

    #[test]
    fn frames_of_a_directory_lie_one_after_another() {
        let parse = |entries: &[DirectoryEntry]| {
            let record = Directory(entries.to_vec()).record();
            Directory::parse(body(&record)).map(drop)
        };
        assert_eq!(parse(&[entry(3, 24, 100), entry(7, 124, 55)]), Ok(()));
        let least = MIN_FRAME_BYTES as u32;
        let most = MAX_FRAME_BYTES as u32;
        for wrong in [
            &[][..],
            &[entry(3, 25, 100)],
            &[entry(3, 24, least - 1)],
            &[entry(3, 24, most + 1)],
            &[entry(3, 24, 100), entry(3, 124, 100)],
            &[entry(3, 24, 100), entry(2, 124, 100)],
            &[entry(3, 24, 100), entry(4, 123, 100)],
            &[entry(3, 24, 100), entry(4, 125, 100)],
        ] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
        let many = |count: u32| (0..count).map(|at| entry(at, 24 + at * most, most));
        let fits = (MAX_SEGMENT_BYTES as u32 - 24) / most;
        assert_eq!(parse(&many(fits).collect::<Vec<_>>()), Ok(()));
        assert!(parse(&many(fits + 1).collect::<Vec<_>>()).is_err());
    }

    #[test]
    fn a_table_of_contents_is_in_order_and_ends_with_the_manifest() {
        let parse = |items: &[(Kind, u64, u64)]| {
            let mut contents = Contents::default();
            let items = items.iter();
            items.for_each(|(kind, at, bytes)| contents.push(*kind, *at, *bytes, Digest([2; 32])));
            Contents::parse(body(&contents.record()), 1000).map(drop)
        };
        use Kind::{Index, Manifest, Segment};
        assert_eq!(parse(&[(Segment, 24, 100), (Manifest, 124, 876)]), Ok(()));
        for wrong in [
            &[][..],
            &[(Segment, 24, 100)],
            &[(Manifest, 24, 100), (Segment, 124, 100)],
            &[(Manifest, 24, 100), (Manifest, 124, 100)],
            &[(Manifest, 23, 100)],
            &[(Manifest, 24, 23)],
            &[(Manifest, 24, 977)],
            &[(Manifest, u64::MAX, 100)],
            &[(Index, 24, 100), (Manifest, 123, 100)],
        ] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_lengths_of_an_end_mark_agree() {
        assert_eq!(parse_end_mark(body(&end_mark(500, 60))), Ok((500, 60)));
        for lengths in [
            [500, 60, 641],
            [500, 60, 639],
            [u64::MAX, 60, 139],
            [0, 0, 0],
        ] {
            let body: Vec<u8> = lengths.into_iter().flat_map(u64::to_le_bytes).collect();
            assert!(parse_end_mark(&body).is_err(), "{lengths:?}");
        }
    }
}
