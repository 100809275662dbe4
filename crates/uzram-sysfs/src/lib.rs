//! zram's own interface as files: a FUSE tree with kernfs' semantics ([`Tree`]), and a mount namespace in which that tree
//! is the system's own ([`shim`]), for programs that know nothing of uzram.
//!
//! All that is shown is a function of a [`View`](uzram_control::zram::View); nothing of it is kept here, so devices that
//! come and go by another way are seen at once.
//!
//! # How the files behave
//!
//! As the kernel's do, down to the errno:
//!
//! * A file is 4096 bytes long to `stat`. To open one for reading that has no read bit, or for writing that has no write
//!   bit, is EACCES also for root. To create a file is EACCES; `mkdir`, `unlink`, `rename` and their kind are EPERM.
//!   Truncation does nothing.
//! * `show` runs once for each open file, at the first read; later reads give the rest and then the end. A read at offset 0
//!   runs it again. So `hot_add` adds one device a `cat`.
//! * Each `write` is one `store` of at most 4096 bytes; a longer one is short. What `store` fails with, `write` fails with.
//! * `block_state` is read on from where the last read ended.
//!
//! A `store` has a thread of its own, so no other file waits for a long one.
//!
//! # Attributes that are not zram's
//!
//! Those of every block device (`size`, `stat`, `queue/…`) come from the real directory of the device's node while it is
//! initialised and has one; otherwise they have the values that an unused zram of the kernel shows.
//!
//! A device with no node has the device number [`STAND_IN_MAJOR`]`:N`: no driver can own it, so to open such a node is
//! ENXIO, and tools that go from a node's number to its directory find it.
//!
//! This crate knows nothing about compressors, pools, frontends, or how a device gets its node.
#![deny(unsafe_code)]

mod error;
mod failure;
mod inodes;
mod mounts;
pub mod shim;
mod sys;
mod tree;

pub use error::Error;
pub use tree::{Mounted, STAND_IN_MAJOR, Tree, mount_at};
