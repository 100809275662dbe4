//! Writes by io_uring. The only file with unsafe code: the kernel reads memory that this process must leave alone.
//!
//! The duty is discharged by ownership. A write's buffer is moved into `flights` before the kernel is told of it and is
//! moved out when the kernel has said that it is done; a queue that is dropped with writes in flight leaks their buffers.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode};
use rustix::io::{Errno, ReadWriteFlags};

use crate::disk::{DiskDone, DiskWrite, WriteQueue};
use crate::page_cache::drop_cached;

const TIMED_OUT: i32 = Errno::TIME.raw_os_error();
const INTERRUPTED: i32 = Errno::INTR.raw_os_error();

pub(crate) struct RingQueue {
    ring: IoUring,
    file: Arc<File>,
    direct: bool,
    /// By user data.
    flights: Vec<Option<DiskWrite>>,
    /// Those that the ring did not take.
    refused: Vec<DiskDone>,
}

impl RingQueue {
    pub(crate) fn new(file: Arc<File>, depth: usize, direct: bool) -> io::Result<RingQueue> {
        let ring = IoUring::new((depth as u32).next_power_of_two())?;
        if !ring.params().is_feature_ext_arg() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        Ok(RingQueue {
            ring,
            file,
            direct,
            flights: (0..depth).map(|_| None).collect(),
            refused: Vec::new(),
        })
    }

    fn in_flight(&self) -> bool {
        self.flights.iter().any(Option::is_some)
    }

    fn pop(&mut self) -> Option<DiskDone> {
        if let Some(done) = self.refused.pop() {
            return Some(done);
        }
        let entry = self.ring.completion().next()?;
        let write = self.flights[entry.user_data() as usize]
            .take()
            .expect("one completion for each write");
        let result = match entry.result() {
            result if result < 0 => Err(io::Error::from_raw_os_error(-result)),
            count => Ok(count as usize),
        };
        if let (false, Ok(count)) = (self.direct, &result) {
            drop_cached(&self.file, write.offset, *count);
        }
        Some(DiskDone { write, result })
    }
}

impl WriteQueue for RingQueue {
    fn submit(&mut self, write: DiskWrite) {
        let Some(slot) = self.flights.iter().position(Option::is_none) else {
            let result = Err(io::ErrorKind::WouldBlock.into());
            return self.refused.push(DiskDone { write, result });
        };
        let write = self.flights[slot].insert(write);
        let bytes = write.bytes();
        let fd = Fd(self.file.as_raw_fd());
        let flags = match self.direct {
            true => ReadWriteFlags::empty(),
            false => ReadWriteFlags::DSYNC,
        };
        let entry = opcode::Write::new(fd, bytes.as_ptr(), bytes.len() as u32)
            .offset(write.offset)
            .rw_flags(flags.bits() as i32)
            .build()
            .user_data(slot as u64);
        // SAFETY: the bytes are on the heap, in a buffer that `flights` owns until this entry's completion was seen (see
        // `pop`), or for ever (see `drop`); nobody writes to them meanwhile, since nobody has the buffer. The kernel holds
        // the file from submission on, and `self.file` does until then.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        if pushed.is_err() {
            let write = self.flights[slot].take().expect("put there above");
            let result = Err(io::ErrorKind::WouldBlock.into());
            return self.refused.push(DiskDone { write, result });
        }
        // What the kernel does not take now (it is short of something, or a signal came) it is offered again by `reap`.
        let _ = self.ring.submit();
    }

    fn reap(&mut self, timeout: Duration) -> Option<DiskDone> {
        if let Some(done) = self.pop() {
            return Some(done);
        }
        if !self.in_flight() {
            return None;
        }
        let timespec = Timespec::from(timeout);
        let args = SubmitArgs::new().timespec(&timespec);
        let wanted = usize::from(!timeout.is_zero());
        match self.ring.submitter().submit_with_args(wanted, &args) {
            Ok(_) => {}
            Err(error) if matches!(error.raw_os_error(), Some(TIMED_OUT | INTERRUPTED)) => {}
            Err(error) => {
                tracing::debug!(%error, "the ring does not take or give anything now");
                std::thread::sleep(timeout.min(Duration::from_millis(10)));
            }
        }
        self.pop()
    }
}

impl Drop for RingQueue {
    fn drop(&mut self) {
        while self.reap(Duration::ZERO).is_some() {}
        // The kernel may read these yet.
        self.flights.drain(..).for_each(std::mem::forget);
    }
}
