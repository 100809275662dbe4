//! Writes objects: packs them into a buffer and writes a buffer with one request. A location must be published only
//! after that.
//!
//! A writer has one open segment. A buffer takes what follows there, up to the segment's end; [`Writer::submit`] sends
//! it off early, padded to a block. A segment in which less than two blocks are left is closed. Every object counts as
//! live from [`Writer::push`] on; of those whose write fails or is given up the writer frees the space itself.
//!
//! Buffers and requests are counted together: `depth` buffers are filling, in flight, or spare. A write that does not
//! come back keeps its buffer, and, by its `FLIGHT`, its segment.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::BLOCK;
use crate::buffer::{Buffer, segment_buffer};
use crate::counters::{count, worth_a_line};
use crate::disk::{DiskDone, DiskWrite, WriteQueue};
use crate::error::{PushError, WriteError, errno};
use crate::format::{Location, MAX_OBJECT, entry_bytes, write_entry};
use crate::segment::{FLIGHT, OPEN, live};
use crate::shared::BackingShared;

/// What a writer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// New objects. The last one or two free segments are not for these.
    Objects,
    /// Moving objects, which ends with more space than there was: may use all.
    Compaction,
}

/// The outcome for an object that was pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// As pushed.
    pub owner: u32,
    /// As pushed.
    pub location: Location,
    /// Bytes of the object.
    pub len: usize,
    /// `Ok`: it is on the backing, its location is valid and the caller's to free. An error: it is not, the location
    /// means nothing, and its space was freed.
    pub result: Result<(), WriteError>,
}

/// An object in a buffer.
#[derive(Clone, Copy)]
struct PendingObject {
    owner: u32,
    location: Location,
    len: u16,
}

/// The segment that is being appended to.
struct Open {
    segment: u32,
    /// Where the next buffer's bytes go.
    next: u64,
    end: u64,
}

/// A buffer that is being filled, for `Open::next`.
struct Filling {
    buffer: Buffer,
    used: usize,
    entries: Vec<PendingObject>,
}

/// A write in flight. Its buffer is with the queue.
struct Flight {
    segment: u32,
    entries: Vec<PendingObject>,
    /// Bytes that were written by the requests before this one, which stopped short.
    written: usize,
    /// Given up: its objects are no longer in it.
    abandoned: bool,
}

/// Appends objects to a backing: see the module's and [`Backing::writer`](crate::Backing::writer)'s documentation.
///
/// Dropping it abandons what was not reported. It waits some seconds for writes in flight; segments of writes that do
/// not come back by then stay in use until the backing is opened again. So let it live as long as the backing.
pub struct Writer {
    shared: Arc<BackingShared>,
    queue: Box<dyn WriteQueue>,
    purpose: Purpose,
    /// Whether a segment is written by one write.
    once: bool,
    spare: Vec<Buffer>,
    /// Buffers that may be made yet. Where segments are written once, they are large, and there only while they are needed.
    unmade: usize,
    spare_entries: Vec<Vec<PendingObject>>,
    open: Option<Open>,
    filling: Option<Filling>,
    /// By token.
    flights: Vec<Option<Flight>>,
}

impl Writer {
    pub(crate) fn new(
        shared: Arc<BackingShared>,
        depth: usize,
        purpose: Purpose,
    ) -> io::Result<Writer> {
        let layout = shared.disk.layout();
        let made = if layout.written_once { 0 } else { depth };
        let buffer = || segment_buffer(layout.segment_bytes);
        Ok(Writer {
            queue: shared.disk.queue(depth)?,
            shared,
            purpose,
            once: layout.written_once,
            spare: (0..made).map(|_| buffer()).collect(),
            unmade: depth - made,
            spare_entries: Vec::new(),
            open: None,
            filling: None,
            flights: (0..depth).map(|_| None).collect(),
        })
    }

    /// Appends an object to the buffer and returns its future location. Submits a full buffer.
    ///
    /// [`PushError::Busy`]: every buffer is in flight; [`Writer::wait`] and try again. [`PushError::Full`]: no segment
    /// is free. The object is the caller's until [`Written`] reports it: the location must not be published before.
    pub fn push(&mut self, owner: u32, bytes: &[u8]) -> Result<Location, PushError> {
        let len = bytes.len();
        if !(1..=MAX_OBJECT).contains(&len) {
            return Err(PushError::Length { len });
        }
        let size = entry_bytes(len);
        if !self.fits(size) {
            self.submit();
            self.make_room()?;
        }
        let (Some(open), Some(filling)) = (&self.open, &mut self.filling) else {
            unreachable!("there is room, so there are a segment and a buffer");
        };
        let location = Location::at(open.next + filling.used as u64);
        let out = &mut filling.buffer.bytes_mut()[filling.used..];
        write_entry(self.shared.seed, location, owner, bytes, out);
        filling.used += size;
        filling.entries.push(PendingObject {
            owner,
            location,
            len: len as u16,
        });
        let BackingShared {
            segments, counters, ..
        } = &*self.shared;
        segments.add(open.segment, live(size));
        count(&counters.live_bytes, size as u64);
        count(&counters.live_objects, 1);
        Ok(location)
    }

    fn fits(&self, size: usize) -> bool {
        match (&self.open, &self.filling) {
            (Some(open), Some(filling)) => open.next + (filling.used + size) as u64 <= open.end,
            _ => false,
        }
    }

    /// Takes a spare buffer, and a segment with room for the largest object, after a submit.
    fn make_room(&mut self) -> Result<(), PushError> {
        if self.spare.is_empty() && self.unmade == 0 {
            return Err(PushError::Busy {
                in_flight: self.in_flight(),
            });
        }
        if self.open.is_none() {
            let compaction = self.purpose == Purpose::Compaction;
            let segments = &self.shared.segments;
            let segment = segments.open(compaction).ok_or(PushError::Full)?;
            let range = segments.geometry.range(segment);
            self.open = Some(Open {
                segment,
                next: range.start,
                end: range.end,
            });
        }
        let buffer = self.spare.pop().unwrap_or_else(|| {
            self.unmade -= 1;
            segment_buffer(self.shared.segments.geometry.segment_bytes)
        });
        let entries = self.spare_entries.pop().unwrap_or_default();
        self.filling = Some(Filling {
            buffer,
            used: 0,
            entries,
        });
        Ok(())
    }

    /// Submits the buffer if it is not empty, padded to whole blocks; so gather objects before. Without it only full
    /// buffers are written.
    pub fn submit(&mut self) {
        let (Some(mut filling), Some(open)) = (self.filling.take(), &mut self.open) else {
            return;
        };
        let end = filling.used.next_multiple_of(BLOCK);
        filling.buffer.bytes_mut()[filling.used..end].fill(0);
        let segment = open.segment;
        let offset = open.next;
        self.shared.segments.add(segment, FLIGHT);
        open.next += end as u64;
        if self.once || open.end - open.next < 2 * BLOCK as u64 {
            self.close();
        }
        let token = self
            .flights
            .iter()
            .position(Option::is_none)
            .expect("there are as many as buffers");
        self.flights[token] = Some(Flight {
            segment,
            entries: filling.entries,
            written: 0,
            abandoned: false,
        });
        self.queue.submit(DiskWrite {
            token,
            offset,
            buffer: filling.buffer,
            range: 0..end,
        });
    }

    /// Lets go of buffers that nobody needs now, where they are large.
    fn trim(&mut self) {
        if self.once && self.filling.is_none() {
            self.unmade += self.spare.len();
            self.spare.clear();
        }
    }

    fn close(&mut self) {
        if let Some(open) = self.open.take() {
            self.shared.segments.remove(open.segment, OPEN);
        }
    }

    /// Writes in flight that were not given up.
    pub fn in_flight(&self) -> usize {
        let waited = |flight: &&Flight| !flight.abandoned;
        self.flights.iter().flatten().filter(waited).count()
    }

    /// Reports the objects whose writes are done, without waiting.
    pub fn completed(&mut self, mut report: impl FnMut(Written)) {
        while self.reap(Duration::ZERO, &mut report).is_continue() {}
    }

    /// Waits until at least one write is done, and reports the objects of all that are. Returns
    /// [`Writer::in_flight`]: unchanged if the timeout came first.
    pub fn wait_one(&mut self, timeout: Duration, mut report: impl FnMut(Written)) -> usize {
        let before = self.in_flight();
        let deadline = Instant::now() + timeout;
        while self.in_flight() == before && before > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if self.reap(left, &mut report).is_break() && left.is_zero() {
                break;
            }
        }
        self.completed(report);
        self.in_flight()
    }

    /// Waits until every write in flight is done, at most for `timeout`, and reports the objects of those that are.
    /// Returns [`Writer::in_flight`]: for the rest the caller waits again or calls [`Writer::abandon`]. Does not
    /// submit.
    pub fn wait(&mut self, timeout: Duration, mut report: impl FnMut(Written)) -> usize {
        let deadline = Instant::now() + timeout;
        while self.in_flight() > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if self.reap(left, &mut report).is_break() && left.is_zero() {
                break;
            }
        }
        self.completed(report);
        self.trim();
        self.in_flight()
    }

    /// Abandons everything that is not on the disk yet, for a disk that does not answer: writes in flight and the
    /// buffer. Those objects are reported with [`WriteError::Hung`], once. Segments and buffers of the writes in
    /// flight are reused once these do come back, which the next `completed` or `wait` notices.
    pub fn abandon(&mut self, mut report: impl FnMut(Written)) {
        self.completed(&mut report);
        let mut given_up = 0;
        for token in 0..self.flights.len() {
            let Some(flight) = self.flights[token].as_mut().filter(|f| !f.abandoned) else {
                continue;
            };
            flight.abandoned = true;
            given_up += 1;
            let (segment, entries) = (flight.segment, std::mem::take(&mut flight.entries));
            self.shared.segments.suspect(segment);
            self.report(entries, Err(WriteError::Hung), &mut report);
        }
        if given_up > 0 {
            self.close_clean(&mut report);
            let nth = count(&self.shared.counters.hung, given_up);
            tracing::error!(
                writes = given_up,
                nth,
                "the backing does not answer; its writes were given up"
            );
        }
    }

    /// Abandons the buffer, and closes its segment.
    fn close_clean(&mut self, report: &mut impl FnMut(Written)) {
        if let Some(filling) = self.filling.take() {
            self.spare.push(filling.buffer);
            self.report(filling.entries, Err(WriteError::Hung), report);
        }
        self.close();
    }

    /// Handles one completion, if one comes within `timeout`.
    fn reap(&mut self, timeout: Duration, report: &mut impl FnMut(Written)) -> ControlFlow<()> {
        match self.queue.reap(timeout) {
            None => ControlFlow::Break(()),
            Some(done) => {
                self.done(done, report);
                ControlFlow::Continue(())
            }
        }
    }

    fn done(&mut self, done: DiskDone, report: &mut impl FnMut(Written)) {
        let DiskDone { mut write, result } = done;
        let token = write.token;
        let flight = self.flights[token].as_mut().expect("it was in flight");
        let asked = write.range.len();
        let result = match result {
            Ok(count) if count >= asked => Ok(()),
            // Whole blocks only: direct I/O takes nothing else.
            Ok(count) if count >= BLOCK => {
                let blocks = count / BLOCK * BLOCK;
                flight.written += blocks;
                write.range.start += blocks;
                write.offset += blocks as u64;
                self.queue.submit(write);
                return;
            }
            Ok(_) => Err(WriteError::Short),
            Err(error) => Err(WriteError::Io(errno(&error))),
        };
        let flight = self.flights[token].take().expect("it was in flight");
        self.note(&flight, asked, result);
        self.spare.push(write.buffer);
        self.report(flight.entries, result, report);
        // Last: until here the segment could not be used for anything else.
        self.shared.segments.remove(flight.segment, FLIGHT);
    }

    /// Counts a completed write, and marks its segment if it failed.
    fn note(&mut self, flight: &Flight, asked: usize, result: Result<(), WriteError>) {
        let BackingShared {
            segments, counters, ..
        } = &*self.shared;
        count(&counters.writes, 1);
        let Err(error) = result else {
            count(&counters.bytes_written, (flight.written + asked) as u64);
            return;
        };
        let nth = count(&counters.write_errors, 1);
        if worth_a_line(nth) {
            let segment = flight.segment;
            let objects = flight.entries.len();
            tracing::error!(%error, segment, objects, nth, "cannot write to the backing");
        }
        segments.suspect(flight.segment);
        // The current buffer still goes there, since its place is assigned. Nothing goes after it.
        let open = self.open.as_mut();
        if let Some(open) = open.filter(|open| open.segment == flight.segment) {
            match &self.filling {
                Some(filling) => {
                    let end = open.next + filling.used.next_multiple_of(BLOCK) as u64;
                    open.end = open.end.min(end);
                }
                None => self.close(),
            }
        }
    }

    fn report(
        &mut self,
        mut entries: Vec<PendingObject>,
        result: Result<(), WriteError>,
        report: &mut impl FnMut(Written),
    ) {
        for entry in entries.drain(..) {
            let PendingObject {
                owner, location, ..
            } = entry;
            let len = usize::from(entry.len);
            if result.is_err() {
                self.shared.release(location, len);
            }
            report(Written {
                owner,
                location,
                len,
                result,
            });
        }
        // Entries of an abandoned write were taken out before.
        if entries.capacity() > 0 {
            self.spare_entries.push(entries);
        }
    }
}

/// How long a writer that is dropped waits for the disk.
const LAST_PATIENCE: Duration = Duration::from_secs(5);

impl Drop for Writer {
    fn drop(&mut self) {
        // Nobody will publish these locations, so nobody would free them.
        let shared = self.shared.clone();
        let mut unpublished = |written: Written| {
            if written.result.is_ok() {
                shared.release(written.location, written.len);
            }
        };
        self.close_clean(&mut unpublished);
        self.wait(LAST_PATIENCE, unpublished);
        let left = self.flights.iter().flatten().count();
        if left > 0 {
            tracing::error!(
                writes = left,
                "the backing does not answer; its segments are lost until it is opened anew"
            );
        }
    }
}
