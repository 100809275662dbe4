//! A uzram device as `/dev/loopN`, for kernels that have neither ublk nor nbd: one file on a private FUSE mount, and a loop
//! device with direct I/O on that file.
//!
//! *No double caching*: the loop device uses direct I/O, so the page cache holds no second, uncompressed copy of the file.
//! Write-back under memory pressure does not come back to this process either, which is the classic deadlock. A loop device
//! without direct I/O is refused.
//!
//! *Requests* come by FUSE over io_uring where kernel and user allow it ([`FuseUring`]), with a queue and a thread for each
//! CPU. Else fuser reads them from `/dev/fuse`.
//!
//! *Discard* arrives as `fallocate(PUNCH_HOLE)` on the file and frees memory.
//!
//! *Not for swap*: the FUSE path allocates memory in the kernel on the way to this process.
//!
//! This crate knows nothing about compressors, pools, or how devices are named.
#![deny(unsafe_code)]

mod as_frontend;
mod disk;
mod error;
mod filesystem;
mod fuse_loop;
mod loop_number;
mod loopdev;
mod stale;
mod sys;
mod uring;

pub use as_frontend::FuseLoopFrontend;
pub use error::Error;
pub use fuse_loop::{FuseLoop, FuseUring, LoopOptions, Transport, probe, probe_uring};
pub use loop_number::{LoopNumber, is_free};
pub use stale::{abandon, clear_stale, new_mount_dir, nodes, set_aside};
