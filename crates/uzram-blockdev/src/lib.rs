//! Questions about a kernel block device that its frontends share: who uses it, by name; may one process have it alone; has
//! its node come or gone.
//!
//! [`Survey`] is the one answer to the first: one look at `/proc` and `/sys`, by device number, along the stack of devices.
//! [`open_exclusive`] asks the kernel as well, which knows of users that nobody else sees, and the survey names them. It also
//! finds those that the kernel lets pass: loop devices on a device, and plain openers.
//!
//! This crate knows nothing about how a block device is served or what is on it.
#![deny(unsafe_code)]

mod blocks;
mod busy;
mod error;
mod mountinfo;
mod open;
mod partitions;
mod survey;
mod swaps;
mod wait;

pub use busy::{Busy, Users, busy};
pub use error::{Error, StepError};
pub use mountinfo::{MountPoint, is_mount_point, mounts, shown};
pub use open::{open_exclusive, open_rw, read_first_block};
pub use partitions::delete_partitions;
pub use survey::{Layer, Node, Survey, chain};
pub use swaps::{SwapArea, SwapWatch, is_swap_area, swap_areas, swap_on, swap_on_nbd_client};
pub use wait::{wait_until, wait_until_gone, wait_until_present};
