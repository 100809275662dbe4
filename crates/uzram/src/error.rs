//! What can go wrong in the device, with the data that a caller needs to say so.
//!
//! Every variant maps to one errno ([`Error::errno`]), so that each frontend reports the same failure the
//! same way without knowing the variants.

use thiserror::Error;

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
    #[error("page {page} is damaged: {reason}")]
    Corrupt {
        /// The page (slot index).
        page: u64,
        /// What the algorithm said.
        reason: String,
    },
    /// The algorithm is unknown, or does not take these parameters (EINVAL).
    #[error(transparent)]
    Compress(#[from] uzram_compress::Error),
    /// The builder was given something that no device can have (EINVAL).
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
    /// The backing cannot be used, or cannot be read (EIO).
    #[error("backing {path}: {reason}")]
    Backing {
        /// The file or block device.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// The device has no backing (EINVAL).
    #[error("the device has no backing; attach one first")]
    NoBacking,
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
    /// The operating system refused memory for the table or the arena (ENOMEM).
    #[error("cannot reserve {bytes} bytes for {what}: {reason}")]
    Reserve {
        /// Which part.
        what: &'static str,
        /// How much was asked for.
        bytes: u64,
        /// The system's own words.
        reason: String,
    },
}

impl Error {
    /// The errno that a kernel driver would return: EINVAL 22, ENOSPC 28, EIO 5, ENOMEM 12, EBUSY 16, EEXIST 17.
    pub fn errno(&self) -> i32 {
        match self {
            Error::OutOfRange { .. }
            | Error::Invalid { .. }
            | Error::Compress(_)
            | Error::NoBacking
            | Error::NoSecondary { .. }
            | Error::Image(_) => 22,
            Error::NoSpace { .. } | Error::ArenaFull { .. } => 28,
            Error::Corrupt { .. } | Error::Damaged { .. } | Error::Backing { .. } => 5,
            Error::NotEmpty { .. } => 17,
            Error::InUse | Error::CodecsFull | Error::TailInUse { .. } => 16,
            Error::Reserve { .. } => 12,
        }
    }
}
