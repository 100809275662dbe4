//! A server without an address: it serves connected sockets that it is given, from the transmission phase on.
//!
//! That is what the kernel's NBD client needs, which is told everything a handshake would tell it by whoever
//! attaches it, and sends requests at once. What is told must agree with what is served, hence
//! [`Export::transmission_flags`] is the one source for both.

use crate::{Error, Export, connections::Connections, execute::Session};
use std::{os::fd::OwnedFd, sync::Arc};

/// Serves sockets that somebody else connected; made by [`Builder::adopter`](crate::Builder::adopter). Dropping
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

    /// The export of this name; the empty name stands for the first.
    pub fn export(&self, name: &str) -> Result<&Export, Error> {
        let exports = &self.connections.settings.exports;
        let mut found = exports.iter();
        found
            .find(|export| name.is_empty() || export.name == name)
            .ok_or_else(|| Error::UnknownExport { name: name.into() })
    }

    /// Serves `socket`, a connected stream socket in blocking mode, whose other end sends requests without any
    /// negotiation and understands simple replies only.
    ///
    /// `ended` is called once, on a thread of this server's, when the connection has ended, for whatever reason,
    /// and none of its requests is executed any more. It must not wait for this server.
    pub fn adopt(
        &self,
        socket: OwnedFd,
        export: &str,
        ended: impl FnOnce() + Send + 'static,
    ) -> Result<(), Error> {
        let session = Session {
            export: self.export(export)?.clone(),
            structured: false,
            allocation: false,
        };
        self.connections
            .adopted(socket, session, ended)
            .map_err(Error::Thread)
    }

    /// Number of connections served now.
    pub fn connections(&self) -> usize {
        self.connections.count()
    }

    /// Lets the requests in flight finish and their replies go out, then closes every connection. Takes at most
    /// twice [`Builder::shutdown_timeout`](crate::Builder::shutdown_timeout).
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
