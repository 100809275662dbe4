//! A ring and the memory of its entries. The only file of `uring` with unsafe code: ring entries carry addresses.
//!
//! The duty is discharged by ownership. [`EntryRing`] has both the ring and the memory that the ring's commands name. The ring
//! is dropped first, and neither can be had without the other. The kernel copies into and out of that memory only in calls of
//! this file, on behalf of the thread that makes them, so that nobody holds a borrow of it meanwhile.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;

use io_uring::squeue::Entry128;
use io_uring::types::Fixed;
use io_uring::{IoUring, cqueue, opcode};
use rustix::mm::{MapFlags, MlockFlags, ProtFlags};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::abi::{CommandRequest, EntryHeader, RingCommand};

/// Commands of FUSE over io_uring need entries with room for 80 bytes.
type CommandRing = IoUring<Entry128, cqueue::Entry>;

/// `struct iovec`: address and length.
type Iovec = [u64; 2];
/// Where `struct io_uring_sqe` has the field `len`, for which `UringCmd80` has no setter.
const SQE_LEN_AT: usize = 24;

const _: () = {
    assert!(size_of::<libc::iovec>() == size_of::<Iovec>());
    assert!(std::mem::offset_of!(libc::iovec, iov_len) == size_of::<u64>());
    assert!(size_of::<Entry128>() == 128);
};

/// A ring for commands on a FUSE connection, and entries with a header and a payload each. It must be used by the thread that
/// made it. Fields are dropped in order: the ring first.
pub(crate) struct EntryRing {
    ring: CommandRing,
    memory: EntryMemory,
}

/// Mapped memory that is zero at first and becomes resident, and locked, on first use; unmapped on drop.
struct EntryMemory {
    base: NonNull<u8>,
    len: usize,
    entries: usize,
    payload_bytes: usize,
    /// Two for each entry, which the kernel reads when the entry is registered.
    iovecs: Vec<[Iovec; 2]>,
}

impl Drop for EntryMemory {
    fn drop(&mut self) {
        // SAFETY: mapped with this length; borrows of it do not outlive it, and the ring was dropped before.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

impl EntryMemory {
    fn new(entries: usize, payload_bytes: usize) -> io::Result<EntryMemory> {
        let headers = headers_len(entries);
        let payloads = entries.checked_mul(payload_bytes);
        let len = payloads.and_then(|payloads| payloads.checked_add(headers));
        let len = len.ok_or(io::ErrorKind::OutOfMemory)?;
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
        // SAFETY: the range was just mapped. Locking changes no contents.
        let locked = unsafe { rustix::mm::mlock_with(address, len, MlockFlags::ONFAULT) };
        if let Err(error) = locked {
            tracing::debug!(%error, "buffers are not locked");
        }
        let base = NonNull::new(address.cast::<u8>()).expect("mmap does not map at 0");
        let begin = base.as_ptr() as u64;
        let iovec = |entry: usize| {
            let header = begin + (entry * size_of::<EntryHeader>()) as u64;
            let payload = begin + (headers + entry * payload_bytes) as u64;
            [
                [header, size_of::<EntryHeader>() as u64],
                [payload, payload_bytes as u64],
            ]
        };
        Ok(EntryMemory {
            base,
            len,
            entries,
            payload_bytes,
            iovecs: (0..entries).map(iovec).collect(),
        })
    }

    fn entry(&mut self, entry: usize) -> (&mut EntryHeader, &mut [u8]) {
        assert!(entry < self.entries, "entry {entry} of {}", self.entries);
        // SAFETY: the whole mapping, initialised (pages appear as zeros); `&mut self` excludes everybody in this
        // process, and the kernel's copies: see the file's head.
        let all = unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.len) };
        let (headers, payloads) = all.split_at_mut(headers_len(self.entries));
        let header = &mut headers[entry * size_of::<EntryHeader>()..];
        let header = EntryHeader::mut_from_prefix(header);
        let (header, _) = header.expect("a mapping is aligned, and the entry is inside");
        let payload = &mut payloads[entry * self.payload_bytes..][..self.payload_bytes];
        (header, payload)
    }
}

/// Bytes of all headers, up to the page at which payloads begin.
fn headers_len(entries: usize) -> usize {
    (entries * size_of::<EntryHeader>()).next_multiple_of(4096)
}

/// A ring for commands on a connection.
pub(crate) fn command_ring(entries: u32) -> io::Result<CommandRing> {
    let mut builder = IoUring::builder();
    builder
        .setup_single_issuer()
        .setup_coop_taskrun()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .dontfork();
    builder.build(entries)
}

impl EntryRing {
    /// A ring on a FUSE connection with that many entries, none of which is registered.
    pub(crate) fn new(
        connection: &File,
        entries: usize,
        payload_bytes: usize,
    ) -> io::Result<EntryRing> {
        let ring = command_ring(u32::try_from(entries).unwrap_or(u32::MAX))?;
        ring.submitter().register_files(&[connection.as_raw_fd()])?;
        let memory = EntryMemory::new(entries, payload_bytes)?;
        Ok(EntryRing { ring, memory })
    }

    /// Header and payload of an entry. They hold a request between the entry's completion and its commit.
    pub(crate) fn entry(&mut self, entry: usize) -> (&mut EntryHeader, &mut [u8]) {
        self.memory.entry(entry)
    }

    /// Queues the registration of an entry with a FUSE queue.
    pub(crate) fn register(&mut self, entry: usize, queue: u16) -> io::Result<()> {
        let iovecs = &raw const self.memory.iovecs[entry];
        let command = command(RingCommand::Register, queue, 0).addr(Some(iovecs as u64));
        let mut sqe = command.build().user_data(entry as u64);
        // SAFETY: in bounds of the 128 bytes, and aligned: the structure is, and so is the field in it.
        unsafe {
            let len = (&raw mut sqe).byte_add(SQE_LEN_AT).cast::<u32>();
            len.write(2);
        }
        self.push(sqe)
    }

    /// Queues the completion of an entry's request, and the fetch of the next one.
    pub(crate) fn commit(&mut self, entry: usize, queue: u16) -> io::Result<()> {
        let (header, _) = self.memory.entry(entry);
        let commit_id = header.entry.commit_id;
        let command = command(RingCommand::CommitAndFetch, queue, commit_id);
        self.push(command.build().user_data(entry as u64))
    }

    fn push(&mut self, sqe: Entry128) -> io::Result<()> {
        // SAFETY: commands name memory of `self.memory`, which lives longer than the ring; its iovecs do not move. The
        // connection is a registered file.
        unsafe { self.ring.submission().push(&sqe) }
            .map_err(|_| io::Error::other("the ring has fewer places than entries"))
    }

    /// Submits what is queued.
    pub(crate) fn submit(&mut self) -> io::Result<()> {
        if self.ring.submission().is_empty() {
            return Ok(());
        }
        self.ring.submit().map(drop)
    }

    /// Submits what is queued, and sleeps until there is a completion.
    pub(crate) fn wait(&mut self) -> io::Result<()> {
        loop {
            match self.ring.submit_and_wait(1) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other.map(drop),
            }
        }
    }

    /// Whether [`EntryRing::wait`] would return at once. No system call.
    pub(crate) fn is_ready(&mut self) -> bool {
        !self.ring.completion().is_empty() || self.ring.submission().taskrun()
    }

    /// The next completion: an entry, and zero if it has a request or else a negative errno.
    pub(crate) fn next_completion(&mut self) -> Option<(usize, i32)> {
        let done = self.ring.completion().next()?;
        Some((done.user_data() as usize, done.result()))
    }
}

fn command(command: RingCommand, queue: u16, commit_id: u64) -> opcode::UringCmd80 {
    let request = CommandRequest {
        commit_id,
        queue,
        ..CommandRequest::new_zeroed()
    };
    let mut bytes = [0; 80];
    bytes[..size_of::<CommandRequest>()].copy_from_slice(request.as_bytes());
    opcode::UringCmd80::new(Fixed(0), command as u32).cmd(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_have_memory_of_their_own() {
        let mut memory = EntryMemory::new(20, 8192).unwrap();
        for entry in 0..20 {
            let (header, payload) = memory.entry(entry);
            header.entry.commit_id = entry as u64;
            payload.fill(entry as u8);
            let at = [std::ptr::from_mut(header) as u64, payload.as_ptr() as u64];
            assert_eq!(memory.iovecs[entry].map(|[address, _]| address), at);
        }
        for entry in 0..20 {
            let (header, payload) = memory.entry(entry);
            assert_eq!(header.entry.commit_id, entry as u64);
            assert!(payload.len() == 8192 && payload.iter().all(|byte| *byte == entry as u8));
        }
    }

    /// The crate's structure is the kernel's, with its `len` where it is written.
    #[test]
    fn a_registration_names_two_buffers() {
        let mut sqe = command(RingCommand::Register, 3, 0)
            .addr(Some(0x1234))
            .build();
        // SAFETY: as in `register`.
        unsafe { (&raw mut sqe).byte_add(SQE_LEN_AT).cast::<u32>().write(2) };
        // SAFETY: 128 bytes, all of them initialised.
        let bytes: [u8; 128] = unsafe { std::mem::transmute(sqe) };
        let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!((bytes[0], word(8), word(16), word(24)), (46, 1, 0x1234, 2));
        assert_eq!(bytes[48 + 16..48 + 18], 3_u16.to_ne_bytes());
    }
}
