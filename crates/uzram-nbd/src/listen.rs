//! Where the server listens: the address as text, the listening socket, and the URI that clients use.

use crate::Error;
use std::{
    fmt,
    net::{SocketAddr, TcpListener, ToSocketAddrs},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
    str::FromStr,
};
use uzram_frontend::UnixSocket;

/// NBD's registered TCP port.
const DEFAULT_PORT: u16 = 10809;

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
        match self {
            Listen::Tcp(addr) if !addr.ip().is_loopback() && !allow_remote => {
                Err(Error::NotLoopback { addr: *addr })
            }
            Listen::Tcp(_) => Ok(()),
            Listen::Unix(path) => Ok(UnixSocket::check(path)?),
        }
    }
}

/// A listening socket; dropping it removes the file of a unix socket.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: Bound,
    pub(crate) local: Listen,
}

#[derive(Debug)]
enum Bound {
    Unix(UnixSocket),
    Tcp(OwnedFd),
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Bound::Unix(socket) => socket.as_fd(),
            Bound::Tcp(fd) => fd.as_fd(),
        }
    }
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
                    socket: Bound::Tcp(listener.into()),
                    local,
                })
            }
            Listen::Unix(path) => Ok(Listener {
                socket: Bound::Unix(UnixSocket::bind(path, uids)?),
                local: listen.clone(),
            }),
        }
    }
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
