//! The server: its builder, the thread that accepts, and the one client at a time.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{Shutdown, SocketFlags, accept_with, shutdown};
use uzram::Device;
use uzram_frontend::{
    DEFAULT_POLL, PollPermits, UnixPeer, UnixSocket, Waiters, may_connect, other_users,
};
use vhost::vhost_user::{BackendReqHandler, Error as ProtocolError};

use crate::Error;
use crate::queue::QueueContext;
use crate::session::Session;

/// How long the accepting thread waits when the system has no descriptors or memory for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long a client that comes waits for one that has hung up.
const HANGING_UP: Duration = Duration::from_millis(500);

/// Sets up a server; made by [`Server::builder`].
pub struct ServerBuilder {
    device: Arc<Device>,
    name: String,
    allowed_uids: Vec<u32>,
    read_only: bool,
    poll: Duration,
}

impl ServerBuilder {
    /// Lets a user connect, besides root and the user of this process. The socket gets the mode 0666 then, and the server asks
    /// the system who connects.
    pub fn allow_uid(mut self, uid: u32) -> Self {
        self.allowed_uids.push(uid);
        self
    }

    /// Whether clients are refused what would change the device, and told so before (default: no).
    pub fn read_only(mut self, yes: bool) -> Self {
        self.read_only = yes;
        self
    }

    /// Longest time that a queue polls for the next request before it sleeps. Zero never polls.
    pub fn poll(mut self, longest: Duration) -> Self {
        self.poll = longest;
        self
    }

    /// Binds the socket. Clients can connect from now on, and are served after [`Server::start`].
    pub fn bind(self, path: &Path) -> Result<Server, Error> {
        let socket = UnixSocket::bind(path, &other_users(&self.allowed_uids))?;
        Ok(Server {
            socket,
            settings: self,
        })
    }
}

/// A server that has its socket but does not serve yet.
pub struct Server {
    socket: UnixSocket,
    settings: ServerBuilder,
}

impl Server {
    /// Begins to set up a server. The guest sees up to 20 bytes of the name as the disk's serial number.
    pub fn builder(name: &str, device: Arc<Device>) -> ServerBuilder {
        ServerBuilder {
            device,
            name: name.into(),
            allowed_uids: Vec::new(),
            read_only: false,
            poll: DEFAULT_POLL,
        }
    }

    /// Where the socket is.
    pub fn path(&self) -> &Path {
        self.socket.path()
    }

    /// Starts a thread that accepts clients.
    pub fn start(self) -> Result<RunningServer, Error> {
        let cpus = thread::available_parallelism().map_or(1, usize::from);
        let settings = self.settings;
        let context = QueueContext {
            device: settings.device,
            name: settings.name,
            read_only: settings.read_only,
            poll: settings.poll,
            permits: Arc::new(PollPermits::new(cpus / 2)),
            waiters: Waiters::default(),
        };
        let shared = Arc::new(Shared {
            context: Arc::new(context),
            allowed_uids: settings.allowed_uids,
            stops: AtomicBool::new(false),
            client: Mutex::default(),
            left: Condvar::new(),
        });
        let path = self.socket.path().to_owned();
        let socket = Arc::new(self.socket);
        let accepting = (Arc::clone(&socket), Arc::clone(&shared));
        let thread = thread::Builder::new()
            .name("vhost-accept".into())
            .spawn(move || accept(&accepting.0, &accepting.1))
            .map_err(|source| Error::Thread { source })?;
        Ok(RunningServer {
            path,
            running: Some(Running {
                shared,
                socket,
                thread,
            }),
        })
    }
}

/// A running server. Dropping it stops the server as [`RunningServer::shutdown`] does.
pub struct RunningServer {
    path: PathBuf,
    running: Option<Running>,
}

struct Running {
    shared: Arc<Shared>,
    socket: Arc<UnixSocket>,
    thread: JoinHandle<()>,
}

/// What the server's threads share.
struct Shared {
    context: Arc<QueueContext>,
    allowed_uids: Vec<u32>,
    stops: AtomicBool,
    client: Mutex<Option<Client>>,
    /// The client has left.
    left: Condvar,
}

/// The client that is connected.
struct Client {
    peer: UnixPeer,
    session: Arc<Mutex<Session>>,
    stream: UnixStream,
    thread: Option<JoinHandle<()>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RunningServer {
    /// Where the socket is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The client in words, if one is connected: `pid 12 (uid 0)`.
    pub fn peer(&self) -> Option<String> {
        let running = self.running.as_ref()?;
        let client = lock(&running.shared.client);
        client.as_ref().map(|client| client.peer.to_string())
    }

    /// Stops accepting, answers the requests that were taken, and closes the connection. What waits for a clone's source stays
    /// in flight where the client keeps a record of that. Removes the socket's file.
    pub fn shutdown(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        let Some(Running {
            shared,
            socket,
            thread,
        }) = self.running.take()
        else {
            return;
        };
        shared.stops.store(true, Ordering::Release);
        // Makes accept return.
        let _ = shutdown(&*socket, Shutdown::Both);
        let _ = thread.join();
        drop(socket);
        let serving = {
            let mut client = lock(&shared.client);
            client.as_mut().and_then(|client| {
                // First the queues: a client that sees the end of its connection takes its memory back.
                lock(&client.session).close();
                let _ = client.stream.shutdown(std::net::Shutdown::Both);
                client.thread.take()
            })
        };
        if let Some(serving) = serving {
            let _ = serving.join();
        }
    }
}

impl Drop for RunningServer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The accepting thread.
fn accept(socket: &UnixSocket, shared: &Arc<Shared>) {
    // A lack of descriptors or memory is told once, not twenty times a second.
    let mut lacking = false;
    loop {
        let _ = poll(&mut [PollFd::new(socket, PollFlags::IN)], None);
        let accepted = accept_with(socket, SocketFlags::CLOEXEC);
        if shared.stops.load(Ordering::Acquire) {
            return;
        }
        match accepted {
            Ok(fd) => {
                lacking = false;
                let stream = UnixStream::from(fd);
                match UnixPeer::of(&stream) {
                    Ok(peer) => shared.admit(stream, peer),
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

impl Shared {
    /// Serves a client unless it may not connect, or another one is connected.
    fn admit(self: &Arc<Self>, stream: UnixStream, peer: UnixPeer) {
        if !may_connect(peer.uid, &self.allowed_uids) {
            tracing::warn!(%peer, "refused: uid {} may not connect; --allow-uid lets it", peer.uid);
            return;
        }
        let taken = |client: &mut Option<Client>| client.is_some();
        let waited = self
            .left
            .wait_timeout_while(lock(&self.client), HANGING_UP, taken);
        let (mut client, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if let Some(other) = &*client {
            tracing::warn!(%peer, "refused: {} is connected, and a disk has one client", other.peer);
            return;
        }
        match self.serve(stream, peer) {
            Ok(begun) => *client = Some(begun),
            Err(e) => tracing::warn!(%peer, "refused: cannot start a thread: {e}"),
        }
    }

    fn serve(self: &Arc<Self>, stream: UnixStream, peer: UnixPeer) -> io::Result<Client> {
        let session = Arc::new(Mutex::new(Session::new(self.context.clone())));
        let ours = stream.try_clone()?;
        let handler = BackendReqHandler::from_stream(stream, session.clone());
        let shared = self.clone();
        let theirs = session.clone();
        let thread = thread::Builder::new()
            .name("vhost-client".into())
            .spawn(move || {
                tracing::info!(%peer, "connected");
                let why = follow(handler);
                lock(&theirs).abandon();
                // Shutting down is not news.
                if !shared.stops.load(Ordering::Acquire) {
                    match why {
                        ProtocolError::Disconnected => tracing::info!(%peer, "disconnected"),
                        error => tracing::warn!(%peer, "connection ended: {error}"),
                    }
                }
                // Shut down as a whole: the server has a copy of the descriptor.
                if let Some(client) = lock(&shared.client).take() {
                    let _ = client.stream.shutdown(std::net::Shutdown::Both);
                }
                shared.left.notify_all();
            })?;
        Ok(Client {
            peer,
            session,
            stream: ours,
            thread: Some(thread),
        })
    }
}

/// Follows a client's messages until the connection ends. Returns why it did.
fn follow(mut handler: BackendReqHandler<Mutex<Session>>) -> ProtocolError {
    loop {
        match handler.handle_request() {
            Ok(()) | Err(ProtocolError::SocketRetry(_)) => {}
            Err(error) => return error,
        }
    }
}
