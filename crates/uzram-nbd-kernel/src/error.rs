//! What can go wrong between the device and its node.

use std::io;
use std::path::PathBuf;

use uzram_blockdev::Error as NodeError;

/// Why a device could not be connected, taken over or disconnected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel has no NBD client, or hides it from this network namespace.
    #[error("this kernel has no NBD client now; load it with: modprobe nbd")]
    NoFamily,
    /// A step failed in the system.
    #[error("{step}: {source}")]
    System {
        /// What was being done, with the device.
        step: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The kernel's NBD client refused a request.
    #[error("{step}: {source}{}", in_brackets(reason.as_deref()))]
    Refused {
        /// What was being done, with the device.
        step: String,
        /// Why, in the kernel's words or ours, where known.
        reason: Option<String>,
        /// The kernel's answer.
        source: io::Error,
    },
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
        /// What the kernel says it is connected to; empty if that was not said to it.
        found: String,
        /// What it should be.
        wanted: String,
    },
    /// The device was connected with another size or block size than what is to be served now.
    #[error("{} has {what} {found} bytes, and what is to be served has {wanted}", path.display())]
    OtherSize {
        /// The device's node.
        path: PathBuf,
        /// `size` or `blocks of`.
        what: &'static str,
        /// The device's.
        found: u64,
        /// What it should be.
        wanted: u64,
    },
    /// The connections of the device are alive, so that it cannot be taken over.
    #[error("{} has a server that lives", path.display())]
    StillServed {
        /// The device's node.
        path: PathBuf,
    },
    /// A name that the kernel cannot keep.
    #[error("{name:?} cannot name a device: {reason}")]
    Name {
        /// The name.
        name: String,
        /// Why not.
        reason: &'static str,
    },
    /// The node could not be opened, or somebody uses it.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The server could not serve a connection.
    #[error(transparent)]
    Server(#[from] uzram_nbd::Error),
    /// The node did not come up with the right size.
    #[error("{} did not appear within {seconds} s", path.display())]
    NoNode {
        /// The device's node.
        path: PathBuf,
        /// How long it was waited for.
        seconds: u64,
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

fn in_brackets(reason: Option<&str>) -> String {
    reason.map_or(String::new(), |reason| format!(" ({reason})"))
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
