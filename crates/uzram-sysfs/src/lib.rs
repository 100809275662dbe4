//! zram's own interface as files: a FUSE tree with the semantics of kernfs ([`Tree`]). For programs that know nothing of
//! uzram, a mount namespace in which that tree is the system's own ([`shim`]).
//!
//! Everything shown is a function of a [`View`](uzram_control::zram::View). Nothing is kept here, so devices that come and go
//! by another way are seen at once.
//!
//! # How the files behave
//!
//! As the kernel's do, down to the errno:
//!
//! * A file is 4096 bytes long to `stat`. Opening a file without a read bit for reading, or without a write bit for writing,
//!   fails with EACCES, for root as well. So does creating a file. `mkdir`, `unlink`, `rename` and the like fail with EPERM.
//!   Truncation does nothing.
//! * `show` runs once for each open file, at the first read. Later reads return the rest, then the end. A read at offset 0
//!   runs it again. So one `cat` of `hot_add` adds one device.
//! * Each `write` is one `store` of at most 4096 bytes; a longer one is short. A `write` fails with the errno of its `store`.
//! * `block_state` continues where the last read ended.
//!
//! Each `store` has a thread of its own, so no other file waits for a long one.
//!
//! # Attributes that are not zram's
//!
//! Those of every block device (`size`, `stat`, `queue/…`) come from the real directory of the device's node while it is
//! initialised and has one. Otherwise they have the values of an unused zram in the kernel.
//!
//! A device without a node has the device number [`STAND_IN_MAJOR`]`:N`. No driver can own it, so opening such a node fails
//! with ENXIO, and tools that find a node's directory by its number still work.
//!
//! This crate knows nothing about compressors, pools, frontends, or how a device gets its node.
#![deny(unsafe_code)]

mod detached_mount;
mod error;
mod failure;
mod fuse;
mod inodes;
pub mod shim;
mod sys;
mod tree;

pub use error::Error;
pub use tree::{Mounted, STAND_IN_MAJOR, Tree, mount_at};
