//! What can go wrong when a tree is mounted or a command is run in the shim.

use std::io;
use std::path::PathBuf;

use uzram_blockdev::StepError;

/// Why the tree could not be mounted or the command not be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The system refused a step.
    #[error(transparent)]
    System(#[from] StepError),
    /// Only root may mount and make namespaces.
    #[error("{what} needs root (CAP_SYS_ADMIN)")]
    NeedsRoot {
        /// What was wanted.
        what: &'static str,
    },
    /// Something is mounted on the directory already.
    #[error("{} is a mount point already: unmount it or choose another directory", at.display())]
    Occupied {
        /// The directory.
        at: PathBuf,
    },
    /// No command was given.
    #[error("no command was given: name the program to run in the shim")]
    NoCommand,
    /// The command could not be started.
    #[error("{}: {source}", command.display())]
    Command {
        /// Its name.
        command: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}
