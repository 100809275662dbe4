//! A uzram device as `/dev/loopN`, for kernels that have neither ublk nor nbd: one file on a private FUSE
//! mount, and a loop device with direct I/O on that file.
//!
//! *No double caching*: the loop device uses direct I/O, so the page cache holds no second, uncompressed copy of
//! the file (and write-back under memory pressure does not come back to this process, the classic deadlock).
//! A loop device without direct I/O is refused.
//!
//! *Discard* arrives as `fallocate(PUNCH_HOLE)` on the file and frees memory.
//!
//! *Not for swap*: the FUSE path allocates in the kernel on the way to this process.
//!
//! This crate knows nothing about compressors, pools, or how devices are named.
#![deny(unsafe_code)]

mod as_frontend;
mod disk;
mod error;
mod frontend;
mod loopdev;
mod number;
mod sys;

pub use as_frontend::FuseLoopFrontend;
pub use error::Error;
pub use frontend::{FuseLoop, abandon, clear_stale, probe};
pub use number::{LoopNumber, is_free};
