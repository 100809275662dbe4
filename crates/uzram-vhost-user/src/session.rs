//! What a client's messages do: the handler of one connection.
//!
//! A queue is served while it is started (the client has given it a kick), enabled, and has memory. Each message that
//! concerns a queue takes it from its thread, changes it, and gives it to a new thread, if it is still to be served.

use std::fs::File;
use std::sync::Arc;

use vhost::VhostUserMemoryRegionBase;
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
    VhostUserLog, VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig,
    VhostUserSharedMsg, VhostUserSingleMemoryRegion, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{Error, GpuBackend, Result, VhostUserBackendReqHandlerMut};

use crate::config::{
    MAX_QUEUE_SIZE, MAX_QUEUES, PROTOCOL_FEATURES, features, protocol_features, read, write,
};
use crate::inflight::{InflightRecord, record_bytes};
use crate::memory::{MAX_REGIONS, SharedMemory};
use crate::queue::{QueueContext, QueueThread};
use crate::ring::{Mode, Ring, RingAddresses, event};

const NOT_OFFERED: Error = Error::InvalidOperation("it was not offered");

/// A queue: with its thread, or without.
enum Place {
    Idle(Ring),
    Served(QueueThread),
    /// Its thread could not be started, or panicked.
    Lost,
}

/// One client's state.
pub(crate) struct Session {
    context: Arc<QueueContext>,
    memory: SharedMemory,
    features: u64,
    protocol: u64,
    writeback: bool,
    record: Option<InflightRecord>,
    /// As many as the client has spoken of.
    places: Vec<Place>,
    /// Whether this process stops serving.
    is_closed: bool,
}

impl Session {
    pub(crate) fn new(context: Arc<QueueContext>) -> Session {
        Session {
            context,
            memory: SharedMemory::default(),
            features: 0,
            protocol: 0,
            writeback: true,
            record: None,
            places: Vec::new(),
            is_closed: false,
        }
    }

    /// Stops all queues for good. Nothing touches the client's memory afterwards. Where the client keeps the record, what waits
    /// for a source stays in flight, and whoever serves next executes it.
    pub(crate) fn close(&mut self) {
        self.is_closed = true;
        let mode = match self.record {
            Some(_) => Mode::Pause,
            None => Mode::Drain,
        };
        for place in std::mem::take(&mut self.places) {
            if let Place::Served(thread) = place {
                thread.stop(mode);
            }
        }
    }

    /// Stops all queues of a client that is gone.
    pub(crate) fn abandon(&mut self) {
        self.is_closed = true;
        for place in std::mem::take(&mut self.places) {
            if let Place::Served(thread) = place {
                thread.stop(Mode::Pause);
            }
        }
    }

    /// Takes a queue from its thread.
    fn take(&mut self, index: usize, mode: Mode) -> Result<Ring> {
        while self.places.len() <= index {
            let number = u16::try_from(self.places.len()).map_err(|_| Error::InvalidParam)?;
            self.places.push(Place::Idle(Ring::new(number)?));
        }
        match std::mem::replace(&mut self.places[index], Place::Lost) {
            Place::Idle(ring) => Ok(ring),
            Place::Served(thread) => thread.stop(mode).ok_or(Error::BackendInternalError),
            Place::Lost => Err(Error::BackendInternalError),
        }
    }

    /// Gives a queue to a thread if it is to be served.
    fn put(&mut self, index: usize, mut ring: Ring) -> Result<()> {
        let map = self.memory.map().filter(|_| !self.is_closed);
        let place = match map {
            Some(map) if ring.is_ready() => {
                ring.prepare(&self.memory, map, self.features, self.record.as_ref())?;
                let thread = QueueThread::start(ring, map.clone(), &self.context);
                Place::Served(thread.map_err(Error::ReqHandlerError)?)
            }
            _ => Place::Idle(ring),
        };
        self.places[index] = place;
        Ok(())
    }

    /// Changes a queue while nobody serves it.
    fn change<T>(
        &mut self,
        index: u32,
        mode: Mode,
        change: impl FnOnce(&mut Ring) -> Result<T>,
    ) -> Result<T> {
        let index = usize::try_from(index).map_err(|_| Error::InvalidParam)?;
        if index >= usize::from(MAX_QUEUES) {
            return Err(Error::InvalidOperation("there are not so many queues"));
        }
        let mut ring = self.take(index, mode)?;
        let changed = change(&mut ring);
        self.put(index, ring)?;
        changed
    }

    /// Changes memory while no queue is served.
    fn change_memory(
        &mut self,
        change: impl FnOnce(&mut SharedMemory) -> Result<()>,
    ) -> Result<()> {
        let mut rings = Vec::new();
        for index in 0..self.places.len() {
            rings.push(self.take(index, Mode::Pause)?);
        }
        let changed = change(&mut self.memory);
        for (index, ring) in rings.into_iter().enumerate() {
            self.put(index, ring)?;
        }
        changed
    }

    /// Forgets what was set up, as after a reset of the guest.
    fn reset(&mut self) {
        for place in std::mem::take(&mut self.places) {
            if let Place::Served(thread) = place {
                thread.stop(Mode::Drain);
            }
        }
        self.features = 0;
    }
}

/// The number of queues and their size, of a record.
fn record_of(inflight: &VhostUserInflight) -> Result<(u16, u16)> {
    let (queues, size) = (inflight.num_queues, inflight.queue_size);
    match queues <= MAX_QUEUES && size <= MAX_QUEUE_SIZE {
        true => Ok((queues, size)),
        false => Err(Error::InvalidOperation("there are not so many queues")),
    }
}

impl VhostUserBackendReqHandlerMut for Session {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        self.reset();
        Ok(())
    }

    fn reset_device(&mut self) -> Result<()> {
        self.reset();
        Ok(())
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(features(self.context.read_only))
    }

    fn set_features(&mut self, agreed: u64) -> Result<()> {
        if agreed & !features(self.context.read_only) != 0 {
            return Err(NOT_OFFERED);
        }
        self.features = agreed;
        Ok(())
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _postcopy: Option<bool>,
    ) -> Result<Option<Vec<VhostUserMemoryRegionBase>>> {
        self.change_memory(|memory| {
            memory.clear();
            regions
                .iter()
                .zip(files)
                .try_for_each(|(region, file)| memory.add(region, file))
        })?;
        Ok(None)
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        self.change(index, Mode::Pause, |ring| ring.set_size(num))
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        _flags: VhostUserVringAddrFlags,
        descriptors: u64,
        used: u64,
        available: u64,
        _log: u64,
    ) -> Result<()> {
        self.change(index, Mode::Pause, |ring| {
            ring.set_addresses(RingAddresses {
                descriptors,
                available,
                used,
            });
            Ok(())
        })
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        let base = u16::try_from(base).map_err(|_| Error::InvalidParam)?;
        self.change(index, Mode::Drain, |ring| {
            ring.set_base(base);
            Ok(())
        })
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        let base = self.change(index, Mode::Drain, Ring::stop)?;
        Ok(VhostUserVringState::new(index, base.into()))
    }

    fn set_vring_kick(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        let kick = fd.map(event).transpose()?;
        let enabled = self.features & PROTOCOL_FEATURES == 0;
        self.change(index.into(), Mode::Pause, |ring| {
            ring.kick = kick;
            ring.is_started = true;
            ring.is_enabled |= enabled;
            Ok(())
        })
    }

    fn set_vring_call(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        let call = fd.map(event).transpose()?;
        self.change(index.into(), Mode::Pause, |ring| {
            ring.call = call;
            Ok(())
        })
    }

    fn set_vring_err(&mut self, _index: u8, _fd: Option<File>) -> Result<()> {
        // Errors are logged here, and a driver sees that its requests are not answered.
        Ok(())
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        Ok(protocol_features())
    }

    fn set_protocol_features(&mut self, features: u64) -> Result<()> {
        if features & !protocol_features().bits() != 0 {
            return Err(NOT_OFFERED);
        }
        self.protocol = features;
        Ok(())
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(MAX_QUEUES.into())
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        self.change(index, Mode::Pause, |ring| {
            ring.is_enabled = enable;
            Ok(())
        })
    }

    fn get_config(
        &mut self,
        offset: u32,
        size: u32,
        _flags: VhostUserConfigFlags,
    ) -> Result<Vec<u8>> {
        let space = read(&self.context.device, self.writeback, offset, size);
        space.ok_or(Error::InvalidParam)
    }

    fn set_config(
        &mut self,
        offset: u32,
        bytes: &[u8],
        _flags: VhostUserConfigFlags,
    ) -> Result<()> {
        // Either way a request is in the device's memory when it is answered.
        self.writeback = write(offset, bytes).ok_or(Error::InvalidParam)?;
        Ok(())
    }

    fn set_gpu_socket(&mut self, _gpu: GpuBackend) -> Result<()> {
        Err(NOT_OFFERED)
    }

    fn get_shared_object(&mut self, _uuid: VhostUserSharedMsg) -> Result<File> {
        Err(NOT_OFFERED)
    }

    fn get_inflight_fd(&mut self, asked: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        let (queues, size) = record_of(asked)?;
        let (record, file) =
            InflightRecord::create(queues, size).map_err(Error::ReqHandlerError)?;
        self.record = Some(record);
        let bytes = record_bytes(queues, size) as u64;
        Ok((VhostUserInflight::new(bytes, 0, queues, size), file))
    }

    fn set_inflight_fd(&mut self, given: &VhostUserInflight, file: File) -> Result<()> {
        let (queues, size) = record_of(given)?;
        if given.mmap_size < record_bytes(queues, size) as u64 {
            return Err(Error::InvalidOperation(
                "the record of requests in flight is too small for its queues",
            ));
        }
        let record = InflightRecord::open(file, given.mmap_offset, queues, size);
        self.record = Some(record.map_err(Error::ReqHandlerError)?);
        Ok(())
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        Ok(MAX_REGIONS as u64)
    }

    fn add_mem_region(
        &mut self,
        region: &VhostUserSingleMemoryRegion,
        file: File,
        _postcopy: Option<bool>,
    ) -> Result<Option<VhostUserMemoryRegionBase>> {
        self.change_memory(|memory| memory.add(region, file))?;
        Ok(None)
    }

    fn remove_mem_region(&mut self, region: &VhostUserSingleMemoryRegion) -> Result<()> {
        self.change_memory(|memory| memory.remove(region))
    }

    fn set_device_state_fd(
        &mut self,
        _direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        _fd: File,
    ) -> Result<Option<File>> {
        Err(NOT_OFFERED)
    }

    fn check_device_state(&mut self) -> Result<()> {
        Err(NOT_OFFERED)
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        Err(NOT_OFFERED)
    }

    fn set_log_base(&mut self, _log: &VhostUserLog, _file: File) -> Result<()> {
        Err(NOT_OFFERED)
    }
}
