//! The agent: a thread that does in the background, by policies, what else somebody has to ask for: recompression of
//! pages that nobody uses, training of a dictionary for it, writeback, compaction.
//!
//! `settings` is what it is told, `budget` what it may use, `pressure` when memory is short, `teach` when to train,
//! `work` its turns, `jobs` what it does in them, `relief` what else while memory is short, `plan` what it would do,
//! `status` what it did.
//!
//! It is a caller of the device like any other. What it does it does in slices that the device locks each for itself;
//! between them it holds nothing, and rests there as long as its budget says, so that a request never waits for a rest.
//! It lives outside of the way of requests: these neither know nor wake it. So that it is there before a limit is hit,
//! it looks every 10 ms once memory comes near the watermark.

mod budget;
mod jobs;
mod plan;
mod pressure;
mod relief;
mod settings;
mod status;
mod teach;
mod work;

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

pub use plan::{Plan, Step};
pub use settings::PolicySettings;
pub use status::AgentStats;
use status::Status;
use work::Worker;

use crate::Error;
use crate::apis::JobsApi;
use crate::device::Device;
use crate::error::errno;
use crate::layout::state;

/// How much the agent's thread stands back where processors are short. Not further: it takes locks of the pool, for tens
/// of nanoseconds, and who is not let run while he holds one keeps others waiting.
const NICE: i32 = 10;

/// What the agent and those who tell it what to do have in common.
#[derive(Default)]
pub(crate) struct Policy {
    told: Mutex<Told>,
    changed: Condvar,
    pub(crate) status: Status,
}

#[derive(Default, Clone, Copy)]
struct Told {
    settings: PolicySettings,
    /// Goes up with every change.
    generation: u64,
}

impl Policy {
    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As an image has them.
    pub(crate) fn of(settings: PolicySettings) -> Policy {
        Policy {
            told: Mutex::new(Told {
                settings,
                generation: 0,
            }),
            ..Policy::default()
        }
    }

    /// Waits that long, or until the settings are others than those of that generation, or `stop`.
    fn wait(&self, generation: u64, stop: &AtomicBool, patience: Duration) {
        let told = self.told();
        let same = |told: &mut Told| told.generation == generation && !stop.load(Relaxed);
        drop(self.changed.wait_timeout_while(told, patience, same));
    }
}

impl JobsApi<'_> {
    /// What is done in the background, where an [`Agent`] runs.
    pub fn policy(self) -> PolicySettings {
        self.0.policy.told().settings
    }

    /// Sets what is done in the background from now on. Part of the image.
    ///
    /// [`Error::Invalid`] where the settings contradict each other.
    pub fn set_policy(self, settings: PolicySettings) -> Result<(), Error> {
        settings.check()?;
        let mut told = self.0.policy.told();
        for (at, word) in settings.to_words().into_iter().enumerate() {
            self.0.state()[state::POLICY + at].store(word, Relaxed);
        }
        told.settings = settings;
        told.generation += 1;
        drop(told);
        self.0.policy.changed.notify_all();
        Ok(())
    }

    /// What the agent did. Waits for nobody.
    pub fn agent_stats(self) -> AgentStats {
        self.0.policy.status.read()
    }
}

/// Carries out a device's policies, from a thread of its own, until it is dropped. It does nothing, and is not woken,
/// while the policy is `none`.
///
/// ```
/// use std::sync::Arc;
/// use uzram::{Agent, Choice, Device};
/// let device = Device::builder(64 << 20).secondary(1, Choice::new("zstd")).build()?;
/// device.jobs().set_policy("recompress=60,train=on,compact=on,cpu=5".parse()?)?;
/// let device = Arc::new(device);
/// let agent = Agent::start(device.clone())?;
/// assert!(!device.jobs().plan().steps[1].due, "nothing is stored yet");
/// agent.stop();
/// # Ok::<(), uzram::Error>(())
/// ```
pub struct Agent {
    device: Arc<Device>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Agent {
    /// Starts it. A device has one at most.
    ///
    /// [`Error::HasAgent`] if the device has one, [`Error::Thread`] where the system starts no thread.
    pub fn start(device: Arc<Device>) -> Result<Agent, Error> {
        Agent::start_with(device, |_| {})
    }

    /// As [`Agent::start`]. `say` is told, by the agent's thread, what happens that is worth a line in a log.
    pub fn start_with(
        device: Arc<Device>,
        say: impl Fn(&str) + Send + 'static,
    ) -> Result<Agent, Error> {
        if device.policy.status.running.swap(true, Relaxed) {
            return Err(Error::HasAgent);
        }
        let stop = Arc::new(AtomicBool::new(false));
        let (for_thread, stopped) = (device.clone(), stop.clone());
        let run = move || {
            if !for_thread.pool.has_stock() {
                // Where the machine swaps to the device, whoever stands back may never run again.
                let _ = rustix::process::nice(NICE);
            }
            Worker::new(&for_thread, &stopped, &say).run();
            for_thread.policy.status.running.store(false, Relaxed);
        };
        let thread = std::thread::Builder::new().name("agent".into()).spawn(run);
        let thread = thread.map_err(|error| {
            device.policy.status.running.store(false, Relaxed);
            Error::Thread {
                source: errno(&error),
            }
        })?;
        Ok(Agent {
            device,
            stop,
            thread: Some(thread),
        })
    }

    /// Stops it: it ends what it is at, a slice of some milliseconds (a training: about a second), and this returns then.
    pub fn stop(self) {}
}

impl Drop for Agent {
    fn drop(&mut self) {
        {
            // Under the lock, so that it is not between its look and its wait.
            let _told = self.device.policy.told();
            self.stop.store(true, Relaxed);
        }
        self.device.policy.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
