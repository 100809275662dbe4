//! Why a block device could not be used, and the error of a single step that frontends share.

use std::io;
use std::path::PathBuf;

use crate::{Users, shown};

/// Why a block device could not be opened, or did not come or go in time.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Somebody uses the device.
    #[error("{} is in use: {by}", shown(path))]
    Busy {
        /// The device's node.
        path: PathBuf,
        /// Who uses it, and how.
        by: Users,
    },
    /// The node cannot be opened.
    #[error("opening {}: {source}", shown(path))]
    Open {
        /// The device's node.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The first block cannot be read through the node.
    #[error("reading the first block of {}: {source}", shown(path))]
    Read {
        /// The device's node.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The node of a new device did not appear.
    #[error("{} did not appear within {seconds} s", shown(path))]
    Absent {
        /// The device's node.
        path: PathBuf,
        /// How long it was waited for.
        seconds: u64,
    },
    /// The device was told to go and is still there.
    #[error(
        "{} did not go away within {seconds} s: something may have it open",
        shown(path)
    )]
    Lingers {
        /// The device's node.
        path: PathBuf,
        /// How long it was waited for.
        seconds: u64,
    },
}

/// A step that the system refused: what was being done, and why it failed.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {source}")]
pub struct StepError {
    /// What was being done, with the path or device: `mounting FUSE at /run/x`.
    pub step: String,
    /// The system's answer.
    pub source: io::Error,
}

impl StepError {
    /// Turns the error of a system call into the error of `step`, for `map_err`.
    pub fn at<E: Into<io::Error>>(step: impl Into<String>) -> impl FnOnce(E) -> StepError {
        let step = step.into();
        move |source| StepError {
            step,
            source: source.into(),
        }
    }
}
