//! What can go wrong between a request for advice and the advice.

use std::io;

/// Why there is no advice.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A process or file could not be read.
    #[error("{what}: {source}")]
    Read {
        /// What was read.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A number that cannot be.
    #[error("{what} {given} is not possible: {accepted}")]
    Invalid {
        /// The setting.
        what: &'static str,
        /// The value given.
        given: u64,
        /// What would be accepted.
        accepted: String,
    },
    /// There is next to nothing to sample.
    #[error("{what} has {pages} pages to sample, and {least} are the least")]
    TooFew {
        /// What was sampled.
        what: String,
        /// Pages found that are not same-filled.
        pages: usize,
        /// How many it takes.
        least: usize,
    },
    /// The command could not be started, or ended before it was sampled.
    #[error("{command}: {reason}")]
    Command {
        /// Its name.
        command: String,
        /// What happened.
        reason: String,
    },
    /// An algorithm could not be set up.
    #[error(transparent)]
    Compress(#[from] uzram_compress::Error),
}

impl Error {
    pub(crate) fn read(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
        let what = what.into();
        move |source| Error::Read { what, source }
    }
}
