//! Snapshots of a compressed disk: a format, its writer and its readers. The objects are those that the disk holds; nothing
//! is compressed anew.
//!
//! **Shape.** A disk is pages of 4096 bytes, 64 of which are a *frame*: the unit of writing, fetching and checking. Frames
//! with objects stand in *segments*. An *index block* says for 1024 frames which pages are zeros, which repeat a word, and
//! where the others' objects are. The *manifest* lists segments and index blocks by their names, which are BLAKE3 hashes; its
//! own is the snapshot's. None of these says where anything is, so that a file and an object store can hold the same. A file
//! has a table of contents for that, at its end.
//!
//! **Writing** is strictly forward: [`SnapshotWriter`] never seeks. It can write what changed [since](SnapshotWriter::since) a
//! parent: index blocks and frames that did not change are named, not copied. A frame of which at most 16 pages changed is
//! written as those alone, while it stays in at most three places.
//!
//! Snapshots may follow one another in a file or a pipe, each the parent of the next. So a disk that is written meanwhile can
//! be saved as a *basis*, which is of no one moment, and then what changed since.
//!
//! **Reading** is forward by [`SnapshotReader`], as a pipe needs, or at any place by [`Snapshot`]. [`RemoteSnapshot`] fetches
//! what is read from a [`Source`], which files are, or a store.
//!
//! **What is believed.** Nothing: a file may come from anybody. Each length is compared with the bound of its kind before it
//! is used, memory is taken as bytes arrive, every part has a hash, and what belongs together is named by hashes. Every error
//! is a value of [`Error`]. The hashes tell whether a snapshot is what was written, not who wrote it.
//!
//! **Memory bounds** are in the docs of each type. None of them grows with the objects.
//!
//! This crate knows nothing about devices, codecs, frontends or stores: a codec is a number with a description. Only the
//! module `device`, behind the feature of that name, fills a device of the `uzram` library and writes what one holds.
//!
//! ```
//! # use uzram_snapshot::{DiskSource, Page, SnapshotReader, SnapshotWriter};
//! let disk = DiskSource { pages: 64, taken_at_seconds: 0, is_basis: false, codecs: &[], notes: b"" };
//! let mut writer = SnapshotWriter::new(Vec::new(), &disk)?;
//! writer.frame(0, &[Page::Same(7); 64])?;
//! let (bytes, written) = writer.finish()?;
//! let restored = SnapshotReader::new(&bytes[..])?.restore(|_, page| {
//!     assert_eq!(page, Page::Same(7));
//!     Ok(())
//! })?;
//! assert_eq!(restored.totals, written.totals);
//! # Ok::<(), uzram_snapshot::Error>(())
//! ```
#![forbid(unsafe_code)]

mod contents;
#[cfg(feature = "device")]
pub mod device;
mod disk;
mod error;
mod format;
mod head;
mod index;
mod manifest;
mod page;
mod parts;
mod plan;
mod reader;
mod remote;
mod snapshot;
mod source;
mod stored;
mod writer;

pub use contents::{END_MARK_BYTES, Item, is_end};
pub use disk::{CodecSource, DictionarySource, DiskSource};
pub use error::Error;
pub use format::{
    BLOCK_FRAMES, Digest, FRAME_PAGES, Kind, MAX_CHAIN, MAX_CODECS, MAX_DELTA_PAGES,
    MAX_DICTIONARY_BYTES, MAX_NOTES_BYTES, MAX_PAGES, MAX_PLACES, MAX_SEGMENT_BYTES, PAGE_BYTES,
    ParseDigestError, SEALED_VERSION, SEGMENT_BYTES, VERSION,
};
pub use head::{DictionaryName, Head, SnapshotCodec};
pub use manifest::{SegmentSummary, Totals};
pub use page::Page;
pub use parts::{Part, PartsReader, check_segment};
pub use reader::{Restored, SnapshotReader};
pub use remote::{PIECE_BYTES, RemoteSnapshot};
pub use snapshot::{FrameContents, ReadAt, Snapshot, Verified};
pub use source::Source;
pub use stored::{
    NamedPart, SEGMENT_FOOTER_BYTES, StoredManifest, check_dictionary, check_directory,
    segment_directory,
};
pub use writer::{SnapshotSummary, SnapshotWriter};

/// The README's snippet is tested with the documentation.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
