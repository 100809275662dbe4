//! zram's own interface: what the kernel shows below `/sys/block/zramN` and `/sys/class/zram-control`, exact to the byte
//! and to the errno.
//!
//! A [`View`] is what the sysfs tree, the command line and the daemon's API are made of: the model itself, which lives in
//! one process, or a client of the process that it lives in.

mod algorithms;
mod attribute;
mod attributes;
mod block_state;
mod classes;
mod config;
mod device;
mod engine;
mod host;
mod in_process;
pub mod parse;

pub use rustix::io::Errno;

pub use algorithms::{
    default_name as default_algorithm, left_out as algorithms_left_out, names as algorithm_names,
    provide_algorithms, registry as algorithms,
};
pub use attribute::{ATTRIBUTES, Attribute, Place, Show, Store, Subject, When};
pub(crate) use block_state::lines as block_state_lines;
pub use config::{Backing, Chosen, Config, Params};
pub use device::Zram;
pub use engine::{Engine, Live};
pub use host::{Host, Options, Saved, SavedDevice};
pub use in_process::{InProcess, Opened};

/// Whose attribute it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Owner {
    /// The directory `zram-control`: `hot_add`, `hot_remove`.
    Control,
    /// The device of that number.
    Device(u32),
}

/// A device as far as a directory and a node show it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Shown {
    /// N of `zramN`.
    pub id: u32,
    /// Its size in bytes, 0 while it is not initialised.
    pub disksize: u64,
    /// The path of its real node, or its URI; empty while it has none.
    pub path: String,
    /// Major and minor number that its node has. An uninitialised device may have one, too: that of a loop device that
    /// is kept for it. `None`: there is no block device (an NBD socket, or nothing that could be opened).
    pub rdev: Option<(u32, u32)>,
}

/// What there is to be shown.
///
/// Every call is one `open`, `show` or `store` of the kernel's: no call sees half of another's change.
pub trait View: Send + Sync {
    /// The devices, by number.
    fn devices(&self) -> Result<Vec<Shown>, Errno>;

    /// Reads an attribute: all of it. ENOENT: no such device or attribute; EACCES: it cannot be read.
    ///
    /// Reading `hot_add` adds a device.
    fn show(&self, owner: Owner, attribute: &str) -> Result<Vec<u8>, Errno>;

    /// Writes an attribute: `value` is what one `write` was given, at most 4096 bytes. ENOENT: no such device or
    /// attribute; EACCES: it cannot be written.
    fn store(&self, owner: Owner, attribute: &str, value: &[u8]) -> Result<(), Errno>;

    /// Lines of the device's `block_state` from the slot `from` on, whole lines only, of at most `max_bytes` together, and
    /// the slot to go on from. No lines: that was all. EINVAL: it is not initialised.
    fn block_state(&self, id: u32, from: u64, max_bytes: usize) -> Result<(Vec<u8>, u64), Errno>;

    /// The table of the device's size classes, as zsmalloc's `classes` in debugfs. ENOENT: it is not initialised.
    fn classes(&self, id: u32) -> Result<Vec<u8>, Errno>;
}
