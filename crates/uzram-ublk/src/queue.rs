//! A queue: one thread, one ring, and the tags that it gives to the driver and gets back with a request each.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use io_uring::IoUring;
use rustix::thread::{CapabilitySet, CpuSet};
use uzram::Device;

use crate::abi::{IO_RES_OK, IoDescriptor, op, user_copy_offset};
use crate::options::Buffers;
use crate::request::Request;
use crate::sys::{Arena, Descriptors, give_tag};

/// Completed requests after which the driver is told, if more are at hand: the first of a burst need not wait for the
/// last, and one system call serves several.
const BATCH: usize = 16;

/// What a queue's thread needs.
pub(crate) struct Plan {
    pub(crate) number: u16,
    pub(crate) depth: u16,
    pub(crate) max_io_bytes: usize,
    pub(crate) buffers: Buffers,
    pub(crate) prefault: bool,
    pub(crate) on_ready: Option<fn()>,
    pub(crate) cpus: Option<CpuSet>,
    pub(crate) char_device: Arc<File>,
    pub(crate) device: Arc<Device>,
}

/// Fields are dropped in order: the ring, through which the driver reaches the arena, goes first.
struct Queue {
    ring: IoUring,
    arena: Arena,
    plan: Plan,
}

/// Brings more of this thread's stack into memory than a request takes.
#[inline(never)]
fn touch_stack() {
    std::hint::black_box([0u8; 128 << 10]);
}

/// Serves a queue until the driver has taken all its tags back. Says on `ready` when the driver has them, or why it has
/// not; the result is only for what happens afterwards.
pub(crate) fn run(plan: Plan, ready: &SyncSender<io::Result<()>>) -> io::Result<()> {
    if let Some(cpus) = &plan.cpus
        && let Err(error) = rustix::thread::sched_setaffinity(None, cpus)
    {
        // The queue works from any CPU.
        tracing::debug!(%error, queue = plan.number, "cannot be pinned");
    }
    stay_unprivileged();
    let begun = Queue::new(plan).and_then(|mut queue| {
        queue.fetch_all()?;
        // After the tags, whose refusal tells `Ublk::recover` of the queue's state. Refused where another process that
        // is dead now has mapped them.
        let plan = &queue.plan;
        let map = Descriptors::map(&plan.char_device, plan.number, plan.depth);
        let map = map.map_err(|error| io::Error::other(format!("mapping requests: {error}")))?;
        Ok((queue, map))
    });
    let (mut queue, descriptors) = match begun {
        Ok(begun) => begun,
        Err(error) => {
            let _ = ready.send(Err(error));
            return Ok(());
        }
    };
    if let Some(on_ready) = queue.plan.on_ready {
        on_ready();
    }
    let _ = ready.send(Ok(()));
    queue.serve(&descriptors)
}

/// Gives up this thread's right to administer, which it does not need. The driver then does not look for partitions
/// when the device starts: were the server killed meanwhile, driver and process would wait for each other for ever
/// (Linux 6.12: the start holds the lock that giving up the reads takes). zram has no partitions either.
fn stay_unprivileged() {
    let dropped = rustix::thread::capabilities(None).and_then(|mut sets| {
        sets.effective.remove(CapabilitySet::SYS_ADMIN);
        rustix::thread::set_capabilities(None, sets)
    });
    if let Err(error) = dropped {
        tracing::warn!(%error, "a queue keeps its capabilities");
    }
}

impl Queue {
    fn new(plan: Plan) -> io::Result<Queue> {
        let mut builder = IoUring::builder();
        builder
            .setup_single_issuer()
            .setup_coop_taskrun()
            .setup_defer_taskrun()
            .dontfork();
        let ring = builder.build(plan.depth.into())?;
        ring.submitter()
            .register_files(&[plan.char_device.as_raw_fd()])?;
        let bytes = match plan.buffers {
            Buffers::UserCopy => plan.max_io_bytes,
            Buffers::Mapped => plan.max_io_bytes * usize::from(plan.depth),
        };
        let mut arena = Arena::new(bytes)?;
        if plan.prefault {
            arena.part(0, bytes).fill(0);
            touch_stack();
        }
        Ok(Queue { ring, arena, plan })
    }

    /// Where a tag's bytes are in the arena.
    fn part_of(&self, tag: u16) -> usize {
        match self.plan.buffers {
            Buffers::UserCopy => 0,
            Buffers::Mapped => usize::from(tag) * self.plan.max_io_bytes,
        }
    }

    fn give(&mut self, first: bool, tag: u16, result: i32) -> io::Result<()> {
        let addr = match self.plan.buffers {
            Buffers::UserCopy => 0,
            Buffers::Mapped => self.arena.address(self.part_of(tag)),
        };
        give_tag(&mut self.ring, first, self.plan.number, tag, result, addr)
    }

    /// Gives all tags to the driver for the first time. A refusal shows at once.
    fn fetch_all(&mut self) -> io::Result<()> {
        for tag in 0..self.plan.depth {
            self.give(true, tag, 0)?;
        }
        self.ring.submit()?;
        match self.ring.completion().find(|done| done.result() < 0) {
            Some(done) => Err(io::Error::from_raw_os_error(-done.result())),
            None => Ok(()),
        }
    }

    fn serve(&mut self, descriptors: &Descriptors) -> io::Result<()> {
        let mut tags = self.plan.depth;
        while tags > 0 {
            match self.ring.submit_and_wait(1) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            let mut unsent = 0;
            while let Some((tag, result)) = self.next_completion() {
                if result != IO_RES_OK {
                    // The device stops: the tag does not come back.
                    tags -= 1;
                    continue;
                }
                let result = self.serve_tag(descriptors.get(tag), tag);
                self.give(false, tag, result)?;
                unsent += 1;
                if unsent == BATCH {
                    unsent = 0;
                    self.ring.submit()?;
                }
            }
        }
        Ok(())
    }

    fn next_completion(&mut self) -> Option<(u16, i32)> {
        let done = self.ring.completion().next()?;
        Some((done.user_data() as u16, done.result()))
    }

    fn serve_tag(&mut self, descriptor: IoDescriptor, tag: u16) -> i32 {
        let request = Request::new(descriptor);
        let len = request.data_len();
        if len > self.plan.max_io_bytes {
            return -22;
        }
        let at = self.part_of(tag);
        let user_copy = self.plan.buffers == Buffers::UserCopy;
        let place = user_copy_offset(self.plan.number, tag);
        let buffer = self.arena.part(at, len);
        let failed = |error: io::Error| -error.raw_os_error().unwrap_or(5);
        if user_copy
            && request.op == op::WRITE
            && let Err(error) = self.plan.char_device.read_exact_at(buffer, place)
        {
            return failed(error);
        }
        let result = request.serve(&self.plan.device, buffer);
        if user_copy
            && request.op == op::READ
            && result >= 0
            && let Err(error) = self.plan.char_device.write_all_at(buffer, place)
        {
            return failed(error);
        }
        result
    }
}
