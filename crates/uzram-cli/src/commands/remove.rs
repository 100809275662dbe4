//! `uzram remove`: takes devices down.

use std::time::{Duration, Instant};

use uzram_control::{Entry, Request};

use super::ask;
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
        let entries = match self.all {
            true => run.devices()?,
            false => self
                .names
                .iter()
                .map(|name| run.find(name))
                .collect::<std::result::Result<_, _>>()?,
        };
        let mut failures: Vec<Failure> = entries.iter().filter_map(|e| remove(e).err()).collect();
        match failures.pop() {
            None => Ok(()),
            Some(last) => {
                // All are said; the last one's kind is the exit code.
                for failure in failures {
                    eprintln!("uzram: {failure}");
                }
                Err(last)
            }
        }
    }
}

fn remove(entry: &Entry) -> Result {
    ask(entry, &Request::Remove)?;
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
