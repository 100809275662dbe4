//! A device's policies as they travel: what is set, what the agent did, and what it would do.

use serde::{Deserialize, Serialize};
use uzram::{AgentStats, Device, Plan, Step};

/// Everything about a device's policies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    /// What is set, as it is written on a command line.
    pub settings: String,
    /// What the agent did since the server was started.
    pub done: Done,
    /// What would be done now, if that was asked for.
    pub plan: Option<Planned>,
}

/// What the agent did: see [`AgentStats`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// Whether there is one.
    pub running: bool,
    /// Passes over the device.
    pub runs: u64,
    /// How often memory was short.
    pub reliefs: u64,
    /// Pages that were made smaller.
    pub pages_recompressed: u64,
    /// By so many bytes.
    pub bytes_saved: u64,
    /// Pages that went to the backing.
    pub pages_written_back: u64,
    /// Bytes of their objects.
    pub bytes_written_back: u64,
    /// Pages that came back from the backing.
    #[serde(default)]
    pub pages_promoted: u64,
    /// Pages that compaction gave back.
    pub pages_compacted: u64,
    /// Dictionaries that were trained.
    pub trainings: u64,
    /// Of these, those that were taken.
    pub dictionaries: u64,
    /// Processor time of all of it.
    pub cpu_seconds: f64,
    /// The last step and its reason.
    pub last: String,
}

impl From<AgentStats> for Done {
    fn from(stats: AgentStats) -> Done {
        Done {
            running: stats.running,
            runs: stats.runs,
            reliefs: stats.reliefs,
            pages_recompressed: stats.pages_recompressed,
            bytes_saved: stats.bytes_saved,
            pages_written_back: stats.pages_written_back,
            bytes_written_back: stats.bytes_written_back,
            pages_promoted: stats.pages_promoted,
            pages_compacted: stats.pages_compacted,
            trainings: stats.trainings,
            dictionaries: stats.dictionaries,
            cpu_seconds: stats.cpu_seconds,
            last: stats.last,
        }
    }
}

/// What would be done now: see [`Plan`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// Whether memory is short.
    pub pressed: bool,
    /// How short it is, in words.
    pub pressure: String,
    /// By policy.
    pub steps: Vec<PlannedStep>,
}

/// What one policy would do: see [`Step`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedStep {
    /// The policy.
    pub policy: String,
    /// Whether it would do something.
    pub due: bool,
    /// Pages that it is about.
    pub pages: u64,
    /// Bytes of their objects; of compaction, those to be gained.
    pub bytes: u64,
    /// Why, or why not.
    pub why: String,
}

impl From<Plan> for Planned {
    fn from(plan: Plan) -> Planned {
        let step = |step: Step| PlannedStep {
            policy: step.policy.into(),
            due: step.due,
            pages: step.pages,
            bytes: step.bytes,
            why: step.why,
        };
        Planned {
            pressed: plan.pressed,
            pressure: plan.pressure,
            steps: plan.steps.into_iter().map(step).collect(),
        }
    }
}

impl Policy {
    /// A device's policies now.
    pub fn of(device: &Device, with_plan: bool) -> Policy {
        Policy {
            settings: device.policy().to_string(),
            done: device.agent_stats().into(),
            plan: with_plan.then(|| device.plan().into()),
        }
    }
}
