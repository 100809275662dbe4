//! What can go wrong on the way to a mounted tree.

use std::io;
use std::path::PathBuf;

/// Why the tree could not be mounted or the command not be run.
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
    /// Mounts and namespaces are root's.
    #[error("{what} needs root (CAP_SYS_ADMIN)")]
    NeedsRoot {
        /// What was wanted.
        what: &'static str,
    },
    /// Something is mounted there already.
    #[error("{} is a mount point already: unmount it or choose another directory", at.display())]
    Occupied {
        /// Where.
        at: PathBuf,
    },
    /// There is nothing to run.
    #[error("no command was given")]
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

impl Error {
    pub(crate) fn at<E: Into<io::Error>>(step: impl Into<String>) -> impl FnOnce(E) -> Error {
        let step = step.into();
        move |source| Error::System {
            step,
            source: source.into(),
        }
    }
}
