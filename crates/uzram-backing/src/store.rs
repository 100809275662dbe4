//! A store of objects as the disk: each segment is one object, written once, read in pieces, deleted when it is empty.
//!
//! The store may be far away, slow, or gone. So nobody but threads of this module speaks to it. A reader waits for one of them
//! until a deadline; a writer hands its buffer over and asks later. What became empty is noted by a bit, and deleted by a thread
//! that looks each second.
//!
//! **Numbers.** An object's number is in the map (`store_map.rs`) before the object is sent, and is used once. A segment's space
//! is used again under another number. So no upload, however late, can replace what was acknowledged, and a deletion, however
//! late, deletes what nobody needs.
//!
//! **An object** is a header of 64 bytes and blocks of 4096, each behind a checksum over the place's id, the object's number, the
//! block's and its bytes. A piece of it can be checked alone; what was cut, flipped, or belongs elsewhere is an error.
//!
//! **Deletion** comes after everything that lived in a segment was published elsewhere, freed or overwritten: that is when a
//! segment becomes empty. What was not deleted when a process died is found by comparing the store's list with the map.
//!
//! **Memory bound**: 16 bytes and a bit a segment; for each write in flight the segment and its object, 8 MiB together, while
//! it lasts; what readers ask for.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::BLOCK;
use crate::counters::{count, worth_a_line};
use crate::disk::{Disk, DiskDone, DiskLayout, DiskWrite, WriteQueue};
use crate::store_map::{Placed, StoreMap};

/// Bytes of a segment in a store: a PUT of that size costs little more than a small one.
pub const STORE_SEGMENT_BYTES: u64 = 4 << 20;
/// Calls into the store at a time, of each kind. With the one that deletes they are eight.
const READERS: usize = 5;
const WRITERS: usize = 2;
/// How often what became empty is looked for, and the longest pause after a failure.
const LOOK: Duration = Duration::from_secs(1);
const LONGEST_LOOK: Duration = Duration::from_secs(30);
/// The pauses between the tries of a reader.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How often damage is fetched: it may have come about on the way.
const DAMAGED_TRIES: u32 = 3;
/// Most bytes of what is told of a failure.
const MAX_WORDS: usize = 400;

/// What an object begins with.
const MAGIC: [u8; 8] = *b"uzramCT\0";
const VERSION: u32 = 1;
/// Bytes of its header.
const OBJECT_HEADER: usize = 64;
/// Bytes of a block in it: a checksum first.
const SEALED_BLOCK: usize = 4 + BLOCK;

/// A store of immutable objects under numbers that are never used twice: one backing's place in it. Calls block, as long as
/// they like, and come from several threads.
pub trait SegmentStore: Send + Sync {
    /// Writes an object. Returns when the store has acknowledged all of it; an error where nobody knows.
    fn put(&self, number: u64, bytes: &[u8]) -> io::Result<()>;

    /// Reads these bytes of an object. `UnexpectedEof`: it has fewer.
    fn get(&self, number: u64, range: Range<u64>) -> io::Result<Vec<u8>>;

    /// Deletes an object. One that is not there is no error.
    fn delete(&self, number: u64) -> io::Result<()>;

    /// The numbers of all objects that are there.
    fn list(&self) -> io::Result<Vec<u64>>;

    /// Gives the place up, with all objects in it. Blocks for some seconds at most. Returns what is left behind, in words.
    fn retire(&self) -> Option<String>;

    /// What it is, in a few words, for people.
    fn describe(&self) -> String;
}

/// What a backing has in a store, and what became of its calls.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "serde", serde(default))]
pub struct StoreStats {
    /// Objects that are needed.
    pub objects: u64,
    /// Bytes of these.
    pub object_bytes: u64,
    /// Objects that are to be deleted.
    pub garbage_objects: u64,
    /// Objects written since the server started.
    pub puts: u64,
    /// Bytes of these.
    pub put_bytes: u64,
    /// Objects that could not be written, as far as is known.
    pub failed_puts: u64,
    /// Pieces of objects read.
    pub gets: u64,
    /// Bytes of these.
    pub get_bytes: u64,
    /// Tries to read that failed, or gave what was not written.
    pub failed_gets: u64,
    /// Objects deleted.
    pub deletes: u64,
    /// Tries to delete that failed.
    pub failed_deletes: u64,
    /// Reads that wait now.
    pub waiting: u64,
    /// What the store said when it last failed; empty once it works again.
    pub failure: String,
}

#[derive(Default)]
struct StoreCounters {
    puts: AtomicU64,
    put_bytes: AtomicU64,
    failed_puts: AtomicU64,
    gets: AtomicU64,
    get_bytes: AtomicU64,
    failed_gets: AtomicU64,
    deletes: AtomicU64,
    failed_deletes: AtomicU64,
    waiting: AtomicU64,
}

/// What waits for a thread.
struct Jobs<T> {
    state: Mutex<JobState<T>>,
    changed: Condvar,
}

struct JobState<T> {
    todo: std::collections::VecDeque<T>,
    is_over: bool,
}

impl<T> Jobs<T> {
    fn new() -> Jobs<T> {
        Jobs {
            state: Mutex::new(JobState {
                todo: std::collections::VecDeque::new(),
                is_over: false,
            }),
            changed: Condvar::new(),
        }
    }

    /// Hands it back once it is over.
    fn add(&self, job: T) -> Result<(), T> {
        let mut state = lock(&self.state);
        if state.is_over {
            return Err(job);
        }
        state.todo.push_back(job);
        self.changed.notify_one();
        Ok(())
    }

    /// The next one; `None` once it is over.
    fn next(&self) -> Option<T> {
        let mut state = lock(&self.state);
        loop {
            if let Some(job) = state.todo.pop_front() {
                return Some(job);
            }
            if state.is_over {
                return None;
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn end(&self) {
        lock(&self.state).is_over = true;
        self.changed.notify_all();
    }
}

/// A piece that somebody waits for.
struct Fetch {
    number: u64,
    /// Blocks.
    range: Range<u64>,
    deadline: Instant,
    reply: SyncSender<io::Result<Vec<u8>>>,
}

/// A segment on its way.
struct Upload {
    write: DiskWrite,
    reply: Sender<DiskDone>,
}

/// The map, and what is to be deleted.
struct Books {
    map: StoreMap,
    garbage: Vec<u64>,
}

struct StoreShared {
    store: Arc<dyn SegmentStore>,
    id: [u8; 16],
    timeout: Duration,
    books: Mutex<Books>,
    /// A bit for each segment that became empty and was not looked at since.
    empty: OnceLock<Box<[AtomicU64]>>,
    fetches: Jobs<Fetch>,
    uploads: Jobs<Upload>,
    /// Whether it is over, for whoever deletes.
    is_over: Mutex<bool>,
    ended: Condvar,
    is_retired: AtomicBool,
    counters: StoreCounters,
    failure: Mutex<String>,
}

/// A store of objects as a disk.
pub struct StoreDisk(Arc<StoreShared>);

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl StoreDisk {
    /// A new one, whose map is kept in an empty file. `id` is random, and is the place's in the store. Readers wait up to
    /// `timeout` for the store.
    pub fn create(
        store: Arc<dyn SegmentStore>,
        map: File,
        id: [u8; 16],
        timeout: Duration,
    ) -> io::Result<StoreDisk> {
        let map = StoreMap::create(map, id, STORE_SEGMENT_BYTES, timeout)?;
        StoreDisk::start(store, map, None)
    }

    /// One that another process left, by its map. The store is not asked: it may be away.
    pub fn open(store: Arc<dyn SegmentStore>, map: File) -> io::Result<StoreDisk> {
        let map = StoreMap::open(map, STORE_SEGMENT_BYTES)?;
        let first = map.next();
        StoreDisk::start(store, map, Some(first))
    }

    /// Which place in the store a map is of.
    pub fn id_of(map: &File) -> io::Result<[u8; 16]> {
        Ok(StoreMap::open(map.try_clone()?, STORE_SEGMENT_BYTES)?.id())
    }

    /// `left`: objects with smaller numbers may be in the store that nobody needs.
    fn start(
        store: Arc<dyn SegmentStore>,
        map: StoreMap,
        left: Option<u64>,
    ) -> io::Result<StoreDisk> {
        let shared = Arc::new(StoreShared {
            store,
            id: map.id(),
            timeout: map.timeout(),
            empty: OnceLock::new(),
            fetches: Jobs::new(),
            uploads: Jobs::new(),
            is_over: Mutex::new(false),
            ended: Condvar::new(),
            is_retired: AtomicBool::new(false),
            counters: StoreCounters::default(),
            failure: Mutex::default(),
            books: Mutex::new(Books {
                map,
                garbage: Vec::new(),
            }),
        });
        // From here on its threads end when it is dropped.
        let disk = StoreDisk(shared);
        disk.0.make_bits();
        let spawn = |name: String, work: Box<dyn FnOnce(&StoreShared) + Send>| {
            let shared = disk.0.clone();
            let thread = std::thread::Builder::new().name(name);
            thread.spawn(move || work(&shared)).map(drop)
        };
        for number in 0..READERS {
            spawn(
                format!("store-get{number}"),
                Box::new(StoreShared::fetch_all),
            )?;
        }
        for number in 0..WRITERS {
            spawn(
                format!("store-put{number}"),
                Box::new(StoreShared::upload_all),
            )?;
        }
        spawn(
            "store-delete".into(),
            Box::new(move |shared| shared.delete_all(left)),
        )?;
        Ok(disk)
    }
}

impl Drop for StoreDisk {
    fn drop(&mut self) {
        self.0.end();
    }
}

fn checksum(id: &[u8; 16], number: u64, block: u64, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(id);
    hasher.update(&number.to_le_bytes());
    hasher.update(&block.to_le_bytes());
    hasher.update(bytes);
    hasher.finalize()
}

/// Bytes of an object with so many blocks.
fn object_bytes(blocks: u64) -> u64 {
    OBJECT_HEADER as u64 + blocks * SEALED_BLOCK as u64
}

/// The object of a segment's blocks.
fn encode(id: &[u8; 16], number: u64, bytes: &[u8]) -> Vec<u8> {
    let blocks = (bytes.len() / BLOCK) as u64;
    let mut object = Vec::with_capacity(object_bytes(blocks) as usize);
    object.extend_from_slice(&MAGIC);
    object.extend_from_slice(&VERSION.to_le_bytes());
    object.extend_from_slice(&(blocks as u32).to_le_bytes());
    object.extend_from_slice(id);
    object.extend_from_slice(&number.to_le_bytes());
    object.resize(OBJECT_HEADER - 4, 0);
    object.extend_from_slice(&crc32fast::hash(&object).to_le_bytes());
    for (block, bytes) in bytes.chunks(BLOCK).enumerate() {
        object.extend_from_slice(&checksum(id, number, block as u64, bytes).to_le_bytes());
        object.extend_from_slice(bytes);
    }
    object
}

/// Checks the blocks of a piece that begins with block `first`, and copies them. `false`: it is not what was written.
fn decode(id: &[u8; 16], number: u64, first: u64, piece: &[u8], out: &mut [u8]) -> bool {
    if piece.len() != out.len() / BLOCK * SEALED_BLOCK {
        return false;
    }
    let blocks = piece.chunks(SEALED_BLOCK).zip(out.chunks_mut(BLOCK));
    for (block, (sealed, out)) in (first..).zip(blocks) {
        let (sum, bytes) = sealed.split_at(4);
        if sum != checksum(id, number, block, bytes).to_le_bytes() {
            return false;
        }
        out.copy_from_slice(bytes);
    }
    true
}

/// Where a segment's blocks begin on the disk: the first one's behind the backing's header.
fn base_of(segment: u64) -> u64 {
    (segment * STORE_SEGMENT_BYTES).max(BLOCK as u64)
}

impl StoreShared {
    fn make_bits(&self) {
        let segments = lock(&self.books).map.segments();
        if segments > 0 {
            let words = (0..segments.div_ceil(64)).map(|_| AtomicU64::new(0));
            let _ = self.empty.set(words.collect());
        }
    }

    fn end(&self) {
        self.fetches.end();
        self.uploads.end();
        *lock(&self.is_over) = true;
        self.ended.notify_all();
    }

    /// Remembers what the store said, for people.
    fn failed(&self, counter: &AtomicU64, what: &str, error: &io::Error) {
        let nth = count(counter, 1);
        if worth_a_line(nth) {
            tracing::warn!(%error, nth, "the store of the backing: cannot {what}");
        }
        let mut words = format!("cannot {what}: {error}");
        if let Some((end, _)) = words.char_indices().nth(MAX_WORDS) {
            words.truncate(end);
        }
        *lock(&self.failure) = words;
    }

    fn worked(&self) {
        lock(&self.failure).clear();
    }

    /// Until it is over.
    fn fetch_all(&self) {
        while let Some(fetch) = self.fetches.next() {
            if Instant::now() >= fetch.deadline {
                continue;
            }
            let bytes = |block: u64| object_bytes(block);
            let range = bytes(fetch.range.start)..bytes(fetch.range.end);
            // Whoever asked may have given up.
            let _ = fetch.reply.send(self.store.get(fetch.number, range));
        }
    }

    /// Reads blocks of an object, again and again until the deadline.
    fn read(&self, number: u64, first: u64, out: &mut [u8]) -> io::Result<()> {
        let deadline = Instant::now() + self.timeout;
        let range = first..first + (out.len() / BLOCK) as u64;
        let (mut pause, mut damaged) = (FIRST_PAUSE, 0);
        let mut last = io::Error::new(ErrorKind::TimedOut, "the store does not answer");
        loop {
            let (reply, answer) = mpsc::sync_channel(1);
            // Where it is over the answer is that nobody will reply.
            let _ = self.fetches.add(Fetch {
                number,
                range: range.clone(),
                deadline,
                reply,
            });
            let left = deadline.saturating_duration_since(Instant::now());
            let error = match answer.recv_timeout(left) {
                Ok(Ok(piece)) if decode(&self.id, number, first, &piece, out) => {
                    count(&self.counters.gets, 1);
                    count(&self.counters.get_bytes, piece.len() as u64);
                    self.worked();
                    return Ok(());
                }
                Ok(Ok(_)) => {
                    let what = format!("object {number} is not what was written");
                    io::Error::new(ErrorKind::InvalidData, what)
                }
                Ok(Err(error)) if error.kind() == ErrorKind::UnexpectedEof => {
                    io::Error::new(ErrorKind::InvalidData, error)
                }
                Ok(Err(error)) => error,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    self.failed(&self.counters.failed_gets, "read", &last);
                    return Err(io::Error::new(ErrorKind::TimedOut, last));
                }
            };
            self.failed(&self.counters.failed_gets, "read", &error);
            if error.kind() == ErrorKind::InvalidData {
                damaged += 1;
                if damaged >= DAMAGED_TRIES {
                    return Err(error);
                }
            }
            last = error;
            let left = deadline.saturating_duration_since(Instant::now());
            std::thread::sleep(pause.min(left));
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Until it is over.
    fn upload_all(&self) {
        while let Some(Upload { write, reply }) = self.uploads.next() {
            let result = self.upload(&write).map(|()| write.range.len());
            // A writer that is gone has freed what was in it.
            let _ = reply.send(DiskDone { write, result });
        }
    }

    fn upload(&self, write: &DiskWrite) -> io::Result<()> {
        let bytes = write.bytes();
        if write.offset < BLOCK as u64 {
            return lock(&self.books).map.write_block(bytes);
        }
        let segment = write.offset / STORE_SEGMENT_BYTES;
        if write.offset != base_of(segment) {
            // Each segment is written by one write.
            return Err(ErrorKind::InvalidInput.into());
        }
        let number = self.assign(segment as u32, (bytes.len() / BLOCK) as u32)?;
        let object = encode(&self.id, number, bytes);
        match self.store.put(number, &object) {
            Ok(()) => {
                count(&self.counters.puts, 1);
                count(&self.counters.put_bytes, object.len() as u64);
                self.worked();
                Ok(())
            }
            Err(error) => {
                self.failed(&self.counters.failed_puts, "write", &error);
                // It may be there all the same.
                let mut books = lock(&self.books);
                if books
                    .map
                    .get(segment as u32)
                    .is_some_and(|at| at.number == number)
                {
                    books.map.clear(segment as u32)?;
                }
                books.garbage.push(number);
                Err(error)
            }
        }
    }

    /// Gives a segment that is about to be written its number.
    fn assign(&self, segment: u32, blocks: u32) -> io::Result<u64> {
        let mut books = lock(&self.books);
        // What was told of it was told of its former object.
        self.take_bit(segment);
        let (number, before) = books.map.assign(segment, blocks)?;
        books.garbage.extend(before.map(|placed| placed.number));
        Ok(number)
    }

    fn bit(&self, segment: u32) -> Option<(&AtomicU64, u64)> {
        let word = self.empty.get()?.get(segment as usize / 64)?;
        Some((word, 1 << (segment % 64)))
    }

    fn take_bit(&self, segment: u32) {
        if let Some((word, bit)) = self.bit(segment) {
            word.fetch_and(!bit, AcqRel);
        }
    }

    /// Until it is over: deletes what nobody needs.
    fn delete_all(&self, left: Option<u64>) {
        let mut left = left;
        let mut pause = LOOK;
        loop {
            let over = lock(&self.is_over);
            let waited = self.ended.wait_timeout_while(over, pause, |over| !*over);
            if *waited.unwrap_or_else(PoisonError::into_inner).0 {
                return;
            }
            let worked = self.look_for_garbage(&mut left) && self.delete_garbage();
            pause = match worked {
                true => LOOK,
                false => (pause * 2).min(LONGEST_LOOK),
            };
        }
    }

    /// Whether all is known that is to be deleted.
    fn look_for_garbage(&self, left: &mut Option<u64>) -> bool {
        for (at, word) in self.empty.get().into_iter().flatten().enumerate() {
            if word.load(Acquire) == 0 {
                continue;
            }
            let mut books = lock(&self.books);
            // Under the lock: a segment that is given out again meanwhile takes its bit back.
            let mut bits = word.swap(0, AcqRel);
            while bits != 0 {
                let segment = at as u32 * 64 + bits.trailing_zeros();
                bits &= bits - 1;
                match books.map.clear(segment) {
                    Ok(before) => books.garbage.extend(before.map(|placed| placed.number)),
                    Err(error) => self.failed(&self.counters.failed_deletes, "note", &error),
                }
            }
        }
        let Some(first) = *left else { return true };
        match self.store.list() {
            Ok(there) => {
                let mut books = lock(&self.books);
                let needed: std::collections::HashSet<u64> =
                    books.map.all().map(|placed| placed.number).collect();
                let known: std::collections::HashSet<u64> = books.garbage.iter().copied().collect();
                let is_left = |number: &u64| {
                    *number < first && !needed.contains(number) && !known.contains(number)
                };
                books.garbage.extend(there.into_iter().filter(is_left));
                *left = None;
                true
            }
            Err(error) => {
                self.failed(&self.counters.failed_deletes, "list", &error);
                false
            }
        }
    }

    /// Whether all of it could be deleted.
    fn delete_garbage(&self) -> bool {
        loop {
            if *lock(&self.is_over) {
                return true;
            }
            let Some(number) = lock(&self.books).garbage.last().copied() else {
                return true;
            };
            if let Err(error) = self.store.delete(number) {
                self.failed(&self.counters.failed_deletes, "delete", &error);
                return false;
            }
            count(&self.counters.deletes, 1);
            lock(&self.books).garbage.retain(|other| *other != number);
        }
    }
}

impl Disk for StoreDisk {
    fn size_bytes(&self) -> io::Result<u64> {
        Ok(lock(&self.0.books).map.size_bytes())
    }

    fn reserve(&self, size_bytes: u64) -> io::Result<()> {
        lock(&self.0.books).map.reserve(size_bytes)?;
        self.0.make_bits();
        Ok(())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if offset < BLOCK as u64 {
            return lock(&self.0.books).map.read_block(buffer);
        }
        let segment = offset / STORE_SEGMENT_BYTES;
        let end = (segment + 1) * STORE_SEGMENT_BYTES;
        let len = (buffer.len() as u64).min(end - offset) as usize;
        let buffer = &mut buffer[..len];
        let placed = lock(&self.0.books).map.get(segment as u32);
        let placed = placed.ok_or_else(|| {
            let what = "the map names no object for that segment";
            io::Error::new(ErrorKind::InvalidData, what)
        })?;
        let Placed { number, blocks } = placed;
        let first = (offset - base_of(segment)) / BLOCK as u64;
        // Behind what was written there are zeros.
        let there = (u64::from(blocks).saturating_sub(first) as usize * BLOCK).min(len);
        buffer[there..].fill(0);
        if there > 0 {
            count(&self.0.counters.waiting, 1);
            let read = self.0.read(number, first, &mut buffer[..there]);
            self.0.counters.waiting.fetch_sub(1, Relaxed);
            read?;
        }
        Ok(len)
    }

    fn queue(&self, _depth: usize) -> io::Result<Box<dyn WriteQueue>> {
        let (reply, done) = mpsc::channel();
        Ok(Box::new(StoreQueue {
            shared: self.0.clone(),
            reply,
            done,
            in_flight: 0,
        }))
    }

    fn describe(&self) -> String {
        self.0.store.describe()
    }

    fn layout(&self) -> DiskLayout {
        DiskLayout {
            segment_bytes: STORE_SEGMENT_BYTES,
            written_once: true,
            depth: WRITERS,
            patience: Some(self.0.timeout),
        }
    }

    fn emptied(&self, segment: u32) {
        if let Some((word, bit)) = self.0.bit(segment) {
            word.fetch_or(bit, AcqRel);
        }
    }

    fn retire(&self) -> Option<String> {
        if self.0.is_retired.swap(true, AcqRel) {
            return None;
        }
        self.0.end();
        self.0.store.retire()
    }

    fn store(&self) -> Option<StoreStats> {
        let counters = &self.0.counters;
        let get = |counter: &AtomicU64| counter.load(Relaxed);
        let books = lock(&self.0.books);
        let bytes = books
            .map
            .all()
            .map(|placed| object_bytes(placed.blocks.into()));
        let (objects, bytes) =
            bytes.fold((0, 0), |(objects, all), bytes| (objects + 1, all + bytes));
        Some(StoreStats {
            objects,
            object_bytes: bytes,
            garbage_objects: books.garbage.len() as u64,
            puts: get(&counters.puts),
            put_bytes: get(&counters.put_bytes),
            failed_puts: get(&counters.failed_puts),
            gets: get(&counters.gets),
            get_bytes: get(&counters.get_bytes),
            failed_gets: get(&counters.failed_gets),
            deletes: get(&counters.deletes),
            failed_deletes: get(&counters.failed_deletes),
            waiting: get(&counters.waiting),
            failure: lock(&self.0.failure).clone(),
        })
    }
}

/// A writer's uploads.
struct StoreQueue {
    shared: Arc<StoreShared>,
    reply: Sender<DiskDone>,
    done: Receiver<DiskDone>,
    in_flight: usize,
}

impl WriteQueue for StoreQueue {
    fn submit(&mut self, write: DiskWrite) {
        self.in_flight += 1;
        let reply = self.reply.clone();
        if let Err(Upload { write, reply }) = self.shared.uploads.add(Upload { write, reply }) {
            let result = Err(ErrorKind::BrokenPipe.into());
            let _ = reply.send(DiskDone { write, result });
        }
    }

    fn reap(&mut self, timeout: Duration) -> Option<DiskDone> {
        if self.in_flight == 0 {
            return None;
        }
        let done = self.done.recv_timeout(timeout).ok()?;
        self.in_flight -= 1;
        Some(done)
    }
}
