//! The other side of `uzram send` and `uzram receive`: a socket of this machine, or another host by TLS, where both sides show
//! certificates.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, ToSocketAddrs};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::net::sockopt;
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, Connection, ServerConnection};
use uzram_spec::printable_line;

use crate::exit::{self, Failure, Kind, Result};

/// How long another side may take to say who it is.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// What the side that waited says first: an empty line, which is no answer.
const WELCOME: &[u8] = b"\n";
/// When a host that does not answer is given up.
const DEAD: Duration = Duration::from_secs(60);

/// Where the other side is, or is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PeerAddress {
    Unix(PathBuf),
    Tls { host: String, port: u16 },
}

impl PeerAddress {
    /// Reads `unix:PATH` or `tls:HOST:PORT`.
    pub(super) fn parse(address: &str) -> std::result::Result<PeerAddress, String> {
        let wrong = || format!("{address} is no address: it takes unix:PATH or tls:HOST:PORT");
        if let Some(path) = address.strip_prefix("unix:") {
            return match path {
                "" => Err(wrong()),
                path => Ok(PeerAddress::Unix(path.into())),
            };
        }
        let (host, port) = address
            .strip_prefix("tls:")
            .and_then(|rest| rest.rsplit_once(':'))
            .ok_or_else(wrong)?;
        let inner = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let host = inner.unwrap_or(host);
        match port.parse() {
            Ok(port) if !host.is_empty() => Ok(PeerAddress::Tls {
                host: host.into(),
                port,
            }),
            _ => Err(wrong()),
        }
    }

    /// The address with what is shown there. Refuses certificates without TLS, and TLS without certificates.
    fn with<'a>(&'a self, certificates: Option<&'a Path>) -> Result<Place<'a>> {
        match (self, certificates) {
            (PeerAddress::Unix(path), None) => Ok(Place::Unix(path)),
            (PeerAddress::Unix(_), Some(_)) => {
                Err(Failure::usage("--certificates is for tls:HOST:PORT"))
            }
            (PeerAddress::Tls { host, port }, Some(certificates)) => Ok(Place::Tls(TlsPlace {
                host,
                port: *port,
                certificates,
            })),
            (PeerAddress::Tls { .. }, None) => {
                let message = "both sides of tls:HOST:PORT show who they are: --certificates DIR says with what";
                Err(Failure::usage(message))
            }
        }
    }
}

/// An address, with a directory of certificates where it takes one.
enum Place<'a> {
    Unix(&'a Path),
    Tls(TlsPlace<'a>),
}

struct TlsPlace<'a> {
    host: &'a str,
    port: u16,
    certificates: &'a Path,
}

impl std::fmt::Display for TlsPlace<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "tls:{}:{}", self.host, self.port)
    }
}

impl TlsPlace<'_> {
    fn connect(&self) -> Result<TlsStream> {
        let config = uzram_tls::client_config(self.certificates).map_err(Failure::usage)?;
        let host = self.host;
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| Failure::usage(format!("{host} is no name of a host, and no address")))?;
        let socket = connect_tcp(host, self.port).map_err(failed(self))?;
        let connection = ClientConnection::new(Arc::new(config), name)
            .map_err(|error| Failure::failed(format!("{self}: {error}")))?;
        let mut stream = TlsStream::begin(connection.into(), socket).map_err(failed(self))?;
        stream.await_welcome().map_err(failed(self))?;
        Ok(stream)
    }

    fn accept(&self) -> Result<TlsStream> {
        let certificates =
            uzram_tls::Tls::from_directory(self.certificates, true).map_err(Failure::usage)?;
        let listener = TcpListener::bind((self.host, self.port)).map_err(failed(self))?;
        let address = listener.local_addr().map_err(failed("waiting"))?;
        exit::tell(format!("waits at tls:{address}"));
        loop {
            let (socket, from) = listener.accept().map_err(failed("waiting"))?;
            let begun = certificates
                .config()
                .map_err(io::Error::other)
                .and_then(|config| ServerConnection::new(config).map_err(io::Error::other))
                .and_then(|connection| TlsStream::begin(connection.into(), socket));
            match begun {
                Ok(stream) => return Ok(stream),
                Err(error) => exit::tell(format!(
                    "a connection from {from} is refused: {}",
                    printable_line(&error.to_string())
                )),
            }
        }
    }
}

fn failed(what: impl std::fmt::Display) -> impl FnOnce(io::Error) -> Failure {
    move |error| Failure::new(Kind::from_io(&error), format!("{what}: {error}"))
}

/// A connection to the other side. A clone is the same one.
#[derive(Clone)]
pub(super) enum Peer {
    Unix(Arc<UnixStream>),
    Tls(Arc<Mutex<TlsStream>>),
}

/// Used in one direction at a time: all is sent before anything is answered. [`Peer::duplex`] is for both at once.
pub(super) struct TlsStream {
    connection: Connection,
    socket: TcpStream,
}

impl Peer {
    /// Connects to a side that waits.
    pub(super) fn connect(address: &PeerAddress, certificates: Option<&Path>) -> Result<Peer> {
        match address.with(certificates)? {
            Place::Unix(path) => connect_unix(path).map(Peer::unix),
            Place::Tls(place) => place.connect().map(Peer::tls),
        }
    }

    /// Waits for one connection, of the same user or with a certificate. Others are told and waited past.
    pub(super) fn accept(address: &PeerAddress, certificates: Option<&Path>) -> Result<Peer> {
        match address.with(certificates)? {
            Place::Unix(path) => accept_unix(path).map(Peer::unix),
            Place::Tls(place) => place.accept().map(Peer::tls),
        }
    }

    fn unix(socket: UnixStream) -> Peer {
        Peer::Unix(Arc::new(socket))
    }

    fn tls(stream: TlsStream) -> Peer {
        Peer::Tls(Arc::new(Mutex::new(stream)))
    }

    /// Says that nothing more comes from here.
    pub(super) fn finish(&self) -> io::Result<()> {
        match self {
            Peer::Unix(socket) => socket.shutdown(Shutdown::Write),
            Peer::Tls(stream) => {
                let mut stream = lock(stream);
                stream.connection.send_close_notify();
                stream.send()
            }
        }
    }
}

/// Both directions of a connection, for two threads.
pub(super) struct Duplex {
    pub(super) from: Box<dyn Read + Send>,
    pub(super) to: Box<dyn Write + Send>,
    /// What ends it.
    pub(super) end: DuplexEnd,
}

/// The end of a connection that is used in both directions.
pub(super) struct DuplexEnd {
    /// This side of it.
    socket: Option<UnixStream>,
    /// What passes on between it and TLS.
    pump: Option<JoinHandle<io::Result<()>>>,
}

impl DuplexEnd {
    /// Of pipes, which end when they are closed.
    pub(super) fn of_pipes() -> DuplexEnd {
        DuplexEnd {
            socket: None,
            pump: None,
        }
    }

    /// Says that nothing more comes, and waits until all that was said is on its way.
    pub(super) fn finish(self) -> io::Result<()> {
        if let Some(socket) = &self.socket {
            socket.shutdown(Shutdown::Write)?;
        }
        match self.pump.map(JoinHandle::join) {
            Some(Ok(passed)) => passed,
            Some(Err(_)) => Err(io::Error::other("the thread that passes it on has died")),
            None => Ok(()),
        }
    }
}

impl Peer {
    /// Uses the connection in both directions at once. Nobody else may use it from then on.
    pub(super) fn duplex(self) -> io::Result<Duplex> {
        let (socket, pump) = match self {
            Peer::Unix(socket) => (socket.try_clone()?, None),
            Peer::Tls(stream) => {
                let (own, local) = UnixStream::pair()?;
                let thread = std::thread::Builder::new().name("tls".into());
                let pump = thread.spawn(move || pump(&mut lock(&stream), &local))?;
                (own, Some(pump))
            }
        };
        Ok(Duplex {
            from: Box::new(socket.try_clone()?),
            to: Box::new(socket.try_clone()?),
            end: DuplexEnd {
                socket: Some(socket),
                pump,
            },
        })
    }
}

/// Passes on between TLS and a socket of this process, until that says that nothing more comes.
///
/// While it sends it does not receive. One of the two sides says little, so that neither waits for the other for ever.
fn pump(stream: &mut TlsStream, mut local: &UnixStream) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    let mut is_open = true;
    loop {
        while is_open {
            match stream.connection.reader().read(&mut buffer) {
                Ok(0) => {
                    is_open = false;
                    local.shutdown(Shutdown::Write)?;
                }
                Ok(count) => local.write_all(&buffer[..count])?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    // An end that the other side did not say.
                    local.shutdown(Shutdown::Both)?;
                    return Err(error);
                }
            }
        }
        let mut fds = [
            PollFd::new(&local, PollFlags::IN),
            PollFd::new(&stream.socket, PollFlags::IN),
        ];
        let count = if is_open { 2 } else { 1 };
        match rustix::event::poll(&mut fds[..count], None) {
            Err(rustix::io::Errno::INTR) => continue,
            polled => polled?,
        };
        let [from_here, from_there] = fds.map(|fd| !fd.revents().is_empty());
        if from_there {
            receive(&mut stream.connection, &stream.socket)?;
            stream.send()?;
        }
        if from_here {
            let count = local.read(&mut buffer)?;
            if count == 0 {
                stream.connection.send_close_notify();
                return stream.send();
            }
            let mut rest = &buffer[..count];
            while !rest.is_empty() {
                let taken = stream.connection.writer().write(rest)?;
                stream.send()?;
                rest = &rest[taken..];
            }
        }
    }
}

fn lock(stream: &Mutex<TlsStream>) -> std::sync::MutexGuard<'_, TlsStream> {
    stream.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Connects by the first address that works.
fn connect_tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, HANDSHAKE) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}

impl TlsStream {
    /// Both sides show who they are.
    fn begin(mut connection: Connection, socket: TcpStream) -> io::Result<TlsStream> {
        socket.set_nodelay(true)?;
        sockopt::set_tcp_user_timeout(&socket, DEAD.as_millis() as u32)?;
        sockopt::set_socket_keepalive(&socket, true)?;
        sockopt::set_tcp_keepidle(&socket, DEAD / 4)?;
        sockopt::set_tcp_keepintvl(&socket, DEAD / 12)?;
        let deadline = Instant::now() + HANDSHAKE;
        let mut io = &socket;
        while connection.is_handshaking() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            socket.set_read_timeout(Some(left))?;
            socket.set_write_timeout(Some(left))?;
            let done = if connection.wants_write() {
                connection.write_tls(&mut io).map(drop)
            } else {
                receive(&mut connection, io).map(drop)
            };
            done.map_err(|error| match error.kind() {
                // What a socket with a timeout says.
                io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
                _ => error,
            })?;
        }
        socket.set_read_timeout(None)?;
        socket.set_write_timeout(None)?;
        let mut stream = TlsStream { connection, socket };
        if let Connection::Server(server) = &mut stream.connection {
            server.writer().write_all(WELCOME)?;
        }
        stream.send()?;
        Ok(stream)
    }

    /// Waits for the other side's first word: a client's handshake ends before the server has looked at its certificate.
    fn await_welcome(&mut self) -> io::Result<()> {
        self.socket.set_read_timeout(Some(HANDSHAKE))?;
        self.read_exact(&mut [0; WELCOME.len()])?;
        self.socket.set_read_timeout(None)
    }

    /// Sends what TLS has to send.
    fn send(&mut self) -> io::Result<()> {
        while self.connection.wants_write() {
            self.connection.write_tls(&mut &self.socket)?;
        }
        Ok(())
    }
}

/// Takes in what has come, and answers what is wrong with it. False at the end of the connection.
fn receive(connection: &mut Connection, mut socket: &TcpStream) -> io::Result<bool> {
    if connection.read_tls(&mut socket)? == 0 {
        return match connection.is_handshaking() {
            true => Err(io::ErrorKind::UnexpectedEof.into()),
            false => Ok(false),
        };
    }
    let taken = connection.process_new_packets();
    taken.map(|_| true).map_err(|error| {
        // The other side learns why.
        let _ = connection.write_tls(&mut socket);
        io::Error::new(io::ErrorKind::InvalidData, error)
    })
}

impl Read for TlsStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.connection.reader().read(buffer) {
                // An end that the other side did not say is an error here: `UnexpectedEof`.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return read,
            }
            receive(&mut self.connection, &self.socket)?;
            self.send()?;
        }
    }
}

impl Read for Peer {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Peer::Unix(socket) => (&**socket).read(buffer),
            Peer::Tls(stream) => lock(stream).read(buffer),
        }
    }
}

impl Write for Peer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Peer::Unix(socket) => (&**socket).write(bytes),
            Peer::Tls(stream) => {
                let mut stream = lock(stream);
                // It takes as much as its buffer has room for.
                let count = stream.connection.writer().write(bytes)?;
                stream.send()?;
                Ok(count)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Peer::Unix(_) => Ok(()),
            Peer::Tls(stream) => lock(stream).send(),
        }
    }
}

/// Removes the socket when it has served.
struct Socket(PathBuf);

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn connect_unix(path: &Path) -> Result<UnixStream> {
    UnixStream::connect(path).map_err(|error| {
        let kind = match error.kind() {
            io::ErrorKind::NotFound => Kind::Usage,
            _ => Kind::from_io(&error),
        };
        Failure::new(kind, format!("unix:{}: {error}", path.display()))
    })
}

/// Waits for a connection of the same user.
fn accept_unix(path: &Path) -> Result<UnixStream> {
    let told = |error: io::Error| failed(path.display())(error);
    // One that a dead process left.
    if path
        .symlink_metadata()
        .is_ok_and(|found| found.file_type().is_socket())
        && UnixStream::connect(path).is_err()
    {
        std::fs::remove_file(path).map_err(told)?;
    }
    let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(path);
    rustix::process::umask(before);
    let listener = listener.map_err(told)?;
    let _socket = Socket(path.into());
    loop {
        let (connection, _) = listener.accept().map_err(told)?;
        let peer = sockopt::socket_peercred(&connection).map_err(io::Error::from)?;
        if peer.uid == rustix::process::geteuid() || peer.uid.is_root() {
            return Ok(connection);
        }
        exit::tell(format!(
            "a connection of user {} is refused",
            peer.uid.as_raw()
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_or_refused_in_words() {
        let tls = |host: &str, port| {
            let host = host.into();
            Ok(PeerAddress::Tls { host, port })
        };
        assert_eq!(
            PeerAddress::parse("unix:/a:b"),
            Ok(PeerAddress::Unix("/a:b".into()))
        );
        assert_eq!(PeerAddress::parse("tls:host:7000"), tls("host", 7000));
        assert_eq!(PeerAddress::parse("tls:[::1]:7000"), tls("::1", 7000));
        for wrong in ["unix:", "tls:host", "tls::7", "tls:h:99999", "tcp:h:1", ""] {
            let error = PeerAddress::parse(wrong).unwrap_err();
            assert!(error.contains("tls:HOST:PORT"), "{error}");
        }
    }
}
