//! `uzram remove`: takes devices down.

use uzram_control::{Error, RunningDevice};
use uzram_runtime::{client, sweep};

use super::{find_daemon, for_each};
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
  uzram remove zram0 --force       (also if clients are connected)
  uzram remove --all")]
pub(crate) struct Args {
    /// The devices: names, paths or URIs
    #[arg(required_unless_present = "all")]
    names: Vec<String>,
    /// Remove all devices
    #[arg(long, conflicts_with = "names")]
    all: bool,
    /// Disconnect clients of a socket, and remove the device although a node that a dead server left is still in use, or its record is
    /// damaged; says what was done. Never unmounts a file system: that device is refused all the same
    #[arg(long)]
    force: bool,
}

impl Args {
    pub(crate) fn run(self) -> Result {
        let run = sweep::swept_run_dir()?;
        let force = self.force;
        // Those that have no size yet are known to the daemon only.
        let daemon = find_daemon(&run)?;
        let names = match (self.all, &daemon) {
            (false, _) => self.names,
            (true, Some(daemon)) => daemon.names()?,
            (true, None) => {
                let devices = run.devices()?.into_iter().map(|entry| entry.record.name);
                let damaged = run.damaged()?.into_iter().map(|device| device.name);
                devices.chain(damaged).collect()
            }
        };
        let several = names.len() > 1;
        for_each(names, |name| match (run.find(&name), &daemon) {
            (Ok(entry), _) => named(several, &entry, remove(&entry, force)),
            (Err(Error::Damaged(device)), _) if force => {
                tell_all(&device.name, client::remove_damaged(&device)?);
                Ok(())
            }
            (Err(Error::NotFound { .. }), Some(daemon)) => {
                Ok(daemon.remove(name.strip_prefix("/dev/").unwrap_or(&name))?)
            }
            (Err(error), _) => Err(error.into()),
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
    tell_all(&entry.record.name, did);
    Ok(())
}

fn tell_all(name: &str, done: Vec<String>) {
    for what in done {
        exit::tell(format!("{name}: {what}"));
    }
}
