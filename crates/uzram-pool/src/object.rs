//! The pool's values: the right to an object, what can go wrong, and the books as they are shown.

/// Why an object could not be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The memory limit would be exceeded.
    #[error("the limit of {limit_bytes} bytes is reached ({used_bytes} in use)")]
    Limit {
        /// The limit.
        limit_bytes: u64,
        /// Memory in use.
        used_bytes: u64,
    },
    /// The pool hands out only memory that it has in stock, and has none for this object.
    #[error("the stock of memory is used up ({used_bytes} bytes in use)")]
    OutOfStock {
        /// Memory in use, free and full.
        used_bytes: u64,
    },
    /// The arena has no free span left: its address space is used up, however little of it is memory.
    #[error("all {spans} spans of the arena are in use")]
    ArenaFull {
        /// Spans in the arena.
        spans: u32,
    },
}

/// What the pool holds at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Memory in use: pages of the arena that were touched and not given back.
    pub used_bytes: u64,
    /// The most that `used_bytes` has been since [`crate::Pool::reset_peak`].
    pub peak_bytes: u64,
    /// Live objects.
    pub objects: u64,
    /// What they take, each rounded up to its class.
    pub object_bytes: u64,
    /// Spans that belong to a bin.
    pub spans: u64,
    /// The pool's own books outside the arena.
    pub metadata_bytes: u64,
}

/// The sole right to the bytes of one object.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "dropping an object leaks it"]
pub struct Object {
    /// Offset in the arena, in units of 8 bytes.
    pub(crate) handle: u64,
    pub(crate) len: u32,
    pub(crate) pool: u32,
}

impl Object {
    /// The handle: the object's offset in the arena in units of 8 bytes. Below 2^39.
    pub fn handle(&self) -> u64 {
        self.handle
    }
    /// The object's length in bytes.
    #[expect(
        clippy::len_without_is_empty,
        reason = "an object has at least one byte"
    )]
    pub fn len(&self) -> usize {
        self.len as usize
    }
}
