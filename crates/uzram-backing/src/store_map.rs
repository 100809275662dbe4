//! Which object holds which segment of a backing in a store: a small file beside the device's memory.
//!
//! The slot table says where in a segment an object lies; this says under which number the segment is in the store. Numbers go
//! up and are never used twice, whoever dies: the next one is in the file before an object with it is sent. So an upload that
//! lands late harms nobody, and a number that is not in here is of something that nobody needs.
//!
//! It is as lasting as the device's memory and means nothing without it, so nothing is ever flushed for it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::BLOCK;

const MAGIC: [u8; 8] = *b"uzramSM\0";
const VERSION: u32 = 1;
/// Where the header is: behind the backing's own header block.
const HEADER: u64 = BLOCK as u64;
/// Where the entries begin.
const ENTRIES: u64 = 2 * BLOCK as u64;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct MapHeader {
    magic: [u8; 8],
    version: U32,
    /// Bytes of a segment.
    segment_bytes: U32,
    /// Which place in the store it is: random.
    id: [u8; 16],
    /// Bytes of the backing.
    size_bytes: U64,
    /// How long a reader waits for the store, in milliseconds.
    timeout_ms: U64,
    /// The number that the next object gets. Written often.
    next: U64,
}

const _: () = assert!(size_of::<MapHeader>() == 56);
/// Where in the file the next number is.
const NEXT: u64 = HEADER + 48;

/// Where a segment is.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Default)]
#[repr(C)]
struct MapEntry {
    /// Number of its object; 0: there is none.
    number: U64,
    /// Blocks in it.
    blocks: U32,
    reserved: U32,
}

const _: () = assert!(size_of::<MapEntry>() == 16);

/// An object that holds a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) number: u64,
    pub(crate) blocks: u32,
}

pub(crate) struct StoreMap {
    file: File,
    header: MapHeader,
    entries: Vec<MapEntry>,
}

fn damaged(why: &str) -> io::Error {
    let what = format!("the map of the backing's objects: {why}");
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl StoreMap {
    /// Begins an empty one in an empty file.
    pub(crate) fn create(
        file: File,
        id: [u8; 16],
        segment_bytes: u64,
        timeout: Duration,
    ) -> io::Result<StoreMap> {
        let header = MapHeader {
            magic: MAGIC,
            version: VERSION.into(),
            segment_bytes: (segment_bytes as u32).into(),
            id,
            size_bytes: 0.into(),
            timeout_ms: (timeout.as_millis() as u64).into(),
            next: 1.into(),
        };
        file.write_all_at(header.as_bytes(), HEADER)?;
        let entries = Vec::new();
        Ok(StoreMap {
            file,
            header,
            entries,
        })
    }

    /// Reads what another process left.
    pub(crate) fn open(file: File, segment_bytes: u64) -> io::Result<StoreMap> {
        let mut header = [0; size_of::<MapHeader>()];
        let cut = |_| damaged("it is cut");
        file.read_exact_at(&mut header, HEADER).map_err(cut)?;
        let header = MapHeader::read_from_bytes(&header).map_err(|_| damaged("it is cut"))?;
        if header.magic != MAGIC {
            return Err(damaged("it is none"));
        }
        if header.version.get() != VERSION || u64::from(header.segment_bytes.get()) != segment_bytes
        {
            return Err(damaged("it is of another version of this program"));
        }
        let count = header.size_bytes.get().div_ceil(segment_bytes);
        let has = file.metadata()?.len().saturating_sub(ENTRIES) / size_of::<MapEntry>() as u64;
        if header.next.get() == 0 || count > has {
            return Err(damaged("it is cut"));
        }
        let mut entries = vec![MapEntry::default(); count as usize];
        file.read_exact_at(entries.as_mut_slice().as_mut_bytes(), ENTRIES)
            .map_err(cut)?;
        let next = header.next.get();
        if entries.iter().any(|entry| entry.number.get() >= next) {
            return Err(damaged("it contradicts itself"));
        }
        Ok(StoreMap {
            file,
            header,
            entries,
        })
    }

    /// Sets the size of the backing: before anything is in it.
    pub(crate) fn reserve(&mut self, size_bytes: u64) -> io::Result<()> {
        let segment_bytes = u64::from(self.header.segment_bytes.get());
        let count = size_bytes.div_ceil(segment_bytes);
        let bytes = ENTRIES + count * size_of::<MapEntry>() as u64;
        self.file.set_len(bytes)?;
        self.entries = vec![MapEntry::default(); count as usize];
        self.header.size_bytes = size_bytes.into();
        self.file.write_all_at(self.header.as_bytes(), HEADER)
    }

    pub(crate) fn id(&self) -> [u8; 16] {
        self.header.id
    }

    pub(crate) fn size_bytes(&self) -> u64 {
        self.header.size_bytes.get()
    }

    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_millis(self.header.timeout_ms.get())
    }

    pub(crate) fn segments(&self) -> usize {
        self.entries.len()
    }

    /// The number that the next object gets: all before it may be in the store.
    pub(crate) fn next(&self) -> u64 {
        self.header.next.get()
    }

    /// The backing's own header block.
    pub(crate) fn read_block(&self, block: &mut [u8]) -> io::Result<usize> {
        let len = block.len().min(BLOCK);
        self.file.read_at(&mut block[..len], 0)
    }

    pub(crate) fn write_block(&self, block: &[u8]) -> io::Result<()> {
        self.file.write_all_at(&block[..block.len().min(BLOCK)], 0)
    }

    /// Where a segment is; `None`: nowhere.
    pub(crate) fn get(&self, segment: u32) -> Option<Placed> {
        let entry = self.entries.get(segment as usize)?;
        let number = entry.number.get();
        (number != 0).then(|| Placed {
            number,
            blocks: entry.blocks.get(),
        })
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = Placed> {
        (0..self.entries.len()).filter_map(|segment| self.get(segment as u32))
    }

    /// Gives a segment a new object, which is not there yet. Returns its number, and what was there before.
    pub(crate) fn assign(
        &mut self,
        segment: u32,
        blocks: u32,
    ) -> io::Result<(u64, Option<Placed>)> {
        let before = self.get(segment);
        let number = self.header.next.get();
        self.header.next = (number + 1).into();
        // Before anything can be in the store under it.
        self.file.write_all_at(self.header.next.as_bytes(), NEXT)?;
        let entry = MapEntry {
            number: number.into(),
            blocks: blocks.into(),
            reserved: 0.into(),
        };
        self.set(segment, entry)?;
        Ok((number, before))
    }

    /// Forgets where a segment is. Returns what was there.
    pub(crate) fn clear(&mut self, segment: u32) -> io::Result<Option<Placed>> {
        let before = self.get(segment);
        if before.is_some() {
            self.set(segment, MapEntry::default())?;
        }
        Ok(before)
    }

    fn set(&mut self, segment: u32, entry: MapEntry) -> io::Result<()> {
        let at = ENTRIES + u64::from(segment) * size_of::<MapEntry>() as u64;
        let place = self.entries.get_mut(segment as usize);
        let place = place.ok_or(io::ErrorKind::InvalidInput)?;
        self.file.write_all_at(entry.as_bytes(), at)?;
        *place = entry;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: u64 = 4 << 20;

    fn map() -> (File, StoreMap) {
        let file = tempfile::tempfile().unwrap();
        let timeout = Duration::from_millis(1500);
        let other = file.try_clone().unwrap();
        let mut map = StoreMap::create(other, [7; 16], SEGMENT, timeout).unwrap();
        map.reserve(10 * SEGMENT).unwrap();
        (file, map)
    }

    #[test]
    fn what_was_assigned_is_found_again_and_no_number_comes_twice() {
        let (file, mut map) = map();
        assert_eq!(map.assign(3, 9).unwrap(), (1, None));
        let first = Placed {
            number: 1,
            blocks: 9,
        };
        assert_eq!(map.assign(3, 4).unwrap(), (2, Some(first)));
        assert_eq!(map.assign(0, 1).unwrap().0, 3);
        assert_eq!(map.clear(0).unwrap().unwrap().number, 3);
        assert!(map.assign(10, 1).is_err(), "beyond the end");
        drop(map);
        let mut map = StoreMap::open(file, SEGMENT).unwrap();
        assert_eq!((map.get(0), map.get(3).unwrap().number), (None, 2));
        assert_eq!(map.all().count(), 1);
        assert_eq!((map.id(), map.size_bytes()), ([7; 16], 10 * SEGMENT));
        assert_eq!(map.timeout(), Duration::from_millis(1500));
        // The one that failed took one, too.
        assert_eq!(map.assign(1, 1).unwrap().0, 5);
    }

    #[test]
    fn a_damaged_map_is_refused() {
        let (file, mut map) = map();
        map.assign(3, 9).unwrap();
        let open = || StoreMap::open(file.try_clone().unwrap(), SEGMENT).map(drop);
        open().unwrap();
        assert!(StoreMap::open(file.try_clone().unwrap(), SEGMENT / 2).is_err());
        // Magic, version, the next number.
        for at in [HEADER, HEADER + 8, NEXT] {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ if at == NEXT { 2 } else { 1 }], at)
                .unwrap();
            let wrong = open();
            file.write_all_at(&byte, at).unwrap();
            assert!(wrong.is_err(), "{at}");
        }
        file.set_len(ENTRIES + 100).unwrap();
        assert!(open().is_err());
        file.set_len(100).unwrap();
        assert!(open().is_err());
    }
}
