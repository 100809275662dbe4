//! The one file of this crate with unsafe code: ring entries that carry addresses, and mappings shared with the driver.
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

/// Mapped memory, unmapped on drop.
struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: memory is not bound to a thread.
unsafe impl Send for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped with this length; borrows of it do not outlive it.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

fn mapping(address: *mut core::ffi::c_void, len: usize) -> Mapping {
    Mapping {
        base: NonNull::new(address.cast()).expect("mmap does not map at 0"),
        len,
    }
}

/// A queue's request descriptors, one for each tag: written by the driver, read only here.
pub(crate) struct Descriptors {
    map: Mapping,
    depth: u16,
}

impl Descriptors {
    pub(crate) fn map(char_device: &File, queue: u16, depth: u16) -> io::Result<Descriptors> {
        let len = (usize::from(depth) * size_of::<IoDescriptor>()).next_multiple_of(4096);
        let offset = crate::abi::descriptors_offset(queue);
        let flags = MapFlags::SHARED | MapFlags::POPULATE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let address = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ,
                flags,
                char_device,
                offset,
            )?
        };
        Ok(Descriptors {
            map: mapping(address, len),
            depth,
        })
    }

    /// Reads the descriptor of the tag's present request.
    pub(crate) fn get(&self, tag: u16) -> IoDescriptor {
        assert!(tag < self.depth, "tag {tag} of {}", self.depth);
        // SAFETY: in bounds, and aligned since the mapping begins at a page. The driver wrote it before it completed
        // the fetch, and does not write it again before the tag is given back; any bits are valid.
        unsafe {
            self.map
                .base
                .cast::<IoDescriptor>()
                .add(usize::from(tag))
                .read_volatile()
        }
    }
}

/// Buffers for requests' bytes: page-aligned memory that becomes resident on first use.
pub(crate) struct Arena {
    map: Mapping,
}

impl Arena {
    pub(crate) fn new(len: usize) -> io::Result<Arena> {
        let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: a new mapping at an address of the kernel's choice.
        let address = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                len,
                prot,
                flags | MapFlags::NORESERVE,
            )?
        };
        Ok(Arena {
            map: mapping(address, len),
        })
    }

    /// The address at an offset, for the driver.
    pub(crate) fn address(&self, offset: usize) -> u64 {
        assert!(offset < self.map.len, "inside the arena");
        self.map.base.as_ptr() as u64 + offset as u64
    }

    /// The bytes at an offset. The caller must not ask for a tag's part while the driver owns the tag and may write there: it
    /// holds the tag's request, or no tag uses the part.
    pub(crate) fn part(&mut self, offset: usize, len: usize) -> &mut [u8] {
        let inside = offset
            .checked_add(len)
            .is_some_and(|end| end <= self.map.len);
        assert!(inside, "inside the arena");
        // SAFETY: in bounds and initialised (pages appear as zeros); `&mut self` excludes everybody in this process.
        // The driver writes a tag's part only while the tag is its own: see `Queue`, which asks for a part only
        // between a tag's completion and its commit.
        unsafe { std::slice::from_raw_parts_mut(self.map.base.as_ptr().add(offset), len) }
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
    // SAFETY: `addr` is a tag's part of an `Arena` that lives longer than the ring (see `Queue`'s field order).
    unsafe { ring.submission().push(&entry) }
        .map_err(|_| io::Error::other("the ring has fewer entries than the queue has tags"))
}
