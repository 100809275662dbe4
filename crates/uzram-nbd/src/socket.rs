//! A connection's socket and its send lock.
//!
//! The send lock is innermost: it is taken with or without the leadership of the receive side, and never the other way round.

use crate::{close::Close, lock::lock};
use rustix::{io::Errno as SysErrno, net};
use std::{
    io,
    os::fd::OwnedFd,
    sync::{Mutex, MutexGuard},
};

/// A connected socket, shared by the workers of the connection and the server's list.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) fd: OwnedFd,
    send_lock: Mutex<()>,
}

impl Socket {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Socket {
            fd,
            send_lock: Mutex::new(()),
        }
    }

    /// Receives what has arrived, waiting for at least one byte. Returns 0 at the end of the stream.
    pub(crate) fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match net::recv(&self.fd, &mut *buf, net::RecvFlags::empty()) {
                Err(SysErrno::INTR) => {}
                Ok((n, _)) => return Ok(n),
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Receives what has arrived without waiting. Returns 0 at the end of the stream.
    pub(crate) fn try_recv(&self, buf: &mut [u8]) -> io::Result<Option<usize>> {
        match net::recv(&self.fd, &mut *buf, net::RecvFlags::DONTWAIT) {
            Err(SysErrno::AGAIN | SysErrno::INTR) => Ok(None),
            Ok((n, _)) => Ok(Some(n)),
            Err(e) => Err(e.into()),
        }
    }

    /// Sends all bytes, uninterrupted by the replies of other workers.
    pub(crate) fn send(&self, bytes: &[u8]) -> Result<(), Close> {
        self.lock_send().send(bytes)
    }

    /// Keeps other workers from sending while the result lives.
    pub(crate) fn lock_send(&self) -> LockedSender<'_> {
        LockedSender {
            socket: self,
            _lock: lock(&self.send_lock),
        }
    }

    /// Sends as much as the system takes, at least one byte. For the handshake, before there are workers.
    pub(crate) fn send_some(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            // NOSIGNAL: a client that went away is an error to handle, not a SIGPIPE for the process.
            match net::send(&self.fd, bytes, net::SendFlags::NOSIGNAL) {
                Err(SysErrno::INTR) => {}
                sent => return Ok(sent?),
            }
        }
    }

    /// Shuts the socket down. A socket that is not connected any more is no error.
    pub(crate) fn shutdown(&self, how: net::Shutdown) {
        let _ = net::shutdown(&self.fd, how);
    }
}

/// The right to send: its holder's bytes are not mixed with those of other workers.
pub(crate) struct LockedSender<'a> {
    socket: &'a Socket,
    _lock: MutexGuard<'a, ()>,
}

impl LockedSender<'_> {
    pub(crate) fn send(&self, mut bytes: &[u8]) -> Result<(), Close> {
        while !bytes.is_empty() {
            bytes = &bytes[self.socket.send_some(bytes).map_err(Close::Send)?..];
        }
        Ok(())
    }
}
