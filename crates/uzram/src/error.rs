//! What can go wrong in the device, with the data that a caller needs to say so.
//!
//! Every variant maps to one errno ([`Error::errno`]), so that each frontend reports the same failure the
//! same way without knowing the variants.

use std::path::PathBuf;

use rustix::io::Errno;
use thiserror::Error;
use uzram_backing::{OpenError, ReadError};

/// Why a device could not be made or a request could not be carried out.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The request reaches past the end of the device (EINVAL; a frontend may choose ENOSPC for writes).
    #[error("bytes {offset}..{end} are outside the device of {size_bytes} bytes",
            end = .offset.saturating_add(*.len))]
    OutOfRange {
        /// First byte asked for.
        offset: u64,
        /// Number of bytes asked for.
        len: u64,
        /// The device's size.
        size_bytes: u64,
    },
    /// `mem_limit` would be exceeded, or the system has no more memory to give (ENOSPC). The page keeps its
    /// old contents.
    #[error("no memory left for page {page}: {used_bytes} bytes in use, mem_limit {limit_bytes}")]
    NoSpace {
        /// The page (slot index) that could not be stored.
        page: u64,
        /// Bytes of pool memory in use.
        used_bytes: u64,
        /// The limit in bytes, 0 for none.
        limit_bytes: u64,
    },
    /// The arena's address space is used up by sparsely used spans (ENOSPC). The page keeps its old contents.
    #[error("no room left in the arena for page {page}")]
    ArenaFull {
        /// The page (slot index) that could not be stored.
        page: u64,
    },
    /// A stored object does not decompress to a page (EIO).
    #[error("page {page} is damaged: {source}")]
    Corrupt {
        /// The page (slot index).
        page: u64,
        /// What is wrong with it.
        source: Corruption,
    },
    /// The algorithm is unknown, or does not take these parameters (EINVAL).
    #[error(transparent)]
    Compress(#[from] uzram_compress::Error),
    /// A value that is not possible (EINVAL).
    #[error("{what} {given} is not possible: {accepted}")]
    Invalid {
        /// The setting's name.
        what: &'static str,
        /// The value given.
        given: String,
        /// What would be accepted.
        accepted: String,
    },
    /// A file holds no image that this version can use (EINVAL).
    #[error(transparent)]
    Image(#[from] crate::HeaderError),
    /// The file for a new image is not empty, so it may be somebody's (EEXIST).
    #[error("the file for the image is not empty: it has {len} bytes")]
    NotEmpty {
        /// Its length.
        len: u64,
    },
    /// Another process has the image (EBUSY).
    #[error("the image is in use by another process")]
    InUse,
    /// The image's table contradicts its arena (EIO).
    #[error("the image is damaged: page {page}: {reason}")]
    Damaged {
        /// The page (slot index).
        page: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// The operating system refuses access to the image (EIO).
    #[error("cannot {what} the image: {source}")]
    Access {
        /// The operation.
        what: &'static str,
        /// Its error.
        source: Errno,
    },
    /// A file or block device cannot be the backing (EIO).
    #[error("backing {}: {source}", path.display())]
    Backing {
        /// The file or block device.
        path: PathBuf,
        /// What is wrong.
        source: BackingError,
    },
    /// The file or block device of the backing is not there, and nothing can be written to it (EIO).
    #[error(
        "backing {}: {source}; nothing is written to it and what was on it cannot be read, until it is there again and another \
         process attaches to the image (uzram upgrade)",
        path.display()
    )]
    BackingLost {
        /// The file or block device.
        path: PathBuf,
        /// What is wrong.
        source: BackingError,
    },
    /// A page's object on the backing cannot be read (EIO).
    #[error("backing {}: page {page}: {source}", path.display())]
    BackingRead {
        /// The file or block device.
        path: PathBuf,
        /// The page (slot index).
        page: u64,
        /// What is wrong.
        source: ReadError,
    },
    /// A page is remote and does not come (EIO).
    #[error("page {page} is still where the device was cloned from, and does not come: {why}")]
    Remote {
        /// The page (slot index), or one of its frame.
        page: u64,
        /// What is in the way.
        why: String,
    },
    /// What is asked for needs all pages, and some are remote (EBUSY).
    #[error("{pages} pages are still remote; bring them first (`uzram hydrate`)")]
    RemotePages {
        /// How many.
        pages: u64,
    },
    /// Swap cannot wait for a source of remote pages (EINVAL).
    #[error(
        "a device with a reserve (swap) cannot have remote pages: requests on it may wait for nothing"
    )]
    RemoteWithReserve,
    /// The image has no room for the word that says so (EINVAL).
    #[error("the device was not made for remote pages")]
    NotLazy,
    /// Pages on the backing cannot come back into memory (EIO). All others did; the backing stays attached.
    #[error(
        "{promoted} pages are back in memory, {pages} cannot come back from backing {}: {first}; it stays attached with \
         them",
        path.display()
    )]
    PagesLeft {
        /// The file or block device.
        path: PathBuf,
        /// Pages that are left on it.
        pages: u64,
        /// Pages that came back.
        promoted: u64,
        /// Why the first of them cannot.
        first: String,
    },
    /// Requests kept pages on the backing for too long while it was to be given up (EIO).
    #[error("backing {}: {pages} pages cannot be brought back: requests hold them", path.display())]
    BackingHeld {
        /// The file or block device.
        path: PathBuf,
        /// How many pages.
        pages: u64,
    },
    /// The device has no backing (EINVAL).
    #[error("the device has no backing; attach one first")]
    NoBacking,
    /// The device has a backing already (EINVAL).
    #[error("the device has a backing, {}; detach it first", path.display())]
    HasBacking {
        /// The file or block device.
        path: PathBuf,
    },
    /// An agent runs on the device already (EINVAL).
    #[error("an agent runs on this device; stop it first")]
    HasAgent,
    /// Pages cannot be chosen by age (EINVAL).
    #[error("pages cannot be chosen by age: access ages are not kept (track_ages)")]
    NoAges,
    /// A device with a reserve takes no dedup, whose index grows (EINVAL).
    #[error(
        "dedup is not possible on a device with a reserve (swap): its index takes memory as it grows"
    )]
    DedupWithReserve,
    /// The algorithm takes no dictionary (EINVAL).
    #[error("{driver} takes no dictionary; these take one: {takers}")]
    NoDictionary {
        /// The algorithm's driver.
        driver: &'static str,
        /// Drivers that take one, separated by commas.
        takers: String,
    },
    /// The device has no algorithm for recompression, or none of that priority (EINVAL).
    #[error("the device has no algorithm for recompression{}; set one first",
            .priority.map_or(String::new(), |priority| format!(" of priority {priority}")))]
    NoSecondary {
        /// The priority that was asked for.
        priority: Option<usize>,
    },
    /// The device cannot be made that small: something is stored beyond (EBUSY).
    #[error(
        "something is stored up to byte {size_bytes}; discard it, or choose a size of at least that"
    )]
    TailInUse {
        /// The smallest size that is possible now.
        size_bytes: u64,
    },
    /// Every codec that words can name is in use by objects or has a priority (EBUSY).
    #[error(
        "all 16 codecs are in use: objects of each are left, or it has a priority; rewrite or discard what was \
         written with the oldest"
    )]
    CodecsFull,
    /// The operating system refused memory for a part of the device (ENOMEM).
    #[error("cannot reserve {bytes} bytes for {what}: {source}")]
    Reserve {
        /// Which part.
        what: &'static str,
        /// How much was asked for.
        bytes: u64,
        /// The system's error.
        source: Errno,
    },
    /// The reserve of a swap device could not be brought into memory (ENOMEM).
    #[error(
        "cannot bring the reserve of {bytes} bytes into memory: the system or mem_limit has no room for it"
    )]
    StockShort {
        /// The reserve.
        bytes: u64,
    },
    /// A snapshot is being taken (EBUSY).
    #[error("a snapshot of the device is being taken: wait for its end, or cancel it")]
    Snapshot,
    /// A device with a reserve takes no snapshots (EINVAL).
    #[error(
        "no snapshot can be taken of a device with a reserve (swap): its requests may not wait for one"
    )]
    SnapshotWithReserve,
    /// Changes are not tracked (EINVAL).
    #[error(
        "what changed since that snapshot is not known: the device does not track changes, or a program that does not has \
         served it meanwhile. Take a complete one that tracks them from then on"
    )]
    SnapshotUntracked,
    /// The image has no room to track changes (EINVAL).
    #[error(
        "changes cannot be tracked: an older program made the device, and its image has no room for that. A device that is \
         restored from a complete snapshot has"
    )]
    SnapshotUntrackable,
    /// Changes are tracked since another snapshot (EINVAL).
    #[error(
        "the device knows what changed since another snapshot, whose name begins with {}: name that one, or take a \
         complete one",
        hex(.tracked)
    )]
    SnapshotSince {
        /// What changes are tracked since.
        tracked: crate::SnapshotId,
    },
    /// More was overwritten while a snapshot was taken than may be kept for it (ENOMEM).
    #[error(
        "the snapshot was given up: what was overwritten while it was taken takes more than the {limit_bytes} bytes that \
         may be kept for it; allow more (--memory of uzram snapshot), or take it while less is written"
    )]
    SnapshotMemory {
        /// Most that may be kept.
        limit_bytes: u64,
    },
    /// A snapshot was in the way of requests (ENOMEM).
    #[error("the snapshot was given up: {why}")]
    SnapshotGivenUp {
        /// Why, in words.
        why: &'static str,
    },
    /// The contents are another host's (EIO).
    #[error("the device was handed over to another host")]
    HandedOver,
    /// Contents may change (EINVAL).
    #[error("nothing was frozen or handed over: contents may change")]
    NotFrozen,
    /// The operating system started no thread for the agent (ENOMEM).
    #[error("cannot start the agent's thread: {source}")]
    Thread {
        /// The system's error.
        source: Errno,
    },
}

fn hex(id: &crate::SnapshotId) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What is wrong with a stored page.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Corruption {
    /// Its algorithm refuses the object.
    #[error(transparent)]
    Algorithm(uzram_compress::Error),
    /// Its object is not of a whole page.
    #[error("it decompresses to {0} bytes")]
    Length(usize),
    /// Its word names a backing that there is not.
    #[error("it is on a backing that the device does not have")]
    NoBacking,
    /// It is remote, and was not brought before it was read.
    #[error("it is remote, and nobody had it brought")]
    Remote,
    /// Its word names no place on the backing.
    #[error("its location on the backing is none")]
    Location,
}

/// Why a file or block device cannot be the backing.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum BackingError {
    /// The operating system refuses an operation.
    #[error(transparent)]
    Io(Errno),
    /// It is mounted, or another's backing.
    #[error("it is in use (mounted, or another's backing)")]
    InUse,
    /// A process has locked it.
    #[error("another process has it as its backing")]
    Locked,
    /// It is a directory, a character device or the like.
    #[error("it is neither a regular file nor a block device")]
    FileType,
    /// It holds something that may be somebody's.
    #[error("the file holds something that is no uzram backing: give an empty file, or a new name")]
    Foreign,
    /// It is an empty file, and no size was given.
    #[error("the file is empty: say how large it is to be")]
    Empty,
    /// It is not there any more.
    #[error("it is gone")]
    Gone,
    /// Its path names another file or block device than the one that is in use.
    #[error("another file is in its place")]
    Replaced,
    /// It holds no backing, or not this device's.
    #[error(transparent)]
    Open(OpenError),
    /// What opens it says why it cannot.
    #[error("{0}")]
    Opener(String),
}

impl From<std::io::Error> for BackingError {
    fn from(error: std::io::Error) -> BackingError {
        BackingError::Io(errno(&error))
    }
}

impl From<OpenError> for BackingError {
    fn from(error: OpenError) -> BackingError {
        BackingError::Open(error)
    }
}

/// An error's number; EIO for those that have none.
pub(crate) fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

impl Error {
    /// The errno that a kernel driver would return: EINVAL 22, ENOSPC 28, EIO 5, ENOMEM 12, EBUSY 16, EEXIST 17.
    pub fn errno(&self) -> i32 {
        match self {
            Error::OutOfRange { .. }
            | Error::Invalid { .. }
            | Error::Compress(_)
            | Error::NoBacking
            | Error::HasBacking { .. }
            | Error::HasAgent
            | Error::NoAges
            | Error::DedupWithReserve
            | Error::SnapshotWithReserve
            | Error::RemoteWithReserve
            | Error::NotLazy
            | Error::NotFrozen
            | Error::SnapshotUntracked
            | Error::SnapshotUntrackable
            | Error::SnapshotSince { .. }
            | Error::NoDictionary { .. }
            | Error::NoSecondary { .. }
            | Error::Image(_) => 22,
            Error::NoSpace { .. } | Error::ArenaFull { .. } => 28,
            Error::Corrupt { .. }
            | Error::Damaged { .. }
            | Error::Access { .. }
            | Error::Backing { .. }
            | Error::BackingLost { .. }
            | Error::BackingRead { .. }
            | Error::Remote { .. }
            | Error::HandedOver
            | Error::PagesLeft { .. }
            | Error::BackingHeld { .. } => 5,
            Error::NotEmpty { .. } => 17,
            Error::InUse
            | Error::CodecsFull
            | Error::TailInUse { .. }
            | Error::Snapshot
            | Error::RemotePages { .. } => 16,
            Error::Reserve { .. }
            | Error::StockShort { .. }
            | Error::SnapshotMemory { .. }
            | Error::SnapshotGivenUp { .. }
            | Error::Thread { .. } => 12,
        }
    }
}
