//! One client whose request has arrived: hears how it goes if it asked for that, and gets its answer. Whoever has gone by
//! the time that its request's turn comes has given it up.

use std::fmt;
use std::io::Write;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use nix::sys::socket::UnixCredentials;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::SendFlags;

use super::{Handler, REQUEST};
use crate::protocol::{ControlError, Job, Request, RequestProgress, Response, to_line};
use crate::trust;

/// Who is at the other end of a control socket, for the log.
#[derive(Clone, Copy)]
struct Peer(Option<UnixCredentials>);

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(peer) => write!(f, "pid {} uid {}", peer.pid(), peer.uid()),
            None => f.write_str("unknown"),
        }
    }
}

/// How far it has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Waiting,
    Begun,
    Answered,
}

/// What is known of a request that takes long.
struct JobFacts {
    number: u64,
    op: String,
    since: Instant,
    pages: AtomicU64,
    total_pages: AtomicU64,
    /// Whether it goes on without the client, who is told so and no more.
    detached: bool,
    cancelled: AtomicBool,
    /// Whether it ended for that.
    stopped: AtomicBool,
}

pub(super) struct Conversation {
    stream: UnixStream,
    /// Whether the client wants to hear how it goes.
    progress: bool,
    peer: Peer,
    /// Locked while something is written, so that no line comes between the parts of another.
    stage: Mutex<Stage>,
    /// Of one that takes long.
    job: Option<JobFacts>,
}

impl Conversation {
    pub(super) fn new(stream: UnixStream, progress: bool) -> Conversation {
        let peer = Peer(trust::credentials(&stream).ok());
        Conversation {
            stream,
            progress,
            peer,
            stage: Mutex::new(Stage::Waiting),
            job: None,
        }
    }

    /// The same of a request that takes long.
    pub(super) fn of_job(mut self, number: u64, op: String, detached: bool) -> Conversation {
        self.job = Some(JobFacts {
            number,
            op,
            since: Instant::now(),
            pages: AtomicU64::new(0),
            total_pages: AtomicU64::new(0),
            detached,
            cancelled: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
        });
        self
    }

    /// What it is as a job, until it is answered.
    pub(super) fn job(&self) -> Option<Job> {
        let facts = self.job.as_ref()?;
        // Whoever holds it is about to begin or to answer: neither is waited for.
        let begun = match self.stage.try_lock() {
            Ok(stage) if *stage == Stage::Answered => return None,
            Ok(stage) => *stage == Stage::Begun,
            Err(_) => facts.pages.load(Relaxed) > 0,
        };
        let pid = self.peer.0.map_or(0, |peer| peer.pid());
        Some(Job {
            number: facts.number,
            op: facts.op.clone(),
            begun,
            seconds: facts.since.elapsed().as_secs(),
            pages: facts.pages.load(Relaxed),
            total_pages: facts.total_pages.load(Relaxed),
            detached: facts.detached,
            pid: u32::try_from(pid).unwrap_or(0),
            cancelled: facts.cancelled.load(Relaxed),
        })
    }

    /// Ends it, if that is its number and it is not answered yet.
    pub(super) fn cancel(&self, number: u64) -> bool {
        let facts = self.job.as_ref().filter(|facts| facts.number == number);
        let Some(facts) = facts.filter(|_| self.job().is_some()) else {
            return false;
        };
        facts.cancelled.store(true, Relaxed);
        true
    }

    fn is_detached(&self) -> bool {
        self.job.as_ref().is_some_and(|facts| facts.detached)
    }

    /// Tells the client that it goes on without him.
    pub(super) fn let_go(&self) {
        let number = self.job.as_ref().map_or(0, |facts| facts.number);
        let line = to_line(&Response::Detached { number });
        // No longer than a socket's buffer.
        self.send(&mut Rest {
            line: line.unwrap_or_default(),
            sent: 0,
        });
    }

    fn is_cancelled(&self) -> bool {
        let facts = self.job.as_ref();
        facts.is_some_and(|facts| facts.cancelled.load(Relaxed))
    }

    /// Counts pages, and says whether the work goes on.
    fn pace(&self, pages: u64) -> ControlFlow<()> {
        let Some(facts) = &self.job else {
            return ControlFlow::Continue(());
        };
        facts.pages.fetch_add(pages, Relaxed);
        if self.is_cancelled() {
            facts.stopped.store(true, Relaxed);
            return ControlFlow::Break(());
        }
        match self.is_gone() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    /// Answers what was found out already.
    pub(super) fn tell(&self, answer: &Response) {
        // No longer than a socket's buffer.
        let _ = self.reply(answer);
    }

    /// Says how it goes, without waiting. Whether the client can be told more.
    pub(super) fn say(&self, progress: RequestProgress) -> bool {
        if !self.progress || self.is_detached() {
            return true;
        }
        let Ok(line) = to_line(&progress) else {
            return true;
        };
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match rustix::net::send(&self.stream, &line, flags) {
            // One who reads nothing is told no more: half a line would spoil the answer.
            Ok(n) => n == line.len(),
            Err(_) => false,
        }
    }

    /// Says that it goes on. Whether it does and the client can be told more.
    pub(super) fn beat(&self) -> bool {
        // Whoever writes just now needs no help.
        let Ok(stage) = self.stage.try_lock() else {
            return true;
        };
        match *stage {
            Stage::Waiting => self.say(RequestProgress::Waiting),
            Stage::Begun => self.say(RequestProgress::Begun),
            Stage::Answered => false,
        }
    }

    /// Whether the client waits no more. One that hears how it goes says so by closing its side; any other may do that
    /// when it has sent its request, and has to close the whole.
    fn is_gone(&self) -> bool {
        if self.is_detached() {
            return false;
        }
        let gone = match self.progress {
            true => PollFlags::HUP | PollFlags::ERR | PollFlags::RDHUP,
            false => PollFlags::HUP | PollFlags::ERR,
        };
        let mut fds = [PollFd::new(&self.stream, gone)];
        let polled = rustix::event::poll(&mut fds, Some(&Timespec::default()));
        polled.is_ok() && fds[0].revents().intersects(gone)
    }

    /// Says that it begins, unless the client has gone: see the header of the protocol.
    fn begins(&self) -> bool {
        let mut stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_gone() || !self.say(RequestProgress::Begun) || self.is_gone() {
            return false;
        }
        *stage = Stage::Begun;
        true
    }

    /// Carries the request out and answers, unless it was given up. Waits for a client that is slow to read.
    pub(super) fn answer(&self, request: Request, files: Vec<OwnedFd>, handler: &dyn Handler) {
        if let Some(rest) = self.answer_with(request, files, handler) {
            self.send_rest(&rest);
        }
    }

    /// The same without waiting: what the client has no room for is left to be sent.
    pub(super) fn answer_at_once(
        &self,
        request: Request,
        files: Vec<OwnedFd>,
        handler: &dyn Handler,
    ) -> Option<Rest> {
        self.answer_with(request, files, handler)
    }

    fn answer_with(
        &self,
        request: Request,
        files: Vec<OwnedFd>,
        handler: &dyn Handler,
    ) -> Option<Rest> {
        let peer = self.peer;
        let span = tracing::info_span!("request", %peer);
        let _span = span.enter();
        if !self.begins() {
            tracing::info!("a request was given up before its turn came: not carried out");
            return None;
        }
        if self.is_cancelled() {
            tracing::info!("a request was cancelled before its turn came: not carried out");
            return self.reply(&refused(cancelled(
                "before its turn came: nothing was done",
            )));
        }
        if let Some(facts) = &self.job {
            facts
                .total_pages
                .store(handler.total_pages(&request), Relaxed);
        }
        let stops = || self.is_gone() || self.is_cancelled();
        let result = match files.is_empty() {
            false => handler.handle_with_files(request.clone(), files, &stops),
            true if self.is_detached() => self.handle_whole(&request, handler),
            true if self.job.is_some() => {
                handler.handle_paced(request.clone(), &|pages| self.pace(pages))
            }
            true => handler.handle(request.clone()),
        };
        let stopped = self.job.as_ref();
        let stopped = stopped.is_some_and(|facts| facts.stopped.load(Relaxed));
        let result = match stopped && result.is_ok() {
            true => Err(cancelled("in the middle: what it has done stays")),
            false => result,
        };
        let done = result.is_ok();
        let rest = self.reply(&result.unwrap_or_else(refused));
        handler.answered(&request, done);
        rest
    }

    /// Carries out all of a detached request: what clients ask for in slices is done slice by slice, until nothing is left, or no slice
    /// gets on.
    fn handle_whole(
        &self,
        request: &Request,
        handler: &dyn Handler,
    ) -> Result<Response, ControlError> {
        /// Slices in a row that may come to nothing, since others may be at it.
        const IDLE: u32 = 100;
        let (mut moved, mut idle) = (0, 0);
        loop {
            let done = handler.handle_paced(request.clone(), &|pages| self.pace(pages))?;
            let goes_on = match (&done, request) {
                (Response::Compacted(slice), Request::Compact { max_bytes }) => {
                    moved += slice.bytes_moved;
                    !slice.finished && moved < *max_bytes
                }
                (Response::Hydrated(slice), _) => {
                    idle = if slice.pages == 0 { idle + 1 } else { 0 };
                    slice.left > 0 && idle <= IDLE
                }
                _ => false,
            };
            if !goes_on {
                return Ok(done);
            }
            if self.is_cancelled() {
                return Err(cancelled("in the middle: what it has done stays"));
            }
        }
    }

    /// Answers with an error.
    pub(super) fn refuse(&self, error: ControlError) {
        let peer = self.peer;
        let span = tracing::info_span!("request", %peer);
        let _span = span.enter();
        // No error is longer than a socket's buffer; whoever filled that with something else does without.
        let _ = self.reply(&refused(error));
    }

    fn reply(&self, answer: &Response) -> Option<Rest> {
        let mut stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        let begun = *stage == Stage::Begun;
        *stage = Stage::Answered;
        if begun && self.is_detached() {
            self.log_outcome(answer);
            return None;
        }
        let mut rest = Rest {
            line: to_line(answer).unwrap_or_default(),
            sent: 0,
        };
        match self.send(&mut rest) {
            true => None,
            false => Some(rest),
        }
    }

    /// Says what came of a detached request, of which nobody is told.
    fn log_outcome(&self, answer: &Response) {
        let Some(facts) = &self.job else {
            return;
        };
        let (number, op) = (facts.number, &facts.op);
        match answer {
            Response::Error(error) => {
                tracing::warn!(number, op, "the job has failed: {}", error.message);
            }
            answer => {
                let outcome = to_line(answer).unwrap_or_default();
                let outcome = String::from_utf8_lossy(&outcome);
                tracing::info!(number, op, "the job is done: {}", outcome.trim_end());
            }
        }
    }

    /// Sends as much as the client has room for. Whether that was all, or nobody reads it.
    pub(super) fn send(&self, rest: &mut Rest) -> bool {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        while rest.sent < rest.line.len() {
            match rustix::net::send(&self.stream, &rest.line[rest.sent..], flags) {
                Ok(n) => rest.sent += n,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return false,
                Err(error) => {
                    tracing::debug!(%error, "the client did not wait for its answer");
                    break;
                }
            }
        }
        // A client that reads to the end waits for nobody who still holds this.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        true
    }

    fn send_rest(&self, rest: &Rest) {
        let mut stream = &self.stream;
        let sent = stream
            .set_write_timeout(Some(REQUEST))
            .and_then(|()| stream.write_all(&rest.line[rest.sent..]));
        if let Err(error) = sent {
            tracing::debug!(%error, "the client did not wait for its answer");
        }
        let _ = stream.shutdown(std::net::Shutdown::Both);
    }

    pub(super) fn stream(&self) -> &UnixStream {
        &self.stream
    }
}

/// What is left to be sent of an answer.
pub(super) struct Rest {
    line: Vec<u8>,
    sent: usize,
}

fn cancelled(when: &str) -> ControlError {
    ControlError {
        errno: 125,
        message: format!("cancelled {when}"),
    }
}

fn refused(error: ControlError) -> Response {
    tracing::info!(%error, "control request refused");
    Response::Error(error)
}
