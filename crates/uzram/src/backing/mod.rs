//! The backing: a file or a block device that takes objects out of memory, and from which they are read in place.
//!
//! `uzram-backing` packs the objects; this module chooses them, and keeps slot, pool and backing consistent.
//! `writeback` moves objects out, `promote` moves them in, `compact` empties sparse segments. Each marks a slot,
//! works without its lock, and publishes only if the mark is still there (see
//! [`crate::table::SlotTable::begin_post`]).
//!
//! The image names it. Its contents mean nothing without the image, so nothing is ever flushed for it.

mod compact;
mod far;
mod lost;
mod promote;
mod record;
mod writeback;

use std::fs::{File, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use uzram_backing::{
    Backing, BackingRestore, Disk, FileDisk, FileOptions, Location, OpenError, Purpose, ReadBuffer,
    ReadError, SEAL_KEY_BYTES, SealedDisk, Writer, Written,
};
pub use uzram_backing::{BackingStats, StoreStats};
use uzram_pool::current_cpu;

use crate::apis::ZramApi;
use crate::codec::Contexts;
use crate::device::Device;
use crate::stream::PerCpu;
use crate::word::{Backed, Content};
use crate::{BackingError, Corruption, Error, PAGE_SIZE};

pub(crate) use far::Brought;
use lost::LostDisk;
pub use promote::{PageFailure, PromoteReport};
pub(crate) use record::BackingRecord;
use record::SealKey;
pub use writeback::{Ended, Writeback, WritebackReport};

/// Number of read buffers: so many reads run at a time.
const READERS: usize = 8;
/// The same where each read may wait for a store.
const FAR_READERS: usize = 64;
/// How long detaching waits for requests that keep pages on the backing.
const REQUESTS_PATIENCE: Duration = Duration::from_secs(10);

/// A backing in use.
pub(crate) struct Attached {
    pub(crate) backing: Backing,
    path: PathBuf,
    /// Which file or block device was opened by the path; `None` where another opener did it.
    file: Option<FileIdentity>,
    /// Why the disk is not there, where [`LostDisk`] stands in its place.
    lost: Option<BackingError>,
    readers: PerCpu<ReadBuffer>,
    /// Used under the device's `post` lock.
    writers: Mutex<Writers>,
}

/// Which file or block device is behind a path.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FileIdentity {
    /// File system and inode.
    File(u64, u64),
    /// Its number, whichever node is used.
    Device(u64),
}

impl FileIdentity {
    fn of(found: &Metadata) -> FileIdentity {
        match found.file_type().is_block_device() {
            true => FileIdentity::Device(found.rdev()),
            false => FileIdentity::File(found.dev(), found.ino()),
        }
    }
}

struct Writers {
    objects: Writer,
    moving: Writer,
}

impl Attached {
    fn new(
        backing: Backing,
        path: PathBuf,
        file: Option<FileIdentity>,
    ) -> std::io::Result<Attached> {
        let layout = backing.layout();
        let writers = Writers {
            objects: backing.writer(layout.depth, Purpose::Objects)?,
            moving: backing.writer(1, Purpose::Compaction)?,
        };
        let count = if layout.written_once {
            FAR_READERS
        } else {
            READERS
        };
        let readers = PerCpu::new(count, || Ok(ReadBuffer::new()));
        Ok(Attached {
            backing,
            path,
            file,
            lost: None,
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

    /// Refuses writes to a disk that is not there.
    fn refuse_lost(&self) -> Result<(), Error> {
        match &self.lost {
            None => Ok(()),
            Some(source) => Err(Error::BackingLost {
                path: self.path.clone(),
                source: source.clone(),
            }),
        }
    }

    /// Whether it is a store, which may be far away.
    fn is_far(&self) -> bool {
        self.backing.layout().written_once
    }

    fn writers(&self) -> MutexGuard<'_, Writers> {
        self.writers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A device's backing, if it has one.
#[derive(Default)]
pub(crate) struct BackingSlot {
    attached: RwLock<Option<Arc<Attached>>>,
    /// Whether it is a store, for which requests wait before they take anything.
    is_far: AtomicBool,
}

impl BackingSlot {
    pub(crate) fn get(&self) -> Option<Arc<Attached>> {
        let attached = self.attached.read().unwrap_or_else(PoisonError::into_inner);
        attached.clone()
    }

    pub(crate) fn set(&self, attached: Option<Attached>) {
        let mut place = self
            .attached
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        // Before anything can be on it.
        let is_far = attached.as_ref().is_some_and(Attached::is_far);
        self.is_far.store(is_far, Relaxed);
        *place = attached.map(Arc::new);
    }

    /// Whether there is a backing to which pages can be written.
    pub(crate) fn takes_pages(&self) -> bool {
        self.get().is_some_and(|attached| attached.lost.is_none())
    }

    /// Whether requests have to ask for pages on the backing before they take anything.
    #[inline]
    pub(crate) fn is_far(&self) -> bool {
        self.is_far.load(Relaxed)
    }
}

/// A device's backing and its statistics: see [`ZramApi::backing`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BackingInfo {
    /// The file or block device.
    #[cfg_attr(feature = "serde", serde(serialize_with = "as_text"))]
    pub path: PathBuf,
    /// How it is read and written, in a few words.
    pub io: String,
    /// Contents and counters.
    #[cfg_attr(feature = "serde", serde(flatten))]
    pub stats: BackingStats,
    /// What is in the store, where it is one.
    #[cfg_attr(
        feature = "serde",
        serde(default, skip_serializing_if = "Option::is_none")
    )]
    pub store: Option<StoreStats>,
}

/// How a backing is taken. A number of bytes alone, or none, is one that is not sealed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BackingOptions {
    /// How much of it is used, and how long a file is made; default: all there is.
    pub size_bytes: Option<u64>,
    /// Whether what is written there is encrypted, with a key that is in the device's image and nowhere else
    /// ([`SealedDisk`]). Nobody can read it, then, but who can read the device's memory; and nobody once that is gone.
    pub seal: bool,
}

impl From<Option<u64>> for BackingOptions {
    fn from(size_bytes: Option<u64>) -> BackingOptions {
        BackingOptions {
            size_bytes,
            seal: false,
        }
    }
}

impl From<u64> for BackingOptions {
    fn from(size_bytes: u64) -> BackingOptions {
        Some(size_bytes).into()
    }
}

/// Opens the disks of backings that are neither files nor block devices, for a process that takes an image over.
pub trait DiskOpener: Send + Sync {
    /// The disk that [`ZramApi::attach_disk`] had with that path; `None`: the path is a file's or a block device's.
    fn open(&self, path: &Path) -> Option<std::io::Result<Arc<dyn Disk>>>;
}

/// Serialises a path that is no Unicode, too: it must not hide the other statistics.
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

/// How long to wait for the last writes of a dead process, which keep its lock.
const DEAD_WRITES: Duration = Duration::from_secs(10);

/// Opens a backing for this process alone, and waits up to `patience` for another's lock. A file that is not there is
/// made.
fn open(path: &Path, patience: Duration) -> Result<(FileDisk, FileIdentity), Error> {
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
    let found = file.metadata().map_err(|error| failed(path, error))?;
    let disk = FileDisk::new(file, FileOptions::default());
    let disk = disk.map_err(|error| match error.kind() {
        // The kernel's EINVAL has a number.
        ErrorKind::InvalidInput if error.raw_os_error().is_none() => {
            failed(path, BackingError::FileType)
        }
        _ => failed(path, error),
    })?;
    disk.lock(patience).map_err(|error| match error.kind() {
        ErrorKind::WouldBlock => failed(path, BackingError::Locked),
        _ => failed(path, error),
    })?;
    Ok((disk, FileIdentity::of(&found)))
}

/// Refuses a file with foreign contents: accepts an empty file, an old backing, or a block device.
fn may_overwrite(path: &Path, disk: &dyn Disk) -> Result<(), Error> {
    let kind = path.metadata().map_err(|error| failed(path, error))?;
    if kind.file_type().is_block_device() || kind.len() == 0 {
        return Ok(());
    }
    let mut block = uzram_backing::Buffer::new(1);
    let got = disk
        .read_at(block.bytes_mut(), 0)
        .map_err(|error| failed(path, error))?;
    let zero = block.bytes()[..got].iter().all(|byte| *byte == 0);
    if zero || uzram_backing::is_backing(&block.bytes()[..got]) {
        return Ok(());
    }
    Err(failed(path, BackingError::Foreign))
}

impl ZramApi<'_> {
    /// Attaches a file or a block device as backing. A regular file is created if missing, and made so long as the options
    /// say (at least 1 MiB; default: its length); of a block device so many bytes are used (default: all). The contents of
    /// a block device are lost; a file is only taken if it is empty or was a backing. The image remembers it.
    ///
    /// [`Error::Backing`] says what is wrong with it; [`Error::HasBacking`] if there is one already.
    pub fn attach_backing(
        self,
        path: &Path,
        options: impl Into<BackingOptions>,
    ) -> Result<(), Error> {
        let options = options.into();
        let _alone = self.0.post_processing();
        self.0.refuse_during_cut()?;
        self.refuse_second()?;
        let new = !path.exists();
        let opened = open(path, Duration::ZERO)?;
        let made = self.make_backing(path, opened, options);
        if made.is_err() && new {
            let _ = std::fs::remove_file(path);
        }
        made
    }

    fn make_backing(
        self,
        path: &Path,
        (disk, file): (FileDisk, FileIdentity),
        options: BackingOptions,
    ) -> Result<(), Error> {
        may_overwrite(path, &disk)?;
        // A server that takes the device over has another working directory.
        let path = path.canonicalize().map_err(|error| failed(path, error))?;
        let has = disk.size_bytes().map_err(|error| failed(&path, error))?;
        if options.size_bytes.is_none() && has == 0 {
            return Err(failed(&path, BackingError::Empty));
        }
        self.take_backing(path, Arc::new(disk), Some(file), options)
    }

    /// As [`ZramApi::attach_backing`], on a [`Disk`] of the caller's own, whatever its contents. A process that takes
    /// the image over later opens `path`, which must be absolute, or known to its [`DiskOpener`]. Sealing is done above the
    /// disk, here and there.
    pub fn attach_disk(
        self,
        path: &Path,
        disk: Arc<dyn Disk>,
        options: impl Into<BackingOptions>,
    ) -> Result<(), Error> {
        let _alone = self.0.post_processing();
        self.0.refuse_during_cut()?;
        self.refuse_second()?;
        self.take_backing(path.into(), disk, None, options.into())
    }

    fn refuse_second(self) -> Result<(), Error> {
        let Some(attached) = self.0.backing.get() else {
            return Ok(());
        };
        Err(Error::HasBacking {
            path: attached.path.clone(),
        })
    }

    fn take_backing(
        self,
        path: PathBuf,
        disk: Arc<dyn Disk>,
        file: Option<FileIdentity>,
        options: BackingOptions,
    ) -> Result<(), Error> {
        let size_bytes = match options.size_bytes {
            Some(bytes) => bytes,
            None => disk.size_bytes().map_err(|error| failed(&path, error))?,
        };
        let random = |bytes: &mut [u8]| {
            let got = rustix::rand::getrandom(bytes, rustix::rand::GetRandomFlags::empty());
            got.map(drop)
                .map_err(|error| failed(&path, BackingError::Io(error)))
        };
        let mut id = [0; 16];
        random(&mut id)?;
        let key = match options.seal {
            true => {
                let mut key = SealKey::new([0; SEAL_KEY_BYTES]);
                random(&mut *key)?;
                Some(key)
            }
            false => None,
        };
        let disk = unsealed(disk, key.as_ref());
        let backing =
            Backing::create(disk, size_bytes, id).map_err(|error| failed(&path, error))?;
        let record = BackingRecord {
            size_bytes,
            id,
            path: path.clone(),
            key,
        };
        let attached =
            Attached::new(backing, path.clone(), file).map_err(|error| failed(&path, error))?;
        record.write(self.0.region())?;
        self.0.backing.set(Some(attached));
        Ok(())
    }

    /// Detaches the backing, after bringing its objects back into memory. Its contents are worthless afterwards. A
    /// file stays where it is.
    ///
    /// [`Error::NoBacking`] if there is none. [`Error::PagesLeft`] or [`Error::BackingHeld`] where a page cannot come
    /// back: every other page does, and the backing stays attached with what is left on it.
    pub fn detach_backing(self) -> Result<PromoteReport, Error> {
        let mut go_on = |_| std::ops::ControlFlow::Continue(());
        let mut report = self.promote(None, &mut go_on)?;
        let _alone = self.0.post_processing();
        self.0.refuse_during_cut()?;
        // Writeback is excluded from here on; pages written back in between come back now. Two kinds of page remain
        // for a moment: one that a partial write holds, and one that was replaced but not yet freed.
        let deadline = Instant::now() + REQUESTS_PATIENCE;
        loop {
            // Those that failed are tried again, and counted once.
            (report.failed, report.failures) = (0, Vec::new());
            report += self.promote_alone(0..u64::MAX)?;
            let left = self.0.counters.backed_pages();
            if left == 0 {
                break;
            }
            let late = Instant::now() >= deadline;
            if report.failed >= left || late && report.failed > 0 {
                let why = report.failures.first().map(|first| first.why.clone());
                return Err(Error::PagesLeft {
                    path: self.0.attached()?.path.clone(),
                    pages: left,
                    promoted: report.pages,
                    first: why.unwrap_or_default(),
                });
            }
            if late {
                let attached = self.0.attached()?;
                return Err(Error::BackingHeld {
                    path: attached.path.clone(),
                    pages: left,
                });
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        BackingRecord::remove(self.0.region());
        let attached = self.0.backing.get();
        self.0.backing.set(None);
        let left = attached.and_then(|attached| attached.backing.retire());
        report.left = left.unwrap_or_default();
        Ok(report)
    }

    /// The backing and its statistics; `None` if there is none. Never waits.
    pub fn backing(self) -> Option<BackingInfo> {
        let attached = self.0.backing.get()?;
        Some(BackingInfo {
            path: attached.path.clone(),
            io: attached.backing.describe(),
            stats: attached.backing.stats(),
            store: attached.backing.store(),
        })
    }

    /// Why nothing can be written to the backing, and most of what is on it cannot be read: its file or block device was gone,
    /// too short or another one when this process attached to the image. `None` where that is not so. Who attaches after it has
    /// come back has all of it again.
    pub fn backing_lost(self) -> Option<Error> {
        self.0.backing.get()?.refuse_lost().err()
    }

    /// Whether another process could open the backing as things are now: by its path, the file or block device that is open
    /// here, of no fewer bytes. Says nothing about a disk of the caller's own ([`ZramApi::attach_disk`]), nor where the
    /// backing is lost already.
    ///
    /// [`Error::Backing`] says what is wrong with it.
    pub fn check_backing(self) -> Result<(), Error> {
        let Some(attached) = self.0.backing.get().filter(|at| at.lost.is_none()) else {
            return Ok(());
        };
        let Some(file) = attached.file else {
            return Ok(());
        };
        let path = &attached.path;
        let found = path.metadata().map_err(|error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => failed(path, BackingError::Gone),
            _ => failed(path, error),
        })?;
        if FileIdentity::of(&found) != file {
            return Err(failed(path, BackingError::Replaced));
        }
        let (has, needs) = (found.len(), attached.backing.stats().size_bytes);
        // That of a block device is 0 here.
        match file {
            FileIdentity::File(..) if has < needs => {
                Err(failed(path, OpenError::Short { has, needs }))
            }
            _ => Ok(()),
        }
    }

    /// Says that the device is about to go, and that nobody will use its backing. Returns what is left of it, in words, where
    /// it is a store. May block for some seconds.
    pub fn retire_backing(self) -> Option<String> {
        self.0.backing.get()?.backing.retire()
    }
}

impl Device {
    pub(crate) fn attached(&self) -> Result<Arc<Attached>, Error> {
        self.backing.get().ok_or(Error::NoBacking)
    }

    /// Reads a page whose object is on the backing. `false`: it has moved, look again.
    pub(crate) fn read_backed(
        &self,
        page: u64,
        backed: Backed,
        out: &mut [u8; PAGE_SIZE],
        contexts: &mut Contexts<'_>,
    ) -> Result<bool, Error> {
        let Some(attached) = self.backing.get() else {
            // It was detached since the slot was read.
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
        if let Some(object) = contexts
            .brought
            .and_then(|brought| brought.find(page, backed))
        {
            return self.finish_backed(page, backed, object, out, contexts, cpu);
        }
        let mut buffer = attached.readers.get(cpu);
        let location = location(backed, page)?;
        // The segment is not reused from here on. So if the slot names the location now, and again after the read, it
        // was for the same bytes and codec.
        let Some(_hold) = attached.backing.hold(location) else {
            return Ok(false);
        };
        if self.table.peek(page) != content {
            return Ok(false);
        }
        let still = || self.table.peek(page) == content;
        let (len, owner) = (usize::from(backed.len), page as u32);
        let object = match attached
            .backing
            .read_while(location, len, owner, &mut buffer, still)
        {
            Ok(object) => object,
            Err(ReadError::Moved) => return Ok(false),
            Err(source) => return Err(attached.read_error(page, source)),
        };
        self.finish_backed(page, backed, object, out, contexts, cpu)
    }

    /// Makes the page of an object that was read from the backing, whose segment is held. `false`: it has moved.
    fn finish_backed(
        &self,
        page: u64,
        backed: Backed,
        object: &[u8],
        out: &mut [u8; PAGE_SIZE],
        contexts: &mut Contexts<'_>,
        cpu: usize,
    ) -> Result<bool, Error> {
        let slot = self.table.lock(page);
        if slot.content() != Content::Backed(backed) {
            return Ok(false);
        }
        self.counters.shard(cpu).backed_reads.fetch_add(1, Relaxed);
        if backed.is_huge() {
            out.copy_from_slice(object);
            return Ok(true);
        }
        let result = contexts.decompress(&slot, object, out);
        self.whole_page(page, result).map(|()| true)
    }

    /// Copies an object from the backing as it is. `false`: it has moved, look again. `still` says whether the location is
    /// still that object's.
    pub(crate) fn copy_backed(
        &self,
        page: u64,
        backed: Backed,
        out: &mut [u8],
        still: impl Fn() -> bool,
    ) -> Result<bool, Error> {
        let attached = self.backing.get().ok_or(Error::Corrupt {
            page,
            source: Corruption::NoBacking,
        })?;
        let location = location(backed, page)?;
        let mut buffer = attached.readers.get(current_cpu());
        // As in `read_backed`.
        let Some(_hold) = attached.backing.hold(location) else {
            return Ok(false);
        };
        if !still() {
            return Ok(false);
        }
        let (len, owner) = (usize::from(backed.len), page as u32);
        match attached
            .backing
            .read_while(location, len, owner, &mut buffer, still)
        {
            Ok(object) => out[..len].copy_from_slice(object),
            Err(ReadError::Moved) => return Ok(false),
            Err(source) => return Err(attached.read_error(page, source)),
        }
        Ok(true)
    }

    /// Frees the backed object of a word that was replaced.
    pub(crate) fn free_backed(&self, backed: Backed) {
        if let Some(attached) = self.backing.get()
            && let Some(location) = Location::from_raw(backed.location)
        {
            attached.backing.free(location, backed.len.into());
        }
    }

    /// Publishes the location of a marked page's object. Frees it if the mark is gone.
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
    Location::from_raw(backed.location).ok_or(Error::Corrupt {
        page,
        source: Corruption::Location,
    })
}

/// The backing of an image that is being attached to.
pub(crate) struct Reopened {
    path: PathBuf,
    found: Result<Found, Error>,
}

/// What was found in its place.
struct Found {
    restore: BackingRestore,
    file: Option<FileIdentity>,
    lost: Option<BackingError>,
}

impl Reopened {
    /// Opens the backing that the image names. A failure matters only if something is on it.
    pub(crate) fn open(record: BackingRecord, opener: Option<&dyn DiskOpener>) -> Reopened {
        let found = open_backing(&record, opener);
        let path = record.path;
        Reopened { path, found }
    }

    /// Records a live object.
    pub(crate) fn add(&self, backed: Backed) -> Result<(), String> {
        // A failure to open is reported once the backing proves needed.
        let Ok(Found { restore, .. }) = &self.found else {
            return Ok(());
        };
        let location = Location::from_raw(backed.location).ok_or("its place is none")?;
        restore
            .add(location, backed.len.into())
            .map_err(|damage| damage.to_string())
    }

    /// Ends restoring. A missing backing that is not needed is forgotten.
    pub(crate) fn finish(self, in_use: bool) -> Result<Option<Attached>, Error> {
        match self.found {
            Ok(found) if found.lost.is_some() && !in_use => Ok(None),
            Ok(found) => {
                let path = self.path;
                let attached = Attached::new(found.restore.finish(), path.clone(), found.file);
                let mut attached = attached.map_err(|error| failed(&path, error))?;
                attached.lost = found.lost;
                Ok(Some(attached))
            }
            Err(error) if in_use => Err(error),
            Err(_) => Ok(None),
        }
    }
}

/// The disk as the backing sees it, where it is sealed.
fn unsealed(disk: Arc<dyn Disk>, key: Option<&SealKey>) -> Arc<dyn Disk> {
    match key {
        Some(key) => Arc::new(SealedDisk::new(disk, key)),
        None => disk,
    }
}

fn open_backing(record: &BackingRecord, opener: Option<&dyn DiskOpener>) -> Result<Found, Error> {
    let path = &record.path;
    if let Some(opened) = opener.and_then(|opener| opener.open(path)) {
        let refused = |error: std::io::Error| BackingError::Opener(error.to_string());
        let disk = opened.map_err(|error| failed(path, refused(error)))?;
        let disk = unsealed(disk, record.key.as_ref());
        let restore = BackingRestore::open(disk, record.id);
        return Ok(Found {
            restore: restore.map_err(|error| failed(path, error))?,
            file: None,
            lost: None,
        });
    }
    let (rest, why) = match open_file(record) {
        Ok(found) => return Ok(found),
        Err(lost) => lost,
    };
    // All else is in memory, and is not to be lost with it.
    let disk = Arc::new(LostDisk::new(rest, why.clone()));
    let disk = unsealed(disk, record.key.as_ref());
    let restore = BackingRestore::without_header(disk, record.size_bytes, record.id);
    Ok(Found {
        restore: restore.map_err(|error| failed(path, error))?,
        file: None,
        lost: Some(why),
    })
}

/// Opens a file or block device; else says why not, and what of it can be read.
fn open_file(record: &BackingRecord) -> Result<Found, (Option<Arc<dyn Disk>>, BackingError)> {
    let path = &record.path;
    if !path.exists() {
        return Err((None, BackingError::Gone));
    }
    let (disk, file) = open(path, DEAD_WRITES).map_err(|error| match error {
        Error::Backing { source, .. } => (None, source),
        _ => (None, BackingError::Gone),
    })?;
    let disk: Arc<dyn Disk> = Arc::new(disk);
    match BackingRestore::open(unsealed(disk.clone(), record.key.as_ref()), record.id) {
        Ok(restore) => Ok(Found {
            restore,
            file: Some(file),
            lost: None,
        }),
        // Its header is this device's.
        Err(short @ OpenError::Short { .. }) => Err((Some(disk), short.into())),
        Err(error) => Err((None, error.into())),
    }
}
