//! What every command does first: find devices whose server and keeper both died, clear what they left, and say so.
//! A server that died alone is its keeper's affair.

use std::path::Path;

use uzram_control::{Claim, RunDir};
use uzram_spec::Result;

use crate::{frontends, note, swap, watermark};

/// Clears what is left of a device whose contents are lost, given its directory. Says in words what was cleared, or what
/// stands in the way.
pub fn clear(dir: &Path) -> std::result::Result<Vec<String>, String> {
    prepare(dir);
    frontends::clear_all(dir)
}

/// The same although a dead node is still in use, which then goes with its last user.
pub(crate) fn clear_by_force(dir: &Path) -> std::result::Result<Vec<String>, String> {
    prepare(dir);
    frontends::clear_all_by_force(dir)
}

fn prepare(dir: &Path) {
    watermark::give_back(dir);
    if let Some(record) = Claim::adopt(dir).ok().and_then(|claim| claim.record()) {
        swap::switch_off_unused(&record.path);
    }
}

/// Sweeps the dead out of this user's run directory, and returns it.
pub fn swept_run_dir() -> Result<RunDir> {
    let run = RunDir::of_user();
    sweep_where(&run, |dead| {
        // Whoever asks for it hears what is in the way.
        !run.devices()
            .is_ok_and(|all| all.iter().any(|entry| entry.record.name == dead))
    })?;
    Ok(run)
}

/// Sweeps the dead out of a run directory, and tells what was cleared and what could not be.
pub fn sweep(run: &RunDir) -> Result {
    sweep_where(run, |_| true)
}

fn sweep_where(run: &RunDir, tells_of: impl Fn(&str) -> bool) -> Result {
    for swept in run.sweep(clear)? {
        let name = swept.name;
        match swept.outcome {
            Err(_) if !tells_of(&name) => {}
            Ok(cleared) if cleared.is_empty() => {
                note::tell(&format!(
                    "server and keeper of {name} had died; cleared its directory"
                ));
            }
            Ok(cleared) => {
                note::tell(&format!(
                    "server and keeper of {name} had died; cleared {}",
                    cleared.join(", ")
                ));
            }
            Err(error) => {
                note::tell(&format!(
                    "server and keeper of {name} died and its data is lost, but {error}"
                ));
            }
        }
    }
    for cleared in frontends::clear_of_users() {
        note::tell(&format!("a user's server had died; cleared {cleared}"));
    }
    Ok(())
}
