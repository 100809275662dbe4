//! What the frontends that end in a kernel block device ask about it: who uses it, by name, and taking it for
//! one process alone before it is reset or taken down.
//!
//! The kernel is the judge (an exclusive open); the search for a name only explains its refusal.
//!
//! This crate knows nothing about how a block device is served or what is on it.
#![forbid(unsafe_code)]

mod busy;
mod exclusive;
mod mountinfo;

pub use busy::{Busy, busy};
pub use exclusive::{Error, exclusive, open_rw};
pub use mountinfo::{MountPoint, mounts};
