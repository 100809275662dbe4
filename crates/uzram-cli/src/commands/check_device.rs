//! `uzram check-device`: whether `create` would know a frontend and an algorithm. `uzram-bench` asks before it measures
//! for hours. Not for users.

use uzram::Device;
use uzram::compress::AlgorithmSpec;
use uzram_runtime::{choice, frontends};

use crate::exit::{Failure, Result};

/// Say whether this program knows a frontend and an algorithm
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The frontend
    #[arg(long, value_name = "FRONTEND")]
    frontend: Option<String>,
    /// The algorithm with its parameters
    #[arg(long, value_name = "ALGORITHM")]
    algorithm: Option<AlgorithmSpec>,
}

impl Args {
    pub(crate) fn run(self) -> Result {
        if let Some(name) = self.frontend {
            let known = frontends::check_name(&name);
            known.map_err(|there_are| {
                Failure::usage(format!("unknown frontend '{name}'; {there_are}"))
            })?;
        }
        if let Some(spec) = self.algorithm {
            // The smallest device refuses all that a large one would.
            let device = Device::builder(4096)
                .registry(uzram_control::zram::algorithms().clone())
                .choose(choice::read(spec)?);
            device.build()?;
        }
        Ok(())
    }
}
