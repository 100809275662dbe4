//! The one file of this crate with unsafe code: ring entries that carry addresses, and a mapping shared with the driver.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use io_uring::squeue::{Entry, Entry128};
use io_uring::types::{Fixed, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};
use zerocopy::IntoBytes;

use crate::abi::{Command, ControlCommand, IO_COMMIT_AND_FETCH, IO_FETCH, IoCommand, IoDescriptor};

/// How long a command may take to let go once it is cancelled.
const LETTING_GO: Duration = Duration::from_millis(500);

/// A control command did not return in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unanswered {
    /// Whether the kernel let go of it when it was told to. If not, this process cannot end before it does.
    pub(crate) is_cancelled: bool,
}

/// The ring for control commands, whose entries have room for 80 bytes. One command is carried out at a time; one that does
/// not return in time is left to the kernel, with the memory that it names, and the ring serves the next one all the same.
pub(crate) struct ControlRing {
    ring: IoUring<Entry128, cqueue::Entry>,
    /// Number of the last entry, by which completions of those that were given up are told apart.
    last: u64,
}

impl ControlRing {
    pub(crate) fn new() -> io::Result<ControlRing> {
        let ring = IoUring::builder().build(4)?;
        Ok(ControlRing { ring, last: 0 })
    }

    /// Gives a control command with `addr` and `len` of `buffer`, and waits for its result. On success `buffer` has what the
    /// driver wrote.
    pub(crate) fn control(
        &mut self,
        file: &File,
        command: Command,
        mut fields: ControlCommand,
        buffer: &mut [u8],
        limit: Duration,
    ) -> Result<io::Result<i32>, Unanswered> {
        // Not the caller's, which is there only as long as this waits.
        let mut given: Box<[u8]> = Box::from(&*buffer);
        fields.addr = given.as_mut_ptr() as u64;
        fields.len = u16::try_from(given.len()).expect("control buffers are small");
        let mut bytes = [0; 80];
        bytes[..size_of::<ControlCommand>()].copy_from_slice(fields.as_bytes());
        let fd = io_uring::types::Fd(file.as_raw_fd());
        let entry = opcode::UringCmd80::new(fd, command as u32)
            .cmd(bytes)
            .build();
        // SAFETY: the command names `given`, which nothing else refers to and which lives until the command is complete, or
        // for ever; the kernel takes its reference to `file` when it is submitted.
        let done = unsafe { self.carry_out(entry, limit) };
        match done {
            Ok(result) => {
                buffer.copy_from_slice(&given);
                Ok(result)
            }
            Err(unanswered) => {
                std::mem::forget(given);
                Err(unanswered)
            }
        }
    }

    /// Gives something that never returns in a command's place, for tests.
    pub(crate) fn lose(&mut self, limit: Duration) -> Result<io::Result<i32>, Unanswered> {
        let nobody = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC);
        let nobody = match nobody {
            Ok(nobody) => nobody,
            Err(error) => return Ok(Err(error.into())),
        };
        // SAFETY: the bytes live for ever, since they are leaked.
        unsafe { self.carry_out(never_returns(&nobody), limit) }
    }

    /// Submits an entry and waits for its result, at most for `limit` and a moment in which it may be cancelled.
    ///
    /// # Safety
    ///
    /// What the entry names lives until it is complete; where it is not, for ever.
    unsafe fn carry_out(
        &mut self,
        entry: Entry128,
        limit: Duration,
    ) -> Result<io::Result<i32>, Unanswered> {
        // SAFETY: what the caller promises.
        let number = match unsafe { self.push(entry) } {
            Ok(number) => number,
            Err(error) => return Ok(Err(error)),
        };
        if let Some(result) = self.wait_for(number, limit) {
            return Ok(result);
        }
        // Interrupts the kernel's thread that carries the command out, where it sleeps so that it can be.
        let cancel = opcode::AsyncCancel::new(number).build().into();
        // SAFETY: it names no memory.
        let is_cancelled = unsafe { self.push(cancel) }.is_ok()
            && match self.wait_for(number, LETTING_GO) {
                // It was about to be done.
                Some(Ok(result)) => return Ok(Ok(result)),
                Some(Err(_)) => true,
                None => false,
            };
        Err(Unanswered { is_cancelled })
    }

    /// Puts an entry on the ring, and returns its number.
    ///
    /// # Safety
    ///
    /// As of [`ControlRing::carry_out`].
    unsafe fn push(&mut self, entry: Entry128) -> io::Result<u64> {
        self.last += 1;
        let entry = entry.user_data(self.last);
        // SAFETY: what the caller promises.
        unsafe { self.ring.submission().push(&entry) }.map_err(io::Error::other)?;
        Ok(self.last)
    }

    /// Submits what is on the ring, and waits for the completion of an entry. `None` where it does not come in time.
    fn wait_for(&mut self, number: u64, limit: Duration) -> Option<io::Result<i32>> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec::from(left);
            let args = SubmitArgs::new().timespec(&left);
            let waited = self.ring.submitter().submit_with_args(1, &args);
            let answer = self
                .ring
                .completion()
                .find(|done| done.user_data() == number);
            if let Some(done) = answer {
                return Some(match done.result() {
                    result if result < 0 => Err(io::Error::from_raw_os_error(-result)),
                    result => Ok(result),
                });
            }
            let is_over = Instant::now() >= deadline;
            match waited {
                Ok(_) if !is_over => {}
                // A signal came. The command goes on, and so must the wait.
                Err(error) if error.kind() == io::ErrorKind::Interrupted && !is_over => {}
                Err(error) if !is_over && Errno::from_io_error(&error) != Some(Errno::TIME) => {
                    tracing::error!(%error, "cannot wait for a ublk control command");
                    return None;
                }
                _ => return None,
            }
        }
    }
}

/// A read of what nobody writes to.
fn never_returns(nobody: &OwnedFd) -> Entry128 {
    let number = Box::leak(Box::new([0u8; 8]));
    let fd = io_uring::types::Fd(nobody.as_raw_fd());
    let len = number.len() as u32;
    opcode::Read::new(fd, number.as_mut_ptr(), len)
        .build()
        .into()
}

/// A queue's request descriptors, one for each tag: written by the driver, read only here.
pub(crate) struct Descriptors {
    base: NonNull<IoDescriptor>,
    depth: u16,
}

impl Drop for Descriptors {
    fn drop(&mut self) {
        // SAFETY: mapped with this length; there are no borrows of it.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), mapped_len(self.depth)) };
    }
}

/// Bytes of a queue's descriptors as they are mapped.
fn mapped_len(depth: u16) -> usize {
    (usize::from(depth) * size_of::<IoDescriptor>()).next_multiple_of(4096)
}

impl Descriptors {
    pub(crate) fn map(char_device: &File, queue: u16, depth: u16) -> io::Result<Descriptors> {
        let offset = crate::abi::descriptors_offset(queue);
        let flags = MapFlags::SHARED | MapFlags::POPULATE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let address = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                mapped_len(depth),
                ProtFlags::READ,
                flags,
                char_device,
                offset,
            )?
        };
        Ok(Descriptors {
            base: NonNull::new(address.cast()).expect("mmap does not map at 0"),
            depth,
        })
    }

    /// Reads the descriptor of the tag's present request.
    pub(crate) fn get(&self, tag: u16) -> IoDescriptor {
        assert!(tag < self.depth, "tag {tag} of {}", self.depth);
        // SAFETY: in bounds, and aligned since the mapping begins at a page. The driver wrote it before it completed
        // the fetch, and does not write it again before the tag is given back; any bits are valid.
        unsafe { self.base.add(usize::from(tag)).read_volatile() }
    }
}

/// Queues a tag's fetch, or the completion of its request and the next fetch, on `ring`, whose fixed file 0 is the
/// char device. `addr` is where the driver may put the tag's bytes, or 0 with user copy.
pub(crate) fn give_tag(
    ring: &mut IoUring,
    first: bool,
    queue: u16,
    tag: u16,
    result: i32,
    addr: u64,
) -> io::Result<()> {
    let command = IoCommand {
        queue,
        tag,
        result,
        addr,
    };
    let op = if first { IO_FETCH } else { IO_COMMIT_AND_FETCH };
    let bytes = zerocopy::transmute!(command);
    let entry: Entry = opcode::UringCmd16::new(Fixed(0), op)
        .cmd(bytes)
        .build()
        .user_data(tag.into());
    // SAFETY: `addr` is a tag's part of the `RequestBuffers` that lives longer than the ring (see `Queue`'s field order).
    unsafe { ring.submission().push(&entry) }
        .map_err(|_| io::Error::other("the ring has fewer entries than the queue has tags"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(200);

    #[test]
    fn a_command_that_never_returns_is_given_up_and_the_next_one_is_carried_out() {
        let mut ring = ControlRing::new().unwrap();
        let begin = Instant::now();
        let done = ring.lose(LIMIT);
        assert_eq!(done.unwrap_err(), Unanswered { is_cancelled: true });
        assert!(begin.elapsed() >= LIMIT, "{:?}", begin.elapsed());
        // The answer of the cancellation is not taken for that of the next command.
        for _ in 0..8 {
            // SAFETY: it names no memory.
            let done = unsafe { ring.carry_out(opcode::Nop::new().build().into(), LIMIT) };
            assert_eq!(done.unwrap().unwrap(), 0);
        }
    }

    #[test]
    fn a_command_that_cannot_be_cancelled_either_holds_up_nobody() {
        let nobody = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
        let mut ring = ControlRing::new().unwrap();
        let begin = Instant::now();
        // SAFETY: the bytes live for ever, since they are leaked.
        let number = unsafe { ring.push(never_returns(&nobody)) }.unwrap();
        assert!(ring.wait_for(number, LIMIT).is_none());
        // Its answer comes late, and is not the next one's.
        rustix::io::write(&nobody, &1u64.to_ne_bytes()).unwrap();
        // SAFETY: it names no memory.
        let done = unsafe { ring.carry_out(opcode::Nop::new().build().into(), LIMIT) };
        assert_eq!(done.unwrap().unwrap(), 0);
        drop(ring);
        assert!(begin.elapsed() < LIMIT * 10, "{:?}", begin.elapsed());
    }
}
