//! Who is at the other end of a connection: named in logs and messages, and counted by the limits.
//!
//! A unix socket tells process and user of who connected. TCP tells an address, and nothing about users: neither of this
//! machine nor of others.

use rustix::net;
use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
};
use uzram_frontend::UnixPeer;

/// The other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    /// A process that connected to a unix socket.
    Process(UnixPeer),
    /// Where a TCP client comes from.
    Remote(SocketAddr),
    /// The other end of a socket that the server was given.
    Given,
}

/// What connections are counted by: nobody should take all places.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum QuotaOwner {
    User(u32),
    Address(IpAddr),
}

impl Peer {
    /// The peer of an accepted unix socket.
    pub(crate) fn of_unix(fd: &OwnedFd) -> io::Result<Self> {
        UnixPeer::of(fd).map(Peer::Process)
    }

    /// The peer of an accepted TCP socket.
    pub(crate) fn of_tcp(fd: &OwnedFd) -> io::Result<Self> {
        let addr = net::getpeername(fd)?.ok_or(io::ErrorKind::NotConnected)?;
        Ok(Peer::Remote(SocketAddr::try_from(addr)?))
    }

    /// Whom the connection counts for; `None` for a given socket, which has no limits.
    pub(crate) fn owner(&self) -> Option<QuotaOwner> {
        match self {
            Peer::Process(peer) => Some(QuotaOwner::User(peer.uid)),
            Peer::Remote(addr) => Some(QuotaOwner::Address(addr.ip().to_canonical())),
            Peer::Given => None,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Process(peer) => peer.fmt(f),
            Peer::Remote(addr) => write!(f, "{addr}"),
            Peer::Given => f.write_str("a given socket"),
        }
    }
}

impl fmt::Display for QuotaOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            QuotaOwner::User(uid) => write!(f, "uid {uid}"),
            QuotaOwner::Address(addr) => write!(f, "{addr}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_machine_is_one_owner_whatever_its_port_and_notation() {
        let owner = |text: &str| Peer::Remote(text.parse().unwrap()).owner();
        assert_eq!(owner("10.0.0.1:1"), owner("10.0.0.1:2"));
        assert_eq!(owner("10.0.0.1:1"), owner("[::ffff:10.0.0.1]:1"));
        assert_ne!(owner("10.0.0.1:1"), owner("10.0.0.2:1"));
        assert_eq!(Peer::Given.owner(), None);
    }
}
