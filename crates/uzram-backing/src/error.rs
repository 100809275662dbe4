//! What can go wrong, and what was wrong about it.

use std::io;

use rustix::io::Errno;

/// Why a backing cannot be made or opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The disk refused an operation.
    #[error("cannot {what} the backing: {source}")]
    Io {
        /// The operation.
        what: &'static str,
        /// Its error.
        source: Errno,
    },
    /// The size asked for is outside of what a backing can have.
    #[error("a backing of {size_bytes} bytes: it takes {} MiB to {} TiB", .min >> 20, .max >> 40)]
    Size {
        /// Bytes asked for.
        size_bytes: u64,
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
    /// The file or device has fewer bytes than the backing.
    #[error("the disk has {has} bytes, the backing needs {needs}")]
    Short {
        /// Bytes of the disk.
        has: u64,
        /// Bytes of the backing.
        needs: u64,
    },
    /// The first block does not begin as a backing does.
    #[error("it holds no uzram backing")]
    Foreign,
    /// A backing of a version that this program does not read.
    #[error("the backing has version {found}, this program reads {known}")]
    Version {
        /// In the header.
        found: u32,
        /// Of this program.
        known: u32,
    },
    /// The header contradicts its checksum, or itself.
    #[error("the backing's header is damaged")]
    Damaged,
    /// Another backing.
    #[error("it is the backing of another device")]
    OtherDevice,
}

/// Why an object could not be taken. The caller still has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PushError {
    /// No segment is free (for this purpose): free objects, or compact.
    #[error("the backing is full")]
    Full,
    /// Every buffer is with the disk: call [`Writer::wait`](crate::Writer::wait), then again.
    #[error("{in_flight} writes are in flight, and no more may be")]
    Busy {
        /// Writes in flight, the abandoned among them.
        in_flight: usize,
    },
    /// No object of this length can be stored.
    #[error("an object of {len} bytes: it takes 1 to 4096")]
    Length {
        /// Bytes.
        len: usize,
    },
}

/// Why an object did not get to the backing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The write failed.
    #[error(transparent)]
    Io(Errno),
    /// The write stopped short and did not go on.
    #[error("the backing took no more bytes")]
    Short,
    /// The write had not come back when the writer was told to give up.
    #[error("the disk does not answer")]
    Hung,
}

/// An error's number; the nearest one for those that only this program makes, which have none.
pub(crate) fn errno(error: &io::Error) -> Errno {
    let nearest = || match error.kind() {
        io::ErrorKind::TimedOut => Errno::TIMEDOUT,
        io::ErrorKind::WriteZero => Errno::NOSPC,
        _ => Errno::IO,
    };
    Errno::from_io_error(error).unwrap_or_else(nearest)
}

impl OpenError {
    /// For `map_err`: the operation that an error is of.
    pub(crate) fn io(what: &'static str) -> impl Fn(io::Error) -> OpenError {
        move |error| OpenError::Io {
            what,
            source: errno(&error),
        }
    }
}

/// Why an object could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The read failed.
    #[error(transparent)]
    Io(Errno),
    /// The disk ends before the object does.
    #[error("the disk ends at {end}")]
    Short {
        /// Byte offset of the end.
        end: u64,
    },
    /// No object can be at this location with this length.
    #[error("the location is outside the backing")]
    Outside,
    /// Another object's header, or none, is at the location.
    #[error("another object, or none, is at the location")]
    Header,
    /// The header is the object's but the checksum is not.
    #[error("the object's checksum is wrong")]
    Checksum,
    /// The object is no longer there, as the caller says: look it up again.
    #[error("the object has moved")]
    Moved,
}

impl ReadError {
    /// Whether the backing answered, but with other bytes than were written.
    pub fn is_corrupt(self) -> bool {
        matches!(self, ReadError::Header | ReadError::Checksum)
    }
}

/// Why an object cannot be where the caller's table says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BackingDamage {
    /// It lies outside the backing or crosses a segment's end, or no object has such a length.
    #[error("its object lies outside the backing")]
    Outside,
    /// More was named in the segment than fits there.
    #[error("its object overlaps another")]
    Crowded,
}
