//! The devices of one process, as zram's interface shows them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use serde::{Deserialize, Serialize};

use super::device::{Zram, ask, stat};
use super::{Attribute, Config, Engine, Errno, Live, Owner, Place, Shown, Subject, View, classes};
use crate::protocol::{Request, Response};

/// How the interface behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// As the kernel, limits included (the default). Otherwise what uzram can do beyond is allowed: each attribute's
    /// `docs` say what.
    pub strict: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options { strict: true }
    }
}

/// What outlives the process: the devices and what they remember.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// By number.
    pub devices: Vec<SavedDevice>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedDevice {
    /// N of `zramN`.
    pub id: u32,
    /// Whether it was initialised.
    pub initialised: bool,
    /// What it remembers.
    pub config: Config,
}

/// zram's devices. See the module [`crate::zram`].
pub struct Host {
    engine: Box<dyn Engine>,
    options: Options,
    devices: RwLock<BTreeMap<u32, Arc<Zram>>>,
    /// Held by whoever adds or removes a device.
    adding: Mutex<()>,
}

impl Host {
    /// Without devices yet. `modprobe zram` makes one: see [`Host::hot_add`].
    pub fn new(engine: Box<dyn Engine>, options: Options) -> Host {
        Host {
            engine,
            options,
            devices: RwLock::default(),
            adding: Mutex::default(),
        }
    }

    /// How it behaves.
    pub fn options(&self) -> Options {
        self.options
    }

    pub(crate) fn engine(&self) -> &dyn Engine {
        &*self.engine
    }

    fn table(&self) -> RwLockReadGuard<'_, BTreeMap<u32, Arc<Zram>>> {
        self.devices.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn table_mut(&self) -> RwLockWriteGuard<'_, BTreeMap<u32, Arc<Zram>>> {
        self.devices.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn adding(&self) -> MutexGuard<'_, ()> {
        self.adding.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The device of that number.
    pub fn device(&self, id: u32) -> Option<Arc<Zram>> {
        self.table().get(&id).cloned()
    }

    fn found(&self, id: u32, missing: Errno) -> Result<Arc<Zram>, Errno> {
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
            match self.insert(id, Config::default()) {
                // Somebody was faster.
                Err(Errno::EXIST) => taken.push(id),
                other => return other.map(|()| id),
            }
        }
    }

    /// Adds an uninitialised device of that number. EEXIST where it is taken.
    pub fn add_device(&self, id: u32) -> Result<(), Errno> {
        let _alone = self.adding();
        if self.table().contains_key(&id) || self.engine.taken().contains(&id) {
            return Err(Errno::EXIST);
        }
        self.insert(id, Config::default())
    }

    fn insert(&self, id: u32, config: Config) -> Result<(), Errno> {
        let node = self.engine.reserve(id)?;
        let zram = Zram::new(id, config, node);
        // Of a process before: not there any more, it is missed at disksize.
        super::attributes::writeback::hold_again(&zram);
        self.table_mut().insert(id, Arc::new(zram));
        Ok(())
    }

    /// Keeps a node again for a device that is not initialised any more.
    pub(crate) fn keep_node(&self, zram: &Zram) {
        let node = self.engine.reserve(zram.id()).ok().flatten();
        zram.state_mut().node = node;
    }

    /// Removes a device with all that is in it. ENODEV where there is none, EBUSY while it is open.
    pub fn hot_remove(&self, id: u32) -> Result<(), Errno> {
        let _alone = self.adding();
        let zram = self.found(id, Errno::NODEV)?;
        zram.change_alone()?.take_down(true)?;
        self.table_mut().remove(&id);
        self.engine.unreserve(id);
        Ok(())
    }

    /// Shows an initialised device that was made elsewhere. What it remembers besides, if it is known already, stays.
    pub fn adopt(&self, id: u32, live: Arc<dyn Live>) -> Result<(), Errno> {
        let _alone = self.adding();
        let stat = stat(&*live)?;
        if self.device(id).is_none() {
            let zram = Zram::new(id, Config::default(), None);
            self.table_mut().insert(id, Arc::new(zram));
        }
        let zram = self.found(id, Errno::NODEV)?;
        let mut state = zram.state_mut();
        state.config.disksize = stat.disksize;
        state.config.mem_limit = stat.counters.mem_limit_bytes;
        state.config.algorithms = super::attributes::algorithms::of_stat(&stat);
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

    /// Shows a device no more, which is somebody else's from now on or gone. Nothing happens to it.
    pub fn forget(&self, id: u32) {
        let _alone = self.adding();
        if let Some(zram) = self.table_mut().remove(&id) {
            zram.state_mut().gone = true;
        }
    }

    /// What there is to be remembered.
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

    /// Adds the devices that another process had. `live` is asked for those that were initialised; one that is not there any
    /// more is uninitialised, as after a reset. Devices of numbers that are taken are left out, and told.
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

    fn subject(
        &self,
        owner: Owner,
        name: &str,
    ) -> Result<(&'static Attribute, Subject<'_>), Errno> {
        let (place, zram) = match owner {
            Owner::Control => (Place::Control, None),
            Owner::Device(id) => (Place::Device, Some(self.found(id, Errno::NOENT)?)),
        };
        let attribute = Attribute::find(place, name).ok_or(Errno::NOENT)?;
        Ok((attribute, Subject { host: self, zram }))
    }
}

impl View for Host {
    fn devices(&self) -> Result<Vec<Shown>, Errno> {
        let all: Vec<Arc<Zram>> = self.table().values().cloned().collect();
        Ok(all.iter().map(|zram| shown(zram)).collect())
    }

    fn show(&self, owner: Owner, attribute: &str) -> Result<Vec<u8>, Errno> {
        let (attribute, subject) = self.subject(owner, attribute)?;
        let readable = attribute.mode_in(self.options.strict) & 0o444 != 0;
        let show = attribute.show.filter(|_| readable).ok_or(Errno::ACCESS)?;
        show(&subject).map(String::into_bytes)
    }

    fn store(&self, owner: Owner, attribute: &str, value: &[u8]) -> Result<(), Errno> {
        let (attribute, subject) = self.subject(owner, attribute)?;
        let store = attribute.store.ok_or(Errno::ACCESS)?;
        // The kernel does not ask an attribute about nothing.
        if value.is_empty() {
            return Ok(());
        }
        store(
            &subject,
            super::parse::c_text(&value[..value.len().min(4096)]),
        )
    }

    fn block_state(&self, id: u32, from: u64, max_bytes: usize) -> Result<(Vec<u8>, u64), Errno> {
        let zram = self.found(id, Errno::NOENT)?;
        match zram.ask(Request::BlockState { from, max_bytes })? {
            Response::BlockState { lines, next } => Ok((lines.into_bytes(), next)),
            _ => Err(Errno::PROTO),
        }
    }

    fn classes(&self, id: u32) -> Result<Vec<u8>, Errno> {
        let zram = self.found(id, Errno::NOENT)?;
        let live = zram.live().ok_or(Errno::NOENT)?;
        match ask(&*live, Request::PoolClasses)? {
            Response::PoolClasses { classes } => Ok(classes::table(&classes).into_bytes()),
            _ => Err(Errno::PROTO),
        }
    }
}

fn shown(zram: &Zram) -> Shown {
    let (live, node, known) = {
        let state = zram.state();
        (state.live.clone(), state.node, state.config.disksize)
    };
    let Some(live) = live else {
        return Shown {
            id: zram.id(),
            disksize: 0,
            path: String::new(),
            rdev: node,
        };
    };
    Shown {
        id: zram.id(),
        // One that does not answer is as large as it was.
        disksize: stat(&*live).map_or(known, |stat| stat.disksize),
        path: live.path(),
        rdev: live.rdev().or(node),
    }
}
