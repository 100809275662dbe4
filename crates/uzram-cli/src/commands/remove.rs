//! `uzram remove`: takes devices down.

use std::time::{Duration, Instant};

use uzram_control::{Entry, Request};
use uzram_daemon::{Client, SOCKET};

use super::{all_or, ask, ask_keeper, for_each, serves};
use crate::exit::{Failure, Kind, Result};
use crate::sweep;

/// How long the server may take to clear its directory after it has answered.
const PATIENCE: Duration = Duration::from_secs(10);

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

pub(crate) fn remove(entry: &Entry) -> Result {
    // Where no server can be started the keeper does it.
    if entry.record.keeper == 0 || serves(entry) {
        ask(entry, &Request::Remove)?;
    } else {
        ask_keeper(entry, &Request::Remove)?;
    }
    let begin = Instant::now();
    while entry.dir.exists() {
        if begin.elapsed() > PATIENCE {
            let message = format!("the server of {} does not end", entry.record.name);
            return Err(Failure::new(Kind::Failed, message));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}
