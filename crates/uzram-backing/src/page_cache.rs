//! Keeping the page cache out of buffered I/O: it would hold a copy of what was moved out of memory.

use std::fs::File;
use std::num::NonZeroU64;

use rustix::fs::Advice;

/// Asks the page cache to drop whole pages of the file. Those that are not yet written stay.
pub(crate) fn drop_cached(file: &File, offset: u64, len: usize) {
    let _ = rustix::fs::fadvise(file, offset, NonZeroU64::new(len as u64), Advice::DontNeed);
}
