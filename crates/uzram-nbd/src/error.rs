//! What can go wrong for whoever runs the server. What a client does wrong ends its own connection and is logged: see
//! [`Close`](crate::close::Close).

use crate::{Listen, proto::MAX_STRING};
use std::{io, net::SocketAddr, path::PathBuf};
use thiserror::Error;
use uzram_frontend::SocketError;

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
        reason: &'static str,
    },
    /// A TCP host that has no address, or a port that is no number.
    #[error("cannot resolve {host}: {source} (use tcp:HOST[:PORT])")]
    Resolve {
        /// The host, with its port.
        host: String,
        /// The resolver's answer.
        source: io::Error,
    },
    /// A TCP address that other machines can reach, while remote clients are not allowed.
    #[error(
        "{addr} is reachable from other machines, whose clients have to be allowed: otherwise use 127.0.0.1 or [::1]"
    )]
    NotLoopback {
        /// The address.
        addr: SocketAddr,
    },
    /// Users were allowed on a TCP address.
    #[error(
        "users can be allowed on a unix socket only: TCP does not tell which user a client is, so every user of this \
         machine who reaches {addr} could connect"
    )]
    UsersOverTcp {
        /// The address.
        addr: SocketAddr,
    },
    /// A user who was allowed cannot get to the unix socket.
    #[error(
        "uid {uid} cannot reach {}: {} is closed to others. Choose a socket in a directory that they can search",
        path.display(), directory.display()
    )]
    Unreachable {
        /// The user.
        uid: u32,
        /// The socket's path.
        path: PathBuf,
        /// The directory that is in the way.
        directory: PathBuf,
    },
    /// Another server accepts connections on the unix socket.
    #[error("{} is in use: another server accepts connections there", path.display())]
    InUse {
        /// The socket's path.
        path: PathBuf,
    },
    /// The path of the unix socket belongs to something else.
    #[error("{} exists and is not a socket: choose another path, or remove it", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The operating system refused the listening socket.
    #[error("cannot listen on {listen}: {source}")]
    Bind {
        /// The address.
        listen: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A file that TLS needs is missing or wrong.
    #[error("TLS: {0}")]
    Tls(#[from] uzram_tls::Error),
    /// A server needs at least one export.
    #[error("no export was given: a server needs at least one")]
    NoExport,
    /// A name that no export can have.
    #[error(
        "export name {name:?} is not possible: use 1 to {MAX_STRING} bytes without NUL \
         (clients get the first export for the empty name)"
    )]
    ExportName {
        /// The name.
        name: String,
    },
    /// A description that no export can have.
    #[error(
        "the description of export {name:?} is not possible: use at most {MAX_STRING} bytes without NUL"
    )]
    Description {
        /// The export's name.
        name: String,
    },
    /// Two exports have the same name.
    #[error("two exports are named {name:?}: each needs a name of its own")]
    DuplicateExport {
        /// The name.
        name: String,
    },
    /// No export has this name.
    #[error("no export is named {name:?}")]
    UnknownExport {
        /// The name.
        name: String,
    },
    /// The system would not start a thread.
    #[error("cannot start a thread: {source}")]
    Thread {
        /// The system's answer.
        source: io::Error,
    },
    /// Some connections did not end within the time for shutdown, even after their sockets were closed.
    #[error("{connections} connections did not end in {seconds} seconds")]
    Stuck {
        /// How many.
        connections: usize,
        /// How long they were waited for.
        seconds: u64,
    },
}

impl From<SocketError> for Error {
    fn from(error: SocketError) -> Error {
        match error {
            SocketError::Unreachable {
                uid,
                path,
                directory,
            } => Error::Unreachable {
                uid,
                path,
                directory,
            },
            SocketError::InUse { path } => Error::InUse { path },
            SocketError::NotASocket { path } => Error::NotASocket { path },
            SocketError::Bind { path, source } => Error::Bind {
                listen: Listen::Unix(path).to_string(),
                source,
            },
            error => Error::Bind {
                listen: "a unix socket".into(),
                source: io::Error::other(error),
            },
        }
    }
}
