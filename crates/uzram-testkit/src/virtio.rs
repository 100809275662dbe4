//! A guest without a virtual machine: memory, rings, a driver of virtio-blk, and the vhost-user client before it.
//!
//! The driver can do all that a bad one can: descriptors, rings and the record of requests in flight are written as the
//! test likes. It connects again as QEMU does, with its memory as the last server left it.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use vhost::vhost_user::message::{
    VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserInflight, VhostUserProtocolFeatures,
};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::mmap::MmapRegion;
use vm_memory::{
    Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestRegionMmap,
};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Bytes of a request's data, at most.
pub const DATA_BYTES: usize = 64 << 10;
/// Room for a request: header and status before the data.
const SLOT_BYTES: u64 = DATA_BYTES as u64 + 4096;
/// Room for a ring.
const RING_BYTES: u64 = 64 << 10;
/// Descriptors of a queue.
pub const QUEUE_SIZE: u16 = 128;
/// Descriptors of one request that [`Guest::submit`] makes: header, data in two parts, status.
const EACH: u16 = 4;
/// Requests that a queue can have in flight.
pub const SLOTS: u16 = QUEUE_SIZE / EACH;

/// Flags of descriptors.
pub const NEXT: u16 = 1;
/// The device writes it.
pub const WRITABLE: u16 = 2;
/// It is a table of descriptors.
pub const TABLE: u16 = 4;

/// Kinds of requests.
pub const READ: u32 = 0;
/// See [`READ`].
pub const WRITE: u32 = 1;
/// See [`READ`].
pub const FLUSH: u32 = 4;
/// See [`READ`].
pub const GET_ID: u32 = 8;
/// See [`READ`].
pub const DISCARD: u32 = 11;
/// See [`READ`].
pub const WRITE_ZEROES: u32 = 13;

/// The offset of a queue's descriptors, of what is available and of what is used, in its part of memory.
const AVAILABLE: u64 = 0x4000;
const USED: u64 = 0x8000;

#[derive(Default)]
struct DriverQueue {
    available: u16,
    used: u16,
    kick: Option<EventFd>,
    call: Option<EventFd>,
    /// What waits for `call`.
    calls: Option<Epoll>,
}

/// The guest.
pub struct Guest {
    memory: GuestMemoryMmap,
    queues: Vec<DriverQueue>,
    /// Features that are not acknowledged.
    pub without_features: u64,
    /// Whether the client asks for a record of requests in flight, where it is offered.
    pub wants_record: bool,
    record: Option<(VhostUserInflight, File)>,
    client: Option<Frontend>,
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::other(error)
}

impl Guest {
    /// A guest with so many queues, not connected.
    ///
    /// # Panics
    ///
    /// Without memory.
    pub fn new(queues: usize) -> Guest {
        let bytes = queues as u64 * (RING_BYTES + u64::from(SLOTS) * SLOT_BYTES);
        let file = rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let file = File::from(file);
        file.set_len(bytes).unwrap();
        let mapping = MmapRegion::from_file(FileOffset::new(file, 0), bytes as usize).unwrap();
        let region = GuestRegionMmap::new(mapping, GuestAddress(0)).unwrap();
        Guest {
            memory: GuestMemoryMmap::from_regions(vec![region]).unwrap(),
            queues: (0..queues).map(|_| DriverQueue::default()).collect(),
            without_features: 0,
            wants_record: true,
            record: None,
            client: None,
        }
    }

    fn ring(&self, queue: usize) -> u64 {
        queue as u64 * RING_BYTES
    }

    /// Where a request's header is; its status is 64 bytes behind it, its data 4096.
    pub fn slot(&self, queue: usize, slot: u16) -> u64 {
        let slots = queue as u64 * u64::from(SLOTS) + u64::from(slot);
        self.queues.len() as u64 * RING_BYTES + slots * SLOT_BYTES
    }

    /// Writes to memory.
    pub fn write(&self, at: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(at)).unwrap();
    }

    /// Reads memory.
    pub fn read(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory
            .read_slice(&mut bytes, GuestAddress(at))
            .unwrap();
        bytes
    }

    /// Connects, and starts all queues where they are. Takes the record along from an earlier connection.
    pub fn connect(&mut self, path: &Path) -> io::Result<()> {
        self.client = None;
        let mut client = Frontend::connect(path, self.queues.len() as u64).map_err(failed)?;
        client.set_owner().map_err(failed)?;
        let offered = client.get_features().map_err(failed)?;
        let protocol = client.get_protocol_features().map_err(failed)?;
        let mut wanted = VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::REPLY_ACK;
        if self.wants_record {
            wanted |= VhostUserProtocolFeatures::INFLIGHT_SHMFD;
        }
        let agreed = protocol & wanted;
        client.set_protocol_features(agreed).map_err(failed)?;
        client.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        client.get_queue_num().map_err(failed)?;
        let features = offered & !self.without_features;
        client.set_features(features).map_err(failed)?;
        if agreed.contains(VhostUserProtocolFeatures::INFLIGHT_SHMFD) {
            if let Some((inflight, file)) = &self.record {
                let set = client.set_inflight_fd(inflight, file.as_raw_fd());
                set.map_err(failed)?;
            } else {
                let count = self.queues.len() as u16;
                let asked = VhostUserInflight::new(0, 0, count, QUEUE_SIZE);
                self.record = Some(client.get_inflight_fd(&asked).map_err(failed)?);
            }
        }
        let region = self.memory.iter().next().unwrap();
        let info = VhostUserMemoryRegionInfo::from_guest_region(region).map_err(failed)?;
        client.set_mem_table(&[info]).map_err(failed)?;
        self.client = Some(client);
        for queue in 0..self.queues.len() {
            // Where it would be without a record: nothing in flight.
            let base = self.used_index(queue);
            self.start(queue, base)?;
        }
        Ok(())
    }

    /// Starts a queue.
    pub fn start(&mut self, queue: usize, base: u16) -> io::Result<()> {
        let ring = self.ring(queue);
        let host = |at: u64| {
            let address = self.memory.get_host_address(GuestAddress(at));
            address.unwrap() as u64
        };
        let config = VringConfigData {
            queue_max_size: QUEUE_SIZE,
            queue_size: QUEUE_SIZE,
            flags: 0,
            desc_table_addr: host(ring),
            used_ring_addr: host(ring + USED),
            avail_ring_addr: host(ring + AVAILABLE),
            log_addr: None,
        };
        let state = &mut self.queues[queue];
        let Some(client) = &mut self.client else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let kick = EventFd::new(EFD_NONBLOCK)?;
        let call = EventFd::new(EFD_NONBLOCK)?;
        client.set_vring_num(queue, QUEUE_SIZE).map_err(failed)?;
        client.set_vring_base(queue, base).map_err(failed)?;
        client.set_vring_addr(queue, &config).map_err(failed)?;
        client.set_vring_call(queue, &call).map_err(failed)?;
        client.set_vring_kick(queue, &kick).map_err(failed)?;
        client.set_vring_enable(queue, true).map_err(failed)?;
        let calls = Epoll::new()?;
        let wanted = EpollEvent::new(EventSet::IN, 0);
        calls.ctl(ControlOperation::Add, call.as_raw_fd(), wanted)?;
        (state.kick, state.call, state.calls) = (Some(kick), Some(call), Some(calls));
        Ok(())
    }

    /// Stops a queue; where it would go on.
    pub fn stop(&mut self, queue: usize) -> io::Result<u16> {
        let client = self.client.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        let base = client.get_vring_base(queue).map_err(failed)?;
        Ok(base as u16)
    }

    /// Stops a queue and starts it again with an empty ring.
    pub fn restart(&mut self, queue: usize) -> io::Result<()> {
        self.stop(queue)?;
        self.write(self.ring(queue), &vec![0; RING_BYTES as usize]);
        self.queues[queue] = DriverQueue::default();
        self.start(queue, 0)
    }

    /// Bytes of memory.
    pub fn len_bytes(&self) -> u64 {
        self.slot(self.queues.len(), 0)
    }

    /// Closes the connection.
    pub fn disconnect(&mut self) {
        self.client = None;
    }

    /// Part of the configuration space.
    pub fn config(&mut self, offset: u32, size: u32) -> io::Result<Vec<u8>> {
        let client = self.client.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        let flags = VhostUserConfigFlags::WRITABLE;
        let room = vec![0; size as usize];
        let read = client.get_config(offset, size, flags, &room);
        read.map(|(_, bytes)| bytes).map_err(failed)
    }

    /// The record of requests in flight.
    pub fn record(&self) -> Option<&File> {
        self.record.as_ref().map(|(_, file)| file)
    }

    /// Writes a descriptor.
    pub fn describe(&self, queue: usize, number: u16, at: u64, len: u32, flags: u16, next: u16) {
        self.describe_at(self.ring(queue), number, at, len, flags, next);
    }

    /// Writes a descriptor of a table somewhere else.
    pub fn describe_at(&self, table: u64, number: u16, at: u64, len: u32, flags: u16, next: u16) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&at.to_le_bytes());
        bytes[8..12].copy_from_slice(&len.to_le_bytes());
        bytes[12..14].copy_from_slice(&flags.to_le_bytes());
        bytes[14..].copy_from_slice(&next.to_le_bytes());
        self.write(table + u64::from(number) * 16, &bytes);
    }

    /// Makes a request available without a kick.
    pub fn offer(&mut self, queue: usize, head: u16) {
        let ring = self.ring(queue) + AVAILABLE;
        let state = &mut self.queues[queue];
        let place = ring + 4 + u64::from(state.available % QUEUE_SIZE) * 2;
        let memory = &self.memory;
        memory.write_obj(head, GuestAddress(place)).unwrap();
        state.available = state.available.wrapping_add(1);
        let index = GuestAddress(ring + 2);
        memory
            .store(state.available, index, Ordering::SeqCst)
            .unwrap();
    }

    /// Says that a number of requests is available, whether it is so or not.
    pub fn set_available(&mut self, queue: usize, index: u16) {
        self.queues[queue].available = index;
        let at = GuestAddress(self.ring(queue) + AVAILABLE + 2);
        self.memory.store(index, at, Ordering::SeqCst).unwrap();
    }

    /// Kicks the device.
    pub fn kick(&self, queue: usize) {
        if let Some(kick) = &self.queues[queue].kick {
            // As full as can be is kicked, too.
            let _ = kick.write(1);
        }
    }

    /// Makes a request of one part of data available, and kicks the device if that asked for it: what a driver does that is in a
    /// hurry. The data is what the slot holds.
    pub fn offer_plain(&mut self, queue: usize, slot: u16, kind: u32, sector: u64, len: u32) {
        let at = self.slot(queue, slot);
        let mut header = [0; 16];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[8..].copy_from_slice(&sector.to_le_bytes());
        self.write(at, &header);
        self.write(at + 64, &[0xFF]);
        let head = slot * EACH;
        let flag = if kind == READ { WRITABLE } else { 0 };
        self.describe(queue, head, at, 16, NEXT, head + 1);
        self.describe(queue, head + 1, at + 4096, len, flag | NEXT, head + 2);
        self.describe(queue, head + 2, at + 64, 1, WRITABLE, 0);
        self.offer(queue, head);
        let event = GuestAddress(self.ring(queue) + USED + 4 + u64::from(QUEUE_SIZE) * 8);
        // Behind the store of the index: either the device sees that, or this sees that it sleeps.
        std::sync::atomic::fence(Ordering::SeqCst);
        let asked: u16 = self.memory.load(event, Ordering::SeqCst).unwrap();
        if self.queues[queue].available == asked.wrapping_add(1) {
            self.kick(queue);
        }
    }

    fn used_index(&self, queue: usize) -> u16 {
        let at = GuestAddress(self.ring(queue) + USED + 2);
        self.memory.load(at, Ordering::SeqCst).unwrap()
    }

    /// The next answer: the request's first descriptor, and how much was written. Allocates nothing.
    pub fn answer(&mut self, queue: usize) -> Option<(u32, u32)> {
        if self.used_index(queue) == self.queues[queue].used {
            return None;
        }
        let state = &mut self.queues[queue];
        let at = queue as u64 * RING_BYTES + USED + 4 + u64::from(state.used % QUEUE_SIZE) * 8;
        state.used = state.used.wrapping_add(1);
        let number = |at: u64| self.memory.read_obj::<u32>(GuestAddress(at)).unwrap();
        Some((u32::from_le(number(at)), u32::from_le(number(at + 4))))
    }

    /// Waits for the next answer, as a driver does that sleeps until it is called. `None` after that long.
    pub fn wait(&mut self, queue: usize, limit: Duration) -> Option<(u32, u32)> {
        let begin = Instant::now();
        loop {
            // An answer between the look and the sleep must make a call.
            let event = self.ring(queue) + AVAILABLE + 4 + u64::from(QUEUE_SIZE) * 2;
            let wanted = self.queues[queue].used;
            let memory = &self.memory;
            memory
                .store(wanted, GuestAddress(event), Ordering::SeqCst)
                .unwrap();
            if let Some(answer) = self.answer(queue) {
                return Some(answer);
            }
            // Nothing is looked at before the device calls.
            let state = &self.queues[queue];
            let (call, calls) = (state.call.as_ref()?, state.calls.as_ref()?);
            while call.read().is_err() {
                let left = limit.checked_sub(begin.elapsed())?;
                let left = i32::try_from(left.as_millis()).unwrap_or(i32::MAX);
                let mut events = [EpollEvent::default()];
                // Interrupted, it looks again.
                let _ = calls.wait(left.saturating_add(1), &mut events);
            }
        }
    }

    /// Puts a request into a slot, makes it available and kicks the device: see [`Guest::prepare`].
    pub fn submit(
        &mut self,
        queue: usize,
        slot: u16,
        kind: u32,
        sector: u64,
        data: &[u8],
        room: u32,
    ) {
        self.prepare(queue, slot, kind, sector, data, room);
        self.kick(queue);
    }

    /// Puts a request into a slot and makes it available. `data` goes to the device; `room` bytes come from it. Both are
    /// in two parts, of odd sizes.
    pub fn prepare(
        &mut self,
        queue: usize,
        slot: u16,
        kind: u32,
        sector: u64,
        data: &[u8],
        room: u32,
    ) {
        let at = self.slot(queue, slot);
        let mut header = [0; 16];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[8..].copy_from_slice(&sector.to_le_bytes());
        self.write(at, &header);
        self.write(at + 64, &[0xFF]);
        self.write(at + 4096, data);
        let head = slot * EACH;
        let (len, flag) = match room {
            0 => (data.len() as u32, 0),
            room => (room, WRITABLE),
        };
        let first = len.min(1000);
        self.describe(queue, head, at, 16, NEXT, head + 1);
        self.describe(queue, head + 1, at + 4096, first, flag | NEXT, head + 2);
        let rest = at + 4096 + u64::from(first);
        self.describe(queue, head + 2, rest, len - first, flag | NEXT, head + 3);
        self.describe(queue, head + 3, at + 64, 1, WRITABLE, 0);
        self.offer(queue, head);
    }

    /// The status of a slot's request.
    pub fn status(&self, queue: usize, slot: u16) -> u8 {
        self.read(self.slot(queue, slot) + 64, 1)[0]
    }

    /// The data of a slot's request.
    pub fn data(&self, queue: usize, slot: u16, len: usize) -> Vec<u8> {
        self.read(self.slot(queue, slot) + 4096, len)
    }

    /// Does a request and waits for its answer: the status.
    ///
    /// # Panics
    ///
    /// If there is none within 20 seconds.
    pub fn request(&mut self, queue: usize, kind: u32, sector: u64, data: &[u8], room: u32) -> u8 {
        self.submit(queue, 0, kind, sector, data, room);
        let answer = self.wait(queue, Duration::from_secs(20));
        let (head, _) = answer.expect("the device did not answer");
        assert_eq!(head, 0, "another request was answered");
        self.status(queue, 0)
    }

    /// The slot that an answer is of.
    pub fn slot_of(head: u32) -> u16 {
        head as u16 / EACH
    }
}
