//! A server without an address: serves connected sockets that it is given, from the transmission phase on or from the
//! handshake on.
//!
//! The kernel's NBD client needs this. Whoever attaches it tells it everything that a handshake would, and it sends requests
//! at once. What it is told must agree with what is served, hence [`Export::transmission_flags`] is the one source for both.
//! Whoever gives a socket answers for its client: there are no limits and no timeouts but the handshake's.

use crate::{
    Error, Export, catalog::Catalog, connections::Connections, execute::Session, proto::Headers,
};
use std::{os::fd::OwnedFd, sync::Arc};

/// Serves sockets that somebody else connected; made by [`ServerBuilder::adopter`](crate::ServerBuilder::adopter). Dropping
/// it ends the connections as [`Adopter::shutdown`] does.
pub struct Adopter {
    connections: Arc<Connections>,
    ended: bool,
}

impl Adopter {
    pub(crate) fn new(connections: Arc<Connections>) -> Self {
        Adopter {
            connections,
            ended: false,
        }
    }

    /// Finds the export of this name; the empty name stands for the first.
    pub fn export(&self, name: &str) -> Result<&Export, Error> {
        let Catalog::Own(exports) = &self.connections.settings.exports else {
            return Err(Error::UnknownExport { name: name.into() });
        };
        let mut found = exports.iter();
        found
            .find(|export| name.is_empty() || export.name == name)
            .ok_or_else(|| Error::UnknownExport { name: name.into() })
    }

    /// Serves `socket`, a connected stream socket in blocking mode. Its other end sends requests without negotiation and
    /// understands simple replies only.
    ///
    /// `ended` is called once, on a thread of this server, when the connection has ended for whatever reason and none of its
    /// requests is being executed any more. It must not wait for this server.
    pub fn adopt(
        &self,
        socket: OwnedFd,
        export: &str,
        ended: impl FnOnce() + Send + 'static,
    ) -> Result<(), Error> {
        let session = Session {
            export: self.export(export)?.clone(),
            headers: Headers::Simple,
            allocation: false,
        };
        self.connections
            .given(socket, Some(session), ended)
            .map_err(|source| Error::Thread { source })
    }

    /// Serves `socket`, a connected stream socket in blocking mode, from the handshake on. `ended` as for
    /// [`Adopter::adopt`].
    pub fn negotiate(
        &self,
        socket: OwnedFd,
        ended: impl FnOnce() + Send + 'static,
    ) -> Result<(), Error> {
        self.connections
            .given(socket, None, ended)
            .map_err(|source| Error::Thread { source })
    }

    /// Number of connections.
    pub fn connections(&self) -> usize {
        self.connections.count()
    }

    /// Finishes the requests in flight, sends their replies and closes every connection. Takes at most twice
    /// [`ServerBuilder::shutdown_timeout`](crate::ServerBuilder::shutdown_timeout).
    pub fn shutdown(mut self) -> Result<(), Error> {
        self.stop()
    }

    fn stop(&mut self) -> Result<(), Error> {
        if std::mem::replace(&mut self.ended, true) {
            return Ok(());
        }
        self.connections.stop.set();
        self.connections.end_all()
    }
}

impl Drop for Adopter {
    fn drop(&mut self) {
        if let Err(e) = self.stop() {
            tracing::warn!("{e}");
        }
    }
}
