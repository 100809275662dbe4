//! The agent's counters, and the reason of its last step in words. Reading waits for nothing but a copy of both.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a device's agent did since it was started: see [`crate::JobsApi::agent_stats`].
#[derive(Debug, Clone, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "serde", serde(default))]
pub struct AgentStats {
    /// Whether an agent runs.
    pub running: bool,
    /// Passes over the whole device that looked for pages that are old enough.
    pub runs: u64,
    /// How often memory was short, so that age did not matter.
    pub reliefs: u64,
    /// Pages that were made smaller.
    pub pages_recompressed: u64,
    /// Bytes by which their objects became smaller.
    pub bytes_saved: u64,
    /// Pages that went to the backing.
    pub pages_written_back: u64,
    /// Bytes of their objects.
    pub bytes_written_back: u64,
    /// Pages that came back from the backing.
    pub pages_promoted: u64,
    /// Pages that compaction gave back to the system.
    pub pages_compacted: u64,
    /// Dictionaries that were trained.
    pub trainings: u64,
    /// Of these, dictionaries that were taken into use.
    pub dictionaries: u64,
    /// Seconds of processor time that all of it took.
    pub cpu_seconds: f64,
    /// What it did last and why, or why it cannot do what it should; empty: nothing yet.
    pub last: String,
}

#[derive(Default)]
pub(crate) struct Status {
    pub(super) running: AtomicBool,
    /// Bytes that the last compaction was to gain and could not.
    pub(super) compaction_left: AtomicU64,
    /// All but `running`.
    stats: Mutex<AgentStats>,
    /// What the training of a primary that trains itself waits for.
    self_training: Mutex<String>,
    /// Why its last training took nothing; empty where it took something, or there was none.
    refused_training: Mutex<String>,
}

impl Status {
    fn stats(&self) -> MutexGuard<'_, AgentStats> {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds to counters.
    pub(super) fn count(&self, add: impl FnOnce(&mut AgentStats)) {
        add(&mut self.stats());
    }

    /// Records a reason. Returns whether it differs from the last.
    pub(super) fn say(&self, text: String) -> bool {
        let mut stats = self.stats();
        let other = stats.last != text;
        stats.last = text;
        other
    }

    /// Records what the device's own training waits for.
    pub(super) fn wait_for_training(&self, text: String) {
        let now = self.self_training.lock();
        *now.unwrap_or_else(PoisonError::into_inner) = text;
    }

    pub(super) fn self_training(&self) -> String {
        let now = self.self_training.lock();
        now.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Records why the last training took nothing.
    pub(super) fn refuse_training(&self, why: String) {
        let refused = self.refused_training.lock();
        *refused.unwrap_or_else(PoisonError::into_inner) = why;
    }

    pub(super) fn refused_training(&self) -> String {
        let refused = self.refused_training.lock();
        refused.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets all that was said of trainings: somebody has set another primary.
    pub(crate) fn forget_training(&self) {
        self.wait_for_training(String::new());
        self.refuse_training(String::new());
    }

    pub(crate) fn read(&self) -> AgentStats {
        AgentStats {
            running: self.running.load(Relaxed),
            ..self.stats().clone()
        }
    }
}
