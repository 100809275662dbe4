//! Compressed objects, packed and checksummed, on a file or a block device.
//!
//! The backing is cut into *segments* of 256 KiB. A [`Writer`] packs objects of 1 to 4096 bytes back to back into
//! buffers, each behind 12 bytes of header (owner, length, checksum), and writes a buffer with one request, several in
//! flight. Objects begin at multiples of 8 bytes; they cross blocks of 4 KiB but never segments. A [`Location`] is where
//! an object's header begins, in units of 8 bytes, and has 39 bits, as the pool's handles have. Its length is the
//! caller's to remember.
//!
//! **What is truth and what is derived.** The backing is scratch space: its header block says which store it is, the
//! objects are in it, and nothing on it says which of them live. The caller's table, which names each live object once,
//! is the truth; counters and lists are derived, and [`Restore`] makes them anew from the names.
//!
//! **Space.** A segment counts its live bytes. [`Store::free`] is one atomic subtraction; whoever empties a segment puts
//! it on the free stack, and it may be overwritten at once. Segments that are sparsely used are emptied by moving what
//! lives in them: [`Store::victims`].
//!
//! **Reads against reuse.** [`Store::read`] takes no lock, so the space of an object that is freed during the read may
//! be overwritten. What is read then either fails its checksum (which covers the owner, the location and the bytes) or
//! is an object that was this owner's at this place at some time during the read. So the caller, after the read, looks
//! whether its table still names the location, and starts anew if not: [`Store::read_while`] does that in the right
//! order. That is enough for a reply to a reader, for whom any state during the request will do. To *decide* something by
//! what was read (move it, bring it back to memory) that is not enough, since the table can come to name the same place
//! for other bytes: then either nobody else can change the table's entry, or a [`Hold`] keeps the segment from reuse.
//!
//! **Errors** never lose an object that the caller still has: a location is valid only once its [`Written`] says so. The
//! segment of a failed write is *suspect*: once empty it waits in quarantine, and is used again when nothing else is free. A
//! write that does not come back keeps its segment and its buffer until it does ([`Writer::abandon`]).
//!
//! A read waits for the disk as long as the disk likes; a writer does not, see [`Writer::wait`].
//!
//! **Lock order**: one mutex, around taking a free segment, which only writers touch. Nothing of the caller's is called
//! under it.
//!
//! **Memory bound**: 16 bytes a segment (64 MiB a TiB); depth x 256 KiB and 12 bytes for each object in flight a
//! writer; nothing an object. Reads and frees allocate nothing.
//!
//! This crate knows nothing about pages, slots, compressors or devices.
//!
//! ```
//! # use std::{sync::Arc, time::Duration};
//! # use uzram_backing::{FileOptions, FileStorage, Purpose, ReadBuffer, Store};
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("backing");
//! let storage = Arc::new(FileStorage::open(&path, FileOptions::default())?);
//! let store = Store::create(storage, 16 << 20, *b"16 random bytes.")?;
//! let mut writer = store.writer(4, Purpose::Objects)?;
//! let location = writer.push(7, b"an object of owner 7")?;
//! writer.submit();
//! let left = writer.wait(Duration::from_secs(10), |written| {
//!     // Now the table may name the location.
//!     assert_eq!((written.owner, written.location), (7, location));
//!     assert_eq!(written.result, Ok(()));
//! });
//! assert_eq!(left, 0, "or give up: writer.abandon");
//! let mut buffer = ReadBuffer::new();
//! assert_eq!(store.read(location, 20, 7, &mut buffer)?, b"an object of owner 7");
//! store.free(location, 20);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![deny(unsafe_code)]

mod buffer;
mod compact;
mod counters;
mod error;
mod file;
mod format;
#[cfg(feature = "inject")]
pub mod inject;
mod page_cache;
mod restore;
mod ring;
mod segment;
mod shared;
mod storage;
mod store;
mod threads;
mod writer;

pub use buffer::{Buffer, ReadBuffer, SegmentBuffer};
pub use compact::{Hold, Objects, StoredObject, Victim};
pub use counters::StoreStats;
pub use error::{Damage, OpenError, ReadError, StoreError, WriteError};
pub use file::{FileOptions, FileStorage};
pub use format::{Location, MAX_OBJECT, MIN_STORE_BYTES, SEGMENT_BYTES, entry_bytes, is_store};
pub use restore::Restore;
pub use storage::{Done, Storage, Write, WriteQueue};
pub use store::Store;
pub use writer::{Purpose, Writer, Written};

/// Bytes in a block of the backing: every request begins and ends at a multiple of it.
pub const BLOCK: usize = 4096;
