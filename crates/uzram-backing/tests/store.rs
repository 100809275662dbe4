//! A backing on a store of objects: what was acknowledged is read as it was written or not at all, whatever the store does,
//! and what nobody needs goes.

mod common;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{ID, LONG, MIB, Random, Table, object};
use uzram_backing::{
    Backing, BackingRestore, Disk, Location, Purpose, ReadBuffer, ReadError, STORE_SEGMENT_BYTES,
    SegmentStore, StoreDisk, WantedObject, WriteError,
};

const TIMEOUT: Duration = Duration::from_millis(400);
const PLACE: [u8; 16] = *b"a place of tests";
const SIZE: u64 = 64 * MIB;

/// What a store does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Wrong {
    #[default]
    Nothing,
    /// It does not answer at all.
    Away,
    /// It does what it is told and says that it did not.
    LosesAnswers,
    /// It flips a bit of what it gives, at that byte of each piece.
    Flips(usize),
    /// It gives less than it has.
    Cuts,
    /// It gives the piece of another object.
    Mixes,
    /// Every other call goes wrong in one of these ways.
    Moody,
}

#[derive(Default)]
struct Memory {
    objects: Mutex<BTreeMap<u64, Vec<u8>>>,
    wrong: Mutex<Wrong>,
    calls: AtomicU32,
    /// In this order.
    deleted: Mutex<Vec<u64>>,
}

fn away() -> io::Error {
    io::Error::other("no store answers")
}

impl Memory {
    fn set(&self, wrong: Wrong) {
        *self.wrong.lock().unwrap() = wrong;
    }

    fn wrong(&self) -> Wrong {
        let wrong = *self.wrong.lock().unwrap();
        if wrong != Wrong::Moody {
            return wrong;
        }
        match self.calls.fetch_add(1, SeqCst) % 9 {
            0 => Wrong::Away,
            2 => Wrong::LosesAnswers,
            4 => Wrong::Flips(70),
            6 => Wrong::Cuts,
            8 => Wrong::Mixes,
            _ => Wrong::Nothing,
        }
    }

    fn numbers(&self) -> Vec<u64> {
        self.objects.lock().unwrap().keys().copied().collect()
    }
}

impl SegmentStore for Memory {
    fn put(&self, number: u64, bytes: &[u8]) -> io::Result<()> {
        let wrong = self.wrong();
        if wrong == Wrong::Away {
            return Err(away());
        }
        let before = self.objects.lock().unwrap().insert(number, bytes.into());
        assert_eq!(before, None, "object {number} was written twice");
        match wrong {
            Wrong::LosesAnswers => Err(away()),
            _ => Ok(()),
        }
    }

    fn get(&self, number: u64, range: Range<u64>) -> io::Result<Vec<u8>> {
        let wrong = self.wrong();
        if matches!(wrong, Wrong::Away | Wrong::LosesAnswers) {
            return Err(away());
        }
        let objects = self.objects.lock().unwrap();
        let mut number = number;
        if wrong == Wrong::Mixes {
            number = *objects
                .keys()
                .find(|other| **other != number)
                .unwrap_or(&number);
        }
        let object = objects.get(&number).ok_or(io::ErrorKind::NotFound)?;
        let piece = object.get(range.start as usize..range.end as usize);
        let mut piece = piece.ok_or(io::ErrorKind::UnexpectedEof)?.to_vec();
        match wrong {
            Wrong::Flips(at) => {
                let at = at % piece.len();
                piece[at] ^= 1;
            }
            Wrong::Cuts => return Err(io::ErrorKind::UnexpectedEof.into()),
            _ => {}
        }
        Ok(piece)
    }

    fn delete(&self, number: u64) -> io::Result<()> {
        let wrong = self.wrong();
        if wrong == Wrong::Away {
            return Err(away());
        }
        self.objects.lock().unwrap().remove(&number);
        self.deleted.lock().unwrap().push(number);
        match wrong {
            Wrong::LosesAnswers => Err(away()),
            _ => Ok(()),
        }
    }

    fn list(&self) -> io::Result<Vec<u64>> {
        match self.wrong() {
            Wrong::Nothing => Ok(self.numbers()),
            _ => Err(away()),
        }
    }

    fn retire(&self) -> Option<String> {
        self.objects.lock().unwrap().clear();
        None
    }

    fn describe(&self) -> String {
        "memory".into()
    }
}

/// A store and the map of a backing in it.
struct Place {
    memory: Arc<Memory>,
    map: File,
}

impl Place {
    fn new() -> Place {
        Place {
            memory: Arc::default(),
            map: tempfile::tempfile().unwrap(),
        }
    }

    fn create(&self) -> Backing {
        let map = self.map.try_clone().unwrap();
        let disk = StoreDisk::create(self.memory.clone(), map, PLACE, TIMEOUT).unwrap();
        Backing::create(Arc::new(disk), SIZE, ID).unwrap()
    }

    /// As another process that has the names.
    fn open(&self, objects: &HashMap<u32, (Location, Vec<u8>)>) -> Backing {
        let map = self.map.try_clone().unwrap();
        assert_eq!(StoreDisk::id_of(&map).unwrap(), PLACE);
        let disk = StoreDisk::open(self.memory.clone(), map).unwrap();
        let restore = BackingRestore::open(Arc::new(disk), ID).unwrap();
        for (location, bytes) in objects.values() {
            restore.add(*location, bytes.len()).unwrap();
        }
        restore.finish()
    }

    /// Waits until only the objects are there that are needed, which are so many.
    #[track_caller]
    fn settles(&self, backing: &Backing, objects: u64) {
        let begin = Instant::now();
        loop {
            let stats = backing.store().unwrap();
            let there = self.memory.numbers().len() as u64;
            if stats.objects == objects && there == objects && stats.garbage_objects == 0 {
                return;
            }
            assert!(begin.elapsed() < LONG, "{there} are there: {stats:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn fill(table: &mut Table, owners: Range<u32>) {
    let mut random = Random::new(owners.start.into());
    for owner in owners {
        table.push(owner, &object(&mut random)).unwrap();
    }
    table.flush();
}

#[test]
fn what_is_written_comes_back_by_pieces() {
    let place = Place::new();
    let backing = place.create();
    let mut table = Table::new(backing.clone());
    fill(&mut table, 0..6000);
    table.check_all();
    table.check_accounts();
    let stats = backing.store().unwrap();
    let bytes: usize = table.objects.values().map(|(_, bytes)| bytes.len()).sum();
    assert_eq!(stats.objects, (bytes as u64).div_ceil(STORE_SEGMENT_BYTES));
    assert!(stats.object_bytes < bytes as u64 * 102 / 100, "{stats:?}");
    assert_eq!(stats.put_bytes, stats.object_bytes);
    // Neighbours come by few calls, and in the order that was asked for.
    let gets = stats.gets;
    let owners: Vec<u32> = (1000..2000).rev().collect();
    let wanted: Vec<WantedObject> = owners
        .iter()
        .map(|owner| WantedObject {
            location: table.objects[owner].0,
            len: table.objects[owner].1.len(),
            owner: *owner,
        })
        .collect();
    for (owner, found) in owners.iter().zip(backing.read_many(&wanted)) {
        assert_eq!(&*found.unwrap(), &*table.objects[owner].1);
    }
    let gets = backing.store().unwrap().gets - gets;
    assert!(gets < 8, "{gets}");
    assert!(backing.read_many(&[]).is_empty());
}

#[test]
fn a_write_whose_answer_is_lost_counts_as_none_and_leaves_nothing() {
    let place = Place::new();
    let backing = place.create();
    let mut writer = backing.writer(2, Purpose::Objects).unwrap();
    place.memory.set(Wrong::LosesAnswers);
    let location = writer.push(1, &[1; 3000]).unwrap();
    writer.submit();
    let mut results = Vec::new();
    assert_eq!(writer.wait(LONG, |written| results.push(written.result)), 0);
    assert!(
        matches!(results[..], [Err(WriteError::Io(_))]),
        "{results:?}"
    );
    assert_eq!(place.memory.numbers(), [1], "it is there");
    let stats = (backing.stats(), backing.store().unwrap());
    assert_eq!((stats.0.live_objects, stats.0.quarantined_segments), (0, 0));
    assert_eq!((stats.1.failed_puts, stats.1.garbage_objects), (1, 1));
    assert!(stats.1.failure.contains("no store answers"), "{stats:?}");
    place.memory.set(Wrong::Nothing);
    // The space is used again, under another number.
    assert_eq!(writer.push(2, &[2; 3000]).unwrap(), location);
    writer.submit();
    assert_eq!(writer.wait(LONG, |written| written.result.unwrap()), 0);
    place.settles(&backing, 1);
    let mut buffer = ReadBuffer::new();
    assert_eq!(
        backing.read(location, 3000, 2, &mut buffer),
        Ok(&[2; 3000][..])
    );
    assert_eq!(backing.store().unwrap().failure, "");
}

#[test]
fn a_store_that_is_away_is_waited_for_and_no_longer() {
    let place = Place::new();
    let backing = place.create();
    let mut table = Table::new(backing);
    fill(&mut table, 0..100);
    place.memory.set(Wrong::Away);
    let (location, bytes) = table.objects[&7].clone();
    let begin = Instant::now();
    let mut buffer = ReadBuffer::new();
    let read = table.store.read(location, bytes.len(), 7, &mut buffer);
    assert!(matches!(read, Err(ReadError::Io(_))), "{read:?}");
    let waited = begin.elapsed();
    assert!(waited >= TIMEOUT && waited < TIMEOUT * 10, "{waited:?}");
    // It comes back while somebody waits.
    let memory = place.memory.clone();
    let back = std::thread::spawn(move || {
        std::thread::sleep(TIMEOUT / 4);
        memory.set(Wrong::Nothing);
    });
    table.check(7);
    back.join().unwrap();
    table.check_all();
}

/// In whatever place it is wrong: an error, and other bytes never.
#[test]
fn what_is_not_what_was_written_is_an_error() {
    let place = Place::new();
    let mut table = Table::new(place.create());
    // In two objects, with the same owners at the same places.
    for round in 0..2 {
        for owner in 0..50 {
            table
                .push(owner, &[round * 100 + owner as u8; 2000])
                .unwrap();
        }
        table.writer.submit();
        assert_eq!(table.drain(|writer, report| writer.wait(LONG, report)), 0);
        place.memory.set(Wrong::Away);
    }
    assert!(table.failed > 0, "the second ones did not get there");
    place.memory.set(Wrong::Nothing);
    fill(&mut table, 1000..1050);
    let (location, bytes) = table.objects[&20].clone();
    let mut buffer = ReadBuffer::new();
    let flips = (0..4100).step_by(97).map(Wrong::Flips);
    for wrong in flips.chain([Wrong::Cuts, Wrong::Mixes]) {
        place.memory.set(wrong);
        let read = table.store.read(location, bytes.len(), 20, &mut buffer);
        assert_eq!(read, Err(ReadError::Checksum), "{wrong:?}");
    }
    assert!(table.store.stats().corrupt > 0);
    // An object that is replaced by an older one of the same segment, which has all owners at the same places.
    place.memory.set(Wrong::Nothing);
    let older = {
        let mut objects = place.memory.objects.lock().unwrap();
        let older = objects.values().next().unwrap().clone();
        for object in objects.values_mut() {
            *object = older.clone();
        }
        older
    };
    assert!(older.len() > 4096);
    table.check(20);
    let other = table.objects[&1020].clone();
    let read = table.store.read(other.0, other.1.len(), 1020, &mut buffer);
    assert_eq!(read, Err(ReadError::Checksum));
    place.memory.objects.lock().unwrap().clear();
    let begin = Instant::now();
    let read = table.store.read(location, bytes.len(), 20, &mut buffer);
    assert!(read.is_err() && begin.elapsed() >= TIMEOUT, "{read:?}");
}

#[test]
fn what_is_empty_goes_and_what_is_sparse_is_moved_first() {
    let place = Place::new();
    let backing = place.create();
    let mut table = Table::new(backing.clone());
    fill(&mut table, 0..6000);
    let before = backing.store().unwrap().objects;
    (0..6000).filter(|owner| owner % 10 != 0).for_each(|owner| {
        assert!(table.free(owner));
    });
    assert!(before > 1);
    place.settles(&backing, before);
    // While the store takes nothing, everything stays where it is.
    place.memory.set(Wrong::Away);
    assert_eq!(table.compact(8), 0);
    place.memory.set(Wrong::Nothing);
    table.check_all();
    assert_eq!(table.compact(8), 600);
    table.check_all();
    table.check_accounts();
    // One for each victim, as this caller submits them.
    let objects = backing.store().unwrap().objects;
    (0..6000).for_each(|owner| {
        table.free(owner);
    });
    assert!(objects > 0);
    place.settles(&backing, 0);
}

/// Deletions that could not be made are made later, when the space is in use again.
#[test]
fn a_late_deletion_deletes_what_it_was_for() {
    let place = Place::new();
    let backing = place.create();
    let mut table = Table::new(backing.clone());
    fill(&mut table, 0..10);
    let first = place.memory.numbers();
    // No deletion comes before the look of the next second.
    (0..10).for_each(|owner| assert!(table.free(owner)));
    fill(&mut table, 10..20);
    let segments = |table: &Table, owner: u32| table.store.segment_of(table.objects[&owner].0);
    assert_eq!(segments(&table, 10), 0, "the same space");
    place.settles(&backing, 1);
    assert_ne!(place.memory.numbers(), first);
    assert_eq!(*place.memory.deleted.lock().unwrap(), first);
    table.check_all();
}

#[test]
fn another_process_goes_on_without_the_store() {
    let place = Place::new();
    let mut table = Table::new(place.create());
    fill(&mut table, 0..3000);
    let kept = table.objects.clone();
    let needed = table.store.store().unwrap().objects;
    // Of the former process: an upload that was not answered, and one that lands when it is dead.
    place.memory.set(Wrong::LosesAnswers);
    table.push(5000, &[5; 100]).unwrap();
    table.writer.submit();
    assert_eq!(table.drain(|writer, report| writer.wait(LONG, report)), 0);
    place.memory.set(Wrong::Away);
    table.push(5001, &[5; 100]).unwrap();
    table.writer.submit();
    assert_eq!(table.drain(|writer, report| writer.wait(LONG, report)), 0);
    drop(table);
    let lost = *place.memory.numbers().last().unwrap();

    // The store is still away.
    let backing = place.open(&kept);
    let mut table = Table::with(backing.clone(), kept);
    table.check_accounts();
    place.memory.set(Wrong::Nothing);
    table.check_all();
    fill(&mut table, 6000..6100);
    // What the dead one sent has a number that nobody uses again.
    let late = lost + 1;
    assert!(!place.memory.numbers().contains(&late));
    place
        .memory
        .objects
        .lock()
        .unwrap()
        .insert(late, vec![0; 100]);
    table.check_all();
    let begin = Instant::now();
    while place.memory.numbers().contains(&lost) {
        assert!(begin.elapsed() < LONG, "what was left is deleted");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(backing.store().unwrap().objects, needed + 1);
    table.check_all();
    // A map that is not the backing's.
    let other = Place::new();
    let map = other.map.try_clone().unwrap();
    assert!(StoreDisk::open(place.memory.clone(), map).is_err());
    assert_eq!(backing.retire(), None);
    assert!(place.memory.numbers().is_empty());
}

/// A writer does not wait longer than it is told to, and what comes later harms nobody.
#[test]
fn a_store_that_hangs_is_given_up() {
    struct Hanging(Memory, Mutex<()>);
    impl SegmentStore for Hanging {
        fn put(&self, number: u64, bytes: &[u8]) -> io::Result<()> {
            drop(self.1.lock().unwrap());
            self.0.put(number, bytes)
        }
        fn get(&self, number: u64, range: Range<u64>) -> io::Result<Vec<u8>> {
            drop(self.1.lock().unwrap());
            self.0.get(number, range)
        }
        fn delete(&self, number: u64) -> io::Result<()> {
            self.0.delete(number)
        }
        fn list(&self) -> io::Result<Vec<u64>> {
            self.0.list()
        }
        fn retire(&self) -> Option<String> {
            None
        }
        fn describe(&self) -> String {
            "hanging".into()
        }
    }
    let store = Arc::new(Hanging(Memory::default(), Mutex::new(())));
    let map = tempfile::tempfile().unwrap();
    let disk: Arc<dyn Disk> =
        Arc::new(StoreDisk::create(store.clone(), map, PLACE, TIMEOUT).unwrap());
    let backing = Backing::create(disk, SIZE, ID).unwrap();
    let mut writer = backing.writer(2, Purpose::Objects).unwrap();
    let held = store.1.lock().unwrap();
    writer.push(1, &[1; 100]).unwrap();
    writer.submit();
    let mut results = Vec::new();
    assert_eq!(
        writer.wait(TIMEOUT, |written| results.push(written.result)),
        1
    );
    writer.abandon(|written| results.push(written.result));
    assert_eq!(results, [Err(WriteError::Hung)]);
    // The other buffer works on meanwhile, and readers give up in time.
    let location = writer.push(2, &[2; 100]).unwrap();
    let begin = Instant::now();
    let mut buffer = ReadBuffer::new();
    assert!(backing.read(location, 100, 2, &mut buffer).is_err());
    assert!(begin.elapsed() < TIMEOUT * 10);
    drop(held);
    writer.submit();
    assert_eq!(writer.wait(LONG, |written| written.result.unwrap()), 0);
    assert_eq!(
        backing.read(location, 100, 2, &mut buffer),
        Ok(&[2; 100][..])
    );
    let begin = Instant::now();
    // What came late is needed by nobody.
    while store.0.numbers().len() > 1 {
        writer.completed(|_| panic!("it was reported"));
        assert!(begin.elapsed() < LONG);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(
        backing.read(location, 100, 2, &mut buffer),
        Ok(&[2; 100][..])
    );
}

/// Everything at random, with a store that does each thing wrong now and then, and processes that die.
#[test]
fn whatever_is_acknowledged_stays() {
    let place = Place::new();
    let mut random = Random::new(11);
    let mut table = Table::new(place.create());
    let mut failed = 0;
    for round in 0..60u32 {
        place.memory.set(if round % 3 == 2 {
            Wrong::Nothing
        } else {
            Wrong::Moody
        });
        for _ in 0..random.below(900) {
            let owner = random.below(4000) as u32;
            let bytes = object(&mut random);
            if table.push(owner, &bytes).is_err() {
                break;
            }
            if random.below(4) == 0 {
                table.free(random.below(4000) as u32);
            }
        }
        table.writer.submit();
        table.drain(|writer, report| writer.wait(LONG, report));
        table.compact(random.below(4) as usize);
        place.memory.set(Wrong::Nothing);
        if random.below(5) == 0 {
            failed += table.failed;
            let objects = std::mem::take(&mut table.objects);
            drop(table);
            table = Table::with(place.open(&objects), objects);
        }
        table.check_accounts();
        if round % 10 == 9 {
            table.check_all();
        }
    }
    failed += table.failed;
    assert!(failed > 0);
    let owners: Vec<u32> = table.objects.keys().copied().collect();
    owners
        .into_iter()
        .for_each(|owner| assert!(table.free(owner)));
    let backing = table.store.clone();
    place.settles(&backing, 0);
}
