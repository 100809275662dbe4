//! TLS: what a server needs for it, and what a connection keeps of it.
//!
//! The handshake begins where the client asks for it (`NBD_OPT_STARTTLS`). From then on a connection's [`Socket`] hands what
//! it receives and sends to its [`TlsSession`], so that nothing above it knows the difference.
//!
//! Bytes are encrypted in the order in which they are sent, since both happen under the socket's send lock. rustls has one
//! state for both directions, behind a lock of the connection's own: it is held while a piece is encrypted or decrypted, and
//! never while the system is waited for. rustls allocates for each record.
//!
//! [`Socket`]: crate::socket::Socket

use std::{
    io::{self, Read, Write},
    sync::{Arc, Mutex},
};

use rustls::{ServerConfig, ServerConnection};
pub use uzram_tls::Tls;

use crate::{Error, agreement::TlsTerms, lock::lock};

/// Bytes that are encrypted at once.
const PIECE: usize = 64 << 10;
/// Bytes of what was received and is not decrypted yet.
const INCOMING: usize = 64 << 10;

/// Which clients have to use TLS.
#[derive(Debug, Clone)]
pub(crate) enum TlsPolicy {
    /// It cannot be had.
    Off,
    /// Whoever asks for it.
    On(Tls),
    /// All: whoever has not asked for it is told to, and gets nothing else.
    Require(Tls),
}

impl TlsPolicy {
    pub(crate) fn is_required(&self) -> bool {
        matches!(self, TlsPolicy::Require(_))
    }

    /// What is known of a client that has begun TLS here; `None`: it cannot be had.
    pub(crate) fn shown(&self) -> Result<Option<TlsTerms>, Error> {
        match self {
            TlsPolicy::Off => Ok(None),
            TlsPolicy::On(tls) | TlsPolicy::Require(tls) => Ok(Some(terms(tls)?)),
        }
    }

    /// What has to be known of a client with which another process has negotiated.
    pub(crate) fn demanded(&self) -> Result<Option<TlsTerms>, Error> {
        match self {
            TlsPolicy::Off | TlsPolicy::On(_) => Ok(None),
            TlsPolicy::Require(tls) => Ok(Some(terms(tls)?)),
        }
    }
}

fn terms(tls: &Tls) -> Result<TlsTerms, Error> {
    let authorities = tls.client_authorities()?;
    Ok(TlsTerms { authorities })
}

/// Where plain bytes, encrypted ones and the connection's state meet.
pub(crate) struct TlsSession {
    connection: Mutex<ServerConnection>,
    /// Whoever receives has it.
    incoming: Mutex<Incoming>,
    /// Whoever sends has it, under the socket's send lock.
    outgoing: Mutex<Outgoing>,
}

impl std::fmt::Debug for TlsSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsSession")
    }
}

/// What was received and is not decrypted yet.
struct Incoming {
    buf: Box<[u8]>,
    begin: usize,
    end: usize,
}

/// What is encrypted and was not sent yet.
#[derive(Default)]
struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
    /// How many plain bytes it is made of.
    plain: usize,
}

/// What receiving has come to.
pub(crate) enum Received {
    /// So many plain bytes; 0 at the end of the stream.
    Bytes(usize),
    /// What has come so far is no whole record.
    Nothing,
}

fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("TLS: {error}"))
}

impl TlsSession {
    pub(crate) fn new(config: Arc<ServerConfig>) -> io::Result<TlsSession> {
        let mut connection = ServerConnection::new(config).map_err(invalid)?;
        // What is sent comes in pieces anyway, and is sent whole.
        connection.set_buffer_limit(None);
        Ok(TlsSession {
            connection: Mutex::new(connection),
            incoming: Mutex::new(Incoming {
                buf: vec![0; INCOMING].into_boxed_slice(),
                begin: 0,
                end: 0,
            }),
            outgoing: Mutex::default(),
        })
    }

    pub(crate) fn is_handshaking(&self) -> bool {
        lock(&self.connection).is_handshaking()
    }

    /// Receives once, by `recv`, what is needed, and decrypts into `buf`. With an empty `buf` it only takes part in the
    /// handshake. Where TLS itself has to answer, [`TlsSession::answer`] has the bytes afterwards, also after an error.
    pub(crate) fn receive(
        &self,
        buf: &mut [u8],
        recv: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<Received> {
        let incoming = &mut *lock(&self.incoming);
        match self.decrypt(incoming, buf)? {
            Received::Nothing => {}
            some => return Ok(some),
        }
        if incoming.begin == incoming.end {
            (incoming.begin, incoming.end) = (0, 0);
        } else if incoming.end == incoming.buf.len() {
            incoming.buf.copy_within(incoming.begin.., 0);
            incoming.end -= incoming.begin;
            incoming.begin = 0;
        }
        match recv(&mut incoming.buf[incoming.end..])? {
            // With or without a last word: the messages above have lengths.
            0 => return Ok(Received::Bytes(0)),
            received => incoming.end += received,
        }
        self.decrypt(incoming, buf)
    }

    /// Decrypts as much as there is and `buf` has room for.
    fn decrypt(&self, incoming: &mut Incoming, buf: &mut [u8]) -> io::Result<Received> {
        let connection = &mut *lock(&self.connection);
        let mut filled = 0;
        loop {
            while filled < buf.len() {
                match connection.reader().read(&mut buf[filled..]) {
                    // The client's last word.
                    Ok(0) => return Ok(Received::Bytes(filled)),
                    Ok(read) => filled += read,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
            let full = filled == buf.len() && !connection.is_handshaking();
            if full || incoming.begin == incoming.end {
                break;
            }
            let mut rest = &incoming.buf[incoming.begin..incoming.end];
            incoming.begin += connection.read_tls(&mut rest)?;
            connection.process_new_packets().map_err(invalid)?;
        }
        Ok(match filled {
            0 => Received::Nothing,
            filled => Received::Bytes(filled),
        })
    }

    /// Whether TLS has something to send by itself: its part of the handshake, an alert, new keys.
    pub(crate) fn has_answer(&self) -> bool {
        lock(&self.connection).wants_write()
    }

    /// Sends plain bytes, a piece at most, by `send`, under the socket's send lock. Returns how many of them are sent whole; 0
    /// where some of their record is still to be sent: then the same bytes come again. Without bytes it sends what TLS has to
    /// say by itself.
    pub(crate) fn send(
        &self,
        bytes: &[u8],
        send: impl Fn(&[u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let outgoing = &mut *lock(&self.outgoing);
        if outgoing.sent == outgoing.bytes.len() {
            outgoing.bytes.clear();
            outgoing.sent = 0;
            let connection = &mut *lock(&self.connection);
            let piece = &bytes[..bytes.len().min(PIECE)];
            connection.writer().write_all(piece)?;
            outgoing.plain = piece.len();
            while connection.wants_write() {
                connection.write_tls(&mut outgoing.bytes)?;
            }
        }
        let before = outgoing.sent;
        while outgoing.sent < outgoing.bytes.len() {
            match send(&outgoing.bytes[outgoing.sent..]) {
                Ok(sent) => outgoing.sent += sent,
                // The client takes something, if slowly.
                Err(error)
                    if error.kind() == io::ErrorKind::WouldBlock && outgoing.sent > before =>
                {
                    return Ok(0);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(std::mem::take(&mut outgoing.plain))
    }

    /// Has TLS say, with what is sent next, that nothing will follow.
    pub(crate) fn close(&self) {
        lock(&self.connection).send_close_notify();
    }

    /// At most so many plain bytes have been received that nobody has taken.
    pub(crate) fn untaken(&self) -> u64 {
        let incoming = lock(&self.incoming);
        (incoming.end - incoming.begin) as u64 + PIECE as u64
    }
}
