//! The settings that every connection of a server shares.

use crate::{Error, Export};
use std::time::Duration;

/// How long a connection polls for the next request unless [`ServerBuilder::poll`](crate::ServerBuilder::poll) says
/// otherwise.
pub const DEFAULT_POLL: Duration = Duration::from_micros(100);

/// What [`ServerBuilder`](crate::ServerBuilder) sets; its methods say what each field means.
#[derive(Clone)]
pub(crate) struct ServerSettings {
    pub(crate) exports: Vec<Export>,
    pub(crate) workers: usize,
    pub(crate) max_connections: usize,
    pub(crate) poll: Duration,
    pub(crate) handshake_timeout: Duration,
    pub(crate) shutdown_timeout: Duration,
}

impl ServerSettings {
    /// Checks the exports: there is one, and each has a name of its own.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.exports.is_empty() {
            return Err(Error::NoExport);
        }
        for (i, export) in self.exports.iter().enumerate() {
            export.check()?;
            if self.exports[..i]
                .iter()
                .any(|other| other.name == export.name)
            {
                let name = export.name.clone();
                return Err(Error::DuplicateExport { name });
            }
        }
        Ok(())
    }
}
