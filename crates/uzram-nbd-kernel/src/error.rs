//! What can go wrong between the device and its node.

use std::path::PathBuf;

use rustix::io::Errno;
use uzram_blockdev::{Error as NodeError, StepError};

/// Why a device could not be connected, taken over or disconnected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel's NBD client takes orders from root only.
    #[error("the kernel's NBD client obeys root only")]
    NeedsRoot,
    /// The kernel has no NBD client, or hides it from this network namespace.
    #[error("this kernel has no NBD client now; load it with: modprobe nbd")]
    NoClient,
    /// The system refused a step.
    #[error(transparent)]
    System(#[from] StepError),
    /// The kernel's NBD client refused a request.
    #[error("{step}: {source}{}", in_brackets(reason.as_deref()))]
    Refused {
        /// What was being done, with the device.
        step: String,
        /// Why, in the kernel's words or ours, where known.
        reason: Option<String>,
        /// The kernel's answer.
        source: Errno,
    },
    /// The kernel connected a free device without saying which.
    #[error("the kernel connected a free nbd device and did not say which one")]
    NoIndex,
    /// The device that was asked for is connected to something.
    #[error("{} is taken: it is connected already", path.display())]
    Taken {
        /// The device's node.
        path: PathBuf,
    },
    /// There is nothing to take over: the device is not connected.
    #[error("{} is not connected", path.display())]
    NotConnected {
        /// The device's node.
        path: PathBuf,
    },
    /// The device belongs to somebody else.
    #[error("{} is connected to {found:?}, not to {wanted:?}", path.display())]
    Foreign {
        /// The device's node.
        path: PathBuf,
        /// What the kernel says it is connected to; empty if the kernel was not told.
        found: String,
        /// What it should be connected to.
        wanted: String,
    },
    /// The device has another size than what is to be served now.
    #[error("{} has {found} bytes, and what is to be served has {wanted}", path.display())]
    OtherSize {
        /// The device's node.
        path: PathBuf,
        /// Bytes of the device.
        found: u64,
        /// Bytes of what is to be served.
        wanted: u64,
    },
    /// The device has logical blocks of another size than what is to be served now.
    #[error("{} has blocks of {found} bytes, and what is to be served has blocks of {wanted}", path.display())]
    OtherBlockSize {
        /// The device's node.
        path: PathBuf,
        /// Bytes of the device's blocks.
        found: u64,
        /// Bytes of the blocks of what is to be served.
        wanted: u64,
    },
    /// The connections of the device are alive, so that it cannot be taken over.
    #[error("{} cannot be taken over: its server lives", path.display())]
    StillServed {
        /// The device's node.
        path: PathBuf,
    },
    /// A name that the kernel cannot keep.
    #[error(
        "{name:?} cannot name a device: use 1 to {longest} bytes without control characters, \
         and no blanks at either end"
    )]
    Name {
        /// The name.
        name: String,
        /// Bytes of the longest name.
        longest: usize,
    },
    /// The node could not be opened or read, did not come or go in time, or is in use.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The server could not serve a connection.
    #[error(transparent)]
    Server(#[from] uzram_nbd::Error),
}

fn in_brackets(reason: Option<&str>) -> String {
    reason.map_or(String::new(), |reason| format!(" ({reason})"))
}
