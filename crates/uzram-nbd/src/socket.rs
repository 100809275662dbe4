//! A connection's socket, its send lock, and what it is waiting for.
//!
//! A client that does not take its replies is waited for in slices, and only as long as the server allows: see
//! [`LockedSender`]. Waiting is marked in the [`Activity`].
//!
//! The send lock is innermost: it is taken with or without the leadership of the receive side, and never the other way round.

use crate::{activity::Activity, close::Close, lock::lock};
use rustix::{
    io::Errno as SysErrno,
    net::{
        self,
        sockopt::{Timeout, set_socket_timeout},
    },
};
use std::{
    io,
    os::fd::OwnedFd,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

/// How long the system waits for room in a socket before it says that the client takes nothing. It starts anew with whatever
/// the client takes.
const SLICE: Duration = Duration::from_millis(250);

/// A connected socket, shared by the workers of the connection and the server's list.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) fd: OwnedFd,
    send_lock: Mutex<()>,
    send_timeout: Option<Duration>,
    pub(crate) activity: Activity,
}

impl Socket {
    /// A socket whose client may take as long as it likes to read, and which has no handshake.
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Socket {
            fd,
            send_lock: Mutex::new(()),
            send_timeout: None,
            activity: Activity::new(false),
        }
    }

    /// A socket of a client that negotiates first. It is given up when it takes nothing of its replies for `send_timeout`.
    pub(crate) fn accepted(fd: OwnedFd, send_timeout: Duration) -> Self {
        Socket {
            send_timeout: Some(send_timeout),
            activity: Activity::new(true),
            ..Socket::new(fd)
        }
    }

    /// Ends the handshake and its time limits. Receiving waits for as long as the client likes from now on, and sending in
    /// slices if it is limited.
    pub(crate) fn negotiated(&self) -> io::Result<()> {
        let slice = self.send_timeout.map(|_| SLICE);
        set_socket_timeout(&self.fd, Timeout::Recv, None)?;
        set_socket_timeout(&self.fd, Timeout::Send, slice)?;
        self.activity.negotiated();
        Ok(())
    }

    /// Receives what has arrived, waiting for at least one byte. Returns 0 at the end of the stream.
    pub(crate) fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.activity.begin_receive();
        let received = loop {
            match net::recv(&self.fd, &mut *buf, net::RecvFlags::empty()) {
                Err(SysErrno::INTR) => {}
                Ok((n, _)) => break Ok(n),
                Err(e) => break Err(e.into()),
            }
        };
        self.activity.end_receive();
        received
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
            let sent = match self.socket.send_timeout {
                None => self.socket.send_some(bytes).map_err(Close::send)?,
                Some(limit) => self.send_some_within(limit, bytes)?,
            };
            bytes = &bytes[sent..];
        }
        Ok(())
    }

    /// Sends at least one byte, unless the client takes none within `limit`.
    fn send_some_within(&self, limit: Duration, bytes: &[u8]) -> Result<usize, Close> {
        let Socket { activity, .. } = self.socket;
        loop {
            match self.socket.send_some(bytes) {
                Ok(sent) => {
                    activity.send_progresses();
                    return Ok(sent);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    activity.send_blocks();
                    if activity.blocked().is_some_and(|time| time >= limit) {
                        return Err(Close::SendTimeout(limit));
                    }
                }
                Err(e) => return Err(Close::send(e)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io::Read, os::unix::net::UnixStream, thread, time::Instant};

    fn limited(limit: Duration) -> (Socket, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let socket = Socket::accepted(ours.into(), limit);
        socket.negotiated().unwrap();
        (socket, theirs)
    }

    #[test]
    fn a_client_that_takes_nothing_is_given_up() {
        let limit = Duration::from_millis(300);
        let (socket, theirs) = limited(limit);
        let begun = Instant::now();
        let end = socket.send(&vec![0; 64 << 20]);
        assert!(matches!(end, Err(Close::SendTimeout(_))), "{end:?}");
        assert!(begun.elapsed() >= limit);
        drop(theirs);
    }

    /// The limit is for a client that takes nothing, not for a whole reply.
    #[test]
    fn a_slow_client_gets_all_of_it() {
        let (socket, mut theirs) = limited(Duration::from_secs(2));
        const LEN: usize = 1 << 20;
        let reader = thread::spawn(move || {
            let mut piece = vec![0; LEN / 16];
            for _ in 0..16 {
                thread::sleep(Duration::from_millis(200));
                theirs.read_exact(&mut piece).unwrap();
            }
        });
        socket.send(&vec![0; LEN]).unwrap();
        reader.join().unwrap();
        assert_eq!(socket.activity.blocked(), None);
    }
}
