//! A queue's ring and all that belongs to it: what its thread works on, and hands back when it stops.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use vhost::vhost_user::{Error, Result};
use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::chain::DescriptorTable;
use crate::config::{EVENT_IDX, INDIRECT, MAX_QUEUE_SIZE};
use crate::error::RingError;
use crate::inflight::{InflightRecord, QueueInflight};
use crate::memory::SharedMemory;

/// Where the client says the three parts of a ring are, in its own addresses.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RingAddresses {
    pub(crate) descriptors: u64,
    pub(crate) available: u64,
    pub(crate) used: u64,
}

/// What a queue's thread is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Mode {
    Serve,
    /// End now. What waits for a source stays in flight.
    Pause,
    /// End once what waits for a source is answered. Take nothing new.
    Drain,
}

/// What others tell a queue's thread.
pub(crate) struct Signals {
    /// Set after anything else here has changed.
    raised: AtomicBool,
    mode: AtomicU8,
    /// Requests for which there was fetched, and whether that succeeded.
    fetched: Mutex<Vec<(u16, bool)>>,
    wake: OwnedFd,
}

impl Signals {
    fn new() -> io::Result<Signals> {
        Ok(Signals {
            raised: AtomicBool::new(false),
            mode: AtomicU8::new(Mode::Serve as u8),
            fetched: Mutex::default(),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })
    }

    /// What the thread sleeps on.
    pub(crate) fn wake(&self) -> &OwnedFd {
        &self.wake
    }

    fn raise(&self) {
        self.raised.store(true, Ordering::Release);
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    pub(crate) fn set_mode(&self, mode: Mode) {
        self.mode.store(mode as u8, Ordering::Release);
        self.raise();
    }

    pub(crate) fn mode(&self) -> Mode {
        match self.mode.load(Ordering::Acquire) {
            0 => Mode::Serve,
            1 => Mode::Pause,
            _ => Mode::Drain,
        }
    }

    pub(crate) fn add_fetched(&self, head: u16, well: bool) {
        let mut fetched = self.fetched.lock().unwrap_or_else(PoisonError::into_inner);
        fetched.push((head, well));
        drop(fetched);
        self.raise();
    }

    pub(crate) fn is_raised(&self) -> bool {
        self.raised.load(Ordering::Acquire)
    }

    /// Takes what there was fetched for. Whatever comes later raises the flag again.
    pub(crate) fn lower(&self) -> Vec<(u16, bool)> {
        self.raised.store(false, Ordering::Release);
        std::mem::take(&mut *self.fetched.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A queue.
pub(crate) struct Ring {
    pub(crate) index: u16,
    pub(crate) queue: Queue,
    addresses: Option<RingAddresses>,
    /// Where the client says that the next request is, if there is no record of requests in flight.
    base: u16,
    /// Whether the ring's indexes have yet to be read: it is new, or was stopped.
    is_fresh: bool,
    pub(crate) is_started: bool,
    pub(crate) is_enabled: bool,
    pub(crate) has_indirect: bool,
    pub(crate) kick: Option<File>,
    pub(crate) call: Option<File>,
    pub(crate) inflight: Option<QueueInflight>,
    /// Requests that a process before this one took and did not answer.
    pub(crate) resubmit: VecDeque<u16>,
    /// How many requests wait for a source.
    pub(crate) waiting: usize,
    pub(crate) signals: Arc<Signals>,
}

impl Ring {
    pub(crate) fn new(index: u16) -> Result<Ring> {
        let queue = Queue::new(MAX_QUEUE_SIZE);
        Ok(Ring {
            index,
            queue: queue.map_err(|_| Error::BackendInternalError)?,
            addresses: None,
            base: 0,
            is_fresh: true,
            is_started: false,
            is_enabled: false,
            has_indirect: false,
            kick: None,
            call: None,
            inflight: None,
            resubmit: VecDeque::new(),
            waiting: 0,
            signals: Arc::new(Signals::new().map_err(Error::ReqHandlerError)?),
        })
    }

    pub(crate) fn set_size(&mut self, size: u32) -> Result<()> {
        let size = u16::try_from(size).map_err(|_| Error::InvalidParam)?;
        self.queue
            .try_set_size(size)
            .map_err(|_| Error::InvalidParam)
    }

    pub(crate) fn set_addresses(&mut self, addresses: RingAddresses) {
        self.addresses = Some(addresses);
    }

    pub(crate) fn set_base(&mut self, base: u16) {
        self.base = base;
        self.is_fresh = true;
    }

    /// Stops the ring: the client asks where to go on.
    pub(crate) fn stop(&mut self) -> Result<u16> {
        if !self.is_fresh {
            self.base = self.queue.next_avail();
        }
        self.is_fresh = true;
        self.is_started = false;
        self.kick = None;
        self.inflight = None;
        if self.waiting > 0 {
            // Only where the ring makes no sense. What comes of these requests concerns no ring any more.
            self.waiting = 0;
            self.signals = Arc::new(Signals::new().map_err(Error::ReqHandlerError)?);
        }
        Ok(self.base)
    }

    /// Whether there is all that its thread needs, but for memory.
    pub(crate) fn is_ready(&self) -> bool {
        self.is_started && self.is_enabled && self.addresses.is_some()
    }

    pub(crate) fn table(&self) -> DescriptorTable {
        DescriptorTable {
            at: GuestAddress(self.queue.desc_table()),
            size: self.queue.size(),
            indirect: self.has_indirect,
        }
    }

    /// Finds the ring in memory, and on its first start what it left to do.
    pub(crate) fn prepare(
        &mut self,
        memory: &SharedMemory,
        map: &GuestMemoryMmap,
        features: u64,
        record: Option<&InflightRecord>,
    ) -> Result<()> {
        let addresses = self.addresses.ok_or(Error::InvalidParam)?;
        let place = |client| {
            let guest = memory.guest_address(client);
            guest.ok_or(Error::InvalidOperation(
                "a ring is outside the guest's memory",
            ))
        };
        let aligned = |_| Error::InvalidOperation("a ring is not aligned");
        let queue = &mut self.queue;
        queue
            .try_set_desc_table_address(place(addresses.descriptors)?)
            .map_err(aligned)?;
        queue
            .try_set_avail_ring_address(place(addresses.available)?)
            .map_err(aligned)?;
        queue
            .try_set_used_ring_address(place(addresses.used)?)
            .map_err(aligned)?;
        queue.set_event_idx(features & EVENT_IDX != 0);
        queue.set_ready(true);
        self.has_indirect = features & INDIRECT != 0;
        if !queue.is_valid(map) {
            return Err(Error::InvalidOperation(
                "a ring is outside the guest's memory",
            ));
        }
        if self.is_fresh {
            self.find_position(map, record)
                .map_err(|error| Error::ReqHandlerError(io::Error::other(error)))?;
            self.is_fresh = false;
        }
        Ok(())
    }

    fn find_position(
        &mut self,
        map: &GuestMemoryMmap,
        record: Option<&InflightRecord>,
    ) -> std::result::Result<(), RingError> {
        let used = self.queue.used_idx(map, Ordering::Acquire)?.0;
        self.queue.set_next_used(used);
        self.queue.set_next_avail(self.base);
        self.resubmit.clear();
        self.inflight = record.and_then(|record| record.queue(self.index, self.queue.size()));
        if let Some(inflight) = &mut self.inflight {
            let heads = inflight.recover(used)?;
            if !heads.is_empty() {
                tracing::info!(
                    queue = self.index,
                    "executing again {} requests that a server before this one took",
                    heads.len()
                );
            }
            // All that were taken are answered or in flight.
            let taken = used.wrapping_add(heads.len() as u16);
            self.queue.set_next_avail(taken);
            self.resubmit = heads.into();
        }
        Ok(())
    }
}

/// Takes an eventfd of the client. Nothing that it does may block this process.
pub(crate) fn event(file: File) -> Result<File> {
    let set = rustix::io::ioctl_fionbio(&file, true);
    set.map_err(|error| Error::ReqHandlerError(error.into()))?;
    Ok(file)
}

/// Takes the count of an eventfd.
pub(crate) fn drain(fd: &impl std::os::fd::AsFd) -> std::result::Result<(), RingError> {
    match rustix::io::read(fd, &mut [0u8; 8]) {
        Ok(8) | Err(Errno::AGAIN | Errno::INTR) => Ok(()),
        _ => Err(RingError::NotAnEvent),
    }
}
