//! `uzram upgrade`: replaces the program behind devices while they are in use.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use uzram_control::{Request, RunDir, RunningDevice};

use super::{all_or, ask_keeper, for_each, print};
use crate::exit::{Failure, Result};
use uzram_frontend::Handover;
use uzram_runtime::{UPGRADE, UPGRADE_REFUSED, client, frontends, sweep, users};

/// How long the new server may take to serve.
const PATIENCE: Duration = Duration::from_secs(60);

/// Replace the program behind devices that are in use
///
/// The new program takes over keeper, memory and, on ublk and the kernel's NBD client, the block device: requests wait a
/// moment and none fails. Clients of a socket have to connect again. A program that cannot serve the device is refused
/// and the old one goes on.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  uzram upgrade --all                       (run with the new program: it replaces the old)
  uzram upgrade zram0 --program /opt/uzram-2/uzram")]
pub(crate) struct Args {
    /// The devices: names, paths or URIs
    #[arg(required_unless_present = "all")]
    names: Vec<String>,
    /// All devices
    #[arg(long, conflicts_with = "names")]
    all: bool,
    /// The program to change to [default: the one that runs this command]
    #[arg(long, value_name = "PATH")]
    program: Option<PathBuf>,
}

impl Args {
    pub(crate) fn run(self) -> Result {
        let run = sweep::swept_run_dir()?;
        let program = match self.program {
            Some(path) => std::path::absolute(path)?,
            None => std::env::current_exe()?,
        };
        for_each(all_or(&run, self.all, &self.names)?, |entry| {
            let entry = &entry?;
            let frontend = frontends::by_name(&entry.record.frontend);
            if frontend.is_some_and(|f| f.handover() == Handover::Replaced) {
                let but = format!(
                    ". A device of frontend {} cannot be handed over while it is",
                    entry.record.frontend
                );
                users::check_unused(entry, &but)?;
            }
            let begin = Instant::now();
            let request = Request::Upgrade {
                program: program.clone(),
            };
            ask_keeper(entry, &request)?;
            let new = wait_for_server(&run, entry, begin)?;
            let ms = begin.elapsed().as_millis();
            print(&format!(
                "{}: {} serves {}, after {ms} ms\n",
                entry.record.name, new.record.program, new.record.path
            ))
        })
    }
}

/// Waits until the new program's server answers.
fn wait_for_server(run: &RunDir, old: &RunningDevice, begin: Instant) -> Result<RunningDevice> {
    let name = &old.record.name;
    // Where the new program could not serve the old one starts again, and may not be able to, either.
    let serves_on = |new: &RunningDevice| match client::serves(new) {
        true => "the old program serves on".to_owned(),
        false => format!(
            "nor can the old program, see {}; its contents are kept: uzram recover {name}",
            new.dir.join("log").display()
        ),
    };
    let failed = |new: &RunningDevice, why: &str| {
        let message = format!("{name}: {why}; {}", serves_on(new));
        Failure::failed(message)
    };
    loop {
        if let Ok(new) = run.find(name) {
            match std::fs::read_to_string(new.dir.join(UPGRADE)) {
                Err(_) if uzram_control::call(&new.socket(), &Request::Ping).is_ok() => {
                    return Ok(new);
                }
                Err(_) => {}
                Ok(why) if !why.is_empty() => {
                    return Err(match why.strip_prefix(UPGRADE_REFUSED) {
                        Some(by) => Failure::busy(format!("{name}: {by}; {}", serves_on(&new))),
                        None => failed(&new, &why),
                    });
                }
                // The old server noticed, and started another keeper.
                Ok(_) if new.record.keeper != old.record.keeper => {
                    return Err(failed(&new, "the new program ended at once"));
                }
                Ok(_) => {}
            }
        }
        if begin.elapsed() > PATIENCE {
            let log = old.dir.join("log");
            let message = format!("{name} is not served again: see {}", log.display());
            return Err(Failure::failed(message));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
