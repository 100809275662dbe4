//! The send side of a connection: the socket with its send lock, and each worker's buffer of replies.
//!
//! A worker collects the replies of its share of requests in one buffer, allocated once, and sends them with one
//! system call. READ data is decompressed straight into that buffer. The send lock keeps replies whole; it is
//! innermost, taken with or without the leadership of the receive side and never the other way round.

use crate::{
    close::Close,
    lock,
    proto::{self, CHUNK_LEN, Errno, SIMPLE_REPLY_LEN, chunk},
};
use rustix::{io::Errno as SysErrno, net};
use std::{io, os::fd::OwnedFd, sync::Mutex};

/// Largest piece of READ data that is read at once, so that 256 KiB, nbdcopy's request, stays in one piece.
pub(crate) const PIECE: usize = 256 << 10;
/// The buffer holds one piece with its headers and some small replies around it.
const CAPACITY: usize = PIECE + 4096;

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

    /// Receives what is there, waiting for at least one byte; 0 at the end of the stream.
    pub(crate) fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match net::recv(&self.fd, &mut *buf, net::RecvFlags::empty()) {
                Err(SysErrno::INTR) => {}
                Ok((n, _)) => return Ok(n),
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Receives what is there without waiting; 0 at the end of the stream.
    pub(crate) fn try_recv(&self, buf: &mut [u8]) -> io::Result<Option<usize>> {
        match net::recv(&self.fd, &mut *buf, net::RecvFlags::DONTWAIT) {
            Err(SysErrno::AGAIN | SysErrno::INTR) => Ok(None),
            Ok((n, _)) => Ok(Some(n)),
            Err(e) => Err(e.into()),
        }
    }

    /// Sends all of it as one piece among the replies of other workers.
    pub(crate) fn send(&self, bytes: &[u8]) -> Result<(), Close> {
        let _whole = lock(&self.send_lock);
        self.send_locked(bytes)
    }

    fn send_locked(&self, mut bytes: &[u8]) -> Result<(), Close> {
        while !bytes.is_empty() {
            bytes = &bytes[self.send_some(bytes).map_err(Close::Send)?..];
        }
        Ok(())
    }

    /// Sends as much as the system takes, at least one byte; for the time before there are workers.
    pub(crate) fn send_some(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            // NOSIGNAL: a client that went away is an error to handle, not SIGPIPE for the process.
            match net::send(&self.fd, bytes, net::SendFlags::NOSIGNAL) {
                Err(SysErrno::INTR) => {}
                sent => return Ok(sent?),
            }
        }
    }

    /// Shuts the socket down; one that is not connected any more is no error.
    pub(crate) fn shutdown(&self, how: net::Shutdown) {
        let _ = net::shutdown(&self.fd, how);
    }
}

/// One worker's replies that are not sent yet.
pub(crate) struct Replies<'a> {
    socket: &'a Socket,
    buf: Box<[u8]>,
    len: usize,
}

impl<'a> Replies<'a> {
    pub(crate) fn new(socket: &'a Socket) -> Self {
        Replies {
            socket,
            buf: vec![0; CAPACITY].into_boxed_slice(),
            len: 0,
        }
    }

    /// Sends what has been collected.
    pub(crate) fn flush(&mut self) -> Result<(), Close> {
        let collected = std::mem::take(&mut self.len);
        if collected > 0 {
            self.socket.send(&self.buf[..collected])
        } else {
            Ok(())
        }
    }

    /// Room for `len` bytes at the end, to be kept with [`Replies::commit`]; sends what is in the way.
    pub(crate) fn room(&mut self, len: usize) -> Result<&mut [u8], Close> {
        if self.buf.len() - self.len < len {
            self.flush()?;
        }
        Ok(&mut self.buf[self.len..self.len + len])
    }

    /// Keeps the first `len` bytes of what [`Replies::room`] gave.
    pub(crate) fn commit(&mut self, len: usize) {
        self.len += len;
        debug_assert!(self.len <= self.buf.len());
    }

    fn push(&mut self, bytes: &[u8]) -> Result<(), Close> {
        self.room(bytes.len())?.copy_from_slice(bytes);
        self.commit(bytes.len());
        Ok(())
    }

    /// A simple reply without payload; `None` is success.
    pub(crate) fn simple(&mut self, cookie: u64, error: Option<Errno>) -> Result<(), Close> {
        self.push(&proto::simple_reply(cookie, error))
    }

    /// The final chunk without content.
    pub(crate) fn none_chunk(&mut self, cookie: u64) -> Result<(), Close> {
        self.push(&proto::chunk_header(cookie, chunk::NONE, true, 0))
    }

    /// A final error chunk with a message for people.
    pub(crate) fn error_chunk(
        &mut self,
        cookie: u64,
        error: Errno,
        message: &str,
    ) -> Result<(), Close> {
        let message = &message[..message.floor_char_boundary(proto::MAX_STRING)];
        self.push(&proto::chunk_header(
            cookie,
            chunk::ERROR,
            true,
            6 + message.len() as u32,
        ))?;
        self.push(&(error as u32).to_be_bytes())?;
        self.push(&(message.len() as u16).to_be_bytes())?;
        self.push(message.as_bytes())
    }

    /// A chunk that says that a run of bytes reads as zeros.
    pub(crate) fn hole_chunk(
        &mut self,
        cookie: u64,
        offset: u64,
        len: u32,
        done: bool,
    ) -> Result<(), Close> {
        let room = self.room(CHUNK_LEN + 12)?;
        room[..CHUNK_LEN].copy_from_slice(&proto::chunk_header(
            cookie,
            chunk::OFFSET_HOLE,
            done,
            12,
        ));
        room[CHUNK_LEN..CHUNK_LEN + 8].copy_from_slice(&offset.to_be_bytes());
        room[CHUNK_LEN + 8..].copy_from_slice(&len.to_be_bytes());
        self.commit(CHUNK_LEN + 12);
        Ok(())
    }

    /// Sends `header` and then `len` bytes of payload that do not fit in the buffer, piece by piece under the send
    /// lock. `fill` is given each piece and its position; pieces end on page boundaries of `offset + position`.
    pub(crate) fn stream(
        &mut self,
        header: &[u8],
        offset: u64,
        len: u32,
        mut fill: impl FnMut(&mut [u8], u64) -> Result<(), Close>,
    ) -> Result<(), Close> {
        self.push(header)?;
        let _whole = lock(&self.socket.send_lock);
        let mut position = 0;
        while position < u64::from(len) {
            let room = (self.buf.len() - self.len) as u64;
            let mut piece = room.min(u64::from(len) - position);
            if position + piece < u64::from(len) {
                // A piece is far longer than a page unless the buffer is nearly full of earlier replies.
                piece = piece.saturating_sub((offset + position + piece) % uzram::PAGE_SIZE as u64);
            }
            fill(&mut self.buf[self.len..self.len + piece as usize], position)?;
            let collected = std::mem::take(&mut self.len) + piece as usize;
            self.socket.send_locked(&self.buf[..collected])?;
            position += piece;
        }
        Ok(())
    }
}

/// Whether a simple reply with `len` bytes of payload fits in a worker's buffer.
pub(crate) fn fits(len: u32) -> bool {
    len as usize <= PIECE
}

const _: () =
    assert!(CAPACITY >= PIECE + CHUNK_LEN + 8 + CHUNK_LEN && CHUNK_LEN > SIMPLE_REPLY_LEN);
// An error message never needs more than one empty buffer.
const _: () = assert!(CAPACITY > CHUNK_LEN + 6 + proto::MAX_STRING);
