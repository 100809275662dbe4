//! A connection's socket, its send lock, and what it is waiting for.
//!
//! A client that does not take its replies is waited for in slices, and only as long as the server allows: see
//! [`LockedSender`]. Waiting is marked in the [`Activity`].
//!
//! The send lock is innermost: it is taken with or without the leadership of the receive side, and never the other way round.
//!
//! After [`Socket::begin_tls`] what is received and sent is decrypted and encrypted here: see [`tls`](crate::tls).

use crate::{
    activity::Activity,
    close::Close,
    lock::lock,
    tls::{Received, TlsSession},
};
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
    sync::{Mutex, MutexGuard, OnceLock},
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
    tls: OnceLock<TlsSession>,
}

impl Socket {
    /// A socket whose client may take as long as it likes to read, and which has no handshake.
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Socket {
            fd,
            send_lock: Mutex::new(()),
            send_timeout: None,
            activity: Activity::new(false),
            tls: OnceLock::new(),
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

    /// Encrypts from now on. The client has been told, and the handshake is the next that it sends.
    pub(crate) fn begin_tls(&self, session: TlsSession) {
        let first = self.tls.set(session).is_ok();
        debug_assert!(first, "a client asks for it once");
    }

    pub(crate) fn tls(&self) -> Option<&TlsSession> {
        self.tls.get()
    }

    /// Receives what has arrived, waiting for at least one byte. Returns 0 at the end of the stream.
    pub(crate) fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.activity.begin_receive();
        let received = loop {
            match self.recv_once(buf) {
                Ok(None) => {}
                Ok(Some(received)) => break Ok(received),
                Err(error) => break Err(error),
            }
        };
        self.activity.end_receive();
        received
    }

    /// Waits for bytes once. `None`: they are no whole record of TLS yet.
    pub(crate) fn recv_once(&self, buf: &mut [u8]) -> io::Result<Option<usize>> {
        let recv = |buf: &mut [u8]| loop {
            match net::recv(&self.fd, &mut *buf, net::RecvFlags::empty()) {
                Err(SysErrno::INTR) => {}
                Ok((n, _)) => return Ok(n),
                Err(e) => return Err(e.into()),
            }
        };
        match self.tls() {
            None => recv(buf).map(Some),
            Some(tls) => self.decrypt(tls, buf, recv),
        }
    }

    /// Receives what has arrived without waiting. Returns 0 at the end of the stream.
    pub(crate) fn try_recv(&self, buf: &mut [u8]) -> io::Result<Option<usize>> {
        let recv = |buf: &mut [u8]| match net::recv(&self.fd, &mut *buf, net::RecvFlags::DONTWAIT) {
            Ok((n, _)) => Ok(n),
            Err(e) => Err(io::Error::from(e)),
        };
        let received = match self.tls() {
            None => recv(buf).map(Some),
            Some(tls) => self.decrypt(tls, buf, recv),
        };
        match received {
            Err(e) if is_no_news(&e) => Ok(None),
            received => received,
        }
    }

    fn decrypt(
        &self,
        tls: &TlsSession,
        buf: &mut [u8],
        recv: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<Option<usize>> {
        let received = tls.receive(buf, recv);
        // New keys, or what is wrong: the client is told before the connection ends.
        if tls.has_answer() {
            let _sending = self.lock_send();
            match self.send_some(&[]) {
                // It goes with the next reply.
                Err(e) if received.is_ok() && !is_no_news(&e) => return Err(e),
                _ => {}
            }
        }
        Ok(match received? {
            Received::Bytes(received) => Some(received),
            Received::Nothing => None,
        })
    }

    /// How many bytes may have arrived that were not received.
    pub(crate) fn arrived(&self) -> io::Result<u64> {
        let in_system = rustix::io::ioctl_fionread(&self.fd)?;
        Ok(in_system + self.tls().map_or(0, TlsSession::untaken))
    }

    /// Ends the connection in order: whoever uses TLS is told that nothing was cut off, if it takes that at once.
    pub(crate) fn close(&self) {
        if let Some(tls) = self.tls()
            && let Ok(_sending) = self.send_lock.try_lock()
        {
            tls.close();
            let _ = tls.send(&[], |bytes| {
                self.send_plain(bytes, net::SendFlags::DONTWAIT)
            });
        }
        self.shutdown(net::Shutdown::Both);
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

    /// Sends as much as the system takes, at least one byte. With TLS it may be none of these, but of the record that they
    /// begin: then the same bytes are to come again. For the handshake, before there are workers.
    pub(crate) fn send_some(&self, bytes: &[u8]) -> io::Result<usize> {
        let send = |bytes: &[u8]| self.send_plain(bytes, net::SendFlags::empty());
        match self.tls() {
            None => send(bytes),
            Some(tls) => tls.send(bytes, send),
        }
    }

    fn send_plain(&self, bytes: &[u8], flags: net::SendFlags) -> io::Result<usize> {
        loop {
            // NOSIGNAL: a client that went away is an error to handle, not a SIGPIPE for the process.
            match net::send(&self.fd, bytes, net::SendFlags::NOSIGNAL | flags) {
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

/// Whether nothing has arrived.
fn is_no_news(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
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
