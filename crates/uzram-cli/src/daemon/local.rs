//! zram's interface to the devices of a run directory, kept in this process: by the daemon, or by a command where no
//! daemon runs.

use std::sync::{Arc, Mutex, PoisonError};

use uzram_control::RunDir;
use uzram_control::zram::{Errno, Host, Options, Owner, Saved, Shown, View};

use super::engine::{Owned, Processes, Shared};
use crate::frontends;

/// The interface, and what keeps it true to what else happens to the devices.
pub(crate) struct Local {
    pub(crate) run: RunDir,
    engine: Shared,
    host: Host,
    /// One look at the run directory at a time.
    looking: Mutex<()>,
}

impl Local {
    /// The devices of that directory; those that writing `disksize` makes have that frontend.
    /// `saved` is what a process before this one remembered.
    pub(crate) fn new(
        run: RunDir,
        frontend: frontends::Choice,
        strict: bool,
        saved: Option<Saved>,
    ) -> Arc<Local> {
        let engine = Processes::new(run.clone(), frontend);
        let host = Host::new(Box::new(Owned(engine.clone())), Options { strict });
        if let Some(saved) = saved {
            match host.restore(saved, |id| Some(engine.find(id)?)) {
                Ok(left_out) if left_out.is_empty() => {}
                Ok(left_out) => tracing::warn!(?left_out, "numbers that are others' now"),
                Err(errno) => tracing::error!(%errno, "not all that was remembered is there"),
            }
        }
        let local = Local {
            run,
            engine,
            host,
            looking: Mutex::default(),
        };
        local.sync();
        Arc::new(local)
    }

    /// Takes note of devices that were made or removed by others.
    pub(crate) fn sync(&self) {
        let _alone = self.looking.lock().unwrap_or_else(PoisonError::into_inner);
        let (made, gone) = self.engine.changes();
        for id in gone {
            self.host.forget(id);
        }
        for (id, served) in made {
            if let Err(errno) = self.host.adopt(id, served) {
                // It may be on its way out; if not, the next look finds it again.
                tracing::debug!(id, %errno, "not adopted");
                self.engine.lose(id);
            }
        }
    }

    /// What has to be remembered beyond this process.
    pub(crate) fn saved(&self) -> Saved {
        self.host.saved()
    }
}

impl View for Local {
    fn devices(&self) -> Result<Vec<Shown>, Errno> {
        self.sync();
        self.host.devices()
    }

    fn show(&self, owner: Owner, attribute: &str) -> Result<Vec<u8>, Errno> {
        self.sync();
        self.host.show(owner, attribute)
    }

    fn store(&self, owner: Owner, attribute: &str, value: &[u8]) -> Result<(), Errno> {
        self.sync();
        self.host.store(owner, attribute, value)
    }

    fn block_state(&self, id: u32, from: u64, max_bytes: usize) -> Result<(Vec<u8>, u64), Errno> {
        self.sync();
        self.host.block_state(id, from, max_bytes)
    }

    fn classes(&self, id: u32) -> Result<Vec<u8>, Errno> {
        self.sync();
        self.host.classes(id)
    }
}
