//! The server: its settings, the thread that accepts, and the orderly stop of both it and its connections.

use crate::{Adopter, Error, Export, Listen, connections::Connections, listen::Listener};
use rustix::{io::Errno, net};
use std::{
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

/// How long the accepting thread waits when the system has no descriptors or memory for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long a connection looks for the next request.
/// What [`Builder::poll`] is unless it is said.
pub const DEFAULT_POLL: Duration = Duration::from_micros(100);

/// Settings of a server to be made.
#[derive(Clone)]
pub struct Builder {
    pub(crate) exports: Vec<Export>,
    pub(crate) workers: usize,
    pub(crate) max_connections: usize,
    allow_remote: bool,
    pub(crate) poll: Duration,
    pub(crate) handshake_timeout: Duration,
    pub(crate) shutdown_timeout: Duration,
}

impl Builder {
    /// Adds an export. The first is also served under the empty name.
    pub fn export(mut self, export: Export) -> Self {
        self.exports.push(export);
        self
    }

    /// Most worker threads for one connection (default: the number of CPUs, at most 4; at least 1).
    pub fn workers(mut self, count: usize) -> Self {
        self.workers = count.max(1);
        self
    }

    /// Most connections at a time (default 64); further ones are closed at once.
    pub fn max_connections(mut self, count: usize) -> Self {
        self.max_connections = count.max(1);
        self
    }

    /// Whether a TCP address that is not loopback may be bound (default: no). NBD has no password.
    pub fn allow_remote(mut self, yes: bool) -> Self {
        self.allow_remote = yes;
        self
    }

    /// Longest time that a connection looks for the next request before it sleeps (default 100 microseconds);
    /// zero is not to look.
    pub fn poll(mut self, most: Duration) -> Self {
        self.poll = most;
        self
    }

    /// How long a client may take to negotiate (default 10 seconds).
    pub fn handshake_timeout(mut self, limit: Duration) -> Self {
        self.handshake_timeout = limit;
        self
    }

    /// How long a shutdown waits for requests in flight before it closes their sockets (default 5 seconds).
    pub fn shutdown_timeout(mut self, limit: Duration) -> Self {
        self.shutdown_timeout = limit;
        self
    }

    /// Takes the address. Clients may connect from now on and are served after [`Server::start`].
    pub fn bind(self, listen: &Listen) -> Result<Server, Error> {
        self.check()?;
        let listener = Listener::bind(listen, self.allow_remote)?;
        Ok(Server {
            listener,
            settings: self,
        })
    }

    /// Makes a server without an address, for sockets that somebody else connected. What concerns accepting and
    /// negotiating ([`max_connections`](Self::max_connections), [`allow_remote`](Self::allow_remote),
    /// [`handshake_timeout`](Self::handshake_timeout)) has no effect on it.
    pub fn adopter(self) -> Result<Adopter, Error> {
        self.check()?;
        Ok(Adopter::new(Connections::new(self)))
    }

    fn check(&self) -> Result<(), Error> {
        if self.exports.is_empty() {
            return Err(Error::NoExport);
        }
        for (i, export) in self.exports.iter().enumerate() {
            export.check(&self.exports[..i])?;
        }
        Ok(())
    }
}

/// A server that has its address but does not serve yet.
pub struct Server {
    listener: Listener,
    settings: Builder,
}

impl Server {
    /// Starts the settings of a server.
    pub fn builder() -> Builder {
        let cpus = thread::available_parallelism().map_or(1, usize::from);
        Builder {
            exports: Vec::new(),
            workers: cpus.min(4),
            max_connections: 64,
            allow_remote: false,
            poll: DEFAULT_POLL,
            handshake_timeout: Duration::from_secs(10),
            shutdown_timeout: Duration::from_secs(5),
        }
    }

    /// The address, with the actual port where port 0 was asked for.
    pub fn local(&self) -> Listen {
        self.listener.local.clone()
    }

    /// The NBD URI of an export, such as `nbd+unix:///zram0?socket=/run/uzram.sock`.
    pub fn uri(&self, export: &str) -> String {
        self.listener.local.uri(export)
    }

    /// Starts to accept clients, in a thread of its own.
    pub fn start(self) -> Result<Handle, Error> {
        let connections = Connections::new(self.settings);
        let local = self.listener.local.clone();
        let listener = Arc::new(self.listener);
        let accepting = (Arc::clone(&listener), Arc::clone(&connections));
        let thread = thread::Builder::new()
            .name("nbd-accept".into())
            .spawn(move || accept(&accepting.0, &accepting.1))
            .map_err(Error::Thread)?;
        Ok(Handle {
            local,
            running: Some(Running {
                connections,
                listener,
                thread,
            }),
        })
    }
}

/// A running server. Dropping it stops the server as [`Handle::shutdown`] does.
pub struct Handle {
    local: Listen,
    running: Option<Running>,
}

struct Running {
    connections: Arc<Connections>,
    listener: Arc<Listener>,
    thread: JoinHandle<()>,
}

impl Handle {
    /// The address, with the actual port where port 0 was asked for.
    pub fn local(&self) -> Listen {
        self.local.clone()
    }

    /// The NBD URI of an export.
    pub fn uri(&self, export: &str) -> String {
        self.local.uri(export)
    }

    /// Number of clients connected now.
    pub fn connections(&self) -> usize {
        self.running
            .as_ref()
            .map_or(0, |running| running.connections.count())
    }

    /// Stops accepting, lets the requests in flight finish and their replies go out, closes every connection and
    /// removes the file of a unix socket. Takes at most twice [`Builder::shutdown_timeout`].
    pub fn shutdown(mut self) -> Result<(), Error> {
        self.stop()
    }

    fn stop(&mut self) -> Result<(), Error> {
        let Some(Running {
            connections,
            listener,
            thread,
        }) = self.running.take()
        else {
            return Ok(());
        };
        connections.stop.set();
        // Makes accept return; a connection accepted just before sees the flag set above.
        let _ = net::shutdown(&listener.fd, net::Shutdown::Both);
        let _ = thread.join();
        drop(listener);
        connections.end_all()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Err(e) = self.stop() {
            tracing::warn!("{e}");
        }
    }
}

/// The accepting thread.
fn accept(listener: &Listener, connections: &Arc<Connections>) {
    let tcp = matches!(listener.local, Listen::Tcp(_));
    loop {
        let accepted = net::accept_with(&listener.fd, net::SocketFlags::CLOEXEC);
        if connections.stop.is_set() {
            return;
        }
        match accepted {
            Ok(fd) => {
                // A reply must not wait for the acknowledgement of the one before.
                if tcp && let Err(e) = net::sockopt::set_tcp_nodelay(&fd, true) {
                    tracing::debug!("no TCP_NODELAY: {e}");
                }
                connections.accepted(fd);
            }
            Err(Errno::INTR | Errno::CONNABORTED) => {}
            Err(e) => {
                tracing::warn!("cannot accept: {e}");
                thread::sleep(ACCEPT_PAUSE);
            }
        }
    }
}
