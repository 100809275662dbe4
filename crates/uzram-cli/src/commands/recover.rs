//! `uzram recover`: serves devices again whose server is gone and whose memory is kept.

use uzram_control::{Request, RunningDevice};

use super::{all_or, ask_keeper, for_each, print};
use crate::exit::Result;
use uzram_runtime::{client, sweep};

/// Serve devices again whose server died
///
/// A server that dies is started again by itself; this is for one that could not be started for a while. Nothing that
/// was acknowledged is lost. Does nothing to a device that is served. Prints the devices' paths.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  uzram recover zram0
  uzram recover --all")]
pub(crate) struct Args {
    /// The devices: names, paths or URIs
    #[arg(required_unless_present = "all")]
    names: Vec<String>,
    /// All devices
    #[arg(long, conflicts_with = "names")]
    all: bool,
}

impl Args {
    pub(crate) fn run(self) -> Result {
        let run = sweep::swept_run_dir()?;
        let entries = all_or(&run, self.all, &self.names)?;
        for_each(entries, |entry| {
            let entry = &entry?;
            ask_keeper(entry, &Request::Recover)?;
            client::stat(entry)?;
            // A loop device may have another number now.
            let path = run
                .find(&entry.record.name)
                .map_or_else(|_| path(entry), |e| path(&e));
            print(&format!("{path}\n"))
        })
    }
}

fn path(entry: &RunningDevice) -> String {
    entry.record.path.clone()
}
