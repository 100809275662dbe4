//! The server: its builder, the thread that accepts, and the orderly stop of that thread and all connections.

use crate::{
    Adopter, DEFAULT_POLL, Error, Export, Listen, connections::Connections, listen::Listener,
    settings::ServerSettings,
};
use rustix::{io::Errno, net};
use std::{
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

/// How long the accepting thread waits when the system has no descriptors or memory for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Sets up a server; made by [`Server::builder`].
#[derive(Clone)]
pub struct ServerBuilder {
    settings: ServerSettings,
    allow_remote: bool,
}

impl ServerBuilder {
    /// Adds an export. The first is also served under the empty name.
    pub fn export(mut self, export: Export) -> Self {
        self.settings.exports.push(export);
        self
    }

    /// Most worker threads of one connection (default: the number of CPUs, at most 4; at least 1).
    pub fn workers(mut self, count: usize) -> Self {
        self.settings.workers = count.max(1);
        self
    }

    /// Most connections at a time (default 64). Further ones are closed at once.
    pub fn max_connections(mut self, count: usize) -> Self {
        self.settings.max_connections = count.max(1);
        self
    }

    /// Whether a TCP address that is not loopback may be bound (default: no). NBD has no password.
    pub fn allow_remote(mut self, yes: bool) -> Self {
        self.allow_remote = yes;
        self
    }

    /// Longest time that a connection polls for the next request before it sleeps (default [`DEFAULT_POLL`]). Zero never
    /// polls.
    pub fn poll(mut self, longest: Duration) -> Self {
        self.settings.poll = longest;
        self
    }

    /// How long a client may take to negotiate (default 10 seconds).
    pub fn handshake_timeout(mut self, limit: Duration) -> Self {
        self.settings.handshake_timeout = limit;
        self
    }

    /// How long a shutdown waits for requests in flight before it closes their sockets (default 5 seconds).
    pub fn shutdown_timeout(mut self, limit: Duration) -> Self {
        self.settings.shutdown_timeout = limit;
        self
    }

    /// Binds the address. Clients can connect from now on, and are served after [`Server::start`].
    pub fn bind(self, listen: &Listen) -> Result<Server, Error> {
        self.settings.check()?;
        let listener = Listener::bind(listen, self.allow_remote)?;
        Ok(Server {
            listener,
            settings: self.settings,
        })
    }

    /// Makes a server without an address, for sockets that somebody else connected. The settings for accepting and
    /// negotiating ([`max_connections`](Self::max_connections), [`allow_remote`](Self::allow_remote),
    /// [`handshake_timeout`](Self::handshake_timeout)) have no effect on it.
    pub fn adopter(self) -> Result<Adopter, Error> {
        self.settings.check()?;
        Ok(Adopter::new(Connections::new(self.settings)))
    }
}

/// A server that has its address but does not serve yet.
pub struct Server {
    listener: Listener,
    settings: ServerSettings,
}

impl Server {
    /// Begins to set up a server.
    pub fn builder() -> ServerBuilder {
        let cpus = thread::available_parallelism().map_or(1, usize::from);
        ServerBuilder {
            settings: ServerSettings {
                exports: Vec::new(),
                workers: cpus.min(4),
                max_connections: 64,
                poll: DEFAULT_POLL,
                handshake_timeout: Duration::from_secs(10),
                shutdown_timeout: Duration::from_secs(5),
            },
            allow_remote: false,
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

    /// Starts a thread that accepts clients.
    pub fn start(self) -> Result<RunningServer, Error> {
        let connections = Connections::new(self.settings);
        let local = self.listener.local.clone();
        let listener = Arc::new(self.listener);
        let accepting = (Arc::clone(&listener), Arc::clone(&connections));
        let thread = thread::Builder::new()
            .name("nbd-accept".into())
            .spawn(move || accept(&accepting.0, &accepting.1))
            .map_err(|source| Error::Thread { source })?;
        Ok(RunningServer {
            local,
            running: Some(Running {
                connections,
                listener,
                thread,
            }),
        })
    }
}

/// A running server. Dropping it stops the server as [`RunningServer::shutdown`] does.
pub struct RunningServer {
    local: Listen,
    running: Option<Running>,
}

struct Running {
    connections: Arc<Connections>,
    listener: Arc<Listener>,
    thread: JoinHandle<()>,
}

impl RunningServer {
    /// The address, with the actual port where port 0 was asked for.
    pub fn local(&self) -> Listen {
        self.local.clone()
    }

    /// The NBD URI of an export.
    pub fn uri(&self, export: &str) -> String {
        self.local.uri(export)
    }

    /// Number of connected clients.
    pub fn connections(&self) -> usize {
        self.running
            .as_ref()
            .map_or(0, |running| running.connections.count())
    }

    /// Stops accepting, finishes the requests in flight and sends their replies, closes every connection and removes the file
    /// of a unix socket. Takes at most twice [`ServerBuilder::shutdown_timeout`].
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
        // Makes accept return. A connection that was accepted just before sees the flag set above.
        let _ = net::shutdown(&listener.fd, net::Shutdown::Both);
        let _ = thread.join();
        drop(listener);
        connections.end_all()
    }
}

impl Drop for RunningServer {
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
                // A reply must not wait for the acknowledgement of the previous one.
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
