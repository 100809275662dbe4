//! What can go wrong between the device and its node.

use std::io;
use std::path::PathBuf;

use uzram_blockdev::Error as NodeError;

/// Why a loop device could not be made or removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A step failed in the system.
    #[error("{step}: {source}")]
    System {
        /// What was being done, with the path.
        step: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The node could not be opened, or somebody uses it.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The loop device came up without direct I/O, which would keep a second copy of everything in the page
    /// cache.
    #[error("{} does not do direct I/O on this kernel", path.display())]
    NoDirectIo {
        /// The device's node.
        path: PathBuf,
    },
    /// The device was told to go and is still there.
    #[error("{} did not go away within {seconds} s", path.display())]
    Lingers {
        /// The device's node.
        path: PathBuf,
        /// How long it was waited for.
        seconds: u64,
    },
}

impl Error {
    pub(crate) fn at<E: Into<io::Error>>(step: impl Into<String>) -> impl FnOnce(E) -> Error {
        let step = step.into();
        move |source| Error::System {
            step,
            source: source.into(),
        }
    }
}
