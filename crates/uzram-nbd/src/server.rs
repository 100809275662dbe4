//! The server: its builder, the thread that accepts, and the orderly stop of that thread and all connections.

use crate::{
    Adopter, DEFAULT_POLL, Error, Export, ExportDirectory, Listen, Unavailable,
    agreement::{ExportFacts, from_text, to_text},
    catalog::{Catalog, Elsewhere},
    connections::Connections,
    listen::Listener,
    peer::Peer,
    settings::{
        DEFAULT_HANDSHAKE_TIMEOUT, DEFAULT_MAX_CONNECTIONS, DEFAULT_SEND_TIMEOUT, ServerSettings,
    },
    tls::{Tls, TlsPolicy},
};
use ipnet::IpNet;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{self, sockopt},
};
use std::{
    io,
    os::fd::OwnedFd,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

/// How long the accepting thread waits when the system has no descriptors or memory for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// After how long without a byte from a TCP client the system asks whether it is there, and how often and how many times
/// it asks again. A client that vanished is gone after 60 seconds, or after the send timeout if that is longer.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;

/// Sets up a server; made by [`Server::builder`].
#[derive(Clone)]
pub struct ServerBuilder {
    settings: ServerSettings,
    allow_remote: bool,
}

impl ServerBuilder {
    /// Adds an export. The first is also served under the empty name.
    ///
    /// In place of a [`directory`](Self::directory), if there was one.
    pub fn export(mut self, export: Export) -> Self {
        let mut exports = match self.settings.exports {
            Catalog::Own(exports) => exports,
            Catalog::Elsewhere(_) => Vec::new(),
        };
        exports.push(export);
        self.settings.exports = Catalog::Own(exports);
        self
    }

    /// Offers exports of these names that other processes serve, in place of devices of this one. The first is also served under
    /// the empty name. This server negotiates, TLS included, and gives each client away. With `read_only` no client may write,
    /// also where those who serve the exports would allow it.
    ///
    /// An export whose server requires TLS is there for clients with TLS, and for no others. A client with TLS is served through
    /// this process, which encrypts; any other has no more to do with it.
    pub fn directory(
        mut self,
        names: Vec<String>,
        directory: Arc<dyn ExportDirectory>,
        read_only: bool,
    ) -> Self {
        self.settings.exports = Catalog::Elsewhere(Elsewhere {
            names,
            directory,
            read_only,
        });
        self
    }

    /// Most worker threads of one connection (default: the number of CPUs, at most 4; at least 1).
    pub fn workers(mut self, count: usize) -> Self {
        self.settings.workers = count.max(1);
        self
    }

    /// Most connections at a time (default 64). Further clients are told so and closed. Where no place is free, a peer (an
    /// address, or on unix sockets a user) that has more than half of the places gives one back to each newcomer of another
    /// peer.
    pub fn max_connections(mut self, count: usize) -> Self {
        self.settings.max_connections = count.max(1);
        self
    }

    /// Offers TLS to clients (default: no), and with `required` serves none without it.
    pub fn tls(self, tls: Tls, required: bool) -> Self {
        self.tls_policy(match required {
            true => TlsPolicy::Require(tls),
            false => TlsPolicy::On(tls),
        })
    }

    pub(crate) fn tls_policy(mut self, policy: TlsPolicy) -> Self {
        self.settings.tls = policy;
        self
    }

    /// Whether a TCP address that is not loopback may be bound (default: no). NBD has no password: see [`Self::tls`].
    pub fn allow_remote(mut self, yes: bool) -> Self {
        self.allow_remote = yes;
        self
    }

    /// Lets a user connect to a unix socket, besides root and the user of this process. The socket gets the mode 0666 then,
    /// and the server asks the system who connects. TCP cannot tell users apart: binding such an address is refused.
    pub fn allow_uid(mut self, uid: u32) -> Self {
        self.settings.allowed_uids.push(uid);
        self
    }

    /// Serves TCP clients of this network, and of others that are given so, and no others (default: all). What is in front of a
    /// client, such as a translation of addresses, counts as it.
    pub fn allow_network(mut self, network: IpNet) -> Self {
        self.settings.allowed_networks.push(network);
        self
    }

    /// Closes a connection that has held no request for this long (default: never).
    pub fn idle_timeout(mut self, limit: Option<Duration>) -> Self {
        self.settings.idle_timeout = limit;
        self
    }

    /// Closes a connection whose client takes nothing of its replies for this long (default 60 seconds). A TCP client that
    /// vanished is noticed in the same time while it is sent something, and else after a minute or this, if it is longer.
    pub fn send_timeout(mut self, limit: Duration) -> Self {
        self.settings.send_timeout = limit;
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

    /// Asks those who serve the exports of a [`directory`](Self::directory): which of them no client could have now, and why. One
    /// that requires TLS can be had where this server has TLS, and one that knows clients by certificates where this server checks
    /// these by the same files.
    pub fn unavailable(&self) -> Vec<(String, Unavailable)> {
        let shown = self.settings.tls.shown().ok().flatten();
        self.settings.exports.unavailable(shown.as_ref())
    }

    /// Binds the address. Clients can connect from now on, and are served after [`Server::start`].
    pub fn bind(self, listen: &Listen) -> Result<Server, Error> {
        self.settings.check()?;
        if let Listen::Tcp(addr) = listen
            && !self.settings.allowed_uids.is_empty()
        {
            return Err(Error::UsersOverTcp { addr: *addr });
        }
        let uids = self.settings.other_uids();
        let listener = Listener::bind(listen, self.allow_remote, &uids)?;
        Ok(Server {
            listener,
            settings: self.settings,
        })
    }

    /// Makes a server without an address, for sockets that somebody else connected. The settings that limit clients
    /// ([`max_connections`](Self::max_connections), [`allow_remote`](Self::allow_remote), [`allow_uid`](Self::allow_uid),
    /// [`idle_timeout`](Self::idle_timeout), [`send_timeout`](Self::send_timeout)) have no effect on it.
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
                exports: Catalog::default(),
                workers: cpus.min(4),
                max_connections: DEFAULT_MAX_CONNECTIONS,
                allowed_uids: Vec::new(),
                allowed_networks: Vec::new(),
                idle_timeout: None,
                send_timeout: DEFAULT_SEND_TIMEOUT,
                poll: DEFAULT_POLL,
                handshake_timeout: DEFAULT_HANDSHAKE_TIMEOUT,
                shutdown_timeout: Duration::from_secs(5),
                tls: TlsPolicy::Off,
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
        self.listener
            .local
            .uri(export, self.settings.tls.is_required())
    }

    /// Starts a thread that accepts clients.
    pub fn start(self) -> Result<RunningServer, Error> {
        let tls_required = self.settings.tls.is_required();
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
            tls_required,
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
    tls_required: bool,
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
        self.local.uri(export, self.tls_required)
    }

    /// Number of connected clients.
    pub fn connections(&self) -> usize {
        self.running
            .as_ref()
            .map_or(0, |running| running.connections.count())
    }

    /// The connected clients in words, in the order in which they came: `pid 12 (uid 0)` or `127.0.0.1:4711`.
    pub fn peers(&self) -> Vec<String> {
        let running = self.running.as_ref();
        let peers = running.map_or_else(Vec::new, |running| running.connections.peers());
        peers.iter().map(Peer::to_string).collect()
    }

    /// What clients are told of the first export, for a process that negotiates with them in this one's place
    /// ([`ExportDirectory::terms`]). Only this crate reads it.
    pub fn terms(&self) -> Result<String, Unavailable> {
        let (export, tls) = self.connected()?.first_for_others()?;
        Ok(to_text(&ExportFacts {
            tls,
            ..export.facts()
        }))
    }

    /// Serves a client with which another process has negotiated for the first export ([`ExportDirectory::give`]). Who may
    /// connect was decided there; places and limits on time are those of this server, and where it requires TLS, so has the client
    /// to use it there. Does not wait for the client.
    pub fn take_client(&self, client: OwnedFd, agreed: &str) -> Result<(), Unavailable> {
        let connections = self.connected()?;
        let agreement = from_text(agreed).map_err(Unavailable::Refused)?;
        let send_timeout = connections.settings.send_timeout;
        let peer = match sockopt::socket_domain(&client) {
            Ok(net::AddressFamily::UNIX) => Peer::of_unix(&client),
            Ok(_) => set_up_tcp(&client, send_timeout).and_then(|()| Peer::of_tcp(&client)),
            Err(e) => Err(e.into()),
        };
        let gone = |e: io::Error| Unavailable::Refused(format!("the client is gone: {e}"));
        connections.take(client, peer.map_err(gone)?, agreement)
    }

    fn connected(&self) -> Result<&Arc<Connections>, Unavailable> {
        let running = self.running.as_ref().map(|running| &running.connections);
        running.ok_or_else(|| Unavailable::Gone("the server has stopped".into()))
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
        let _ = net::shutdown(&listener, net::Shutdown::Both);
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

/// The accepting thread. Between clients it looks after the connections.
fn accept(listener: &Listener, connections: &Arc<Connections>) {
    // A lack of descriptors or memory is told once, not twenty times a second.
    let mut lacking = false;
    loop {
        let timeout = connections.watch().map(timespec);
        let _ = poll(
            &mut [PollFd::new(listener, PollFlags::IN)],
            timeout.as_ref(),
        );
        let accepted = net::accept_with(listener, net::SocketFlags::CLOEXEC);
        if connections.stop.is_set() {
            return;
        }
        match accepted {
            Ok(fd) => {
                lacking = false;
                let peer = match listener.local {
                    Listen::Unix(_) => Peer::of_unix(&fd),
                    Listen::Tcp(_) => set_up_tcp(&fd, connections.settings.send_timeout)
                        .and_then(|()| Peer::of_tcp(&fd)),
                };
                match peer {
                    Ok(peer) => connections.accepted(fd, peer),
                    // It is gone already.
                    Err(e) => tracing::debug!("a client that cannot be served: {e}"),
                }
            }
            Err(Errno::INTR | Errno::CONNABORTED | Errno::AGAIN) => {}
            Err(e) => {
                if !std::mem::replace(&mut lacking, true) {
                    tracing::warn!("cannot accept: {e}");
                }
                thread::sleep(ACCEPT_PAUSE);
            }
        }
    }
}

/// Rounds up, so that what is due then is due.
fn timespec(time: Duration) -> Timespec {
    let time = time + Duration::from_millis(1);
    Timespec {
        tv_sec: time.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: time.subsec_nanos().into(),
    }
}

/// Replies go at once, and a client that vanished is noticed whether anything is sent to it or not.
fn set_up_tcp(fd: &OwnedFd, send_timeout: Duration) -> io::Result<()> {
    // A reply must not wait for the acknowledgement of the previous one.
    sockopt::set_tcp_nodelay(fd, true)?;
    sockopt::set_tcp_keepidle(fd, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(fd, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(fd, KEEPALIVE_PROBES)?;
    sockopt::set_socket_keepalive(fd, true)?;
    let millis = u32::try_from(send_timeout.as_millis()).unwrap_or(u32::MAX);
    Ok(sockopt::set_tcp_user_timeout(fd, millis.max(1))?)
}
