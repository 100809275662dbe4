//! One zram device: what it remembers, and the device behind it while it is initialised.
//!
//! **Locks**, in this order: `jobs` is held for as long as a recompression, writeback or compaction takes, and by who takes
//! the device down; `changing` by whoever changes anything, for as long as that takes; `state` for some instructions. A
//! reader takes none but `state`, so that no statistic waits for a job or a change, as it does in Linux 7.0.

use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::{Config, Errno, Live};
use crate::protocol::{ControlError, Request, Response};
use crate::stat::Stat;

/// A device of a [`super::Host`].
pub struct Zram {
    id: u32,
    jobs: Mutex<()>,
    changing: Mutex<()>,
    state: RwLock<State>,
}

/// What there is of it.
pub(crate) struct State {
    pub(crate) config: Config,
    pub(crate) live: Option<Arc<dyn Live>>,
    /// The node that is kept for it.
    pub(crate) node: Option<(u32, u32)>,
    /// Its backing, taken by this process until the device takes it.
    pub(crate) held: Option<File>,
    /// It was removed; somebody still has it.
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

/// An error of a device as an errno. EIO for one that has none.
pub(crate) fn errno(error: &ControlError) -> Errno {
    match error.errno {
        errno @ 1..4096 => Errno::from_raw_os_error(errno),
        _ => Errno::IO,
    }
}

impl Zram {
    pub(crate) fn new(id: u32, config: Config, node: Option<(u32, u32)>) -> Zram {
        Zram {
            id,
            jobs: Mutex::new(()),
            changing: Mutex::new(()),
            state: RwLock::new(State {
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

    /// What it remembers.
    pub fn config(&self) -> Config {
        self.state().config.clone()
    }

    /// The device behind it; `None` while it is not initialised.
    pub fn live(&self) -> Option<Arc<dyn Live>> {
        self.state().live.clone()
    }

    pub(crate) fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a change. ENODEV where the device was removed meanwhile.
    pub(crate) fn change(&self) -> Result<Change<'_>, Errno> {
        self.change_after(None)
    }

    /// Likewise, when no job is under way any more.
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

    /// Does work that takes long with the device behind it; other such work waits. EINVAL while it is not initialised.
    pub(crate) fn job<T>(
        &self,
        work: impl FnOnce(&dyn Live) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let _alone = lock(&self.jobs);
        let live = self.live().ok_or(Errno::INVAL)?;
        work(&*live)
    }

    /// Asks the device behind it. EINVAL while it is not initialised.
    pub(crate) fn ask(&self, request: Request) -> Result<Response, Errno> {
        ask(&*self.live().ok_or(Errno::INVAL)?, request)
    }

    /// The statistics of the device behind it; `None` while there is none.
    pub(crate) fn stat(&self) -> Result<Option<Box<Stat>>, Errno> {
        self.live().map(|live| stat(&*live)).transpose()
    }
}

/// Asks a device, and takes an error in an answer for one.
pub(crate) fn ask(live: &dyn Live, request: Request) -> Result<Response, Errno> {
    match live.ask(request) {
        Ok(Response::Error(error)) | Err(error) => {
            tracing::debug!(%error, "refused");
            Err(errno(&error))
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

    /// Changes what it remembers.
    pub(crate) fn set(&self, change: impl FnOnce(&mut Config)) {
        change(&mut self.zram.state_mut().config);
    }

    /// Takes the device behind it down, if there is one; with `for_good` it is gone afterwards. EBUSY while it is open.
    pub(crate) fn take_down(&self, for_good: bool) -> Result<(), Errno> {
        let mut left = None;
        if let Some(live) = self.live() {
            // What is left of the limit is all that the device behind it knows better.
            left = stat(&*live).ok().and_then(|stat| stat.writeback_limit);
            live.remove().map_err(|error| errno(&error))?;
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
