//! One zram device: what it remembers, and the device behind it while it is initialised.
//!
//! **Locks**, in this order: `jobs` is held during a recompression, writeback or compaction, and while the device is taken
//! down; `changing` during any change; `state` for some instructions. A reader takes only `state`, so statistics never wait
//! for a job or a change, as they do in Linux 7.0.

use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::{Errno, Live, Refusal, ZramConfig};
use crate::protocol::{Request, Response};
use crate::stat::Stat;

/// A device of a [`super::Host`].
pub struct Zram {
    id: u32,
    jobs: Mutex<()>,
    changing: Mutex<()>,
    state: RwLock<ZramState>,
}

/// A device's configuration, and what it holds now.
pub(crate) struct ZramState {
    pub(crate) config: ZramConfig,
    pub(crate) live: Option<Arc<dyn Live>>,
    /// Major and minor number of the node reserved for it.
    pub(crate) node: Option<(u32, u32)>,
    /// Its backing, held open by this process until the device opens it.
    pub(crate) held: Option<File>,
    /// Whether it was removed, although somebody still holds a reference.
    pub(crate) gone: bool,
}

/// The right to change a device.
pub(crate) struct Change<'a> {
    zram: &'a Zram,
    _changing: MutexGuard<'a, ()>,
    _jobs: Option<MutexGuard<'a, ()>>,
}

fn lock(mutex: &Mutex<()>) -> MutexGuard<'_, ()> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Zram {
    pub(crate) fn new(id: u32, config: ZramConfig, node: Option<(u32, u32)>) -> Zram {
        Zram {
            id,
            jobs: Mutex::new(()),
            changing: Mutex::new(()),
            state: RwLock::new(ZramState {
                config,
                live: None,
                node,
                held: None,
                gone: false,
            }),
        }
    }

    /// N of `zramN`.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Its configuration.
    pub fn config(&self) -> ZramConfig {
        self.state().config.clone()
    }

    /// The device behind it; `None` while it is not initialised.
    pub fn live(&self) -> Option<Arc<dyn Live>> {
        self.state().live.clone()
    }

    pub(crate) fn state(&self) -> RwLockReadGuard<'_, ZramState> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn state_mut(&self) -> RwLockWriteGuard<'_, ZramState> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a change. ENODEV if the device was removed meanwhile.
    pub(crate) fn change(&self) -> Result<Change<'_>, Errno> {
        self.change_after(None)
    }

    /// Begins a change once no job is running any more.
    pub(crate) fn change_alone(&self) -> Result<Change<'_>, Errno> {
        self.change_after(Some(lock(&self.jobs)))
    }

    fn change_after<'a>(&'a self, jobs: Option<MutexGuard<'a, ()>>) -> Result<Change<'a>, Errno> {
        let changing = lock(&self.changing);
        if self.state().gone {
            return Err(Errno::NODEV);
        }
        Ok(Change {
            zram: self,
            _changing: changing,
            _jobs: jobs,
        })
    }

    /// Runs a long job on the device behind it; other jobs wait. EINVAL while it is not initialised.
    pub(crate) fn job<T>(
        &self,
        work: impl FnOnce(&dyn Live) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let _alone = lock(&self.jobs);
        let live = self.live().ok_or(Errno::INVAL)?;
        work(&*live)
    }

    /// Sends a request to the device behind it. EINVAL while it is not initialised.
    pub(crate) fn ask(&self, request: Request) -> Result<Response, Refusal> {
        ask(&*self.live().ok_or(Errno::INVAL)?, request)
    }

    /// Reads the statistics of the device behind it; `None` while there is none.
    pub(crate) fn stat(&self) -> Result<Option<Box<Stat>>, Errno> {
        self.live().map(|live| stat(&*live)).transpose()
    }
}

/// Sends a request to a device. An error response becomes an error.
pub(crate) fn ask(live: &dyn Live, request: Request) -> Result<Response, Refusal> {
    match live.ask(request) {
        Ok(Response::Error(error)) | Err(error) => {
            tracing::debug!(%error, "refused");
            Err(error.into())
        }
        Ok(response) => Ok(response),
    }
}

pub(crate) fn stat(live: &dyn Live) -> Result<Box<Stat>, Errno> {
    match ask(live, Request::Stat)? {
        Response::Stat(stat) => Ok(stat),
        _ => Err(Errno::PROTO),
    }
}

impl Change<'_> {
    /// The device behind it.
    pub(crate) fn live(&self) -> Option<Arc<dyn Live>> {
        self.zram.live()
    }

    /// Changes its configuration.
    pub(crate) fn set(&self, change: impl FnOnce(&mut ZramConfig)) {
        change(&mut self.zram.state_mut().config);
    }

    /// Takes down the device behind it, if there is one. With `for_good`, marks it removed. EBUSY while it is open.
    pub(crate) fn take_down(&self, for_good: bool) -> Result<(), Refusal> {
        let mut left = None;
        if let Some(live) = self.live() {
            // Only the device behind it knows what is left of the limit.
            left = stat(&*live).ok().and_then(|stat| stat.writeback_limit);
            live.remove()?;
        }
        let mut state = self.zram.state_mut();
        state.live = None;
        state.held = None;
        state.config = state.config.after_reset();
        if let Some(left) = left {
            state.config.writeback_limit = left;
        }
        state.gone = for_good;
        Ok(())
    }
}
