//! Compressed objects, packed and checksummed, on a file or a block device.
//!
//! A *backing* is a disk (a file or a block device: [`Disk`]) that is cut into *segments* of 256 KiB. A [`Writer`]
//! packs objects of 1 to 4096 bytes back to back into buffers, each behind 12 bytes of header (owner, length,
//! checksum). It writes a buffer with one request, several in flight. Objects begin at multiples of 8 bytes; they
//! cross blocks of 4 KiB but never segments. A [`Location`] is the offset of an object's header in units of 8 bytes.
//! It has 39 bits, as the pool's handles have. The caller remembers the length.
//!
//! **What is truth and what is derived.** The disk is scratch space: its header block says which backing it is, the
//! objects are on it, and nothing on it tells which of them live. The caller's table names each live object once and
//! is the truth. Counters and lists are derived: [`BackingRestore`] rebuilds them from the names.
//!
//! **Space.** A segment counts its live bytes. [`Backing::free`] is one atomic subtraction. The free that empties a
//! segment pushes it onto the free stack, and it may be reused at once. Sparse segments are emptied by moving their
//! objects: [`Backing::victims`].
//!
//! **Reads against reuse.** [`Backing::read`] takes no lock, so the space of an object that is freed during the read
//! may be overwritten. Then the bytes either fail their checksum (over owner, location and bytes), or are an object
//! that was this owner's at this place at some time during the read. So after the read the caller checks that its
//! table still names the location, and retries if not: [`Backing::read_while`] does that in the right order. That
//! suffices for a reply to a reader, for whom any state during the request will do. To *decide* by what was read
//! (move it, promote it) it does not: the table can come to name the same place for other bytes. Then either nobody
//! else may change the table's entry, or a [`Hold`] must keep the segment from reuse.
//!
//! **Errors** never lose an object that the caller still has: a location is valid only once its [`Written`] says so.
//! The segment of a failed write is *suspect*: once empty it waits in quarantine, and is reused when nothing else is
//! free. A write that does not complete keeps its segment and its buffer until it does ([`Writer::abandon`]).
//!
//! A read waits for the disk without limit; a writer does not, see [`Writer::wait`].
//!
//! **Lock order**: one mutex, around popping a free segment, which only writers take. No code of the caller runs
//! under it.
//!
//! **Memory bound**: 16 bytes a segment (64 MiB a TiB); depth x 256 KiB and 12 bytes for each object in flight a
//! writer; nothing an object. Reads and frees allocate nothing.
//!
//! This crate knows nothing about pages, slots, compressors or devices.
//!
//! ```
//! # use std::{sync::Arc, time::Duration};
//! # use uzram_backing::{FileOptions, FileDisk, Purpose, ReadBuffer, Backing};
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("backing");
//! let disk = Arc::new(FileDisk::open(&path, FileOptions::default())?);
//! let backing = Backing::create(disk, 16 << 20, *b"16 random bytes.")?;
//! let mut writer = backing.writer(4, Purpose::Objects)?;
//! let location = writer.push(7, b"an object of owner 7")?;
//! writer.submit();
//! let left = writer.wait(Duration::from_secs(10), |written| {
//!     // Now the table may name the location.
//!     assert_eq!((written.owner, written.location), (7, location));
//!     assert_eq!(written.result, Ok(()));
//! });
//! assert_eq!(left, 0, "or give up: writer.abandon");
//! let mut buffer = ReadBuffer::new();
//! assert_eq!(backing.read(location, 20, 7, &mut buffer)?, b"an object of owner 7");
//! backing.free(location, 20);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![deny(unsafe_code)]

mod backing;
mod buffer;
mod compact;
mod counters;
mod disk;
mod dumps;
mod error;
mod file;
mod format;
mod many;
mod page_cache;
mod restore;
mod ring;
mod sealed;
mod segment;
mod shared;
mod store;
mod store_map;
mod threads;
mod writer;

pub use backing::Backing;
pub use buffer::{Buffer, ReadBuffer, SegmentBuffer};
pub use compact::{Hold, Objects, StoredObject, Victim};
pub use counters::BackingStats;
pub use disk::{Disk, DiskDone, DiskLayout, DiskWrite, WriteQueue};
pub use error::{BackingDamage, OpenError, PushError, ReadError, WriteError};
pub use file::{FileDisk, FileOptions};
pub use format::{Location, MAX_OBJECT, MIN_BACKING_BYTES, SEGMENT_BYTES, entry_bytes, is_backing};
pub use many::WantedObject;
pub use restore::BackingRestore;
pub use sealed::{SEAL_KEY_BYTES, SealedDisk};
pub use store::{STORE_SEGMENT_BYTES, SegmentStore, StoreDisk, StoreStats};
pub use writer::{Purpose, Writer, Written};

/// Bytes in a block: every request begins and ends at a multiple of it.
pub const BLOCK: usize = 4096;

/// The README's snippet is tested with the documentation.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
