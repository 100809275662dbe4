//! The connections of a server: their threads, their places, the orderly end.
//!
//! A connection is either *accepted* and negotiates first, or *taken* from another process that has negotiated, or *given* by the
//! program. Where the exports are those of other processes, accepted ones are given away. Limits and timeouts are for accepted
//! and taken ones: they have *places*, which [`limits`](crate::limits) deals out. A client that gets none is told why, by a connection
//! that ends at once; there are at most [`MAX_REFUSALS`] of these, and further ones are closed without a word.
//!
//! # Ending one connection
//!
//! A connection that is dismissed, being idle for too long or having to give back its place, receives no more, serves what
//! has arrived, sends the replies and closes. If it has not ended after the time limit for a shutdown, its socket is shut
//! down in both directions. [`Connections::watch`] does this, on the accepting thread.
//!
//! # Stopping
//!
//! [`Connections::end_all`] shuts down the receive side of every connection. Each serves what has arrived by then, sends the
//! replies and closes. Those whose clients take no replies are closed after [`STALLED`](crate::activity::STALLED), so that
//! none holds up the others. At the time limit the sockets of all are shut down in both directions.

use crate::{
    Error, Export, Unavailable,
    activity::ConnectionPhase,
    agreement::{Agreement, TlsTerms},
    catalog::Catalog,
    close::Close,
    connection,
    execute::Session,
    handshake::{self, Terms},
    limits::{self, Admission, AdmissionRefusal, PlacedConnection},
    lock::lock,
    peer::Peer,
    relay::relay,
    settings::ServerSettings,
    socket::Socket,
    stop::{Dismissal, Stop},
};
use rustix::net::{self, AddressFamily, SocketFlags, SocketType};
use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd, OwnedFd},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use uzram_frontend::{PollPermits, Poller};

/// Most connections that exist only to tell a client why it is refused.
const MAX_REFUSALS: usize = 8;
/// How long a client that is refused may take to ask for an export.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);
/// How often a stop looks for clients that take no replies.
const STOP_PACE: Duration = Duration::from_millis(100);

/// How a connection begins.
enum Begin {
    /// With the handshake, in which the client chooses the export.
    Negotiate,
    /// With the handshake, in which the client is told why it is refused.
    Refuse(AdmissionRefusal),
    /// With the answer to the option that ended a handshake, which another process led.
    Conclude(Export, Agreement),
    /// With requests, as agreed elsewhere.
    Transmit(Session),
}

/// Where a client that has negotiated is served.
enum Place {
    /// Here.
    Here(Export),
    /// By another process, which has the socket.
    Away,
    /// By another process, which has the other end of this socket: what the client says is encrypted.
    Behind(OwnedFd),
}

/// One connection.
struct Client {
    id: u64,
    peer: Peer,
    socket: Socket,
    stop: Stop,
}

/// What a connection counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// It has a place.
    Placed,
    /// It was dismissed, and must have ended by then.
    Leaving(Instant),
    /// It exists to tell its client why.
    Refused,
    /// It was given, and has no limits.
    Given,
}

struct Entry {
    client: Arc<Client>,
    standing: Standing,
}

impl Entry {
    /// Tells the connection to end.
    fn dismiss(&mut self, why: Dismissal, deadline: Instant) {
        self.client.stop.dismiss(why);
        self.client.socket.shutdown(net::Shutdown::Read);
        self.standing = Standing::Leaving(deadline);
    }
}

pub(crate) struct Connections {
    pub(crate) settings: ServerSettings,
    pub(crate) stop: Stop,
    poll_permits: Arc<PollPermits>,
    next_id: AtomicU64,
    /// Not touched while a connection is served.
    entries: Mutex<HashMap<u64, Entry>>,
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
            entries: Mutex::default(),
            ended: Condvar::new(),
        })
    }

    /// Number of connections, without those of clients that are being refused.
    pub(crate) fn count(&self) -> usize {
        let entries = lock(&self.entries);
        let real = |entry: &&Entry| entry.standing != Standing::Refused;
        entries.values().filter(real).count()
    }

    /// The peers of these connections, in the order in which they came.
    pub(crate) fn peers(&self) -> Vec<Peer> {
        let entries = lock(&self.entries);
        let real = entries
            .values()
            .filter(|entry| entry.standing != Standing::Refused);
        let mut peers: Vec<_> = real.map(|e| (e.client.id, e.client.peer)).collect();
        peers.sort_by_key(|(id, _)| *id);
        peers.into_iter().map(|(_, peer)| peer).collect()
    }

    /// Serves a client that has just connected, or tells it why not.
    pub(crate) fn accepted(self: &Arc<Self>, fd: OwnedFd, peer: Peer) {
        let begin = match self.admit(&peer) {
            Ok(()) => Begin::Negotiate,
            Err(refusal) => {
                tracing::warn!(%peer, "refused: {refusal}");
                if self.refusals() >= MAX_REFUSALS {
                    return;
                }
                Begin::Refuse(refusal)
            }
        };
        let socket = Socket::accepted(fd, self.settings.send_timeout);
        if let Err(e) = self.begin(socket, peer, begin, || {}) {
            tracing::warn!(%peer, "refused: cannot start a thread: {e}");
        }
    }

    fn refusals(&self) -> usize {
        let entries = lock(&self.entries);
        let refused = |entry: &&Entry| entry.standing == Standing::Refused;
        entries.values().filter(refused).count()
    }

    /// Serves a client with which another process has negotiated. That one has decided that the client may connect; places
    /// are dealt out here.
    pub(crate) fn take(
        self: &Arc<Self>,
        fd: OwnedFd,
        peer: Peer,
        agreement: Agreement,
    ) -> Result<(), Unavailable> {
        let (export, demanded) = self.first_for_others()?;
        let export = export.clone();
        if let Some(why) = TlsTerms::lacking(demanded.as_ref(), agreement.tls.as_ref()) {
            tracing::warn!(%peer, "refused: {why}");
            return Err(Unavailable::Refused(why.into()));
        }
        if self.stop.is_set() {
            return Err(Unavailable::Gone("the server is stopping".into()));
        }
        self.place(&peer).map_err(|refusal| {
            tracing::warn!(%peer, "refused: {refusal}");
            Unavailable::Refused(format!("refused: {refusal}"))
        })?;
        let socket = Socket::accepted(fd, self.settings.send_timeout);
        let begin = Begin::Conclude(export, agreement);
        self.begin(socket, peer, begin, || {})
            .map_err(|e| Unavailable::Refused(format!("cannot start a thread: {e}")))
    }

    /// The export for which other processes may negotiate, and what TLS has to show them of a client.
    pub(crate) fn first_for_others(&self) -> Result<(&Export, Option<TlsTerms>), Unavailable> {
        let refused = |why: &str| Unavailable::Refused(why.into());
        let Catalog::Own(exports) = &self.settings.exports else {
            return Err(refused("its exports are those of other processes"));
        };
        let first = exports
            .first()
            .ok_or_else(|| refused("there is no export"))?;
        let demanded = self.settings.tls.demanded();
        let demanded = demanded.map_err(|error| refused(&error.to_string()))?;
        Ok((first, demanded))
    }

    /// Whether a newcomer may connect, and a place for it.
    fn admit(&self, newcomer: &Peer) -> Result<(), AdmissionRefusal> {
        if let Peer::Process(peer) = newcomer
            && !self.settings.allows(peer.uid)
        {
            return Err(AdmissionRefusal::User(peer.uid));
        }
        if let Peer::Remote(address) = newcomer
            && !self.settings.allows_address(address.ip())
        {
            return Err(AdmissionRefusal::Address(address.ip()));
        }
        self.place(newcomer)
    }

    /// Finds a place for a newcomer. A connection that has to give back its own is told to end.
    fn place(&self, newcomer: &Peer) -> Result<(), AdmissionRefusal> {
        let Some(owner) = newcomer.owner() else {
            return Ok(());
        };
        let mut entries = lock(&self.entries);
        let placed = entries.values().filter_map(|entry| {
            let client = (entry.standing == Standing::Placed).then_some(&entry.client)?;
            Some(PlacedConnection {
                id: client.id,
                owner: client.peer.owner()?,
                phase: client.socket.activity.phase(),
            })
        });
        let placed: Vec<_> = placed.collect();
        let leaving = |entry: &&Entry| matches!(entry.standing, Standing::Leaving(_));
        let leaving = entries.values().filter(leaving).count();
        let most = self.settings.max_connections;
        match limits::admit(owner, most, &placed, leaving) {
            Admission::Free => Ok(()),
            Admission::Instead(id) => {
                if let Some(entry) = entries.get_mut(&id) {
                    entry.dismiss(Dismissal::Replaced, self.leaving_deadline());
                }
                Ok(())
            }
            Admission::Refused(refusal) => Err(refusal),
        }
    }

    fn leaving_deadline(&self) -> Instant {
        Instant::now() + self.settings.shutdown_timeout
    }

    /// Serves a socket that somebody else connected: from the handshake on, or with a session from the requests on. `ended`
    /// is called when none of its threads can touch the device any more.
    pub(crate) fn given(
        self: &Arc<Self>,
        fd: OwnedFd,
        session: Option<Session>,
        ended: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        let socket = Socket::new(fd);
        let begin = session.map_or(Begin::Negotiate, Begin::Transmit);
        self.begin(socket, Peer::Given, begin, ended)
    }

    /// Starts a connection's first thread.
    fn begin(
        self: &Arc<Self>,
        socket: Socket,
        peer: Peer,
        begin: Begin,
        ended: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let standing = match (&begin, peer) {
            (Begin::Refuse(_), _) => Standing::Refused,
            (_, Peer::Given) => Standing::Given,
            _ => Standing::Placed,
        };
        let client = Arc::new(Client {
            id,
            peer,
            socket,
            stop: self.stop.of_connection(),
        });
        let entry = Entry {
            client: Arc::clone(&client),
            standing,
        };
        lock(&self.entries).insert(id, entry);
        let this = Arc::clone(self);
        let serve = move || {
            this.serve(&client, begin);
            ended();
        };
        let spawned = thread::Builder::new()
            .name(format!("nbd{id}.0"))
            .spawn(serve);
        if spawned.is_err() {
            lock(&self.entries).remove(&id);
        }
        spawned.map(drop)
    }

    /// Runs a connection to its end, on its first thread.
    fn serve(&self, client: &Client, begin: Begin) {
        let Client {
            id,
            peer,
            socket,
            stop,
        } = client;
        let limit = self.settings.handshake_timeout;
        let refused = matches!(begin, Begin::Refuse(_));
        let serve = || {
            let (export, agreement) = match begin {
                Begin::Negotiate => match self.negotiate(client, limit, None)? {
                    (agreement, Place::Here(export)) => (export, agreement),
                    (_, Place::Away) => return Err(Close::GivenAway),
                    (_, Place::Behind(inner)) => {
                        socket.negotiated().map_err(Close::Receive)?;
                        return Err(relay(socket, &inner, stop));
                    }
                },
                Begin::Refuse(refusal) => {
                    self.negotiate(client, limit.min(REFUSAL_TIMEOUT), Some(refusal))?;
                    return Err(Close::Refused(refusal));
                }
                Begin::Conclude(export, agreement) => (export, agreement),
                Begin::Transmit(session) => return Err(self.transmit(client, &session)),
            };
            let export = Export {
                read_only: export.read_only || agreement.read_only,
                name: agreement.name.clone(),
                ..export
            };
            handshake::conclude(socket, &agreement, &export.facts(), limit)?;
            let session = Session {
                export,
                headers: agreement.headers,
                allocation: agreement.allocation,
            };
            Err::<(), _>(self.transmit(client, &session))
        };
        let reason = catch_unwind(AssertUnwindSafe(serve))
            .unwrap_or(Err(Close::Panicked))
            .unwrap_err();
        match reason {
            // What it was told was logged before.
            _ if refused => tracing::debug!(connection = id, %peer, "closed: {reason}"),
            Close::GivenAway => tracing::debug!(connection = id, %peer, "{reason}"),
            Close::Idle(_) | Close::Replaced => {
                tracing::info!(connection = id, %peer, "closed: {reason}");
            }
            _ if reason.is_clean() => tracing::debug!(connection = id, %peer, "closed: {reason}"),
            _ => tracing::warn!(connection = id, %peer, "closed: {reason}"),
        }
        if !matches!(reason, Close::GivenAway) {
            socket.close();
        }
        lock(&self.entries).remove(id);
        self.ended.notify_all();
    }

    /// Negotiates with a client, and finds who serves it.
    fn negotiate(
        &self,
        client: &Client,
        limit: Duration,
        refusal: Option<AdmissionRefusal>,
    ) -> Result<(Agreement, Place), Close> {
        let Client { socket, stop, .. } = client;
        let terms = Terms {
            exports: &self.settings.exports,
            tls: &self.settings.tls,
            limit,
            refusal,
        };
        handshake::negotiate(socket, terms, stop, |index, agreement| {
            let others = match &self.settings.exports {
                Catalog::Own(exports) => return Ok(Place::Here(exports[index].clone())),
                Catalog::Elsewhere(others) => others,
            };
            if socket.tls().is_none() {
                others.give(index, socket.fd.as_fd(), agreement)?;
                return Ok(Place::Away);
            }
            let pair = net::socketpair(
                AddressFamily::UNIX,
                SocketType::STREAM,
                SocketFlags::CLOEXEC,
                None,
            );
            let (inner, theirs) = pair.map_err(|e| Unavailable::Refused(e.to_string()))?;
            others.give(index, theirs.as_fd(), agreement)?;
            Ok(Place::Behind(inner))
        })
    }

    /// Serves the transmission phase to its end. Returns why it ended.
    fn transmit(&self, client: &Client, session: &Session) -> Close {
        let Client {
            id,
            peer,
            socket,
            stop,
        } = client;
        let settings = &self.settings;
        tracing::debug!(
            connection = id,
            %peer,
            export = session.export.name,
            "transmission phase"
        );
        connection::serve(
            *id,
            socket,
            session,
            stop,
            settings.workers,
            Poller::new(settings.poll, Arc::clone(&self.poll_permits)),
        )
    }

    /// Dismisses connections that have been idle for too long, and closes those that do not leave. Returns when to look
    /// again; `None` if nothing can become due before another client is accepted.
    pub(crate) fn watch(&self) -> Option<Duration> {
        let now = Instant::now();
        let mut next: Option<Duration> = None;
        let mut again = |after: Duration| next = Some(next.map_or(after, |next| next.min(after)));
        for entry in lock(&self.entries).values_mut() {
            let idle = match entry.client.socket.activity.phase() {
                ConnectionPhase::Idle(time) => time,
                _ => Duration::ZERO,
            };
            match (entry.standing, self.settings.idle_timeout) {
                (Standing::Placed, Some(limit)) if idle >= limit => {
                    let deadline = self.leaving_deadline();
                    entry.dismiss(Dismissal::Idle(limit), deadline);
                    again(deadline - now);
                }
                (Standing::Placed, Some(limit)) => again(limit - idle),
                (Standing::Leaving(deadline), _) if deadline <= now => {
                    entry.client.socket.shutdown(net::Shutdown::Both);
                    // A device may be slow; the connection then ends when that is done.
                    again(self.settings.shutdown_timeout.max(Duration::from_secs(1)));
                }
                (Standing::Leaving(deadline), _) => again(deadline - now),
                _ => {}
            }
        }
        next
    }

    /// Ends every connection. The stop flag is set already, and no new connections come.
    pub(crate) fn end_all(&self) -> Result<(), Error> {
        let limit = self.settings.shutdown_timeout;
        self.shutdown(net::Shutdown::Read, |_| true);
        if self.wait_for_all(limit) == 0 {
            return Ok(());
        }
        tracing::warn!("requests are still in flight after {limit:?}: closing their connections");
        self.shutdown(net::Shutdown::Both, |_| true);
        match self.wait_for_all(limit.max(Duration::from_secs(1))) {
            0 => Ok(()),
            connections => Err(Error::Stuck {
                connections,
                seconds: limit.as_secs().max(1),
            }),
        }
    }

    fn shutdown(&self, how: net::Shutdown, which: impl Fn(&Client) -> bool) {
        for entry in lock(&self.entries).values() {
            if which(&entry.client) {
                entry.client.socket.shutdown(how);
            }
        }
    }

    /// Waits until no connection is left, at most for `limit`. Those that are stuck are closed meanwhile. Returns how many
    /// are left.
    fn wait_for_all(&self, limit: Duration) -> usize {
        let deadline = Instant::now() + limit;
        loop {
            let stuck = |client: &Client| client.socket.activity.phase().is_stuck();
            self.shutdown(net::Shutdown::Both, stuck);
            let entries = lock(&self.entries);
            let left = deadline.saturating_duration_since(Instant::now());
            if entries.is_empty() || left.is_zero() {
                return entries.len();
            }
            // A poisoned lock is found by the next round.
            drop(self.ended.wait_timeout(entries, left.min(STOP_PACE)));
        }
    }
}
