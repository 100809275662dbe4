//! What can go wrong between the device and its node.

use std::io;
use std::path::PathBuf;

use uzram_blockdev::{Error as NodeError, StepError};

/// Why a loop device on FUSE could not be made or removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel lacks FUSE or the loop driver, or this user may not use it.
    #[error("{}: {source}", path.display())]
    Unavailable {
        /// The driver's node.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Only root may mount FUSE for the kernel and make loop devices.
    #[error("mounting and loop devices need root")]
    NeedsRoot,
    /// The system refused a step.
    #[error(transparent)]
    System(#[from] StepError),
    /// The node could not be opened or read, did not come or go in time, or is in use.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The loop device that was asked for has another file.
    #[error("{} is taken: another file is attached to it", path.display())]
    Taken {
        /// The device's node.
        path: PathBuf,
    },
    /// Other processes took every free loop device before this one could.
    #[error("no free loop device: others took {tries} of them first; try again")]
    NoneFree {
        /// How many devices were tried.
        tries: usize,
    },
    /// FUSE over io_uring was demanded and cannot be had.
    #[error("no FUSE over io_uring: {why}")]
    NoUring {
        /// What is missing.
        why: String,
    },
    /// The loop device came up without direct I/O, which would keep a second copy of everything in the page cache.
    #[error("{} does not do direct I/O on this kernel: the page cache would hold everything twice", path.display())]
    NoDirectIo {
        /// The device's node.
        path: PathBuf,
    },
}
