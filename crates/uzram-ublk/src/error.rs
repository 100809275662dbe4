//! What can go wrong between the device and its node.

use std::io;
use std::path::PathBuf;

/// Why a ublk device could not be made, taken over or removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no driver, or this user may not use it.
    #[error("{reason}")]
    Unavailable {
        /// What is missing.
        reason: String,
    },
    /// A setting that the driver or this machine cannot have.
    #[error("{what} {given} is not possible: {accepted}")]
    Invalid {
        /// The setting.
        what: &'static str,
        /// The value given.
        given: u64,
        /// What would be accepted.
        accepted: String,
    },
    /// The number is another device's.
    #[error("/dev/ublkb{id} exists already: its number is taken")]
    Taken {
        /// The number.
        id: u32,
    },
    /// A device that was to be taken over is not ours, or not as it was.
    #[error("/dev/ublkb{id} cannot be taken over: {reason}")]
    NotRecoverable {
        /// The number.
        id: u32,
        /// Why.
        reason: String,
    },
    /// A device that was to be taken over is not there any more, or was stopped.
    #[error("/dev/ublkb{id} is gone")]
    Gone {
        /// The number.
        id: u32,
    },
    /// The last server was killed while it took the device over, and the driver cannot begin that again (Linux before
    /// 6.16). Only a new device helps.
    #[error("/dev/ublkb{id} cannot be taken over any more: a server was killed while it did that")]
    Interrupted {
        /// The number.
        id: u32,
    },
    /// A step failed in the system.
    #[error("{step}: {source}")]
    System {
        /// What was being done.
        step: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The node could not be opened, or somebody uses it.
    #[error(transparent)]
    Node(#[from] uzram_blockdev::Error),
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

    /// The system's error number, if there is one.
    pub(crate) fn errno(&self) -> Option<i32> {
        match self {
            Error::System { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}
