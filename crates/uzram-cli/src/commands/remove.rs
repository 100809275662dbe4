//! `uzram remove`: takes devices down.

use uzram_control::RunningDevice;
use uzram_runtime::{client, sweep};

use super::{all_or, find_daemon, for_each};
use crate::exit::{self, Result};

/// Remove devices
///
/// Everything is undone: node, mount, socket, server, memory. Refused while the device is in use, and then nothing has
/// changed: the message names the mount point, the process, or what else lies on the device. Of several devices, those that
/// can be removed are; the exit code is the highest of those that failed.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  uzram remove zram0
  uzram remove /dev/loop0 zram3
  uzram remove zram0 --force       (also if NBD clients are connected)
  uzram remove --all")]
pub(crate) struct Args {
    /// The devices: names, paths or URIs
    #[arg(required_unless_present = "all")]
    names: Vec<String>,
    /// Remove all devices
    #[arg(long, conflicts_with = "names")]
    all: bool,
    /// Disconnect NBD clients, and remove the device although a node that a dead server left is still in use; says what was
    /// done. Never unmounts a file system: that device is refused all the same
    #[arg(long)]
    force: bool,
}

impl Args {
    pub(crate) fn run(self) -> Result {
        let run = sweep::swept_run_dir()?;
        let force = self.force;
        let remove = |entry: &RunningDevice| remove(entry, force);
        // Those that have no size yet are known to the daemon only.
        if let Some(daemon) = find_daemon(&run)? {
            let names = match self.all {
                true => daemon.names()?,
                false => self.names,
            };
            let several = names.len() > 1;
            return for_each(names, |name| match run.find(&name) {
                Ok(entry) => named(several, &entry, remove(&entry)),
                Err(_) => Ok(daemon.remove(name.strip_prefix("/dev/").unwrap_or(&name))?),
            });
        }
        let entries = all_or(&run, self.all, &self.names)?;
        let several = entries.len() > 1;
        for_each(entries, |entry| {
            let entry = entry?;
            named(several, &entry, remove(&entry))
        })
    }
}

/// Says which of several devices a failure is of, whatever else it names.
fn named(several: bool, entry: &RunningDevice, result: Result) -> Result {
    result.map_err(|mut failure| {
        if several {
            failure.message = format!("{}: {}", entry.record.name, failure.message);
        }
        failure
    })
}

fn remove(entry: &RunningDevice, force: bool) -> Result {
    let did = match force {
        true => client::remove_by_force(entry)?,
        false => client::remove(entry)?,
    };
    for what in did {
        exit::tell(format!("{}: {what}", entry.record.name));
    }
    Ok(())
}
