//! A queue's thread: takes requests off the ring, executes them, puts their answers there.
//!
//! Answers are told to the guest after [`BATCH`] of them at the latest, and as soon as no request is at hand: a burst
//! costs few interrupts, and its first answer does not wait for the last.
//!
//! A request that waits for a clone's source is given to [`Waiters`]. Its number comes back by [`Signals`] once its pages are
//! here, and it is executed as any other.
//!
//! [`Signals`]: crate::ring::Signals

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use uzram::Device;
use uzram_frontend::{PollPermits, PollSource, Poller, Waiters};
use virtio_queue::{QueueOwnedT, QueueT};
use vm_memory::GuestMemoryMmap;

use crate::error::RingError;
use crate::request::{Executor, Fetch, Served};
use crate::ring::{Mode, Ring, drain};

/// How many answers are told together while more requests are at hand.
const BATCH: u32 = 16;
/// How often the ring is looked at whose client sends no kicks.
const UNKICKED: Duration = Duration::from_millis(1);

/// What all queues of a server share.
pub(crate) struct QueueContext {
    pub(crate) device: Arc<Device>,
    pub(crate) name: String,
    pub(crate) read_only: bool,
    pub(crate) poll: Duration,
    pub(crate) permits: Arc<PollPermits>,
    pub(crate) waiters: Waiters,
}

/// A queue that is served.
pub(crate) struct QueueThread {
    thread: JoinHandle<Ring>,
    signals: Arc<crate::ring::Signals>,
}

impl QueueThread {
    /// Starts the thread. Where the system refuses one the ring is gone.
    pub(crate) fn start(
        ring: Ring,
        mem: Arc<GuestMemoryMmap>,
        context: &Arc<QueueContext>,
    ) -> io::Result<QueueThread> {
        let signals = ring.signals.clone();
        signals.set_mode(Mode::Serve);
        let context = context.clone();
        let device = context.device.clone();
        let executor = Executor::new(device, &context.name, context.read_only)?;
        let name = format!("vhost-queue{}", ring.index);
        let thread = std::thread::Builder::new().name(name).spawn(move || {
            let mut poller = Poller::new(context.poll, context.permits.clone());
            let waiters = context.waiters.clone();
            let mut worker = Worker {
                ring,
                mem,
                executor,
                waiters,
                untold: 0,
            };
            worker.run(&mut poller);
            worker.ring
        })?;
        Ok(QueueThread { thread, signals })
    }

    /// Ends the thread and takes the ring back; `None` if the thread panicked.
    pub(crate) fn stop(self, mode: Mode) -> Option<Ring> {
        self.signals.set_mode(mode);
        self.thread.join().ok()
    }
}

struct Worker {
    ring: Ring,
    mem: Arc<GuestMemoryMmap>,
    executor: Executor,
    waiters: Waiters,
    /// Answers that the guest was not told of.
    untold: u32,
}

impl Worker {
    fn run(&mut self, poller: &mut Poller) {
        let index = self.ring.index;
        if let Err(error) = self.serve(poller) {
            tracing::error!(
                queue = index,
                "the queue stops until the driver resets it: {error}"
            );
            // Whoever ends the thread wakes it.
            while self.ring.signals.mode() == Mode::Serve {
                self.ring.waiting -= self.ring.signals.lower().len();
                let _ = poll(
                    &mut [PollFd::new(self.ring.signals.wake(), PollFlags::IN)],
                    None,
                );
                let _ = drain(self.ring.signals.wake());
            }
        }
    }

    fn serve(&mut self, poller: &mut Poller) -> Result<(), RingError> {
        let _ = self.ring.queue.disable_notification(&*self.mem);
        while let Some(head) = self.ring.resubmit.pop_front() {
            if head >= self.ring.queue.size() {
                continue;
            }
            self.serve_head(head, None)?;
        }
        // A process before this one may have died before it told the guest of its last answer.
        self.call()?;
        loop {
            if self.ring.signals.is_raised() {
                let fetched = self.ring.signals.lower();
                self.ring.waiting -= fetched.len();
                for (head, well) in fetched {
                    self.serve_head(head, Some(well))?;
                }
                self.tell()?;
            }
            match self.ring.signals.mode() {
                Mode::Serve => self.serve_available()?,
                Mode::Pause => return Ok(()),
                Mode::Drain if self.ring.waiting == 0 => return Ok(()),
                Mode::Drain => {}
            }
            poller.wait(self).map_err(wait_error)?;
        }
    }

    /// Serves what is available, until something else is to be done.
    fn serve_available(&mut self) -> Result<(), RingError> {
        while !self.ring.signals.is_raised() && self.has_available()? {
            let size = self.ring.queue.size();
            let next = self.ring.queue.iter(&*self.mem)?.next();
            let head = next.ok_or(RingError::Memory)?.head_index();
            if head >= size {
                return Err(RingError::Head { head, size });
            }
            if let Some(inflight) = &mut self.ring.inflight {
                inflight.begin(head)?;
            }
            self.serve_head(head, None)?;
            if self.untold >= BATCH {
                self.tell()?;
            }
        }
        self.tell()
    }

    fn has_available(&self) -> Result<bool, RingError> {
        let queue = &self.ring.queue;
        let available = queue.avail_idx(&*self.mem, Ordering::Acquire)?;
        Ok(available.0 != queue.next_avail())
    }

    /// Serves a request that was taken. `fetched` says that there was fetched for it, and whether that succeeded.
    fn serve_head(&mut self, head: u16, fetched: Option<bool>) -> Result<(), RingError> {
        let table = self.ring.table();
        let written = match self.executor.serve(&self.mem, table, head, fetched) {
            Served::Done(written) => written,
            Served::MustFetch(fetch) => {
                self.fetch(head, fetch);
                return Ok(());
            }
        };
        let ring = &mut self.ring;
        if let Some(inflight) = &mut ring.inflight {
            inflight.before_used(head)?;
        }
        ring.queue.add_used(&*self.mem, head, written)?;
        if let Some(inflight) = &mut ring.inflight {
            inflight.after_used(head, ring.queue.next_used())?;
        }
        self.untold += 1;
        Ok(())
    }

    #[cold]
    fn fetch(&mut self, head: u16, fetch: Fetch) {
        self.ring.waiting += 1;
        let signals = self.ring.signals.clone();
        let device = self.executor.device().clone();
        self.waiters.run(move || {
            let done = device.fetch(fetch.access, fetch.offset, fetch.len);
            if let Err(error) = &done {
                tracing::debug!("a request that failed: {error}");
            }
            signals.add_fetched(head, done.is_ok());
        });
    }

    /// Tells the guest of answers, if there are any and it wants to know.
    fn tell(&mut self) -> Result<(), RingError> {
        if std::mem::take(&mut self.untold) == 0
            || !self.ring.queue.needs_notification(&*self.mem)?
        {
            return Ok(());
        }
        self.call()
    }

    fn call(&self) -> Result<(), RingError> {
        let Some(call) = &self.ring.call else {
            return Ok(());
        };
        match rustix::io::write(call, &1u64.to_ne_bytes()) {
            // As many calls as fit are outstanding already.
            Ok(8) | Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            _ => Err(RingError::NotAnEvent),
        }
    }

    fn sleep_once(&mut self) -> Result<(), RingError> {
        let wake = self.ring.signals.wake();
        let polled = match &self.ring.kick {
            Some(kick) => {
                let mut fds = [
                    PollFd::new(wake, PollFlags::IN),
                    PollFd::new(kick, PollFlags::IN),
                ];
                poll(&mut fds, None)
            }
            None => {
                let timeout = Timespec {
                    tv_sec: 0,
                    tv_nsec: UNKICKED.subsec_nanos().into(),
                };
                poll(&mut [PollFd::new(wake, PollFlags::IN)], Some(&timeout))
            }
        };
        match polled {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(RingError::Wait(error.into())),
        }
        drain(wake)?;
        self.ring.kick.as_ref().map_or(Ok(()), drain)
    }

    fn find_work(&self) -> Result<bool, RingError> {
        let ring = &self.ring;
        let serves = ring.signals.mode() == Mode::Serve;
        Ok(ring.signals.is_raised() || serves && self.has_available()?)
    }

    fn sleep_for_work(&mut self) -> Result<(), RingError> {
        loop {
            // The guest must not think that we look, nor be overheard by us in the moment between.
            let came = self.ring.queue.enable_notification(&*self.mem)?;
            let serves = self.ring.signals.mode() == Mode::Serve;
            let is_needed = self.ring.signals.is_raised() || serves && came;
            if !is_needed {
                self.sleep_once()?;
            }
            self.ring.queue.disable_notification(&*self.mem)?;
            if self.find_work()? {
                return Ok(());
            }
        }
    }
}

impl PollSource for Worker {
    type Item = ();

    fn take(&mut self) -> io::Result<Option<()>> {
        let found = self.find_work().map_err(io::Error::other)?;
        Ok(found.then_some(()))
    }

    fn sleep(&mut self) -> io::Result<()> {
        self.sleep_for_work().map_err(io::Error::other)
    }
}

/// The queue's own error behind what the poller passed on.
fn wait_error(error: io::Error) -> RingError {
    match error.downcast::<RingError>() {
        Ok(own) => own,
        Err(other) => RingError::Wait(other),
    }
}
