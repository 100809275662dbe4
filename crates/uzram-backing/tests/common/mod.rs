//! What the tests share: stores on real files, and objects that are recognised.
#![allow(dead_code, unreachable_pub)]

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use uzram_backing::{
    Backing, FileDisk, FileOptions, Location, Purpose, PushError, ReadBuffer, SegmentBuffer,
    Writer, Written,
};
pub use uzram_testkit::Random;
use uzram_testkit::disk::FaultyDisk;

pub const ID: [u8; 16] = *b"a store of tests";
pub const MIB: u64 = 1 << 20;
/// Nothing here takes so long, unless it never ends.
pub const LONG: Duration = Duration::from_secs(60);

/// A backing file that goes with the value, and the disk on it.
pub struct Scratch {
    pub file: tempfile::NamedTempFile,
    pub storage: FaultyDisk,
}

/// On whatever file system holds temporary files.
pub fn scratch(options: FileOptions) -> Scratch {
    let file = tempfile::NamedTempFile::new().unwrap();
    let storage = FileDisk::open(file.path(), options).unwrap();
    let storage = FaultyDisk::new(Arc::new(storage));
    Scratch { file, storage }
}

impl Scratch {
    pub fn create(&self, size_bytes: u64) -> Backing {
        Backing::create(Arc::new(self.storage.clone()), size_bytes, ID).unwrap()
    }
}

pub fn store(size_bytes: u64) -> (Scratch, Backing) {
    let scratch = scratch(FileOptions::default());
    let store = scratch.create(size_bytes);
    (scratch, store)
}

/// An object of a length as compressed pages have, with some of the extremes.
pub fn object(random: &mut Random) -> Vec<u8> {
    let len = match random.below(20) {
        0 => 4096,
        1 => 1 + random.below(16),
        _ => 200 + random.below(2600),
    };
    random.bytes(len as usize)
}

/// The caller's table: what each owner should have, and where.
pub struct Table {
    pub store: Backing,
    pub writer: Writer,
    pub mover: Writer,
    pub buffer: ReadBuffer,
    pub segment: SegmentBuffer,
    pub objects: HashMap<u32, (Location, Vec<u8>)>,
    /// Pushed, not yet reported.
    pub pending: HashMap<Location, (u32, Vec<u8>)>,
    /// Reported as failed.
    pub failed: u64,
}

impl Table {
    pub fn new(store: Backing) -> Table {
        Table {
            writer: store.writer(4, Purpose::Objects).unwrap(),
            mover: store.writer(2, Purpose::Compaction).unwrap(),
            store,
            buffer: ReadBuffer::new(),
            segment: SegmentBuffer::new(),
            objects: HashMap::new(),
            pending: HashMap::new(),
            failed: 0,
        }
    }

    /// Takes over what is on a backing that was opened again.
    pub fn with(store: Backing, objects: HashMap<u32, (Location, Vec<u8>)>) -> Table {
        Table {
            objects,
            ..Table::new(store)
        }
    }

    pub fn push(&mut self, owner: u32, bytes: &[u8]) -> Result<(), PushError> {
        loop {
            match self.writer.push(owner, bytes) {
                Ok(location) => {
                    let old = self.pending.insert(location, (owner, bytes.to_vec()));
                    assert!(old.is_none(), "{location:?} was given out twice");
                    return Ok(());
                }
                Err(PushError::Busy { .. }) => {
                    let before = self.writer.in_flight();
                    self.drain(|writer, report| writer.wait_one(LONG, report));
                    assert!(self.writer.in_flight() < before, "the disk hangs");
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Submits, waits, publishes.
    pub fn flush(&mut self) {
        self.writer.submit();
        let left = self.drain(|writer, report| writer.wait(LONG, report));
        assert_eq!((left, self.pending.len()), (0, 0));
    }

    pub fn drain<R>(&mut self, wait: impl FnOnce(&mut Writer, &mut dyn FnMut(Written)) -> R) -> R {
        let mut all = Vec::new();
        let result = wait(&mut self.writer, &mut |written| all.push(written));
        for written in all {
            self.publish(written);
        }
        result
    }

    fn publish(&mut self, written: Written) {
        let (owner, bytes) = self
            .pending
            .remove(&written.location)
            .expect("it was pushed, once");
        assert_eq!((written.owner, written.len), (owner, bytes.len()));
        if written.result.is_err() {
            self.failed += 1;
            return;
        }
        if let Some((old, bytes)) = self.objects.insert(owner, (written.location, bytes)) {
            self.store.free(old, bytes.len());
        }
    }

    pub fn free(&mut self, owner: u32) -> bool {
        let Some((location, bytes)) = self.objects.remove(&owner) else {
            return false;
        };
        self.store.free(location, bytes.len());
        true
    }

    pub fn check(&mut self, owner: u32) {
        let (location, bytes) = &self.objects[&owner];
        let read = self
            .store
            .read(*location, bytes.len(), owner, &mut self.buffer);
        assert_eq!(read, Ok(&bytes[..]), "owner {owner} at {location:?}");
    }

    pub fn check_all(&mut self) {
        let owners: Vec<u32> = self.objects.keys().copied().collect();
        for owner in owners {
            self.check(owner);
        }
    }

    /// Empties up to `n` segments, and says how many objects it moved.
    pub fn compact(&mut self, n: usize) -> usize {
        let mut moved = 0;
        for victim in self.store.victims(n) {
            let Ok(found) = victim.objects(&mut self.segment) else {
                continue;
            };
            let mut old = HashMap::new();
            for object in found {
                let entry = self.objects.get(&object.owner);
                let lives = entry.is_some_and(|(location, bytes)| {
                    *location == object.location && bytes.len() == object.bytes.len()
                });
                if !lives {
                    continue;
                }
                assert_eq!(object.bytes, self.objects[&object.owner].1);
                let Ok(new) = self.mover.push(object.owner, object.bytes) else {
                    break;
                };
                old.insert(new, object.location);
            }
            self.mover.submit();
            let (store, objects) = (&self.store, &mut self.objects);
            let left = self.mover.wait(LONG, |written| {
                let old = old.remove(&written.location).expect("it was pushed, once");
                if written.result.is_ok() {
                    let entry = objects.get_mut(&written.owner).expect("nobody else frees");
                    assert_eq!(entry.0, old);
                    entry.0 = written.location;
                    store.free(old, written.len);
                    moved += 1;
                }
            });
            assert_eq!((left, old.len()), (0, 0));
        }
        moved
    }

    /// The backing's accounts against the table's.
    pub fn check_accounts(&self) {
        let stats = self.store.stats();
        let objects = self.objects.values().map(|(_, bytes)| bytes.len());
        let pending = self.pending.values().map(|(_, bytes)| bytes.len());
        let lens: Vec<usize> = objects.chain(pending).collect();
        let bytes: usize = lens
            .iter()
            .map(|len| uzram_backing::entry_bytes(*len))
            .sum();
        assert_eq!(stats.live_objects, lens.len() as u64);
        assert_eq!(stats.live_bytes, bytes as u64);
        let segments = stats.used_segments + stats.free_segments + stats.quarantined_segments;
        assert_eq!(segments, stats.size_bytes.div_ceil(stats.segment_bytes));
    }
}
