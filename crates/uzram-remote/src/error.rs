//! What can go wrong, in a sentence each.

use uzram_control::trust::Distrust;
use uzram_snapshot::Digest;

use crate::store::{StoreError, StoreErrorKind};

/// Why something was not done with a remote.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The store refused it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What is in the store, or was to be stored, is no good snapshot.
    #[error(transparent)]
    Snapshot(#[from] uzram_snapshot::Error),
    /// It could not be sealed or unsealed.
    #[error("{}{source}", of.as_deref().map(|of| format!("{of}: ")).unwrap_or_default())]
    Seal {
        /// What: a tag or a part.
        of: Option<String>,
        /// Why.
        source: uzram_seal::Error,
    },
    /// A file of the machine.
    #[error("{what}: {source}")]
    Io {
        /// The file.
        what: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// No remote has this name.
    #[error(
        "there is no remote {name}: \"uzram remote list\" names them, \"uzram remote add\" makes one"
    )]
    NoRemote {
        /// The name.
        name: String,
    },
    /// A remote has this name already.
    #[error("there is a remote {name} already: remove it first, or take another name")]
    RemoteExists {
        /// The name.
        name: String,
    },
    /// A name or an address is none.
    #[error("{0}")]
    Usage(String),
    /// Others may change the configuration.
    #[error("the remote's configuration is not trusted: {0}")]
    Distrust(#[from] Distrust),
    /// What is in the store was made by a newer program.
    #[error("{what} has version {found}, this program reads up to {known}: use a newer uzram")]
    Newer {
        /// Which object.
        what: String,
        /// Its version.
        found: u64,
        /// The newest that is known.
        known: u64,
    },
    /// An object is not what uzram writes there.
    #[error("{what} is no {kind} of uzram: {why}")]
    Foreign {
        /// Which object.
        what: String,
        /// What it ought to be.
        kind: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The prefix is in use by something else.
    #[error(
        "{place} holds what uzram has not written, such as {key}: give it a prefix or a directory of its own"
    )]
    InUse {
        /// The address.
        place: String,
        /// A key there.
        key: String,
    },
    /// No such tag.
    #[error("there is no {remote}/{tag}")]
    NoTag {
        /// The remote.
        remote: String,
        /// The tag.
        tag: String,
    },
    /// The tag is there.
    #[error("{remote}/{tag} is there already{}", if *.may_force { ": --force replaces it" } else {
        ": the store cannot replace tags safely, so take a new name or remove it first" })]
    TagExists {
        /// The remote.
        remote: String,
        /// The tag.
        tag: String,
        /// Whether it could be replaced.
        may_force: bool,
    },
    /// Somebody else wrote the tag meanwhile.
    #[error(
        "{remote}/{tag} was written by somebody else meanwhile ({by}): what this one sent is in the store, and sent again \
        by nobody who repeats it"
    )]
    TagMoved {
        /// The remote.
        remote: String,
        /// The tag.
        tag: String,
        /// Who.
        by: String,
    },
    /// Several hosts have written one tag.
    #[error(
        "{remote}/{tag} was written more than once, by {by}: name one as {tag}~ID, or remove others"
    )]
    TagAmbiguous {
        /// The remote.
        remote: String,
        /// The tag.
        tag: String,
        /// Who, with the ids.
        by: String,
    },
    /// Something that the snapshot needs is not in the store.
    #[error("{key}, which {needed_by} needs, is not in the store{}", if *.collected {
        ": it was collected meanwhile. Repeat the command, which sends it again" } else { "" })]
    Missing {
        /// What is missing.
        key: String,
        /// What needs it.
        needed_by: String,
        /// Whether it was there shortly before.
        collected: bool,
    },
    /// It is there with another length.
    #[error("{key} has {found} bytes in the store, and should have {bytes}")]
    Length {
        /// What is wrong.
        key: String,
        /// Bytes that are there.
        found: u64,
        /// Bytes that should be.
        bytes: u64,
    },
    /// Collection is going on.
    #[error("another collection is going on, by {by}, for at most {seconds} s")]
    Sweeping {
        /// Who.
        by: String,
        /// Until it is believed to be dead.
        seconds: u64,
    },
    /// A lease could not be kept.
    #[error("the lease {id} could not be renewed in time: {why}")]
    LeaseLost {
        /// The lease.
        id: String,
        /// Why.
        why: String,
    },
    /// A manifest cannot be read, so nobody knows what it needs.
    #[error("the manifest {name} of {of} cannot be read, so nothing is collected: {why}")]
    Unreadable {
        /// The manifest.
        name: Digest,
        /// What names it.
        of: String,
        /// Why.
        why: String,
    },
    /// Another device has the prefix.
    #[error(
        "{remote}/{prefix} is the backing of {by}: take another name. If that device is gone, \"uzram remote remove \
         {remote}/{prefix} --force\" removes what it left"
    )]
    BackingInUse {
        /// The remote.
        remote: String,
        /// The prefix.
        prefix: String,
        /// Who has it.
        by: String,
    },
    /// A tag has the name.
    #[error("{remote}/{prefix} is a tag: a backing takes a name that no snapshot has")]
    BackingTag {
        /// The remote.
        remote: String,
        /// The prefix.
        prefix: String,
    },
    /// A backing has the name.
    #[error("{remote}/{tag} is the backing of {by}: a tag takes a name that no backing has")]
    TagBacking {
        /// The remote.
        remote: String,
        /// The tag.
        tag: String,
        /// Who has it.
        by: String,
    },
    /// The remote takes nothing.
    #[error("the remote {name} was added with --read-only")]
    ReadOnly {
        /// The remote.
        name: String,
    },
}

impl From<uzram_seal::Error> for Error {
    fn from(source: uzram_seal::Error) -> Error {
        Error::Seal { of: None, source }
    }
}

impl Error {
    /// Whether the store says that something is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::Store(error) if error.kind == StoreErrorKind::NotFound)
    }

    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Error {
        let what = what.into();
        move |source| Error::Io { what, source }
    }
}

/// What the crate's calls return.
pub type Result<T, E = Error> = std::result::Result<T, E>;
