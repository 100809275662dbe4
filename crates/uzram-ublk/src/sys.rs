//! The one file of this crate with unsafe code: ring entries that carry addresses, and a mapping shared with the driver.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ptr::NonNull;

use io_uring::squeue::{Entry, Entry128};
use io_uring::types::Fixed;
use io_uring::{IoUring, cqueue, opcode};
use rustix::mm::{MapFlags, ProtFlags};
use zerocopy::IntoBytes;

use crate::abi::{Command, ControlCommand, IO_COMMIT_AND_FETCH, IO_FETCH, IoCommand, IoDescriptor};

/// The ring for control commands, whose entries have room for 80 bytes.
pub(crate) type ControlRing = IoUring<Entry128, cqueue::Entry>;

/// Gives a control command with `addr` and `len` of `buffer`, and waits for its result.
pub(crate) fn control(
    ring: &mut ControlRing,
    file: &File,
    command: Command,
    mut fields: ControlCommand,
    buffer: &mut [u8],
) -> io::Result<i32> {
    use std::os::fd::AsRawFd;
    fields.addr = buffer.as_mut_ptr() as u64;
    fields.len = u16::try_from(buffer.len()).expect("control buffers are small");
    let mut bytes = [0; 80];
    bytes[..size_of::<ControlCommand>()].copy_from_slice(fields.as_bytes());
    let fd = io_uring::types::Fd(file.as_raw_fd());
    let entry = opcode::UringCmd80::new(fd, command as u32)
        .cmd(bytes)
        .build();
    // SAFETY: the command names `buffer`, exclusively borrowed until the command is complete, which the loop below
    // waits for; `file` is open as long.
    unsafe { ring.submission().push(&entry) }.map_err(io::Error::other)?;
    loop {
        match ring.submit_and_wait(1) {
            Ok(_) => {}
            // A signal came. The command goes on, and so must the wait, since the command names the buffer.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                tracing::error!(%error, "cannot wait for a ublk control command");
                std::process::abort();
            }
        }
        if let Some(done) = ring.completion().next() {
            return match done.result() {
                result if result < 0 => Err(io::Error::from_raw_os_error(-result)),
                result => Ok(result),
            };
        }
    }
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
