//! A backing whose disk was edited at will is refused or restored; of a restored one an object is read or refused, and read
//! the same twice; a walk over a segment ends, and stays inside of it.
#![no_main]

use std::io;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use uzram_backing::{
    Backing, BackingRestore, Disk, DiskDone, DiskWrite, Location, MIN_BACKING_BYTES, Purpose,
    ReadBuffer, SEGMENT_BYTES, SegmentBuffer, WriteQueue, is_backing,
};
use uzram_fuzz::deep;
use uzram_fuzz::edits::edits;
use uzram_fuzz::input::Input;

const ID: [u8; 16] = *b"a store of tests";
const OBJECTS: u32 = 200;
/// Of the header, and what its checksum covers.
const HEADER: usize = 44;

/// A disk in memory.
#[derive(Clone, Default)]
struct MemoryDisk(Arc<Mutex<Vec<u8>>>);

impl MemoryDisk {
    fn bytes(&self) -> std::sync::MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk for MemoryDisk {
    fn size_bytes(&self) -> io::Result<u64> {
        Ok(self.bytes().len() as u64)
    }

    fn reserve(&self, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let bytes = self.bytes();
        let from = bytes.get(offset as usize..).unwrap_or_default();
        let len = from.len().min(buffer.len());
        buffer[..len].copy_from_slice(&from[..len]);
        Ok(len)
    }

    fn queue(&self, _: usize) -> io::Result<Box<dyn WriteQueue>> {
        Ok(Box::new(MemoryQueue(self.clone(), Vec::new())))
    }

    fn describe(&self) -> String {
        "memory".into()
    }
}

struct MemoryQueue(MemoryDisk, Vec<DiskWrite>);

impl WriteQueue for MemoryQueue {
    fn submit(&mut self, write: DiskWrite) {
        self.1.push(write);
    }

    fn reap(&mut self, _: Duration) -> Option<DiskDone> {
        let write = self.1.pop()?;
        let at = write.offset as usize;
        let len = write.bytes().len();
        let mut disk = self.0.bytes();
        let result = match disk.get_mut(at..at + len) {
            Some(place) => {
                place.copy_from_slice(write.bytes());
                Ok(len)
            }
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        };
        Some(DiskDone { write, result })
    }
}

/// A disk with objects on it: owners, places, lengths.
struct DiskTemplate {
    bytes: Vec<u8>,
    objects: Vec<(u32, Location, usize)>,
}

static TEMPLATE: LazyLock<DiskTemplate> = LazyLock::new(|| {
    let disk = MemoryDisk::default();
    disk.bytes().resize(MIN_BACKING_BYTES as usize, 0);
    let backing = Backing::create(Arc::new(disk.clone()), MIN_BACKING_BYTES, ID).unwrap();
    let mut writer = backing.writer(2, Purpose::Objects).unwrap();
    let mut objects = Vec::new();
    for owner in 0..OBJECTS {
        let len = 1 + (owner as usize * 97) % 4096;
        let location = writer.push(owner, &vec![owner as u8; len]).unwrap();
        objects.push((owner, location, len));
        if owner % 50 == 49 {
            writer.submit();
            writer.wait(Duration::from_secs(10), |written| written.result.unwrap());
        }
    }
    drop(writer);
    let bytes = disk.bytes().clone();
    DiskTemplate { bytes, objects }
});

fuzz_target!(|data: &[u8]| {
    let mut bytes = TEMPLATE.bytes.clone();
    let mut objects = TEMPLATE.objects.clone();
    for edit in edits(&mut Input(data)) {
        match edit.region % 6 {
            0 => {
                edit.apply(&mut bytes[..HEADER]);
                let sum = crc32fast::hash(&bytes[..HEADER - 4]);
                bytes[HEADER - 4..HEADER].copy_from_slice(&sum.to_le_bytes());
            }
            1 => edit.apply(&mut bytes[..HEADER]),
            2 => edit.apply(bytes.get_mut(4096..).unwrap_or_default()),
            3 => {
                let at = usize::from(edit.at) * 16;
                edit.apply(bytes.get_mut(at..).unwrap_or_default());
            }
            // What the table says is not to be trusted either.
            4 => {
                let at = usize::from(edit.at) % objects.len();
                let mut words = Input(edit.bytes);
                let raw = u64::from(words.u32()) << (words.byte() % 8);
                let location = Location::from_raw(raw).unwrap_or(objects[at].1);
                objects[at] = (words.u32() % OBJECTS, location, usize::from(words.u16()));
            }
            _ => bytes.truncate((usize::from(edit.at) << 5).max(4096)),
        }
    }
    let _ = is_backing(&bytes);
    let disk = Arc::new(MemoryDisk(Arc::new(Mutex::new(bytes))));
    let Ok(restore) = BackingRestore::open(disk, ID) else {
        return;
    };
    objects.retain(|(_, location, len)| restore.add(*location, *len).is_ok());
    let backing = restore.finish();
    let (mut buffer, mut other) = (ReadBuffer::new(), ReadBuffer::new());
    for (owner, location, len) in &objects {
        let first = backing.read(*location, *len, *owner, &mut buffer);
        let again = backing.read(*location, *len, *owner, &mut other);
        assert_eq!(first, again);
        assert!(first.is_err() || first.is_ok_and(|bytes| bytes.len() == *len));
    }
    let mut segment = SegmentBuffer::new();
    let mut walked = 0;
    for victim in backing.victims(4) {
        let Ok(found) = victim.objects(&mut segment) else {
            continue;
        };
        for object in found {
            assert_eq!(backing.segment_of(object.location), victim.segment());
            assert!((1..=4096).contains(&object.bytes.len()));
            walked += 1;
            assert!(walked <= 4 * SEGMENT_BYTES / 8, "a walk goes in circles");
        }
    }
    for (_, location, len) in &objects {
        backing.free(*location, *len);
    }
    if walked > 0 && !data.is_empty() && objects.len() > 100 {
        deep("an edited disk is walked");
    }
});
