//! The replies of one worker, collected in a buffer.
//!
//! A worker collects the replies of its share of requests in one buffer, allocated once, and sends them with one system call.
//! READ data is decompressed straight into that buffer. The socket's send lock keeps replies whole.

use crate::{
    close::Close,
    proto::{self, EXTENDED_CHUNK_LEN, Headers, RequestHeader, SIMPLE_REPLY_LEN, WireErrno, chunk},
    socket::Socket,
};

/// Largest piece of READ data that is read at once: nbdcopy's requests of 256 KiB stay in one piece.
pub(crate) const PIECE: usize = 256 << 10;
/// The buffer holds one piece with its headers and some small replies around it.
const CAPACITY: usize = PIECE + 4096;

/// One worker's unsent replies.
pub(crate) struct Replies<'a> {
    socket: &'a Socket,
    headers: Headers,
    buf: Box<[u8]>,
    len: usize,
}

impl<'a> Replies<'a> {
    pub(crate) fn new(socket: &'a Socket, headers: Headers) -> Self {
        Replies {
            socket,
            headers,
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

    /// Adds the reply to a command that succeeded and whose reply has no payload.
    pub(crate) fn done(&mut self, request: &RequestHeader) -> Result<(), Close> {
        match self.headers {
            Headers::Simple | Headers::Structured => self.simple(request.cookie, None),
            Headers::Extended => self.none_chunk(request),
        }
    }

    /// Makes room for a chunk with `len` bytes of payload, and writes its header. The payload is to be filled in, and the
    /// chunk kept with [`Replies::commit_chunk`].
    pub(crate) fn chunk(
        &mut self,
        request: &RequestHeader,
        kind: u16,
        done: bool,
        len: usize,
    ) -> Result<&mut [u8], Close> {
        let headers = self.headers;
        let room = self.room(headers.chunk_len() + len)?;
        Ok(proto::put_chunk_header(
            room, headers, request, kind, done, len as u32,
        ))
    }

    /// Adds a final chunk whose payload has at most `most` bytes; `fill` returns how many.
    pub(crate) fn last_chunk(
        &mut self,
        request: &RequestHeader,
        kind: u16,
        most: usize,
        fill: impl FnOnce(&mut [u8]) -> usize,
    ) -> Result<(), Close> {
        let headers = self.headers;
        let room = self.room(headers.chunk_len() + most)?;
        let len = fill(&mut room[headers.chunk_len()..]);
        proto::put_chunk_header(room, headers, request, kind, true, len as u32);
        self.commit_chunk(len);
        Ok(())
    }

    /// Keeps the chunk that [`Replies::chunk`] made room for.
    pub(crate) fn commit_chunk(&mut self, len: usize) {
        self.commit(self.headers.chunk_len() + len);
    }

    /// Adds a final chunk without content.
    pub(crate) fn none_chunk(&mut self, request: &RequestHeader) -> Result<(), Close> {
        self.chunk(request, chunk::NONE, true, 0)?;
        self.commit_chunk(0);
        Ok(())
    }

    /// Adds a final error chunk with a message for people.
    pub(crate) fn error_chunk(
        &mut self,
        request: &RequestHeader,
        error: WireErrno,
        message: &str,
    ) -> Result<(), Close> {
        let message = &message[..message.floor_char_boundary(proto::MAX_STRING)];
        let len = 6 + message.len();
        let room = self.chunk(request, chunk::ERROR, true, len)?;
        room[..4].copy_from_slice(&(error as u32).to_be_bytes());
        room[4..6].copy_from_slice(&(message.len() as u16).to_be_bytes());
        room[6..].copy_from_slice(message.as_bytes());
        self.commit_chunk(len);
        Ok(())
    }

    /// Adds a chunk that says that a run of bytes reads as zeros.
    pub(crate) fn hole_chunk(
        &mut self,
        request: &RequestHeader,
        offset: u64,
        len: u32,
        done: bool,
    ) -> Result<(), Close> {
        let room = self.chunk(request, chunk::OFFSET_HOLE, done, 12)?;
        room[..8].copy_from_slice(&offset.to_be_bytes());
        room[8..].copy_from_slice(&len.to_be_bytes());
        self.commit_chunk(12);
        Ok(())
    }

    /// Sends a chunk of READ data, piece by piece: see [`Replies::stream`].
    pub(crate) fn stream_chunk(
        &mut self,
        request: &RequestHeader,
        offset: u64,
        len: u32,
        fill: impl FnMut(&mut [u8], u64) -> Result<(), Close>,
    ) -> Result<(), Close> {
        let mut header = [0; EXTENDED_CHUNK_LEN + 8];
        let (headers, kind) = (self.headers, chunk::OFFSET_DATA);
        // Not final: a read may still fail while the chunk is being sent.
        let rest = proto::put_chunk_header(&mut header, headers, request, kind, false, len + 8);
        rest[..8].copy_from_slice(&offset.to_be_bytes());
        self.stream(&header[..headers.chunk_len() + 8], offset, len, fill)
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

const _: () = assert!(CAPACITY >= PIECE + 2 * EXTENDED_CHUNK_LEN + 8);
const _: () = assert!(EXTENDED_CHUNK_LEN > proto::CHUNK_LEN && proto::CHUNK_LEN > SIMPLE_REPLY_LEN);
// An error message never needs more than one empty buffer.
const _: () = assert!(CAPACITY > EXTENDED_CHUNK_LEN + 6 + proto::MAX_STRING);
