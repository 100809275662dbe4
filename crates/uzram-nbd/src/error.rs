//! What can go wrong for the one who runs the server. What a client does wrong is not here: it ends that
//! client's connection and is logged (see `connection::Close`).

use std::{io, net::SocketAddr, path::PathBuf};
use thiserror::Error;

/// Why a server could not be made, started or stopped.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// A listen address that cannot be understood.
    #[error("{given:?} is not a listen address ({reason}): use unix:PATH or tcp:HOST[:PORT]")]
    Address {
        /// The text given.
        given: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A TCP address that other machines could reach, without leave to use one.
    #[error(
        "{addr} is reachable from other machines, and NBD has neither encryption nor a password: \
         use 127.0.0.1 or [::1], or allow remote clients explicitly"
    )]
    NotLoopback {
        /// The address.
        addr: SocketAddr,
    },
    /// Somebody accepts connections on the unix socket already.
    #[error("{path} is in use: another server accepts connections there")]
    InUse {
        /// The socket's path.
        path: PathBuf,
    },
    /// The path for the unix socket exists and is something else.
    #[error("{path} exists and is not a socket: it is left alone")]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The operating system refused the listening socket.
    #[error("cannot listen on {listen}: {source}")]
    Bind {
        /// The address.
        listen: String,
        /// The system's own words.
        source: io::Error,
    },
    /// A server needs at least one export.
    #[error("no export was given: a server needs at least one")]
    NoExport,
    /// A name that no export can have.
    #[error("export name {name:?} is not possible: {reason}")]
    ExportName {
        /// The name.
        name: String,
        /// Why not.
        reason: &'static str,
    },
    /// No export has this name.
    #[error("no export is named {name:?}")]
    UnknownExport {
        /// The name.
        name: String,
    },
    /// The system would not start a thread.
    #[error("cannot start a thread: {0}")]
    Thread(#[source] io::Error),
    /// Some connections did not end in the time given for shutdown, even after their sockets were closed.
    #[error("{connections} connections did not end in {seconds} seconds")]
    Stuck {
        /// How many.
        connections: usize,
        /// How long was waited.
        seconds: u64,
    },
}
