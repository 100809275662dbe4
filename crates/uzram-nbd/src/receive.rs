//! The receive side of a connection, owned by whichever worker is leader.
//!
//! Bytes are received in large reads, so that one system call brings many requests, and requests are parsed in place. A
//! complete request is a [`WorkItem`]: its header and where its payload lies. Workers take items in a [`Batch`], which shares
//! the buffer, so payloads go from here to the device without a copy.
//!
//! A buffer that others still hold is read-only. The receiver then goes on in another one, to which it copies the few bytes
//! of an incomplete request. Each worker holds at most one buffer, so one more than there are workers is enough. Buffers are
//! allocated when first needed: the memory of a connection is bounded, and no request allocates.
//!
//! A request whose payload is too large for a buffer is not an item: the leader streams it ([`Receiver::stream`]).

use crate::{
    close::Close,
    divide::WritePiece,
    poll::NextBytes,
    proto::{Headers, MAX_PAYLOAD, RequestHeader, cmd},
    socket::Socket,
    stop::Stop,
};
use std::{collections::VecDeque, ops::Range, sync::Arc};
use uzram_frontend::Poller;

/// Bytes of a receive buffer: room for a WRITE of 256 KiB (nbdcopy's) and more behind it.
const CAPACITY: usize = 512 << 10;
/// Most requests that are parsed ahead.
pub(crate) const MAX_PENDING: usize = 256;
/// Longest WRITE over the maximum that is skipped. A longer one ends the connection. With extended headers the protocol
/// has every payload over the maximum end it.
const MAX_SKIP: u64 = 64 << 20;

/// A complete request, and where its payload lies in the buffer.
#[derive(Debug, Clone)]
pub(crate) struct WorkItem {
    pub(crate) request: RequestHeader,
    payload: Range<usize>,
    /// Which part of a divided WRITE this is.
    pub(crate) piece: Option<WritePiece>,
}

impl WorkItem {
    /// Estimates how long the item takes, as [`RequestHeader::cost`].
    pub(crate) fn cost(&self) -> usize {
        match self.piece {
            Some(_) => self.payload.len(),
            None => self.request.cost(),
        }
    }
}

/// A worker's share of the requests, and the buffer that holds their payloads.
pub(crate) struct Batch {
    buffer: Option<Arc<Box<[u8]>>>,
    pub(crate) items: Vec<WorkItem>,
}

impl Batch {
    pub(crate) fn new() -> Self {
        Batch {
            buffer: None,
            items: Vec::with_capacity(MAX_PENDING),
        }
    }

    pub(crate) fn payload(&self, item: &WorkItem) -> &[u8] {
        self.buffer
            .as_ref()
            .map_or(&[], |buffer| &buffer[item.payload.clone()])
    }

    /// Releases the buffer, so that it can be received into again.
    pub(crate) fn clear(&mut self) {
        self.items.clear();
        self.buffer = None;
    }
}

/// What [`Receiver::next`] found.
pub(crate) enum Next {
    /// At least one item is pending.
    Pending,
    /// A request whose payload must be streamed before anything else.
    Stream(RequestHeader),
}

pub(crate) struct Receiver {
    headers: Headers,
    buffers: Vec<Arc<Box<[u8]>>>,
    /// Index of the buffer that is being filled.
    current: usize,
    /// Its bytes that are received but not parsed yet.
    unparsed: Range<usize>,
    /// Its items that nobody has taken yet.
    pending: VecDeque<WorkItem>,
    disconnecting: bool,
    /// Whether a payload was not received to its end: what comes next is data, whatever it looks like.
    adrift: bool,
    /// After a stop: how many of the bytes that had arrived by then are still to be received.
    allowance: Option<u64>,
    poller: Poller,
}

impl Receiver {
    pub(crate) fn new(poller: Poller, headers: Headers) -> Self {
        Receiver {
            poller,
            headers,
            buffers: vec![new_buffer()],
            current: 0,
            unparsed: 0..0,
            pending: VecDeque::with_capacity(MAX_PENDING),
            disconnecting: false,
            adrift: false,
            allowance: None,
        }
    }

    /// Number of complete requests that wait to be taken.
    pub(crate) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Whether everything pending costs no more than `most` (see [`RequestHeader::cost`]).
    pub(crate) fn costs_at_most(&self, most: usize) -> bool {
        let mut total = 0;
        self.pending.iter().all(|item| {
            total += item.cost();
            total <= most
        })
    }

    /// The only pending request, if it is a WRITE with its payload.
    pub(crate) fn lone_write(&self) -> Option<&RequestHeader> {
        let item = self.pending.front().filter(|_| self.pending.len() == 1)?;
        let whole = item.request.kind == cmd::WRITE && item.piece.is_none();
        whole.then_some(&item.request)
    }

    /// Divides that request into `count` pieces. They end on page boundaries of the device, so that no page is compressed
    /// twice. The request has at least two pages for each piece.
    pub(crate) fn divide(&mut self, count: usize, write: usize) {
        let Some(WorkItem {
            request, payload, ..
        }) = self.pending.pop_front()
        else {
            return;
        };
        let page = uzram::PAGE_SIZE as u64;
        let end = |piece: usize| {
            if piece == count {
                return payload.len();
            }
            let end = request.offset + (payload.len() * piece / count) as u64;
            (end - end % page - request.offset) as usize
        };
        for piece in 0..count {
            let begin = if piece == 0 { 0 } else { end(piece) };
            self.pending.push_back(WorkItem {
                request,
                payload: payload.start + begin..payload.start + end(piece + 1),
                piece: Some(WritePiece {
                    write,
                    offset: request.offset + begin as u64,
                }),
            });
        }
    }

    /// Moves the first `count` pending items to the batch, which must be clear.
    pub(crate) fn take(&mut self, count: usize, batch: &mut Batch) {
        batch.items.extend(self.pending.drain(..count));
        batch.buffer = Some(Arc::clone(&self.buffers[self.current]));
    }

    /// Receives until there is something to do.
    pub(crate) fn next(&mut self, socket: &Socket, stop: &Stop) -> Result<Next, Close> {
        if self.adrift {
            return Err(Close::Truncated);
        }
        loop {
            let needed = match self.parse()? {
                _ if !self.pending.is_empty() => return Ok(Next::Pending),
                Parsed::Incomplete { needed } => needed,
                Parsed::Large(request) => return Ok(Next::Stream(request)),
            };
            if self.disconnecting {
                return Err(Close::Disconnected);
            }
            self.make_room(needed);
            if self.receive(socket, stop, CAPACITY)? == 0 {
                let between = self.unparsed.is_empty();
                return Err(match (stop.is_set(), between) {
                    (true, _) => stop.close(),
                    (_, true) => Close::Disconnected,
                    _ => Close::Truncated,
                });
            }
        }
    }

    /// Makes items of the complete requests among the unparsed bytes.
    fn parse(&mut self) -> Result<Parsed, Close> {
        let buffer = &self.buffers[self.current];
        while !self.disconnecting && self.pending.len() < MAX_PENDING {
            let header_len = self.headers.request_len();
            let parsed = RequestHeader::parse(self.headers, &buffer[self.unparsed.clone()]);
            let Some(parsed) = parsed else {
                break;
            };
            let request = parsed.map_err(Close::RequestMagic)?;
            if request.kind == cmd::DISC {
                // Nothing may follow, and whatever does is ignored.
                self.disconnecting = true;
                break;
            }
            if request.payload_len() > (CAPACITY - header_len) as u64 {
                if self.pending.is_empty() {
                    self.unparsed.start += header_len;
                    return Ok(Parsed::Large(request));
                }
                break;
            }
            let needed = header_len + request.payload_len() as usize;
            if self.unparsed.len() < needed {
                return Ok(Parsed::Incomplete { needed });
            }
            let payload = self.unparsed.start + header_len..self.unparsed.start + needed;
            self.unparsed.start += needed;
            self.pending.push_back(WorkItem {
                request,
                payload,
                piece: None,
            });
        }
        Ok(Parsed::Incomplete {
            needed: self.headers.request_len(),
        })
    }

    /// Ensures that nobody else holds the current buffer and that it has room for `needed` bytes from `unparsed.start`.
    /// Nothing is pending.
    fn make_room(&mut self, needed: usize) {
        let unparsed = self.unparsed.clone();
        if let Some(buffer) = Arc::get_mut(&mut self.buffers[self.current]) {
            if unparsed.is_empty() {
                self.unparsed = 0..0;
            } else if unparsed.start + needed > CAPACITY {
                buffer.copy_within(unparsed.clone(), 0);
                self.unparsed = 0..unparsed.len();
            }
            return;
        }
        let free = self.another_buffer();
        let old = Arc::clone(&self.buffers[self.current]);
        writable(&mut self.buffers[free])[..unparsed.len()].copy_from_slice(&old[unparsed.clone()]);
        self.current = free;
        self.unparsed = 0..unparsed.len();
    }

    /// Finds a buffer that nobody holds, never the current one: its last holder may release it at any moment, even now.
    fn another_buffer(&mut self) -> usize {
        let free = (0..self.buffers.len())
            .find(|&i| i != self.current && Arc::get_mut(&mut self.buffers[i]).is_some());
        free.unwrap_or_else(|| {
            self.buffers.push(new_buffer());
            self.buffers.len() - 1
        })
    }

    /// Appends what has arrived, at most `most` bytes, to the unparsed ones.
    fn receive(&mut self, socket: &Socket, stop: &Stop, most: usize) -> Result<usize, Close> {
        let mut room = &mut writable(&mut self.buffers[self.current])[self.unparsed.end..];
        let mut limit = room.len().min(most);
        if stop.is_set() {
            let arrived = || socket.arrived().map_err(Close::Receive);
            let allowance = match self.allowance {
                Some(bytes) => bytes,
                None => arrived()?,
            };
            limit = limit.min(allowance as usize);
            self.allowance = Some(allowance);
        }
        room = &mut room[..limit];
        if room.is_empty() {
            return Ok(0);
        }
        let mut next = NextBytes { socket, buf: room };
        let n = self.poller.wait(&mut next).map_err(Close::receive)?;
        self.unparsed.end += n;
        self.allowance = self.allowance.map(|bytes| bytes.saturating_sub(n as u64));
        Ok(n)
    }

    /// Receives a large payload, of a WRITE or of what is refused, piece by piece. `store` gets each piece and its position. Pieces end on page
    /// boundaries of the device, so that no page is compressed twice.
    pub(crate) fn stream(
        &mut self,
        request: &RequestHeader,
        socket: &Socket,
        stop: &Stop,
        mut store: impl FnMut(&[u8], u64),
    ) -> Result<(), Close> {
        self.adrift = true;
        let most = match self.headers {
            Headers::Simple | Headers::Structured => MAX_SKIP,
            Headers::Extended => MAX_PAYLOAD.into(),
        };
        if request.payload_len() > most {
            return Err(Close::Oversized(request.payload_len()));
        }
        let total = request.payload_len() as usize;
        let mut position = 0;
        while position < total {
            let left = total - position;
            self.make_room(CAPACITY.min(left));
            while self.unparsed.len() < left && self.unparsed.end < CAPACITY {
                if self.receive(socket, stop, left - self.unparsed.len())? == 0 {
                    return Err(if stop.is_set() {
                        stop.close()
                    } else {
                        Close::Truncated
                    });
                }
            }
            let mut piece = self.unparsed.len().min(left);
            if piece < left {
                let end = request.offset.wrapping_add((position + piece) as u64);
                piece -= (end % uzram::PAGE_SIZE as u64) as usize;
            }
            let start = self.unparsed.start;
            store(
                &self.buffers[self.current][start..start + piece],
                position as u64,
            );
            self.unparsed.start += piece;
            position += piece;
        }
        self.adrift = false;
        Ok(())
    }
}

enum Parsed {
    /// The first unparsed request has `needed` bytes, and some are still missing.
    Incomplete { needed: usize },
    /// A request that does not fit in a buffer. Its payload comes next.
    Large(RequestHeader),
}

fn new_buffer() -> Arc<Box<[u8]>> {
    // The system supplies zeroed memory lazily, so only what is received into it becomes resident.
    Arc::new(vec![0; CAPACITY].into_boxed_slice())
}

fn writable(buffer: &mut Arc<Box<[u8]>>) -> &mut [u8] {
    Arc::get_mut(buffer).expect("make_room chose a buffer that nobody else holds")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io::Write, os::unix::net::UnixStream, sync::mpsc, thread};

    fn new_receiver() -> Receiver {
        let poller = Poller::new(std::time::Duration::ZERO, Arc::default());
        Receiver::new(poller, Headers::Simple)
    }

    fn write_request(cookie: u64, len: u32) -> Vec<u8> {
        let mut bytes = crate::proto::REQUEST_MAGIC.to_be_bytes().to_vec();
        bytes.extend([0, 0, 0, 1]);
        bytes.extend(cookie.to_be_bytes());
        bytes.extend([0; 8]);
        bytes.extend(len.to_be_bytes());
        bytes.extend((0..len).map(|i| (cookie as u32 ^ i) as u8));
        bytes
    }

    /// The payload of a WRITE that is too long to be skipped holds what looks like a request. The leader reported the length
    /// after it had given up the receiver, and the next leader carried the payload out. A fuzzer found it.
    #[test]
    fn the_payload_of_a_refused_write_is_no_request() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (socket, stop) = (Socket::new(ours.into()), Stop::default());
        let mut receiver = new_receiver();
        let mut said = write_request(1, 0);
        said[24..28].copy_from_slice(&(MAX_SKIP as u32 + 1).to_be_bytes());
        said.extend(write_request(2, 0));
        theirs.write_all(&said).unwrap();
        let Ok(Next::Stream(request)) = receiver.next(&socket, &stop) else {
            panic!("a long WRITE is streamed");
        };
        let refused = receiver.stream(&request, &socket, &stop, |_, _| {});
        assert!(matches!(refused, Err(Close::Oversized(_))));
        let next = receiver.next(&socket, &stop).map(|_| ());
        assert!(matches!(next, Err(Close::Truncated)), "{next:?}");
    }

    /// Another worker released its share while the leader looked for a free buffer. The leader then chose the very buffer that
    /// it was leaving, and panicked. QEMU's reads found it once the engine was fast.
    #[test]
    fn the_buffer_that_is_left_is_never_the_one_chosen() {
        let mut receiver = new_receiver();
        for _ in 0..3 {
            let chosen = receiver.another_buffer();
            assert_ne!(chosen, receiver.current);
            receiver.current = chosen;
        }
        assert_eq!(receiver.buffers.len(), 2, "free ones are used again");
    }

    /// Every piece but the last ends with a page of the device, and all together are the payload.
    #[test]
    fn a_write_is_divided_between_pages() {
        for (offset, len, count) in [
            (0, 131_072, 2),
            (4096, 100_000, 3),
            (12_345, 65_537, 4),
            (1, 40_000, 2),
        ] {
            let mut receiver = new_receiver();
            let request = RequestHeader {
                flags: 0,
                kind: cmd::WRITE,
                cookie: 1,
                offset,
                len,
                has_payload: true,
            };
            let payload = 28..28 + len as usize;
            receiver.pending.push_back(WorkItem {
                request,
                payload: payload.clone(),
                piece: None,
            });
            assert_eq!(receiver.lone_write(), Some(&request));
            receiver.divide(count, 7);
            assert_eq!((receiver.pending(), receiver.lone_write()), (count, None));
            let mut at = payload.start;
            for item in &receiver.pending {
                let piece = item.piece.unwrap();
                assert_eq!((item.payload.start, piece.write), (at, 7));
                assert_eq!(piece.offset, offset + (at - payload.start) as u64);
                assert!(at == payload.start || piece.offset.is_multiple_of(4096));
                assert!(item.payload.len() >= 4096, "{offset} {len} {count}");
                at = item.payload.end;
            }
            assert_eq!(at, payload.end);
        }
    }

    #[test]
    fn shares_may_be_released_at_any_moment() {
        const COUNT: u64 = 20_000;
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let client = thread::spawn(move || {
            for cookie in 0..COUNT {
                theirs
                    .write_all(&write_request(cookie, (cookie * 37 % 300) as u32))
                    .unwrap();
            }
        });
        let (shares, taken) = mpsc::sync_channel::<Batch>(0);
        let follower = thread::spawn(move || {
            let mut seen = 0;
            for (turn, batch) in taken.into_iter().enumerate() {
                // Releases after a different time in each turn, to hit the leader while it chooses.
                (0..turn % 500).for_each(|_| std::hint::spin_loop());
                for item in &batch.items {
                    assert_eq!(item.request.cookie, seen);
                    let payload = batch.payload(item);
                    assert_eq!(payload.len() as u64, seen * 37 % 300);
                    assert!(
                        payload
                            .iter()
                            .zip(0..)
                            .all(|(b, i)| *b == (seen as u32 ^ i) as u8)
                    );
                    seen += 1;
                }
            }
            seen
        });
        let (socket, stop, mut receiver) =
            (Socket::new(ours.into()), Stop::default(), new_receiver());
        let reason = loop {
            match receiver.next(&socket, &stop) {
                Ok(Next::Pending) => {
                    let mut batch = Batch::new();
                    receiver.take(receiver.pending().div_ceil(2), &mut batch);
                    shares.send(batch).unwrap();
                }
                Ok(Next::Stream(request)) => panic!("{request:?} fits in a buffer"),
                Err(reason) => break reason,
            }
        };
        assert!(matches!(reason, Close::Disconnected), "{reason}");
        drop(shares);
        client.join().unwrap();
        assert_eq!(follower.join().unwrap(), COUNT);
        assert!(
            receiver.buffers.len() <= 3,
            "one more than the holders, here at most two"
        );
    }
}
