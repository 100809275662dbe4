//! Executes requests on the device and writes their replies.
//!
//! A request is checked first ([`Session::check`]) and executed only if nothing is wrong with it, so a refused request has no
//! effect. Nothing here allocates unless a request fails: its message is text for people.

use crate::{
    close::Close,
    export::Export,
    proto::{
        self, Headers, MAX_PAYLOAD, RequestHeader, SIMPLE_REPLY_LEN, WireErrno, allocation, chunk,
        cmd, cmd_flag, u32_at, u64_at,
    },
    reply::{PIECE, Replies, fits},
};
use std::borrow::Cow;
use uzram::{Access, Extent, ExtentKind, Zeroes};

/// Most descriptors in one BLOCK_STATUS reply. The client asks again for what follows.
const MAX_DESCRIPTORS: usize = 4096;
/// Bytes of the payload of a BLOCK_STATUS before the ids of contexts: how much of the export it asks about.
const STATUS_HEAD: u64 = 8;

/// What client and server agreed on in the handshake.
pub(crate) struct Session {
    pub(crate) export: Export,
    /// The headers of requests and replies.
    pub(crate) headers: Headers,
    /// Whether `base:allocation` was selected for this export.
    pub(crate) allocation: bool,
}

/// An error that is sent to the client.
pub(crate) struct ErrorReply {
    errno: WireErrno,
    message: Cow<'static, str>,
}

impl From<uzram::Error> for ErrorReply {
    fn from(error: uzram::Error) -> Self {
        ErrorReply {
            errno: WireErrno::from_system(error.errno()),
            message: error.to_string().into(),
        }
    }
}

fn refuse<T>(errno: WireErrno, message: &'static str) -> Result<T, ErrorReply> {
    Err(ErrorReply {
        errno,
        message: message.into(),
    })
}

impl Session {
    /// Checks whether the request may be executed.
    pub(crate) fn check(&self, request: &RequestHeader) -> Result<(), ErrorReply> {
        let extended = self.headers == Headers::Extended;
        let payload = if extended { cmd_flag::PAYLOAD_LEN } else { 0 };
        // Some clients set FUA on everything, so it is allowed everywhere.
        let (flags, writes) = match request.kind {
            cmd::READ if self.headers != Headers::Simple => (cmd_flag::DF, false),
            cmd::READ | cmd::CACHE => (0, false),
            cmd::WRITE => (payload, true),
            cmd::TRIM => (0, true),
            cmd::WRITE_ZEROES => (cmd_flag::NO_HOLE | cmd_flag::FAST_ZERO, true),
            cmd::BLOCK_STATUS if self.allocation => (cmd_flag::REQ_ONE | payload, false),
            cmd::BLOCK_STATUS => {
                return refuse(WireErrno::Inval, "no metadata context was selected");
            }
            cmd::FLUSH => (0, false),
            _ => return refuse(WireErrno::Inval, "unknown command"),
        };
        if request.flags & !(flags | cmd_flag::FUA) != 0 {
            return refuse(WireErrno::Inval, "this command does not take these flags");
        }
        if request.kind == cmd::FLUSH {
            return Ok(());
        }
        if request.kind == cmd::WRITE && !request.has_payload {
            return refuse(WireErrno::Inval, "a write needs a payload and its flag");
        }
        if request.kind == cmd::BLOCK_STATUS && request.has_payload {
            // A longer one names a context twice, or one that was not selected.
            return match [STATUS_HEAD, STATUS_HEAD + 4].contains(&request.len) {
                true => Ok(()),
                false => refuse(
                    WireErrno::Inval,
                    "the payload has 8 bytes, and 4 more for each selected context, once at most",
                ),
            };
        }
        if writes && self.export.read_only {
            return refuse(WireErrno::Perm, "the export is read-only");
        }
        if matches!(request.kind, cmd::READ | cmd::WRITE) && request.len > MAX_PAYLOAD.into() {
            return refuse(
                match extended {
                    true => WireErrno::Overflow,
                    false => WireErrno::Inval,
                },
                "a read or write has at most 33554432 bytes",
            );
        }
        self.check_range(request)
    }

    fn check_range(&self, request: &RequestHeader) -> Result<(), ErrorReply> {
        if request.kind == cmd::BLOCK_STATUS && request.len == 0 {
            return refuse(
                WireErrno::Inval,
                "a status request covers at least one byte",
            );
        }
        let end = request.offset.checked_add(request.len);
        if end.is_none_or(|end| end > self.export.device.size_bytes()) {
            let grows = matches!(request.kind, cmd::WRITE | cmd::WRITE_ZEROES);
            return refuse(
                if grows {
                    WireErrno::NoSpc
                } else {
                    WireErrno::Inval
                },
                "past the end of the export",
            );
        }
        Ok(())
    }

    /// What a BLOCK_STATUS with a payload that was checked asks for: the request that says the same without one, or `None`
    /// where it names no context.
    fn narrowed(
        &self,
        request: &RequestHeader,
        payload: &[u8],
    ) -> Result<Option<RequestHeader>, ErrorReply> {
        let narrowed = RequestHeader {
            len: u64_at(payload, 0),
            has_payload: false,
            ..*request
        };
        self.check_range(&narrowed)?;
        match payload.len() as u64 > STATUS_HEAD {
            true if u32_at(payload, STATUS_HEAD as usize) != allocation::ID => {
                refuse(WireErrno::Inval, "no selected metadata context has this id")
            }
            true => Ok(Some(narrowed)),
            false => Ok(None),
        }
    }

    /// Whether a request would wait for the source of a clone.
    pub(crate) fn must_fetch(&self, request: &RequestHeader) -> bool {
        let access = access(request);
        access.is_some_and(|access| {
            let device = &self.export.device;
            device.must_fetch(access, request.offset, request.len)
        })
    }

    /// Executes one request once what it needs of a clone's source is here.
    pub(crate) fn execute_when_fetched(
        &self,
        request: &RequestHeader,
        payload: &[u8],
        out: &mut Replies<'_>,
    ) -> Result<(), Close> {
        let (offset, len) = (request.offset, request.len);
        // Nothing is fetched for what is refused, which may be as long as the device.
        let access = access(request).filter(|_| self.check(request).is_ok());
        match access.map(|access| self.export.device.fetch(access, offset, len)) {
            Some(Err(error)) => self.fail(request, &error.into(), out)?,
            _ => self.execute(request, payload, out)?,
        }
        out.flush()
    }

    /// Executes one request. Its payload, if it has one, is complete.
    pub(crate) fn execute(
        &self,
        request: &RequestHeader,
        payload: &[u8],
        out: &mut Replies<'_>,
    ) -> Result<(), Close> {
        tracing::trace!(?request, "request");
        if let Err(failure) = self.check(request) {
            return self.fail(request, &failure, out);
        }
        match request.kind {
            cmd::READ if self.headers == Headers::Simple => self.read_simple(request, out),
            cmd::READ if request.flags & cmd_flag::DF != 0 => self.read_unfragmented(request, out),
            cmd::READ => self.read_chunks(request, out),
            cmd::BLOCK_STATUS if request.has_payload => match self.narrowed(request, payload) {
                Ok(Some(request)) => self.block_status(&request, out),
                Ok(None) => out.none_chunk(request),
                Err(failure) => self.fail(request, &failure, out),
            },
            cmd::BLOCK_STATUS => self.block_status(request, out),
            _ => {
                let done = self.change(request, payload);
                self.conclude(request, done, out)
            }
        }
    }

    /// Reads from the device.
    fn load(&self, piece: &mut [u8], offset: u64) -> Result<(), uzram::Error> {
        self.export.device.read_at(piece, offset)
    }

    /// Writes a piece of a WRITE that was checked.
    pub(crate) fn store(&self, piece: &[u8], offset: u64) -> Result<(), ErrorReply> {
        Ok(self.export.device.write_at(piece, offset)?)
    }

    /// Replies to a command whose reply has no payload.
    pub(crate) fn conclude(
        &self,
        request: &RequestHeader,
        done: Result<(), ErrorReply>,
        out: &mut Replies<'_>,
    ) -> Result<(), Close> {
        match done {
            Ok(()) => out.done(request),
            Err(failure) => self.fail(request, &failure, out),
        }
    }

    fn fail(
        &self,
        request: &RequestHeader,
        failure: &ErrorReply,
        out: &mut Replies<'_>,
    ) -> Result<(), Close> {
        tracing::debug!(?request, errno = ?failure.errno, "{}", failure.message);
        match self.headers {
            Headers::Simple => out.simple(request.cookie, Some(failure.errno)),
            _ => out.error_chunk(request, failure.errno, &failure.message),
        }
    }

    fn change(&self, request: &RequestHeader, payload: &[u8]) -> Result<(), ErrorReply> {
        let (device, offset, len) = (&self.export.device, request.offset, request.len);
        match request.kind {
            cmd::WRITE => device.write_at(payload, offset)?,
            cmd::TRIM => device.discard(offset, len)?,
            cmd::WRITE_ZEROES => {
                // Zeroing stores nothing and is always faster than a write, so FAST_ZERO needs no check.
                let keep = request.flags & cmd_flag::NO_HOLE != 0 && self.export.no_hole;
                let how = match keep {
                    true => Zeroes::Allocate,
                    false => Zeroes::Deallocate,
                };
                device.write_zeroes(offset, len, how)?;
            }
            // The data is in RAM already, so CACHE has nothing to do.
            cmd::CACHE => {}
            _ => device.flush()?,
        }
        self.persist(request)
    }

    /// Does what FUA asks for after a write.
    pub(crate) fn persist(&self, request: &RequestHeader) -> Result<(), ErrorReply> {
        let fua = request.flags & cmd_flag::FUA != 0;
        if fua && matches!(request.kind, cmd::WRITE | cmd::TRIM | cmd::WRITE_ZEROES) {
            self.export.device.flush()?;
        }
        Ok(())
    }

    fn read_simple(&self, request: &RequestHeader, out: &mut Replies<'_>) -> Result<(), Close> {
        let header = proto::simple_reply(request.cookie, None);
        let len = read_len(request);
        if !fits(len) {
            return out.stream(&header, request.offset, len, |piece, position| {
                let read = self.load(piece, request.offset + position);
                read.map_err(Close::ReadFailed)
            });
        }
        let total = SIMPLE_REPLY_LEN + len as usize;
        let room = out.room(total)?;
        room[..SIMPLE_REPLY_LEN].copy_from_slice(&header);
        match self.load(&mut room[SIMPLE_REPLY_LEN..], request.offset) {
            Ok(()) => out.commit(total),
            Err(e) => return self.fail(request, &e.into(), out),
        }
        Ok(())
    }

    /// Sends a structured reply with a chunk for each run of zeros and one or more for each run of data.
    fn read_chunks(&self, request: &RequestHeader, out: &mut Replies<'_>) -> Result<(), Close> {
        let (offset, len) = (request.offset, request.len);
        if len == 0 {
            return out.none_chunk(request);
        }
        let extents = match self.export.device.extents(offset, len) {
            Ok(extents) => extents,
            Err(e) => return self.fail(request, &e.into(), out),
        };
        let end = offset + len;
        for (data, mut at, mut left) in merged(extents, |kind| kind == ExtentKind::Data) {
            if !data {
                // It fits, as all lengths of a read.
                out.hole_chunk(request, at, left as u32, at + left == end)?;
                continue;
            }
            while left > 0 {
                // Split on a page boundary, so that no page is decompressed twice.
                let fitting = PIECE as u64 - at % uzram::PAGE_SIZE as u64;
                let piece = left.min(fitting);
                let done = at + piece == end;
                if let Err(failure) = self.data_chunk(request, at, piece as usize, done, out)? {
                    return self.fail(request, &failure, out);
                }
                at += piece;
                left -= piece;
            }
        }
        Ok(())
    }

    fn data_chunk(
        &self,
        request: &RequestHeader,
        offset: u64,
        len: usize,
        done: bool,
        out: &mut Replies<'_>,
    ) -> Result<Result<(), ErrorReply>, Close> {
        let room = out.chunk(request, chunk::OFFSET_DATA, done, 8 + len)?;
        room[..8].copy_from_slice(&offset.to_be_bytes());
        let read = self.load(&mut room[8..], offset);
        if read.is_ok() {
            out.commit_chunk(8 + len);
        }
        Ok(read.map_err(ErrorReply::from))
    }

    /// Sends a structured reply with one content chunk, as DF asks.
    fn read_unfragmented(
        &self,
        request: &RequestHeader,
        out: &mut Replies<'_>,
    ) -> Result<(), Close> {
        let (offset, len) = (request.offset, read_len(request));
        if fits(len) && len > 0 {
            return match self.data_chunk(request, offset, len as usize, true, out)? {
                Ok(()) => Ok(()),
                Err(failure) => self.fail(request, &failure, out),
            };
        }
        let mut failed = None;
        if len > 0 {
            out.stream_chunk(request, offset, len, |piece, position| {
                // Zeros fill what cannot be read any more.
                if failed.is_none() {
                    failed = self.load(piece, offset + position).err();
                }
                if failed.is_some() {
                    piece.fill(0);
                }
                Ok(())
            })?;
        }
        match failed {
            None => out.none_chunk(request),
            Some(e) => self.fail(request, &e.into(), out),
        }
    }

    fn block_status(&self, request: &RequestHeader, out: &mut Replies<'_>) -> Result<(), Close> {
        let extents = match self.export.device.extents(request.offset, request.len) {
            Ok(extents) => extents,
            Err(e) => return self.fail(request, &e.into(), out),
        };
        let one = request.flags & cmd_flag::REQ_ONE != 0;
        let most = if one {
            1
        } else {
            let pages = request.len / uzram::PAGE_SIZE as u64 + 2;
            pages.min(MAX_DESCRIPTORS as u64) as usize
        };
        let runs = merged(extents, status_flags).take(most);
        let id = allocation::ID.to_be_bytes();
        match self.headers {
            Headers::Extended => {
                let most = 8 + 16 * most;
                out.last_chunk(request, chunk::BLOCK_STATUS_EXT, most, |room| {
                    let mut count = 0;
                    for ((status, _, len), place) in runs.zip(room[8..].chunks_exact_mut(16)) {
                        place[..8].copy_from_slice(&len.to_be_bytes());
                        place[8..].copy_from_slice(&u64::from(status).to_be_bytes());
                        count += 1;
                    }
                    room[..4].copy_from_slice(&id);
                    room[4..8].copy_from_slice(&(count as u32).to_be_bytes());
                    8 + 16 * count
                })
            }
            Headers::Simple | Headers::Structured => {
                let most = 4 + 8 * most;
                out.last_chunk(request, chunk::BLOCK_STATUS, most, |room| {
                    let mut count = 0;
                    for ((status, _, len), place) in runs.zip(room[4..].chunks_exact_mut(8)) {
                        // Compact requests have lengths of 32 bits, and no run is longer.
                        place[..4].copy_from_slice(&(len as u32).to_be_bytes());
                        place[4..].copy_from_slice(&status.to_be_bytes());
                        count += 1;
                    }
                    room[..4].copy_from_slice(&id);
                    4 + 8 * count
                })
            }
        }
    }
}

/// Bytes of a READ that was checked: at most [`MAX_PAYLOAD`].
fn read_len(request: &RequestHeader) -> u32 {
    request.len as u32
}

/// What a request needs of the contents.
fn access(request: &RequestHeader) -> Option<Access> {
    match request.kind {
        cmd::READ => Some(Access::Read),
        cmd::WRITE | cmd::WRITE_ZEROES => Some(Access::Write),
        _ => None,
    }
}

fn status_flags(kind: ExtentKind) -> u32 {
    match kind {
        ExtentKind::Hole => allocation::STATE_HOLE | allocation::STATE_ZERO,
        ExtentKind::Zero => allocation::STATE_ZERO,
        ExtentKind::Data => 0,
    }
}

/// Joins neighbouring extents of the same `class`; yields (class, offset, length).
fn merged<C: PartialEq>(
    extents: impl Iterator<Item = Extent>,
    class: impl Fn(ExtentKind) -> C,
) -> impl Iterator<Item = (C, u64, u64)> {
    let mut extents = extents.peekable();
    std::iter::from_fn(move || {
        let first = extents.next()?;
        let (kind, mut len) = (class(first.kind), first.len);
        while let Some(next) = extents.next_if(|next| class(next.kind) == kind) {
            len += next.len;
        }
        Some((kind, first.offset, len))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_of_one_class_are_joined() {
        use ExtentKind::{Data, Hole, Zero};
        let runs = [(Hole, 4), (Zero, 2), (Zero, 1), (Data, 8), (Hole, 1)];
        let extents = || {
            let mut offset = 100;
            runs.into_iter().map(move |(kind, len)| {
                let extent = Extent { offset, len, kind };
                offset += len;
                extent
            })
        };
        let by_data: Vec<_> = merged(extents(), |kind| kind == Data).collect();
        assert_eq!(by_data, [(false, 100, 7), (true, 107, 8), (false, 115, 1)]);
        let by_status: Vec<_> = merged(extents(), status_flags).collect();
        assert_eq!(
            by_status,
            [(3, 100, 4), (2, 104, 3), (0, 107, 8), (3, 115, 1)]
        );
    }
}
