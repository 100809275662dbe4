//! What every command does first: find devices whose server and keeper both died, clear what they left, and say so.
//! A server that died alone is its keeper's affair.

use std::path::Path;

use uzram_control::RunDir;

use crate::exit::Result;
use crate::{frontends, watermark};

/// Clears what is left of a device whose contents are lost, given its directory. Says in words what was cleared, or what
/// stands in the way.
pub(crate) fn clear(dir: &Path) -> std::result::Result<Vec<String>, String> {
    watermark::give_back(dir);
    frontends::clear_all(dir)
}

/// The run directory, with the dead swept out of it.
pub(crate) fn swept_run_dir() -> Result<RunDir> {
    let run = RunDir::of_user();
    for swept in run.sweep(clear)? {
        let name = swept.name;
        match swept.outcome {
            Ok(cleared) if cleared.is_empty() => {
                eprintln!("uzram: server and keeper of {name} had died; cleared its directory");
            }
            Ok(cleared) => {
                eprintln!(
                    "uzram: server and keeper of {name} had died; cleared {}",
                    cleared.join(", ")
                );
            }
            Err(error) => {
                eprintln!(
                    "uzram: server and keeper of {name} died and its data is lost, but {error}"
                );
            }
        }
    }
    for cleared in frontends::clear_users() {
        eprintln!("uzram: a user's server had died; cleared {cleared}");
    }
    Ok(run)
}
