//! The connections of a server: their threads, the list of their sockets, the orderly end.
//!
//! A connection is either *accepted* and negotiates first, or *adopted* and begins in the transmission phase.
//!
//! # Stopping
//!
//! [`Connections::end_all`] shuts down the receive side of every connection. Each serves what has arrived by then, sends the
//! replies and closes. At the time limit the sockets of the others are shut down in both directions, which frees even
//! connections that wait for a client to read.

use crate::{
    Error,
    close::Close,
    connection,
    execute::Session,
    handshake,
    lock::lock,
    poll::{PollPermits, Poller},
    settings::ServerSettings,
    socket::Socket,
    stop::Stop,
};
use rustix::net;
use std::{
    collections::HashMap,
    io,
    os::fd::OwnedFd,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// How a connection begins.
enum Begin {
    /// With the handshake, in which the client chooses the export.
    Negotiate,
    /// With requests, as agreed elsewhere.
    Transmit(Session),
}

pub(crate) struct Connections {
    pub(crate) settings: ServerSettings,
    pub(crate) stop: Stop,
    poll_permits: Arc<PollPermits>,
    next_id: AtomicU64,
    /// The sockets of all connections, for the stop. Not touched while a connection is served.
    sockets: Mutex<HashMap<u64, Arc<Socket>>>,
    ended: Condvar,
}

impl Connections {
    pub(crate) fn new(settings: ServerSettings) -> Arc<Self> {
        let cpus = thread::available_parallelism().map_or(1, usize::from);
        Arc::new(Connections {
            settings,
            stop: Stop::default(),
            poll_permits: Arc::new(PollPermits::new(cpus / 2)),
            next_id: AtomicU64::new(0),
            sockets: Mutex::default(),
            ended: Condvar::new(),
        })
    }

    /// Number of connections.
    pub(crate) fn count(&self) -> usize {
        lock(&self.sockets).len()
    }

    /// Serves a client that has just connected, unless the limit is reached.
    pub(crate) fn accepted(self: &Arc<Self>, fd: OwnedFd) {
        let most = self.settings.max_connections;
        if self.count() >= most {
            tracing::warn!("refused: {most} clients are connected, the limit");
        } else if let Err(e) = self.begin(fd, Begin::Negotiate, || {}) {
            tracing::warn!("refused: cannot start a thread: {e}");
        }
    }

    /// Serves a socket whose client sends requests at once. `ended` is called when none of its threads can touch the device
    /// any more.
    pub(crate) fn adopted(
        self: &Arc<Self>,
        fd: OwnedFd,
        session: Session,
        ended: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        self.begin(fd, Begin::Transmit(session), ended)
    }

    /// Starts a connection's first thread.
    fn begin(
        self: &Arc<Self>,
        fd: OwnedFd,
        begin: Begin,
        ended: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let socket = Arc::new(Socket::new(fd));
        lock(&self.sockets).insert(id, Arc::clone(&socket));
        let this = Arc::clone(self);
        let serve = move || {
            this.serve(id, &socket, begin);
            ended();
        };
        let spawned = thread::Builder::new()
            .name(format!("nbd{id}.0"))
            .spawn(serve);
        if spawned.is_err() {
            lock(&self.sockets).remove(&id);
        }
        spawned.map(drop)
    }

    /// Runs a connection to its end, on its first thread.
    fn serve(&self, id: u64, socket: &Socket, begin: Begin) {
        let settings = &self.settings;
        let serve = || {
            let session = match begin {
                Begin::Negotiate => handshake::negotiate(
                    socket,
                    &settings.exports,
                    &self.stop,
                    settings.handshake_timeout,
                )?,
                Begin::Transmit(session) => session,
            };
            tracing::debug!(
                connection = id,
                export = session.export.name,
                "transmission phase"
            );
            Err::<(), _>(connection::serve(
                id,
                socket,
                &session,
                &self.stop,
                settings.workers,
                Poller::new(settings.poll, Arc::clone(&self.poll_permits)),
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
        lock(&self.sockets).remove(&id);
        self.ended.notify_all();
    }

    /// Ends every connection. The stop flag is set already, and no new connections come.
    pub(crate) fn end_all(&self) -> Result<(), Error> {
        let limit = self.settings.shutdown_timeout;
        self.shutdown_all(net::Shutdown::Read);
        if self.wait_for_all(limit) == 0 {
            return Ok(());
        }
        tracing::warn!("requests are still in flight after {limit:?}: closing their connections");
        self.shutdown_all(net::Shutdown::Both);
        match self.wait_for_all(limit.max(Duration::from_secs(1))) {
            0 => Ok(()),
            connections => Err(Error::Stuck {
                connections,
                seconds: limit.as_secs().max(1),
            }),
        }
    }

    fn shutdown_all(&self, how: net::Shutdown) {
        for socket in lock(&self.sockets).values() {
            socket.shutdown(how);
        }
    }

    /// Waits until no connection is left, at most for `limit`. Returns how many are left.
    fn wait_for_all(&self, limit: Duration) -> usize {
        let deadline = Instant::now() + limit;
        let mut sockets = lock(&self.sockets);
        while !sockets.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            sockets = match self.ended.wait_timeout(sockets, left) {
                Ok((guard, _)) => guard,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
        sockets.len()
    }
}
