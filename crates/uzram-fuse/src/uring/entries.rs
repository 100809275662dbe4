//! The entries of a connection: their memory, and who may use it.
//!
//! A [`HeldEntry`] is the right to an entry's memory. There is one from the kernel's completion, by which the entry has a request,
//! to the commit of the reply. Whoever has it may execute the request: the thread whose ring the completion came by, or another
//! one that took it from a [`Backlog`]. The kernel copies into and out of an entry's memory only in system calls of a thread that
//! has given its [`HeldEntry`] away by a command.
//!
//! This file and `ring.rs` are the two of `uring` with unsafe code.
#![allow(unsafe_code)]

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

use crossbeam_utils::CachePadded;
use uzram_frontend::RequestBuffers;

use super::abi::EntryHeader;

/// `struct iovec`: address and length.
pub(crate) type Iovec = [u64; 2];

const _: () = {
    assert!(size_of::<libc::iovec>() == size_of::<Iovec>());
    assert!(std::mem::offset_of!(libc::iovec, iov_len) == size_of::<u64>());
};

/// An entry that has a request: the right to its memory. Not to be copied.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct HeldEntry(u32);

impl HeldEntry {
    /// # Safety
    /// The kernel has completed a command of this entry, and this is the only value for that completion.
    pub(super) unsafe fn new(number: u32) -> HeldEntry {
        HeldEntry(number)
    }

    pub(crate) fn number(&self) -> u32 {
        self.0
    }
}

/// Header and payload of each entry of a connection. Becomes resident, and locked, on first use.
pub(crate) struct EntryMemory {
    buffers: RequestBuffers,
    payload_bytes: usize,
    /// The FUSE queue of each entry.
    queues: Vec<u16>,
    /// Two for each entry, which the kernel reads when the entry is registered.
    iovecs: Vec<[Iovec; 2]>,
}

impl EntryMemory {
    pub(crate) fn new(queues: Vec<u16>, payload_bytes: usize) -> io::Result<EntryMemory> {
        let headers = headers_len(queues.len());
        let payloads = queues.len().checked_mul(payload_bytes);
        let len = payloads.and_then(|payloads| payloads.checked_add(headers));
        let buffers = RequestBuffers::new(len.ok_or(io::ErrorKind::OutOfMemory)?)?;
        if let Err(error) = buffers.lock_on_fault() {
            tracing::debug!(%error, "buffers are not locked");
        }
        let mut this = EntryMemory {
            buffers,
            payload_bytes,
            queues,
            iovecs: Vec::new(),
        };
        let places = (0..this.queues.len() as u32).map(|entry| this.places(entry));
        this.iovecs = places.collect();
        Ok(this)
    }

    /// Where header and payload of an entry are.
    fn places(&self, entry: u32) -> [Iovec; 2] {
        let (header, payload) = self.offsets(entry);
        let iovec = |offset, len| {
            let address = self.buffers.address(offset, len);
            [address.addr().get() as u64, len as u64]
        };
        [
            iovec(header, size_of::<EntryHeader>()),
            iovec(payload, self.payload_bytes),
        ]
    }

    fn offsets(&self, entry: u32) -> (usize, usize) {
        let (entry, entries) = (entry as usize, self.queues.len());
        assert!(entry < entries, "entry {entry} of {entries}");
        let payload = headers_len(entries) + entry * self.payload_bytes;
        (entry * size_of::<EntryHeader>(), payload)
    }

    /// The FUSE queue of an entry.
    pub(crate) fn queue(&self, entry: u32) -> u16 {
        self.queues[entry as usize]
    }

    /// Address of what the kernel reads to register an entry.
    pub(crate) fn iovecs(&self, entry: u32) -> *const [Iovec; 2] {
        &raw const self.iovecs[entry as usize]
    }

    /// Header and payload of an entry of this connection.
    pub(crate) fn get<'a>(
        &'a self,
        entry: &'a mut HeldEntry,
    ) -> (&'a mut EntryHeader, &'a mut [u8]) {
        let (header, payload) = self.offsets(entry.0);
        let header = self.buffers.address(header, size_of::<EntryHeader>());
        let payload = self.buffers.address(payload, self.payload_bytes);
        // SAFETY: initialised, aligned (a mapping is, and 288 is a multiple of 8), any bits are valid; the two do not overlap.
        // `entry` is borrowed exclusively and there is no other value for it, so nobody else has or gets a borrow, and the kernel
        // does not copy: see the file's head.
        unsafe {
            (
                header.cast::<EntryHeader>().as_mut(),
                std::slice::from_raw_parts_mut(payload.as_ptr(), self.payload_bytes),
            )
        }
    }
}

/// Bytes of all headers, up to the page at which payloads begin.
fn headers_len(entries: usize) -> usize {
    (entries * size_of::<EntryHeader>()).next_multiple_of(4096)
}

/// Entries whose requests wait for a thread, oldest first. Its owner puts them in ([`BacklogOwner`]), anybody takes them out.
/// There is no lock.
pub(crate) struct Backlog {
    /// How many have been put in, by the owner alone, and taken out. Both wrap.
    put: CachePadded<AtomicU32>,
    taken: CachePadded<AtomicU32>,
    /// A power of two of them.
    places: Box<[AtomicU32]>,
}

/// The right to put entries into a backlog.
pub(crate) struct BacklogOwner(Arc<Backlog>);

impl BacklogOwner {
    /// A backlog with room for `room` entries or some more.
    pub(crate) fn new(room: usize) -> BacklogOwner {
        let places = (0..room.next_power_of_two()).map(|_| AtomicU32::new(0));
        BacklogOwner(Arc::new(Backlog {
            put: CachePadded::default(),
            taken: CachePadded::default(),
            places: places.collect(),
        }))
    }

    /// For those who take from it.
    pub(crate) fn shared(&self) -> &Arc<Backlog> {
        &self.0
    }

    /// Whether [`BacklogOwner::put`] would give the entry back.
    pub(crate) fn is_full(&self) -> bool {
        let backlog = &self.0;
        let waiting = backlog
            .put
            .load(Relaxed)
            .wrapping_sub(backlog.taken.load(Acquire));
        waiting as usize == backlog.places.len()
    }

    /// Puts an entry in, or gives it back where there is no room.
    pub(crate) fn put(&mut self, entry: HeldEntry) -> Result<(), HeldEntry> {
        if self.is_full() {
            return Err(entry);
        }
        let put = self.0.put.load(Relaxed);
        self.0.place(put).store(entry.0, Relaxed);
        self.0.put.store(put.wrapping_add(1), Release);
        Ok(())
    }
}

impl Backlog {
    fn place(&self, count: u32) -> &AtomicU32 {
        &self.places[count as usize & (self.places.len() - 1)]
    }

    /// Whether there is nothing to take.
    pub(crate) fn is_empty(&self) -> bool {
        self.put.load(Acquire) == self.taken.load(Acquire)
    }

    /// Takes the oldest out.
    pub(crate) fn take(&self) -> Option<HeldEntry> {
        let mut taken = self.taken.load(Acquire);
        loop {
            if self.put.load(Acquire) == taken {
                return None;
            }
            let number = self.place(taken).load(Relaxed);
            let next = taken.wrapping_add(1);
            // Had the owner put another one into this place meanwhile, it would have seen this one taken.
            match self
                .taken
                .compare_exchange_weak(taken, next, AcqRel, Acquire)
            {
                Ok(_) => return Some(HeldEntry(number)),
                Err(now) => taken = now,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize};
    use std::thread;

    use super::*;

    #[test]
    fn entries_have_memory_of_their_own() {
        let memory = EntryMemory::new(vec![0; 20], 8192).unwrap();
        let mut entries: Vec<HeldEntry> = (0..20).map(HeldEntry).collect();
        for entry in &mut entries {
            let number = entry.number();
            let (header, payload) = memory.get(entry);
            header.entry.commit_id = number.into();
            payload.fill(number as u8);
            let at = [std::ptr::from_mut(header) as u64, payload.as_ptr() as u64];
            assert_eq!(memory.places(number).map(|[address, _]| address), at);
        }
        for entry in &mut entries {
            let number = entry.number();
            let (header, payload) = memory.get(entry);
            assert_eq!(header.entry.commit_id, u64::from(number));
            assert!(payload.len() == 8192 && payload.iter().all(|byte| *byte == number as u8));
        }
    }

    #[test]
    fn a_backlog_gives_what_it_was_given_in_order() {
        let mut owner = BacklogOwner::new(3);
        let backlog = owner.shared().clone();
        assert_eq!(backlog.take(), None);
        for round in 0..10 {
            for number in 0..4 {
                assert!(!owner.is_full());
                owner.put(HeldEntry(round * 4 + number)).unwrap();
            }
            assert_eq!(owner.put(HeldEntry(99)), Err(HeldEntry(99)));
            for number in 0..4 {
                assert_eq!(backlog.take(), Some(HeldEntry(round * 4 + number)));
            }
            assert_eq!(backlog.take(), None);
        }
    }

    /// The unsafe code rests on it: an entry is never with two threads.
    #[test]
    fn an_entry_is_taken_once_by_whoever_takes() {
        const ROUNDS: usize = 500_000;
        let mut owner = BacklogOwner::new(4);
        let backlog = owner.shared().clone();
        let is_free: Vec<AtomicBool> = (0..8).map(|_| AtomicBool::new(true)).collect();
        let (done, twice) = (AtomicUsize::new(0), AtomicBool::new(false));
        let goes_on = || done.load(Relaxed) < ROUNDS && !twice.load(Relaxed);
        let take = || {
            if let Some(entry) = backlog.take() {
                if is_free[entry.number() as usize].swap(true, AcqRel) {
                    twice.store(true, Relaxed);
                }
                done.fetch_add(1, Relaxed);
            }
        };
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while goes_on() {
                        take();
                    }
                });
            }
            let mut put = 0;
            while goes_on() {
                for (number, is_free) in is_free.iter().enumerate() {
                    if put < ROUNDS && !owner.is_full() && is_free.swap(false, AcqRel) {
                        owner.put(HeldEntry(number as u32)).unwrap();
                        put += 1;
                    }
                }
                take();
            }
        });
        assert!(!twice.load(Relaxed), "two had an entry at once");
        assert!(is_free.iter().all(|is_free| is_free.load(Relaxed)));
    }
}
