//! The devices of one process, as zram's interface knows them: adding, removing, saving and restoring them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use serde::{Deserialize, Serialize};

use super::device::{Zram, stat};
use super::{Engine, Errno, Live, Refusal, ZramConfig, algorithms, backing};

/// How the interface behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostOptions {
    /// Behaves as the kernel, limits included (the default). Otherwise allows what uzram can do beyond: each attribute's
    /// `docs` say what.
    pub strict: bool,
}

impl Default for HostOptions {
    fn default() -> HostOptions {
        HostOptions { strict: true }
    }
}

/// What outlives the process: the devices and what they remember.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// The devices, by number.
    pub devices: Vec<SavedDevice>,
}

/// One saved device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedDevice {
    /// N of `zramN`.
    pub id: u32,
    /// Whether it was initialised.
    pub initialised: bool,
    /// What it remembers.
    pub config: ZramConfig,
}

/// zram's devices. See the module [`crate::zram`].
pub struct Host {
    engine: Box<dyn Engine>,
    options: HostOptions,
    devices: RwLock<BTreeMap<u32, Arc<Zram>>>,
    /// Held while a device is added or removed.
    adding: Mutex<()>,
}

impl Host {
    /// Makes a host without devices. `modprobe zram` would add one: see [`Host::hot_add`].
    pub fn new(engine: Box<dyn Engine>, options: HostOptions) -> Host {
        Host {
            engine,
            options,
            devices: RwLock::default(),
            adding: Mutex::default(),
        }
    }

    /// How it behaves.
    pub fn options(&self) -> HostOptions {
        self.options
    }

    pub(crate) fn engine(&self) -> &dyn Engine {
        &*self.engine
    }

    pub(super) fn table(&self) -> RwLockReadGuard<'_, BTreeMap<u32, Arc<Zram>>> {
        self.devices.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn table_mut(&self) -> RwLockWriteGuard<'_, BTreeMap<u32, Arc<Zram>>> {
        self.devices.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn adding(&self) -> MutexGuard<'_, ()> {
        self.adding.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds the device of that number.
    pub fn device(&self, id: u32) -> Option<Arc<Zram>> {
        self.table().get(&id).cloned()
    }

    pub(super) fn found(&self, id: u32, missing: Errno) -> Result<Arc<Zram>, Errno> {
        self.device(id).ok_or(missing)
    }

    /// Adds an uninitialised device with the lowest number that is free.
    pub fn hot_add(&self) -> Result<u32, Errno> {
        let _alone = self.adding();
        let mut taken = self.engine.taken();
        loop {
            let id = {
                let table = self.table();
                (0..).find(|id| !table.contains_key(id) && !taken.contains(id))
            };
            let id = id.ok_or(Errno::NOSPC)?;
            match self.insert(id, ZramConfig::default()) {
                // Another process took the number first.
                Err(Errno::EXIST) => taken.push(id),
                other => return other.map(|()| id),
            }
        }
    }

    /// Adds an uninitialised device of that number. EEXIST if it is taken.
    pub fn add_device(&self, id: u32) -> Result<(), Errno> {
        let _alone = self.adding();
        if self.table().contains_key(&id) || self.engine.taken().contains(&id) {
            return Err(Errno::EXIST);
        }
        self.insert(id, ZramConfig::default())
    }

    fn insert(&self, id: u32, config: ZramConfig) -> Result<(), Errno> {
        let node = self.engine.reserve(id)?;
        let zram = Zram::new(id, config, node);
        // The backing of a saved device. If it is gone, setting disksize reports that.
        backing::hold_again(&zram);
        self.table_mut().insert(id, Arc::new(zram));
        Ok(())
    }

    /// Reserves a node again for a device that is no longer initialised.
    pub(crate) fn keep_node(&self, zram: &Zram) {
        let node = self.engine.reserve(zram.id()).ok().flatten();
        zram.state_mut().node = node;
    }

    /// Removes a device and its contents. ENODEV where there is none, EBUSY while it is open.
    pub fn hot_remove(&self, id: u32) -> Result<(), Refusal> {
        let _alone = self.adding();
        let zram = self.found(id, Errno::NODEV)?;
        zram.change_alone()?.take_down(true)?;
        self.table_mut().remove(&id);
        self.engine.unreserve(id);
        Ok(())
    }

    /// Shows an initialised device that was made elsewhere. Keeps what a known device remembers besides.
    pub fn adopt(&self, id: u32, live: Arc<dyn Live>) -> Result<(), Errno> {
        let _alone = self.adding();
        let stat = stat(&*live)?;
        if self.device(id).is_none() {
            let zram = Zram::new(id, ZramConfig::default(), None);
            self.table_mut().insert(id, Arc::new(zram));
        }
        let zram = self.found(id, Errno::NODEV)?;
        let mut state = zram.state_mut();
        state.config.disksize = stat.disksize;
        state.config.mem_limit = stat.counters.mem_limit_bytes;
        state.config.algorithms = algorithms::from_stat(&stat);
        if let Some(limit) = stat.writeback_limit {
            (
                state.config.writeback_limit,
                state.config.writeback_limit_enable,
            ) = (limit, true);
        }
        state.live = Some(live);
        state.held = None;
        Ok(())
    }

    /// Stops showing a device that is gone or belongs to somebody else now. Does nothing to the device.
    pub fn forget(&self, id: u32) {
        let _alone = self.adding();
        if let Some(zram) = self.table_mut().remove(&id) {
            zram.state_mut().gone = true;
        }
    }

    /// Collects what must outlive the process.
    pub fn saved(&self) -> Saved {
        let device = |(id, zram): (&u32, &Arc<Zram>)| {
            let state = zram.state();
            SavedDevice {
                id: *id,
                initialised: state.live.is_some(),
                config: state.config.clone(),
            }
        };
        Saved {
            devices: self.table().iter().map(device).collect(),
        }
    }

    /// Adds the devices that another process saved. `live` finds those that were initialised; one that is gone comes back
    /// uninitialised, as after a reset. Returns the numbers of devices that were left out because their number is taken.
    pub fn restore(
        &self,
        saved: Saved,
        mut live: impl FnMut(u32) -> Option<Arc<dyn Live>>,
    ) -> Result<Vec<u32>, Errno> {
        let mut left_out = Vec::new();
        for device in saved.devices {
            let found = device.initialised.then(|| live(device.id)).flatten();
            let config = match device.initialised && found.is_none() {
                true => device.config.after_reset(),
                false => device.config,
            };
            if self.device(device.id).is_some() {
                left_out.push(device.id);
                continue;
            }
            if let Some(found) = found {
                let zram = Zram::new(device.id, config, None);
                self.table_mut().insert(device.id, Arc::new(zram));
                self.adopt(device.id, found)?;
                continue;
            }
            let _alone = self.adding();
            match self.insert(device.id, config) {
                Err(Errno::EXIST) => left_out.push(device.id),
                other => other?,
            }
        }
        Ok(left_out)
    }
}
