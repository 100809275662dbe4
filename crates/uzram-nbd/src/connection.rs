//! One connection in the transmission phase: its workers, in leader/follower style.
//!
//! # Who does what
//!
//! The worker that holds the mutex around the [`Receiver`] is the *leader*; it alone receives. The others execute or wait for
//! the mutex. A leader that has received little work does it at once and stays leader. So a client with one request in
//! flight, or a few small ones, costs neither a hand-off nor a wake-up: one receive and one send for each batch.
//!
//! When more has arrived, the leader takes its share, gives up the leadership with the rest still pending, and executes. The
//! next leader begins with that rest. Replies are sent in the order in which they are ready, as NBD allows.
//!
//! A request that waits for the source of a clone gets a thread of its own ([`Connection::hand_off`]).
//!
//! # Lock order
//!
//! Receiver, then the socket's send lock. A worker that holds the send lock never waits for the receiver.
//!
//! # The end
//!
//! The first worker to see the end records the reason. Each of the others finishes its share, sends its replies, finds the
//! reason when it becomes leader, and leaves. After an unclean end the socket is shut down, so that nobody stays blocked in
//! it.

use crate::{
    close::Close,
    divide::DividedWrites,
    execute::{ErrorReply, Session},
    lock::lock,
    proto::RequestHeader,
    receive::{Batch, MAX_PENDING, Next, Receiver},
    reply::Replies,
    socket::Socket,
    stop::Stop,
};
use rustix::net::Shutdown;
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
};
use uzram_frontend::Poller;

/// Most work (see [`RequestHeader::cost`]) that the leader does at once: compressing 32 KiB takes about as long as waking another
/// worker. Measured against 4 and 16 KiB with 1 to 64 requests of 4 KiB in flight.
const MAX_INLINE: usize = 32 << 10;
/// Bytes of work after which replies are sent, so that the first of a share does not wait for the last.
const SEND_AFTER: usize = 64 << 10;

struct Connection<'a> {
    id: u64,
    socket: &'a Socket,
    session: &'a Session,
    stop: &'a Stop,
    workers: usize,
    receiver: Mutex<Receiver>,
    divided: DividedWrites,
    /// How many requests have a thread of their own.
    handed_off: AtomicUsize,
    /// How many workers were started.
    started: AtomicUsize,
    end: OnceLock<Close>,
}

/// Serves the transmission phase to its end. Returns why it ended.
pub(crate) fn serve(
    id: u64,
    socket: &Socket,
    session: &Session,
    stop: &Stop,
    workers: usize,
    poller: Poller,
) -> Close {
    let connection = Connection {
        id,
        socket,
        session,
        stop,
        workers,
        receiver: Mutex::new(Receiver::new(poller, session.headers)),
        divided: DividedWrites::new(workers),
        handed_off: AtomicUsize::new(0),
        started: AtomicUsize::new(1),
        end: OnceLock::new(),
    };
    thread::scope(|scope| connection.run(scope));
    connection.end.into_inner().unwrap_or(Close::Panicked)
}

impl<'a> Connection<'a> {
    /// Runs one worker. A panic in it ends the connection and nothing else.
    fn run<'scope>(&'scope self, scope: &'scope thread::Scope<'scope, '_>) {
        self.contain(|| self.work(scope));
        self.socket.activity.workers.fetch_sub(1, Ordering::Relaxed);
    }

    fn contain(&self, work: impl FnOnce() -> Result<(), Close>) {
        if let Err(reason) = catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(Close::Panicked)) {
            self.finish(reason);
        }
    }

    fn finish(&self, reason: Close) {
        let clean = reason.is_clean();
        // Fails if another worker was first: its reason is the one to report.
        let _ = self.end.set(reason);
        if !clean {
            self.socket.shutdown(Shutdown::Both);
        }
    }

    fn work<'scope>(&'scope self, scope: &'scope thread::Scope<'scope, '_>) -> Result<(), Close> {
        let mut batch = Batch::new();
        let mut out = Replies::new(self.socket, self.session.headers);
        let waiting = &self.socket.activity.waiting;
        loop {
            waiting.fetch_add(1, Ordering::Relaxed);
            let mut receiver = lock(&self.receiver);
            waiting.fetch_sub(1, Ordering::Relaxed);
            // Poisoned: a leader that panicked may have left the receiver in the middle of a message.
            if self.end.get().is_some() || self.receiver.is_poisoned() {
                return Ok(());
            }
            // The lock is released before the batch is executed, except by a leader that stays one.
            loop {
                match receiver.next(self.socket, self.stop) {
                    Ok(Next::Pending) => {}
                    Ok(Next::Stream(request)) => {
                        let streamed = self.stream(&request, &mut receiver, &mut out, scope);
                        if let Err(reason) = streamed {
                            self.finish(reason);
                            return Ok(());
                        }
                        continue;
                    }
                    Err(reason) => {
                        // Recorded under the lock, so that no other worker receives again.
                        self.finish(reason);
                        return Ok(());
                    }
                }
                if self.workers > 1 && !receiver.costs_at_most(MAX_INLINE) {
                    let more = self.started.load(Ordering::Relaxed) < self.workers;
                    let others = waiting.load(Ordering::Relaxed).max(usize::from(more));
                    self.divide(&mut receiver, others + 1);
                    let share = receiver.pending().div_ceil(others + 1);
                    receiver.take(share, &mut batch);
                    break;
                }
                let all = receiver.pending();
                receiver.take(all, &mut batch);
                self.execute(&mut batch, &mut out, scope)?;
            }
            drop(receiver);
            self.start_another(scope);
            self.execute(&mut batch, &mut out, scope)?;
        }
    }

    /// Executes a share and sends its replies.
    fn execute<'scope>(
        &'scope self,
        batch: &mut Batch,
        out: &mut Replies<'_>,
        scope: &'scope thread::Scope<'scope, '_>,
    ) -> Result<(), Close> {
        let mut work = 0;
        for item in &batch.items {
            let payload = batch.payload(item);
            let begin = DividedWrites::measures(payload.len()).then(Instant::now);
            match &item.piece {
                None if self.session.must_fetch(&item.request) => {
                    let payload: Box<[u8]> = payload.into();
                    let request = item.request;
                    self.hand_off(scope, move |out| {
                        self.session.execute_when_fetched(&request, &payload, out)
                    });
                }
                None => self.session.execute(&item.request, payload, out)?,
                Some(piece) => {
                    let done = self.session.store(payload, piece.offset);
                    if let Some(done) = self.divided.end_piece(piece.write, done) {
                        let done = done.and_then(|()| self.session.persist(&item.request));
                        self.session.conclude(&item.request, done, out)?;
                    }
                }
            }
            if let Some(begin) = begin {
                self.divided.record(payload.len(), begin.elapsed());
            }
            work += item.cost();
            if work >= SEND_AFTER {
                out.flush()?;
                work = 0;
            }
        }
        batch.clear();
        out.flush()
    }

    /// Divides a large write that is the only pending request, if that pays.
    fn divide(&self, receiver: &mut Receiver, workers: usize) {
        let Some(request) = receiver.lone_write() else {
            return;
        };
        let len = request.len as usize;
        if len >= 2 * uzram::PAGE_SIZE * workers
            && self.divided.pays(len, workers)
            && self.session.check(request).is_ok()
            && !self.session.must_fetch(request)
            && let Some(write) = self.divided.begin(workers as u32)
        {
            receiver.divide(workers, write);
        }
    }

    /// Gives work that waits for the source of a clone a thread of its own. Where there are too many, it is done here.
    fn hand_off<'scope>(
        &'scope self,
        scope: &'scope thread::Scope<'scope, '_>,
        work: impl FnOnce(&mut Replies<'_>) -> Result<(), Close> + Send + 'scope,
    ) {
        let work = move || {
            self.contain(|| work(&mut Replies::new(self.socket, self.session.headers)));
            self.handed_off.fetch_sub(1, Ordering::Relaxed);
        };
        if self.handed_off.fetch_add(1, Ordering::Relaxed) >= MAX_PENDING {
            return work();
        }
        let name = format!("nbd{}.fetch", self.id);
        let work = Mutex::new(Some(work));
        let taken = std::sync::Arc::new(work);
        let theirs = taken.clone();
        let run = move || {
            let work = lock(&theirs).take();
            if let Some(work) = work {
                work();
            }
        };
        if let Err(e) = thread::Builder::new().name(name).spawn_scoped(scope, run) {
            tracing::debug!(connection = self.id, "cannot start a thread: {e}");
            let work = lock(&taken).take();
            if let Some(work) = work {
                work();
            }
        }
    }

    /// Executes a WRITE that does not fit in the receive buffer, as its payload arrives. What of it waits for the source of a
    /// clone, parts of the first and the last page, is written last, by a thread of its own.
    fn stream<'scope>(
        &'scope self,
        request: &RequestHeader,
        receiver: &mut Receiver,
        out: &mut Replies<'_>,
        scope: &'scope thread::Scope<'scope, '_>,
    ) -> Result<(), Close> {
        let mut done = self.session.check(request);
        let waits = done.is_ok() && self.session.must_fetch(request);
        let mut parts: Vec<(u64, Box<[u8]>)> = Vec::new();
        let page = uzram::PAGE_SIZE as u64;
        receiver.stream(request, self.socket, self.stop, |piece, position| {
            // After a failure the rest of the payload is skipped.
            if done.is_err() {
                return;
            }
            let at = request.offset + position;
            if !waits {
                done = self.session.store(piece, at);
                return;
            }
            let head = ((page - at % page) % page).min(piece.len() as u64) as usize;
            let (head, rest) = piece.split_at(head);
            let tail = rest.len() / page as usize * page as usize;
            let (middle, tail) = rest.split_at(tail);
            if !head.is_empty() {
                parts.push((at, head.into()));
            }
            let middle_at = at + head.len() as u64;
            done = self.session.store(middle, middle_at);
            if !tail.is_empty() {
                parts.push((middle_at + middle.len() as u64, tail.into()));
            }
        })?;
        let request = *request;
        let conclude = move |mut done: Result<(), ErrorReply>, out: &mut Replies<'_>| {
            for (at, part) in &parts {
                done = done.and_then(|()| self.session.store(part, *at));
            }
            let done = done.and_then(|()| self.session.persist(&request));
            self.session.conclude(&request, done, out)?;
            out.flush()
        };
        if waits {
            self.hand_off(scope, move |out| conclude(done, out));
            return Ok(());
        }
        conclude(done, out)
    }

    /// Starts one more worker unless the limit is reached. Only clients with several requests in flight get here.
    fn start_another<'scope>(&'scope self, scope: &'scope thread::Scope<'scope, '_>) {
        let activity = &self.socket.activity;
        let number = self.started.load(Ordering::Relaxed);
        if number >= self.workers
            || activity.waiting.load(Ordering::Relaxed) > 0
            || self
                .started
                .compare_exchange(number, number + 1, Ordering::Relaxed, Ordering::Relaxed)
                .is_err()
        {
            return;
        }
        let name = format!("nbd{}.{number}", self.id);
        activity.workers.fetch_add(1, Ordering::Relaxed);
        if let Err(e) = thread::Builder::new()
            .name(name)
            .spawn_scoped(scope, || self.run(scope))
        {
            activity.workers.fetch_sub(1, Ordering::Relaxed);
            // The present workers will do. The count stays, so that not every batch tries again.
            tracing::debug!(connection = self.id, "cannot start a worker: {e}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Export;
    use std::{io::Read, os::unix::net::UnixStream, sync::Arc};

    #[test]
    fn a_panicking_worker_ends_its_connection_only() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let socket = Socket::new(ours.into());
        let device = Arc::new(uzram::Device::builder(4096).build().unwrap());
        let export = Export::new("x", device);
        let session = Session {
            export,
            headers: crate::proto::Headers::Simple,
            allocation: false,
        };
        let stop = Stop::default();
        let connection = Connection {
            id: 0,
            socket: &socket,
            session: &session,
            stop: &stop,
            workers: 2,
            receiver: Mutex::new(Receiver::new(
                Poller::new(std::time::Duration::ZERO, Arc::default()),
                session.headers,
            )),
            divided: DividedWrites::new(2),
            handed_off: AtomicUsize::new(0),
            started: AtomicUsize::new(1),
            end: OnceLock::new(),
        };
        connection.contain(|| {
            let _leader = connection.receiver.lock();
            panic!("a bug in the device")
        });
        assert!(matches!(connection.end.get(), Some(Close::Panicked)));
        assert_eq!(theirs.read(&mut [0]).unwrap(), 0);
        // Another worker still gets through the poisoned lock, sees the end and leaves.
        thread::scope(|scope| connection.run(scope));
        assert!(matches!(connection.end.get(), Some(Close::Panicked)));
    }
}
