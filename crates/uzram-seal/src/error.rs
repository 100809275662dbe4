//! What can go wrong. No message has anything of a key in it.

use std::io;
use std::path::PathBuf;

/// Why something was not sealed or unsealed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file with keys cannot be used.
    #[error("{}: {why}", path.display())]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A text is no recipient.
    #[error("{what} is no recipient of age: one begins with age1, and is made by age-keygen")]
    Recipient {
        /// Where it was given. Not the text: it may be a key.
        what: String,
    },
    /// No recipient was given, or some beside a passphrase.
    #[error("{0}")]
    Usage(&'static str),
    /// No key fits.
    #[error("it is sealed for others: no key that was given opens it")]
    WrongKey,
    /// The passphrase is another.
    #[error("it is sealed by another passphrase")]
    WrongPassphrase,
    /// It asks for more work than a passphrase is worth.
    #[error("its passphrase would take 2^{required} steps to try: at most 2^{accepted} are taken")]
    TooMuchWork {
        /// What it asks for.
        required: u8,
        /// What is accepted.
        accepted: u8,
    },
    /// A key was given for what anybody may have written.
    #[error(
        "it is not sealed, though a key was given: whoever wrote it did not need one. Without a key it is read as any other"
    )]
    NotSealed,
    /// It is sealed in a way that this program does not know.
    #[error("it is sealed in a way that this program does not know: use a newer uzram")]
    Newer,
    /// Bytes are not what was sealed.
    #[error("the seal is broken: {0}")]
    Broken(&'static str),
    /// It was made since one that is not of its family.
    #[error("what it was made since is not in the store under the same seal: {0}")]
    OtherFamily(&'static str),
    /// The system.
    #[error("{what}: {source}")]
    Io {
        /// What was done.
        what: &'static str,
        /// Its answer.
        source: io::Error,
    },
    /// What is inside is no good snapshot.
    #[error(transparent)]
    Snapshot(#[from] uzram_snapshot::Error),
}

impl Error {
    /// Whether other keys would help, or none.
    pub fn is_about_keys(&self) -> bool {
        use Error::{KeyFile, NotSealed, Recipient, Usage, WrongKey, WrongPassphrase};
        matches!(
            self,
            KeyFile { .. } | Recipient { .. } | Usage(_) | WrongKey | WrongPassphrase | NotSealed
        )
    }

    pub(crate) fn io(what: &'static str) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::Io { what, source }
    }
}

/// As what a reader in between passes on.
impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        match error {
            Error::Io { source, .. } => source,
            other => io::Error::new(io::ErrorKind::InvalidData, other),
        }
    }
}
