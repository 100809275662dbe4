//! What can go wrong, in a sentence each. Nothing that a file holds leads to a panic.

use std::io;

use crate::format::{Digest, Kind, MAX_CODECS, MAX_DICTIONARY_BYTES, MAX_NOTES_BYTES, MAX_PAGES};

/// Why a snapshot was not written, read or restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file, the pipe or the sink refused an operation.
    #[error("cannot {what} the snapshot: {source}")]
    Io {
        /// The operation: read, write, fetch or sync.
        what: &'static str,
        /// Its error.
        source: io::Error,
    },
    /// What takes the pages of a snapshot refused one.
    #[error("page {page} could not be restored: {source}")]
    Target {
        /// Number of the page.
        page: u64,
        /// Its error.
        source: io::Error,
    },
    /// It does not begin as a snapshot does.
    #[error("it holds no uzram snapshot")]
    Foreign,
    /// Made by a newer program.
    #[error("the {kind} has version {found}, this program reads up to {known}: use a newer uzram")]
    Newer {
        /// What has the version.
        kind: Kind,
        /// The version.
        found: u32,
        /// The newest that this program reads.
        known: u32,
    },
    /// It is sealed: whoever has its key unseals it first.
    #[error("the snapshot is sealed, and no key was given for it")]
    Sealed,
    /// It ends before its end mark: the copy or the snapshot was interrupted.
    #[error("the snapshot is cut off at byte {at}: it was not written or copied to its end")]
    Cut {
        /// Where more was expected.
        at: u64,
    },
    /// Bytes are not what was written.
    #[error("the snapshot is damaged at byte {at}, in a {kind}: {why}")]
    Damaged {
        /// What is damaged.
        kind: Kind,
        /// Offset in the file of its first byte.
        at: u64,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Part of what is asked for is in the snapshot that this one was made since.
    #[error("the snapshot is incremental: it needs its parent {parent}")]
    MissingParent {
        /// Name of the parent.
        parent: Digest,
    },
    /// Another snapshot was offered as the parent.
    #[error("the snapshot's parent is {expected}, not {found}")]
    OtherParent {
        /// Name of the parent.
        expected: Digest,
        /// Name of what was offered.
        found: Digest,
    },
    /// A snapshot that is not incremental was given a parent.
    #[error("the snapshot is complete in itself: it has no parent")]
    NoParent,
    /// Neither the file nor its parents have it.
    #[error("a {kind} is missing: {name}")]
    Missing {
        /// What is missing.
        kind: Kind,
        /// Its name.
        name: Digest,
    },
    /// The program lacks an algorithm that pages are compressed with.
    #[cfg(feature = "device")]
    #[error("pages of it are compressed with {algorithm}, which cannot be read here: {source}")]
    Algorithm {
        /// Its name.
        algorithm: String,
        /// Number of the codec.
        number: u8,
        /// What is in the way.
        source: Box<uzram::Error>,
    },
    /// The disk has no such page count.
    #[error("a disk of {pages} pages: a snapshot takes 1 to {MAX_PAGES}")]
    Size {
        /// Pages asked for.
        pages: u64,
    },
    /// The description of a codec cannot be written.
    #[error("codec {number}: {why}")]
    Codec {
        /// Number of the codec.
        number: u8,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The snapshot and its parents would use too many codecs.
    #[error("the snapshot and its parents use more than {MAX_CODECS} codecs: make a complete one")]
    TooManyCodecs,
    /// The caller's notes are too long.
    #[error("notes of {bytes} bytes: a snapshot takes {MAX_NOTES_BYTES}")]
    Notes {
        /// Bytes of the notes.
        bytes: usize,
    },
    /// A dictionary is too long.
    #[error("a dictionary of {bytes} bytes: a snapshot takes {MAX_DICTIONARY_BYTES}")]
    Dictionary {
        /// Bytes of the dictionary.
        bytes: usize,
    },
    /// A frame came out of order, or lies outside the disk.
    #[error("frame {frame}: the disk has {frames}, which are written in ascending order")]
    Order {
        /// Number of the frame.
        frame: u32,
        /// Frames of the disk.
        frames: u32,
    },
    /// A page of a frame cannot be written.
    #[error("page {page}: {why}")]
    Page {
        /// Number of the page.
        page: u64,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The snapshot grew past what its format can say.
    #[error(
        "the snapshot has more than {max} segments: make a complete one, or use larger segments"
    )]
    TooManySegments {
        /// Most that there may be.
        max: usize,
    },
}

impl Error {
    /// Whether the snapshot is to blame: it is foreign, newer, cut or damaged.
    pub fn is_refusal(&self) -> bool {
        use Error::{Cut, Damaged, Foreign, Newer};
        matches!(self, Foreign | Newer { .. } | Cut { .. } | Damaged { .. })
    }

    pub(crate) fn write(source: io::Error) -> Error {
        Error::Io {
            what: "write",
            source,
        }
    }

    /// For `map_err`: what the bytes at `at` were to be.
    pub(crate) fn damaged(kind: Kind, at: u64) -> impl Fn(&'static str) -> Error {
        move |why| Error::Damaged { kind, at, why }
    }
}
