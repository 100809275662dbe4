//! Where the server listens: the address as text, the listening socket, and the URI that clients use.
//!
//! A unix socket gets its mode 0600 before it is bound, so others cannot connect at any moment. Where other users are
//! allowed it gets 0666 afterwards: everybody can connect, and the server asks the system who it is. A socket file that
//! nobody accepts on is left over and is replaced; a live one is an error. Dropping the [`Listener`] removes the file, unless
//! somebody has put another in its place.

use crate::Error;
use rustix::{fs, net};
use std::{
    fmt, io,
    net::{SocketAddr, TcpListener, ToSocketAddrs},
    os::fd::{AsRawFd, OwnedFd},
    os::unix::{
        fs::{FileTypeExt, MetadataExt},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    str::FromStr,
};

/// NBD's registered TCP port.
const DEFAULT_PORT: u16 = 10809;
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// An address to listen on: `unix:PATH` or `tcp:HOST[:PORT]`, the port being 10809 unless given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// A unix socket at this path.
    Unix(PathBuf),
    /// A TCP address. Port 0 takes a free one.
    Tcp(SocketAddr),
}

impl FromStr for Listen {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let fail = |reason| Error::Address {
            given: text.into(),
            reason,
        };
        match text.split_once(':') {
            Some(("unix", "")) => Err(fail("the path is missing")),
            Some(("unix", path)) => Ok(Listen::Unix(path.into())),
            Some(("tcp", "")) => Err(fail("the host is missing")),
            Some(("tcp", host)) => {
                // A colon inside brackets or after another one belongs to an IPv6 address, not to a port.
                let bare_v6 = host.matches(':').count() > 1 && !host.starts_with('[');
                let has_port = !bare_v6 && host.rfind(':') > host.rfind(']');
                let full = match (has_port, bare_v6) {
                    (true, _) => host.to_owned(),
                    (_, true) => format!("[{host}]:{DEFAULT_PORT}"),
                    _ => format!("{host}:{DEFAULT_PORT}"),
                };
                let mut found = full
                    .to_socket_addrs()
                    .map_err(|source| Error::Resolve { host: full, source })?;
                let first = found.next().map(Listen::Tcp);
                first.ok_or_else(|| fail("the host has no address"))
            }
            _ => Err(fail("it starts with neither unix: nor tcp:")),
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listen::Unix(path) => write!(f, "unix:{}", path.display()),
            Listen::Tcp(addr) => write!(f, "tcp:{addr}"),
        }
    }
}

impl Listen {
    /// The standard NBD URI of an export at this address, for clients that use TLS or that do not.
    pub(crate) fn uri(&self, export: &str, tls: bool) -> String {
        let export = escape(export.as_bytes());
        let scheme = if tls { "nbds" } else { "nbd" };
        match self {
            Listen::Unix(path) => {
                let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
                format!(
                    "{scheme}+unix:///{export}?socket={}",
                    escape(path.as_os_str().as_encoded_bytes())
                )
            }
            Listen::Tcp(addr) => format!("{scheme}://{addr}/{export}"),
        }
    }
}

/// Percent-encodes the bytes that may not stand in a URI's path or query.
fn escape(bytes: &[u8]) -> String {
    let mut out = String::new();
    for &b in bytes {
        match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                out.push(b.into())
            }
            _ => out.push_str(&format!("%{b:02X}")),
        }
    }
    out
}

impl Listen {
    /// Refuses a place where nobody can listen, as far as that is seen without trying.
    pub(crate) fn check(&self, allow_remote: bool) -> Result<(), Error> {
        let wrong = |source| Error::Bind {
            listen: self.to_string(),
            source,
        };
        match self {
            Listen::Tcp(addr) if !addr.ip().is_loopback() && !allow_remote => {
                Err(Error::NotLoopback { addr: *addr })
            }
            Listen::Tcp(_) => Ok(()),
            Listen::Unix(path) => {
                net::SocketAddrUnix::new(path).map_err(|error| wrong(error.into()))?;
                let directory = path.parent().map(std::fs::metadata);
                match directory.transpose().map_err(wrong)? {
                    Some(directory) if !directory.is_dir() => {
                        Err(wrong(io::ErrorKind::NotADirectory.into()))
                    }
                    _ => Ok(()),
                }
            }
        }
    }
}

/// A listening socket; dropping it removes the file of a unix socket.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) fd: OwnedFd,
    pub(crate) local: Listen,
    /// Device and inode of the socket file, so that only our own is removed.
    file: Option<(u64, u64)>,
}

impl Listener {
    /// Binds the address. `uids` are the users beside this process's own and root who are to connect.
    pub(crate) fn bind(listen: &Listen, allow_remote: bool, uids: &[u32]) -> Result<Self, Error> {
        let bind_error = |source| Error::Bind {
            listen: listen.to_string(),
            source,
        };
        match listen {
            Listen::Tcp(addr) if !addr.ip().is_loopback() && !allow_remote => {
                Err(Error::NotLoopback { addr: *addr })
            }
            Listen::Tcp(addr) => {
                let listener = TcpListener::bind(addr).map_err(bind_error)?;
                listener.set_nonblocking(true).map_err(bind_error)?;
                let local = Listen::Tcp(listener.local_addr().map_err(bind_error)?);
                Ok(Listener {
                    fd: listener.into(),
                    local,
                    file: None,
                })
            }
            Listen::Unix(path) => {
                check_reachable(path, uids)?;
                let fd = match bind_unix(path) {
                    Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
                        remove_stale(path)?;
                        bind_unix(path)
                    }
                    other => other,
                };
                let fd = fd.map_err(bind_error)?;
                let listener = Listener {
                    fd,
                    local: listen.clone(),
                    file: inode(path),
                };
                if !uids.is_empty() {
                    open_to_all(path).map_err(bind_error)?;
                }
                net::listen(&listener.fd, BACKLOG).map_err(|e| bind_error(e.into()))?;
                Ok(listener)
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let (Listen::Unix(path), Some(file)) = (&self.local, self.file)
            && inode(path) == Some(file)
            && let Err(e) = std::fs::remove_file(path)
        {
            tracing::warn!("cannot remove {}: {e}", path.display());
        }
    }
}

/// Lets everybody connect to this process's socket; the umask would not let `bind` do it. Follows no symbolic link.
fn open_to_all(path: &Path) -> io::Result<()> {
    let flags = fs::OFlags::PATH | fs::OFlags::NOFOLLOW | fs::OFlags::CLOEXEC;
    let file = fs::open(path, flags, fs::Mode::empty())?;
    let stat = fs::fstat(&file)?;
    let socket = fs::FileType::from_raw_mode(stat.st_mode) == fs::FileType::Socket;
    if !socket || stat.st_uid != rustix::process::geteuid().as_raw() {
        return Err(io::Error::other(
            "somebody has put another file in its place",
        ));
    }
    let file = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(fs::chmod(file, fs::Mode::from_raw_mode(0o666))?)
}

/// Refuses where a directory on the way to the socket is closed to one of the users.
fn check_reachable(path: &Path, uids: &[u32]) -> Result<(), Error> {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.into());
    for directory in absolute.ancestors().skip(1) {
        let Ok(meta) = std::fs::metadata(directory) else {
            continue;
        };
        // Group members, and users whom an access control list names, may search it if the group's bit is set.
        if meta.mode() & 0o011 != 0 {
            continue;
        }
        if let Some(uid) = uids.iter().find(|uid| **uid != meta.uid()) {
            return Err(Error::Unreachable {
                uid: *uid,
                path: path.into(),
                directory: directory.into(),
            });
        }
    }
    Ok(())
}

fn bind_unix(path: &Path) -> io::Result<OwnedFd> {
    let flags = net::SocketFlags::CLOEXEC | net::SocketFlags::NONBLOCK;
    let fd = net::socket_with(
        net::AddressFamily::UNIX,
        net::SocketType::STREAM,
        flags,
        None,
    )?;
    // Linux takes the mode of the socket file from the socket's own inode.
    fs::fchmod(&fd, fs::Mode::RUSR | fs::Mode::WUSR)?;
    net::bind(&fd, &net::SocketAddrUnix::new(path)?)?;
    Ok(fd)
}

/// Removes a socket file if nobody accepts on it; leaves anything else alone.
fn remove_stale(path: &Path) -> Result<(), Error> {
    let fail = |source| Error::Bind {
        listen: Listen::Unix(path.into()).to_string(),
        source,
    };
    let meta = std::fs::symlink_metadata(path).map_err(fail)?;
    if !meta.file_type().is_socket() {
        return Err(Error::NotASocket { path: path.into() });
    }
    match UnixStream::connect(path) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
            tracing::info!(
                "{} is left over from a server that is gone: replaced",
                path.display()
            );
            std::fs::remove_file(path).map_err(fail)
        }
        Ok(_) => Err(Error::InUse { path: path.into() }),
        Err(e) => Err(fail(e)),
    }
}

fn inode(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path)
        .ok()
        .map(|m| (m.dev(), m.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_printed() {
        for (text, printed) in [
            ("unix:/run/a b.sock", "unix:/run/a b.sock"),
            ("tcp:127.0.0.1", "tcp:127.0.0.1:10809"),
            ("tcp:127.0.0.1:0", "tcp:127.0.0.1:0"),
            ("tcp:[::1]:99", "tcp:[::1]:99"),
            ("tcp:[::1]", "tcp:[::1]:10809"),
            ("tcp:::1", "tcp:[::1]:10809"),
        ] {
            assert_eq!(text.parse::<Listen>().unwrap().to_string(), printed);
        }
        for text in [
            "",
            "unix:",
            "tcp:",
            "tcp:127.0.0.1:port",
            "tcp:127.0.0.1:65536",
            "udp:x",
            "/run/x",
        ] {
            let error = text.parse::<Listen>().unwrap_err().to_string();
            assert!(error.contains("tcp:HOST[:PORT]"), "{text}: {error}");
        }
    }

    #[test]
    fn uris_are_escaped() {
        let unix = Listen::Unix("/run/a b&c.sock".into());
        assert_eq!(
            unix.uri("z 0", false),
            "nbd+unix:///z%200?socket=/run/a%20b%26c.sock"
        );
        let tcp = Listen::Tcp("[::1]:10809".parse().unwrap());
        assert_eq!(tcp.uri("zram0", true), "nbds://[::1]:10809/zram0");
    }
}
