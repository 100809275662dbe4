//! `uzram remove`: takes devices down.

use uzram_daemon::{Client, SOCKET};

use uzram_runtime::client::remove;

use super::{all_or, for_each};
use crate::exit::Result;
use uzram_runtime::sweep;

/// Remove devices
///
/// Everything is undone: node, mount, socket, server, memory. Refused while the device is in use: the message
/// names the mount point or the process.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  uzram remove zram0
  uzram remove /dev/loop0 zram3
  uzram remove --all")]
pub(crate) struct Args {
    /// The devices: names, paths or URIs
    #[arg(required_unless_present = "all")]
    names: Vec<String>,
    /// Remove all devices
    #[arg(long, conflicts_with = "names")]
    all: bool,
}

impl Args {
    pub(crate) fn run(self) -> Result {
        let run = sweep::swept_run_dir()?;
        // Those that have no size yet are known to the daemon only.
        if let Some(daemon) = Client::find(&run.file(SOCKET)) {
            let names = match self.all {
                true => daemon.names()?,
                false => self.names,
            };
            return for_each(&names, |name| match run.find(name) {
                Ok(entry) => remove(&entry),
                Err(_) => Ok(daemon.remove(name.strip_prefix("/dev/").unwrap_or(name))?),
            });
        }
        let entries = all_or(&run, self.all, &self.names)?;
        for_each(&entries, remove)
    }
}
