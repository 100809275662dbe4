//! What a store of objects must be able to do: a small blocking trait, and its one error.
//!
//! Keys are ours: lower-case words, digits and `/ . _ ~ + -`, with no empty part and no part that begins with a dot. An object is
//! there whole or not at all, and whoever asks after a call has returned sees what it did: every store of this kind is so.

use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

/// A version of an object, by which a later call can demand that it is still the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version(pub String);

/// What must hold for an object to be written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum When {
    /// Nothing.
    Always,
    /// It is not there yet.
    New,
    /// It is there in this version.
    Unchanged(Version),
}

/// An object as a store lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// Its key.
    pub key: String,
    /// Its bytes.
    pub bytes: u64,
    /// When it was written, by the store's clock, in milliseconds since 1970.
    pub modified_ms: u64,
}

/// Returns once whoever speaks to a store has ended.
pub type ClientEnd = Box<dyn FnOnce() + Send>;

/// Objects under keys. Calls block, and may come from several threads.
pub trait Store: Send + Sync {
    /// What waits until whoever speaks to the store for this process has ended, and nothing is answered any more. `None` where
    /// this process speaks itself.
    fn client_end(&self) -> Option<ClientEnd> {
        None
    }

    /// Writes an object. [`StoreErrorKind::Exists`] and [`StoreErrorKind::Changed`] where it is not as `when` demands;
    /// [`StoreErrorKind::Unsettled`] where nobody knows whether it was written.
    fn put(&self, key: &str, bytes: &[u8], when: &When) -> Result<Version, StoreError>;

    /// Reads all of an object that has at most `max` bytes.
    fn get(&self, key: &str, max: u64) -> Result<(Vec<u8>, Version), StoreError>;

    /// Reads these bytes of an object, which must have all of them.
    fn get_range(&self, key: &str, range: Range<u64>) -> Result<Vec<u8>, StoreError>;

    /// Looks at an object.
    fn head(&self, key: &str) -> Result<Meta, StoreError>;

    /// All objects whose keys begin with `prefix`, which ends with a `/`. In no order.
    fn list(&self, prefix: &str) -> Result<Vec<Meta>, StoreError>;

    /// Removes an object; one that is not there is no failure.
    fn delete(&self, key: &str) -> Result<(), StoreError>;

    /// Whether reading a little of an object costs little.
    fn is_near(&self) -> bool;
}

/// Why a store did not do something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// The object is not there.
    NotFound,
    /// It is there already.
    Exists,
    /// It is there in another version, or not at all.
    Changed,
    /// Nobody knows whether it was done: the answer was lost.
    Unsettled,
    /// There is no such bucket or directory.
    NoBucket,
    /// The store does not know who asks, or does not permit it.
    Denied,
    /// There are no credentials.
    NoCredentials,
    /// The program that speaks to the store is not there.
    NoProgram,
    /// It takes nothing more.
    Full,
    /// It takes nothing at all.
    ReadOnly,
    /// Nobody answers there, or no store.
    Unreachable,
    /// It cannot do what was asked for.
    Unsupported,
    /// Something else.
    Failed,
}

impl StoreErrorKind {
    /// Whether a write on a condition met another one, or may have: what is there says more.
    pub(crate) fn is_settled_by_a_look(self) -> bool {
        matches!(self, Self::Exists | Self::Changed | Self::Unsettled)
    }
}

/// Why a store did not do something, in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreError {
    /// Which failure.
    pub kind: StoreErrorKind,
    /// The object.
    pub key: String,
    /// What the store said. Never has credentials in it.
    pub why: String,
}

impl StoreError {
    /// A failure with the store's own words.
    pub fn new(kind: StoreErrorKind, key: &str, why: impl fmt::Display) -> StoreError {
        StoreError {
            kind,
            key: key.into(),
            why: why.to_string(),
        }
    }

    /// A failure of the system.
    pub fn from_io(key: &str, error: &std::io::Error) -> StoreError {
        use std::io::ErrorKind as Io;
        let kind = match error.kind() {
            Io::NotFound => StoreErrorKind::NotFound,
            Io::AlreadyExists => StoreErrorKind::Exists,
            Io::PermissionDenied => StoreErrorKind::Denied,
            Io::ReadOnlyFilesystem => StoreErrorKind::ReadOnly,
            Io::StorageFull | Io::QuotaExceeded => StoreErrorKind::Full,
            _ => StoreErrorKind::Failed,
        };
        StoreError::new(kind, key, error)
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let StoreError { kind, key, why } = self;
        match kind {
            StoreErrorKind::NotFound => write!(f, "{key} is not there"),
            StoreErrorKind::Exists => write!(f, "{key} is there already"),
            StoreErrorKind::Changed => write!(f, "{key} was changed meanwhile"),
            StoreErrorKind::Unsettled => {
                write!(
                    f,
                    "{key}: no answer came, so it may be written or not: {why}"
                )
            }
            StoreErrorKind::NoBucket => write!(f, "there is no such bucket or directory: {why}"),
            StoreErrorKind::Denied => write!(f, "the store does not permit it: {key}: {why}"),
            StoreErrorKind::NoCredentials => write!(f, "there are no credentials: {why}"),
            StoreErrorKind::NoProgram => f.write_str(why),
            StoreErrorKind::Full => write!(f, "the store is full: {key}: {why}"),
            StoreErrorKind::ReadOnly => write!(f, "the store takes nothing: {key}: {why}"),
            StoreErrorKind::Unreachable => write!(f, "no store answers: {why}"),
            StoreErrorKind::Unsupported => write!(f, "the store cannot do that: {key}: {why}"),
            StoreErrorKind::Failed if key.is_empty() => f.write_str(why),
            StoreErrorKind::Failed => write!(f, "{key}: {why}"),
        }
    }
}

impl std::error::Error for StoreError {}

impl From<StoreError> for std::io::Error {
    fn from(error: StoreError) -> std::io::Error {
        let kind = match error.kind {
            StoreErrorKind::NotFound => std::io::ErrorKind::NotFound,
            StoreErrorKind::Denied | StoreErrorKind::NoCredentials => {
                std::io::ErrorKind::PermissionDenied
            }
            _ => std::io::ErrorKind::Other,
        };
        std::io::Error::new(kind, error)
    }
}
