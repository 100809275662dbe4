//! Questions about a kernel block device that its frontends share: who uses it, by name; may one process have it alone; has
//! its node come or gone.
//!
//! The kernel is the judge of whether a device is in use: [`open_exclusive`] asks it by an exclusive open. [`busy`] searches
//! for a name only to explain the refusal.
//!
//! This crate knows nothing about how a block device is served or what is on it.
#![forbid(unsafe_code)]

mod busy;
mod error;
mod mountinfo;
mod open;
mod wait;

pub use busy::{Busy, busy};
pub use error::{Error, StepError};
pub use mountinfo::{MountPoint, is_mount_point, mounts};
pub use open::{open_exclusive, open_rw, read_first_block};
pub use wait::{wait_until, wait_until_gone, wait_until_present};
