//! A device's policies as they travel: what is set, what the agent did, and what it would do.

use serde::{Deserialize, Serialize};
use uzram::{AgentStats, Device, Plan};

/// Everything about a device's policies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    /// What is set, as it is written on a command line.
    pub settings: String,
    /// What the agent did since the server was started.
    pub done: AgentStats,
    /// What would be done now, if that was asked for.
    pub plan: Option<Plan>,
}

impl Policy {
    /// A device's policies now.
    pub fn new(device: &Device, with_plan: bool) -> Policy {
        Policy {
            settings: device.jobs().policy().to_string(),
            done: device.jobs().agent_stats(),
            plan: with_plan.then(|| device.jobs().plan()),
        }
    }
}
