//! zram's interface to the devices of a run directory, kept in this process: by the daemon, or by a command where no
//! daemon runs.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use uzram_control::RunDir;
use uzram_control::zram::{
    AttributeOwner, Errno, Host, HostOptions, Refusal, Saved, ShownDevice, View,
};

use super::processes::{Owned, Processes, SharedProcesses};

/// The interface, and what keeps it true to what else happens to the devices.
pub struct Local {
    /// The run directory.
    pub run: RunDir,
    engine: SharedProcesses,
    host: Host,
    /// Where is kept what has to outlive this process.
    state: Option<PathBuf>,
    /// One look at the run directory at a time.
    looking: Mutex<()>,
}

impl Local {
    /// The devices of that directory; those that writing `disksize` makes have that frontend, or the best for `auto`.
    /// `state` is a file of what a process before this one remembered, and of what this one does.
    pub fn new(run: RunDir, frontend: &str, strict: bool, state: Option<PathBuf>) -> Arc<Local> {
        let engine = Processes::new(run.clone(), frontend.into());
        let host = Host::new(Box::new(Owned(engine.clone())), HostOptions { strict });
        if let Some(saved) = state.as_deref().and_then(read) {
            match host.restore(saved, |id| engine.find(id)) {
                Ok(left_out) if left_out.is_empty() => {}
                Ok(left_out) => tracing::warn!(?left_out, "numbers that are others' now"),
                Err(errno) => tracing::error!(%errno, "not all that was remembered is there"),
            }
        }
        let local = Local {
            run,
            engine,
            host,
            state,
            looking: Mutex::default(),
        };
        local.sync();
        local.save();
        Arc::new(local)
    }

    /// Says nothing if a device that is made from now on is used as swap and is not safe for that.
    pub fn allow_unsafe_swap(&self) {
        self.engine.allow_unsafe_swap.store(true, Ordering::Relaxed);
    }

    /// Takes note of devices that were made or removed by others.
    pub fn sync(&self) {
        if self.look() {
            self.save();
        }
    }

    /// Whether anything has come or gone.
    fn look(&self) -> bool {
        let _alone = self.looking.lock().unwrap_or_else(PoisonError::into_inner);
        let (made, gone) = self.engine.changes();
        let changed = !(made.is_empty() && gone.is_empty());
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
        changed
    }

    /// Writes down what has to outlive this process, if that changed.
    fn save(&self) {
        let Some(state) = &self.state else { return };
        let _alone = self.looking.lock().unwrap_or_else(PoisonError::into_inner);
        let write = || {
            let text = serde_json::to_vec(&self.host.saved())?;
            if std::fs::read(state).is_ok_and(|old| old == text) {
                return Ok(());
            }
            let new = state.with_extension("json.new");
            std::fs::write(&new, text)?;
            std::fs::rename(&new, state)
        };
        let written: std::io::Result<()> = write();
        if let Err(error) = written {
            tracing::error!(%error, "{} cannot be written", state.display());
        }
    }
}

fn read(state: &Path) -> Option<Saved> {
    let text = std::fs::read(state).ok()?;
    let saved = serde_json::from_slice(&text);
    saved
        .inspect_err(|error| tracing::warn!(%error, "{} is ignored", state.display()))
        .ok()
}

impl View for Local {
    fn devices(&self) -> Result<Vec<ShownDevice>, Errno> {
        self.sync();
        self.host.devices()
    }

    fn show(&self, owner: AttributeOwner, attribute: &str) -> Result<Vec<u8>, Errno> {
        self.sync();
        let shown = self.host.show(owner, attribute);
        // Reading this one changes something.
        if owner == AttributeOwner::Control {
            self.save();
        }
        shown
    }

    fn store(&self, owner: AttributeOwner, attribute: &str, value: &[u8]) -> Result<(), Refusal> {
        self.sync();
        let stored = self.host.store(owner, attribute, value);
        self.save();
        stored
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
