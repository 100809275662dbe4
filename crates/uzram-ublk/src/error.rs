//! What can go wrong between the device and its node.

use std::io;
use std::path::PathBuf;

use rustix::io::Errno;
use uzram_blockdev::{Error as NodeError, StepError};

/// Why a ublk device could not be made, taken over or removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The driver is not loaded, or this kernel has none.
    #[error(
        "/dev/ublk-control is missing: load the driver with modprobe ublk_drv (Linux 6.5 or newer)"
    )]
    NoDriver,
    /// This user may not use the driver.
    #[error(
        "/dev/ublk-control: {source} (ublk devices need root, or udev rules that give them to users)"
    )]
    NotAllowed {
        /// The system's answer.
        source: io::Error,
    },
    /// The kernel has no io_uring for this process, or its limits forbid one.
    #[error("io_uring: {source}")]
    NoRing {
        /// The system's answer.
        source: io::Error,
    },
    /// The driver is older than the command that tells its features.
    #[error("the driver does not tell its features ({source}): Linux 6.5 or newer is needed")]
    TooOld {
        /// The driver's answer.
        source: io::Error,
    },
    /// The driver cannot do something that this process needs.
    #[error("the driver has features {found:#x}, and {needed} is needed")]
    MissingFeature {
        /// The driver's features.
        found: u64,
        /// The feature's name.
        needed: &'static str,
    },
    /// User copy was asked for, and only root may have it.
    #[error("user copy needs root: mapped buffers do not (--buffers mapped)")]
    UserCopyNeedsRoot,
    /// User copy was asked for, and the driver does not have it.
    #[error("this driver has no user copy: mapped buffers always work (--buffers mapped)")]
    NoUserCopy,
    /// The driver has as many devices as it allows.
    #[error(
        "the driver has as many devices as it allows: remove one, or raise its parameter ublks_max"
    )]
    TooManyDevices,
    /// udev did not give the node to the user who made the device.
    #[error(
        "{} is not given to this user: install the udev rules for ublk devices (dist/90-uzram-ublk.rules); \
         the device goes when root runs: uzram list",
        path.display()
    )]
    NotGiven {
        /// The node.
        path: PathBuf,
    },
    /// A name that no ublk node has.
    #[error("{name:?} is no ublk node: use ublkcN or ublkbN")]
    NotANode {
        /// The name given.
        name: String,
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
    #[error("/dev/ublkb{id} exists already: choose another number")]
    Taken {
        /// The number.
        id: u32,
    },
    /// A device that was to be taken over belongs to somebody else.
    #[error("/dev/ublkb{id} cannot be taken over: it belongs to another server")]
    Foreign {
        /// The number.
        id: u32,
    },
    /// A device that was to be taken over differs from what is to be served.
    #[error(
        "/dev/ublkb{id} cannot be taken over: it has {found_bytes} bytes in blocks of {found_block}, \
         the image has {wanted_bytes} in blocks of {wanted_block}"
    )]
    OtherGeometry {
        /// The number.
        id: u32,
        /// Bytes of the device.
        found_bytes: u64,
        /// Bytes of its logical blocks.
        found_block: u32,
        /// Bytes of what is to be served.
        wanted_bytes: u64,
        /// Bytes of its logical blocks.
        wanted_block: u32,
    },
    /// A device that was to be taken over has a server that lives.
    #[error("/dev/ublkb{id} cannot be taken over: process {pid} serves it")]
    StillServed {
        /// The number.
        id: u32,
        /// The server's process number.
        pid: i32,
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
    /// The driver did not answer a command: it is stuck, or the machine is.
    #[error(
        "ublk {command} of {} did not return in {seconds} s{}",
        id.map_or("a new device".into(), |id| format!("device {id} (/dev/ublkb{id})")),
        if *is_cancelled { "" } else { ", nor could it be cancelled, so that this process cannot end before it does" }
    )]
    Unanswered {
        /// The command.
        command: String,
        /// The device's number, unless the driver was to choose it.
        id: Option<u32>,
        /// How long it was waited for.
        seconds: u64,
        /// Whether the kernel let go of it.
        is_cancelled: bool,
    },
    /// The device is down, but the driver did not delete it: its number stays taken.
    #[error("/dev/ublkc{id} could not be deleted, and number {id} stays taken: {source}")]
    Left {
        /// The number.
        id: u32,
        /// Why.
        source: Box<Error>,
    },
    /// The system refused a step.
    #[error(transparent)]
    System(#[from] StepError),
    /// The node could not be opened, did not come or go in time, or is in use.
    #[error(transparent)]
    Node(#[from] NodeError),
}

impl Error {
    /// The driver's error number, if a command or a system call failed.
    pub(crate) fn errno(&self) -> Option<Errno> {
        match self {
            Error::System(StepError { source, .. })
            | Error::Node(NodeError::Open { source, .. }) => Errno::from_io_error(source),
            _ => None,
        }
    }

    /// Whether the driver did not answer.
    pub(crate) fn is_unanswered(&self) -> bool {
        match self {
            Error::Unanswered { .. } => true,
            Error::Left { source, .. } => source.is_unanswered(),
            _ => false,
        }
    }

    /// Whether this machine or user cannot have ublk devices like this at all, so that another frontend must do.
    pub fn is_unavailable(&self) -> bool {
        matches!(
            self,
            Error::NoDriver
                | Error::NotAllowed { .. }
                | Error::NoRing { .. }
                | Error::TooOld { .. }
                | Error::MissingFeature { .. }
                | Error::UserCopyNeedsRoot
                | Error::NoUserCopy
                | Error::TooManyDevices
                | Error::NotGiven { .. }
        )
    }
}
