//! The server: its settings, the thread that accepts, the list of connections, and the orderly stop.
//!
//! # Stopping
//!
//! [`Handle::shutdown`] stops accepting, then shuts down the receive side of every connection: each serves what has
//! arrived by then, sends the replies and closes. Connections that have not ended when the time limit is over have
//! their sockets shut down in both directions, which frees even those that wait for a client to read.

use crate::{
    Error, Export, Listen, close::Close, connection, handshake, listen::Listener, lock,
    receive::Stop, reply::Socket,
};
use rustix::{io::Errno, net};
use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// How long the accepting thread waits when the system has no descriptors or memory for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Settings of a server to be made.
#[derive(Clone)]
pub struct Builder {
    exports: Vec<Export>,
    workers: usize,
    max_connections: usize,
    allow_remote: bool,
    handshake_timeout: Duration,
    shutdown_timeout: Duration,
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
        if self.exports.is_empty() {
            return Err(Error::NoExport);
        }
        for (i, export) in self.exports.iter().enumerate() {
            export.check(&self.exports[..i])?;
        }
        let listener = Listener::bind(listen, self.allow_remote)?;
        Ok(Server {
            listener,
            settings: self,
        })
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
        let shared = Arc::new(Shared {
            settings: self.settings,
            stop: Stop::default(),
            connections: Mutex::default(),
            ended: Condvar::new(),
        });
        let local = self.listener.local.clone();
        let listener = Arc::new(self.listener);
        let accepting = (Arc::clone(&listener), Arc::clone(&shared));
        let thread = thread::Builder::new()
            .name("nbd-accept".into())
            .spawn(move || accept(&accepting.0, &accepting.1))
            .map_err(Error::Thread)?;
        Ok(Handle {
            local,
            running: Some(Running {
                shared,
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
    shared: Arc<Shared>,
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
            .map_or(0, |running| lock(&running.shared.connections).len())
    }

    /// Stops accepting, lets the requests in flight finish and their replies go out, closes every connection and
    /// removes the file of a unix socket. Takes at most twice [`Builder::shutdown_timeout`].
    pub fn shutdown(mut self) -> Result<(), Error> {
        self.stop()
    }

    fn stop(&mut self) -> Result<(), Error> {
        let Some(Running {
            shared,
            listener,
            thread,
        }) = self.running.take()
        else {
            return Ok(());
        };
        shared.stop.set();
        // Makes accept return; a connection accepted just before sees the flag set above.
        let _ = net::shutdown(&listener.fd, net::Shutdown::Both);
        let _ = thread.join();
        drop(listener);
        let limit = shared.settings.shutdown_timeout;
        shared.shutdown_all(net::Shutdown::Read);
        if shared.wait_for_the_last(limit) == 0 {
            return Ok(());
        }
        tracing::warn!("requests are still in flight after {limit:?}: closing their connections");
        shared.shutdown_all(net::Shutdown::Both);
        match shared.wait_for_the_last(limit.max(Duration::from_secs(1))) {
            0 => Ok(()),
            connections => Err(Error::Stuck {
                connections,
                seconds: limit.as_secs().max(1),
            }),
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Err(e) = self.stop() {
            tracing::warn!("{e}");
        }
    }
}

struct Shared {
    settings: Builder,
    stop: Stop,
    /// The sockets of the connections, for the stop; not touched while a connection is served.
    connections: Mutex<HashMap<u64, Arc<Socket>>>,
    ended: Condvar,
}

impl Shared {
    fn shutdown_all(&self, how: net::Shutdown) {
        for socket in lock(&self.connections).values() {
            socket.shutdown(how);
        }
    }

    /// Waits until no connection is left, at most `limit`; the number of those left.
    fn wait_for_the_last(&self, limit: Duration) -> usize {
        let deadline = Instant::now() + limit;
        let mut connections = lock(&self.connections);
        while !connections.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            connections = match self.ended.wait_timeout(connections, left) {
                Ok((guard, _)) => guard,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
        connections.len()
    }
}

/// The accepting thread.
fn accept(listener: &Listener, shared: &Arc<Shared>) {
    let tcp = matches!(listener.local, Listen::Tcp(_));
    for id in 0.. {
        let accepted = net::accept_with(&listener.fd, net::SocketFlags::CLOEXEC);
        if shared.stop.is_set() {
            return;
        }
        match accepted {
            Ok(fd) => admit(shared, id, Socket::new(fd), tcp),
            Err(Errno::INTR | Errno::CONNABORTED) => {}
            Err(e) => {
                tracing::warn!("cannot accept: {e}");
                thread::sleep(ACCEPT_PAUSE);
            }
        }
    }
}

/// Gives a new connection its thread, if there is room for one more.
fn admit(shared: &Arc<Shared>, id: u64, socket: Socket, tcp: bool) {
    let socket = Arc::new(socket);
    let most = shared.settings.max_connections;
    {
        let mut connections = lock(&shared.connections);
        if connections.len() >= most {
            tracing::warn!(
                connection = id,
                "refused: {most} clients are connected, the limit"
            );
            return;
        }
        connections.insert(id, Arc::clone(&socket));
    }
    // A reply must not wait for the acknowledgement of the one before.
    if tcp && let Err(e) = net::sockopt::set_tcp_nodelay(&socket.fd, true) {
        tracing::debug!(connection = id, "no TCP_NODELAY: {e}");
    }
    let serving = Arc::clone(shared);
    let spawned = thread::Builder::new()
        .name(format!("nbd{id}.0"))
        .spawn(move || run(&serving, id, &socket));
    if let Err(e) = spawned {
        tracing::warn!(connection = id, "refused: cannot start a thread: {e}");
        lock(&shared.connections).remove(&id);
    }
}

/// A connection's first thread.
fn run(shared: &Shared, id: u64, socket: &Socket) {
    let settings = &shared.settings;
    let serve = || {
        let session = handshake::negotiate(
            socket,
            &settings.exports,
            &shared.stop,
            settings.handshake_timeout,
        )?;
        tracing::debug!(
            connection = id,
            export = session.export.name,
            "transmission phase"
        );
        Err::<(), _>(connection::serve(
            id,
            socket,
            &session,
            &shared.stop,
            settings.workers,
        ))
    };
    let reason = catch_unwind(AssertUnwindSafe(serve))
        .unwrap_or(Err(Close::Panicked))
        .unwrap_err();
    if reason.is_clean() {
        tracing::debug!(connection = id, "closed: {reason}");
    } else {
        tracing::warn!(connection = id, "closed: {reason}");
    }
    socket.shutdown(net::Shutdown::Both);
    lock(&shared.connections).remove(&id);
    shared.ended.notify_all();
}
