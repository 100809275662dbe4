//! The backing: a file or a block device to which objects go that nobody needs in memory, and from which they are read
//! as if they were still there.
//!
//! `uzram-backing` packs them; this module says which, and keeps the slot's word, the pool and the store in step.
//! `writeback` moves objects out, `promote` moves them in again, `tidy` moves them together; each marks a slot, works
//! without its lock, and publishes only if the mark is still there (see [`crate::table::Table::begin_post`]).
//!
//! The image names the store. Its contents mean nothing without the image, so nothing is ever flushed for its sake.

mod promote;
mod record;
mod tidy;
mod writeback;

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

pub use uzram_backing::StoreStats;
use uzram_backing::{
    FileOptions, FileStorage, Location, Purpose, ReadBuffer, ReadError, Restore, Storage, Store,
    Writer, Written,
};
use uzram_pool::current_cpu;

use crate::apis::ZramApi;
use crate::codec::Contexts;
use crate::device::Device;
use crate::stream::PerCpu;
use crate::word::{Backed, Content};
use crate::{BackingError, Corruption, Error, PAGE_SIZE};

pub use promote::PromoteReport;
pub(crate) use record::Record;
pub use writeback::{Ended, Writeback, WritebackReport};

/// Readers of the backing that do not wait for each other.
const READERS: usize = 8;
/// Writes of 256 KiB in flight.
const DEPTH: usize = 4;
/// How long requests may keep pages on a backing that is to be given up.
const REQUESTS_PATIENCE: Duration = Duration::from_secs(10);

/// A store in use.
pub(crate) struct Attached {
    pub(crate) store: Store,
    path: PathBuf,
    readers: PerCpu<ReadBuffer>,
    /// Used by whoever holds the device's `post` lock.
    writers: Mutex<Writers>,
}

struct Writers {
    objects: Writer,
    moving: Writer,
}

impl Attached {
    fn new(store: Store, path: PathBuf) -> std::io::Result<Attached> {
        let writers = Writers {
            objects: store.writer(DEPTH, Purpose::Objects)?,
            moving: store.writer(1, Purpose::Compaction)?,
        };
        let readers = PerCpu::new(READERS, || Ok(ReadBuffer::new()));
        Ok(Attached {
            store,
            path,
            readers: readers.map_err(|error| std::io::Error::other(error.to_string()))?,
            writers: Mutex::new(writers),
        })
    }

    fn read_error(&self, page: u64, source: ReadError) -> Error {
        Error::BackingRead {
            path: self.path.clone(),
            page,
            source,
        }
    }

    fn writers(&self) -> MutexGuard<'_, Writers> {
        self.writers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a device has of a backing.
#[derive(Default)]
pub(crate) struct Backing {
    attached: RwLock<Option<Arc<Attached>>>,
}

impl Backing {
    pub(crate) fn get(&self) -> Option<Arc<Attached>> {
        let attached = self.attached.read().unwrap_or_else(PoisonError::into_inner);
        attached.clone()
    }

    pub(crate) fn set(&self, attached: Option<Attached>) {
        let mut place = self
            .attached
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *place = attached.map(Arc::new);
    }
}

/// What there is to know of a device's backing: see [`ZramApi::backing`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct BackingStats {
    /// The file or block device.
    #[cfg_attr(feature = "serde", serde(serialize_with = "as_text"))]
    pub path: PathBuf,
    /// How it is read and written, in a few words.
    pub io: String,
    /// What is in it and what happened to it.
    #[cfg_attr(feature = "serde", serde(flatten))]
    pub store: StoreStats,
}

/// A path that is no Unicode must not keep the other statistics from being read.
#[cfg(feature = "serde")]
fn as_text<S: serde::Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

fn failed(path: &Path, source: impl Into<BackingError>) -> Error {
    Error::Backing {
        path: path.into(),
        source: source.into(),
    }
}

/// How long to wait for the last writes of a process that died: they have its lock.
const DEAD_WRITES: Duration = Duration::from_secs(10);

/// Opens a backing for this process alone, and waits up to `patience` for another's lock. A file that is not there is
/// made.
fn open(path: &Path, patience: Duration) -> Result<FileStorage, Error> {
    let mut options = File::options();
    options.read(true).write(true).mode(0o600);
    let exists = path.metadata();
    match &exists {
        // The kernel gives a block device that is mounted or otherwise in use to nobody else.
        Ok(found) if found.file_type().is_block_device() => {
            options.custom_flags(rustix::fs::OFlags::EXCL.bits() as i32);
        }
        Err(error) if error.kind() == ErrorKind::NotFound && !path.starts_with("/dev") => {
            options.create_new(true);
        }
        _ => {}
    }
    let file = options.open(path).map_err(|error| match error.kind() {
        ErrorKind::ResourceBusy => failed(path, BackingError::InUse),
        _ => failed(path, error),
    })?;
    let storage = FileStorage::new(file, FileOptions::default());
    let storage = storage.map_err(|error| match error.kind() {
        ErrorKind::InvalidInput => failed(path, BackingError::FileType),
        _ => failed(path, error),
    })?;
    storage.lock(patience).map_err(|error| match error.kind() {
        ErrorKind::WouldBlock => failed(path, BackingError::Locked),
        _ => failed(path, error),
    })?;
    Ok(storage)
}

/// Whether a store may be made of this: an empty file, an old store, or a block device.
fn may_overwrite(path: &Path, storage: &dyn Storage) -> Result<(), Error> {
    let kind = path.metadata().map_err(|error| failed(path, error))?;
    if kind.file_type().is_block_device() || kind.len() == 0 {
        return Ok(());
    }
    let mut block = uzram_backing::Buffer::new(1);
    let got = storage
        .read_at(block.bytes_mut(), 0)
        .map_err(|error| failed(path, error))?;
    let zero = block.bytes()[..got].iter().all(|byte| *byte == 0);
    if zero || uzram_backing::is_store(&block.bytes()[..got]) {
        return Ok(());
    }
    Err(failed(path, BackingError::Foreign))
}

impl ZramApi<'_> {
    /// Takes a file or a block device as backing. A regular file is made if it is not there, and made `size_bytes` long
    /// (at least 1 MiB; default: as long as it is); of a block device `size_bytes` are used (default: all). What is in a
    /// block device is lost; a file is only taken if it is empty or was a backing. The image remembers it.
    ///
    /// [`Error::Backing`] says what is wrong with it; [`Error::HasBacking`] if there is one already.
    pub fn attach_backing(self, path: &Path, size_bytes: Option<u64>) -> Result<(), Error> {
        let _alone = self.0.post_processing();
        self.refuse_second()?;
        let new = !path.exists();
        let storage = open(path, Duration::ZERO)?;
        let made = self.make_store(path, storage, size_bytes);
        if made.is_err() && new {
            let _ = std::fs::remove_file(path);
        }
        made
    }

    fn make_store(
        self,
        path: &Path,
        storage: FileStorage,
        size_bytes: Option<u64>,
    ) -> Result<(), Error> {
        may_overwrite(path, &storage)?;
        // A server that takes the device over has another working directory.
        let path = path.canonicalize().map_err(|error| failed(path, error))?;
        let has = storage.size_bytes().map_err(|error| failed(&path, error))?;
        if size_bytes.is_none() && has == 0 {
            return Err(failed(&path, BackingError::Empty));
        }
        self.take_store(path, Arc::new(storage), size_bytes.unwrap_or(has))
    }

    /// As [`ZramApi::attach_backing`], on storage of the caller's kind, whatever is in it. A process that takes the image
    /// over later opens `path`, which is to be absolute.
    pub fn attach_storage(
        self,
        path: &Path,
        storage: Arc<dyn Storage>,
        size_bytes: u64,
    ) -> Result<(), Error> {
        let _alone = self.0.post_processing();
        self.refuse_second()?;
        self.take_store(path.into(), storage, size_bytes)
    }

    fn refuse_second(self) -> Result<(), Error> {
        let Some(attached) = self.0.backing.get() else {
            return Ok(());
        };
        Err(Error::HasBacking {
            path: attached.path.clone(),
        })
    }

    fn take_store(
        self,
        path: PathBuf,
        storage: Arc<dyn Storage>,
        size_bytes: u64,
    ) -> Result<(), Error> {
        let mut id = [0; 16];
        rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty())
            .map_err(|error| failed(&path, BackingError::Io(error)))?;
        let store = Store::create(storage, size_bytes, id).map_err(|error| failed(&path, error))?;
        let record = Record {
            size_bytes,
            id,
            path: path.clone(),
        };
        let attached = Attached::new(store, path.clone()).map_err(|error| failed(&path, error))?;
        record.write(self.0.region())?;
        self.0.backing.set(Some(attached));
        Ok(())
    }

    /// Gives the backing up: brings all that is on it back into memory first. What is on it afterwards is worthless. A
    /// file stays where it is.
    ///
    /// [`Error::NoBacking`] if there is none; [`Error::NoSpace`], or [`Error::Backing`] where a page cannot be read: then it
    /// stays attached, with what is left on it.
    pub fn detach_backing(self) -> Result<PromoteReport, Error> {
        let mut go_on = |_| std::ops::ControlFlow::Continue(());
        let mut report = self.promote(None, &mut go_on)?;
        let _alone = self.0.post_processing();
        // Nothing is written back any more; what was, between the two, comes back now. A page of which a request writes a
        // part is passed over, and one that was just replaced still counts until its place is freed: both for a moment.
        let deadline = Instant::now() + REQUESTS_PATIENCE;
        loop {
            report += self.promote_alone(0..u64::MAX)?;
            let left = self.0.counters.backed_pages();
            if left == 0 {
                break;
            }
            if Instant::now() >= deadline {
                let attached = self.0.attached()?;
                return Err(Error::BackingHeld {
                    path: attached.path.clone(),
                    pages: left,
                });
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Record::remove(self.0.region());
        self.0.backing.set(None);
        Ok(report)
    }

    /// What there is to know of the backing; `None` if the device has none. Waits for nobody.
    pub fn backing(self) -> Option<BackingStats> {
        let attached = self.0.backing.get()?;
        Some(BackingStats {
            path: attached.path.clone(),
            io: attached.store.describe(),
            store: attached.store.stats(),
        })
    }
}

impl Device {
    pub(crate) fn attached(&self) -> Result<Arc<Attached>, Error> {
        self.backing.get().ok_or(Error::NoBacking)
    }

    /// Reads a page whose object is on the backing. `false`: it is not there any more, look again.
    pub(crate) fn read_backed(
        &self,
        page: u64,
        backed: Backed,
        out: &mut [u8; PAGE_SIZE],
        contexts: &mut Contexts<'_>,
    ) -> Result<bool, Error> {
        let Some(attached) = self.backing.get() else {
            // It was detached since the look at the slot.
            return match self.table.peek(page) {
                Content::Backed(_) => Err(Error::Corrupt {
                    page,
                    source: Corruption::NoBacking,
                }),
                _ => Ok(false),
            };
        };
        let content = Content::Backed(backed);
        let cpu = current_cpu();
        let mut buffer = attached.readers.get(cpu);
        let location = location(backed, page)?;
        // From here on nothing else is written there; so if the slot names the place now, and later still, it does so for the
        // same bytes, and with the same codec.
        let Some(_hold) = attached.store.hold(location) else {
            return Ok(false);
        };
        if self.table.peek(page) != content {
            return Ok(false);
        }
        let still = || self.table.peek(page) == content;
        let (len, owner) = (usize::from(backed.len), page as u32);
        let object = match attached
            .store
            .read_while(location, len, owner, &mut buffer, still)
        {
            Ok(object) => object,
            Err(ReadError::Moved) => return Ok(false),
            Err(source) => return Err(attached.read_error(page, source)),
        };
        let slot = self.table.lock(page);
        if slot.content() != content {
            return Ok(false);
        }
        use std::sync::atomic::Ordering::Relaxed;
        self.counters.shard(cpu).backed_reads.fetch_add(1, Relaxed);
        if backed.is_huge() {
            out.copy_from_slice(object);
            return Ok(true);
        }
        let result = contexts.decompress(&slot, object, out);
        self.whole_page(page, result).map(|()| true)
    }

    /// Frees what a word named on the backing, when the word is gone.
    pub(crate) fn free_backed(&self, backed: Backed) {
        if let Some(attached) = self.backing.get()
            && let Some(location) = Location::from_raw(backed.location)
        {
            attached.store.free(location, backed.len.into());
        }
    }

    /// Publishes that a marked page's object is on the backing. If it is not marked any more, the place is freed.
    pub(super) fn keep_backed(&self, written: Written, cpu: usize) -> bool {
        let page = u64::from(written.owner);
        let algorithm = self.table.peek(page).codec().unwrap_or_default();
        let backed = Backed {
            algorithm,
            location: written.location.raw(),
            len: written.len as u16,
        };
        let kept = self.keep_instead(page, Content::Backed(backed), cpu);
        if !kept {
            self.free_backed(backed);
        }
        kept
    }
}

fn location(backed: Backed, page: u64) -> Result<Location, Error> {
    Location::from_raw(backed.location).ok_or_else(|| Error::Corrupt {
        page,
        source: Corruption::Location,
    })
}

/// The store of an image that is being attached to.
pub(crate) struct Reopened {
    record: Record,
    found: Result<Restore, Error>,
}

impl Reopened {
    /// Opens what the image names. Failures matter only if something is on it.
    pub(crate) fn of(record: Record) -> Reopened {
        let found = open_store(&record);
        Reopened { record, found }
    }

    /// Notes an object.
    pub(crate) fn add(&self, backed: Backed) -> Result<(), String> {
        // What is wrong with the store is said when it is known to be needed.
        let Ok(restore) = &self.found else {
            return Ok(());
        };
        let location = Location::from_raw(backed.location).ok_or("its place is none")?;
        restore
            .add(location, backed.len.into())
            .map_err(|damage| damage.to_string())
    }

    /// When all objects are known. A backing that is missing and not needed is forgotten.
    pub(crate) fn finish(self, in_use: bool) -> Result<Option<Attached>, Error> {
        match self.found {
            Ok(restore) => {
                let path = self.record.path;
                let attached = Attached::new(restore.finish(), path.clone());
                Ok(Some(attached.map_err(|error| failed(&path, error))?))
            }
            Err(error) if in_use => Err(error),
            Err(_) => Ok(None),
        }
    }
}

fn open_store(record: &Record) -> Result<Restore, Error> {
    let path = &record.path;
    if !path.exists() {
        return Err(failed(path, BackingError::Gone));
    }
    let storage = open(path, DEAD_WRITES)?;
    Restore::open(Arc::new(storage), record.id).map_err(|error| failed(path, error))
}
