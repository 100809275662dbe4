//! The agent: a thread that carries out policies in the background: recompression and writeback of idle pages,
//! training of dictionaries, promotion, compaction.
//!
//! `settings` are the policies, `budget` limits its use of CPU and disk, `pressure` tells when memory is short,
//! `training` decides when to train for recompression. `drift` decides when a primary that trains itself is due, and
//! `self_training` carries that out. `worker` is its loop, `jobs` the jobs in it, `relief` the loop while memory is
//! short. `plan` is the dry run, `status` the counters.
//!
//! It is a caller of the device like any other. It works in slices, each of which takes the device's locks for
//! itself. It holds nothing while it rests, so no request waits for a rest. Requests neither know nor wake it; near a
//! watermark it polls every 10 ms, to act before the limit is hit.

mod budget;
mod drift;
mod jobs;
mod plan;
mod pressure;
mod relief;
mod self_training;
mod settings;
mod status;
mod training;
mod worker;

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

pub use plan::{Plan, PlanStep};
pub use settings::PolicySettings;
pub use status::AgentStats;
use status::Status;
use worker::Worker;

use crate::Error;
use crate::apis::JobsApi;
use crate::device::Device;
use crate::error::errno;
use crate::layout::state;

/// Nice value of the agent's thread. No higher: it takes locks of the pool for tens of nanoseconds, and a holder that
/// is not scheduled stalls requests.
const NICE: i32 = 10;

/// What a device and its agent share.
#[derive(Default)]
pub(crate) struct AgentShared {
    told: Mutex<Told>,
    changed: Condvar,
    pub(crate) status: Status,
}

#[derive(Default, Clone, Copy)]
struct Told {
    settings: PolicySettings,
    /// Whether a primary that trains itself may.
    self_training: bool,
    /// Incremented with every change.
    generation: u64,
}

impl AgentShared {
    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// With the settings of an image.
    pub(crate) fn new(settings: PolicySettings, self_training: bool) -> AgentShared {
        AgentShared {
            told: Mutex::new(Told {
                settings,
                self_training,
                generation: 0,
            }),
            ..AgentShared::default()
        }
    }

    /// Lets the agent look again: something that it has to do with has changed.
    pub(crate) fn wake(&self) {
        self.told().generation += 1;
        self.changed.notify_all();
    }

    /// Waits for `patience`, a change of the settings since `generation`, or `stop`.
    fn wait(&self, generation: u64, stop: &AtomicBool, patience: Duration) {
        let told = self.told();
        let same = |told: &mut Told| told.generation == generation && !stop.load(Relaxed);
        drop(self.changed.wait_timeout_while(told, patience, same));
    }
}

impl JobsApi<'_> {
    /// The policies that an [`Agent`] carries out.
    pub fn policy(self) -> PolicySettings {
        self.0.policy.told().settings
    }

    /// Sets the policies. Part of the image.
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

    /// Lets the agent train a primary that trains itself ([`uzram_compress::Algorithm::trains_itself`]), or no more: from
    /// the first pages that are written, and again when what is written has drifted. What was trained stays in use. Part of
    /// the image. On by default; without effect for other algorithms, and while no [`Agent`] runs.
    pub fn set_self_training(self, on: bool) {
        self.0.state()[state::NO_SELF_TRAINING].store((!on).into(), Relaxed);
        self.0.policy.told().self_training = on;
        self.0.policy.wake();
    }

    /// Whether a primary that trains itself may.
    pub fn self_training(self) -> bool {
        self.0.policy.told().self_training
    }

    /// What the device's own training waits for, in words; empty where the primary does not train itself, or no agent has
    /// looked yet.
    pub fn self_training_waits_for(self) -> String {
        match self.0.primary().algorithm.trains_itself() {
            true => self.0.policy.status.self_training(),
            false => String::new(),
        }
    }

    /// Why the last training of the device's own took nothing, in words; empty where it took something, and where none has
    /// ended since the agent was started or the algorithm was set.
    pub fn self_training_refused(self) -> String {
        match self.0.primary().algorithm.trains_itself() {
            true => self.0.policy.status.refused_training(),
            false => String::new(),
        }
    }

    /// The agent's counters. Never waits.
    pub fn agent_stats(self) -> AgentStats {
        self.0.policy.status.read()
    }
}

/// Carries out a device's policies in a thread of its own, until it is dropped. Sleeps while the policy is `none`, but for
/// a look now and then at a primary that trains itself ([`JobsApi::set_self_training`]).
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
    /// Starts the agent's thread. A device has one agent at most.
    ///
    /// [`Error::HasAgent`] if the device has one, [`Error::Thread`] where the system starts no thread.
    pub fn start(device: Arc<Device>) -> Result<Agent, Error> {
        Agent::start_with(device, |_| {})
    }

    /// As [`Agent::start`]. The agent's thread passes messages for a log to `say`.
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
                // Where the machine swaps to the device, a thread with a nice value may never run again.
                let _ = rustix::process::nice(NICE);
            }
            Worker::new(&for_thread, &stopped, &say).run();
            for_thread.policy.status.wait_for_training(String::new());
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

    /// Stops the agent and waits for its current slice: some milliseconds, or about a second for a training for
    /// recompression. A training of the primary is given up: its thread ends by itself and changes nothing.
    pub fn stop(self) {}
}

impl Drop for Agent {
    fn drop(&mut self) {
        {
            // Under the lock, so that the agent is not between its check and its wait.
            let _told = self.device.policy.told();
            self.stop.store(true, Relaxed);
        }
        self.device.policy.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
