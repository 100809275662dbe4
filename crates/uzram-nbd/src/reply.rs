//! The replies of one worker, collected in a buffer.
//!
//! A worker collects the replies of its share of requests in one buffer, allocated once, and sends them with one system call.
//! READ data is decompressed straight into that buffer. The socket's send lock keeps replies whole.

use crate::{
    close::Close,
    proto::{self, CHUNK_LEN, SIMPLE_REPLY_LEN, WireErrno, chunk},
    socket::Socket,
};

/// Largest piece of READ data that is read at once: nbdcopy's requests of 256 KiB stay in one piece.
pub(crate) const PIECE: usize = 256 << 10;
/// The buffer holds one piece with its headers and some small replies around it.
const CAPACITY: usize = PIECE + 4096;

/// One worker's unsent replies.
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

    /// Sends the collected replies.
    pub(crate) fn flush(&mut self) -> Result<(), Close> {
        let collected = std::mem::take(&mut self.len);
        if collected > 0 {
            self.socket.send(&self.buf[..collected])
        } else {
            Ok(())
        }
    }

    /// Makes room for `len` bytes at the end, to be kept with [`Replies::commit`]. Sends collected replies if they are in the
    /// way.
    pub(crate) fn room(&mut self, len: usize) -> Result<&mut [u8], Close> {
        if self.buf.len() - self.len < len {
            self.flush()?;
        }
        Ok(&mut self.buf[self.len..self.len + len])
    }

    /// Keeps the first `len` bytes of the room that [`Replies::room`] made.
    pub(crate) fn commit(&mut self, len: usize) {
        self.len += len;
        debug_assert!(self.len <= self.buf.len());
    }

    fn push(&mut self, bytes: &[u8]) -> Result<(), Close> {
        self.room(bytes.len())?.copy_from_slice(bytes);
        self.commit(bytes.len());
        Ok(())
    }

    /// Adds a simple reply without payload; no error means success.
    pub(crate) fn simple(&mut self, cookie: u64, error: Option<WireErrno>) -> Result<(), Close> {
        self.push(&proto::simple_reply(cookie, error))
    }

    /// Adds a final chunk without content.
    pub(crate) fn none_chunk(&mut self, cookie: u64) -> Result<(), Close> {
        self.push(&proto::chunk_header(cookie, chunk::NONE, true, 0))
    }

    /// Adds a final error chunk with a message for people.
    pub(crate) fn error_chunk(
        &mut self,
        cookie: u64,
        error: WireErrno,
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

    /// Adds a chunk that says that a run of bytes reads as zeros.
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

    /// Sends `header` and then `len` bytes of payload that do not fit in the buffer, piece by piece under the send lock. `fill`
    /// gets each piece and its position. Pieces end where `offset + position` is a page boundary.
    pub(crate) fn stream(
        &mut self,
        header: &[u8],
        offset: u64,
        len: u32,
        mut fill: impl FnMut(&mut [u8], u64) -> Result<(), Close>,
    ) -> Result<(), Close> {
        self.push(header)?;
        let sender = self.socket.lock_send();
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
            sender.send(&self.buf[..collected])?;
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
