//! A queue: one thread and one ring. The thread gives tags to the driver and gets each back with a request.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use io_uring::IoUring;
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CpuSet};
use uzram::Device;
use uzram_frontend::RequestBuffers;

use crate::abi::{IO_RES_OK, IoDescriptor, op, user_copy_offset};
use crate::options::Buffers;
use crate::request::{UblkRequest, failed};
use crate::sys::{Descriptors, give_tag};

/// How many completions are submitted together while more requests are at hand. One system call then serves several, and
/// the first of a burst does not wait for the last.
const BATCH: usize = 16;

/// What a queue's thread starts with.
pub(crate) struct QueueSetup {
    pub(crate) number: u16,
    pub(crate) depth: u16,
    pub(crate) max_io_bytes: usize,
    pub(crate) buffers: Buffers,
    pub(crate) prefault: bool,
    pub(crate) partscan: bool,
    pub(crate) on_ready: Option<fn()>,
    pub(crate) cpus: Option<CpuSet>,
    pub(crate) char_device: Arc<File>,
    pub(crate) device: Arc<Device>,
}

/// Fields are dropped in order: the ring, through which the driver reaches the memory, is dropped first.
struct Queue {
    ring: IoUring,
    memory: RequestBuffers,
    setup: QueueSetup,
}

/// Faults in more of this thread's stack than a request uses.
#[inline(never)]
fn touch_stack() {
    std::hint::black_box([0u8; 128 << 10]);
}

/// Serves a queue until the driver has taken all its tags back. Reports on `ready` whether the driver accepted the tags; the
/// returned result covers only what happens afterwards.
pub(crate) fn run(setup: QueueSetup, ready: &SyncSender<io::Result<()>>) -> io::Result<()> {
    if let Some(cpus) = &setup.cpus
        && let Err(error) = rustix::thread::sched_setaffinity(None, cpus)
    {
        // The queue works from any CPU.
        tracing::debug!(%error, queue = setup.number, "cannot pin the thread");
    }
    if !setup.partscan {
        drop_privilege();
    }
    let begun = Queue::new(setup).and_then(|mut queue| {
        queue.fetch_all()?;
        // Only after the tags: their refusal tells `Ublk::recover` the queue's state, while this is refused wherever a
        // process that is dead by now has mapped the descriptors.
        let setup = &queue.setup;
        let map = Descriptors::map(&setup.char_device, setup.number, setup.depth);
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
    if let Some(on_ready) = queue.setup.on_ready {
        on_ready();
    }
    let _ = ready.send(Ok(()));
    queue.serve(&descriptors)
}

/// Drops CAP_SYS_ADMIN of this thread, which does not need it. The driver then does not scan for partitions when the device
/// starts. Were the server killed during that scan, driver and process would wait for each other for ever (Linux 6.12: the
/// start holds the lock that aborting the reads takes).
fn drop_privilege() {
    let dropped = rustix::thread::capabilities(None).and_then(|mut sets| {
        sets.effective.remove(CapabilitySet::SYS_ADMIN);
        rustix::thread::set_capabilities(None, sets)
    });
    if let Err(error) = dropped {
        tracing::warn!(%error, "a queue keeps its capabilities");
    }
}

impl Queue {
    fn new(setup: QueueSetup) -> io::Result<Queue> {
        let mut builder = IoUring::builder();
        builder
            .setup_single_issuer()
            .setup_coop_taskrun()
            .setup_defer_taskrun()
            .dontfork();
        let ring = builder.build(setup.depth.into())?;
        ring.submitter()
            .register_files(&[setup.char_device.as_raw_fd()])?;
        let bytes = match setup.buffers {
            Buffers::UserCopy => setup.max_io_bytes,
            Buffers::Mapped => setup.max_io_bytes * usize::from(setup.depth),
        };
        let mut memory = RequestBuffers::new(bytes)?;
        if setup.prefault {
            memory.part(0, bytes).fill(0);
            touch_stack();
        }
        Ok(Queue {
            ring,
            memory,
            setup,
        })
    }

    /// Offset of a tag's buffer in the memory.
    fn buffer_offset(&self, tag: u16) -> usize {
        match self.setup.buffers {
            Buffers::UserCopy => 0,
            Buffers::Mapped => usize::from(tag) * self.setup.max_io_bytes,
        }
    }

    fn give(&mut self, first: bool, tag: u16, result: i32) -> io::Result<()> {
        let addr = match self.setup.buffers {
            Buffers::UserCopy => 0,
            Buffers::Mapped => {
                let (at, len) = (self.buffer_offset(tag), self.setup.max_io_bytes);
                self.memory.address(at, len).addr().get() as u64
            }
        };
        give_tag(&mut self.ring, first, self.setup.number, tag, result, addr)
    }

    /// Gives all tags to the driver for the first time. The driver refuses at once if it does.
    fn fetch_all(&mut self) -> io::Result<()> {
        for tag in 0..self.setup.depth {
            self.give(true, tag, 0)?;
        }
        self.ring.submit()?;
        match self.ring.completion().find(|done| done.result() < 0) {
            Some(done) => Err(io::Error::from_raw_os_error(-done.result())),
            None => Ok(()),
        }
    }

    fn serve(&mut self, descriptors: &Descriptors) -> io::Result<()> {
        let mut tags = self.setup.depth;
        while tags > 0 {
            match self.ring.submit_and_wait(1) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            let mut unsent = 0;
            while let Some((tag, result)) = self.next_completion() {
                if result != IO_RES_OK {
                    // The device stops: the driver keeps the tag.
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
        let request = UblkRequest::new(descriptor);
        let len = request.data_len();
        if len > self.setup.max_io_bytes {
            return failed(Errno::INVAL);
        }
        let at = self.buffer_offset(tag);
        let user_copy = self.setup.buffers == Buffers::UserCopy;
        let offset = user_copy_offset(self.setup.number, tag);
        let buffer = self.memory.part(at, len);
        let copy_failed =
            |error: io::Error| failed(Errno::from_io_error(&error).unwrap_or(Errno::IO));
        if user_copy
            && request.op == op::WRITE
            && let Err(error) = self.setup.char_device.read_exact_at(buffer, offset)
        {
            return copy_failed(error);
        }
        let result = request.serve(&self.setup.device, buffer);
        if user_copy
            && request.op == op::READ
            && result >= 0
            && let Err(error) = self.setup.char_device.write_all_at(buffer, offset)
        {
            return copy_failed(error);
        }
        result
    }
}
