//! `uzram reset`: drops a device's contents.

use uzram_control::Request;

use super::ask;
use crate::exit::Result;
use uzram_runtime::sweep;

/// Drop a device's contents and statistics and give the memory back
///
/// The device stays, empty, with its size, algorithm and limit. Refused while it is mounted or open.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  uzram reset zram0")]
pub(crate) struct Args {
    /// The device: its name, its path or its URI
    name: String,
}

impl Args {
    pub(crate) fn run(self) -> Result {
        let entry = sweep::swept_run_dir()?.find(&self.name)?;
        ask(&entry, &Request::Reset).map(drop)
    }
}
